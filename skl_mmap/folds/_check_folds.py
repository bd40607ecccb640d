"""What happens to each fold: a view, a joined view, or a copy, and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.model_selection import check_cv
from sklearn.utils import indexable

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.folds._fold_data import FoldData, describe_data
from skl_mmap.folds._fold_reasons import (
    Advice,
    Circumstances,
    PlannedRows,
    explain,
    is_stratified,
    kind_of,
)
from skl_mmap.folds._fold_report import Fold, FoldReport, FoldRows
from skl_mmap.folds._fold_rows import PartitionCheck, check_rows, count_runs

if TYPE_CHECKING:
    from skl_mmap.backend._options import Options

__all__ = ["check_folds"]


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
    the kernel may refuse at that moment (too many mappings) is not predicted.

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
    ('parallel_config(backend="mmap", row_order="any") or KFold(n_splits=5)',)
    >>> skl_mmap.check_folds(5, X).copied_bytes
    0
    """
    from skl_mmap.backend._options import Options

    given = {"row_order": row_order, "min_bytes": min_bytes}
    options = Options.from_parameters(given)
    X, y, groups = _check_lengths(X, y, groups)
    splitter = _check_splitter(cv, y, estimator)
    data = describe_data(X, y, options, estimator)
    partition = PartitionCheck(data.n_samples)
    planned = []
    for train, test in _splits(splitter, X, y, groups):
        partition.see(train, test)
        planned.append(_plan_split(train, test, data, options))
    call = _arrange_call(y, groups) if partition.holds else ""
    about = _describe_circumstances(splitter, data, options, call, y)
    folds = tuple(
        Fold(number, *(_as_fold_rows(rows, about) for rows in parts))
        for number, parts in enumerate(planned)
    )
    title = f"{_name_of(splitter)} on {data.name}, row_order={row_order!r}"
    return FoldReport(title, row_order, folds)


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
                check_rows(train, n_samples, f"the train set of split {number}"),
                check_rows(test, n_samples, f"the test set of split {number}"),
            )
    except InvalidParameterError:
        raise
    except (TypeError, ValueError) as error:
        raise InvalidParameterError(
            f"{_name_of(splitter)} cannot split {n_samples} rows: {error} "
            "cross_validate would stop here too; pass another cv, or what it asks for."
        ) from error


def _plan_split(
    train: Any, test: Any, data: FoldData, options: Options
) -> tuple[PlannedRows, PlannedRows]:
    ordered = data.planner.order(train, test)
    parts = []
    for part, rows in zip(("train", "test"), ordered, strict=True):
        cost = data.cost_of(rows, train)
        planned = PlannedRows(
            part,
            int(np.count_nonzero(rows)) if _is_mask(rows) else len(rows),
            count_runs(rows),
            _is_mask(rows),
            cost.mapped_bytes,
            cost.uncounted_bytes,
            cost.copy_reasons,
        )
        parts.append(planned)
    first, second = parts
    is_worth_it = first.copy_reasons or second.copy_reasons
    if options.row_order == "exact" and not data.is_refused and is_worth_it:
        in_train, in_test = data.copied_in_any_order(train, test)
        first = replace(first, any_copied_bytes=in_train)
        second = replace(second, any_copied_bytes=in_test)
    return first, second


def _is_mask(rows: Any) -> bool:
    return np.asarray(rows).dtype == bool


def _arrange_call(y: Any, groups: Any) -> str:
    more = "" if groups is None else ", groups=groups"
    if y is None:
        return f"X, _, cv = skl_mmap.arrange(X, cv=cv{more})"
    return f"X, y, cv = skl_mmap.arrange(X, y, cv=cv{more})"


def _describe_circumstances(
    splitter: Any,
    data: FoldData,
    options: Options,
    arrange_call: str,
    y: Any,
) -> Circumstances:
    return Circumstances(
        splitter,
        options.row_order,
        data.n_samples,
        data.is_frame,
        data.filters_masks,
        data.unit_rows,
        data.n_arrays,
        data.refusal,
        options.min_bytes or 0,
        options.settings.min_mapped_bytes,
        arrange_call,
        is_stratified(splitter) and _has_sorted_classes(y),
    )


def _has_sorted_classes(y: Any) -> bool:
    labels = np.asarray(y).ravel()
    n_changes = int(np.count_nonzero(labels[1:] != labels[:-1]))
    return n_changes < len(np.unique(labels))


def _as_fold_rows(rows: PlannedRows, about: Circumstances) -> FoldRows:
    advice: Advice = explain(rows, about)
    return FoldRows(
        rows.part,
        rows.n_rows,
        rows.n_runs,
        kind_of(rows, about.n_arrays),
        rows.mapped_bytes,
        rows.copied_bytes,
        rows.copy_reasons,
        rows.uncounted_bytes,
        *advice,
    )


def _name_of(splitter: Any) -> str:
    is_list = type(splitter) is type(check_cv([]))
    return "a list of splits" if is_list else repr(splitter)
