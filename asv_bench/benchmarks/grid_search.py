"""A grid search: many fits of the same folds, and a last one on all rows."""

from __future__ import annotations

from typing import Any

from sklearn.model_selection import GridSearchCV, KFold

from .data import make_friedman
from .jobs import DetailedJob, make_sgd, use_backend, warm_up
from .profiles import PROFILE, make_version

version = make_version(__file__)

_ROWS = 500_000
_GRID = {"alpha": [1e-5, 1e-4, 1e-3]}


class GridSearch(DetailedJob):
    params = [PROFILE.detail_n_jobs, PROFILE.detail_backends]
    param_names = ["n_jobs", "backend"]

    def setup(self, n_jobs: int, backend: str) -> None:
        self.X, self.y = make_friedman(PROFILE.rows(_ROWS))
        with use_backend(backend, n_jobs):
            warm_up(n_jobs, make_sgd())

    def run(self, *params: Any) -> float:
        n_jobs, backend = params
        search = GridSearchCV(make_sgd(), _GRID, cv=KFold(3), error_score="raise")
        with use_backend(backend, n_jobs):
            search.fit(self.X, self.y)
        return float(search.best_score_)
