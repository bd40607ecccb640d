"""Row indices of splits: are they valid, and of how many runs do they consist."""

from __future__ import annotations

from typing import Any

import numpy as np

from skl_mmap.exceptions import InvalidParameterError

__all__ = ["PartitionCheck", "check_rows", "count_runs"]

_CHUNK_ROWS = 1 << 16


def check_rows(rows: Any, n_samples: int, name: str) -> Any:
    """Check that rows can be selected.

    Parameters
    ----------
    rows : array-like of shape (n_selected,) or (n_samples,)
        Indices, which may be negative, or a mask.
    n_samples : int
        Rows that there are.
    name : str
        For the message.

    Returns
    -------
    ndarray or list
        What was given: lists are treated differently from arrays.

    Raises
    ------
    InvalidParameterError
        If they are not.
    """
    index = np.asarray(rows)
    what = f"{name} is an array of shape {index.shape} and dtype {index.dtype}"
    if index.ndim != 1 or (index.dtype.kind not in "iub" and index.size):
        raise InvalidParameterError(
            f"{what}, which selects no rows. Let cv yield one-dimensional integer "
            "indices, or masks."
        )
    if index.dtype == bool and len(index) != n_samples:
        raise InvalidParameterError(
            f"{what}, and X has {n_samples} rows, so it does not say which of them "
            "are meant. Let cv yield masks of that length, or indices."
        )
    if index.dtype.kind in "iu" and index.size:
        lowest, highest = int(index.min()), int(index.max())
        if lowest < -n_samples or highest >= n_samples:
            worst = highest if highest >= n_samples else lowest
            raise InvalidParameterError(
                f"{name} has the index {worst}, and X has {n_samples} rows, so that "
                "it could not be selected. Pass the X that cv was made for."
            )
    return rows if isinstance(rows, np.ndarray | list) else list(rows)


class PartitionCheck:
    """Find out whether folds could be written one after the other, as `arrange` does.

    Parameters
    ----------
    n_samples : int
        Rows that there are.
    """

    def __init__(self, n_samples: int) -> None:
        self._tested = np.zeros(n_samples, dtype=bool)
        self.holds = True

    def see(self, train: Any, test: Any) -> None:
        """Look whether `test` is new, and `train` all of the other rows."""
        if not self.holds or not len(test):
            return
        is_test = np.zeros_like(self._tested)
        is_test[np.asarray(test)] = True
        is_train = np.zeros_like(self._tested)
        is_train[np.asarray(train)] = True
        is_new = not np.any(is_test & self._tested)
        self.holds = is_new and bool(np.all(is_train != is_test))
        self._tested |= is_test


def count_runs(rows: Any) -> int:
    """Count the runs of consecutive rows, however many, in chunks.

    Examples
    --------
    >>> count_runs([0, 1, 2, 7, 8, 3]), count_runs(np.array([True, False, True]))
    (3, 2)
    """
    index = np.asarray(rows)
    if not index.size:
        return 0
    is_mask = index.dtype == bool
    n_runs = int(index[0]) if is_mask else 1
    for begin in range(0, len(index) - 1, _CHUNK_ROWS):
        chunk = index[begin : begin + _CHUNK_ROWS + 1]
        if is_mask:
            n_runs += int(np.count_nonzero(chunk[1:] & ~chunk[:-1]))
        else:
            n_runs += int(np.count_nonzero(chunk[1:] - 1 != chunk[:-1]))
    return n_runs
