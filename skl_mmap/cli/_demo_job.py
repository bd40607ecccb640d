"""The job of the demo, as it runs in a child: load, warm up, measure."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.model_selection import KFold, cross_validate

from skl_mmap import Measurement, measure
from skl_mmap.cli._demo_data import load_flights, make_friedman

__all__ = ["describe_cost", "make_model", "start_workers", "work"]

_FEW_SMALL_STEPS = {"eta0": 0.001, "max_iter": 5, "tol": None, "random_state": 0}
_WARM_ROWS = 200
_WARM_SECONDS = 0.3


def make_model(name: str) -> BaseEstimator:
    """Make a cheap model by name: the data matters here.

    The steps of gradient descent are small, since the delays of flights are skewed.
    """
    if name == "ridge":
        return Ridge()
    base = [("sgd", SGDRegressor(**_FEW_SMALL_STEPS)), ("ridge", Ridge())]
    return StackingRegressor(base, final_estimator=Ridge(), cv=2)


def work(spec: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Cross-validate the model on one data set with one backend.

    Parameters
    ----------
    spec : dict
        ``data``, ``n_rows``, ``backend``, ``model``, ``n_jobs``, ``n_splits``,
        ``row_order``.
    announce : callable
        Called with the name of each step.

    Returns
    -------
    dict
        Scores and cost, see :class:`skl_mmap.cli._demo_report.Run`.
    """
    announce("loading")
    if spec["data"] == "flights":
        X, y = load_flights()
    else:
        X, y = make_friedman(spec["n_rows"])
    backend = spec["backend"]
    model = make_model(spec["model"])
    options = {"row_order": spec["row_order"]} if backend == "mmap" else {}
    with parallel_config(backend=backend, n_jobs=spec["n_jobs"], **options):
        announce("starting workers")
        start_workers(model, spec["n_jobs"], n_features=X.shape[1])
        announce("cross-validating")
        with measure() as cost:
            results = cross_validate(
                model, X, y, cv=KFold(spec["n_splits"]), error_score="raise"
            )
    return describe_cost(backend, X, results["test_score"].tolist(), cost)


def start_workers(model: BaseEstimator, n_jobs: int, *, n_features: int) -> None:
    """Let every worker load all that it will need, so that this is not measured."""
    warm = delayed(_warm)(model, n_features=n_features)
    Parallel(pre_dispatch="all", batch_size=1)([warm] * (2 * n_jobs))


def describe_cost(
    backend: str, X: NDArray[Any], scores: list[float], cost: Measurement[Any]
) -> dict[str, Any]:
    """Return what :meth:`skl_mmap.cli._demo_report.Run.from_result` takes."""
    # Only workers of the backend "mmap" report about their tasks.
    is_told = backend.startswith("mmap")
    return {
        "backend": backend,
        "shape": X.shape,
        "data_bytes": X.nbytes,
        "scores": scores,
        "wall_seconds": cost.wall_seconds,
        "baseline_bytes": cost.baseline_bytes,
        "peak_bytes": cost.peak_bytes,
        "peak_growth_bytes": cost.peak_growth_bytes,
        "mapped_bytes": cost.mapped_bytes if is_told else None,
        "copied_bytes": cost.copied_bytes if is_told else None,
        "copy_reasons": dict(cost.copy_reasons) if is_told else None,
    }


def _warm(model: BaseEstimator, *, n_features: int) -> None:
    """Load in this worker all that the job will load, and wait for the other workers.

    Without the wait, a quick worker would take the tasks of those still starting.
    """
    X, y = make_friedman(_WARM_ROWS, n_features=n_features)
    clone(model).fit(X, y).predict(X)
    time.sleep(_WARM_SECONDS)
