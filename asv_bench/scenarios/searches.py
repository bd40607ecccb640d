"""Searches with scattered folds, which candidates share if there are enough workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, StratifiedKFold

from scenarios.estimators import NullRegressor, TimedSGDRegressor
from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import measure
from skl_mmap.cli._work import make_friedman

__all__ = ["gathered"]

_ROWS = 400_000
_COLUMNS = 50
_N_CANDIDATES = 10
# Number of splits, of workers, and what mmap may take: X, a fold for each split, and
# what estimators make of y.
_CASES = ((5, 8, 7.0), (3, 4, 4.6))


def search(
    backend: str, n_splits: int, n_jobs: int, estimator: str, n_rows: int
) -> dict[str, Any]:
    """Measure one search; runs in a child."""
    X, y = make_friedman(n_rows, n_features=_COLUMNS)
    y = (y > np.median(y)).astype(np.intp)
    model, grid = {
        "null": (
            NullRegressor(min_seconds=0.5, min_passes=1),
            {"min_passes": [1] * _N_CANDIDATES},
        ),
        "sgd": (
            TimedSGDRegressor(max_iter=2, tol=None, random_state=0),
            {"alpha": np.logspace(-6, 0, _N_CANDIDATES)},
        ),
    }[estimator]
    cv = StratifiedKFold(n_splits, shuffle=True, random_state=0)
    found = GridSearchCV(model, grid, cv=cv, refit=False, error_score="raise")
    with parallel_config(backend=backend, n_jobs=n_jobs):
        warm(n_jobs, model)
        found.fit(X[:1000], y[:1000])
        with measure() as cost:
            found.fit(X, y)
    return {
        "ratio": cost.peak_growth_bytes / X.nbytes,
        "score": found.cv_results_["mean_test_score"].tolist(),
        "wall_seconds": cost.wall_seconds,
        "copy_reasons": dict(cost.copy_reasons),
    }


def gathered(settings: Settings) -> Iterator[Row]:
    """Ten candidates with shuffled, stratified folds, gathered once for all of them."""
    for estimator in ("null", "sgd"):
        for n_splits, n_jobs, target in _CASES:
            yield _measure(settings, "mmap", estimator, n_splits, n_jobs, target)
            yield _measure(settings, "loky", estimator, n_splits, n_jobs, None)


def _measure(
    settings: Settings,
    backend: str,
    estimator: str,
    n_splits: int,
    n_jobs: int,
    target: float | None,
) -> Row:
    """Measure one case in fresh processes."""
    runs = settings.repeat(
        lambda: call_in_child(
            search,
            backend=backend,
            n_splits=n_splits,
            n_jobs=n_jobs,
            estimator=estimator,
            n_rows=settings.scale(_ROWS),
        )
    )
    return Row(
        "gathered",
        f"{backend}, {estimator}, {n_splits} splits, {n_jobs} workers",
        [run["ratio"] for run in runs],
        "x X",
        target,
        note=f"{min(run['wall_seconds'] for run in runs):.1f} s",
        details=runs,
    )
