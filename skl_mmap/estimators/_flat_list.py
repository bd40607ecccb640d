"""The fits of a stacking ensemble as one flat list of tasks.

scikit-learn fits the base estimators on all rows first, each in a task, and then runs
one task for each of them that goes through the folds: workers wait for the slowest one
twice. Here every fit is a task of its own::

    a on all rows | b on all rows | a, fold 1 | a, fold 2 | ... | b, fold 1 | ...
                                        |           |                 |
                                        v           v                 v   written there
                        buffers:  | predictions of a            | predictions of b |

"All rows" are those that the ensemble is fitted on. If it is part of something larger,
as in a search, these are rows of X themselves, and so are those of the folds.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from copy import deepcopy
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn.base import clone, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils.parallel import delayed

from skl_mmap._compat import select_rows, stacking_functions
from skl_mmap.backend import label_fold
from skl_mmap.estimators._rows import Rows, Splits
from skl_mmap.memory import Placement, ResultBuffer, ResultSlot, WrittenArray

DROPPED = "drop"
WEIGHTS = "sample_weight"
# What scikit-learn's stack_method="auto" tries, in this order.
_METHODS = ("predict_proba", "decision_function", "predict")
_NUMBER_BYTES = 8


class RefusalError(Exception):
    """Says why an ensemble has to be fitted in scikit-learn's own way."""


class Member(NamedTuple):
    """A base estimator, and what its predictions are made with."""

    name: str
    estimator: Any
    method: str


def find_method(estimator: Any, stack_method: str) -> str | None:
    """Return the method for predictions of a base estimator; None if it has none."""
    methods = _METHODS if stack_method == "auto" else (stack_method,)
    return next((method for method in methods if hasattr(estimator, method)), None)


def make_splits(stacking: Any, cv: Any, X: Any, y: npt.NDArray[Any]) -> Splits:
    """Split the rows that an ensemble is fitted on, as it would do it."""
    cv = check_cv(cv, y, classifier=bool(is_classifier(stacking)))
    if hasattr(cv, "random_state") and cv.random_state is None:
        cv.random_state = np.random.RandomState()
    # A copy, as scikit-learn makes one for each estimator: a random state that the user
    # has given is not used up.
    splits = Splits(deepcopy(cv).split(X, y), len(y))
    if not splits.is_partition:
        raise RefusalError("its test sets are no partition of the rows")
    return splits


class FitData(NamedTuple):
    """What the base estimators of an ensemble are fitted on.

    Attributes
    ----------
    X, y : array-like of n_samples
        The data. Of y, only `rows` count; classes are numbered.
    selectable : array-like of n_samples
        The same X, of which rows can be selected.
    rows : Rows or None
        The rows that the ensemble is fitted on, or None for all.
    fit_params : dict
        Weights of all rows of X, or nothing.
    n_classes : int
        0 for regressors.
    splits : Splits
        Folds of `rows`.
    """

    X: Any
    y: npt.NDArray[Any]
    selectable: Any
    rows: Rows | None
    fit_params: dict[str, Any]
    n_classes: int
    splits: Splits


class MemberFits:
    """A base estimator on all rows, and on each fold.

    Parameters
    ----------
    member : Member
        What is fitted.
    data : FitData
        What it is fitted on.
    placement : Placement
        Where predictions of the folds live.

    Attributes
    ----------
    fitted, predictions : estimator, array-like
        On all rows, and those of the folds in the order of the rows; after `take`.
    """

    fitted: Any
    predictions: Any

    def __init__(self, member: Member, data: FitData, placement: Placement) -> None:
        self._member = member
        self._data = data
        n_classes = 1 if member.method == "predict" else max(data.n_classes, 1)
        # An estimate: what is larger is sent.
        self._row_bytes = _NUMBER_BYTES * n_classes
        n_bytes = sum(data.splits.n_tests) * self._row_bytes
        what = f"the predictions of {member.name}"
        self._buffer = ResultBuffer(max(n_bytes, 1), placement, what)

    def fit_task(self, function: Any) -> Any:
        """Return the task that fits it on all rows, with `fit_rows` or its like."""
        name, estimator, _ = self._member
        data = self._data
        return delayed(function)(
            clone(estimator),
            *(data.X, data.y, data.rows, data.fit_params),
            label=f"{name}, all rows",
        )

    def fold_tasks(self, function: Any) -> Iterator[Any]:
        """Yield those for the folds, with `predict_fold` or its like."""
        name, estimator, method = self._member
        data, place = self._data, 0
        for fold, (train, test) in enumerate(data.splits):
            slot = self._buffer.slot(place, data.splits.n_tests[fold] * self._row_bytes)
            place += slot.n_bytes
            yield delayed(function)(
                *(clone(estimator), data.selectable, data.y),
                *(train.of(data.rows), test.of(data.rows)),
                *(data.fit_params, method, slot),
                label=label_fold(name, fold, len(data.splits)),
            )

    def take(self, fitted: Any, parts: list[Any]) -> None:
        """Take what the tasks have returned."""
        self._buffer.finish()
        self.fitted = fitted
        self.predictions = _join(parts, self._data.splits, self._buffer)


def _join(parts: list[Any], splits: Splits, buffer: ResultBuffer) -> Any:
    """Put the predictions of the folds into the order of the rows."""
    is_written = all(isinstance(part, WrittenArray) for part in parts)
    if is_written and splits.inverse is None:
        joined = buffer.read_joined(parts)
        if joined is not None:
            return joined
    arrays: list[Any] = [
        buffer.read(part) if isinstance(part, WrittenArray) else part for part in parts
    ]
    if sparse.issparse(arrays[0]):
        together = sparse.vstack(arrays, format=arrays[0].format)
    else:
        together = np.concatenate(arrays)
    return together if splits.inverse is None else together[splits.inverse]


def with_arrays(item: Any) -> Any:
    """Return a task, (function, args, kwargs), with arrays in place of `Rows`."""
    function, args, kwargs = item
    return (
        function,
        tuple(arg.index() if isinstance(arg, Rows) else arg for arg in args),
        {k: v.index() if isinstance(v, Rows) else v for k, v in kwargs.items()},
    )


def _scikit_learns_functions() -> Any:
    # Those that its own tasks call, so that every detail is the same. That they are
    # there was checked before the task was made.
    functions = stacking_functions()
    assert functions is not None
    return functions


# Workers run the next four. The backend and _compat know them by name.
def fit_rows(
    estimator: Any,
    X: Any,
    y: Any,
    train: Any,
    fit_params: Any,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Fit an estimator on some rows, or on all with None, and return it."""
    fit, _ = _scikit_learns_functions()
    if train is not None:
        X, y = select_rows(X, train), select_rows(y, train)
        fit_params = {
            name: value if value is None else select_rows(value, train)
            for name, value in fit_params.items()
        }
    return fit(estimator, X, y, fit_params)


def predict_fold(
    estimator: Any,
    X: Any,
    y: Any,
    train: Any,
    test: Any,
    fit_params: Any,
    method: str,
    slot: ResultSlot,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Fit on a train set, write the predictions of its test set, and say where.

    Predictions that do not fit into their slot are returned themselves.
    """
    _, fit_and_predict = _scikit_learns_functions()
    predictions = fit_and_predict(estimator, X, y, train, test, fit_params, method)
    written = slot.write(predictions)
    return predictions if written is None else written


class Done(NamedTuple):
    """What a task has returned, and how long it took."""

    result: Any
    seconds: float


class Failed(NamedTuple):
    """Stands for an error, which comes up again when scikit-learn makes this fit."""

    error: str


def _try(function: Any, *args: Any, **kwargs: Any) -> Done | Failed:
    begin = time.perf_counter()
    try:
        result = function(*args, **kwargs)
    except Exception as error:  # noqa: BLE001 - what an estimator raises
        return Failed(repr(error))
    return Done(result, time.perf_counter() - begin)


def try_fit_rows(
    estimator: Any,
    X: Any,
    y: Any,
    train: Any,
    fit_params: Any,
    label: str,
) -> Done | Failed:
    """Fit as `fit_rows`, and return an error instead of raising it."""
    return _try(fit_rows, estimator, X, y, train, fit_params, label)


def try_predict_fold(
    estimator: Any,
    X: Any,
    y: Any,
    train: Any,
    test: Any,
    fit_params: Any,
    method: str,
    slot: ResultSlot,
    label: str,
) -> Done | Failed:
    """Fit and predict as `predict_fold`, and return an error instead of raising it."""
    return _try(
        predict_fold, estimator, X, y, train, test, fit_params, method, slot, label
    )
