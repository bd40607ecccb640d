"""Pages that begin in the middle of one of a segment: copied once for all tasks.

A page of a fold is mapped from the segment if it begins there where a page does. All
others are known by where they begin, and lie in a file of their own. It has room for
every page of the segment at each *shift*, and holes where no task needs any::

    segment        |---page---|---page---|---page---|---page---|
    fold                |---page---|---page---|           begins 5 bytes further
    shifted pages  |shift 1|shift 2|shift 3|shift 4| page, page, hole |...|marks|

    parent                                    worker
    ShiftedPages.offer(): an empty file
      |---- ShiftedFile, in the settings ---> find_sources(): lock, copy, mark, unlock;
                                                what is marked can be mapped

All folds of one size have the same shifts, so the file does not grow with the number
of tasks and workers. What is marked never changes, since the segment is sealed. A
worker that dies loses its locks, and what it had not marked is copied again. Nobody
waits for a lock while holding one, nor for long: then a task has a copy for itself.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import os
import struct
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from skl_mmap._linux import proc
from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.exceptions import SegmentLostError
from skl_mmap.memory._filling import write_buffer
from skl_mmap.memory._placement import spare_memory_bytes
from skl_mmap.memory._segment import (
    Segment,
    SegmentHandle,
    create_in_memory,
    open_handle,
)
from skl_mmap.monitor import SegmentRecord, is_measuring, publish

if TYPE_CHECKING:
    from skl_mmap.memory._handles import ArrayHandle
    from skl_mmap.memory._plan import _Part

_HAS_LOCKS = sys.platform == "linux" and sys.maxsize > 1 << 32
if sys.platform == "linux":
    from fcntl import (
        F_GET_SEALS,
        F_OFD_SETLK,
        F_SEAL_WRITE,
        F_UNLCK,
        F_WRLCK,
        fcntl,
    )

    _NO_WRITE_SEALS = F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE, see _segment.py

# Others copy behind this step meanwhile; and a killed worker has not done more in vain.
_STEP_PAGES = 256
# So long a worker that holds a lock may make no progress: it was stopped, say.
_PATIENCE_SECONDS = 5.0
_FIRST_PAUSE_SECONDS = 0.0005
_LONGEST_PAUSE_SECONDS = 0.02
_PLANNED_WORKERS = 4
# Each takes a descriptor of the parent.
_MAX_FILES = 64
# The rest of the memory that may be taken is left to the tasks.
_SHARE_OF_SPARE = 0.5


class ShiftedFile(NamedTuple):
    """What a worker has to know of the shifted pages of a segment.

    Attributes
    ----------
    file : SegmentHandle
        The file that they lie in.
    n_pages : int
        For how many pages of each shift there is room.
    budget_bytes : int
        How large it may become.
    n_workers : int
        How many workers there are, each of which would make copies otherwise.
    """

    file: SegmentHandle
    n_pages: int
    budget_bytes: int
    n_workers: int

    def number_of(self, file_offset: int) -> int:
        """Return the number of the page that begins at a place of the segment."""
        page, shift = divmod(file_offset, PAGE_BYTES)
        return shift * self.n_pages + page

    def offset_of(self, number: int) -> int:
        """Return where a page begins in the segment."""
        shift, page = divmod(number, self.n_pages)
        return page * PAGE_BYTES + shift

    @property
    def marks_place(self) -> int:
        """Place of the marks: a byte for each page, which is not 0 if it is there."""
        return PAGE_BYTES * PAGE_BYTES * self.n_pages


def planned_file(n_bytes: int) -> ShiftedFile:
    """Return what stands for a file in a plan that nobody carries out.

    Of a segment of so many bytes, as with the four workers that advice is written for.
    """
    budget_bytes = (_PLANNED_WORKERS - 1) * n_bytes
    nowhere = SegmentHandle(0, -1, 0, 0, 0)
    return ShiftedFile(nowhere, 0, budget_bytes, _PLANNED_WORKERS)


class ShiftedPages:
    """The files of shifted pages of one call, one for each segment, in the parent.

    Parameters
    ----------
    n_workers : int
        How many processes tasks run in; with one of them there are no files.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._is_used = n_workers > 1 and can_shift_pages()
        # A file goes with its segment, if not before.
        self._files: weakref.WeakKeyDictionary[Segment, tuple[Segment, ShiftedFile]]
        self._files = weakref.WeakKeyDictionary()
        self._names: weakref.WeakKeyDictionary[Segment, str]
        self._names = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def offer(
        self, shared: tuple[ArrayHandle, Segment], name: str = ""
    ) -> tuple[ArrayHandle, Segment]:
        """Tell whoever gets the handle of an array where its shifted pages are."""
        handle, segment = shared
        if not self._is_used:
            return shared
        with self._lock:
            known = self._files.get(segment)
            if known is None and len(self._files) < _MAX_FILES and is_constant(segment):
                known = self._add(segment)
                self._names[segment] = name or f"{handle.dtype} {handle.shape}"
        if known is None:
            return shared
        settings = handle.settings._replace(shifted=known[1])
        return dataclasses.replace(handle, settings=settings), segment

    def _add(self, segment: Segment) -> tuple[Segment, ShiftedFile] | None:
        n_pages = segment.n_bytes // PAGE_BYTES + 1
        n_bytes = PAGE_BYTES * n_pages * (PAGE_BYTES + 1)
        # No more than the copies of all other workers would take.
        budget_bytes = (self._n_workers - 1) * segment.n_bytes
        budget_bytes = int(min(budget_bytes, _SHARE_OF_SPARE * spare_memory_bytes()))
        try:
            file = create_in_memory(n_bytes)
        except OSError:  # no descriptor left, or no file may be as large
            return None
        shifted = ShiftedFile(file.handle(), n_pages, budget_bytes, self._n_workers)
        self._files[segment] = file, shifted
        return file, shifted

    def close(self) -> None:
        """Let go of all files; what tasks in flight have mapped stays."""
        with self._lock:
            for segment, (file, _) in list(self._files.items()):
                n_bytes = file.used_bytes()
                if n_bytes and is_measuring():
                    publish(
                        SegmentRecord(
                            f"parts of folds of {self._names[segment]}",
                            n_bytes,
                            "memory",
                            inode=file.identity,
                            is_of_folds=True,
                        )
                    )
            self._files.clear()


def can_shift_pages() -> bool:
    """Return whether there can be such files on this system.

    A kernel that is strict about memory would charge both a file and its mapping.
    """
    return _HAS_LOCKS and proc.can_remap() and not proc.is_overcommit_strict()


def is_constant(segment: Segment) -> bool:
    """Return whether a segment is in memory, and nobody can write to it."""
    return segment.is_memfd and bool(fcntl(segment.fd, F_GET_SEALS) & _NO_WRITE_SEALS)


class Source(NamedTuple):
    """Where a part of a plan can be mapped from.

    Attributes
    ----------
    part : _Part
        Whole pages of the result.
    fd : int
        Descriptor of the file that has them.
    place : int
        Where they begin in it.
    """

    part: _Part
    fd: int
    place: int


@contextlib.contextmanager
def find_sources(
    segment: Segment, shifted: ShiftedFile | None, parts: Sequence[_Part]
) -> Iterator[list[Source]]:
    """Say where parts of a plan can be mapped from, inside of the block.

    Parts are missing if their pages have to be copied.

    Parameters
    ----------
    segment : Segment
        What the parts are of.
    shifted : ShiftedFile or None
        Where those pages are that do not begin where one of the segment does. They
        are copied to it now, unless they are there.
    parts : sequence of _Part
        Whole pages of the result, in order.
    """
    known = {
        part: Source(part, segment.fd, part.file_offset)
        for part in parts
        if not part.is_shifted
    }
    needed = [part for part in parts if part.is_shifted]
    filler = None
    if needed and shifted is not None:
        filler = _Filler.open(segment, shifted)
    if filler is None:
        yield list(known.values())
        return
    with contextlib.closing(filler):
        filler.fill(needed)
        known.update(filler.find_sources(needed))
        yield [known[part] for part in parts if part in known]


# The last file for which somebody has been waited in vain: nobody is any more.
_stalled: tuple[int, int] | None = None


class _Filler:
    """Copies pages that are missing, each unless another worker is about to."""

    def __init__(self, fd: int, segment: Segment, shifted: ShiftedFile) -> None:
        self._fd = fd
        self._segment = segment
        self._shifted = shifted

    @classmethod
    def open(cls, segment: Segment, shifted: ShiftedFile) -> _Filler | None:
        """Open the file; None if the call has ended, or no descriptor is left.

        Locks belong to this opening of the file, not to the process, so that threads
        are as different as workers are.
        """
        try:
            return cls(open_handle(shifted.file, os.O_RDWR), segment, shifted)
        except SegmentLostError:
            return None

    def close(self) -> None:
        """Close the file; what was mapped stays."""
        os.close(self._fd)

    def find_sources(self, parts: Sequence[_Part]) -> Iterator[tuple[_Part, Source]]:
        """Yield those of some parts of which no page is missing."""
        for part in parts:
            first, stop = self._numbers_of(part)
            if not self._missing(first, stop):
                yield part, Source(part, self._fd, first * PAGE_BYTES)

    def fill(self, parts: Sequence[_Part]) -> None:
        """Copy the pages that are missing, as far as there is room for them."""
        steps = [
            (first, min(first + _STEP_PAGES, stop))
            for part in parts
            for begin, stop in self._missing(*self._numbers_of(part))
            for first in range(begin, stop, _STEP_PAGES)
        ]
        if not steps:
            return
        # What cannot be copied is missing, and every task copies it.
        with contextlib.suppress(OSError):
            waiting = [step for step in self._affordable(steps) if not self._try(*step)]
            self._wait_for(waiting)

    def _affordable(self, steps: list[tuple[int, int]]) -> list[tuple[int, int]]:
        used_bytes = os.fstat(self._fd).st_blocks * 512
        left_bytes = self._shifted.budget_bytes - used_bytes
        left_bytes = int(min(left_bytes, spare_memory_bytes()))
        affordable = []
        for first, stop in steps:
            left_bytes -= (stop - first) * PAGE_BYTES
            if left_bytes < 0:
                break
            affordable.append((first, stop))
        return affordable

    def _wait_for(self, waiting: list[tuple[int, int]]) -> None:
        """Wait until others have copied pages, or have died."""
        global _stalled
        identity = self._shifted.file.device, self._shifted.file.inode
        pause = _FIRST_PAUSE_SECONDS
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while waiting and _stalled != identity:
            time.sleep(pause)
            left = [step for step in waiting if not self._try(*step)]
            if len(left) < len(waiting):
                pause, deadline = (
                    _FIRST_PAUSE_SECONDS,
                    time.monotonic() + _PATIENCE_SECONDS,
                )
            elif time.monotonic() > deadline:
                _stalled = identity
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
            waiting = left

    def _try(self, first: int, stop: int) -> bool:
        """Copy what is missing of a step; False if another worker has the lock."""
        if not self._lock(F_WRLCK, first, stop):
            return False
        try:
            for begin, end in self._missing(first, stop):
                self._copy(begin, end)
                marks = memoryview(b"\1" * (end - begin))
                write_buffer(self._fd, marks, self._shifted.marks_place + begin)
        finally:
            self._lock(F_UNLCK, first, stop)
        return True

    def _copy(self, first: int, stop: int) -> None:
        """Copy pages of one shift; behind the end of the segment, nothing is."""
        offset, place = self._shifted.offset_of(first), first * PAGE_BYTES
        end = place + (stop - first) * PAGE_BYTES
        while place < end:
            data = os.pread(self._segment.fd, end - place, offset)
            if not data:
                return
            write_buffer(self._fd, memoryview(data), place)
            place += len(data)
            offset += len(data)

    def _lock(self, kind: int, first: int, stop: int) -> bool:
        n_bytes = (stop - first) * PAGE_BYTES
        place = first * PAGE_BYTES
        # struct flock of 64-bit systems; see man 2 fcntl.
        lock = struct.pack("hhqqi4x", kind, os.SEEK_SET, place, n_bytes, 0)
        try:
            fcntl(self._fd, F_OFD_SETLK, lock)
        except OSError as error:
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise
            return False
        return True

    def _numbers_of(self, part: _Part) -> tuple[int, int]:
        first = self._shifted.number_of(part.file_offset)
        return first, first + (part.high - part.low) // PAGE_BYTES

    def _missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the runs of pages that are not marked."""
        marks = os.pread(self._fd, stop - first, self._shifted.marks_place + first)
        is_missing = np.frombuffer(marks, dtype=np.uint8) == 0
        edges = np.flatnonzero(np.diff(is_missing, prepend=False, append=False)) + first
        return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]
