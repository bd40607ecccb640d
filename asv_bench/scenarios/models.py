"""What a fitted model costs, and what its fit leaves in the process of the user."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.base import clone
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
)
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KNeighborsRegressor

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import Memmapped, measure
from skl_mmap.cli._work import make_friedman
from skl_mmap.monitor import own_memory

__all__ = ["knn_stack", "single_fits"]

# Few and long rows: X has the size of the other scenarios, and the distances of all
# pairs of rows are found in seconds.
_ROWS = 2000
_COLUMNS = 25_000

_REFIT_ROWS = 250_000
_REFITTED = ("HistGradientBoosting", "RandomForest")


def knn_stack(settings: Settings) -> Iterator[Row]:
    """Two nearest-neighbour models keep all of X, as views or as copies."""
    for backend, target in (("mmap", 0.05), ("loky", None)):
        runs = settings.repeat(
            lambda backend=backend: call_in_child(
                keep_model, backend=backend, n_columns=settings.scale(_COLUMNS)
            )
        )
        yield Row(
            "knn_stack",
            f"{backend}, 4 workers, model kept",
            [run["model_ratio"] for run in runs],
            "x X",
            target,
            note=f"{runs[0]['closed_ratio']:.2f} x X once the backend is closed",
            details=runs,
        )


def keep_model(backend: str, n_columns: int) -> dict[str, Any]:
    """Compare memory with the fitted model alive and without; runs in a child."""
    X = np.random.default_rng(0).random((_ROWS, n_columns))
    y = X[:, 0]
    few, many = (KNeighborsRegressor(n, algorithm="brute") for n in (5, 20))
    stack = StackingRegressor(
        [("few", few), ("many", many)], final_estimator=Ridge(), cv=2
    )
    with parallel_config(backend=backend, n_jobs=4):
        warm(4, few)
        loaded = _read_committed()
        # The first model is thrown away: what stays is what the backend keeps.
        clone(stack).fit(X, y)
        without_model = _read_committed()
        stack.fit(X, y)
        with_model = _read_committed()
    closed = _read_committed()
    prediction = stack.predict(X[:1])
    return {
        "model_ratio": (with_model - without_model) / X.nbytes,
        "backend_ratio": (without_model - loaded) / X.nbytes,
        "closed_ratio": (closed - loaded) / X.nbytes,
        "prediction": float(prediction[0]),
    }


def _read_committed() -> int:
    """Return the committed memory of this process tree, now."""
    gc.collect()
    with measure() as now:
        pass
    return int(now.baseline_bytes)


def single_fits(settings: Settings) -> Iterator[Row]:
    """What the refit of a search needs in the process of the user, and leaves there."""
    for name in _REFITTED:
        for where, target in (("worker", 0.15), ("here", None)):
            runs = settings.repeat(
                lambda name=name, where=where: call_in_child(
                    refit, name=name, where=where, n_rows=settings.scale(_REFIT_ROWS)
                )
            )
            yield Row(
                "single_fits",
                f"{name}, {where}",
                [run["own_peak_ratio"] for run in runs],
                "x X",
                target,
                note=f"{runs[0]['left_ratio']:.2f} x X stays, "
                f"{runs[0]['peak_ratio']:.2f} x X in all, "
                f"{runs[0]['refit_seconds']:.1f} s",
                details=runs,
            )


def make_refitted(name: str) -> Any:
    """Return an estimator that makes something of X for itself while it is fitted."""
    if name == "XGBoost":  # not among the cases, but measured where it is installed
        from xgboost import XGBRegressor

        return XGBRegressor(n_estimators=10, random_state=0)
    if name == "RandomForest":
        return RandomForestRegressor(4, max_depth=8, max_features=0.3, random_state=0)
    return HistGradientBoostingRegressor(max_iter=10, random_state=0)


def refit(name: str, where: str, n_rows: int) -> dict[str, Any]:
    """Fit a search, and look at the private memory of this process; runs in a child."""
    X, y = make_friedman(n_rows)
    search = GridSearchCV(make_refitted(name), {"random_state": [0]}, cv=2)
    model = Memmapped(search, n_jobs=2, single_fits=where, check="off")
    with parallel_config(backend="mmap", n_jobs=2):
        warm(2, make_refitted(name))
    clone(model).fit(X[:20_000], y[:20_000])
    gc.collect()
    before = own_memory()
    with measure() as cost:
        model.fit(X, y)
    gc.collect()
    left_bytes = own_memory().anonymous_bytes - before.anonymous_bytes
    # The kernel's own peak would have what is mapped to be compared as well.
    [own] = (series for series in cost.processes if series.pid == os.getpid())
    peak_bytes = max(own.anonymous_bytes) - before.anonymous_bytes
    return {
        "left_ratio": left_bytes / X.nbytes,
        "own_peak_ratio": peak_bytes / X.nbytes,
        "peak_ratio": cost.peak_growth_bytes / X.nbytes,
        "refit_seconds": model.refit_time_,
        "prediction": model.predict(X[:3]).tolist(),
    }
