"""An order of a train set's rows in which most of them can be mapped."""

from __future__ import annotations

import math
import mmap

import numpy as np
import numpy.typing as npt

from skl_mmap.memory import Runs, find_runs, index_of_runs

__all__ = ["page_order", "page_ordered_runs", "sorted_runs"]

# Rows of an index array, of a float64 target and of float64 weights that fill a page.
# They are indexed by the same train set, so cutting runs to this unit as well maps
# them too, at the price of less than 512 more copied rows of X for each run.
VECTOR_UNIT = mmap.PAGESIZE // 8
_MAX_RUNS = 4096


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
    train = np.asarray(train)
    if train.dtype == bool:
        train = np.flatnonzero(train)
    runs = page_ordered_runs(train, row_bytes=row_bytes)
    if runs is None:
        return np.asarray(train, dtype=np.intp)
    return index_of_runs(runs)


def page_ordered_runs(train: npt.NDArray[np.integer], *, row_bytes: int) -> Runs | None:
    """Return the order of `page_order` as runs, or None if there is nothing to gain."""
    if not len(train):
        return None
    unit = max(mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, row_bytes), VECTOR_UNIT)
    runs = sorted_runs(train)
    if runs is None or (runs[:, 1] - runs[:, 0]).max() < 2 * unit:
        return None
    placed, left_over = cut_runs(runs, unit)
    return np.array(placed + left_over, dtype=np.intp)


def sorted_runs(train: npt.NDArray[np.integer]) -> Runs | None:
    """Return the runs of the train set in ascending order; None if they are many."""
    if int(train.min()) < 0:
        raise ValueError(
            f"a train set has the negative index {int(train.min())}, so its rows "
            "cannot be compared. Pass indices from 0 to n_samples - 1."
        )
    n_rows = int(train.max()) + 1
    runs = find_runs(train, n_rows, max_runs=_MAX_RUNS)
    if runs is None or np.any(runs[1:, 0] < runs[:-1, 1]):
        train = np.sort(train)
        repeated = train[1:] == train[:-1]
        if repeated.any():
            raise ValueError(
                f"a train set has the index {int(train[1:][repeated][0])} more than "
                "once, so another order could change the weight of rows. Use "
                "row_order='exact' with splitters that repeat rows."
            )
        runs = find_runs(train, n_rows, max_runs=_MAX_RUNS)
    return runs


def cut_runs(runs: Runs, unit: int) -> tuple[list[list[int]], list[list[int]]]:
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
    return placed, sorted(left_over)
