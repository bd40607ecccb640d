"""Memory of this process and all it starts, measured from outside.

Nothing but the standard library is imported here.
"""

from skl_mmap.monitor._group import count_own_kills
from skl_mmap.monitor._measure import (
    Measurement,
    OwnMemory,
    measure,
    measure_as,
    own_memory,
    read_committed,
)
from skl_mmap.monitor._readings import (
    GroupReading,
    MeasuredBlock,
    ProcessReading,
    ProcessSeries,
    Reading,
    SamplingCost,
)
from skl_mmap.monitor._records import (
    CallRecord,
    SegmentRecord,
    TaskRecord,
    add_reasons,
    is_measuring,
    listen,
    note,
    publish,
    unlisten,
    wants_copy_sites,
)
from skl_mmap.monitor._sampler_process import find_joblib_places

__all__ = [
    "CallRecord",
    "GroupReading",
    "MeasuredBlock",
    "Measurement",
    "OwnMemory",
    "ProcessReading",
    "ProcessSeries",
    "Reading",
    "SamplingCost",
    "SegmentRecord",
    "TaskRecord",
    "add_reasons",
    "count_own_kills",
    "find_joblib_places",
    "is_measuring",
    "listen",
    "measure",
    "measure_as",
    "note",
    "own_memory",
    "publish",
    "read_committed",
    "unlisten",
    "wants_copy_sites",
]
