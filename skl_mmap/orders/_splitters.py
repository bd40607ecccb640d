"""Splitters that order the rows of each train set page by page."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.model_selection import BaseCrossValidator, check_cv

from skl_mmap.containers import RowSize, container_of, count_rows, gather, restore
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, Settings
from skl_mmap.orders._page_order import order_rows, size_of_rows

if TYPE_CHECKING:
    from typing_extensions import Self


class PageFriendly(BaseEstimator):  # type: ignore[misc]
    """Give the train sets of another splitter in page-friendly order.

    The folds stay the same sets of rows; only the order of the rows *within* each
    train set changes, so that the "mmap" backend can map them instead of copying.
    Test sets are not touched. Estimators that depend on the order of rows (those that
    shuffle with a seed, for example) give slightly different results.

    Parameters
    ----------
    cv : int, cross-validation splitter or list of (train, test)
        What makes the splits. An int means ``KFold``.

    See Also
    --------
    page_order : The order of one train set.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import KFold
    >>> from skl_mmap import PageFriendly
    >>> cv = PageFriendly(KFold(3))
    >>> cv
    PageFriendly(cv=KFold(n_splits=3, random_state=None, shuffle=False))
    >>> X = np.zeros((9000, 50))
    >>> train, test = list(cv.split(X))[1]
    >>> int(train[0]), len(train), int(test[0]), len(test)
    (0, 6000, 3000, 3000)
    """

    def __init__(self, cv: Any = 5) -> None:
        self.cv = cv

    def split(
        self, X: Any, y: Any = None, groups: Any = None, **params: Any
    ) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """Yield train and test indices.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            The data; the size of its rows decides where runs are cut.
        y : array-like of shape (n_samples,), optional
            Passed on.
        groups : array-like of shape (n_samples,), optional
            Passed on.
        **params : dict
            Passed on.

        Yields
        ------
        train : ndarray of shape (n_train_samples,)
            The wrapped splitter's train set in page-friendly order.
        test : ndarray of shape (n_test_samples,)
            The wrapped splitter's test set.

        Raises
        ------
        ValueError
            If a train set holds a row twice.
        """
        size = size_of_rows(X)
        if groups is not None:
            params["groups"] = groups
        for train, test in self._splitter(y).split(X, y, **params):
            yield order_rows(train, size), test

    def get_n_splits(
        self, X: Any = None, y: Any = None, groups: Any = None, **params: Any
    ) -> int:
        """Return the number of splits of the wrapped splitter."""
        if groups is not None:
            params["groups"] = groups
        return int(self._splitter(y).get_n_splits(X, y, **params))

    def get_metadata_routing(self) -> Any:
        """Return the wrapped splitter's own routing: it is the consumer."""
        return self._splitter().get_metadata_routing()

    def _splitter(self, y: Any = None) -> Any:
        if hasattr(self.cv, "__next__"):
            raise InvalidParameterError(
                f"cv={self.cv!r} can be iterated over only once, so its splits would "
                "be gone the second time. Pass a list of them."
            )
        try:
            return check_cv(self.cv, y)
        except ValueError as error:
            raise InvalidParameterError(
                f"cv={self.cv!r} gives no train and test sets. Pass an int, a "
                "splitter, or a list of (train, test)."
            ) from error


class ArrangedSplits(BaseCrossValidator):  # type: ignore[misc]
    """Splits of data that `arrange` has put into the order of the folds.

    Each test set is one run of rows. Each train set is all of the other rows, two runs,
    in an order in which nearly all of them can be mapped. It is made by `arrange`, and
    is for the arrays that `arrange` returned with it: no other X has these folds.

    Parameters
    ----------
    permutation : ndarray of shape (n_samples,), dtype=intp
        Row i of the arranged data is row ``permutation[i]`` of the original.
    boundaries : ndarray of shape (n_splits + 1,), dtype=intp
        The first row of each test set, and the row after the last.
    row_bytes : int, default=8
        Bytes of one row, which decide where runs are cut if `split` is given
        something else than the arranged X.

    Attributes
    ----------
    permutation, boundaries : ndarray
        As given, read-only.
    n_samples, n_splits : int
        Rows of the data, and splits.

    See Also
    --------
    arrange : Makes it, and the data that it is for.

    Notes
    -----
    It cannot be changed, so that ``sklearn.base.clone`` returns it as it is.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.model_selection import KFold
    >>> from skl_mmap import arrange
    >>> X = np.arange(12.0).reshape(6, 2)
    >>> Xs, _, cv = arrange(X, cv=KFold(3, shuffle=True, random_state=0))
    >>> cv
    ArrangedSplits(n_splits=3, n_samples=6)
    >>> [test.tolist() for train, test in cv.split(Xs)]
    [[0, 1], [2, 3], [4, 5]]
    >>> cv.permutation.tolist(), cv.inverse_permutation.tolist()
    ([2, 5, 1, 3, 0, 4], [4, 2, 0, 3, 5, 1])
    >>> bool((cv.restore(Xs) == X).all())
    True
    """

    def __init__(
        self,
        permutation: npt.NDArray[np.intp],
        boundaries: npt.NDArray[np.intp],
        row_bytes: int = 8,
    ) -> None:
        self.permutation = np.asarray(permutation).view()
        self.boundaries = np.asarray(boundaries).view()
        self.permutation.flags.writeable = False
        self.boundaries.flags.writeable = False
        self.row_bytes = row_bytes

    @property
    def n_samples(self) -> int:
        """Rows of the arranged data."""
        return len(self.permutation)

    @property
    def n_splits(self) -> int:
        """Number of splits."""
        return len(self.boundaries) - 1

    @property
    def inverse_permutation(self) -> npt.NDArray[np.intp]:
        """Where each row of the original is now; made anew each time."""
        inverse = np.empty_like(self.permutation)
        inverse[self.permutation] = np.arange(self.n_samples)
        return inverse

    def split(
        self, X: Any, y: Any = None, groups: Any = None
    ) -> Iterator[tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]]:
        """Yield train and test indices.

        Parameters
        ----------
        X : array-like of shape (n_samples, ...)
            The arranged data.
        y, groups : object
            Not used: the folds are known.

        Yields
        ------
        train : ndarray of shape (n_train_samples,)
            All rows but those of the test set, in page-friendly order.
        test : ndarray of shape (n_test_samples,)
            The test set: consecutive rows.

        Raises
        ------
        InvalidParameterError
            If `X` has another number of rows.
        """
        self._check_length(X, "X")
        container = container_of(X)
        size = None if container is None else container.row_size(X)
        size = size or RowSize(self.row_bytes, self.row_bytes)
        for start, stop in itertools.pairwise(self.boundaries.tolist()):
            others = np.arange(self.n_samples - (stop - start))
            others[start:] += stop - start
            train = order_rows(others, size)
            del others  # the generator would keep it while the split is used
            yield train, np.arange(start, stop)
            del train

    def get_n_splits(self, X: Any = None, y: Any = None, groups: Any = None) -> int:
        """Return the number of splits."""
        return self.n_splits

    def arrange(
        self,
        values: Any,
        *,
        store: str | os.PathLike[str] = "auto",
        mmap_mode: str = "c",
    ) -> Any:
        """Put another array into the order of the arranged data.

        Parameters
        ----------
        values : array-like of shape (n_samples, ...)
            Rows in the original order: sample weights, say.
        store : {"auto", "memory", "disk"} or path-like, default="auto"
            Where the result lives; see `skl_mmap.arrange`.
        mmap_mode : {"c", "r"}, default="c"
            Whether it may be written to (copy-on-write), or not.

        Returns
        -------
        SharedArray, or what `values` is

        Raises
        ------
        InvalidParameterError
            If `values` has another number of rows, or a parameter cannot be used.
        NotEnoughMemoryError, NotEnoughDiskError
            If there is no room.
        """
        settings = Settings.from_parameter(mmap_mode)
        placement = Placement.from_parameter(store)
        self._check_length(values, "values")
        return gather(values, self.permutation, placement, settings, "values")

    def restore(self, values: Any) -> Any:
        """Put rows back into the original order.

        Parameters
        ----------
        values : array-like of shape (n_samples, ...)
            In the order of the arranged data: what ``cross_val_predict`` returned.

        Returns
        -------
        ndarray, or what `values` is
            A copy, not shared.

        Raises
        ------
        InvalidParameterError
            If `values` has another number of rows.
        """
        self._check_length(values, "values")
        return restore(values, self.permutation)

    def _check_length(self, values: Any, name: str) -> None:
        n_rows = count_rows(values, name)
        if n_rows != self.n_samples:
            raise InvalidParameterError(
                f"{name} has {n_rows} rows, and these splits are for the "
                f"{self.n_samples} rows that were arranged, so the folds would be "
                "wrong. Pass what arrange() returned, or arrange this data too; a "
                "search within a train set needs a splitter of its own."
            )

    def __sklearn_clone__(self) -> Self:
        return self

    def __reduce__(self) -> Any:
        return type(self), (self.permutation, self.boundaries, self.row_bytes)

    def __repr__(self) -> str:
        """Tell the size, and not the rows."""
        return (
            f"{type(self).__name__}(n_splits={self.n_splits}, "
            f"n_samples={self.n_samples})"
        )
