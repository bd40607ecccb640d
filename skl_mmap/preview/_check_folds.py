"""What happens to each fold: a view, a joined view, or a copy, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
from sklearn.model_selection import check_cv
from sklearn.utils import indexable

from skl_mmap.backend import Options
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Cost, Reason, count_runs, count_selected
from skl_mmap.orders import PartitionCheck
from skl_mmap.preview._explain import (
    Explainer,
    PlannedRows,
    count_arrays,
    explain_refusal,
    is_by_column,
    is_pairwise,
    is_stratified,
    kind_of,
    name_of_data,
    unit_rows,
)
from skl_mmap.preview._fold_report import Fold, FoldReport, FoldRows
from skl_mmap.preview._rehearsal import Rehearsal


def check_folds(
    cv: Any,
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    estimator: Any = None,
    row_order: str = "exact",
    min_bytes: int | str | None = "1M",
) -> FoldReport:
    """Predict which folds the backend "mmap" maps, which it copies, and why.

    Parameters
    ----------
    cv : int, cross-validation splitter or iterable of (train, test)
        What makes the splits; it is run once. An int means ``KFold``, or
        ``StratifiedKFold`` if `estimator` is a classifier and `y` has classes, as in
        ``cross_validate``.
    X : array-like of shape (n_samples, ...)
        The data as it would be given to ``cross_validate``: an array of any layout,
        a ``numpy.memmap``, a data frame, a sparse matrix, or what `share` returns.
    y : array-like of shape (n_samples, ...), optional
        The target. Only the rows of `X` are in the report.
    groups : array-like of shape (n_samples,), optional
        For the splitter.
    estimator : estimator, optional
        What would be fitted. It is looked at, not fitted.
    row_order : {"exact", "any"}, default="exact"
        The backend's parameter: whether the rows of train sets keep their order.
    min_bytes : int, str or None, default="1M"
        The backend's parameter: smaller arrays are not shared.

    Returns
    -------
    FoldReport
        ``print()`` shows it as a table, with what to do about copies.

    Raises
    ------
    InvalidParameterError
        If `cv` makes no splits, or such as do not fit `X`; if `X`, `y` and `groups`
        have different lengths; if `row_order` or `min_bytes` cannot be used.

    See Also
    --------
    arrange : Data in the order of its folds, so that these can be mapped.

    Notes
    -----
    The code of the backend decides, but neither shares nor maps anything. O(n) time
    for each split; memory for a few index arrays of one split, and none of the size
    of `X`. Sparse matrices other than CSR are converted, as scikit-learn does. What
    the kernel may refuse at that moment (too many mappings) is not predicted. Neither
    is the copy in another layout that some estimators are given (``layouts="auto"``),
    of which more may be mapped: this is about `X` as it is. And of a search, all
    candidates share what is copied of scattered folds, if there are no more splits than
    workers.

    Examples
    --------
    >>> import numpy as np
    >>> import skl_mmap
    >>> from sklearn.model_selection import KFold
    >>> X = np.zeros((20_000, 32))
    >>> report = skl_mmap.check_folds(KFold(4), X)
    >>> [fold.train.kind for fold in report.folds]
    ['view', 'part copied', 'part copied', 'view']
    >>> report.remedies
    ('parallel_config("mmap", n_jobs=4, row_order="any")', 'cv = KFold(n_splits=5)')
    >>> skl_mmap.check_folds(5, X).copied_bytes
    0
    """
    given = {"row_order": row_order, "min_bytes": min_bytes}
    options = Options.from_parameters(given)
    X, y, groups = _check_lengths(X, y, groups)
    splitter = _check_splitter(cv, y, estimator)
    planner = _Planner(X, y, options, estimator)
    partition = PartitionCheck(planner.rehearsal.n_rows)
    planned = []
    for train, test in _splits(splitter, X, y, groups):
        partition.see(train, test)
        planned.append(planner.plan_split(train, test))
    explainer = Explainer(
        cv=splitter,
        n_splits=len(planned),
        row_order=row_order,
        n_samples=planner.rehearsal.n_rows,
        is_frame=hasattr(X, "columns") or hasattr(X, "iloc"),
        is_by_column=is_by_column(planner.rehearsal.X),
        unit_rows=unit_rows(planner.rehearsal.X),
        n_arrays=count_arrays(planner.rehearsal.X),
        refusal=planner.refusal,
        min_mapped_bytes=options.settings.min_mapped_bytes,
        is_partition=partition.holds,
        has_target=y is not None,
        has_groups=groups is not None,
        has_sorted_classes=is_stratified(splitter) and _has_sorted_classes(y),
    )
    folds = tuple(
        Fold(number, *(_as_fold_rows(rows, explainer) for rows in parts))
        for number, parts in enumerate(planned)
    )
    title = f"{_name_of(splitter)} on {name_of_data(X)}, row_order={row_order!r}"
    return FoldReport(title, row_order, folds)


class _Planner:
    """Plans the selections of splits, also for another order of rows."""

    def __init__(self, X: Any, y: Any, options: Options, estimator: Any) -> None:
        self.rehearsal = Rehearsal(X, y, options)
        self._is_pairwise = is_pairwise(estimator, X)
        self.refusal = explain_refusal(
            X, self.rehearsal, options, is_pairwise=self._is_pairwise
        )
        self._in_any_order = None
        if options.row_order == "exact" and self.refusal is None:
            self._in_any_order = Rehearsal(X, y, replace(options, row_order="any"))

    def plan_split(self, train: Any, test: Any) -> tuple[PlannedRows, PlannedRows]:
        """Plan the selection of a train and of a test set."""
        ordered = self.rehearsal.order(train, test)
        costs = [self._plan(rows, train) for rows in ordered]
        any_copied: list[int | None] = [None, None]
        if self._in_any_order is not None and any(cost.counted for cost in costs):
            sets = self._in_any_order.order(train, test)
            any_copied = [self._in_any_order.plan(rows).copied_bytes for rows in sets]
        first, second = (
            PlannedRows(
                part, count_selected(np.asarray(rows)), count_runs(rows), cost, n_bytes
            )
            for part, rows, cost, n_bytes in zip(
                ("train", "test"), ordered, costs, any_copied, strict=True
            )
        )
        return first, second

    def _plan(self, rows: Any, train: Any) -> Cost:
        cost = self.rehearsal.plan(rows)
        if not self._is_pairwise:
            return cost
        share = count_selected(np.asarray(train)) / max(self.rehearsal.n_rows, 1)
        return Cost.of_copy(Reason.PAIRWISE, round(cost.n_bytes * share))


def _check_lengths(X: Any, y: Any, groups: Any) -> tuple[Any, Any, Any]:
    if isinstance(X, str | bytes) or hasattr(X, "__fspath__"):
        raise InvalidParameterError(
            f"X={X!r} is the name of a file, and folds are selected from what is in "
            "it. Pass skl_mmap.load(X)."
        )
    try:
        return tuple(indexable(X, y, groups))
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            f"X, y and groups do not fit together: {error}. The same index selects "
            "from all of them; pass a row of each for every sample."
        ) from error


def _check_splitter(cv: Any, y: Any, estimator: Any) -> Any:
    from sklearn.base import is_classifier

    classifier = estimator is not None and is_classifier(estimator)
    try:
        return check_cv(cv, y, classifier=classifier)
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            f"cv={cv!r} gives no train and test sets. Pass an int of at least 2, a "
            "splitter, or a list of (train, test)."
        ) from error


def _splits(splitter: Any, X: Any, y: Any, groups: Any) -> Iterator[tuple[Any, Any]]:
    """Yield valid train and test sets."""
    n_samples = X.shape[0] if hasattr(X, "shape") else len(X)
    try:
        for number, (train, test) in enumerate(splitter.split(X, y, groups)):
            yield (
                _check_rows(train, n_samples, f"the train set of split {number}"),
                _check_rows(test, n_samples, f"the test set of split {number}"),
            )
    except InvalidParameterError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            f"{_name_of(splitter)} cannot split {n_samples} rows: {error} "
            "cross_validate would stop here too; pass another cv, or what it asks for."
        ) from error


def _check_rows(rows: Any, n_samples: int, name: str) -> Any:
    """Check that rows can be selected: indices, which may be negative, or a mask.

    Returns what was given: lists are treated differently from arrays.
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


def _has_sorted_classes(y: Any) -> bool:
    labels = np.asarray(y).ravel()
    n_changes = int(np.count_nonzero(labels[1:] != labels[:-1]))
    return n_changes < len(np.unique(labels))


def _as_fold_rows(rows: PlannedRows, explainer: Explainer) -> FoldRows:
    cost = rows.cost
    return FoldRows(
        rows.part,
        rows.n_rows,
        rows.n_runs,
        kind_of(rows, explainer.n_arrays),
        cost.mapped_bytes,
        cost.copied_bytes,
        {cause.key: n_bytes for cause, n_bytes in cost.counted.items()},
        rows.uncounted_bytes,
        *explainer.explain(rows),
    )


def _name_of(splitter: Any) -> str:
    is_list = type(splitter) is type(check_cv([]))
    return "a list of splits" if is_list else repr(splitter)
