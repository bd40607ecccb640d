"""Arrays of NumPy."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.containers._container import Container, GeometryOf, RowSize, register
from skl_mmap.memory import (
    Cost,
    InPlaceArray,
    Placement,
    SegmentWriter,
    Settings,
    SharedArray,
    map_array,
    plan_rows,
    reading_in_order,
    with_train_rows,
)

ARRAY_TYPES = (np.ndarray, np.memmap, SharedArray, InPlaceArray)

# Gathered rows that are not written yet: large enough to be quick, little beside X.
CHUNK_BYTES = 8 << 20
# In more folds, the rows of each are so far apart that reading ahead is of no use.
_MAX_PASSES = 32
# Kinds of numbers, dates and records: bytes without references. Text is left alone,
# because nothing of scikit-learn's selects its rows in bulk.
_SHARED_KINDS = "biufcmMV"


class ArrayContainer(Container):
    """Arrays; those of other classes know best what their rows are."""

    def classes(self) -> tuple[type[Any], ...]:
        return ARRAY_TYPES

    def n_bytes(self, X: npt.NDArray[Any]) -> int:
        return X.nbytes

    def row_size(self, X: npt.NDArray[Any]) -> RowSize | None:
        if not X.ndim or not X.nbytes:
            return None
        n_bytes = X.nbytes // len(X)
        return RowSize(n_bytes, n_bytes)

    def plan(
        self, X: npt.NDArray[Any], rows: npt.NDArray[Any], geometry_of: GeometryOf
    ) -> Cost:
        if X.dtype.hasobject or not len(rows):
            return super().plan(X, rows, geometry_of)
        return plan_rows(geometry_of(X), rows).cost

    def with_train_rows(
        self, X: Any, source: Any, train: npt.NDArray[Any], *, is_source: bool
    ) -> Any:
        return with_train_rows(X, source, train, is_source=is_source)

    def gather(
        self,
        X: npt.NDArray[Any],
        permutation: npt.NDArray[np.intp],
        placement: Placement,
        settings: Settings,
        name: str,
    ) -> Any:
        array = np.asarray(X)
        if not is_shareable(array):
            return None
        if not array.nbytes:
            return np.ascontiguousarray(array[permutation])
        n_rows = max(CHUNK_BYTES * len(array) // array.nbytes, 1)
        what = f"{name} of shape {array.shape} and dtype {array.dtype}, arranged"
        with contextlib.ExitStack() as stack:
            writer = stack.enter_context(SegmentWriter(placement, what, array.nbytes))
            if _n_passes(permutation) <= _MAX_PASSES:
                stack.enter_context(reading_in_order(array))
            for start in range(0, len(array), n_rows):
                # Not take(): it would first copy all of an array in Fortran order.
                writer.write(array[permutation[start : start + n_rows]])
            segment = writer.finish()
        return map_array(segment, array.dtype, array.shape, settings)


def is_shareable(array: npt.NDArray[Any]) -> bool:
    """Whether the elements of an array are bytes that mean the same everywhere."""
    return array.dtype.kind in _SHARED_KINDS and not array.dtype.hasobject


def _n_passes(permutation: npt.NDArray[np.intp]) -> int:
    """Count how often rows are gone through, in order, from the front."""
    return 1 + int(np.count_nonzero(permutation[1:] < permutation[:-1]))


register(ArrayContainer())
