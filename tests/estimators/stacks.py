"""Stacking ensembles, and estimators for them, that the tests of stacking use."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse
from sklearn.base import BaseEstimator, ClassifierMixin, RegressorMixin, clone
from sklearn.ensemble import (
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
)
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skl_mmap.monitor import listen, unlisten
from tests.estimators.common import Memmapped, assert_equal_state, share_all


def make_regressor(**parameters: Any) -> StackingRegressor:
    estimators = [
        ("ridge", make_pipeline(StandardScaler(), Ridge())),
        ("tree", DecisionTreeRegressor(max_depth=4, random_state=0)),
    ]
    return StackingRegressor(
        estimators, LinearRegression(), **{"cv": 3, "n_jobs": 2, **parameters}
    )


def make_classifier(**parameters: Any) -> StackingClassifier:
    estimators = [
        ("logistic", LogisticRegression(tol=1e-2)),
        ("sgd", SGDClassifier(max_iter=20, tol=None, random_state=0)),
        # Two trees: forests add up what trees say in threads, in whatever order.
        ("forest", RandomForestClassifier(2, max_depth=4, random_state=0)),
    ]
    parameters = {"final_estimator": make_tree(max_depth=3), **parameters}
    return StackingClassifier(estimators, **{"cv": 3, "n_jobs": 2, **parameters})


def assert_as_scikit_learn(
    stack: Any, X: Any, y: Any, params: Any = None, **options: Any
) -> Memmapped:
    """Fit an ensemble as a flat list and in scikit-learn's way, and compare them."""
    notes: list[str] = []
    listener = listen(notes.append, str)
    try:
        model = share_all(stack, **options).fit(X, y, **(params or {}))
    finally:
        unlisten(listener)
    assert not [note for note in notes if "in its own way" in note]
    expected = clone(stack).set_params(n_jobs=None).fit(X, y, **(params or {}))
    actual = model.estimator_
    assert actual.n_jobs == stack.n_jobs
    actual.n_jobs = None
    assert_equal_state(actual, expected)
    for method in ("predict", "transform", "predict_proba", "decision_function"):
        assert hasattr(model, method) == hasattr(expected, method)
        if hasattr(expected, method):
            assert_equal_state(
                as_arrays(getattr(model, method)(X)),
                as_arrays(getattr(expected, method)(X)),
            )
    return model


def as_arrays(value: Any) -> Any:
    if sparse.issparse(value):
        return [value.data, value.indices, value.indptr]
    return np.asarray(value)


class Failing(RegressorMixin, BaseEstimator):
    """Raises what it is told, in the place that it is told."""

    def __init__(self, error: Any = None, at: str = "fit") -> None:
        self.error = error
        self.at = at

    def fit(self, X: Any, y: Any) -> Failing:
        if self.at == "fit":
            raise self.error
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Any) -> Any:
        raise self.error


class Drawing(RegressorMixin, BaseEstimator):
    """Predicts a number from numpy's global random state."""

    def fit(self, X: Any, y: Any) -> Drawing:
        self.number_ = np.random.rand()  # noqa: NPY002 - scikit-learn draws from it
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.number_)


class Predicting(ClassifierMixin, BaseEstimator):
    """Makes predictions of a kind that the buffer was not made for."""

    def __init__(self, kind: str = "wide") -> None:
        self.kind = kind

    def fit(self, X: Any, y: Any) -> Predicting:
        self.classes_ = np.unique(y)
        self.n_features_in_ = X.shape[1]
        return self

    def predict(self, X: Any) -> Any:
        first = np.asarray(X[:, 0])
        if self.kind == "wide":
            return np.stack([first, first, first], axis=1)
        if self.kind == "narrow":
            return first.astype("f4")
        if self.kind == "objects":
            return first.astype(object)
        assert self.kind == "sparse"
        return sparse.csr_matrix(first[:, None])


def make_tree(**parameters: Any) -> DecisionTreeClassifier:
    return DecisionTreeClassifier(random_state=0, **parameters)
