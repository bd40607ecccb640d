"""Pages of a file that are written once, by whoever needs one of them first.

::

    file     |page|page|page|page|...|....|marks: a byte for each page|
    locks    |--- 256 pages ---|          of the kernel, for one opening of the file

    in every worker     lock some pages, write those that are not marked, mark them,
                        unlock; what is marked can be mapped

What is marked never changes. A worker that dies loses its locks, and what it had not
marked is written again. Nobody waits for a lock while holding one, nor for long: then a
task has a copy for itself.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import struct
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.exceptions import SegmentLostError
from skl_mmap.memory._filling import write_buffer
from skl_mmap.memory._placement import spare_memory_bytes
from skl_mmap.memory._segment import SegmentHandle, open_handle

HAS_LOCKS = sys.platform == "linux" and sys.maxsize > 1 << 32
if sys.platform == "linux":
    from fcntl import F_OFD_SETLK, F_UNLCK, F_WRLCK, fcntl

# Others write behind this step meanwhile, and a killed worker has done no more in vain.
_STEP_PAGES = 256
# So long a worker that holds a lock may make no progress: it was stopped, say.
_PATIENCE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.02

# The last file for which somebody has been waited in vain: nobody is any more.
_stalled: tuple[int, int] | None = None


def open_for_writing(file: SegmentHandle) -> int | None:
    """Open a file; None if the call has ended, or no descriptor is left.

    Locks belong to this opening of the file, not to the process, so that threads are
    as different as workers are.
    """
    try:
        return open_handle(file, os.O_RDWR)
    except SegmentLostError:
        return None


class PageFiller(ABC):
    """Writes pages that are missing, each unless another worker is about to.

    Parameters
    ----------
    fd : int
        Of an opening of the file for this alone; `close` closes it.
    file : SegmentHandle
        The file.
    pages_place : int
        Where its pages begin.
    marks_place : int
        Where their marks begin: a byte for each page, which is not 0 if it is there.
    """

    def __init__(
        self, fd: int, file: SegmentHandle, *, pages_place: int = 0, marks_place: int
    ) -> None:
        self._fd = fd
        self._identity = file.device, file.inode
        self._pages_place = pages_place
        self._marks_place = marks_place

    def close(self) -> None:
        """Close the file; what was mapped stays."""
        os.close(self._fd)

    def missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of pages that are not marked."""
        marks = os.pread(self._fd, stop - first, self._marks_place + first)
        is_missing = np.frombuffer(marks, dtype=np.uint8) == 0
        edges = np.flatnonzero(np.diff(is_missing, prepend=False, append=False)) + first
        return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]

    def fill(self, ranges: Iterable[tuple[int, int]], budget_bytes: float) -> None:
        """Write the pages that are missing, as far as there is room for them."""
        steps = [
            (first, min(first + _STEP_PAGES, stop))
            for span in ranges
            for begin, stop in self.missing(*span)
            for first in range(begin, stop, _STEP_PAGES)
        ]
        if not steps:
            return
        # What cannot be written is missing, and every task has a copy of it.
        with contextlib.suppress(OSError):
            self.do_all(
                [
                    functools.partial(self._try, *step)
                    for step in self._affordable(steps, budget_bytes)
                ]
            )

    def do_all(self, jobs: Sequence[Callable[[], bool]]) -> None:
        """Do jobs, of which each returns False as long as somebody else has its lock.

        Until others have done them, or have died.
        """
        global _stalled
        waiting = [job for job in jobs if not job()]
        pause = _FIRST_PAUSE_SECONDS
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while waiting and _stalled != self._identity:
            time.sleep(pause)
            left = [job for job in waiting if not job()]
            if len(left) < len(waiting):
                pause, deadline = (
                    _FIRST_PAUSE_SECONDS,
                    time.monotonic() + _PATIENCE_SECONDS,
                )
            elif time.monotonic() > deadline:
                _stalled = self._identity
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            waiting = left

    def locked(self, place: int, n_bytes: int, job: Callable[[], object]) -> bool:
        """Do a job while holding the lock of some bytes; False if others have it."""
        if not self._lock(F_WRLCK, place, n_bytes):
            return False
        try:
            job()
        finally:
            self._lock(F_UNLCK, place, n_bytes)
        return True

    @abstractmethod
    def _copy(self, first: int, stop: int) -> None:
        """Write some pages."""

    def _affordable(
        self, steps: list[tuple[int, int]], budget_bytes: float
    ) -> list[tuple[int, int]]:
        used_bytes = os.fstat(self._fd).st_blocks * 512
        left_bytes = min(budget_bytes - used_bytes, spare_memory_bytes())
        affordable = []
        for first, stop in steps:
            left_bytes -= (stop - first) * PAGE_BYTES
            if left_bytes < 0:
                break
            affordable.append((first, stop))
        return affordable

    def _try(self, first: int, stop: int) -> bool:
        """Write what is missing of a step; False if another worker has the lock."""
        place = self._pages_place + first * PAGE_BYTES
        n_bytes = (stop - first) * PAGE_BYTES
        return self.locked(place, n_bytes, lambda: self._write(first, stop))

    def _write(self, first: int, stop: int) -> None:
        for begin, end in self.missing(first, stop):
            self._copy(begin, end)
            marks = memoryview(b"\1" * (end - begin))
            write_buffer(self._fd, marks, self._marks_place + begin)

    def _lock(self, kind: int, place: int, n_bytes: int) -> bool:
        # struct flock of 64-bit systems; see man 2 fcntl.
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, n_bytes, 0)
        try:
            fcntl(self._fd, F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True
