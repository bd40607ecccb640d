"""What workers cost before they do anything: memory, and time to start."""

from __future__ import annotations

import importlib
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from joblib import parallel_config
from loky.reusable_executor import get_reusable_executor
from sklearn.linear_model import SGDRegressor
from sklearn.model_selection import KFold, cross_validate

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap.cli._work import make_friedman

__all__ = ["worker_memory", "worker_start", "worker_tree"]

_MB = 1e6
_TREE_ROWS = 262_144
_COLUMNS = 50
_INTERVAL_SECONDS = 0.02
_START_PAIRS = 5
_KINDS = {
    "loky": {"backend": "loky"},
    "spawn": {"backend": "mmap", "workers": "spawn"},
    "mmap": {"backend": "mmap"},
}


def _read_bytes(pid: int, *names: str) -> int:
    """Add up fields of /proc/PID/smaps_rollup; 0 for a process that has ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    except OSError:
        return 0
    sizes = dict(line.split(":", 1) for line in text.splitlines()[1:])
    return sum(int(sizes[name].split()[0]) * 1024 for name in names)


def _add_shares(pids: list[int]) -> int:
    """Return the memory of processes, each page once, whoever shares it."""
    return sum(_read_bytes(pid, "Pss") for pid in pids)


def worker_memory(settings: Settings) -> Iterator[Row]:
    """Private memory of a warm worker (USS), by the libraries that the program has."""
    for libraries, target in ((), 15.0), (("pandas", "lightgbm"), 20.0):
        for kind, limit in ("loky", None), ("mmap", target):
            runs = settings.repeat(
                lambda kind=kind, libraries=libraries: call_in_child(
                    measure_workers, kind=kind, n_jobs=4, libraries=libraries
                )
            )
            yield Row(
                "worker_memory",
                " + ".join([kind, "scikit-learn", *libraries]),
                [run["worker_bytes"] / _MB for run in runs],
                "MB",
                limit,
                details=runs,
            )


def measure_workers(kind: str, n_jobs: int, libraries: list[str]) -> dict[str, Any]:
    """Measure four workers that have fitted a model; runs in a child."""
    for name in libraries:
        importlib.import_module(name)
    with parallel_config(n_jobs=n_jobs, **_KINDS[kind]):
        warm(n_jobs, SGDRegressor())
    private = [
        _read_bytes(process.pid, "Private_Clean", "Private_Dirty")
        for process in psutil.Process().children(recursive=True)
        if "resource_tracker" not in " ".join(process.cmdline())
    ]
    workers = sorted(private)[-n_jobs:]
    return {"worker_bytes": statistics.median(workers), "all_bytes": private}


def worker_tree(settings: Settings) -> Iterator[Row]:
    """A small job: X of 100 MiB, and all that the tree holds at its peak (PSS)."""
    n_rows = settings.scale(_TREE_ROWS)
    for n_jobs, target in ((4, 540.0), (8, 600.0)):
        for kind, limit in ("loky", None), ("spawn", None), ("mmap", target):
            runs = settings.repeat(
                lambda kind=kind, n_jobs=n_jobs: call_in_child(
                    measure_tree, kind=kind, n_jobs=n_jobs, n_rows=n_rows
                )
            )
            yield Row(
                "worker_tree",
                f"{kind}, {n_jobs} workers",
                [run["peak_bytes"] / _MB for run in runs],
                "MB",
                limit,
                details=runs,
            )


def measure_tree(kind: str, n_jobs: int, n_rows: int) -> dict[str, Any]:
    """Cross-validate, and add up the memory of the tree meanwhile; runs in a child."""
    X, y = make_friedman(n_rows, n_features=_COLUMNS)
    peak, is_over = 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        parent = psutil.Process()
        while not is_over.wait(_INTERVAL_SECONDS):
            pids = [parent.pid, *(p.pid for p in parent.children(recursive=True))]
            peak = max(peak, _add_shares(pids))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        with parallel_config(n_jobs=n_jobs, **_KINDS[kind]):
            model = SGDRegressor(max_iter=5, tol=None, random_state=0)
            cross_validate(model, X, y, cv=KFold(5), error_score="raise")
    finally:
        is_over.set()
        thread.join()
    return {"peak_bytes": peak, "x_bytes": X.nbytes}


def worker_start(settings: Settings) -> Iterator[Row]:
    """The first call of four workers, mmap over loky, in interleaved pairs."""
    n_pairs = max(settings.n_repeats, _START_PAIRS) if not settings.is_quick else 1
    pairs = []
    for pair in range(n_pairs):
        order = ("loky", "mmap") if pair % 2 == 0 else ("mmap", "loky")
        pairs.append({kind: call_in_child(time_start, kind=kind) for kind in order})
    for name, target in ("cold", 0.7), ("again", 0.15):
        key = f"{name}_seconds"
        ratios = [pair["mmap"][key] / pair["loky"][key] for pair in pairs]
        medians = [
            statistics.median(pair[kind][key] for pair in pairs)
            for kind in ("mmap", "loky")
        ]
        yield Row(
            "worker_start",
            "cold pool of 4" if name == "cold" else "pool of 4 started anew",
            ratios,
            "x loky",
            target,
            note=f"{medians[0]:.2f} s, loky {medians[1]:.2f} s",
            details=pairs,
        )


def time_start(kind: str) -> dict[str, Any]:
    """Time the first call, and one after all workers have ended; runs in a child."""
    X = np.random.default_rng(0).random((1000, 5))
    y = X[:, 0]

    def run() -> float:
        start = time.perf_counter()
        with parallel_config(n_jobs=4, **_KINDS[kind]):
            cross_validate(SGDRegressor(), X, y, cv=KFold(8))
        return time.perf_counter() - start

    cold = run()
    if kind == "loky":
        from joblib.externals.loky import get_reusable_executor as get_pool
    else:
        get_pool = get_reusable_executor
    get_pool(reuse=True).shutdown(wait=True, kill_workers=True)
    return {"cold_seconds": cold, "again_seconds": run()}
