"""Orders of a train set's rows in which most of them can be mapped.

Runs of rows are cut at whole pages. The rows of a CSR matrix have different lengths,
so whole pages of elements do not end where a fixed number of rows ends. There, runs are
cut at rows whose first element is at the same place of a page as that of the longest::

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

from skl_mmap.containers import RowSize, container_of
from skl_mmap.memory import MAX_RUNS, Runs, find_runs, index_of_runs

# Rows of an index array, of a float64 target and of float64 weights that fill a page.
# They are indexed by the same train set, so cutting runs to this unit as well maps
# them too, at the price of less than 512 more copied rows of X for each run.
VECTOR_UNIT = mmap.PAGESIZE // 8
# For inputs whose rows have no fixed size: index arrays and float64 targets gain.
DEFAULT_ROW_BYTES = 8
# Rows in which a place to cut is looked for: with a unit of 1024 elements one row in
# 1024 will do, if their lengths are irregular.
_SEARCH_ROWS = 1 << 16
_CHUNK_ROWS = 1 << 12


def size_of_rows(X: Any) -> RowSize:
    """Return how large the rows of any input are; a number each if it is not known."""
    container = container_of(X)
    size = None if container is None else container.row_size(X)
    return size or RowSize(DEFAULT_ROW_BYTES, DEFAULT_ROW_BYTES)


def rows_of_pages(row_bytes: int) -> int:
    """Return after how many rows the same place in a page comes again."""
    return mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, row_bytes)


def page_order(
    train: npt.NDArray[np.integer], *, row_bytes: int
) -> npt.NDArray[np.intp]:
    """Order the rows of one train set so that most of them can be mapped.

    Parameters
    ----------
    train : ndarray of shape (n_train_samples,), dtype=intp
        Row indices of one train set, each at most once; or a mask of all rows.
    row_bytes : int
        Bytes of one row of the array that will be indexed.

    Returns
    -------
    ndarray of shape (n_train_samples,), dtype=intp
        The same indices: long runs first, each a whole number of pages, then the
        rows that are left over. Unchanged if there are no long runs.

    Raises
    ------
    ValueError
        If an index appears twice, or is negative.

    Notes
    -----
    O(n log n) time if `train` is not sorted, else O(n); two index-sized arrays at
    most. Runs are cut to a multiple of ``4096 / gcd(4096, row_bytes)`` rows, and of
    512 rows at least, so that a float64 target is mapped as well.

    Examples
    --------
    A KFold's train set has a hole. Behind it, rows 700, 701, ... do not continue the
    pages that row 599 ends in; after reordering they do:

    >>> import numpy as np
    >>> train = np.r_[0:600, 700:3000]
    >>> ordered = page_order(train, row_bytes=400)
    >>> ordered[:3], ordered[-3:]
    (array([700, 701, 702]), array([2997, 2998, 2999]))
    >>> bool(np.all(np.sort(ordered) == train))
    True
    """
    return order_rows(train, RowSize(row_bytes, row_bytes))


def order_rows(train: npt.NDArray[np.integer], size: RowSize) -> npt.NDArray[np.intp]:
    """Order the rows of one train set for an input with rows of some size."""
    train = np.asarray(train)
    if train.dtype == bool:
        train = np.flatnonzero(train)
    runs = ordered_runs(train, size)
    if runs is None:
        return np.asarray(train, dtype=np.intp)
    return index_of_runs(runs)


def ordered_runs(train: npt.NDArray[np.integer], size: RowSize) -> Runs | None:
    """Order the rows of one train set, and return them as runs.

    Parameters
    ----------
    train : ndarray of shape (n_train_samples,)
        Row indices, each at most once.
    size : RowSize
        The size of the rows that they select.

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
    runs = _sorted_runs(train) if len(train) else None
    return None if runs is None else order_runs(runs, size)


def order_runs(runs: Runs, size: RowSize) -> Runs | None:
    """Order the runs of one train set, which are ascending; see `ordered_runs`."""
    if size.starts is not None:
        return _order_by_element(runs, size.starts, size.elements_of_page)
    unit = max(rows_of_pages(size.part_bytes or DEFAULT_ROW_BYTES), VECTOR_UNIT)
    is_long = (runs[:, 1] - runs[:, 0]).max() >= 2 * unit
    return _order_by_row(runs, unit) if is_long else None


def _sorted_runs(train: npt.NDArray[np.integer]) -> Runs | None:
    """Return the runs of the train set in ascending order; None if they are many."""
    if int(train.min()) < 0:
        raise ValueError(
            f"a train set has the negative index {int(train.min())}, so its rows "
            "cannot be compared. Pass indices from 0 to n_samples - 1."
        )
    n_rows = int(train.max()) + 1
    runs = find_runs(train, n_rows, max_runs=MAX_RUNS)
    if runs is None or np.any(runs[1:, 0] < runs[:-1, 1]):
        train = np.sort(train)
        repeated = train[1:] == train[:-1]
        if repeated.any():
            raise ValueError(
                f"a train set has the index {int(train[1:][repeated][0])} more than "
                "once, so another order could change the weight of rows. Use "
                "row_order='exact' with splitters that repeat rows."
            )
        runs = find_runs(train, n_rows, max_runs=MAX_RUNS)
    return runs


def _order_by_row(runs: Runs, unit: int) -> Runs:
    """Cut runs to whole units that continue each other's pages.

    All placed runs start at the same row modulo the unit as the longest one, which
    is why their pages can be mapped behind each other.
    """
    lengths = runs[:, 1] - runs[:, 0]
    by_length = np.argsort(-lengths, kind="stable")
    phase = int(runs[by_length[0], 0]) % unit
    placed = []
    left_over = []
    for start, stop in runs[by_length].tolist():
        low = start + (phase - start) % unit
        high = low + (stop - low) // unit * unit
        if low >= high:
            left_over.append([start, stop])
            continue
        placed.append([low, high])
        left_over += [cut for cut in ([start, low], [high, stop]) if cut[0] < cut[1]]
    return np.array(placed + sorted(left_over), dtype=np.intp)


def _order_by_element(runs: Runs, starts: npt.NDArray[Any], unit: int) -> Runs | None:
    """Cut runs at rows whose elements continue each other's pages, if there are such.

    The unit is the number of elements that fill a page.
    """
    n_elements = starts[runs[:, 1]] - starts[runs[:, 0]]
    by_length = np.argsort(-n_elements, kind="stable")
    if n_elements[by_length[0]] < 2 * unit:
        return None
    phase = int(starts[runs[by_length[0], 0]]) % unit
    placed: list[list[int]] = []
    left_over: list[list[int]] = []
    for start, stop in runs[by_length].tolist():
        low, high = _cut(starts, start, stop, phase, unit)
        if low < high:
            placed.append([low, high])
            parts = [[start, low], [high, stop]]
        else:
            parts = [[start, stop]]
        left_over += [part for part in parts if part[0] < part[1]]
    if not placed:
        return None
    return np.array(placed + sorted(left_over), dtype=np.intp)


def _cut(
    starts: npt.NDArray[Any], start: int, stop: int, phase: int, unit: int
) -> tuple[int, int]:
    """Return the first and the last row of a run to cut at; twice the same if none."""
    low = _find_row(starts, start, stop, phase, unit, step=1)
    if low is None:
        return start, start
    high = _find_row(starts, low, stop, phase, unit, step=-1)
    return low, low if high is None else high


def _find_row(
    starts: npt.NDArray[Any], start: int, stop: int, phase: int, unit: int, step: int
) -> int | None:
    """Find the first (or last) row of ``[start, stop]`` that begins at the phase."""
    for begin in range(0, min(stop + 1 - start, _SEARCH_ROWS), _CHUNK_ROWS):
        if step > 0:
            first = start + begin
        else:
            first = max(stop + 1 - begin - _CHUNK_ROWS, start)
        last = stop + 1 if step > 0 else stop + 1 - begin
        chunk = starts[first : min(first + _CHUNK_ROWS, last)]
        found = np.flatnonzero(chunk % unit == phase)
        if len(found):
            return first + int(found[0 if step > 0 else -1])
    return None
