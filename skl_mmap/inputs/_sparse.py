"""Compressed sparse matrices in shared memory."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, SegmentWriter, Settings, map_array

__all__ = [
    "compressed_classes",
    "is_csr",
    "rebuild_sparse",
    "reduce_sparse",
    "share_sparse",
]

_WRITE_CHUNK_ITEMS = 1 << 20
_ARRAYS = ("data", "indices", "indptr")


def compressed_classes() -> tuple[type[Any], ...]:
    """Return scipy's CSR and CSC classes, and ours; nothing if scipy is not in use."""
    sparse = sys.modules.get("scipy.sparse")
    if sparse is None or not hasattr(sparse, "csc_array"):
        return ()  # not imported, or just being imported
    shared = sys.modules.get("skl_mmap.inputs._shared_csr")
    ours = () if shared is None else tuple(shared.SHARED_CLASSES.values())
    plain = (sparse.csr_matrix, sparse.csr_array, sparse.csc_matrix, sparse.csc_array)
    return plain + ours


def is_csr(value: Any) -> bool:
    """Whether a value is a CSR matrix or array with rows, of scipy's class or ours."""
    return (
        type(value) in compressed_classes()
        and value.format == "csr"
        and len(value.shape) == 2
    )


def reduce_sparse(matrix: Any, min_bytes: int) -> tuple[Any, ...] | None:
    """Take a compressed matrix apart, so that its arrays can be shared.

    Parameters
    ----------
    matrix : CSR or CSC matrix or array
        Its elements stay as they are, sorted or not, because in another order they
        may be added up to other last bits.
    min_bytes : int
        Smaller ones are pickled as scipy does.

    Returns
    -------
    tuple or None
        What ``__reduce__`` would return.
    """
    if matrix.data.nbytes + matrix.indices.nbytes < min_bytes:
        return None
    plain_class = getattr(matrix, "_plain_class", type(matrix))
    return rebuild_sparse, (plain_class, dict(vars(matrix)))


def rebuild_sparse(plain_class: type[Any], state: dict[str, Any]) -> Any:
    """Rebuild a compressed matrix in a worker."""
    from skl_mmap.inputs._shared_csr import as_shared

    return as_shared(plain_class, state)


def share_sparse(X: Any, placement: Placement, settings: Settings) -> Any:
    """Copy a compressed sparse matrix into shared memory.

    Parameters
    ----------
    X : CSR or CSC matrix or array of shape (n_samples, n_features)
        Left as it is. If its indices are not sorted, or there are several elements
        of the same place, a sorted copy with their sums is shared: estimators would
        otherwise make one each.
    placement : Placement
        Where.
    settings : Settings
        How it is handed to tasks.

    Returns
    -------
    SharedCSRMatrix, SharedCSRArray, csc_matrix or csc_array
        Over shared memory. Rows of the first two are selected without copies.

    Raises
    ------
    InvalidParameterError
        If `X` is neither CSR nor CSC.
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Notes
    -----
    O(n) in stored elements; two copies for a moment if `X` is not sorted, else one.
    Indices become 32-bit integers if they fit, as scipy makes them for each fold.
    """
    if type(X) not in compressed_classes():
        raise InvalidParameterError(
            f"X of type {type(X).__name__} cannot be shared: its rows cannot be "
            "selected. Convert it to a CSR matrix first, with X.tocsr()."
        )
    if not X.has_canonical_format:
        X = X.copy()
        X.sum_duplicates()
    n_elements = int(X.indptr[-1])
    largest = max(*X.shape, n_elements)
    index_dtype = np.dtype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64)
    state = dict(vars(X))
    state["data"] = _share(X.data[:n_elements], X.dtype, placement, settings)
    for name in ("indices", "indptr"):
        array = getattr(X, name)
        array = array[:n_elements] if name == "indices" else array
        state[name] = _share(array, index_dtype, placement, settings)
    return rebuild_sparse(getattr(X, "_plain_class", type(X)), state)


def _share(
    array: npt.NDArray[Any],
    dtype: np.dtype[Any],
    placement: Placement,
    settings: Settings,
) -> npt.NDArray[Any]:
    """Copy a vector into a segment, converted a part at a time."""
    if not array.nbytes:
        return array.astype(dtype)
    what = f"a part of a sparse matrix, {len(array)} items of {dtype}"
    n_bytes = len(array) * dtype.itemsize
    with SegmentWriter(placement, what, n_bytes) as writer:
        for start in range(0, len(array), _WRITE_CHUNK_ITEMS):
            part = array[start : start + _WRITE_CHUNK_ITEMS]
            writer.write(part.astype(dtype, copy=False))
        segment = writer.finish()
    return map_array(segment, dtype, array.shape, settings)
