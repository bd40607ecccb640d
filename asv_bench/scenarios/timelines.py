"""Memory over time of one cross-validation, for the picture."""

from __future__ import annotations

from typing import Any

from joblib import parallel_config
from sklearn.model_selection import KFold, cross_validate

from scenarios.estimators import TimedSGDRegressor
from scenarios.pools import warm
from skl_mmap import measure
from skl_mmap.cli._work import make_friedman

__all__ = ["N_JOBS", "timeline"]

N_JOBS = 4
_N_ROWS, _N_COLUMNS = 1_000_000, 50


def timeline(backend: str, row_order: str) -> dict[str, Any]:
    """Run the job and return its memory over time; runs in a child."""
    X, y = make_friedman(_N_ROWS, n_features=_N_COLUMNS)
    options = {"row_order": row_order} if backend == "mmap" else {}
    model = TimedSGDRegressor(max_iter=5, tol=None, random_state=0)
    with parallel_config(backend=backend, n_jobs=N_JOBS, **options):
        warm(N_JOBS, model)
        with measure() as cost:
            cross_validate(model, X, y, cv=KFold(5))
    first = cost.timeline[0].committed_bytes
    return {
        "seconds": [reading.seconds for reading in cost.timeline],
        "ratios": [
            (reading.committed_bytes - first) / X.nbytes for reading in cost.timeline
        ],
        "peak": cost.peak_growth_bytes / X.nbytes,
    }
