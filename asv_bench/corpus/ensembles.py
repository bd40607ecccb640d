"""Ensembles: stacks of one and two layers, votes, bags.

A stack is told how many jobs it has, as most people do: its inner cross-validations,
which run in workers, then have threads, and each of these its folds.
"""

from __future__ import annotations

from typing import Any

from sklearn.ensemble import (
    BaggingRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingRegressor,
)
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.tree import DecisionTreeRegressor

from .data import make_array, make_classes
from .jobs import N_JOBS, job

# Rows of a prediction that stands for the fitted model.
_SOME = slice(2000)


def _sgd(random_state: int = 0) -> Any:
    return SGDRegressor(max_iter=2, tol=None, random_state=random_state)


def _two_layers(**parameters: Any) -> Any:
    upper = StackingRegressor([("ridge", Ridge()), ("sgd", _sgd(1))], Ridge(), cv=3)
    return StackingRegressor(
        [("ridge", Ridge()), ("sgd", _sgd())],
        upper,
        cv=4,
        n_jobs=N_JOBS,
        **parameters,
    )


@job(make_classes)
def stack(X: Any, y: Any) -> Any:
    """StackingClassifier of three models."""
    models = [
        ("bayes", GaussianNB()),
        ("sgd", SGDClassifier(max_iter=2, tol=None, random_state=0)),
        ("logistic", LogisticRegression(max_iter=5)),
    ]
    model = StackingClassifier(models, cv=4, n_jobs=N_JOBS)
    return model.fit(X, y).predict_proba(X[_SOME])


@job(make_array)
def stack_two_layers(X: Any, y: Any) -> Any:
    """StackingRegressor of two layers."""
    return _two_layers().fit(X, y).predict(X[_SOME])


@job(make_array)
def stack_passthrough(X: Any, y: Any) -> Any:
    """StackingRegressor of two layers, with passthrough."""
    return _two_layers(passthrough=True).fit(X, y).predict(X[_SOME])


@job(make_array)
def stack_grid(X: Any, y: Any) -> Any:
    """Grid over a StackingRegressor."""
    model = StackingRegressor([("ridge", Ridge()), ("sgd", _sgd())], Ridge(), cv=3)
    grid = {"final_estimator__alpha": [0.1, 1.0]}
    return GridSearchCV(model, grid, cv=3).fit(X, y).cv_results_


@job(make_array)
def voting(X: Any, y: Any) -> Any:
    """VotingRegressor of four models."""
    models = [
        ("ridge", Ridge()),
        ("sgd", _sgd()),
        ("linear", LinearRegression()),
        ("tree", DecisionTreeRegressor(max_depth=2, max_features=5, random_state=0)),
    ]
    return VotingRegressor(models).fit(X, y).predict(X[_SOME])


@job(make_array)
def bagged_trees(X: Any, y: Any) -> Any:
    """BaggingRegressor of eight trees."""
    tree = DecisionTreeRegressor(max_depth=3, max_features=5)
    model = BaggingRegressor(tree, n_estimators=8, random_state=0)
    return model.fit(X, y).predict(X[_SOME])


@job(make_array)
def bagged_subsets(X: Any, y: Any) -> Any:
    """BaggingRegressor of Ridge, half of the rows and of the columns."""
    model = BaggingRegressor(
        Ridge(),
        n_estimators=8,
        max_samples=0.5,
        max_features=0.5,
        bootstrap=False,
        random_state=0,
    )
    return model.fit(X, y).predict(X[_SOME])
