"""What `Memmapped` makes of stacking ensembles, beside scikit-learn under loky."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import psutil
from joblib import parallel_config
from sklearn.base import clone
from sklearn.ensemble import GradientBoostingRegressor, StackingRegressor
from sklearn.linear_model import ElasticNet, Lasso, LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import Memmapped, measure
from skl_mmap.cli._work import make_friedman

__all__ = ["friedman_stack", "pipelines", "small_fit", "unequal_stack"]

_FRIEDMAN_ROWS = 1_000_000
_PIPELINE_ROWS = 6_000_000
_PIPELINE_COLUMNS = 10
_UNEQUAL_ROWS = 40_000
_N_FITS = 300

_PIPELINES = [
    ("plain", LinearRegression()),
    ("standard", make_pipeline(StandardScaler(), LinearRegression())),
    ("minmax", make_pipeline(MinMaxScaler(), LinearRegression())),
]


def friedman_stack(settings: Settings) -> Iterator[Row]:
    """ML-Ensemble's benchmark: Lasso and ElasticNet, then nearest neighbours."""
    # The shared copy of X, and what Lasso makes of its train set in each worker.
    target = 1.1 + 4 * 0.85
    for case, goal in (
        ("any", target),
        ("any, in place", target),
        ("exact", target),
        ("loky", None),
    ):
        runs = settings.repeat(
            lambda case=case: call_in_child(
                fit_friedman, case=case, n_rows=settings.scale(_FRIEDMAN_ROWS)
            )
        )
        yield Row(
            "friedman_stack",
            "loky, 4 workers" if case == "loky" else f"Memmapped, {case}, 4 workers",
            [run["ratio"] for run in runs],
            "x X",
            goal,
            note=f"{runs[0]['wall_seconds']:.1f} s",
            details=runs,
        )


def fit_friedman(case: str, n_rows: int) -> dict[str, Any]:
    """Fit the ensemble once; runs in a child."""
    X, y = make_friedman(n_rows)
    stack = StackingRegressor(
        [("lasso", Lasso()), ("elastic", ElasticNet())],
        final_estimator=KNeighborsRegressor(),
        n_jobs=4,
    )
    backend = "loky" if case == "loky" else "mmap"
    model: Any = stack
    if case != "loky":
        row_order, _, in_place = case.partition(", ")
        model = Memmapped(stack, row_order=row_order, adopt=bool(in_place), check="off")
    with parallel_config(backend=backend, n_jobs=4):
        warm(4, Lasso())
        with measure() as cost:
            model.fit(X, y)
    return {
        "ratio": cost.peak_growth_bytes / X.nbytes,
        "wall_seconds": cost.wall_seconds,
        "mapped_bytes": cost.mapped_bytes,
        "copied_bytes": cost.copied_bytes,
        "private": max((t.peak_private_bytes or 0 for t in cost.tasks), default=0)
        / X.nbytes,
        "prediction": model.predict(X[:3]).tolist(),
    }


def pipelines(settings: Settings) -> Iterator[Row]:
    """Three linear regressions behind different preprocessing, 6,000,000 x 10."""
    runs = settings.repeat(
        lambda: call_in_child(fit_pipelines, n_rows=settings.scale(_PIPELINE_ROWS))
    )
    yield Row(
        "pipelines",
        "Memmapped, any, 2 workers",
        [run["ratio"] for run in runs],
        "x X",
        statistics.median(run["own_ratio"] for run in runs),
        note="target: X, and what the pipelines make themselves",
        details=runs,
    )
    yield Row(
        "pipelines",
        "folds copied",
        [run["copied_ratio"] for run in runs],
        "of folds",
        0.01,
    )
    yield Row(
        "pipelines",
        "both cores busy",
        [run["busy"] for run in runs],
        "of 2",
        0.9,
        is_minimum=True,
        note=f"{runs[0]['wall_seconds']:.1f} s",
    )


def fit_pipelines(n_rows: int) -> dict[str, Any]:
    """Fit the ensemble once, and each pipeline alone; runs in a child."""
    X, y = make_friedman(n_rows, n_features=_PIPELINE_COLUMNS)
    stack = StackingRegressor(_PIPELINES, final_estimator=LinearRegression(), cv=2)
    model = Memmapped(stack, row_order="any", check="off")
    with parallel_config(backend="mmap", n_jobs=2):
        warm(2, _PIPELINES[1][1])
        cpu_before = _cpu_seconds()
        with measure() as cost:
            model.fit(X, y)
        cpu_seconds = _cpu_seconds() - cpu_before
    growth = sorted(_growth_alone(X, y, estimator) for _, estimator in _PIPELINES)
    folds = cost.mapped_bytes + cost.copied_bytes
    return {
        "ratio": cost.peak_growth_bytes / X.nbytes,
        # The two largest at the same time, X and y shared, and predictions.
        "own_ratio": 1.0 + (sum(growth[-2:]) + 12 * y.nbytes) / X.nbytes,
        "own_bytes": growth,
        "copied_ratio": cost.copied_bytes / max(folds, 1),
        "busy": cpu_seconds / cost.wall_seconds / 2,
        "wall_seconds": cost.wall_seconds,
    }


def _growth_alone(X: Any, y: Any, estimator: Any) -> int:
    """Return what one fit on all rows, which nobody copies, takes in this process."""
    with measure() as cost:
        clone(estimator).fit(X, y)
    return int(cost.peak_growth_bytes)


def _cpu_seconds() -> float:
    """Return the CPU time of this process and all that it has started."""
    this = psutil.Process()
    total = 0.0
    for process in (this, *this.children(recursive=True)):
        times = process.cpu_times()
        total += times.user + times.system
    return total


def unequal_stack(settings: Settings) -> Iterator[Row]:
    """Four estimators of unequal cost, five folds, two workers: wall time over loky."""
    found = call_in_child(
        time_unequal,
        n_rows=settings.scale(_UNEQUAL_ROWS),
        n_pairs=settings.n_repeats,
    )
    medians = [statistics.median(times) for times in zip(*found["pairs"], strict=True)]
    yield Row(
        "unequal_stack",
        "Memmapped, exact, 2 workers",
        [medians[1] / medians[0]],
        "x loky",
        0.75,
        note=f"{medians[1]:.1f} s, loky {medians[0]:.1f} s",
        details=found,
    )


def time_unequal(n_rows: int, n_pairs: int) -> dict[str, Any]:
    """Time the same ensemble under loky and by Memmapped in turns; runs in a child."""
    X, y = make_friedman(n_rows, n_features=20)
    stack = StackingRegressor(
        [
            ("boosting", GradientBoostingRegressor(n_estimators=30, random_state=0)),
            ("tree", DecisionTreeRegressor(max_depth=8, random_state=0)),
            ("ridge", Ridge()),
            ("lasso", Lasso(alpha=0.01)),
        ],
        final_estimator=Ridge(),
        cv=5,
    )
    models = {"loky": stack, "mmap": Memmapped(stack, check="off")}
    fitted: dict[str, Any] = {}

    def run(backend: str) -> float:
        with parallel_config(backend=backend, n_jobs=2):
            start = time.perf_counter()
            fitted[backend] = clone(models[backend]).fit(X, y)
            return time.perf_counter() - start

    for backend in models:
        with parallel_config(backend=backend, n_jobs=2):
            warm(2, DecisionTreeRegressor())
    pairs = []
    for pair in range(n_pairs):
        order = ("loky", "mmap") if pair % 2 == 0 else ("mmap", "loky")
        times = {backend: run(backend) for backend in order}
        pairs.append((times["loky"], times["mmap"]))
    same = np.array_equal(*(fitted[name].predict(X[:1000]) for name in models))
    return {"pairs": pairs, "is_same": bool(same)}


def small_fit(settings: Settings) -> Iterator[Row]:
    """A fit on 1,000 x 10 numbers: what Memmapped adds to it."""
    found = call_in_child(time_small, n_fits=settings.scale(_N_FITS))
    yield Row(
        "small_fit",
        "Memmapped(Ridge()) - Ridge()",
        [found["milliseconds"]],
        "ms",
        5.0,
        note=f"Ridge() alone {found['alone_milliseconds']:.2f} ms",
        details=found,
    )


def time_small(n_fits: int) -> dict[str, Any]:
    """Time small fits with and without, in turns; runs in a child."""
    X = np.random.default_rng(0).random((1000, 10))
    y = X.sum(axis=1)
    models = (Ridge(), Memmapped(Ridge()))
    for model in models:
        model.fit(X, y)
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(n_fits):
        for model, spent in zip(models, times, strict=True):
            start = time.perf_counter()
            model.fit(X, y)
            spent.append(1000 * (time.perf_counter() - start))
    alone, wrapped = map(statistics.median, times)
    return {"milliseconds": wrapped - alone, "alone_milliseconds": alone}
