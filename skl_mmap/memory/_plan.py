r"""The plan of a selection of rows: which bytes are mapped, which are copied, and why.

::

    Geometry of an array, key of its rows --> plan_rows() --> Plan --> carried out
    (where its bytes lie in a segment)                         |       by a worker
                                                               +-----> added up by a
                                                                       preview

Pages that agree with the file modulo the page size are mapped, all other bytes are
copied to private pages::

    file      |....rows 0..399....|####rows 400..599####|....rows 600..999....|
                        \                                   /
    mapping   |....rows 0..399.....|..|....rows 600..999....|
                                    ^ the pages at the seam are private

Nothing is mapped or copied here, and nothing has to be there: a geometry can be that of
an array which does not exist yet.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.calls import HUGE_PAGE_BYTES
from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._reasons import Cause, Reason
from skl_mmap.memory._runs import Runs, find_runs
from skl_mmap.memory._settings import Settings

if TYPE_CHECKING:
    from skl_mmap.memory._segment import Segment

# One mapping for each run: far below vm.max_map_count (65 530 for a whole process),
# and little enough to be set up faster than the rows would be copied.
MAX_RUNS = 4096
# Less of a run is copied by each task sooner than it is looked up what others copied.
MIN_SHIFTED_BYTES = 64 << 10


class Piece(NamedTuple):
    """Where some bytes come from.

    Attributes
    ----------
    start, stop : int
        Place among the bytes that follow each other in memory.
    file_offset : int
        Place of the first byte in the segment.
    address : int
        Where the same bytes lie in memory already, or 0.
    """

    start: int
    stop: int
    file_offset: int
    address: int = 0


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of selected rows that are mapped and that are copied, and why.

    Attributes
    ----------
    mapped_bytes : int
        Bytes that cost no memory.
    copied : mapping of Cause to int
        Bytes that are copied, by cause: by every task for itself, but for those that
        are shifted (`Reason.SHIFTED`).
    """

    mapped_bytes: int = 0
    copied: Mapping[Cause, int] = field(default_factory=dict)

    @classmethod
    def of_copy(cls, cause: Cause | Reason, n_bytes: int) -> Cost:
        """Return the cost of rows that are copied as a whole."""
        cause = Cause(cause) if isinstance(cause, Reason) else cause
        return cls(0, {cause: n_bytes} if n_bytes else {})

    @property
    def copied_bytes(self) -> int:
        """All bytes that are copied."""
        return sum(self.copied.values())

    @property
    def n_bytes(self) -> int:
        """All bytes of the rows."""
        return self.mapped_bytes + self.copied_bytes

    @property
    def counted(self) -> dict[Cause, int]:
        """The part of `copied` that a task counts."""
        return {c: n for c, n in self.copied.items() if c.reason.is_counted}

    def __add__(self, other: Cost) -> Cost:
        copied = Counter(self.copied)
        copied.update(other.copied)
        return Cost(self.mapped_bytes + other.mapped_bytes, dict(copied))


class Origin(NamedTuple):
    """Where the bytes of an array come from.

    Attributes
    ----------
    start : int
        Place of the array's first byte among those of `pieces`.
    pieces : sequence of Piece
        Where each byte comes from, in order and without gaps.
    mapped : sequence of (int, int)
        The byte ranges that share pages with the segment, in order.
    settings : Settings
        How rows are handed on.
    address : int
        Where the first byte of `pieces` lies in memory; 0 if it does not yet.
    is_unmodified : callable
        Says of a byte range within `mapped` whether it still equals the segment.
    segment : Segment or None
        The file, if there is one yet.
    """

    start: int
    pieces: Sequence[Piece]
    mapped: Sequence[tuple[int, int]]
    settings: Settings
    address: int = 0
    is_unmodified: Callable[[int, int], bool] = lambda _start, _stop: True
    segment: Segment | None = None


class Geometry(NamedTuple):
    """How the rows of an array lie, and where they come from.

    Attributes
    ----------
    n_rows, row_bytes : int
        Rows, and the bytes of each.
    alignment : int
        What the address of an element must be a multiple of.
    order : {"C", "F"} or None
        How the elements follow each other; None if there are gaps between them.
    origin : Origin or None
        None if the array is not shared.
    itemsize : int
        Bytes of an element.
    """

    n_rows: int
    row_bytes: int
    alignment: int
    order: str | None
    origin: Origin | None
    itemsize: int

    @classmethod
    def of(cls, array: npt.NDArray[Any], origin: Origin | None) -> Geometry:
        """Return the geometry of an array with one dimension or more."""
        order = "C" if array.flags.c_contiguous else None
        if order is None and array.ndim == 2 and array.flags.f_contiguous:
            order = "F"
        n_rows = len(array)
        row_bytes = array.nbytes // max(n_rows, 1)
        return cls(
            n_rows, row_bytes, array.dtype.alignment, order, origin, array.itemsize
        )


class _Part(NamedTuple):
    """Whole pages that can be mapped.

    Attributes
    ----------
    low, high : int
        Place in the result's data, in whole pages of the address space: what lies in
        the first and in the last page may begin before the data, and end behind it.
    file_offset : int
        Place of `low` in the segment.
    """

    low: int
    high: int
    file_offset: int

    @property
    def is_shifted(self) -> bool:
        """Whether its pages do not begin where pages of the segment do."""
        return self.file_offset % PAGE_BYTES != 0


class Plan(NamedTuple):
    """Which bytes of selected rows are mapped; nothing has been done yet.

    Attributes
    ----------
    n_bytes : int
        Bytes of the rows.
    pieces : sequence of Piece
        Where each byte comes from, in order and without gaps; empty if the rows are
        left to whoever copies them.
    parts : sequence of _Part
        What is mapped, in order; all other bytes are copied.
    phase : int
        Place of the result in its huge page, for which the parts are made.
    cause : Cause
        Why the bytes that are not mapped are copied.
    is_by_column : bool
        Whether the rows are selected into Fortran order.
    """

    n_bytes: int
    pieces: Sequence[Piece] = ()
    parts: Sequence[_Part] = ()
    phase: int = 0
    cause: Cause = Cause(Reason.SEAMS)
    is_by_column: bool = False

    @property
    def is_mapped(self) -> bool:
        """Whether enough can be mapped to be worth it."""
        return bool(self.pieces)

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The byte ranges of the result that share pages with files."""
        return [(max(part.low, 0), min(part.high, self.n_bytes)) for part in self.parts]

    @property
    def mapped_bytes(self) -> int:
        """Bytes that the task does not have for itself."""
        return sum(stop - start for start, stop in self.spans)

    @property
    def cost(self) -> Cost:
        """What it costs to carry the plan out."""
        spans = zip(self.parts, self.spans, strict=True)
        shifted_bytes = sum(b - a for part, (a, b) in spans if part.is_shifted)
        copied_bytes = self.n_bytes - self.mapped_bytes
        copied = {Cause(Reason.SHIFTED): shifted_bytes, self.cause: copied_bytes}
        return Cost(
            self.mapped_bytes - shifted_bytes, {c: n for c, n in copied.items() if n}
        )


def _left_alone(reason: Reason, n_bytes: int) -> Plan:
    return Plan(n_bytes, cause=Cause(reason))


def row_key(key: object, n_dimensions: int) -> npt.NDArray[Any] | None:
    """Return the row index or mask that `key` is, or None if it is something else.

    ``X[i]``, ``X[i,]``, ``X[i, ...]`` and ``X[i, :]`` select rows if `i` is a
    one-dimensional list or array of integers or booleans.
    """
    if isinstance(key, tuple):
        if not key or not _is_everything(key[1:], n_dimensions - 1):
            return None
        key = key[0]
    if isinstance(key, list):
        try:
            key = np.asarray(key)
        except ValueError:  # ragged: numpy will say so
            return None
    if not isinstance(key, np.ndarray) or key.ndim != 1 or not len(key):
        return None
    return np.asarray(key) if key.dtype.kind in "iub" else None


def _is_everything(keys: tuple[object, ...], n_dimensions: int) -> bool:
    """Return whether the keys leave all of the other dimensions as they are."""
    slices = [key for key in keys if key is not Ellipsis]
    return (
        len(keys) - len(slices) <= 1
        and len(slices) <= n_dimensions
        and all(isinstance(key, slice) and key == slice(None) for key in slices)
    )


def count_selected(index: npt.NDArray[Any]) -> int:
    """Count the rows that an index array or a mask selects."""
    return int(np.count_nonzero(index)) if index.dtype == bool else len(index)


def plan_rows(geometry: Geometry, index: npt.NDArray[Any]) -> Plan:
    """Plan the selection of rows by an index array or a mask.

    Parameters
    ----------
    geometry : Geometry
        The array.
    index : ndarray of shape (n_selected,) or (n_rows,)
        Integer indices or a mask; see `row_key`.

    Returns
    -------
    Plan
        Not mapped, without a cause that counts, if the array is not shared, if it has
        less than `min_mapped_bytes` of these rows, or if `index` is not valid.
    """
    n_bytes = count_selected(index) * geometry.row_bytes
    if geometry.origin is None:
        return _left_alone(Reason.NOT_SHARED, n_bytes)
    settings = geometry.origin.settings
    if not n_bytes or n_bytes < settings.min_mapped_bytes:
        return _left_alone(Reason.FEW_BYTES, n_bytes)
    if geometry.order != "C":
        return _plan_not_by_row(geometry, index, n_bytes)
    runs = find_runs(index, geometry.n_rows, max_runs=MAX_RUNS)
    if runs is None:
        return _left_alone(Reason.SCATTERED, n_bytes)
    return plan_runs(geometry, runs)


def _plan_not_by_row(geometry: Geometry, index: npt.NDArray[Any], n_bytes: int) -> Plan:
    """Plan rows of an array that is not in C order."""
    assert geometry.origin is not None
    if geometry.order != "F" or not geometry.origin.settings.is_by_column:
        return _left_alone(Reason.NOT_BY_ROW, n_bytes)
    n_columns = geometry.row_bytes // geometry.itemsize
    max_runs = max(MAX_RUNS // n_columns, 1)
    runs = find_runs(index, geometry.n_rows, max_runs=max_runs)
    if runs is None:
        return _left_alone(Reason.SCATTERED, n_bytes)
    return plan_columns(geometry, runs)


def plan_columns(geometry: Geometry, runs: Runs) -> Plan:
    """Plan the selection of runs of rows in Fortran order, as the array is in."""
    n_columns = geometry.row_bytes // geometry.itemsize
    column_starts = geometry.n_rows * np.arange(n_columns, dtype=np.intp)
    items = (runs + column_starts[:, None, None]).reshape(-1, 2)
    as_rows = geometry._replace(row_bytes=geometry.itemsize, order="C")
    return plan_runs(as_rows, items)._replace(is_by_column=True)


def plan_runs(geometry: Geometry, runs: Runs) -> Plan:
    """Plan the selection of runs of rows that lie in one piece each.

    Parameters
    ----------
    geometry : Geometry
        The array.
    runs : ndarray of shape (n_runs, 2)
        The rows, in the order in which they are selected.
    """
    n_bytes = int((runs[:, 1] - runs[:, 0]).sum()) * geometry.row_bytes
    if geometry.origin is None:
        return _left_alone(Reason.NOT_SHARED, n_bytes)
    if not n_bytes or n_bytes < geometry.origin.settings.min_mapped_bytes:
        return _left_alone(Reason.FEW_BYTES, n_bytes)
    if geometry.order != "C":
        return _left_alone(Reason.NOT_BY_ROW, n_bytes)
    settings = geometry.origin.settings
    pieces, can_share = pieces_of_runs(geometry.origin, geometry.row_bytes, runs)
    plan = plan_pieces(
        pieces,
        alignment=geometry.alignment,
        can_share=can_share,
        can_shift=settings.shifted is not None,
    )
    if plan.mapped_bytes < settings.min_mapped_bytes:
        return _left_alone(Reason.SHORT_RUNS, n_bytes)
    return plan


def pieces_of_runs(
    origin: Origin, row_bytes: int, runs: Runs
) -> tuple[list[Piece], list[bool]]:
    """Say for each run where its bytes lie in the segment and in memory.

    A run is cut where the origin itself changes from mapped to copied bytes. What was
    copied there, or written to since, must not come from the file again.
    """
    pieces: list[Piece] = []
    can_share: list[bool] = []
    place = 0
    for first, stop in (runs * row_bytes + origin.start).tolist():
        for low, high, is_clean in _clean_spans(origin, first, stop):
            for piece in pieces_between(origin.pieces, low, high):
                length = piece.stop - piece.start
                address = origin.address + piece.start
                pieces.append(Piece(place, place + length, piece.file_offset, address))
                can_share.append(is_clean and length >= PAGE_BYTES)
                place += length
    return pieces, can_share


def _clean_spans(origin: Origin, start: int, stop: int) -> list[tuple[int, int, bool]]:
    """Cut a byte range into parts, and say which equal the segment's bytes."""
    spans = []
    place = start
    if stop - start >= PAGE_BYTES:
        for low, high in overlaps(origin.mapped, start, stop):
            if place < low:
                spans.append((place, low, False))
            spans.append((low, high, origin.is_unmodified(low, high)))
            place = high
    if place < stop:
        spans.append((place, stop, False))
    return spans


def overlaps(
    spans: Sequence[tuple[int, int]], start: int, stop: int
) -> list[tuple[int, int]]:
    """Return the parts of ``[start, stop)`` that lie within spans."""
    cut = [(max(low, start), min(high, stop)) for low, high in spans]
    return [(low, high) for low, high in cut if low < high]


def pieces_between(pieces: Sequence[Piece], start: int, stop: int) -> list[Piece]:
    """Return where the bytes ``[start, stop)`` come from."""
    return [
        Piece(low, high, piece.file_offset + low - piece.start)
        for piece in pieces
        if (low := max(piece.start, start)) < (high := min(piece.stop, stop))
    ]


def plan_pieces(
    pieces: Sequence[Piece],
    *,
    alignment: int = 1,
    can_share: Sequence[bool] | None = None,
    can_shift: bool = False,
) -> Plan:
    """Plan the joining of pieces of a segment.

    Notes
    -----
    A page can be mapped where its place in the file and in the result agree modulo
    the page size. The result's own place is free, so it is chosen such that most
    bytes agree; and modulo the size of a huge page for the longest of these pieces.
    Others are mapped if they are long, and there is a file of shifted pages. Folds
    have the same ones if they are in the same place, so it is 0 if few bytes agree.
    """
    shareable = [
        piece
        for index, piece in enumerate(pieces)
        if can_share is None or can_share[index]
    ]
    least_bytes = MIN_SHIFTED_BYTES if can_shift else math.inf
    page_phase, phase = _choose_phase(shareable, alignment, can_shift)
    n_bytes = pieces[-1].stop
    parts = [
        part
        for piece in shareable
        if (part := _whole_pages(piece, page_phase, n_bytes)) is not None
        and part.high - part.low >= (least_bytes if part.is_shifted else 0)
    ]
    return Plan(n_bytes, pieces, parts, phase)


def _choose_phase(
    pieces: Sequence[Piece], alignment: int, can_shift: bool
) -> tuple[int, int]:
    """Return the phase modulo the page size with which most bytes can be mapped.

    And the same modulo the huge page size, for the longest piece of that phase.
    """
    weights: dict[int, int] = {}
    longest: dict[int, Piece] = {}
    for piece in pieces:
        phase = (piece.file_offset - piece.start) % PAGE_BYTES
        length = piece.stop - piece.start
        if phase % alignment:
            continue
        weights[phase] = weights.get(phase, 0) + length
        best = longest.get(phase)
        if best is None or length > best.stop - best.start:
            longest[phase] = piece
    n_bytes = sum(piece.stop - piece.start for piece in pieces)
    phase = max(weights, key=weights.__getitem__, default=0)
    if can_shift and 2 * weights.get(phase, 0) < n_bytes:
        phase = 0
    if phase not in longest:
        return 0, 0
    first = longest[phase]
    return phase, (first.file_offset - first.start) % HUGE_PAGE_BYTES


def round_up(number: int, unit: int) -> int:
    """Round up to a multiple."""
    return -(-number // unit) * unit


def _whole_pages(piece: Piece, phase: int, n_bytes: int) -> _Part | None:
    """Return the whole pages of a piece, if the result begins at a phase of a page."""
    low = round_up(phase + piece.start, PAGE_BYTES)
    high = (phase + piece.stop) // PAGE_BYTES * PAGE_BYTES
    # The rest of the first and the last page of the result belongs to nobody.
    if piece.start == 0 and piece.file_offset >= phase:
        low = 0
    if piece.stop == n_bytes:
        high = round_up(phase + piece.stop, PAGE_BYTES)
    if low >= high:
        return None
    low, high = low - phase, high - phase
    return _Part(low, high, piece.file_offset + low - piece.start)
