"""An order of a train set's rows in which most elements of a CSR can be mapped.

The rows of a CSR have different lengths, so whole pages of elements do not end where
a fixed number of rows ends. Runs are cut at rows whose first element is at the same
place of a page as that of the longest run::

    element      0     1024  2048  3072      one page of indices (int32)
    rows         |--|---|-|----|---|--|-|
    cut at              ^          ^         both begin at the same place of a page
"""

from __future__ import annotations

import math
import mmap
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.folds._page_order import page_order, sorted_runs
from skl_mmap.memory import Runs, index_of_runs

__all__ = ["element_ordered_runs", "order_for"]

# Rows in which a place to cut is looked for: with a unit of 1024 elements one row in
# 1024 will do, if their lengths are irregular.
_SEARCH_ROWS = 1 << 16
_CHUNK_ROWS = 1 << 12


def order_for(
    train: npt.NDArray[np.integer], X: Any, *, row_bytes: int
) -> npt.NDArray[np.intp]:
    """Order the rows of one train set so that most of what they select is mapped.

    Parameters
    ----------
    train : ndarray of shape (n_train_samples,)
        Row indices, each at most once; or a mask of all rows.
    X : array-like or CSR matrix of shape (n_samples, ...)
        What they select from.
    row_bytes : int
        Bytes of one row, for all but a CSR matrix.

    Returns
    -------
    ndarray of shape (n_train_samples,), dtype=intp
        See `page_order`.

    Raises
    ------
    ValueError
        If an index appears twice, or is negative.
    """
    from skl_mmap.inputs._sparse import is_csr

    if not is_csr(X):
        return page_order(train, row_bytes=row_bytes)
    train = np.asarray(train)
    if train.dtype == bool:
        train = np.flatnonzero(train)
    runs = element_ordered_runs(train, X)
    if runs is None:
        return np.asarray(train, dtype=np.intp)
    return index_of_runs(runs)


def element_ordered_runs(train: npt.NDArray[np.integer], matrix: Any) -> Runs | None:
    """Order the rows of one train set for a CSR matrix.

    Parameters
    ----------
    train : ndarray of shape (n_train_samples,)
        Row indices, each at most once.
    matrix : CSR matrix or array of shape (n_samples, n_features)
        What they select from.

    Returns
    -------
    ndarray of shape (n_runs, 2) or None
        The runs in the new order: first those that can be mapped, the longest of them
        in front, and then what is left over. None if there is nothing to gain.

    Raises
    ------
    ValueError
        If an index appears twice, or is negative.
    """
    if not len(train):
        return None
    unit = max(_items_of_page(matrix.data), _items_of_page(matrix.indices))
    runs = sorted_runs(train)
    if runs is None:
        return None
    indptr = np.asarray(matrix.indptr)
    n_elements = indptr[runs[:, 1]] - indptr[runs[:, 0]]
    by_length = np.argsort(-n_elements, kind="stable")
    if n_elements[by_length[0]] < 2 * unit:
        return None
    phase = int(indptr[runs[by_length[0], 0]]) % unit
    placed: list[list[int]] = []
    left_over: list[list[int]] = []
    for start, stop in runs[by_length].tolist():
        low, high = _cut(indptr, start, stop, phase, unit)
        if low < high:
            placed.append([low, high])
            parts = [[start, low], [high, stop]]
        else:
            parts = [[start, stop]]
        left_over += [part for part in parts if part[0] < part[1]]
    if not placed:
        return None
    return np.array(placed + sorted(left_over), dtype=np.intp)


def _items_of_page(array: npt.NDArray[Any]) -> int:
    return mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, array.itemsize)


def _cut(
    indptr: npt.NDArray[Any], start: int, stop: int, phase: int, unit: int
) -> tuple[int, int]:
    """Return the first and the last row of a run to cut at; twice the same if none."""
    low = _find_row(indptr, start, stop, phase, unit, step=1)
    if low is None:
        return start, start
    high = _find_row(indptr, low, stop, phase, unit, step=-1)
    return low, low if high is None else high


def _find_row(
    indptr: npt.NDArray[Any], start: int, stop: int, phase: int, unit: int, step: int
) -> int | None:
    """Find the first (or last) row of ``[start, stop]`` that begins at the phase."""
    for begin in range(0, min(stop + 1 - start, _SEARCH_ROWS), _CHUNK_ROWS):
        if step > 0:
            first = start + begin
        else:
            first = max(stop + 1 - begin - _CHUNK_ROWS, start)
        last = stop + 1 if step > 0 else stop + 1 - begin
        chunk = indptr[first : min(first + _CHUNK_ROWS, last)]
        found = np.flatnonzero(chunk % unit == phase)
        if len(found):
            return first + int(found[0 if step > 0 else -1])
    return None
