"""Shared memory: segments, mappings, the plan of a selection, arrays, the store."""

from skl_mmap._linux.calls import trim_heap
from skl_mmap._linux.proc import can_remap
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._adoption import adopt
from skl_mmap.memory._closing import ClosedAtExit
from skl_mmap.memory._column_plan import plan_by_column
from skl_mmap.memory._conversion import Conversion, LossyConversionError
from skl_mmap.memory._filling import stored_order
from skl_mmap.memory._fresh import copy_array
from skl_mmap.memory._gathered_folds import gather_rows
from skl_mmap.memory._handles import (
    ArrayHandle,
    IndexHandle,
    contiguous_strides,
    describe,
    index_runs,
    map_array,
    plan_array,
    rebuild_array,
    rebuild_index,
    rebuild_plain,
)
from skl_mmap.memory._in_place import InPlace, InPlaceArray
from skl_mmap.memory._mapping import (
    byte_bounds,
    find_mapping,
    geometry_of,
    live_mappings,
)
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._plan import (
    MAX_RUNS,
    Cost,
    Geometry,
    Origin,
    Piece,
    Plan,
    count_selected,
    plan_rows,
    plan_runs,
    row_key,
)
from skl_mmap.memory._reasons import Cause, Reason, Remedy
from skl_mmap.memory._result_buffer import ResultBuffer, ResultSlot, WrittenArray
from skl_mmap.memory._result_files import (
    FilePool,
    Hindrance,
    OpenFile,
    ResultFiles,
    ResultWriter,
    Ticket,
    read_file,
)
from skl_mmap.memory._runs import (
    Runs,
    count_runs,
    expand_runs,
    find_runs,
    index_of_runs,
)
from skl_mmap.memory._segment import (
    Segment,
    SegmentHandle,
    new_segment,
    open_file_segment,
)
from skl_mmap.memory._segment_writer import SegmentWriter
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shared_array import SharedArray, carry_out, select_rows
from skl_mmap.memory._sharing import share_array
from skl_mmap.memory._shifted_pages import (
    can_shift_pages,
    is_constant,
    planned_file,
)
from skl_mmap.memory._stack import Stack, bundle_of
from skl_mmap.memory._store import Store, describe_view, stored_layout
from skl_mmap.memory._together import (
    PlannedArray,
    carry_out_together,
    plan_one_of_several,
)
from skl_mmap.memory._train_rows import TrainRows, with_train_rows
from skl_mmap.memory._user_files import (
    describe_memmap,
    is_shared_already,
    reading_in_order,
    writable_memmap_of,
)
from skl_mmap.memory._windows import Windows

__all__ = [
    "MAX_RUNS",
    "ArrayHandle",
    "Cause",
    "ClosedAtExit",
    "Conversion",
    "Cost",
    "FilePool",
    "Geometry",
    "Hindrance",
    "InPlace",
    "InPlaceArray",
    "IndexHandle",
    "LossyConversionError",
    "OpenFile",
    "Origin",
    "Piece",
    "Placement",
    "Plan",
    "PlannedArray",
    "Reason",
    "Remedy",
    "ResultBuffer",
    "ResultFiles",
    "ResultSlot",
    "ResultWriter",
    "Runs",
    "Segment",
    "SegmentHandle",
    "SegmentWriter",
    "Settings",
    "SharedArray",
    "Stack",
    "Store",
    "Ticket",
    "TrainRows",
    "Windows",
    "WrittenArray",
    "adopt",
    "bundle_of",
    "byte_bounds",
    "can_remap",
    "can_shift_pages",
    "carry_out",
    "carry_out_together",
    "contiguous_strides",
    "copy_array",
    "count_runs",
    "count_selected",
    "counters",
    "describe",
    "describe_memmap",
    "describe_view",
    "expand_runs",
    "find_mapping",
    "find_runs",
    "gather_rows",
    "geometry_of",
    "index_of_runs",
    "index_runs",
    "is_constant",
    "is_shared_already",
    "live_mappings",
    "map_array",
    "new_segment",
    "open_file_segment",
    "plan_array",
    "plan_by_column",
    "plan_one_of_several",
    "plan_rows",
    "plan_runs",
    "planned_file",
    "read_file",
    "reading_in_order",
    "rebuild_array",
    "rebuild_index",
    "rebuild_plain",
    "row_key",
    "select_rows",
    "share_array",
    "stored_layout",
    "stored_order",
    "trim_heap",
    "with_train_rows",
    "writable_memmap_of",
]
