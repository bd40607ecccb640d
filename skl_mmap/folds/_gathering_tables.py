"""Rows of data frames and sparse matrices in another order, in shared memory."""

from __future__ import annotations

import itertools
import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import csr_facts, csr_state
from skl_mmap.memory import (
    Placement,
    SegmentWriter,
    Settings,
    map_array,
    share_array,
)

__all__ = ["as_csr", "gather_csr", "gather_pandas", "is_pandas", "is_sparse"]

_CHUNK_BYTES = 8 << 20
_NUMBERS = "biufc"

_Rows = npt.NDArray[np.intp]


def is_sparse(values: Any) -> bool:
    """Whether this is a sparse matrix of scipy's, without an import of it."""
    sparse = sys.modules.get("scipy.sparse")
    return sparse is not None and bool(sparse.issparse(values))


def as_csr(values: Any) -> Any:
    """Return a sparse matrix in the format that rows can be selected from."""
    return values.tocsr() if is_sparse(values) else values


def is_pandas(values: Any) -> bool:
    """Whether this is a frame or series of which all is known, and no subclass."""
    from skl_mmap.inputs._pandas import pandas_classes

    return type(values) in pandas_classes()


def gather_pandas(
    frame: Any, permutation: _Rows, placement: Placement, settings: Settings, name: str
) -> Any:
    """Gather a frame or series of numbers of one dtype, row by row, and its index.

    Any other is taken as pandas does it, and is a plain one.
    """
    from skl_mmap.inputs._pandas import make_frame, make_series

    dtype = _only_dtype(frame)
    if dtype is None:
        return frame.take(permutation)
    n_at_once = max(_CHUNK_BYTES * len(frame) // (frame.size * dtype.itemsize), 1)
    what = f"{name} of shape {frame.shape} and dtype {dtype}, arranged"
    with SegmentWriter(placement, what, frame.size * dtype.itemsize) as writer:
        for start in range(0, len(frame), n_at_once):
            rows = frame.take(permutation[start : start + n_at_once])
            writer.write(rows.to_numpy())
        segment = writer.finish()
    values = map_array(segment, dtype, frame.shape, settings)
    index = frame.index.take(permutation)
    if frame.ndim == 1:
        return make_series(values, index, frame.name).__finalize__(frame)
    return make_frame(values, frame.columns, index).__finalize__(frame)


def _only_dtype(frame: Any) -> np.dtype[Any] | None:
    dtypes = set(frame.dtypes) if frame.ndim == 2 else {frame.dtype}
    dtype = dtypes.pop() if len(dtypes) == 1 and frame.size else None
    return dtype if isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS else None


def gather_csr(
    matrix: Any, permutation: _Rows, placement: Placement, settings: Settings, name: str
) -> Any:
    """Gather the rows of a CSR matrix; elements of one place are added up."""
    from scipy import sparse

    from skl_mmap.inputs._sparse import rebuild_sparse

    is_array = isinstance(matrix, sparse.sparray)
    plain_class = sparse.csr_array if is_array else sparse.csr_matrix
    indptr = np.zeros(len(permutation) + 1, dtype=np.intp)
    np.cumsum(np.diff(matrix.indptr)[permutation], out=indptr[1:])
    n_elements = int(indptr[-1])
    if not n_elements:
        return matrix[permutation]
    is_small = max(*matrix.shape, n_elements) <= np.iinfo(np.int32).max
    dtype = np.dtype(np.int32 if is_small else np.int64)
    what = f"{name} of shape {matrix.shape} and {n_elements} elements, arranged"
    with (
        SegmentWriter(placement, what, n_elements * matrix.dtype.itemsize) as data,
        SegmentWriter(placement, what, n_elements * dtype.itemsize) as indices,
    ):
        n_written = 0
        for start, stop in _chunks(indptr, matrix.dtype.itemsize + dtype.itemsize):
            part = matrix[permutation[start:stop]]
            part.sum_duplicates()  # and sorts, as estimators would do in each worker
            data.write(part.data)
            indices.write(part.indices.astype(dtype, copy=False))
            indptr[start + 1 : stop + 1] = part.indptr[1:]
            indptr[start + 1 : stop + 1] += n_written
            n_written += len(part.data)
        segments = data.finish(), indices.finish()
    parts = (
        map_array(segments[0], matrix.dtype, (n_written,), settings),
        map_array(segments[1], dtype, (n_written,), settings),
        share_array(indptr.astype(dtype), placement, settings),
    )
    state = csr_state(plain_class, parts, matrix.shape, csr_facts())
    return rebuild_sparse(plain_class, state)


def _chunks(indptr: _Rows, element_bytes: int) -> list[tuple[int, int]]:
    """Cut rows into parts of about so many elements, at least one row each.

    Without the rows before the first element, which are nothing to be written.
    """
    n_at_once = max(_CHUNK_BYTES // element_bytes, 1)
    places = np.arange(0, int(indptr[-1]), n_at_once)
    starts = np.unique(np.searchsorted(indptr, places, side="right") - 1).tolist()
    return list(itertools.pairwise([*starts, len(indptr) - 1]))
