"""Rows of what a worker would have: what selecting them counts, and how large they are.

For planning only: nothing is copied, and what would be selected is thrown away.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skl_mmap.inputs._pandas import frame_bytes, pandas_classes
from skl_mmap.inputs._sparse import is_csr
from skl_mmap.memory import SharedArray
from skl_mmap.memory._row_selection import select_rows

__all__ = ["bytes_of_rows", "columns_of_chunks", "count_rows", "total_bytes"]


def count_rows(X: Any, rows: Any) -> None:
    """Select rows as scikit-learn does, but leave out what would be copied.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        Rebuilt by a `Planner`, which is selecting.
    rows : array-like of shape (n_selected,) or (n_samples,)
        Valid row indices, or a mask.
    """
    if isinstance(X, np.ndarray):
        select_rows(X, rows, SharedArray)
    elif type(X) in pandas_classes():
        from skl_mmap.inputs import _shared_frame

        if isinstance(X, _shared_frame.SharedFrame | _shared_frame.SharedSeries):
            index = np.asarray(rows)
            # pandas' loc turns a mask into indices for take().
            index = np.flatnonzero(index) if index.dtype == bool else index
            _shared_frame.count_rows_of(X, index)
    elif is_csr(X):
        from skl_mmap.inputs import _shared_csr

        if type(X) in _shared_csr.SHARED_CLASSES.values():
            _shared_csr.take_rows(X, rows)
    elif _is_polars(X):
        from skl_mmap.inputs import _shared_polars

        if isinstance(X, _shared_polars.SharedPolarsFrame):
            _shared_polars.take_rows(X, rows)


def _is_polars(X: Any) -> bool:
    return type(X).__module__.partition(".")[0] == "polars" and hasattr(X, "height")


def bytes_of_rows(X: Any, rows: Any) -> int:
    """Bytes of rows; of what is no array, those of the references to it."""
    index = np.asarray(rows)
    if is_csr(X):
        element_bytes = X.data.itemsize + X.indices.itemsize
        lengths = np.diff(X.indptr)
        return int(lengths[index].sum(dtype=np.int64)) * int(element_bytes)
    n_selected = int(np.count_nonzero(index)) if index.dtype == bool else len(index)
    return total_bytes(X) * n_selected // max(_n_rows(X), 1)


def total_bytes(X: Any) -> int:
    if type(X) in pandas_classes():
        return frame_bytes(X)
    if hasattr(X, "estimated_size"):
        return int(X.estimated_size())
    if hasattr(X, "nbytes"):
        return int(X.nbytes)
    return _n_rows(X) * np.dtype(object).itemsize


def _n_rows(X: Any) -> int:
    return int(X.shape[0]) if hasattr(X, "shape") else len(X)


def columns_of_chunks(X: Any) -> Any:
    """Return what of X is Arrow memory, with default labels; None if nothing is."""
    if hasattr(X, "estimated_size"):
        return X
    if type(X) not in pandas_classes():
        return None
    import pandas as pd

    from skl_mmap.inputs._frame_columns import is_arrow
    from skl_mmap.inputs._shared_frame import SharedFrame

    columns = [X] if X.ndim == 1 else [X.iloc[:, i] for i in range(X.shape[1])]
    arrays = {i: column.array for i, column in enumerate(columns) if is_arrow(column)}
    if not arrays:
        return None
    return SharedFrame(arrays, index=pd.RangeIndex(len(X)), copy=False)
