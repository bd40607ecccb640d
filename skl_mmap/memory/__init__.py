"""Shared memory: segments, mappings, row runs, SharedArray and the store."""

from skl_mmap._linux.calls import trim_heap
from skl_mmap._linux.proc import can_remap
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._adoption import adopt
from skl_mmap.memory._conversion import Conversion, LossyConversionError
from skl_mmap.memory._handles import (
    ArrayHandle,
    IndexHandle,
    describe,
    index_runs,
    map_array,
    rebuild_array,
    rebuild_index,
    rebuild_plain,
)
from skl_mmap.memory._mapping import Settings, live_mappings
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._reasons import Cause, Reason, Remedy
from skl_mmap.memory._result_buffer import ResultBuffer, ResultSlot, WrittenArray
from skl_mmap.memory._row_selection import join_rows
from skl_mmap.memory._runs import Runs, expand_runs, find_runs, index_of_runs
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._segment_writer import SegmentWriter
from skl_mmap.memory._shared_array import SharedArray
from skl_mmap.memory._sharing import share_array
from skl_mmap.memory._store import Store
from skl_mmap.memory._user_files import writable_memmap_of

__all__ = [
    "ArrayHandle",
    "Cause",
    "Conversion",
    "IndexHandle",
    "LossyConversionError",
    "Placement",
    "Reason",
    "Remedy",
    "ResultBuffer",
    "ResultSlot",
    "Runs",
    "Segment",
    "SegmentWriter",
    "Settings",
    "SharedArray",
    "Store",
    "WrittenArray",
    "adopt",
    "can_remap",
    "counters",
    "describe",
    "expand_runs",
    "find_runs",
    "index_of_runs",
    "index_runs",
    "join_rows",
    "live_mappings",
    "map_array",
    "rebuild_array",
    "rebuild_index",
    "rebuild_plain",
    "share_array",
    "trim_heap",
    "writable_memmap_of",
]
