"""Peak memory of a cross-validation above "X loaded, workers warm"."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.model_selection import KFold, cross_validate

from scenarios.estimators import NullRegressor, TimedSGDRegressor, count_overlap
from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import measure
from skl_mmap.cli._work import make_friedman

__all__ = [
    "adopt_any",
    "narrow_any",
    "npy_any",
    "null_any",
    "null_exact",
    "null_loky",
    "sgd_any",
]

_ROWS = 1_000_000
_COLUMNS = 50
_NARROW_COLUMNS = 10
_UNIT = "x X"


def peak(
    backend: str,
    row_order: str,
    n_jobs: int,
    n_rows: int,
    n_columns: int,
    estimator: str = "null",
    path: str | None = None,
    adopt: bool = False,
) -> dict[str, Any]:
    """Measure one cross-validation; runs in a child.

    Parameters
    ----------
    path : str or None
        Where to find X as .npy, mapped and not loaded. None to make X in memory.
    adopt : bool
        Whether X is shared in place.
    """
    if path is None:
        X, y = make_friedman(n_rows, n_features=n_columns)
    else:
        X, y = np.load(path, mmap_mode="r"), np.zeros(n_rows)
    model = {
        "null": NullRegressor(),
        "sgd": TimedSGDRegressor(max_iter=5, tol=None, random_state=0),
    }[estimator]
    options = {"row_order": row_order, "adopt": adopt} if backend == "mmap" else {}
    with parallel_config(backend=backend, n_jobs=n_jobs, **options):
        warm(n_jobs, model)
        with measure() as cost:
            results = cross_validate(
                model, X, y, cv=KFold(5), return_estimator=True, error_score="raise"
            )
    return {
        "ratio": cost.peak_growth_bytes / X.nbytes,
        "overlap": count_overlap(results["estimator"]),
        "wall_seconds": cost.wall_seconds,
        "baseline_bytes": cost.baseline_bytes,
        "peak_bytes": cost.peak_bytes,
        "mapped_bytes": cost.mapped_bytes,
        "copied_bytes": cost.copied_bytes,
        "copy_reasons": dict(cost.copy_reasons),
    }


def _measure(
    settings: Settings,
    scenario: str,
    backend: str,
    n_jobs: int,
    *,
    row_order: str = "exact",
    target: float | None = None,
    n_columns: int = _COLUMNS,
    **arguments: Any,
) -> Row:
    """Measure one case in fresh processes."""
    runs = settings.repeat(
        lambda: call_in_child(
            peak,
            backend=backend,
            row_order=row_order,
            n_jobs=n_jobs,
            n_rows=settings.scale(_ROWS),
            n_columns=n_columns,
            **arguments,
        )
    )
    return Row(
        scenario,
        f"{backend}, {n_jobs} workers",
        [run["ratio"] for run in runs],
        _UNIT,
        target,
        note=f"{min(run['overlap'] for run in runs)} tasks at once",
        details=runs,
    )


def _measure_mmap(
    settings: Settings, scenario: str, row_order: str, targets: Mapping[int, float]
) -> Iterator[Row]:
    for n_jobs, target in targets.items():
        yield _measure(
            settings, scenario, "mmap", n_jobs, row_order=row_order, target=target
        )


def null_exact(settings: Settings) -> Iterator[Row]:
    """Folds in scikit-learn's own order."""
    yield from _measure_mmap(settings, "null_exact", "exact", {2: 1.5, 4: 2.0, 8: 2.8})


def null_loky(settings: Settings) -> Iterator[Row]:
    """The same under joblib's backends, to compare with."""
    for backend, n_jobs in (("loky", 2), ("loky", 4), ("loky", 8), ("threading", 4)):
        yield _measure(settings, "null_loky", backend, n_jobs)


def null_any(settings: Settings) -> Iterator[Row]:
    """Folds in page-friendly order."""
    yield from _measure_mmap(settings, "null_any", "any", {2: 1.06, 4: 1.08, 8: 1.12})


def npy_any(settings: Settings) -> Iterator[Row]:
    """X lies in a file: nothing needs to be shared."""
    random = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "X.npy")
        np.save(path, random.random((settings.scale(_ROWS), _COLUMNS)))
        for backend, target in (("mmap", 0.1), ("loky", None)):
            yield _measure(
                settings,
                "npy_any",
                backend,
                4,
                row_order="any",
                target=target,
                path=path,
            )


def adopt_any(settings: Settings) -> Iterator[Row]:
    """X is shared in place: there is no second one at any moment."""
    yield _measure(
        settings, "adopt_any", "mmap", 4, row_order="any", target=0.1, adopt=True
    )


def sgd_any(settings: Settings) -> Iterator[Row]:
    """An estimator that does not copy X itself."""
    for backend, target in (("mmap", 1.35), ("loky", None)):
        yield _measure(
            settings,
            "sgd_any",
            backend,
            4,
            row_order="any",
            target=target,
            estimator="sgd",
        )


def narrow_any(settings: Settings) -> Iterator[Row]:
    """With few columns, index arrays weigh as much as X."""
    for backend, target in (("mmap", 1.25), ("loky", None)):
        yield _measure(
            settings,
            "narrow_any",
            backend,
            4,
            row_order="any",
            target=target,
            n_columns=_NARROW_COLUMNS,
        )
