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

from skl_mmap.memory import _libc
from skl_mmap.memory._mapping import Mapping, Piece, Settings, live_mappings
from skl_mmap.memory._segment import Segment

__all__ = ["map_pieces"]


def map_pieces(
    segment: Segment,
    pieces: Sequence[Piece],
    settings: Settings,
    *,
    alignment: int = 1,
    can_share: Sequence[bool] | None = None,
) -> Mapping | None:
    """Put pieces of a segment next to each other in memory.

    Parameters
    ----------
    segment : Segment
        Where the bytes come from.
    pieces : sequence of Piece
        In order and without gaps.
    settings : Settings
        Whether the result may be written to.
    alignment : int
        What the result's address must be a multiple of.
    can_share : sequence of bool, optional
        Which pieces may be mapped; the others are copied from their address.

    Returns
    -------
    Mapping or None
        None if the kernel has no room for it: too many mappings
        (``vm.max_map_count``), or too many addresses.

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
    region_bytes = _round_up(n_bytes, _libc.PAGE_BYTES) + 2 * _libc.HUGE_PAGE_BYTES
    if _count_ranges() + 2 * len(shareable) > _max_ranges():
        return None
    try:
        region = _libc.reserve(region_bytes)
        address = region + (lead - region) % _libc.HUGE_PAGE_BYTES
        mapping = Mapping((region, region_bytes), address, pieces, segment, settings)
        _fill(mapping, shareable, phase)
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
        phase = (piece.file_offset - piece.start) % _libc.PAGE_BYTES
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
    return phase, (lead.file_offset - lead.start) % _libc.HUGE_PAGE_BYTES


def _round_up(number: int, unit: int) -> int:
    return -(-number // unit) * unit


def _fill(mapping: Mapping, shareable: Sequence[Piece], phase: int) -> None:
    place = 0
    for piece in shareable:
        if (piece.file_offset - piece.start) % _libc.PAGE_BYTES != phase:
            continue
        span = _map_piece(mapping, piece)
        if span is not None:
            _copy(mapping, place, span[0])
            place = span[1]
    _copy(mapping, place, mapping.n_bytes)


def _map_piece(mapping: Mapping, piece: Piece) -> tuple[int, int] | None:
    """Map the whole pages of a piece; return the bytes covered."""
    address = mapping.address
    low = _round_up(address + piece.start, _libc.PAGE_BYTES)
    high = (address + piece.stop) // _libc.PAGE_BYTES * _libc.PAGE_BYTES
    # The rest of the first and the last page of the result belongs to nobody.
    if piece.start == 0:
        low = address // _libc.PAGE_BYTES * _libc.PAGE_BYTES
    if piece.stop == mapping.n_bytes:
        high = _round_up(address + piece.stop, _libc.PAGE_BYTES)
    if low >= high:
        return None
    offset = piece.file_offset + low - address - piece.start
    fd = mapping.segment.fd
    try:
        _libc.map_file(low, high - low, fd, offset, writable=mapping.is_writable)
    except OSError:
        if not mapping.is_writable or mapping.mapped:
            raise
        # Strict overcommit charges writable private pages, read-only ones not.
        _libc.map_file(low, high - low, fd, offset, writable=False)
        mapping.is_writable = False
    span = max(low - address, 0), min(high - address, mapping.n_bytes)
    mapping.mapped.append(span)
    return span


def _copy(mapping: Mapping, start: int, stop: int) -> None:
    """Copy the bytes that cannot be mapped to private pages."""
    if start >= stop:
        return
    # Every boundary is one of pages, but for those of the result itself.
    low = (mapping.address + start) // _libc.PAGE_BYTES * _libc.PAGE_BYTES
    high = _round_up(mapping.address + stop, _libc.PAGE_BYTES)
    _libc.protect(low, high - low, writable=True)
    if high - low >= _libc.HUGE_PAGE_BYTES:
        _libc.advise(low, high - low, _libc.MADV_HUGEPAGE)
    for piece in _overlapping(mapping.pieces, start, stop):
        begin, end = max(piece.start, start), min(piece.stop, stop)
        target, shift = mapping.address + begin, begin - piece.start
        if piece.address:
            _libc.move(target, piece.address + shift, end - begin)
        else:
            mapping.segment.read_into(target, end - begin, piece.file_offset + shift)
    if not mapping.is_writable:
        _libc.protect(low, high - low, writable=False)


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
    try:
        with open("/proc/sys/vm/max_map_count") as file:
            return int(file.read()) // 2
    except (OSError, ValueError):
        return 1 << 15
