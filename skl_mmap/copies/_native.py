"""Which functions of native code took memory, as memray sees them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from typing import Any

from skl_mmap.exceptions import MeasurementError

__all__ = ["check_memray", "watch_native"]

_MAX_FRAMES = 6
_ALLOCATORS = ("malloc", "calloc", "realloc", "mmap", "operator new", "aligned_alloc")


def check_memray() -> None:
    """Raise an error if memray is not there.

    Raises
    ------
    MeasurementError
        With what to install.
    """
    try:
        import memray  # noqa: F401
    except ImportError as error:
        raise MeasurementError(
            "deep=True looks at native code with memray, which is not installed. "
            "Run: pip install 'skl-mmap[deep]'"
        ) from error


def watch_native(
    function: Callable[[], Any], path: str, *, least_bytes: int
) -> tuple[str, ...]:
    """Call a function, and name what took memory that was there at its peak.

    Parameters
    ----------
    function : callable
        Without arguments.
    path : str
        A file that memray writes and that is removed.
    least_bytes : int
        Of one place, to be named.

    Returns
    -------
    tuple of str
        Size and functions from the inside out, the largest first.
    """
    import memray

    destination = memray.FileDestination(path, overwrite=True)
    try:
        with memray.Tracker(destination=destination, native_traces=True):
            function()
        with memray.FileReader(path) as reader:
            records = [
                (record.size, _name_frames(record))
                for record in reader.get_high_watermark_allocation_records(
                    merge_threads=True
                )
                if record.size >= least_bytes
            ]
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    records.sort(reverse=True)
    return tuple(f"{size / 2**20:.1f} MiB in {names}" for size, names in records)


def _name_frames(record: Any) -> str:
    names = [
        function
        for function, _, _ in record.hybrid_stack_trace()
        if not function.startswith(_ALLOCATORS)
    ]
    return " < ".join(names[:_MAX_FRAMES])
