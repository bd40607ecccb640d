"""Stacking ensembles whose base estimators are fitted already.

scikit-learn's own `fit` does the rest: told that the estimators are fitted
(``cv="prefit"``), it validates, asks each of them for its predictions, and fits the
final estimator on these. What it asks are stand-ins, which have the predictions of the
folds ready. So nothing of the ensemble itself is done anew here.

Where the rest is to be done in a worker, as a part of some other task, a *prepared*
ensemble is sent there: its `fit` takes what it was given, and makes it an ordinary one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.utils import Bunch, get_tags

from skl_mmap.estimators._flat_list import DROPPED, find_method

_READY = "_skl_mmap_ready"


def named_as(kind: type[Any], plain: type[Any]) -> type[Any]:
    """Give a class the name of another: errors and reports are to have that one."""
    kind.__module__ = plain.__module__
    kind.__name__, kind.__qualname__ = plain.__name__, plain.__qualname__
    return kind


class StandIn:
    """A base estimator for scikit-learn, whose predictions are those of the folds.

    Parameters
    ----------
    estimator : estimator
        What it stands for.
    method : str or None
        Its method for predictions; scikit-learn's error says if there is none.
    predict : callable
        Returns them.
    """

    def __init__(
        self, estimator: Any, method: str | None, predict: Callable[[Any], Any]
    ) -> None:
        self._estimator = estimator
        if method is None:
            return

        def named(X: Any) -> Any:
            return predict(X)

        named.__name__ = method
        setattr(self, method, named)

    def fit(self, X: Any, y: Any) -> None:
        """Be taken for an estimator."""

    def __sklearn_is_fitted__(self) -> bool:
        return True

    def __sklearn_tags__(self) -> Any:
        return get_tags(self._estimator)


@contextlib.contextmanager
def standing_in(stacking: Any, make: Callable[[str, Any], Any]) -> Iterator[None]:
    """Replace base estimators in this block by what `make` returns for each."""
    estimators, cv = stacking.estimators, stacking.cv
    final = stacking.final_estimator
    try:
        stacking.estimators = [
            (name, est if est == DROPPED else make(name, est))
            for name, est in estimators
        ]
        stacking.cv = "prefit"
        yield
    finally:
        stacking.estimators, stacking.cv = estimators, cv
        stacking.final_estimator = final


def put_estimators(stacking: Any, fitted: list[Any]) -> None:
    """Replace the stand-ins in a fitted ensemble by what they stood for."""
    stacking.estimators_ = fitted
    remaining = iter(fitted)
    stacking.named_estimators_ = Bunch(
        **{
            name: DROPPED if est == DROPPED else next(remaining)
            for name, est in stacking.estimators
        }
    )
    for estimator in fitted:
        if hasattr(estimator, "feature_names_in_"):
            stacking.feature_names_in_ = estimator.feature_names_in_


def prepare(stacking: Any, fitted: list[Any], predictions: list[Any]) -> Any:
    """Return an ensemble that needs no more than its final estimator to be fitted.

    `fitted` and `predictions` have an entry for each base estimator that counts.
    """
    plain = next(kind for kind in _PREPARED if isinstance(stacking, kind))
    return _rebuild(plain, vars(stacking) | {_READY: (fitted, predictions)})


def _rebuild(plain: type[Any], state: dict[str, Any]) -> Any:
    prepared: Any = object.__new__(_PREPARED[plain])
    vars(prepared).update(state)
    return prepared


class _Prepared:
    """What both kinds of prepared ensembles have in common."""

    plain: type[Any]

    def fit(self, X: Any, y: Any, **fit_params: Any) -> Any:
        """Fit the final estimator."""
        fitted, predictions = vars(self).pop(_READY)
        self.__class__ = self.plain
        stacking: Any = self
        remaining = iter(predictions)

        def make(_name: str, estimator: Any) -> StandIn:
            method = find_method(estimator, stacking.stack_method)
            ready = next(remaining)
            return StandIn(estimator, method, lambda _: ready)

        with standing_in(stacking, make):
            stacking.fit(X, y, **fit_params)
        put_estimators(stacking, fitted)
        return stacking

    def __reduce_ex__(self, protocol: Any) -> Any:
        stacking: Any = self
        return _rebuild, (self.plain, stacking.__getstate__())

    @property
    def get_params(self) -> Any:
        # So that nobody looks for the layout that its base estimators would convert X
        # to: they are fitted already.
        raise AttributeError("an ensemble that is prepared has no parameters")

    def set_params(self, **params: Any) -> Any:
        """Leave them as they are: what it has was made with them."""
        return self

    def __sklearn_clone__(self) -> Any:
        # Tasks that clone their estimator are given one that nobody else has.
        return self


class _PreparedClassifier(_Prepared, StackingClassifier):  # type: ignore[misc]
    plain = StackingClassifier


class _PreparedRegressor(_Prepared, StackingRegressor):  # type: ignore[misc]
    plain = StackingRegressor


_PREPARED: dict[type[Any], type[Any]] = {
    kind.plain: named_as(kind, kind.plain)
    for kind in (_PreparedClassifier, _PreparedRegressor)
}
