"""Mappings: ranges of virtual memory over one or more parts of a segment.

A mapping is reserved first, and then filled as a plan says: pages that agree with the
file modulo the page size are mapped, all other bytes are copied to private pages.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls, proc
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._plan import (
    Cost,
    Geometry,
    Origin,
    Piece,
    Plan,
    overlaps,
    pieces_between,
    round_up,
)
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shifted_pages import Source, find_sources
from skl_mmap.monitor import own_memory

# Smaller mappings are looked through page by page when they go.
_MIN_GUESSED_BYTES = 8 << 20


class Mapping:
    """Owner of a mapped range; unmaps it when the last array over it dies.

    Attributes
    ----------
    address, n_bytes : int
        The data, which need not begin on a page.
    segment : Segment
        Where the data comes from.
    pieces : sequence of Piece
        Where each byte comes from, mapped or copied, in order and without gaps.
    mapped : sequence of (int, int)
        The byte ranges that share pages with files that hold the same bytes: the
        segment, and the file of its shifted pages. In order.
    cost : Cost
        What was mapped, and what was copied.
    settings : Settings
        How the data is handed on.
    is_writable : bool
        Whether writes are allowed; they stay private.
    """

    def __init__(
        self,
        region: tuple[int, int],
        address: int,
        pieces: Sequence[Piece],
        segment: Segment,
        settings: Settings,
    ) -> None:
        self._region = region
        self.address = address
        self.n_bytes = pieces[-1].stop
        self.pieces = pieces
        self.mapped: list[tuple[int, int]] = []
        self.cost = Cost()
        self.segment = segment
        self.settings = settings
        self.is_writable = settings.is_writable
        _mappings[address] = self

    def __del__(self) -> None:
        region, self._region = self._region, (0, 0)
        if region[1]:
            self.forget()  # first: another thread may get the same addresses
            if counters.is_watching_pages:
                counters.add_seen(*self._unmap_and_look(*region))
            else:
                calls.unmap(*region)

    def _unmap_and_look(self, address: int, n_bytes: int) -> tuple[int, int]:
        """Unmap, and return the bytes of mapped pages written to, and only read.

        To look at every page takes 1 ms for 100 MB. Of large mappings, what the whole
        process loses is exact enough, and takes 0.1 ms.
        """
        if self.n_bytes < _MIN_GUESSED_BYTES:
            seen = self.resident_bytes()
            calls.unmap(address, n_bytes)
            return seen
        before = own_memory()
        calls.unmap(address, n_bytes)
        after = own_memory()
        private_bytes = before.anonymous_bytes - after.anonymous_bytes
        lost_bytes = before.resident_bytes - after.resident_bytes
        copied_bytes = self.n_bytes - self.mapped_bytes
        return (
            max(private_bytes - copied_bytes, 0),
            max(lost_bytes - max(private_bytes, 0), 0),
        )

    def forget(self) -> None:
        """Do not find arrays in this mapping any more."""
        # Another mapping may have got the same address at once.
        if _mappings.get(self.address) is self:
            del _mappings[self.address]

    def is_at(self, start: int, stop: int) -> bool:
        """Whether the bytes ``[start, stop)`` still are where they were mapped."""
        return True

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return {
            "data": (self.address, not self.is_writable),
            "typestr": "|u1",
            "shape": (self.n_bytes,),
            "version": 3,
        }

    @property
    def mapped_bytes(self) -> int:
        """Bytes that cost no memory here."""
        return sum(stop - start for start, stop in self.mapped)

    def is_unmodified(self, start: int, stop: int) -> bool:
        """Return whether the bytes ``[start, stop)`` are still those of the segment."""
        place = start
        for low, high in overlaps(self.mapped, start, stop):
            if not self._copy_is_unmodified(place, low):
                return False
            if self.is_writable and proc.has_private_pages(
                self.address + low, high - low
            ):
                return False
            place = high
        return self._copy_is_unmodified(place, stop)

    def resident_bytes(self) -> tuple[int, int]:
        """Bytes of mapped pages that were written to, and that were only read."""
        counts = [
            proc.resident_bytes(self.address + low, high - low)
            for low, high in self.mapped
        ]
        return sum(private for private, _ in counts), sum(read for _, read in counts)

    def _copy_is_unmodified(self, start: int, stop: int) -> bool:
        """Compare copied bytes with the segment's, a bounded number at a time."""
        chunk_bytes = 1 << 18
        buffer = np.empty(min(chunk_bytes, max(stop - start, 0)), dtype=np.uint8)
        for piece in pieces_between(self.pieces, start, stop):
            for low in range(piece.start, piece.stop, chunk_bytes):
                n_bytes = min(chunk_bytes, piece.stop - low)
                offset = piece.file_offset + low - piece.start
                self.segment.read_into(buffer.ctypes.data, n_bytes, offset)
                if not calls.compare(self.address + low, buffer.ctypes.data, n_bytes):
                    return False
        return True


# By address, because scikit-learn's check_array strips the class of an array. An
# entry goes away with its mapping.
_mappings: weakref.WeakValueDictionary[int, Mapping] = weakref.WeakValueDictionary()


def find_mapping(array: npt.NDArray[Any]) -> tuple[Mapping, int, int] | None:
    """Find the mapping that holds all of an array's memory.

    Returns
    -------
    (Mapping, int, int) or None
        The mapping, and the first byte in it and the one after the last that the
        array's elements touch.
    """
    if array.nbytes == 0 or not _mappings:
        return None
    low, high = byte_bounds(array)
    for mapping in live_mappings():
        start = low - mapping.address
        is_within = 0 <= start and high - mapping.address <= mapping.n_bytes
        if is_within and mapping.is_at(start, high - mapping.address):
            return mapping, start, high - mapping.address
    return None


def geometry_of(array: npt.NDArray[Any]) -> Geometry:
    """Return how the rows of an array lie, and where they come from if it is shared."""
    found = find_mapping(array)
    if found is None:
        return Geometry.of(array, None)
    mapping, start, _ = found
    origin = Origin(
        start,
        mapping.pieces,
        mapping.mapped,
        mapping.settings,
        mapping.address,
        mapping.is_unmodified,
        mapping.segment,
    )
    return Geometry.of(array, origin)


def has_overlap(array: npt.NDArray[Any]) -> bool:
    """Return whether some elements of an array may share memory.

    A task that writes to one of them would change the others, unlike in a copy.
    """
    extent = array.itemsize
    steps = zip(array.strides, array.shape, strict=True)
    for stride, length in sorted((abs(stride), n) for stride, n in steps if n > 1):
        if stride < extent:
            return True
        extent += stride * (length - 1)
    return False


def live_mappings() -> list[Mapping]:
    """Return the mappings of this process."""
    # valuerefs() takes one step under the GIL: other threads may add meanwhile.
    references = _mappings.valuerefs()
    return [mapping for ref in references if (mapping := ref()) is not None]


def byte_bounds(array: npt.NDArray[Any]) -> tuple[int, int]:
    """Return the first address of an array's elements, and the one after the last."""
    low = high = array.__array_interface__["data"][0]
    for length, stride in zip(array.shape, array.strides, strict=True):
        if stride < 0:
            low += (length - 1) * stride
        else:
            high += (length - 1) * stride
    return low, high + array.itemsize


def as_array(
    mapping: Mapping,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...] | None = None,
    offset: int = 0,
    subtype: type[npt.NDArray[Any]] = np.ndarray,
) -> npt.NDArray[Any]:
    """Return an array over a mapping, which keeps it alive.

    The dtype is passed as an object: the array interface's type string would drop
    the fields of a structured one.
    """
    data = np.asarray(mapping)  # through __array_interface__
    return np.ndarray.__new__(
        subtype, shape, dtype, buffer=data, offset=offset, strides=strides
    )


def map_plan(segment: Segment, plan: Plan, settings: Settings) -> Mapping | None:
    """Put pieces of a segment next to each other in memory, as planned.

    None if the kernel has no room for it: too many mappings (``vm.max_map_count``), or
    too many addresses.
    """
    region_bytes = round_up(plan.n_bytes, proc.PAGE_BYTES) + 2 * calls.HUGE_PAGE_BYTES
    if _count_ranges() + 2 * len(plan.parts) > _max_ranges():
        return None
    try:
        region = calls.reserve(region_bytes)
        address = region + (plan.phase - region) % calls.HUGE_PAGE_BYTES
        mapping = Mapping(
            (region, region_bytes), address, plan.pieces, segment, settings
        )
        _fill(mapping, plan)
    except OSError:
        return None  # what was mapped goes away, and the caller copies
    return mapping


def _fill(mapping: Mapping, plan: Plan) -> None:
    shifted = mapping.settings.shifted
    with find_sources(mapping.segment, shifted, plan.parts) as sources:
        plan = plan._replace(parts=[source.part for source in sources])
        place = 0
        for source, span in zip(sources, plan.spans, strict=True):
            _map_part(mapping, source)
            mapping.mapped.append(span)
            _copy(mapping, place, span[0])
            place = span[1]
    _copy(mapping, place, mapping.n_bytes)
    mapping.cost = plan.cost


def _map_part(mapping: Mapping, source: Source) -> None:
    (low, high, _), fd, offset = source
    low, length = mapping.address + low, high - low
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
    high = round_up(mapping.address + stop, proc.PAGE_BYTES)
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
