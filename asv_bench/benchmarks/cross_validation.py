"""Cross-validation of a model that copies nothing: what is left are the folds."""

from __future__ import annotations

from typing import Any

from sklearn.model_selection import KFold, cross_val_score

from .data import make_friedman
from .jobs import ScoredJob, make_sgd, use_backend, warm_up
from .profiles import PROFILE, make_version

version = make_version(__file__)

_ROWS = 1_000_000


class CrossValidation(ScoredJob):
    params = [PROFILE.n_jobs, PROFILE.backends, PROFILE.n_splits]
    param_names = ["n_jobs", "backend", "n_splits"]

    def setup(self, n_jobs: int, backend: str, n_splits: int) -> None:
        self.X, self.y = make_friedman(PROFILE.rows(_ROWS))
        with use_backend(backend, n_jobs):
            warm_up(n_jobs, make_sgd())

    def run(self, *params: Any) -> float:
        n_jobs, backend, n_splits = params
        with use_backend(backend, n_jobs):
            scores = cross_val_score(
                make_sgd(), self.X, self.y, cv=KFold(n_splits), error_score="raise"
            )
        return float(scores.mean())
