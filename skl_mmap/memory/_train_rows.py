"""Arrays and frames that take the rows of one train set from somewhere else.

::

    X[train]  -->  rows of the source: the same numbers, in the layout that fit wants
    X[test]   -->  rows as they are without it

Estimators exist whose fit gives the same bits in another layout, but whose predictions
do not. And a scorer of the user may look at the rows that it is given.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._accounting import counters
from skl_mmap.memory._plan import Cost
from skl_mmap.memory._reasons import Reason
from skl_mmap.memory._shared_array import SharedArray, select_rows

_Index = npt.NDArray[Any]


class TrainRows(NamedTuple):
    """Where an array or frame of a task takes the rows of a train set from.

    Attributes
    ----------
    train : ndarray of shape (n_train_samples,)
        The row index of the train set.
    select : callable
        Selects them by their index.
    copy_others : callable or None
        Copies all other rows into the layout in which the task expects them, if they
        are stored in that of the train set only.
    """

    train: _Index
    select: Callable[[_Index], Any]
    copy_others: Callable[[_Index], Any] | None = None

    def take(self, index: _Index) -> Any:
        """Select rows; None if they are selected as without it."""
        if self._is_train(index):
            return self.select(index)
        if self.copy_others is None:
            return None
        rows = self.copy_others(index)
        n_bytes = rows.size * self._itemsize(rows)
        counters.add(Cost.of_copy(Reason.TEST_SETS, n_bytes))
        return rows

    def _is_train(self, index: _Index) -> bool:
        """Compare an index with that of the train set, which it mostly is itself."""
        train = np.asarray(self.train)
        if index.dtype != train.dtype or index.shape != train.shape:
            return False
        places = [a.__array_interface__["data"][0] for a in (index, train)]
        if places[0] == places[1] and index.strides == train.strides:
            return True
        return bool(index[0] == train[0]) and np.array_equal(index, train)

    @staticmethod
    def _itemsize(rows: Any) -> int:
        dtype = rows.dtype if hasattr(rows, "dtype") else rows.dtypes.iloc[0]
        return int(dtype.itemsize)


def with_train_rows(
    array: npt.NDArray[Any],
    source: npt.NDArray[Any],
    train: _Index,
    *,
    is_source: bool,
) -> SharedArray:
    """Return an array whose rows of a train set are those of another one.

    Parameters
    ----------
    array : ndarray
        What all other rows are selected from.
    source : ndarray
        What the train set is selected from: into Fortran order, if it has that.
    train : ndarray of shape (n_train_samples,)
        The row index of the train set.
    is_source : bool
        Whether both are the same array, in Fortran order, so that all other rows have
        to be copied into C order.
    """
    is_by_column = source.flags.f_contiguous and not source.flags.c_contiguous
    select = functools.partial(_select_by_column, source)
    copy_others = np.asarray(array).__getitem__ if is_source else None
    result = array.view(SharedArray)
    result.take_train = TrainRows(
        train, select if is_by_column else source.__getitem__, copy_others
    ).take
    return result


def _select_by_column(source: npt.NDArray[Any], index: _Index) -> npt.NDArray[Any]:
    """Select rows into Fortran order, and map them where that is possible."""
    rows = select_rows(source, index, SharedArray)
    if rows is not None:
        return rows
    columns = np.asarray(source).T
    gathered = np.empty((len(columns), len(index)), source.dtype)
    for column, into in zip(columns, gathered, strict=True):
        np.take(column, index, out=into)
    return gathered.T
