"""Arrays that numpy would have made anew, from rows of shared ones.

::

    np.delete(X, test, axis=0)           rows that are left  --+
    X.compress(mask, axis=0)             rows of the mask    --+--> mapped where runs
    np.concatenate([X[:a], X[b:]])       runs of each part   --+    are long
    X.copy(), np.copy(X), X.astype(...)  one run of all      --+
    X.take(rows), X[np.ix_(rows, ...)]   as X[rows]

`np.vstack`, ``np.r_`` and `np.append` call `np.concatenate`. What is new can be written
to, also with ``mmap_mode="r"``: only pages that are written to cost memory. What is
selected as by ``X[rows]`` is read-only then.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._mapping import as_array, geometry_of
from skl_mmap.memory._plan import (
    MAX_RUNS,
    Geometry,
    Piece,
    Plan,
    count_selected,
    pieces_of_runs,
    plan_pieces,
    plan_rows,
    plan_runs,
)
from skl_mmap.memory._reasons import Cause, Reason
from skl_mmap.memory._shared_array import SharedArray, map_counted, select_rows
from skl_mmap.memory._shortcuts import shortcut

_JOINED = (SharedArray, np.ndarray)
_CASTINGS = ("no", "equiv", "safe", "same_kind", "unsafe")


# Rows.


@shortcut(np.delete)
def _delete(arr: Any, obj: Any, axis: Any = None) -> Any:
    """As ``np.delete``."""
    if not _has_rows(arr, axis):
        return None
    kept = np.ones(len(arr), dtype=bool)
    if isinstance(obj, slice):
        kept[obj] = False
        return _select(arr, kept)
    deleted = np.asarray(obj)
    if deleted.dtype == bool:
        return _select(arr, ~deleted) if deleted.shape == kept.shape else None
    if deleted.dtype.kind not in "iu":
        return None
    try:
        kept[deleted,] = False
    except IndexError:  # numpy will say so
        return None
    return _select(arr, kept)


@shortcut(np.ndarray.compress)
def _compress(a: Any, condition: Any, axis: Any = None, out: Any = None) -> Any:
    """As ``ndarray.compress``."""
    if out is not None or not _has_rows(a, axis):
        return None
    mask = np.asarray(condition)
    # Rows behind the end of the mask are left out.
    if mask.dtype != bool or mask.ndim != 1 or len(mask) > len(a):
        return None
    return _select(np.asarray(a)[: len(mask)], mask)


@shortcut(np.ndarray.take)
def _take(
    a: Any, indices: Any, axis: Any = None, out: Any = None, mode: Any = "raise"
) -> Any:
    """As ``ndarray.take``, which gives views of the mode of `a`, as brackets do."""
    is_of_rows = axis == 0 or (axis is None and a.ndim == 1)
    if not is_of_rows or out is not None or mode != "raise":
        return None
    index = np.asarray(indices)
    # A mask is an array of the indices 0 and 1 here.
    if index.ndim != 1 or index.dtype.kind not in "iu":
        return None
    return select_rows(a, index, SharedArray)


@shortcut(np.ndarray.__getitem__)
def _select_otherwise(array: Any, key: Any) -> Any:
    """Select rows by a range, a series or the like, or with all columns named."""
    if isinstance(key, tuple):
        is_grid = len(key) == 2 and array.ndim == 2
        return _select_grid(array, *key) if is_grid else None
    is_vector = getattr(key, "ndim", 0) == 1 and hasattr(key, "__array__")
    if not is_vector and not isinstance(key, range):
        return None
    return select_rows(array, np.asarray(key), SharedArray)


def _select_grid(array: Any, rows: Any, columns: Any) -> Any:
    """As ``X[np.ix_(rows, columns)]`` and ``X[rows, :n]``, if that is all columns."""
    n_columns = array.shape[1]
    if isinstance(columns, slice):
        try:
            is_all = columns.indices(n_columns) == (0, n_columns, 1)
        except TypeError:  # numpy will say so
            return None
        return select_rows(array, rows, SharedArray) if is_all else None
    if not (isinstance(rows, np.ndarray) and isinstance(columns, np.ndarray)):
        return None
    if rows.shape != (rows.size, 1) or columns.shape != (1, n_columns):
        return None
    if rows.dtype.kind not in "iu" or columns.dtype.kind not in "iu":
        return None
    if not np.array_equal(columns[0], np.arange(n_columns)):
        return None
    return select_rows(array, rows[:, 0], SharedArray)


def _has_rows(array: Any, axis: Any) -> bool:
    """Return whether an axis is that of rows of a shared array of some size."""
    if not isinstance(array, SharedArray) or array.nbytes < PAGE_BYTES:
        return False
    if axis is None:
        return array.ndim == 1
    is_number = isinstance(axis, int | np.integer) and not isinstance(axis, bool)
    return is_number and array.ndim > 0 and axis in (0, -array.ndim)


def _select(array: npt.NDArray[Any], index: npt.NDArray[Any]) -> Any:
    if array.dtype.hasobject:
        return None
    geometry = geometry_of(array)
    plan = plan_rows(geometry, index)
    # numpy would put all rows into C order.
    joined = None if plan.is_by_column else map_counted(plan, geometry, is_new=True)
    if joined is None:
        return None
    shape = (count_selected(index), *array.shape[1:])
    return as_array(joined, array.dtype, shape, subtype=SharedArray)


@shortcut(np.concatenate)
def _concatenate(
    arrays: Any,
    axis: Any = 0,
    out: Any = None,
    *,
    dtype: Any = None,
    casting: Any = "same_kind",
) -> Any:
    """As ``np.concatenate``."""
    if out is not None or dtype is not None or casting != "same_kind":
        return None
    if not isinstance(arrays, list | tuple) or not 0 < len(arrays) <= MAX_RUNS:
        return None
    first = arrays[0]
    if type(first) not in _JOINED or first.ndim == 0:
        return None
    if max(first.nbytes, getattr(arrays[-1], "nbytes", 0)) < PAGE_BYTES:
        return None
    is_axis = type(axis) is int and axis in (0, -first.ndim)
    if not (is_axis or (axis is None and first.ndim == 1)):
        return None
    if not all(_goes_with(array, first) for array in arrays):
        return None
    return _join(arrays)


def _goes_with(array: Any, first: npt.NDArray[Any]) -> bool:
    return (
        type(array) in _JOINED
        and _is_same(array.dtype, first.dtype)
        and array.ndim == first.ndim
        and array.shape[1:] == first.shape[1:]
        and bool(array.flags.c_contiguous)
    )


def _join(arrays: Iterable[npt.NDArray[Any]]) -> npt.NDArray[Any] | None:
    """Join the rows of C-contiguous arrays of one dtype and shape of rows.

    None if they do not all lie in one segment, or have nothing that is worth mapping.
    """
    parts = [array for array in arrays if array.nbytes]
    n_bytes = sum(array.nbytes for array in parts)
    if n_bytes < len(parts) * PAGE_BYTES or parts[0].dtype.hasobject:
        return None
    geometries = [geometry_of(array) for array in parts]
    plan = _plan_parts(geometries)
    if plan is None:
        return None
    joined = map_counted(plan, geometries[0], is_new=True)
    if joined is None:
        return None
    shape = (sum(map(len, parts)), *parts[0].shape[1:])
    return as_array(joined, parts[0].dtype, shape, subtype=SharedArray)


def _plan_parts(geometries: list[Geometry]) -> Plan | None:
    """Plan the joining of arrays; None if they are not all of the same segment."""
    first = geometries[0].origin
    if first is None:
        return None
    pieces: list[Piece] = []
    can_share: list[bool] = []
    for geometry in geometries:
        origin = geometry.origin
        if origin is None or origin.segment is not first.segment:
            return None
        runs = np.array([[0, geometry.n_rows]], dtype=np.intp)
        place = pieces[-1].stop if pieces else 0
        found = zip(*pieces_of_runs(origin, geometry.row_bytes, runs), strict=True)
        for piece, is_clean in found:
            moved = piece._replace(start=piece.start + place, stop=piece.stop + place)
            if pieces and can_share[-1] and is_clean and _follows(moved, pieces[-1]):
                pieces[-1] = pieces[-1]._replace(stop=moved.stop)
                continue
            pieces.append(moved)
            can_share.append(is_clean)
    plan = plan_pieces(
        pieces,
        alignment=geometries[0].alignment,
        can_share=can_share,
        can_shift=first.settings.shifted is not None,
    )
    if plan.mapped_bytes < max(first.settings.min_mapped_bytes, 1):
        return Plan(plan.n_bytes, cause=Cause(Reason.SHORT_RUNS))
    return plan


def _follows(piece: Piece, before: Piece) -> bool:
    """Return whether two pieces lie behind each other, in the file and in memory."""
    n_bytes = before.stop - before.start
    return (piece.file_offset, piece.address) == (
        before.file_offset + n_bytes,
        before.address + n_bytes,
    )


# Copies.


def copy_array(array: npt.NDArray[Any], order: Any = "K") -> npt.NDArray[Any] | None:
    """Copy a shared array such that only pages that are written to cost memory.

    Parameters
    ----------
    array : ndarray
        Any array.
    order : {"C", "F", "A", "K"}
        As in numpy's functions.

    Returns
    -------
    ndarray or None
        A writable array that has nothing in common with the other one, but for pages
        that neither of them has written to. None if numpy has to copy.
    """
    if array.nbytes < PAGE_BYTES or array.dtype.hasobject:
        return None
    if order in ("C", "F"):
        is_so = array.flags.c_contiguous if order == "C" else array.flags.f_contiguous
        own_order = order if is_so else None
    elif order in ("A", "K"):
        flags = array.flags
        own_order = "C" if flags.c_contiguous else "F" if flags.f_contiguous else None
    else:
        own_order = None  # what is not known either, numpy refuses
    if own_order is None:
        return None
    # However many dimensions it has, its elements are one run.
    geometry = geometry_of(array.reshape(-1, order=own_order))
    plan = plan_runs(geometry, np.array([[0, array.size]], dtype=np.intp))
    # What is copied as a whole is the task's own copy, and none of a fold.
    joined = map_counted(plan, geometry, is_new=True) if plan.is_mapped else None
    if joined is None:
        return None
    flat = as_array(joined, array.dtype, (array.size,))
    return flat.reshape(array.shape, order=own_order)


@shortcut(np.ndarray.copy)
def _copy(a: Any, order: Any = "C") -> Any:
    """As ``ndarray.copy``."""
    return copy_array(a, order)


@shortcut(np.copy)
def _copy_function(a: Any, order: Any = "K", subok: Any = False) -> Any:  # noqa: ARG001
    """As ``np.copy``; a copy is a plain array, whatever `subok` is."""
    return copy_array(a, order) if isinstance(a, SharedArray) else None


@shortcut(np.ndarray.__copy__)
def _copy_copy(a: Any) -> Any:
    """As ``copy.copy``."""
    return copy_array(a)


@shortcut(np.ndarray.astype)
def _astype(
    a: Any,
    dtype: Any,
    order: Any = "K",
    casting: Any = "unsafe",
    subok: Any = True,  # noqa: ARG001 - as above
    copy: Any = True,
) -> Any:
    """As ``ndarray.astype``, if nothing is converted."""
    if copy is not True or casting not in _CASTINGS or a.nbytes < PAGE_BYTES:
        return None
    try:
        is_same = _is_same(np.dtype(dtype), a.dtype)
    except TypeError:  # numpy may know it all the same
        return None
    return copy_array(a, order) if is_same else None


def _is_same(dtype: np.dtype[Any], other: np.dtype[Any]) -> bool:
    """Return whether numpy makes of one of two dtypes the other one, exactly."""
    return (
        dtype == other
        and dtype.char == other.char
        and dtype.names is None  # equal ones may differ in titles and gaps
        and dtype.isnative
        and dtype.metadata is None
        and other.metadata is None
    )
