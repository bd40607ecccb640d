"""Layouts of X: precision, order of elements, order of rows, and one converted copy.

The estimators want another layout than they are given: forests take float32, and
Lasso takes columns. Under layouts="auto", the default, the backend converts once, for
all workers.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Lasso
from sklearn.model_selection import KFold, cross_val_score

from .data import make_friedman
from .jobs import DetailedJob, make_sgd, use_backend, warm_up
from .profiles import PROFILE, make_version

version = make_version(__file__)

_ROWS = 500_000
_LAYOUTS: dict[str, Any] = {
    "float64 C": {"dtype": np.float64, "order": "C"},
    "float32 C": {"dtype": np.float32, "order": "C"},
    "float64 F": {"dtype": np.float64, "order": "F"},
}
_ESTIMATORS = {
    "RandomForest": lambda: RandomForestRegressor(
        n_estimators=2, max_depth=5, max_features=0.2, random_state=0
    ),
    "Lasso": lambda: Lasso(alpha=0.1),
    "SGD": make_sgd,
}
_N_JOBS = 2


class Layouts(DetailedJob):
    params = [
        list(_LAYOUTS)[: 1 if PROFILE.is_quick else None],
        list(_ESTIMATORS)[: 1 if PROFILE.is_quick else None],
        ["exact", "any"][: 1 if PROFILE.is_quick else None],
        ["given", "auto"],
    ]
    param_names = ["X", "estimator", "row_order", "layouts"]

    def setup(self, layout: str, estimator: str, row_order: str, layouts: str) -> None:
        self.options: dict[str, Any] = {"row_order": row_order, "layouts": layouts}
        with use_backend("mmap", _N_JOBS, **self.options):
            warm_up(_N_JOBS, _ESTIMATORS[estimator]())
        self.X, self.y = make_friedman(PROFILE.rows(_ROWS), **_LAYOUTS[layout])

    def run(self, *params: Any) -> float:
        estimator = params[1]
        with use_backend("mmap", _N_JOBS, **self.options):
            scores = cross_val_score(
                _ESTIMATORS[estimator](),
                self.X,
                self.y,
                cv=KFold(3),
                error_score="raise",
            )
        return float(scores.mean())
