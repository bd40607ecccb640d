"""Arguments of `fit` and `predict`: files are loaded, data stays as it is."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.inputs import load
from skl_mmap.inputs._formats import find_format
from skl_mmap.inputs._load_column import load_column
from skl_mmap.inputs._pandas import frame_bytes, pandas_classes
from skl_mmap.memory import Placement

__all__ = ["count_bytes", "read_arguments"]

# The arguments with one value for each sample, beside y.
_VECTORS = ("y", "sample_weight")


def read_arguments(
    args: Sequence[Any], kwargs: Mapping[str, Any], store: Any
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Load the arguments that are files.

    Parameters
    ----------
    args : sequence
        Positional arguments of a method of an estimator: X, y and so on.
    kwargs : mapping
        Its keyword arguments.
    store : {"auto", "memory", "disk"} or path-like
        Where tables that are read live.

    Returns
    -------
    args : tuple
        X as it was, or loaded: from a path, or from a tuple of a path and columns.
        All others likewise, but as vectors, from a path or a tuple of path and column.
    kwargs : dict
        The same for ``X``, ``y`` and ``sample_weight``.
    """
    read = tuple(
        _read_vector(value, store) if place else _read_matrix(value, store)
        for place, value in enumerate(args)
    )
    named = dict(kwargs)
    for name in _VECTORS:
        if name in named:
            named[name] = _read_vector(named[name], store)
    if "X" in named:
        named["X"] = _read_matrix(named["X"], store)
    return read, named


def _split_source(value: Any) -> tuple[str, Any] | None:
    """Return the path and the columns that a value names; None if it is data."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value), None
    if isinstance(value, tuple) and len(value) == 2:
        path, columns = value
        if isinstance(path, str | os.PathLike):
            return os.fspath(path), columns
    return None


def _read_matrix(value: Any, store: Any) -> Any:
    source = _split_source(value)
    if source is None:
        return value
    path, columns = source
    if isinstance(columns, str):
        columns = [columns]
    return load(path, columns=columns, store=store)


def _read_vector(value: Any, store: Any) -> Any:
    source = _split_source(value)
    if source is None:
        return value
    path, column = source
    format_ = find_format(path)
    if column is not None and format_.is_table:
        return load_column(path, format_, column, Placement.from_parameter(store))
    columns = None if column is None else [column]
    return _as_vector(load(path, columns=columns, as_frame=False, store=store))


def _as_vector(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Take the only column; more of them are several outputs."""
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values


def count_bytes(value: Any) -> int | None:
    """Return the bytes of an array, a frame or a sparse matrix; None if unknown."""
    if isinstance(value, np.ndarray):
        return value.nbytes
    if type(value) in pandas_classes():
        return frame_bytes(value)
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(value):
        return int(getattr(value, "data", np.empty(0)).nbytes)
    if isinstance(value, list | tuple):
        # What numpy would make of it, without making it.
        width = len(value[0]) if value and isinstance(value[0], list | tuple) else 1
        return 8 * len(value) * width
    n_bytes = getattr(value, "nbytes", None)
    return int(n_bytes) if isinstance(n_bytes, int) else None
