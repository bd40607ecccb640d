"""Estimators, and comparisons, for the tests of fits in a worker."""

from __future__ import annotations

import os
import random
import threading
import warnings
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import Ridge
from sklearn.utils import get_tags
from threadpoolctl import threadpool_info

from skl_mmap import Memmapped
from skl_mmap.monitor import listen, unlisten
from tests.backend.common import recorded
from tests.estimators.common import assert_equal_state, share_all

ENDINGS = (", refit", ", final estimator")


def fit_both(estimator: Any, X: Any, y: Any, **params: Any) -> tuple[Any, Any]:
    """Fit with single fits here and in a worker, and return both estimators."""
    here, labels_here, _ = fit_observed(estimator, X, y, "here", params)
    there, labels, notes = fit_observed(estimator, X, y, "worker", params)
    assert not [note for note in notes if "single_fits" in note]
    assert [label for label in labels if label.endswith(ENDINGS)], "it was not there"
    assert not [label for label in labels_here if label.endswith(ENDINGS)]
    return here, there


def fit_observed(
    estimator: Any, X: Any, y: Any, where: str, params: dict[str, Any]
) -> tuple[Any, list[str], list[str]]:
    """Fit, and return the estimator, the labels of its tasks, and notes."""
    notes: list[str] = []
    listener = listen(notes.append, str)
    try:
        with recorded() as records:
            model = share_all(estimator, n_jobs=2, single_fits=where)
            model.fit(X, y, **params)
    finally:
        unlisten(listener)
    return model.estimator_, [record.label for record in records], notes


def notes_of(estimator: Any, X: Any, y: Any, **params: Any) -> list[str]:
    """Fit with single fits in a worker, and return what the report says of them."""
    options = {"n_jobs": 2, "min_bytes": 1, "single_fits": "worker", **params}
    fit_params = options.pop("fit_params", {})
    model = Memmapped(estimator, **options).fit(X, y, **fit_params)
    assert model.report_ is not None
    return [note for note in model.report_.notes if "single_fits" in note]


def assert_same_model(actual: Any, expected: Any) -> None:
    """Compare fitted estimators, trees and compiled parts included."""
    assert_equal_state(unfold(actual), unfold(expected))


def unfold(value: Any) -> Any:
    """Replace compiled objects by the state that they pickle."""
    if isinstance(value, dict):
        return {key: unfold(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [unfold(item) for item in value]
    if isinstance(value, np.ndarray):
        return value if not value.dtype.hasobject else unfold(value.tolist())
    if isinstance(value, BaseEstimator):
        state = {k: v for k, v in vars(value).items() if k != "_metadata_request"}
        return {"class": type(value), **unfold(state)}
    if type(value).__module__.startswith("sklearn.") and not callable(value):
        state = value.__reduce_ex__(2)[1:3]
        return unfold([part for part in state if not isinstance(part, type)])
    return value


class Watching(RegressorMixin, BaseEstimator):
    """Takes down where and in which surroundings it is fitted on all rows."""

    def __init__(
        self, all_rows: int = 0, warns: Any = None, raises: Any = None
    ) -> None:
        self.all_rows = all_rows
        self.warns = warns
        self.raises = raises

    def fit(self, X: Any, y: Any) -> Watching:
        self.n_features_in_ = X.shape[1]
        if len(X) < self.all_rows:
            return self
        self.pid_ = os.getpid()
        self.thread_ = threading.current_thread() is threading.main_thread()
        self.threads_ = {
            found["filepath"]: found["num_threads"] for found in threadpool_info()
        }
        self.environment_ = {
            name: value for name, value in os.environ.items() if "THREADS" in name
        }
        self.drawn_ = np.random.rand(), random.random()  # noqa: NPY002
        if self.warns is not None:
            for _ in range(2):
                warnings.warn(self.warns, stacklevel=1)
        if self.raises is not None:
            raise self.raises
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))


class Inner(Watching):
    """Takes down the surroundings of the tasks of its own fit."""

    def fit(self, X: Any, y: Any) -> Inner:
        super().fit(X, y)
        if len(X) >= self.all_rows:
            self.blas_ = Parallel()(delayed(blas_threads)() for _ in range(4))
        return self


def blas_threads() -> set[int]:
    return {
        found["num_threads"]
        for found in threadpool_info()
        if found["user_api"] == "blas"
    }


class Changing(Watching):
    """Is given an object by its caller, and changes it."""

    def fit(self, X: Any, y: Any, history: Any = None) -> Changing:
        super().fit(X, y)
        if history is not None:
            history.append(len(X))
        return self


class Closed(Watching):
    """Has something that cannot be pickled, once it is fitted on all rows."""

    def fit(self, X: Any, y: Any) -> Closed:
        super().fit(X, y)
        if len(X) >= self.all_rows:
            self.lock_ = threading.Lock()
        return self


class Own:
    """An estimator with the methods of scikit-learn's, and of none of its classes."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"alpha": self.alpha}

    def set_params(self, **params: Any) -> Own:
        vars(self).update(params)
        return self

    def __sklearn_tags__(self) -> Any:
        return get_tags(Ridge())

    def fit(self, X: Any, y: Any) -> Own:
        self.mean_ = float(np.mean(y))
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.mean_)

    def score(self, X: Any, y: Any) -> float:
        return -float(np.mean((y - self.mean_) ** 2))


class Frozen(Watching):
    """Is its own clone."""

    def __sklearn_clone__(self) -> Frozen:
        return self


class Unsupervised(BaseEstimator):
    """Its `fit` takes no y."""

    def fit(self, X: Any) -> Unsupervised:
        self.mean_ = np.mean(X, axis=0)
        return self

    def score(self, X: Any) -> float:
        return -float(np.abs(np.mean(X, axis=0) - self.mean_).sum())


class Counting:
    """A callback of scikit-learn 1.9 that counts what it is told in this process."""

    def __init__(self) -> None:
        self.n_calls = 0

    def setup(self, estimator: Any, context: Any) -> None:
        self.n_calls += 1

    def teardown(self, estimator: Any, context: Any) -> None:
        self.n_calls += 1

    def on_fit_task_begin(self, *args: Any, **kwargs: Any) -> None:
        self.n_calls += 1

    def on_fit_task_end(self, *args: Any, **kwargs: Any) -> None:
        self.n_calls += 1
