"""All errors and warnings of skl_mmap.

The tree::

    SklMmapError
    ├── InvalidParameterError    (also ValueError)    a parameter that cannot be used
    ├── FileFormatError          (also ValueError)    a file cannot be read as asked for
    ├── NotEnoughMemoryError     (also MemoryError)   a segment does not fit in memory
    ├── NotEnoughDiskError       (also OSError)       a segment does not fit on the disk
    ├── SegmentLostError         (also OSError)       a worker cannot open shared data
    ├── LostWorkerError          (also RuntimeError)  a worker ended while it worked
    ├── ClosedArrayError         (also ValueError)    a shared array after its close()
    ├── CopyError                (also RuntimeError)  X was copied, and should not be
    └── MeasurementError         (also RuntimeError)  memory could not be measured

    SklMmapWarning               (also UserWarning)
    ├── CopyWarning              X was copied, by whom, and what helps
    └── FallbackWarning          something is done the slow way, and why

Every message says what was found, why it matters and what to do. Errors take
positional arguments only, so that they survive pickling between processes.
"""

__all__ = [
    "ClosedArrayError",
    "CopyError",
    "CopyWarning",
    "FallbackWarning",
    "FileFormatError",
    "InvalidParameterError",
    "LostWorkerError",
    "MeasurementError",
    "NotEnoughDiskError",
    "NotEnoughMemoryError",
    "SegmentLostError",
    "SklMmapError",
    "SklMmapWarning",
]


class SklMmapError(Exception):
    """Base class of all errors raised by skl_mmap."""


class InvalidParameterError(SklMmapError, ValueError):
    """A parameter has a value that cannot be used."""


class FileFormatError(SklMmapError, ValueError):
    """A file is damaged, or holds values that cannot become an array of numbers."""


class NotEnoughMemoryError(SklMmapError, MemoryError):
    """There is not enough memory left for the data that has to be shared."""


class NotEnoughDiskError(SklMmapError, OSError):
    """There is not enough room on the disk for the data that has to be shared."""


class SegmentLostError(SklMmapError, OSError):
    """Shared data is gone, or may not be opened by this process."""


class LostWorkerError(SklMmapError, RuntimeError):
    """A worker has ended in the middle of a task, killed by a signal for instance.

    What is raised is loky's and joblib's ``TerminatedWorkerError`` too.
    """


class ClosedArrayError(SklMmapError, ValueError):
    """A shared array was used after it was closed."""


class CopyError(SklMmapError, RuntimeError):
    """Folds or inputs were copied where that was to be an error."""


class MeasurementError(SklMmapError, RuntimeError):
    """The memory of the process tree could not be measured."""


class SklMmapWarning(UserWarning):
    """Base class of all warnings given by skl_mmap."""


class CopyWarning(SklMmapWarning):
    """Folds or inputs were copied."""


class FallbackWarning(SklMmapWarning):
    """Something is done in a slower or larger way than asked for."""
