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
    return float(np.sort(np.asarray(column).reshape(-1)[:_ROWS])[::1000].sum())


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


def _make_windows(n_rows: int) -> tuple[int, Callable[[], Iterator[Any]]]:
    X = np.random.default_rng(0).random((n_rows, _COLUMNS))
    step = n_rows // 2 // _COLUMNS
    starts = range(0, step * _COLUMNS, step)
    return X.nbytes, lambda: (
        delayed(_use_column)(X[start : start + n_rows // 2]) for start in starts
    )


# Jobs, and how much their memory may grow under "mmap". Of columns that do not come
# again, 8 MiB are kept for a while.
_JOBS: dict[str, tuple[Callable[[int], tuple[int, Any]], float]] = {
    "columns of an array": (_make_columns, 0.4),
    "columns of a frame": (_make_frame, 0.4),
    f"lists of {_LIST_ITEMS} rows": (_make_lists, 1.25),
    "windows of half of X": (_make_windows, 1.25),
}


def parts(settings: Settings) -> Iterator[Row]:
    """Views of one array in 60 tasks: what they add to memory, and the time."""
    for job, (_, most) in _JOBS.items():
        runs = settings.repeat(
            lambda job=job: call_in_child(
                run_parts,
                job=job,
                n_rows=settings.scale(_ROWS),
                n_pairs=settings.n_repeats + 2,
            )
        )
        for backend, target in (("mmap", most), ("loky", None)):
            yield Row(
                "parts",
                f"{job}, {backend}",
                [run[backend]["growth"] for run in runs],
                "x X",
                target,
                note=f"{runs[0]['pickled']:.3f} X pickled" if backend == "mmap" else "",
                details=runs,
            )
        for what in ("cpu", "wall"):
            yield Row(
                "parts",
                f"{job}, {what}",
                [run["mmap"][what] / run["loky"][what] for run in runs],
                "x loky",
                1.0,
                note=f"{runs[0]['mmap'][what]:.2f} s",
            )


def run_parts(job: str, n_rows: int, n_pairs: int) -> dict[str, Any]:
    """Measure one job under both backends, in turns; runs in a child."""
    make_job, _ = _JOBS[job]
    n_bytes, make_tasks = make_job(n_rows)
    found: dict[str, list[dict[str, float]]] = {backend: [] for backend in _BACKENDS}
    results = {}
    for backend in _BACKENDS:
        with parallel_config(backend, n_jobs=_N_JOBS):
            warm(_N_JOBS)
    for pair in range(n_pairs):
        for backend in _BACKENDS[:: 1 if pair % 2 else -1]:
            # One task at a time: a worker that maps an array for each of several tasks
            # is counted as if it had several arrays.
            with (
                parallel_config(backend, n_jobs=_N_JOBS),
                Parallel(batch_size=1) as parallel,
            ):
                with measure() as cost:
                    results[backend] = parallel(make_tasks())
                start = time.perf_counter()
                parallel(make_tasks())
                wall_seconds = time.perf_counter() - start
            found[backend].append(
                {
                    "growth": cost.peak_growth_bytes / n_bytes,
                    "cpu": cost.cpu_seconds,
                    "wall": wall_seconds,
                }
            )
    assert results["mmap"] == results["loky"]
    medians: dict[str, Any] = {
        backend: {
            name: statistics.median(run[name] for run in runs) for name in runs[0]
        }
        for backend, runs in found.items()
    }
    return {**medians, "pickled": count_pickled_bytes(make_tasks()) / n_bytes}


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
