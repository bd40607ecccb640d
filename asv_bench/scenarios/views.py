"""Columns and slices of one array, a task for each, and lists of them in each task."""

from __future__ import annotations

import io
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import measure
from skl_mmap.backend import Options, TaskPickler
from skl_mmap.memory import Placement, Store
from skl_mmap.memory import Settings as MappingSettings

__all__ = ["parts"]

_ROWS = 100_000
_COLUMNS = 60
_LIST_ITEMS = 200
_ITEM_BYTES = 100_000
_N_JOBS = 2
_BACKENDS = ("loky", "mmap")


def _use_column(column: Any) -> float:
    return float(np.sort(np.asarray(column))[::1000].sum())


def _use_list(arrays: list[Any], number: int) -> float:
    return float(sum(array[number::100].sum() for array in arrays))


def _make_columns(n_rows: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    X = np.random.default_rng(0).random((n_rows, _COLUMNS))
    return X.nbytes, lambda: (delayed(_use_column)(X[:, j]) for j in range(_COLUMNS))


def _make_frame(n_rows: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    import pandas as pd

    X = pd.DataFrame(np.random.default_rng(0).random((n_rows, _COLUMNS)))
    n_bytes = int(X.to_numpy().nbytes)
    return n_bytes, lambda: (delayed(_use_column)(X[j]) for j in range(_COLUMNS))


def _make_lists(n_rows: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    n_items = _ITEM_BYTES // 8 * n_rows // _ROWS
    X = np.random.default_rng(0).random((_LIST_ITEMS, n_items))
    return X.nbytes, lambda: (delayed(_use_list)(list(X), j) for j in range(_COLUMNS))


_JOBS = {
    "columns of an array": _make_columns,
    "columns of a frame": _make_frame,
    f"lists of {_LIST_ITEMS} rows": _make_lists,
}


def parts(settings: Settings) -> Iterator[Row]:
    """Views of one array in 60 tasks: what they add to memory, and the time."""
    for job in _JOBS:
        runs = settings.repeat(
            lambda job=job: call_in_child(
                run_parts, job=job, n_rows=settings.scale(_ROWS)
            )
        )
        for backend, target in (("mmap", 1.25), ("loky", None)):
            yield Row(
                "parts",
                f"{job}, {backend}",
                [run[backend]["growth"] for run in runs],
                "x X",
                target,
                note=f"{runs[0]['pickled']:.3f} X pickled" if backend == "mmap" else "",
                details=runs,
            )
        yield Row(
            "parts",
            f"{job}, wall",
            [run["mmap"]["seconds"] / run["loky"]["seconds"] for run in runs],
            "x loky",
            1.0,
            note=f"{runs[0]['mmap']['seconds']:.2f} s",
        )


def run_parts(job: str, n_rows: int) -> dict[str, Any]:
    """Measure and time one job under both backends, in turns; runs in a child."""
    n_bytes, make_tasks = _JOBS[job](n_rows)
    times: dict[str, list[float]] = {backend: [] for backend in _BACKENDS}
    growth: dict[str, float] = {}
    results = {}
    for backend in _BACKENDS:
        with parallel_config(backend, n_jobs=_N_JOBS):
            warm(_N_JOBS)
            with measure() as cost:
                results[backend] = Parallel()(make_tasks())
            growth[backend] = cost.peak_growth_bytes / n_bytes
    assert results["mmap"] == results["loky"]
    for pair in range(5):
        for backend in _BACKENDS[:: 1 if pair % 2 else -1]:
            with parallel_config(backend, n_jobs=_N_JOBS):
                start = time.perf_counter()
                Parallel()(make_tasks())
                times[backend].append(time.perf_counter() - start)
    found: dict[str, Any] = {
        backend: {
            "growth": growth[backend],
            "seconds": statistics.median(times[backend]),
        }
        for backend in _BACKENDS
    }
    return {**found, "pickled": count_pickled_bytes(make_tasks()) / n_bytes}


def count_pickled_bytes(tasks: Iterator[Any]) -> int:
    """Return the bytes that are sent with the tasks of a call."""
    store = Store(Placement.from_parameter("auto"), MappingSettings())
    n_bytes = 0
    for task in tasks:
        file = io.BytesIO()
        TaskPickler(file, store, Options()).dump(task)
        n_bytes += file.tell()
    store.close()
    return n_bytes
