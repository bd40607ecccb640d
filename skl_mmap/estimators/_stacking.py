"""Fitting a stacking ensemble as one flat list of tasks.

scikit-learn fits the base estimators on all rows first, each in a task, and then runs
one task for each of them that goes through the folds: workers wait for the slowest one
twice. Here every fit is a task of its own::

    a on all rows | b on all rows | a, fold 1 | a, fold 2 | ... | b, fold 1 | ...
                                        |           |                 |
                                        v           v                 v   written there
                        buffer:   | predictions of a            | predictions of b |

The rest is scikit-learn's own `fit`, told that its estimators are fitted already
(``cv="prefit"``): it validates, asks each of them for its predictions, and fits the
final estimator on these. What it asks are stand-ins, which have the predictions of the
folds ready. So nothing of the ensemble itself is done anew here.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from copy import deepcopy
from numbers import Integral
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse
from sklearn import get_config
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.model_selection import check_cv
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import Bunch, column_or_1d, get_tags, indexable
from sklearn.utils.parallel import Parallel, delayed

from skl_mmap._compat import stacking_functions
from skl_mmap.backend import label_fold
from skl_mmap.estimators._single_fits import SingleFit
from skl_mmap.memory import (
    Placement,
    ResultBuffer,
    ResultSlot,
    Runs,
    WrittenArray,
    index_of_runs,
    index_runs,
)

_DROPPED = "drop"
_WEIGHTS = "sample_weight"
# What scikit-learn's stack_method="auto" tries, in this order.
_METHODS = ("predict_proba", "decision_function", "predict")
_NUMBER_BYTES = 8

_Index = npt.NDArray[Any]


def is_stacking(estimator: Any) -> bool:
    """Tell if an estimator is one of scikit-learn's two stacking ensembles."""
    return type(estimator) in (StackingClassifier, StackingRegressor)


def fit_stacking(
    stacking: Any,
    X: Any,
    y: Any,
    fit_params: dict[str, Any],
    placement: Placement,
    *,
    final_in_worker: bool = False,
) -> str | None:
    """Fit a stacking ensemble as its own `fit` would do it, but as one list of tasks.

    `fit_params` are passed to `fit` beside X and y; `placement` is where the
    predictions of the folds live; `final_in_worker` fits the final estimator in a
    worker as well. Returns None, or why scikit-learn has to do it.
    """
    refusal = _find_refusal(stacking, y)
    if refusal is not None:
        return refusal
    if isinstance(stacking.cv, Iterator):
        # It can be gone through once, and may be needed again after a refusal.
        stacking.cv = list(stacking.cv)
    estimators, cv, method = stacking.estimators, stacking.cv, stacking.stack_method
    final = stacking.final_estimator
    fits = _BaseFits(stacking, y, fit_params, placement)
    try:
        stand_ins = [
            (name, est if est == _DROPPED else _StandIn(name, est, method, fits))
            for name, est in estimators
        ]
        stacking.estimators, stacking.cv = stand_ins, "prefit"
        if final_in_worker:
            stacking.final_estimator = _final_stand_in(stacking)
        stacking.fit(X, y, **fit_params)
    except _RefusalError as error:
        return str(error)
    finally:
        stacking.estimators, stacking.cv = estimators, cv
        stacking.final_estimator = final
    _put_estimators(stacking, fits.fitted)
    return None


def _find_refusal(stacking: Any, y: Any) -> str | None:
    """Say why scikit-learn had better fit an ensemble itself; None if it need not."""
    if stacking_functions() is None:
        return "this version of scikit-learn is not known well enough"
    config = get_config()
    if config["enable_metadata_routing"]:
        return "metadata routing decides what each estimator is given"
    if config["array_api_dispatch"]:
        return "arrays may be of another library than numpy"
    if not _makes_folds(stacking.cv):
        return f"there are no folds with cv={stacking.cv!r}"
    shape = np.asarray(y).shape
    if len(shape) != 1 and shape[1:] != (1,):
        return "y has several columns"
    is_right = is_classifier if is_classifier(stacking) else is_regressor
    try:
        pairs = [(str(name), est) for name, est in stacking.estimators]
        is_known = all(
            est == _DROPPED
            or (hasattr(est, "get_params") and (is_right(est) or is_regressor(est)))
            for _, est in pairs
        )
    except (TypeError, ValueError, AttributeError):
        is_known = False
    # It knows best what is wrong with them.
    return None if is_known else "its estimators are not what it expects"


def _makes_folds(cv: Any) -> bool:
    """Tell if scikit-learn accepts this parameter; ``"prefit"`` does not count."""
    if isinstance(cv, Integral):
        return int(cv) >= 2
    if isinstance(cv, str):
        return False
    return cv is None or isinstance(cv, Iterable) or hasattr(cv, "split")


def _final_stand_in(stacking: Any) -> Any:
    """Return what is fitted in a worker in place of the final estimator."""
    final = stacking.final_estimator
    if final is None:  # scikit-learn's documentation names what it takes then
        final = LogisticRegression() if is_classifier(stacking) else RidgeCV()
    if not hasattr(final, "fit"):
        return final  # scikit-learn's error says what is missing
    return SingleFit(final, stacking, "final_estimator_", "final estimator")


def _put_estimators(stacking: Any, fitted: list[Any]) -> None:
    """Replace the stand-ins in a fitted ensemble by what they stood for."""
    stacking.estimators_ = fitted
    remaining = iter(fitted)
    stacking.named_estimators_ = Bunch(
        **{
            name: _DROPPED if est == _DROPPED else next(remaining)
            for name, est in stacking.estimators
        }
    )
    for estimator in fitted:
        if hasattr(estimator, "feature_names_in_"):
            stacking.feature_names_in_ = estimator.feature_names_in_


class _RefusalError(Exception):
    """Leaves scikit-learn's `fit` when it turns out that it has to do the rest."""


class _StandIn:
    """A base estimator for scikit-learn, whose predictions are those of the folds."""

    def __init__(
        self, name: str, estimator: Any, stack_method: str, fits: _BaseFits
    ) -> None:
        self._estimator = estimator
        methods = _METHODS if stack_method == "auto" else (stack_method,)
        method = next((m for m in methods if hasattr(estimator, m)), None)
        if method is None:
            return  # scikit-learn's error says that the estimator has none of them
        place = fits.add(name, estimator, method)
        predict: Any = functools.partial(fits.predict, place)
        predict.__name__ = method
        setattr(self, method, predict)

    def fit(self, X: Any, y: Any) -> None:
        """Be taken for an estimator."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        return get_tags(self._estimator)


class _Member(NamedTuple):
    """A base estimator, and what its predictions are made with."""

    name: str
    estimator: Any
    method: str


class _BaseFits:
    """All fits of an ensemble but the last; they run when a prediction is asked for."""

    def __init__(
        self, stacking: Any, y: Any, fit_params: dict[str, Any], placement: Placement
    ) -> None:
        self._stacking = stacking
        self._has_classes = bool(is_classifier(stacking))
        self._cv = stacking.cv
        self._y = y
        self._fit_params = {
            name: value for name, value in fit_params.items() if name == _WEIGHTS
        }
        self._placement = placement
        self._members: list[_Member] = []
        self._predictions: list[Any] | None = None
        self.fitted: list[Any] = []  # base estimators, fitted on all rows

    def add(self, name: str, estimator: Any, method: str) -> int:
        """Add a base estimator, and return its number."""
        self._members.append(_Member(name, estimator, method))
        return len(self._members) - 1

    def predict(self, place: int, X: Any) -> Any:
        """Return the predictions of the folds of a base estimator."""
        if self._predictions is None:
            self._predictions = self._run(X)
        return self._predictions[place]

    def _run(self, X: Any) -> list[Any]:
        y = self._encoded_y()
        splits = self._split(X, y)
        n_bytes = sum(splits.n_tests) * sum(map(self._row_bytes, self._members))
        what = f"the predictions of {len(self._members)} estimators"
        buffer = ResultBuffer(max(n_bytes, 1), self._placement, what)
        # One by one: a task is a fit of a large estimator, and has its own record.
        parallel = Parallel(
            n_jobs=self._stacking.n_jobs, verbose=self._stacking.verbose, batch_size=1
        )
        done = parallel(self._tasks(X, y, splits, buffer))
        buffer.finish()
        n_members, n_splits = len(self._members), len(splits)
        self.fitted = done[:n_members]
        return [
            _join(done[begin : begin + n_splits], splits, buffer)
            for begin in range(n_members, len(done), n_splits)
        ]

    def _row_bytes(self, member: _Member) -> int:
        """Estimate the size of a prediction; what is larger is sent."""
        if member.method == "predict":
            return _NUMBER_BYTES
        return _NUMBER_BYTES * len(getattr(self._stacking, "classes_", (0,)))

    def _encoded_y(self) -> npt.NDArray[Any]:
        """Return y as base estimators get it: classes are numbered."""
        y = column_or_1d(self._y)
        if not self._has_classes:
            return np.asarray(y)
        return np.asarray(LabelEncoder().fit(self._stacking.classes_).transform(y))

    def _split(self, X: Any, y: npt.NDArray[Any]) -> _Splits:
        cv = check_cv(self._cv, y, classifier=self._has_classes)
        if hasattr(cv, "random_state") and cv.random_state is None:
            cv.random_state = np.random.RandomState()
        X, y = indexable(X, y)
        # A copy, as scikit-learn makes one for each estimator: a random state that
        # the user has given is not used up.
        splits = _Splits(deepcopy(cv).split(X, y), len(y))
        if not splits.is_partition:
            raise _RefusalError("its test sets are no partition of the rows")
        return splits

    def _tasks(
        self, X: Any, y: npt.NDArray[Any], splits: _Splits, buffer: ResultBuffer
    ) -> Iterator[Any]:
        """Yield all fits: the long ones first, so that none of them is the last."""
        for member in self._members:
            estimator = clone(member.estimator)
            label = f"{member.name}, all rows"
            yield delayed(fit_on_all)(estimator, X, y, self._fit_params, label=label)
        X, y = indexable(X, y)
        place = 0
        # Estimator by estimator, as scikit-learn does it: if there is one job only,
        # all draw from numpy's global random state in the same order.
        for member in self._members:
            row_bytes = self._row_bytes(member)
            for fold, (train, test) in enumerate(splits):
                slot = buffer.slot(place, len(test) * row_bytes)
                yield delayed(predict_fold)(
                    *(clone(member.estimator), X, y, train, test),
                    *(self._fit_params, member.method, slot),
                    label=label_fold(member.name, fold, len(splits)),
                )
                place += slot.n_bytes


def _join(parts: list[Any], splits: _Splits, buffer: ResultBuffer) -> Any:
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


class _Splits:
    """Train and test sets as runs: index arrays are as large as columns of X."""

    def __init__(self, splits: Iterable[tuple[Any, Any]], n_samples: int) -> None:
        self._splits: list[tuple[Runs | _Index, Runs | _Index]] = []
        self.n_tests: list[int] = []  # rows of each test set
        is_in_order = True
        for train, test in splits:
            train, test = np.asarray(train), np.asarray(test)
            is_in_order &= _is_run(test, start=sum(self.n_tests))
            self._splits.append((_compact(train), _compact(test)))
            self.n_tests.append(len(test))
        # Where each row is in the test sets laid behind each other; None if they are in
        # the order of the rows.
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


def _compact(index: _Index) -> Runs | _Index:
    runs = index_runs(index, min_bytes=1)
    return index if runs is None else runs


def _expand(kept: Runs | _Index) -> _Index:
    return index_of_runs(kept) if kept.ndim == 2 else kept


def _scikit_learns_functions() -> Any:
    # Those that its own tasks call, so that every detail is the same. That they are
    # there was checked before the task was made.
    functions = stacking_functions()
    assert functions is not None
    return functions


# Workers run the next two. The backend and _compat know them by name.
def fit_on_all(
    estimator: Any,
    X: Any,
    y: Any,
    fit_params: Any,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Fit an estimator on all rows, and return it."""
    fit, _ = _scikit_learns_functions()
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
