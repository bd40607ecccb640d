"""Rows of X by number, as runs where that is smaller: train sets, test sets, splits.

A fit inside of a fit is on rows of rows, ``X[train][inner_train]``. Here that is one
selection from X itself, ``X[train[inner_train]]``, so that no part of X is there twice.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import select_rows
from skl_mmap.backend import RowIndex
from skl_mmap.memory import Runs, index_of_runs, index_runs

_Index = npt.NDArray[Any]


class Rows:
    """Numbers of rows, in a given order; index arrays are as large as columns of X.

    Parameters
    ----------
    index : array-like of shape (n_rows,), or RowIndex
        The numbers.
    """

    def __init__(self, index: Any) -> None:
        if type(index) is RowIndex:
            self._kept: Runs | _Index = index.runs
        else:
            index = np.asarray(index)
            runs = index_runs(index, min_bytes=1)
            self._kept = index if runs is None else runs

    def index(self) -> _Index:
        """Return the numbers as an array, a new one if it is not kept."""
        return index_of_runs(self._kept) if self._kept.ndim == 2 else self._kept

    def of(self, outer: Rows | None) -> Rows:
        """Return the numbers in X of these rows of `outer`; None means all of X."""
        return self if outer is None else Rows(outer.index()[self.index()])

    def select(self, values: Any) -> Any:
        """Return these rows of some data, as scikit-learn selects them."""
        return select_rows(values, self.index())

    @functools.cached_property
    def digest(self) -> bytes:
        """Equal for equal rows in the same order."""
        kept = np.ascontiguousarray(self._kept)
        return hashlib.blake2b(kept.data, digest_size=16).digest()


class Splits:
    """The train and test sets of a splitter.

    Parameters
    ----------
    splits : iterable of (array-like, array-like)
        Train and test sets.
    n_samples : int
        Rows that there are.

    Attributes
    ----------
    n_tests : list of int
        Rows of each test set.
    is_partition : bool
        Whether each row is in one test set.
    inverse : ndarray of shape (n_samples,) or None
        Where each row is in the test sets laid behind each other; None if they are in
        the order of the rows.
    """

    def __init__(self, splits: Iterable[tuple[Any, Any]], n_samples: int) -> None:
        self._splits: list[tuple[Rows, Rows]] = []
        self.n_tests: list[int] = []
        is_in_order = True
        for train, test in splits:
            train, test = np.asarray(train), np.asarray(test)
            is_in_order &= _is_run(test, start=sum(self.n_tests))
            self._splits.append((Rows(train), Rows(test)))
            self.n_tests.append(len(test))
        self.inverse: npt.NDArray[np.intp] | None = None
        self.is_partition = sum(self.n_tests) == n_samples
        if self.is_partition and not is_in_order:
            self._invert(n_samples)

    def _invert(self, n_samples: int) -> None:
        inverse = np.full(n_samples, -1, dtype=np.intp)
        place = 0
        for _, test in self:
            index = test.index()
            inverse[index] = np.arange(place, place + len(index))
            place += len(index)
        self.is_partition = int(inverse.min()) >= 0
        self.inverse = inverse

    def __iter__(self) -> Iterator[tuple[Rows, Rows]]:
        return iter(self._splits)

    def __len__(self) -> int:
        return len(self._splits)

    @functools.cached_property
    def digest(self) -> tuple[bytes, ...]:
        """Equal for equal splits."""
        return tuple(rows.digest for split in self._splits for rows in split)


def _is_run(index: _Index, start: int) -> bool:
    n_rows = len(index)
    if n_rows and (int(index[0]) != start or int(index[-1]) != start + n_rows - 1):
        return False
    return bool(np.all(index[1:] == index[:-1] + 1))
