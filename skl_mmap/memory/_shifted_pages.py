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
of tasks and workers. What is marked never changes, since the segment is sealed; see
`_page_filler.py`. Behind the marks there is room for gathered folds (see
`_gathered_folds.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from skl_mmap._linux import proc
from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._filling import write_buffer
from skl_mmap.memory._fold_budget import FoldBudget
from skl_mmap.memory._page_filler import HAS_LOCKS, PageFiller, open_for_writing
from skl_mmap.memory._placement import spare_memory_bytes
from skl_mmap.memory._segment import Segment, SegmentHandle, create_in_memory
from skl_mmap.monitor import SegmentRecord, is_measuring, publish

if TYPE_CHECKING:
    from skl_mmap.memory._handles import ArrayHandle
    from skl_mmap.memory._plan import _Part

if sys.platform == "linux":
    from fcntl import F_GET_SEALS, F_SEAL_WRITE, fcntl

    _NO_WRITE_SEALS = F_SEAL_WRITE | 0x10  # F_SEAL_FUTURE_WRITE, see _segment.py

_PLANNED_WORKERS = 4
# Each takes a descriptor of the parent.
_MAX_FILES = 64
# The rest of the memory that may be taken is left to the tasks.
_SHARE_OF_SPARE = 0.5
# Of the room for gathered folds: for what is written down beside them.
_MORE_PAGES = 1024


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
    n_splits : int
        How many splits there are, each for several tasks, if their folds may be
        gathered here; else 0.
    """

    file: SegmentHandle
    n_pages: int
    budget_bytes: int
    n_workers: int
    n_splits: int = 0

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

    @property
    def folds_place(self) -> int:
        """Place of the gathered folds, at the beginning of a page."""
        return self.marks_place + PAGE_BYTES * self.n_pages


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
        self._budget = FoldBudget(n_workers)
        # A file goes with its segment, if not before.
        self._files: weakref.WeakKeyDictionary[Segment, tuple[Segment, ShiftedFile]]
        self._files = weakref.WeakKeyDictionary()
        self._names: weakref.WeakKeyDictionary[Segment, str]
        self._names = weakref.WeakKeyDictionary()
        self._lock = threading.Lock()

    def next_task(self, n_splits: int) -> None:
        """Say that what is offered from now on is for another task; see `FoldBudget`.

        Of one with whose folds others have to do as well, if there are any splits.
        """
        with self._lock:
            self._budget.next_task(n_splits)

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
            n_splits = self._budget.count_splits(segment)
        shifted = known[1]._replace(n_splits=n_splits)
        settings = handle.settings._replace(shifted=shifted)
        return dataclasses.replace(handle, settings=settings), segment

    def _add(self, segment: Segment) -> tuple[Segment, ShiftedFile] | None:
        n_pages = segment.n_bytes // PAGE_BYTES + 1
        # As much as folds of all workers would take; each page has its mark.
        n_fold_pages = self._n_workers * (n_pages + n_pages // 16) + _MORE_PAGES
        n_bytes = (PAGE_BYTES * n_pages + n_fold_pages) * (PAGE_BYTES + 1)
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
    return HAS_LOCKS and proc.can_remap() and not proc.is_overcommit_strict()


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
        filler.fill_parts(needed)
        known.update(filler.find_sources(needed))
        yield [known[part] for part in parts if part in known]


class _Filler(PageFiller):
    """Copies pages of a segment that are missing."""

    def __init__(self, fd: int, segment: Segment, shifted: ShiftedFile) -> None:
        super().__init__(fd, shifted.file, marks_place=shifted.marks_place)
        self._segment = segment
        self._shifted = shifted

    @classmethod
    def open(cls, segment: Segment, shifted: ShiftedFile) -> _Filler | None:
        """Open the file; None if the call has ended, or no descriptor is left."""
        fd = open_for_writing(shifted.file)
        return None if fd is None else cls(fd, segment, shifted)

    def find_sources(self, parts: Sequence[_Part]) -> Iterator[tuple[_Part, Source]]:
        """Yield those of some parts of which no page is missing."""
        for part in parts:
            first, stop = self._numbers_of(part)
            if not self.missing(first, stop):
                yield part, Source(part, self._fd, first * PAGE_BYTES)

    def fill_parts(self, parts: Sequence[_Part]) -> None:
        """Copy the pages that are missing, as far as there is room for them."""
        self.fill(map(self._numbers_of, parts), self._shifted.budget_bytes)

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

    def _numbers_of(self, part: _Part) -> tuple[int, int]:
        first = self._shifted.number_of(part.file_offset)
        return first, first + (part.high - part.low) // PAGE_BYTES
