"""Scattered rows that several tasks select: gathered once, and mapped by all of them.

::

    worker A   X[train] --> find or add an entry   the very same rows of the same array?
                        --> gather what is missing  in steps, as others do at that time
                        --> map the pages           copy-on-write
    worker B   X[train] --> find the entry --> map the pages

    file of     |directory: entries, in order|marks|key|rows of a fold|key|rows|...
    the segment |(behind its shifted pages)  |     |pages, each marked when it is there|

The *key* of an entry is all that decides which bytes a selection has: the place and the
shape of the array, the order of the result, and the number of each row. It is compared
as a whole. Rows are read from the segment, and never from the array of a task, which it
may write to. Who may gather is decided by the parent: see `_fold_budget.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import struct
import sys
import zlib
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.exceptions import SegmentLostError
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._filling import write_buffer
from skl_mmap.memory._mapping import Mapping, as_array, map_plan
from skl_mmap.memory._page_filler import PageFiller, open_for_writing
from skl_mmap.memory._placement import spare_memory_bytes
from skl_mmap.memory._plan import (
    Cost,
    Geometry,
    Piece,
    Plan,
    pieces_between,
    plan_pieces,
    round_up,
)
from skl_mmap.memory._reasons import Reason
from skl_mmap.memory._segment import Segment, attach_segment
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shifted_pages import ShiftedFile

_Rows = npt.NDArray[np.intp]

# What keys, marks and the ends of pages take beside the rows, where they take no more.
_SMALL_SHARE = 1 / 64
_LARGEST_KEY_SHARE = 1 / 16
_MAX_ENTRIES = 256
_ENTRY = struct.Struct("<5Q")
_DIRECTORY_BYTES = -(-_MAX_ENTRIES * (1 + _ENTRY.size) // PAGE_BYTES) * PAGE_BYTES


def gather_rows(
    plan: Plan,
    geometry: Geometry,
    array: npt.NDArray[Any],
    index: npt.NDArray[Any],
    *,
    order: str | None = None,
    subtype: type[npt.NDArray[Any]] = np.ndarray,
) -> npt.NDArray[Any] | None:
    """Map rows of a shared array that were gathered for all tasks, or gather them.

    Parameters
    ----------
    plan : Plan
        What each task would map and copy for itself.
    geometry : Geometry
        The array.
    array : ndarray of shape (n_rows, ...)
        What rows are selected from.
    index : ndarray of shape (n_selected,) or (n_rows,)
        Integer indices or a mask; see `row_key`.
    order : {"C", "F"}, optional
        Of the result; by default as numpy's.
    subtype : type
        Class of the result.

    Returns
    -------
    ndarray or None
        Writable, and private. None if that would take more memory than copies, or is
        not possible: then the plan has to be carried out.
    """
    fold = _Fold.of(plan, geometry, array, index, order)
    if fold is None:
        return None
    mapping = None
    # The call has ended, or something has run out.
    with contextlib.suppress(OSError, SegmentLostError):
        place = _find_pages(fold)
        mapping = None if place is None else _map_fold(fold, place)
    if mapping is None:
        return None
    counters.add(Cost.of_copy(Reason.GATHERED, fold.n_bytes))
    shape = (len(fold.rows), *array.shape[1:])
    if fold.order == "C":
        return as_array(mapping, array.dtype, shape, subtype=subtype)
    return as_array(mapping, array.dtype, shape[::-1], subtype=subtype).T


@dataclasses.dataclass(frozen=True, slots=True)
class _Fold:
    """Rows of an array that lies in one piece of a segment.

    Attributes
    ----------
    segment, shifted : Segment, ShiftedFile
        Where the array lies, and the file for its folds.
    settings : Settings
        As those of the array.
    offset : int
        Place of the array in its segment.
    dtype, shape, source_order : dtype, tuple of int, {"C", "F"}
        How the array looks.
    rows : ndarray of shape (n_selected,), dtype=intp
        Numbers of the rows, none of them negative.
    order : {"C", "F"}
        Of the result.
    key : bytes
        All of that.
    """

    segment: Segment
    shifted: ShiftedFile
    settings: Settings
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    source_order: str
    rows: _Rows
    order: str
    key: bytes

    @classmethod
    def of(
        cls,
        plan: Plan,
        geometry: Geometry,
        array: npt.NDArray[Any],
        index: npt.NDArray[Any],
        order: str | None,
    ) -> _Fold | None:
        """Return the rows that are selected; None if they are better not gathered."""
        origin = geometry.origin
        shifted = origin.settings.shifted if origin else None
        if origin is None or shifted is None or not shifted.n_splits:
            return None
        if plan.n_bytes < max(origin.settings.min_bytes, PAGE_BYTES):
            return None
        if not _is_worth_it(plan, shifted, 0) or geometry.order is None:
            return None
        rows = _numbers_of(index, geometry.n_rows)
        stop = origin.start + array.nbytes
        pieces = pieces_between(origin.pieces, origin.start, stop)
        if rows is None or len(pieces) != 1 or origin.segment is None:
            return None
        if order is None:
            is_by_column = geometry.order == "F" and origin.settings.is_by_column
            order = "F" if is_by_column else "C"
        layout = (pieces[0].file_offset, array.shape, geometry.order, order)
        key = _write_key((*layout, array.dtype.str, geometry.row_bytes), rows)
        if not _is_worth_it(plan, shifted, len(key)):
            return None
        # What the task has written to its array is for the task alone.
        if not origin.is_unmodified(origin.start, stop):
            return None
        offset, shape, source_order, _ = layout
        return cls(
            origin.segment,
            shifted,
            origin.settings,
            offset,
            array.dtype,
            shape,
            source_order,
            rows,
            order,
            key,
        )

    @property
    def row_bytes(self) -> int:
        """Bytes of a row."""
        return self.dtype.itemsize * math.prod(self.shape[1:])

    @property
    def n_bytes(self) -> int:
        """Bytes of all selected rows."""
        return len(self.rows) * self.row_bytes

    def map_source(self) -> npt.NDArray[Any] | None:
        """Map the array anew, read-only: as it was shared, whatever tasks do to it."""
        n_bytes = self.shape[0] * self.row_bytes
        plan = plan_pieces([Piece(0, n_bytes, self.offset)])
        mapping = map_plan(self.segment, plan, Settings("r"))
        if mapping is None:
            return None
        if self.source_order == "F":
            return as_array(mapping, self.dtype, self.shape[::-1]).T
        as_bytes = np.dtype(np.uint8), (self.shape[0], self.row_bytes)
        return as_array(mapping, *as_bytes)

    def bytes_of(
        self, source: npt.NDArray[Any], start: int, stop: int
    ) -> npt.NDArray[np.uint8]:
        """Gather the bytes ``[start, stop)`` of the selected rows."""
        if self.order == "F":
            return self._bytes_by_column(source, start, stop)
        row_bytes = self.row_bytes
        first, end = start // row_bytes, -(-stop // row_bytes)
        # Not take() from Fortran order: it would copy all of the array first.
        wanted = self.rows[first:end]
        rows = source[wanted] if self.source_order == "F" else source.take(wanted, 0)
        place = start - first * row_bytes
        return rows.reshape(-1).view(np.uint8)[place : place + stop - start]

    def _bytes_by_column(
        self, source: npt.NDArray[Any], start: int, stop: int
    ) -> npt.NDArray[np.uint8]:
        size, n_rows = self.dtype.itemsize, len(self.rows)
        first, end = start // size, -(-stop // size)
        items = np.empty(end - first, self.dtype)
        place = first
        while place < end:
            column, row = divmod(place, n_rows)
            n_items = min(n_rows - row, end - place)
            part = source[:, column][self.rows[row : row + n_items]]
            items[place - first : place - first + n_items] = part
            place += n_items
        return items.view(np.uint8)[start - first * size :][: stop - start]


def _is_worth_it(plan: Plan, shifted: ShiftedFile, key_bytes: int) -> bool:
    """Return whether to keep all folds like this takes no more memory than copies."""
    if key_bytes > _LARGEST_KEY_SHARE * plan.n_bytes:
        return False
    copied_bytes = shifted.n_workers * (plan.n_bytes - plan.mapped_bytes)
    kept_bytes = shifted.n_splits * (plan.n_bytes + key_bytes)
    return kept_bytes <= (1 + _SMALL_SHARE) * copied_bytes


def _numbers_of(index: npt.NDArray[Any], n_rows: int) -> _Rows | None:
    """Return the numbers of selected rows; None if numpy should refuse them."""
    if index.dtype == bool:
        return np.flatnonzero(index) if len(index) == n_rows else None
    # Compared before the cast: a uint64 above the range of intp must not wrap.
    if int(index.min()) < -n_rows or int(index.max()) >= n_rows:
        return None
    rows = index.astype(np.intp, copy=False)
    return np.where(rows < 0, rows + n_rows, rows) if int(rows.min()) < 0 else rows


def _write_key(layout: tuple[Any, ...], rows: _Rows) -> bytes:
    """Write down a selection: two of them are the same if these bytes are."""
    n_rows = layout[1][0]
    if bool(np.all(rows[1:] > rows[:-1])):
        mask = np.zeros(n_rows, dtype=bool)
        mask[rows] = True
        kind, numbers = "mask", np.packbits(mask)
    else:
        kind, numbers = "numbers", rows.astype(np.min_scalar_type(n_rows))
    return repr((*layout, kind)).encode() + numbers.tobytes()


class _Entry(NamedTuple):
    """A fold in the file.

    Attributes
    ----------
    checksum, key_bytes : int
        Of its key.
    key_page, first, stop : int
        Numbers of the first page of the key, and of the first page of the rows and the
        one after the last.
    """

    checksum: int
    key_bytes: int
    key_page: int
    first: int
    stop: int


class _FoldFiller(PageFiller):
    """Finds a fold in the file, or writes it there.

    Entries are added one after another, each under the lock of the directory, and are
    there when they are marked. Their pages belong to them from then on.
    """

    def __init__(self, fd: int, fold: _Fold) -> None:
        file = fold.shifted.file
        self._fold = fold
        self._directory = fold.shifted.folds_place
        marks_place = self._directory + _DIRECTORY_BYTES
        # Marks fill whole pages, too.
        self._n_pages = (file.n_bytes - marks_place - PAGE_BYTES) // (PAGE_BYTES + 1)
        pages_place = marks_place + round_up(self._n_pages, PAGE_BYTES)
        super().__init__(fd, file, pages_place=pages_place, marks_place=marks_place)
        self._entry: _Entry | None = None
        self._source: npt.NDArray[Any] | None = None
        self._checksum = zlib.crc32(fold.key)

    def find_or_add(self) -> _Entry | None:
        """Return the entry of the fold; None if there is no room for one."""
        self._entry = self._find(self._entries())
        if self._entry is None:
            lock = self._directory, _DIRECTORY_BYTES
            self.do_all([lambda: self.locked(*lock, self._add)])
        return self._entry

    def fill_entry(self, entry: _Entry) -> bool:
        """Gather the rows that are missing; False if some are missing nevertheless."""
        if self.missing(entry.first, entry.stop):
            self._source = self._fold.map_source()
            if self._source is not None:
                self.fill([(entry.first, entry.stop)], math.inf)
        return not self.missing(entry.first, entry.stop)

    def place_of(self, page: int) -> int:
        """Return where a page begins in the file."""
        return self._pages_place + page * PAGE_BYTES

    def _entries(self) -> list[_Entry]:
        marks = os.pread(self._fd, _MAX_ENTRIES, self._directory)
        n_entries = marks.find(b"\0")
        n_entries = _MAX_ENTRIES if n_entries < 0 else n_entries
        place = self._directory + _MAX_ENTRIES
        data = os.pread(self._fd, n_entries * _ENTRY.size, place)
        return [_Entry._make(values) for values in _ENTRY.iter_unpack(data)]

    def _find(self, entries: list[_Entry]) -> _Entry | None:
        key = self._fold.key
        for entry in entries:
            if (entry.checksum, entry.key_bytes) == (self._checksum, len(key)):
                place = self.place_of(entry.key_page)
                if os.pread(self._fd, len(key), place) == key:
                    return entry
        return None

    def _add(self) -> None:
        entries = self._entries()
        self._entry = self._find(entries)
        if self._entry is not None or len(entries) == _MAX_ENTRIES:
            return
        key = self._fold.key
        key_page = entries[-1].stop if entries else 0
        first = key_page + round_up(len(key), PAGE_BYTES) // PAGE_BYTES
        stop = first + round_up(self._fold.n_bytes, PAGE_BYTES) // PAGE_BYTES
        needed_bytes = (stop - key_page) * PAGE_BYTES
        if stop > self._n_pages or needed_bytes > spare_memory_bytes():
            return
        entry = _Entry(self._checksum, len(key), key_page, first, stop)
        write_buffer(self._fd, memoryview(key), self.place_of(key_page))
        place = self._directory + _MAX_ENTRIES + len(entries) * _ENTRY.size
        write_buffer(self._fd, memoryview(_ENTRY.pack(*entry)), place)
        write_buffer(self._fd, memoryview(b"\1"), self._directory + len(entries))
        self._entry = entry

    def _copy(self, first: int, stop: int) -> None:
        assert self._entry is not None
        assert self._source is not None
        start = (first - self._entry.first) * PAGE_BYTES
        end = min((stop - self._entry.first) * PAGE_BYTES, self._fold.n_bytes)
        data = self._fold.bytes_of(self._source, start, end)
        write_buffer(self._fd, data.data, self.place_of(first))


def _find_pages(fold: _Fold) -> int | None:
    """Return where the rows of a fold are in the file; None if they are not."""
    fd = open_for_writing(fold.shifted.file)
    if fd is None:
        return None
    with contextlib.closing(_FoldFiller(fd, fold)) as filler:
        entry = filler.find_or_add()
        if entry is None or not filler.fill_entry(entry):
            return None
        return filler.place_of(entry.first)


def _map_fold(fold: _Fold, place: int) -> Mapping | None:
    """Map a fold that is complete: writable, as a copy would be."""
    # The file goes with the call, so that results are sent by value.
    settings = Settings("c", fold.settings.min_mapped_bytes, min_bytes=sys.maxsize)
    plan = plan_pieces([Piece(0, fold.n_bytes, place)])
    mapping = map_plan(attach_segment(fold.shifted.file), plan, settings)
    return mapping if mapping is not None and mapping.is_writable else None
