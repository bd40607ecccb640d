"""Stacking ensembles, and the three workloads of ML-Ensemble's page on memory.

Those are an array that four tasks hold for three seconds, three pipelines on
6,000,000 x 10 numbers, and Lasso and ElasticNet under nearest neighbours on
Friedman's problem, 1,000,000 x 50; their sizes here are those of the full profile.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from .data import make_friedman
from .jobs import DetailedJob, hold, use_backend, warm_up
from .profiles import PROFILE, make_version

version = make_version(__file__)

_HOLD_BYTES = 800_000_000
_HOLD_JOBS = 2 if PROFILE.is_quick else 4
_SCORE_ROWS = 2000
_MEMMAPPED = "Memmapped"
_BACKENDS = [] if PROFILE.is_quick else PROFILE.detail_backends


class Stack(DetailedJob):
    """An ensemble on Friedman's data; abstract, as its rows and estimators are."""

    params = [PROFILE.detail_n_jobs, [*_BACKENDS, _MEMMAPPED]]
    param_names = ["n_jobs", "backend"]
    n_rows: int
    n_columns: int

    @abstractmethod
    def make(self) -> StackingRegressor:
        """Make the ensemble."""

    def setup(self, n_jobs: int, backend: str) -> None:
        self.backend = "mmap" if backend == _MEMMAPPED else backend
        self.model: Any = self.make()
        self.X, self.y = make_friedman(PROFILE.rows(self.n_rows), self.n_columns)
        with use_backend(self.backend, n_jobs):
            warm_up(n_jobs, self.model.estimators[-1][1])
        if backend == _MEMMAPPED:
            import skl_mmap

            if not hasattr(skl_mmap, _MEMMAPPED):
                raise NotImplementedError("the installed skl_mmap has no Memmapped")
            self.model = skl_mmap.Memmapped(self.model, check="off")

    def run(self, *params: Any) -> float:
        with use_backend(self.backend, params[0]):
            self.model.fit(self.X, self.y)
        return float(self.model.score(self.X[:_SCORE_ROWS], self.y[:_SCORE_ROWS]))


class Stacking(Stack):
    n_rows, n_columns = 500_000, 50

    def make(self) -> StackingRegressor:
        estimators = [
            ("ridge", Ridge()),
            ("lasso", Lasso(alpha=0.1)),
            ("tree", DecisionTreeRegressor(max_depth=3, max_features=5)),
        ]
        return StackingRegressor(estimators, final_estimator=Ridge(), cv=3)


class Pipelines(Stack):
    n_rows, n_columns = 6_000_000, 10

    def make(self) -> StackingRegressor:
        estimators = [
            ("plain", LinearRegression()),
            ("standard", make_pipeline(StandardScaler(), LinearRegression())),
            ("minmax", make_pipeline(MinMaxScaler(), LinearRegression())),
        ]
        return StackingRegressor(estimators, final_estimator=LinearRegression(), cv=2)


class Friedman(Stack):
    n_rows, n_columns = 1_000_000, 50

    def make(self) -> StackingRegressor:
        estimators = [("elastic", ElasticNet()), ("lasso", Lasso())]
        return StackingRegressor(estimators, final_estimator=KNeighborsRegressor())


class Hold:
    """All workers get one array and wait: what is left is sending it."""

    params = [PROFILE.detail_backends]
    param_names = ["backend"]
    relative = True
    rounds = PROFILE.rounds
    number = 1
    repeat = 1
    warmup_time = 0.0

    def setup(self, backend: str) -> None:
        self.X = np.ones(int(_HOLD_BYTES * PROFILE.scale) // 8)
        with use_backend(backend, _HOLD_JOBS):
            warm_up(_HOLD_JOBS)

    def peaktree_hold(self, backend: str) -> None:
        with use_backend(backend, _HOLD_JOBS):
            Parallel()(
                delayed(hold)(self.X, PROFILE.seconds) for _ in range(_HOLD_JOBS)
            )

    if not PROFILE.is_quick:

        def time_hold(self, backend: str) -> None:
            self.peaktree_hold(backend)
