"""Whether a segment still holds the bytes of an array: all of them, or a sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._conversion import Conversion, iterate_converted
from skl_mmap.memory._filling import iterate_stored
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._stack import Bundle, Composite

AS_IT_IS = Conversion()

# Read and compared while it is in the cache of the processor.
COMPARE_CHUNK_BYTES = 256 << 10
# Compared in a larger array before each task: both ends, and the places between.
_N_PLACES = 66


def holds(
    segment: Segment, array: npt.NDArray[Any], conversion: Conversion, offset: int
) -> bool:
    """Return whether a segment holds exactly the bytes of an array, from a place on."""
    if isinstance(array, Bundle):
        return all(
            segment.holds(iterate_stored(part, COMPARE_CHUNK_BYTES), offset + start)
            for part, start in zip(array.parts, array.starts, strict=True)
        )
    return segment.holds(_iterate_bytes(array, conversion), offset)


def _iterate_bytes(
    array: npt.NDArray[Any], conversion: Conversion
) -> Iterator[tuple[int, int]]:
    """Yield address and size of the bytes that a segment of an array has."""
    if conversion is AS_IT_IS:
        yield from iterate_stored(array, COMPARE_CHUNK_BYTES)
        return
    for part in iterate_converted(array, conversion):
        yield part.ctypes.data, part.nbytes


def holds_sample(
    segment: Segment, array: npt.NDArray[Any], conversion: Conversion, offset: int
) -> bool:
    """Whether a segment holds the first and the last page of an array, and 64 others.

    Only these pages are read, of the array and of the segment.
    """
    dtype = conversion.dtype_of(array)
    rows = array if isinstance(array, Composite) else np.atleast_1d(np.asarray(array))
    if conversion.order_of(array) == "F":
        rows = rows.T
    n_items = min(max(PAGE_BYTES // dtype.itemsize, 1), array.size)
    buffer = np.empty(3 * n_items, dtype=dtype)
    address = buffer.ctypes.data
    last = array.size - n_items
    with np.errstate(over="ignore"):
        for start in sorted({last * n // (_N_PLACES - 1) for n in range(_N_PLACES)}):
            place, part = _items_at(rows, start, n_items)
            part = np.ascontiguousarray(part, dtype=dtype).reshape(-1)
            segment.read_into(address, part.nbytes, offset + place * dtype.itemsize)
            if not _are_equal(buffer[: len(part)], part):
                return False
    return True


def _items_at(
    rows: npt.NDArray[Any], place: int, n_items: int
) -> tuple[int, npt.NDArray[Any]]:
    """Return items of an array that follow each other in C order, and their place.

    Whole rows with at least the `n_items` from `place` on, and at most three times as
    many; or as many as there are in one row, if it is longer.
    """
    start = 0
    while (row_size := rows[0].size) > n_items:
        row, place = divmod(place, row_size)
        start += row * row_size
        rows = rows[row]
    row = place // row_size
    return start + row * row_size, rows[row : row + n_items // row_size + 2]


def _are_equal(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> bool:
    """Compare bit by bit, but for what pads records, which NumPy does not copy."""
    if first.dtype.names is None:
        return first.tobytes() == second.tobytes()
    return all(_are_equal(first[name], second[name]) for name in first.dtype.names)
