"""Data in the order of its folds, so that folds can be mapped."""

from __future__ import annotations

import os
from typing import Any

from skl_mmap.containers import count_rows, gather
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, Settings, trim_heap
from skl_mmap.orders._page_order import DEFAULT_ROW_BYTES, size_of_rows
from skl_mmap.orders._partition import find_partition
from skl_mmap.orders._splitters import ArrangedSplits


def arrange(
    X: Any,
    y: Any = None,
    *more: Any,
    cv: Any = 5,
    groups: Any = None,
    classifier: bool = False,
    store: str | os.PathLike[str] = "auto",
    mmap_mode: str = "c",
) -> tuple[Any, ...]:
    """Write data once in the order of its folds, so that no fold needs a copy.

    The folds of shuffled, stratified and grouped splitters have no long runs of rows
    that could be mapped. In the order of the folds they do: each test set is one run.
    The folds hold the same rows as before; only the order of the rows is another.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        The data, which is left as it is. A ``numpy.memmap`` is read a part at a time.
        A sparse matrix that is not in CSR format is converted first.
    y : array-like of shape (n_samples, ...), optional
        The target.
    *more : array-like of shape (n_samples, ...) or None
        What else has a row for each sample: weights, groups for the estimator.
    cv : int, cross-validation splitter or iterable of (train, test), default=5
        What makes the folds, run once. Every row must be in one test set at most, and
        every train set must be all of the other rows, as with ``KFold``,
        ``StratifiedKFold``, ``GroupKFold``, ``StratifiedGroupKFold``,
        ``LeaveOneGroupOut`` and ``PredefinedSplit``, shuffled or not.
    groups : array-like of shape (n_samples,), optional
        For the splitter. The returned one needs them no more.
    classifier : bool, default=False
        Whether an int, for a target with classes, means ``StratifiedKFold``, as it
        does in ``cross_validate`` with a classifier, or ``KFold``.
    store : {"auto", "memory", "disk"} or path-like, default="auto"
        Where the result lives: in memory (memfd), on disk in the temporary folder or
        in the one given, or in memory while there is room.
    mmap_mode : {"c", "r"}, default="c"
        Whether the result may be written to (copy-on-write), or not.

    Returns
    -------
    X, y, *more : SharedArray, DataFrame, Series or CSR matrix
        The rows in the order of the folds; within a fold, in the order in which they
        were. None stays None. Arrays and lists of numbers, data frames and series of
        numbers with one dtype, and sparse matrices are in shared memory, row by row.
        Everything else (text, objects, mixed data frames) is indexed the way
        scikit-learn does it, and returned as what it was.
    cv : ArrangedSplits
        The same folds for these arrays. It has the permutation and its inverse, and
        ``restore()`` puts the output of ``cross_val_predict`` back.

    Raises
    ------
    InvalidParameterError
        If the splits are not those of a partition: the message says in which way, and
        what to do. If something has another number of rows than `X`.
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    See Also
    --------
    ArrangedSplits : The splitter that is returned.
    PageFriendly : Enough for splitters whose folds are long runs already.

    Notes
    -----
    One copy of the data, in time and in memory. Beside it, index arrays of about 22
    bytes per row while the rows are sorted, or what the splitter itself needs and 7
    bytes per row, and then 16 MiB of rows on their way: less than 64 MB for a million
    rows, but for ``StratifiedGroupKFold``, which alone needs about 70 bytes per row.
    The permutation is kept (8 bytes per row). The original is the caller's: let go of
    it where it is not needed any more.

    The folds of a sparse matrix are long runs too, but of elements that need not agree
    with pages: use ``row_order="any"`` of the backend, which looks for those that do.

    Estimators that depend on the order of rows (those that shuffle with a seed, for
    example) give slightly different results.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from sklearn.model_selection import KFold, cross_val_predict
    >>> from skl_mmap import arrange
    >>> rng = np.random.default_rng(0)
    >>> X, weights = rng.random((9000, 50)), rng.random(9000)
    >>> y = X.sum(axis=1)
    >>> folds = KFold(5, shuffle=True, random_state=0)
    >>> Xs, ys, weights_s, cv = arrange(X, y, weights, cv=folds)
    >>> cv
    ArrangedSplits(n_splits=5, n_samples=9000)
    >>> prediction = cv.restore(cross_val_predict(Ridge(), Xs, ys, cv=cv))
    >>> bool(np.allclose(prediction, cross_val_predict(Ridge(), X, y, cv=folds)))
    True

    Splitters that test a row twice cannot be arranged:

    >>> from sklearn.model_selection import ShuffleSplit
    >>> arrange(X, cv=ShuffleSplit(3))  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    skl_mmap.exceptions.InvalidParameterError: cv=ShuffleSplit(...) is not...
    """
    settings = Settings.from_parameter(mmap_mode)
    placement = Placement.from_parameter(store)
    names = ("X", "y", *(f"more[{place}]" for place in range(len(more))))
    columns = dict(zip(names, (_as_rows(X), y, *more), strict=True))
    n_samples = _check_lengths(columns, groups)
    partition = find_partition(
        cv, columns["X"], y, groups, n_samples=n_samples, classifier=classifier
    )
    order = partition.permutation
    arranged = [
        None if values is None else gather(values, order, placement, settings, name)
        for name, values in columns.items()
    ]
    trim_heap()  # of the splitter's index arrays, and of rows on their way
    row_bytes = size_of_rows(arranged[0]).part_bytes or DEFAULT_ROW_BYTES
    return (*arranged, ArrangedSplits(order, partition.boundaries, row_bytes))


def _as_rows(X: Any) -> Any:
    """Return X in a format that rows can be selected from: CSR, if it is sparse."""
    return X.tocsr() if hasattr(X, "tocsr") else X


def _check_lengths(columns: dict[str, Any], groups: Any) -> int:
    n_samples = count_rows(columns["X"], "X")
    for name, values in {**columns, "groups": groups}.items():
        n_rows = n_samples if values is None else count_rows(values, name)
        if n_rows != n_samples:
            raise InvalidParameterError(
                f"{name} has {n_rows} rows and X has {n_samples}, so they cannot "
                "belong together. Pass arrays with one row for each sample."
            )
    return n_samples
