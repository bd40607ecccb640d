"""Fitting a stacking ensemble as one flat list of tasks, in the process of the caller.

The list is that of `skl_mmap.estimators._flat_list`. It runs when scikit-learn's own
`fit` asks for the first predictions, and `skl_mmap.estimators._prepared` says how that
comes about.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from numbers import Integral
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn import get_config
from sklearn.base import is_classifier, is_regressor
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d, indexable
from sklearn.utils.parallel import Parallel

from skl_mmap._compat import stacking_functions
from skl_mmap.estimators._flat_list import (
    DROPPED,
    WEIGHTS,
    FitData,
    Member,
    MemberFits,
    RefusalError,
    find_method,
    fit_rows,
    make_splits,
    predict_fold,
    with_arrays,
)
from skl_mmap.estimators._prepared import StandIn, put_estimators, standing_in
from skl_mmap.estimators._single_fits import SingleFit
from skl_mmap.memory import Placement

_STACKS = (StackingClassifier, StackingRegressor)


def is_stacking(estimator: Any) -> bool:
    """Tell if an estimator is one of scikit-learn's two stacking ensembles."""
    # By name, since those of `skl_mmap.estimators._flat_fits` are meant as well.
    kind = type(estimator)
    return any(
        (kind.__module__, kind.__qualname__) == (known.__module__, known.__qualname__)
        for known in _STACKS
    )


def find_stacks(estimator: Any) -> list[Any]:
    """Return the stacking ensembles in an estimator, and itself if it is one."""
    parts = {id(part): part for part in (estimator, *_parameters(estimator))}
    return [part for part in parts.values() if is_stacking(part)]


def _parameters(estimator: Any) -> list[Any]:
    try:
        return list(estimator.get_params(deep=True).values())
    except Exception:  # noqa: BLE001 - its own fit says what is wrong with it
        return []


def plain_class(stacking: Any) -> Any:
    """Return scikit-learn's class of an ensemble."""
    return next(kind for kind in _STACKS if isinstance(stacking, kind))


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
    refusal = find_refusal(stacking, y)
    if refusal is not None:
        return refusal
    if isinstance(stacking.cv, Iterator):
        # It can be gone through once, and may be needed again after a refusal.
        stacking.cv = list(stacking.cv)
    fits = _BaseFits(stacking, y, fit_params, placement)
    try:
        with standing_in(stacking, fits.stand_in):
            if final_in_worker:
                stacking.final_estimator = _final_stand_in(stacking)
            plain_class(stacking).fit(stacking, X, y, **fit_params)
    except RefusalError as error:
        return str(error)
    put_estimators(stacking, fits.fitted)
    return None


def find_refusal(stacking: Any, y: Any) -> str | None:
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
            est == DROPPED
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
    if is_stacking(final):
        return final  # it is one more list of tasks
    return SingleFit(final, stacking, "final_estimator_", "final estimator")


class _BaseFits:
    """All fits of an ensemble but the last; they run when a prediction is asked for."""

    def __init__(
        self, stacking: Any, y: Any, fit_params: dict[str, Any], placement: Placement
    ) -> None:
        self._stacking = stacking
        self._cv = stacking.cv
        self._y = y
        self._fit_params = {
            name: value for name, value in fit_params.items() if name == WEIGHTS
        }
        self._placement = placement
        self._members: list[Member] = []
        self._predictions: list[Any] | None = None
        self.fitted: list[Any] = []  # base estimators, fitted on all rows

    def stand_in(self, name: str, estimator: Any) -> StandIn:
        """Add a base estimator, and return what stands for it."""
        place = len(self._members)
        method = find_method(estimator, self._stacking.stack_method)
        if method is not None:
            self._members.append(Member(name, estimator, method))
        return StandIn(estimator, method, lambda X: self._predict(place, X))

    def _predict(self, place: int, X: Any) -> Any:
        """Return the predictions of the folds of a base estimator."""
        if self._predictions is None:
            self._predictions = self._run(X)
        return self._predictions[place]

    def _run(self, X: Any) -> list[Any]:
        n_classes = len(getattr(self._stacking, "classes_", ()))
        y = self._encoded_y()
        selectable, _ = indexable(X, y)
        splits = make_splits(self._stacking, self._cv, selectable, y)
        data = FitData(
            *(X, y, selectable),
            rows=None,
            fit_params=self._fit_params,
            n_classes=n_classes,
            splits=splits,
        )
        fits = [MemberFits(member, data, self._placement) for member in self._members]
        # One by one: a task is a fit of a large estimator, and has its own record.
        parallel = Parallel(
            n_jobs=self._stacking.n_jobs, verbose=self._stacking.verbose, batch_size=1
        )
        done = parallel(map(with_arrays, _tasks(fits)))
        self.fitted, parts = done[: len(fits)], iter(done[len(fits) :])
        for member, fitted in zip(fits, self.fitted, strict=True):
            member.take(fitted, [next(parts) for _ in range(len(splits))])
        return [member.predictions for member in fits]

    def _encoded_y(self) -> npt.NDArray[Any]:
        """Return y as base estimators get it: classes are numbered."""
        y = column_or_1d(self._y)
        if not is_classifier(self._stacking):
            return np.asarray(y)
        return np.asarray(LabelEncoder().fit(self._stacking.classes_).transform(y))


def _tasks(fits: list[MemberFits]) -> Iterator[Any]:
    """Yield all fits: the long ones first, so that none of them is the last."""
    for member in fits:
        yield member.fit_task(fit_rows)
    # Estimator by estimator, as scikit-learn does it: if there is one job only, all
    # draw from numpy's global random state in the same order.
    for member in fits:
        yield from member.fold_tasks(predict_fold)
