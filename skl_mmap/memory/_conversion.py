"""Storing an array in another layout than it has: another dtype, or another order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._filling import stored_order
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._segment_writer import SegmentWriter
from skl_mmap.memory._stack import Composite

# Long enough parts of columns that go to, or are compared with, rows.
_CHUNK_BYTES = 4 << 20


class LossyConversionError(Exception):
    """Some number cannot be in the other layout; its argument says why."""


class Conversion(NamedTuple):
    """In which layout an array is to be stored.

    Attributes
    ----------
    dtype : dtype or None
        None keeps that of the array.
    order : {"C", "F"} or None
        How elements should follow each other; None keeps the order of the array.
    is_optional : bool
        Whether it only saves others work, so that it must not cost what they need:
        it is made in memory or not at all, and dropped when room is wanted.
    needs_finite : bool
        Whether all numbers, and their sum, have to be finite. If the sum is not,
        scikit-learn looks at each number, and cannot do so in what pandas 3 hands out
        of a frame that is stored row by row: it is read-only.
    """

    dtype: np.dtype[Any] | None = None
    order: str | None = None
    is_optional: bool = False
    needs_finite: bool = False

    def is_needed_for(self, array: npt.NDArray[Any]) -> bool:
        """Return whether the array has another layout."""
        if isinstance(array, Composite):
            return True
        return self.dtype_of(array) != array.dtype or not self._has_order(array)

    def dtype_of(self, array: npt.NDArray[Any]) -> np.dtype[Any]:
        """Return the dtype in which an array is stored."""
        return array.dtype if self.dtype is None else self.dtype

    def order_of(self, array: npt.NDArray[Any]) -> str:
        """Return the order in which an array is stored."""
        return self.order or stored_order(array)

    def _has_order(self, array: npt.NDArray[Any]) -> bool:
        if self.order == "F":
            return bool(array.flags.f_contiguous)
        return self.order is None or stored_order(array) == "C"


def create_converted(
    array: npt.NDArray[Any], conversion: Conversion, placement: Placement
) -> Segment:
    """Copy an array into a segment in another layout, a part at a time."""
    dtype = conversion.dtype_of(array)
    what = f"an array of shape {array.shape} as {dtype} {conversion.order_of(array)}"
    if conversion.is_optional:
        placement = placement.without_falling_back()
    with SegmentWriter(placement, what, array.size * dtype.itemsize) as writer:
        for rows in iterate_converted(array, conversion):
            writer.write(rows)
        return writer.finish()


def iterate_converted(
    array: npt.NDArray[Any], conversion: Conversion
) -> Iterator[npt.NDArray[Any]]:
    """Yield contiguous parts that follow each other in the other layout."""
    dtype = conversion.dtype_of(array)
    rows = array.T if conversion.order_of(array) == "F" else array
    n_rows = max(_CHUNK_BYTES // (rows.nbytes // len(rows)), 1)
    for start in range(0, len(rows), n_rows):
        part = np.asarray(rows[start : start + n_rows])
        with np.errstate(over="ignore"):
            converted = np.ascontiguousarray(part, dtype=dtype)
        if dtype != array.dtype and _has_overflown(part, converted):
            raise LossyConversionError(f"it has numbers too large for {dtype}")
        if conversion.needs_finite and not _has_finite_sum(converted, array.size):
            raise LossyConversionError("it has numbers that are missing or too large")
        yield converted


def _has_finite_sum(part: npt.NDArray[Any], n_items: int) -> bool:
    """Return whether so many numbers like these have a sum, in their own dtype."""
    if part.dtype.kind != "f":
        return True
    largest = max(float(part.max()), -float(part.min()))  # NaN if one of them is
    return largest * n_items < float(np.finfo(part.dtype).max)


def _has_overflown(part: npt.NDArray[Any], converted: npt.NDArray[Any]) -> bool:
    if part.dtype.kind != "f" or np.isfinite(converted).all():
        return False
    return bool(np.any(np.isinf(converted) & ~np.isinf(part)))
