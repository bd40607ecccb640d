"""A splitter that orders the rows of each train set page by page."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator
from sklearn.model_selection import check_cv

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.folds._element_order import order_for

__all__ = ["PageFriendly"]

# For inputs whose rows have no fixed size: index arrays and float64 targets gain.
_DEFAULT_ROW_BYTES = 8


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
        row_bytes = _row_bytes(X)
        if groups is not None:
            params["groups"] = groups
        for train, test in self._splitter(y).split(X, y, **params):
            yield order_for(train, X, row_bytes=row_bytes), test

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


def _row_bytes(X: Any) -> int:
    shape = getattr(X, "shape", ())
    n_bytes = getattr(X, "nbytes", None)
    if isinstance(n_bytes, int) and shape and shape[0]:
        return max(n_bytes // int(shape[0]), 1)
    return _DEFAULT_ROW_BYTES
