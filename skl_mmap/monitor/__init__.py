"""Memory of this process and all it starts, measured from outside.

Nothing but the standard library is imported here.
"""

from skl_mmap.monitor._measure import measure, read_committed
from skl_mmap.monitor._measurement import Measurement, ProcessReading, Reading
from skl_mmap.monitor._own_memory import OwnMemory, own_memory
from skl_mmap.monitor._records import (
    TaskRecord,
    is_measuring,
    listen,
    note,
    publish,
    unlisten,
)

__all__ = [
    "Measurement",
    "OwnMemory",
    "ProcessReading",
    "Reading",
    "TaskRecord",
    "is_measuring",
    "listen",
    "measure",
    "note",
    "own_memory",
    "publish",
    "read_committed",
    "unlisten",
]
