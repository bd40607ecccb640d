"""The splits of a cross-validation, kept small until they are used."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory import Runs, find_runs, index_of_runs

__all__ = ["Splits"]

_Index = npt.NDArray[Any]

# Index arrays made of more runs than this are kept as they are.
_MAX_RUNS = 256


class Splits:
    """Train and test sets as runs of rows: index arrays weigh as much as columns of X.

    Parameters
    ----------
    splits : iterable of (train, test)
        Row indices.
    n_samples : int
        Rows of X.

    Attributes
    ----------
    n_tests : list of int
        Rows of each test set.
    inverse : ndarray of shape (n_samples,) or None
        Where each row is in the test sets laid behind each other; None if they are in
        the order of the rows.
    is_partition : bool
        Whether each row is in one test set.
    """

    def __init__(self, splits: Iterable[tuple[Any, Any]], n_samples: int) -> None:
        self._splits: list[tuple[Runs | _Index, Runs | _Index]] = []
        self.n_tests: list[int] = []
        is_in_order = True
        for train, test in splits:
            train, test = np.asarray(train), np.asarray(test)
            done = sum(self.n_tests)
            is_in_order &= _is_run(test, done)
            self._splits.append((_compact(train, n_samples), _compact(test, n_samples)))
            self.n_tests.append(len(test))
        self.inverse: npt.NDArray[np.intp] | None = None
        self.is_partition = sum(self.n_tests) == n_samples
        if self.is_partition and not is_in_order:
            self._invert(n_samples)

    def _invert(self, n_samples: int) -> None:
        inverse = np.full(n_samples, -1, dtype=np.intp)
        place = 0
        for _, test in self:
            inverse[test] = np.arange(place, place + len(test))
            place += len(test)
        self.is_partition = int(inverse.min()) >= 0
        self.inverse = inverse

    def __iter__(self) -> Iterator[tuple[_Index, _Index]]:
        for train, test in self._splits:
            yield _expand(train), _expand(test)

    def __len__(self) -> int:
        return len(self._splits)


def _is_run(index: _Index, start: int) -> bool:
    n_rows = len(index)
    if n_rows and (int(index[0]) != start or int(index[-1]) != start + n_rows - 1):
        return False
    return bool(np.all(index[1:] == index[:-1] + 1))


def _compact(index: _Index, n_samples: int) -> Runs | _Index:
    # Others would not come back as the same array.
    if index.dtype != np.intp or not len(index) or int(index.min()) < 0:
        return index
    runs = find_runs(index, n_samples, max_runs=_MAX_RUNS)
    return index if runs is None else runs


def _expand(kept: Runs | _Index) -> _Index:
    return index_of_runs(kept) if kept.ndim == 2 else kept
