"""Wall times: whole jobs, tasks that only hold an array, sharing."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LogisticRegression, Ridge, SGDRegressor
from sklearn.model_selection import KFold, cross_validate

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap.cli._work import make_friedman
from skl_mmap.memory import Placement, Store
from skl_mmap.memory import Settings as MappingSettings

__all__ = ["hold", "share_speed", "wall"]

_COLUMNS = 50
_HOLD_SECONDS = 3.0
_HOLD_BYTES = 800_000_000
_SHARE_BYTES = 400_000_000

# Rows are fewer where a fit is expensive, so that a job takes some ten seconds.
_JOBS: dict[str, tuple[Any, int]] = {
    "SGDRegressor": (SGDRegressor(max_iter=5, tol=None, random_state=0), 1_000_000),
    "LogisticRegression": (LogisticRegression(max_iter=100), 500_000),
    "Ridge": (Ridge(), 1_000_000),
    "HistGradientBoosting": (
        HistGradientBoostingRegressor(max_iter=20, random_state=0),
        200_000,
    ),
}


def wall(settings: Settings) -> Iterator[Row]:
    """Whole jobs with two warm workers: mmap over loky, in interleaved pairs."""
    for row_order in ("exact", "any"):
        ratios = []
        for name, (_, n_rows) in _JOBS.items():
            pairs = call_in_child(
                time_pairs,
                job=name,
                n_rows=settings.scale(n_rows),
                row_order=row_order,
                n_pairs=settings.n_repeats,
            )["pairs"]
            medians = [statistics.median(times) for times in zip(*pairs, strict=True)]
            ratios.append(medians[1] / medians[0])
            yield Row(
                "wall",
                f"{name}, {row_order}",
                [ratios[-1]],
                "x loky",
                target=1.1,
                note=f"{medians[1]:.1f} s, loky {medians[0]:.1f} s, "
                f"{settings.scale(n_rows):,} rows",
                details=pairs,
            )
        yield Row("wall", f"median of jobs, {row_order}", ratios, "x loky", target=0.9)


def time_pairs(job: str, n_rows: int, row_order: str, n_pairs: int) -> dict[str, Any]:
    """Time the same job under loky and mmap in turns; runs in a child.

    Both pools stay warm: switching from one to the other restarts no worker.
    """
    estimator, _ = _JOBS[job]
    X, y = make_friedman(n_rows, n_features=_COLUMNS)
    is_classifier = job == "LogisticRegression"
    if is_classifier:
        y = (y > np.median(y)).astype(np.intp)
    configs: dict[str, dict[str, Any]] = {
        "loky": {"backend": "loky", "n_jobs": 2},
        "mmap": {"backend": "mmap", "n_jobs": 2, "row_order": row_order},
    }

    def run(backend: str) -> float:
        with parallel_config(**configs[backend]):
            start = time.perf_counter()
            cross_validate(estimator, X, y, cv=KFold(5), error_score="raise")
            return time.perf_counter() - start

    for config in configs.values():
        with parallel_config(**config):
            warm(2, estimator, is_classifier=is_classifier)
    pairs = []
    for pair in range(n_pairs):
        # Each goes first as often as the other, since the machine may drift.
        order = ("loky", "mmap") if pair % 2 == 0 else ("mmap", "loky")
        times = {backend: run(backend) for backend in order}
        pairs.append((times["loky"], times["mmap"]))
    return {"pairs": pairs}


def hold(settings: Settings) -> Iterator[Row]:
    """Four tasks get the same array and wait: what is left is sending it."""
    n_bytes = settings.scale(_HOLD_BYTES)
    for backend, target in (("mmap", 3.8), ("loky", None)):
        runs = settings.repeat(
            lambda backend=backend: call_in_child(
                time_hold, backend=backend, n_bytes=n_bytes
            )
        )
        yield Row(
            "hold",
            f"{backend}, 4 x {_HOLD_SECONDS:g} s, {n_bytes / 1e6:.0f} MB",
            [run["seconds"] for run in runs],
            "s",
            target,
            details=runs,
        )


def time_hold(backend: str, n_bytes: int) -> dict[str, Any]:
    """Time four tasks that hold one array; runs in a child."""
    X = np.ones(n_bytes // 8)
    with parallel_config(backend=backend, n_jobs=4):
        warm(4)
        start = time.perf_counter()
        Parallel()(delayed(_hold)(X, _HOLD_SECONDS) for _ in range(4))
        return {"seconds": time.perf_counter() - start}


def _hold(_array: Any, seconds: float) -> None:
    time.sleep(seconds)


def share_speed(settings: Settings) -> Iterator[Row]:
    """Sharing an array that was never shared, beside a plain copy of it."""
    n_bytes = settings.scale(_SHARE_BYTES)
    runs = settings.repeat(lambda: call_in_child(time_sharing, n_bytes=n_bytes))
    yield Row(
        "share_speed",
        f"{n_bytes / 1e6:.0f} MB, share over copyto",
        [run["copy_seconds"] / run["share_seconds"] for run in runs],
        "x speed",
        target=0.6,
        is_minimum=True,
        note=f"{n_bytes / 1e9 / runs[0]['share_seconds']:.1f} GB/s shared",
        details=runs,
    )
    yield Row(
        "share_speed",
        f"{n_bytes / 1e6:.0f} MB, for the next task",
        [run["again_seconds"] * 1e3 for run in runs],
        "ms",
        target=1.0,
        note="pages compared, in case that it was refilled",
        details=runs,
    )


def time_sharing(n_bytes: int) -> dict[str, Any]:
    """Time sharing and copying in turns, each into fresh memory; runs in a child."""
    random = np.random.default_rng(0)
    times: dict[str, list[float]] = {"copy": [], "share": [], "again": []}
    steps: tuple[tuple[str, Callable[[Any], Any]], ...] = (
        ("copy", copy_once),
        ("share", share_once),
    )
    for _ in range(3):
        for name, step in steps:
            X = random.random(n_bytes // 8)
            start = time.perf_counter()
            kept = step(X)
            times[name].append(time.perf_counter() - start)
            if name == "share":
                start = time.perf_counter()
                kept[0].share(X)
                times["again"].append(time.perf_counter() - start)
            del kept, X
    return {f"{name}_seconds": statistics.median(times[name]) for name in times}


def copy_once(X: Any) -> Any:
    """Copy an array into fresh memory, page faults included."""
    copy = np.empty_like(X)
    np.copyto(copy, X)
    return copy


def share_once(X: Any) -> Any:
    """Share an array that was never shared before."""
    store = Store(Placement.from_parameter("auto"), MappingSettings())
    return store, store.share(X)
