"""What goes between processes by value: results, texts, and very many small tasks."""

from __future__ import annotations

import gc
import itertools
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, cross_val_predict
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import measure
from skl_mmap._linux.proc import own_private_bytes

__all__ = ["large_results", "predictions", "texts", "tiny_tasks"]

_BACKENDS = ("loky", "mmap")
_RESULT_BYTES = 40_000_000
_N_RESULTS = 20
_PREDICTED_ROWS = 200_000
_N_CLASSES = 100
_LINES = 40_000
_HELD_LINES = 480_000
_TINY_TASKS = 2000


def large_results(settings: Settings) -> Iterator[Row]:
    """Twenty results of 40 MB: of loky's time, and the peak over their size."""
    n_items = settings.scale(_RESULT_BYTES // 8)
    runs = settings.repeat(lambda: call_in_child(run_results, n_items=n_items))
    ratios = [run["mmap"]["seconds"] / run["loky"]["seconds"] for run in runs]
    case = f"{_N_RESULTS} x {n_items * 8 / 1e6:.0f} MB"
    yield Row("large_results", case, ratios, "x loky", target=0.3, details=runs)
    for backend, target in (("mmap", 1.1), ("loky", None)):
        peaks = [run[backend]["peak"] for run in runs]
        yield Row("large_results", f"{backend}, {case}", peaks, "x size", target)


def run_results(n_items: int) -> dict[str, Any]:
    """Return large results under each backend; runs in a child."""

    def run() -> Any:
        tasks = (delayed(_fill)(number, n_items) for number in range(_N_RESULTS))
        return Parallel(batch_size=1)(tasks)

    found = {}
    for backend in _BACKENDS:
        with parallel_config(backend=backend, n_jobs=2):
            warm(2)
            run()
            start = time.perf_counter()
            run()
            seconds = time.perf_counter() - start
            gc.collect()
            growth_bytes, results = _measure_growth(run)
            n_bytes = sum(result.nbytes for result in results)
            found[backend] = {"seconds": seconds, "peak": growth_bytes / n_bytes}
            del results
    return found


def _fill(number: int, n_items: int) -> Any:
    return np.full(n_items, float(number))


def _measure_growth(run: Callable[[], Any]) -> tuple[int, Any]:
    with measure() as cost:
        result = run()
    return cost.peak_growth_bytes, result


def _compare(
    settings: Settings, scenario: str, case: str, target: float, job: str, size: int
) -> Iterator[Row]:
    """Compare the peak of one job under both backends, each in a fresh process."""
    runs = settings.repeat(
        lambda: {
            backend: call_in_child(peak, backend=backend, job=job, size=size)["peak"]
            for backend in _BACKENDS
        }
    )
    ratios = [run["mmap"] / run["loky"] for run in runs]
    megabytes = statistics.median(run["mmap"] for run in runs) / 1e6
    note = f"{megabytes:.0f} MB"
    yield Row(scenario, case, ratios, "x loky", target, note=note, details=runs)


def peak(backend: str, job: str, size: int) -> dict[str, Any]:
    """Measure how memory grows with one job; runs in a child."""
    make = {"predictions": _make_predictions, "texts": _make_search}[job]
    run, run_small = make(size)
    with parallel_config(backend=backend, n_jobs=2), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        run_small()
        gc.collect()
        growth_bytes, _ = _measure_growth(run)
    return {"peak": growth_bytes}


def predictions(settings: Settings) -> Iterator[Row]:
    """Probabilities of 100 classes: what they need while folds are put together."""
    n_rows = settings.scale(_PREDICTED_ROWS)
    case = f"predict_proba, {n_rows:,} x {_N_CLASSES}"
    yield from _compare(settings, "predictions", case, 0.93, "predictions", n_rows)


def _make_predictions(n_rows: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    X = np.random.default_rng(0).normal(size=(n_rows, 10))
    y = np.arange(n_rows) % _N_CLASSES

    def run(n: int = n_rows) -> Any:
        return cross_val_predict(GaussianNB(), X[:n], y[:n], method="predict_proba")

    return run, lambda: run(20 * _N_CLASSES)


def texts(settings: Settings) -> Iterator[Row]:
    """Texts, which are sent by value: a search, and what a worker holds of a list."""
    n_lines = settings.scale(_LINES)
    case = f"Tfidf search, {n_lines:,} texts"
    yield from _compare(settings, "texts", case, 1.0, "texts", n_lines)
    n_lines = settings.scale(_HELD_LINES)
    for backend, target in (("mmap", 1.1), ("loky", None)):
        runs = settings.repeat(
            lambda backend=backend: call_in_child(
                hold_texts, backend=backend, n_lines=n_lines
            )
        )
        held = [run["held"] for run in runs]
        yield Row("texts", f"{backend}, held by a worker", held, "x size", target)


def _make_search(n_lines: int) -> tuple[Callable[[], Any], Callable[[], Any]]:
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, 6))) for _ in range(5000)]
    X = [" ".join(words[i % 5000] for i in rng.zipf(1.3, 60)) for _ in range(n_lines)]
    y = rng.integers(0, 2, n_lines)
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=3))
    grid = {"logisticregression__C": [0.1, 1.0]}
    search = GridSearchCV(model, grid, cv=2, refit=False)
    return lambda: search.fit(X, y), lambda: search.fit(X[:200], y[:200])


def hold_texts(backend: str, n_lines: int) -> dict[str, Any]:
    """Find out what a worker holds of a list of texts; runs in a child."""
    lines = [f"{number:06}" * 17 for number in range(n_lines)]
    n_bytes = sum(map(sys.getsizeof, lines)) + sys.getsizeof(lines)
    with parallel_config(backend=backend, n_jobs=2):

        def ask(value: list[str]) -> int:
            [held] = Parallel(batch_size=1)([delayed(_private_bytes)(value)])
            return int(held)

        before = min(ask([]) for _ in range(6))
        return {"held": (ask(lines) - before) / n_bytes}


def _private_bytes(_value: Any) -> int:
    gc.collect()
    return own_private_bytes()


def tiny_tasks(settings: Settings) -> Iterator[Row]:
    """2,000 tasks that do next to nothing: of loky's time, and of its CPU time here."""
    n_tasks = settings.scale(_TINY_TASKS)
    runs = settings.repeat(lambda: call_in_child(time_tiny, n_tasks=n_tasks))
    for name, what, target in (
        ("mmap", "seconds", 1.0),
        ("mmap", "cpu_seconds", None),
        ("mmap, min_bytes=1", "cpu_seconds", 2.0),
    ):
        ratios = [run[name][what] / run["loky"][what] for run in runs]
        case = f"{name}, {what.replace('_', ' ')}"
        yield Row("tiny_tasks", case, ratios, "x loky", target, details=runs)


def time_tiny(n_tasks: int) -> dict[str, Any]:
    """Time small tasks under each backend, in turns; runs in a child."""
    configs: dict[str, dict[str, Any]] = {
        "loky": {"backend": "loky"},
        "mmap": {"backend": "mmap"},
        "mmap, min_bytes=1": {"backend": "mmap", "min_bytes": 1},
    }
    values = np.ones(1000)
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in configs}
    for turn, name in itertools.product(range(4), configs):
        with parallel_config(n_jobs=2, **configs[name]):
            n = 200 if turn == 0 else n_tasks
            start, cpu_start = time.perf_counter(), time.process_time()
            Parallel(batch_size=1)(delayed(_add)(values, i) for i in range(n))
            seconds = time.perf_counter() - start, time.process_time() - cpu_start
            if turn:
                times[name].append(seconds)
    return {
        name: {
            "seconds": min(s for s, _ in all_),
            "cpu_seconds": min(c for _, c in all_),
        }
        for name, all_ in times.items()
    }


def _add(values: Any, number: int) -> Any:
    return values.sum() + number
