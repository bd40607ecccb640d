"""Mappings: ranges of virtual memory over one or more parts of a segment."""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls, proc
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._planning_context import current_planning
from skl_mmap.memory._segment import Segment
from skl_mmap.monitor import own_memory

__all__ = [
    "Mapping",
    "Piece",
    "Settings",
    "as_array",
    "find_mapping",
    "has_overlap",
    "live_mappings",
]

# Smaller mappings are looked through page by page when they go.
_MIN_GUESSED_BYTES = 8 << 20


class Settings(NamedTuple):
    """How arrays are handed to tasks.

    Attributes
    ----------
    mmap_mode : {"c", "r"}
        Copy-on-write or read-only.
    min_mapped_bytes : int
        Rows are copied when fewer bytes than this could be mapped: a mapping costs
        about as much time as copying some hundred KiB.
    min_bytes : int
        Smaller parts of an array are sent by value: they would keep all of it alive.
    column_runs : tuple of (int, int)
        Of an array in Fortran order: runs of rows that are selected into Fortran order
        too, column by column. All other rows are selected into C order, as by numpy.
    """

    mmap_mode: str = "c"
    min_mapped_bytes: int = 256 << 10
    min_bytes: int = 1 << 20
    column_runs: tuple[tuple[int, int], ...] = ()

    @property
    def is_writable(self) -> bool:
        """Whether tasks may write to what they are given."""
        return self.mmap_mode == "c"


class Piece(NamedTuple):
    """Where some bytes of a mapping come from.

    Attributes
    ----------
    start, stop : int
        Place in the mapping's data.
    file_offset : int
        Place of the first byte in the segment.
    address : int
        Where the same bytes lie in memory already, or 0.
    """

    start: int
    stop: int
    file_offset: int
    address: int = 0


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
        The byte ranges that share pages with the segment, in order.
    settings : Settings
        How the data is handed on.
    is_writable : bool
        Whether writes are allowed; they stay private.
    is_planned : bool
        Whether it is only pretended; see `PlannedMapping`.
    """

    is_planned = False

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

    def pieces_between(self, start: int, stop: int) -> Iterator[Piece]:
        """Yield the origin of the bytes ``[start, stop)`` of this mapping."""
        for piece in self.pieces:
            low, high = max(piece.start, start), min(piece.stop, stop)
            if low < high:
                yield Piece(low, high, piece.file_offset + low - piece.start)

    def is_mapped_between(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the parts of ``[start, stop)`` that share pages with the segment."""
        for mapped_start, mapped_stop in self.mapped:
            low, high = max(mapped_start, start), min(mapped_stop, stop)
            if low < high:
                yield low, high

    def is_unmodified(self, start: int, stop: int) -> bool:
        """Whether the bytes ``[start, stop)`` are still those of the segment."""
        place = start
        for low, high in self.is_mapped_between(start, stop):
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
        for piece in self.pieces_between(start, stop):
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
    planning = current_planning()
    if array.nbytes == 0 or not (_mappings or planning):
        return None
    low, high = _byte_bounds(array)
    for mapping in live_mappings() if planning is None else planning.mappings:
        start = low - mapping.address
        is_within = 0 <= start and high - mapping.address <= mapping.n_bytes
        if is_within and mapping.is_at(start, high - mapping.address):
            return mapping, start, high - mapping.address
    return None


def has_overlap(array: npt.NDArray[Any]) -> bool:
    """Whether some elements of an array may share memory.

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


def _byte_bounds(array: npt.NDArray[Any]) -> tuple[int, int]:
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
