"""Storing an array row by row that lies column by column, and the other way round."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._filling import stored_order
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._segment_writer import SegmentWriter

__all__ = ["create_in_other_order", "iterate_other_order"]

# Long enough parts of columns that go to, or are compared with, rows.
_CHUNK_BYTES = 4 << 20


def create_in_other_order(array: npt.NDArray[Any], placement: Placement) -> Segment:
    """Copy an array into a segment in the other order, a part at a time."""
    what = f"an array of shape {array.shape} and dtype {array.dtype}"
    with SegmentWriter(placement, what, array.nbytes) as writer:
        for rows in iterate_other_order(array):
            writer.write(rows)
        return writer.finish()


def iterate_other_order(array: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield contiguous parts that follow each other in the order `array` has not."""
    rows = array if stored_order(array) == "F" else array.T
    n_rows = max(_CHUNK_BYTES // (rows.nbytes // len(rows)), 1)
    for start in range(0, len(rows), n_rows):
        yield np.ascontiguousarray(rows[start : start + n_rows])
