"""Memory of this process and all it starts, measured from outside.

Nothing but the standard library is imported here.
"""

from skl_mmap.monitor._measure import measure, measure_as, read_committed
from skl_mmap.monitor._measurement import (
    GroupReading,
    Measurement,
    ProcessReading,
    ProcessSeries,
    Reading,
)
from skl_mmap.monitor._own_memory import OwnMemory, own_memory
from skl_mmap.monitor._records import (
    SegmentRecord,
    TaskRecord,
    is_measuring,
    listen,
    note,
    publish,
    publish_segment,
    unlisten,
)

__all__ = [
    "GroupReading",
    "Measurement",
    "OwnMemory",
    "ProcessReading",
    "ProcessSeries",
    "Reading",
    "SegmentRecord",
    "TaskRecord",
    "is_measuring",
    "listen",
    "measure",
    "measure_as",
    "note",
    "own_memory",
    "publish",
    "publish_segment",
    "read_committed",
    "unlisten",
]
