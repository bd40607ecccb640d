"""The memory of this process, for a worker that tells what its task cost."""

from __future__ import annotations

from dataclasses import dataclass

from skl_mmap._linux.proc import (
    find_bytes,
    is_readable,
    read_own_status,
    reset_own_peak,
)

__all__ = ["OwnMemory", "own_memory"]


@dataclass(frozen=True, slots=True)
class OwnMemory:
    """The memory of this process at one moment.

    Attributes
    ----------
    anonymous_bytes : int
        Private memory, swapped or not (RssAnon + VmSwap).
    resident_bytes : int
        Everything that is mapped and in memory, shared pages included (VmRSS).
    peak_bytes : int
        The most that `resident_bytes` has been since the peak was last reset
        (VmHWM); the same as `resident_bytes` where the peak could not be reset.
    """

    anonymous_bytes: int
    resident_bytes: int
    peak_bytes: int


def own_memory(*, reset_peak: bool = False) -> OwnMemory:
    """Read the memory of this process, without the processes it has started.

    Parameters
    ----------
    reset_peak : bool, default=False
        Let the peak start from the present size, for this reading and all later ones.

    Returns
    -------
    OwnMemory
        Where there is no ``/proc``: unique and resident set size from psutil, and no
        better idea of the peak than the resident set size.

    Notes
    -----
    30 microseconds whatever the size (psutil: 12 ms per GB). The kernel keeps one
    peak for each process: threads that reset it do so for each other.
    """
    if not is_readable():
        return _read_portable()
    if reset_peak:
        _peak.is_known = reset_own_peak()
    text = read_own_status()
    resident_bytes = find_bytes(text, b"\nVmRSS:")
    return OwnMemory(
        find_bytes(text, b"\nRssAnon:") + find_bytes(text, b"\nVmSwap:"),
        resident_bytes,
        find_bytes(text, b"\nVmHWM:") if _peak.is_known else resident_bytes,
    )


class _Peak:
    """Tells whether the kernel's peak is that since it was asked to reset it."""

    is_known = True


_peak = _Peak()


def _read_portable() -> OwnMemory:
    import psutil

    numbers = psutil.Process().memory_full_info()
    return OwnMemory(numbers.uss, numbers.rss, numbers.rss)
