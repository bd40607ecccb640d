r"""Mappings: ranges of virtual memory over one or more parts of a segment.

A mapping is reserved first, and then filled piece by piece: pages that agree with the
file modulo the page size are mapped, all other bytes are copied to private pages::

    file      |....rows 0..399....|####rows 400..599####|....rows 600..999....|
                        \                                   /
    mapping   |....rows 0..399.....|..|....rows 600..999....|
                                    ^ the pages at the seam are private
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from skl_mmap._linux import calls, proc
from skl_mmap.memory._mapping import Mapping, Piece, Settings, live_mappings
from skl_mmap.memory._segment import Segment

__all__ = ["JoinPlan", "map_pieces", "plan_pieces"]


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


class JoinPlan(NamedTuple):
    """Which pages of a joined view will be mapped; nothing has been done yet.

    Attributes
    ----------
    pieces : sequence of Piece
        Where each byte comes from, in order and without gaps.
    parts : list of _Part
        What is mapped, in order; all other bytes are copied.
    lead : int
        Place of the result in its huge page, for which the parts are made.
    n_shareable : int
        Pieces that may be mapped.
    """

    pieces: Sequence[Piece]
    parts: list[_Part]
    lead: int
    n_shareable: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the result."""
        return self.pieces[-1].stop

    @property
    def spans(self) -> list[tuple[int, int]]:
        """The byte ranges of the result that share pages with the segment."""
        return [(max(part.low, 0), min(part.high, self.n_bytes)) for part in self.parts]

    @property
    def mapped_bytes(self) -> int:
        """Bytes that will cost no memory."""
        return sum(stop - start for start, stop in self.spans)


def plan_pieces(
    pieces: Sequence[Piece],
    *,
    alignment: int = 1,
    can_share: Sequence[bool] | None = None,
) -> JoinPlan:
    """Find out which pages can be mapped if pieces of a segment are joined.

    Parameters
    ----------
    pieces : sequence of Piece
        In order and without gaps.
    alignment : int
        What the result's address must be a multiple of.
    can_share : sequence of bool, optional
        Which pieces may be mapped; the others are copied from their address.

    Returns
    -------
    JoinPlan
        For `map_pieces`.

    Notes
    -----
    A page can be mapped where its place in the file and in the result agree modulo
    the page size. The result's own place is free, so it is chosen such that most
    bytes agree; and modulo the size of a huge page for the longest of these pieces.
    """
    shareable = [
        piece
        for index, piece in enumerate(pieces)
        if can_share is None or can_share[index]
    ]
    phase, lead = _choose_phase(shareable, alignment)
    n_bytes = pieces[-1].stop
    parts = [
        part
        for piece in shareable
        if (piece.file_offset - piece.start) % proc.PAGE_BYTES == phase
        and (part := _whole_pages(piece, phase, n_bytes)) is not None
    ]
    return JoinPlan(pieces, parts, lead, len(shareable))


def map_pieces(segment: Segment, plan: JoinPlan, settings: Settings) -> Mapping | None:
    """Put pieces of a segment next to each other in memory.

    Parameters
    ----------
    segment : Segment
        Where the bytes come from.
    plan : JoinPlan
        What goes where.
    settings : Settings
        Whether the result may be written to.

    Returns
    -------
    Mapping or None
        None if the kernel has no room for it: too many mappings
        (``vm.max_map_count``), or too many addresses.
    """
    region_bytes = _round_up(plan.n_bytes, proc.PAGE_BYTES) + 2 * calls.HUGE_PAGE_BYTES
    if _count_ranges() + 2 * plan.n_shareable > _max_ranges():
        return None
    try:
        region = calls.reserve(region_bytes)
        address = region + (plan.lead - region) % calls.HUGE_PAGE_BYTES
        mapping = Mapping(
            (region, region_bytes), address, plan.pieces, segment, settings
        )
        _fill(mapping, plan)
    except OSError:
        return None  # what was mapped goes away, and the caller copies
    return mapping


def _choose_phase(pieces: Sequence[Piece], alignment: int) -> tuple[int, int]:
    """Return the phase modulo the page size with which most bytes can be mapped.

    And the same modulo the huge page size, for the longest piece of that phase.
    """
    weights: dict[int, int] = {}
    longest: dict[int, Piece] = {}
    for piece in pieces:
        phase = (piece.file_offset - piece.start) % proc.PAGE_BYTES
        length = piece.stop - piece.start
        if phase % alignment:
            continue
        weights[phase] = weights.get(phase, 0) + length
        best = longest.get(phase)
        if best is None or length > best.stop - best.start:
            longest[phase] = piece
    if not weights:
        return -1, 0
    phase = max(weights, key=weights.__getitem__)
    lead = longest[phase]
    return phase, (lead.file_offset - lead.start) % calls.HUGE_PAGE_BYTES


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _whole_pages(piece: Piece, phase: int, n_bytes: int) -> _Part | None:
    """Return the whole pages of a piece, if the result begins at a phase of a page."""
    low = _round_up(phase + piece.start, proc.PAGE_BYTES)
    high = (phase + piece.stop) // proc.PAGE_BYTES * proc.PAGE_BYTES
    # The rest of the first and the last page of the result belongs to nobody.
    if piece.start == 0:
        low = 0
    if piece.stop == n_bytes:
        high = _round_up(phase + piece.stop, proc.PAGE_BYTES)
    if low >= high:
        return None
    low, high = low - phase, high - phase
    return _Part(low, high, piece.file_offset + low - piece.start)


def _fill(mapping: Mapping, plan: JoinPlan) -> None:
    place = 0
    for part, span in zip(plan.parts, plan.spans, strict=True):
        _map_part(mapping, part)
        mapping.mapped.append(span)
        _copy(mapping, place, span[0])
        place = span[1]
    _copy(mapping, place, mapping.n_bytes)


def _map_part(mapping: Mapping, part: _Part) -> None:
    low, length = mapping.address + part.low, part.high - part.low
    fd, offset = mapping.segment.fd, part.file_offset
    try:
        calls.map_file(low, length, fd, offset, writable=mapping.is_writable)
    except OSError:
        if not mapping.is_writable or mapping.mapped:
            raise
        # Strict overcommit charges writable private pages, read-only ones not.
        calls.map_file(low, length, fd, offset, writable=False)
        mapping.is_writable = False


def _copy(mapping: Mapping, start: int, stop: int) -> None:
    """Copy the bytes that cannot be mapped to private pages."""
    if start >= stop:
        return
    # Every boundary is one of pages, but for those of the result itself.
    low = (mapping.address + start) // proc.PAGE_BYTES * proc.PAGE_BYTES
    high = _round_up(mapping.address + stop, proc.PAGE_BYTES)
    calls.protect(low, high - low, writable=True)
    if high - low >= calls.HUGE_PAGE_BYTES:
        calls.advise(low, high - low, calls.MADV_HUGEPAGE)
    for piece in _overlapping(mapping.pieces, start, stop):
        begin, end = max(piece.start, start), min(piece.stop, stop)
        target, shift = mapping.address + begin, begin - piece.start
        if piece.address:
            calls.move(target, piece.address + shift, end - begin)
        else:
            mapping.segment.read_into(target, end - begin, piece.file_offset + shift)
    if not mapping.is_writable:
        calls.protect(low, high - low, writable=False)


def _overlapping(pieces: Sequence[Piece], start: int, stop: int) -> Iterator[Piece]:
    # Bisection, because _copy() is called once for each mapped piece.
    low, high = 0, len(pieces)
    while low < high:
        middle = (low + high) // 2
        if pieces[middle].stop <= start:
            low = middle + 1
        else:
            high = middle
    while low < len(pieces) and pieces[low].start < stop:
        yield pieces[low]
        low += 1


def _count_ranges() -> int:
    """Count what the kernel has to keep for the mappings of this process."""
    return sum(2 * len(mapping.mapped) + 2 for mapping in live_mappings())


@functools.cache
def _max_ranges() -> int:
    """Half of what a process may have: libraries have to be loaded as well."""
    return proc.max_ranges() // 2
