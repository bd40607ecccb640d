"""Inside of others, and under other backends: no processes of processes, no sampler."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import psutil
import pytest
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.ensemble import (
    AdaBoostRegressor,
    BaggingRegressor,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, cross_val_predict, cross_validate
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skl_mmap import Memmapped
from tests.estimators.common import assert_equal_state, make_data, share_all
from tests.estimators.stacks import make_regressor

BACKENDS = ["loky", "threading", "multiprocessing", "mmap", "sequential"]
# Of "multiprocessing", where older releases of polars have been imported before.
quiet_fork = pytest.mark.filterwarnings("ignore:Using fork:RuntimeWarning")


def measured(estimator: Any) -> Memmapped:
    """Wrap so that it is shared and measured, where it runs at the outside."""
    return share_all(estimator, check="report")


def make_tree() -> DecisionTreeRegressor:
    return DecisionTreeRegressor(max_depth=4, random_state=0)


REGRESSORS: list[Callable[[Any], Any]] = [
    lambda wrap: make_pipeline(wrap(StandardScaler()), wrap(Ridge())),
    lambda wrap: BaggingRegressor(wrap(make_tree()), 4, random_state=0, n_jobs=2),
    lambda wrap: AdaBoostRegressor(wrap(make_tree()), n_estimators=3, random_state=0),
    lambda wrap: StackingRegressor([("a", wrap(make_tree()))], wrap(Ridge()), cv=2),
    lambda wrap: wrap(BaggingRegressor(make_tree(), 4, random_state=0, n_jobs=2)),
    lambda wrap: wrap(make_pipeline(StandardScaler(), make_regressor())),
    lambda wrap: wrap(GridSearchCV(make_tree(), {"max_depth": [1, 2]}, n_jobs=2)),
    lambda wrap: wrap(wrap(make_regressor())),
    lambda wrap: wrap(GridSearchCV(wrap(Ridge()), {}, cv=2, n_jobs=2)),
]
CLASSIFIERS: list[Callable[[Any], Any]] = [
    lambda wrap: OneVsRestClassifier(wrap(LogisticRegression()), n_jobs=2),
    lambda wrap: wrap(OneVsRestClassifier(LogisticRegression(), n_jobs=2)),
    lambda wrap: wrap(
        VotingClassifier(
            [("a", LogisticRegression()), ("b", DecisionTreeClassifier(max_depth=2))],
            voting="soft",
            n_jobs=2,
        )
    ),
]


@pytest.mark.parametrize("place", range(len(REGRESSORS)))
@pytest.mark.parametrize("wrap", [Memmapped, measured], ids=["small", "shared"])
def test_regressors_with_it_inside_or_outside(place: int, wrap: Any) -> None:
    X, y, _ = make_data()
    model = REGRESSORS[place](wrap).fit(X, y)
    expected = REGRESSORS[place](lambda inner: inner)
    expected = expected.fit(X, y)
    assert_equal_state(model.predict(X), expected.predict(X))
    again = clone(model).fit(X, y)
    assert_equal_state(again.predict(X), expected.predict(X))


@pytest.mark.parametrize("place", range(len(CLASSIFIERS)))
@pytest.mark.parametrize("wrap", [Memmapped, measured], ids=["small", "shared"])
def test_classifiers_with_it_inside_or_outside(place: int, wrap: Any) -> None:
    X, _, y = make_data()
    names = np.array(["x", "y", "z"])[y]
    model = CLASSIFIERS[place](wrap).fit(X, names)
    expected = CLASSIFIERS[place](lambda inner: inner).fit(X, names)
    assert_equal_state(model.predict(X), expected.predict(X))
    assert_equal_state(model.predict_proba(X), expected.predict_proba(X))


def test_parameters_are_searched_through_it() -> None:
    X, y, _ = make_data()
    search = GridSearchCV(
        measured(make_pipeline(StandardScaler(), Ridge())),
        {"estimator__ridge__alpha": [0.1, 100.0]},
        cv=3,
        n_jobs=2,
    ).fit(X, y)
    expected = GridSearchCV(Ridge(), {"alpha": [0.1, 100.0]}, cv=3).fit(X, y)
    assert search.best_params_["estimator__ridge__alpha"] == 0.1
    assert expected.best_params_["alpha"] == 0.1
    assert isinstance(search.best_estimator_, Memmapped)


class Looking(RegressorMixin, BaseEstimator):
    """Predicts how many processes there are below the one that fits it."""

    def fit(self, X: Any, y: Any) -> Looking:
        pids = joblib.Parallel(n_jobs=2)(joblib.delayed(os.getpid)() for _ in range(4))
        self.is_alone_ = set(pids) == {os.getpid()}
        samplers = [
            child
            for child in psutil.Process().children(recursive=True)
            if any("_sampler" in part for part in child.cmdline())
        ]
        self.n_samplers_ = len(samplers)
        self.is_main_ = multiprocessing.parent_process() is None
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))


@pytest.mark.parametrize("backend", BACKENDS)
@quiet_fork
def test_tasks_of_others_start_no_processes_and_no_sampler(backend: str) -> None:
    X, y, _ = make_data()
    model = measured(Looking())
    with joblib.parallel_config(backend, n_jobs=2):
        results = cross_validate(model, X, y, cv=2, return_estimator=True)
    fitted = results["estimator"]
    assert len(fitted) == 2
    for one in fitted:
        if backend == "sequential":
            # It is no task of a parallel call, but the outside.
            assert one.n_samplers_ == 1
            assert one.report_ is not None
        else:
            assert one.is_alone_
            assert one.n_samplers_ == 0
            assert one.report_ is None
        assert one.is_main_ == (backend in ("threading", "sequential"))


@pytest.mark.parametrize("backend", BACKENDS)
@quiet_fork
def test_ensembles_in_tasks_of_others_are_the_same(backend: str) -> None:
    X, y, _ = make_data()
    stack = make_regressor(n_jobs=None)
    expected = cross_val_predict(stack, X, y, cv=2)
    with joblib.parallel_config(backend, n_jobs=2):
        predictions = cross_val_predict(measured(stack), X, y, cv=2)
    assert_equal_state(predictions, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@quiet_fork
def test_fit_below_other_backends_uses_its_own(backend: str) -> None:
    X, y, _ = make_data()
    with joblib.parallel_config(backend, n_jobs=2):
        model = measured(make_regressor(n_jobs=None)).fit(X, y)
    assert model.report_ is not None
    assert len(model.report_.tasks) == 8
    assert os.getpid() not in {record.pid for record in model.report_.records}
