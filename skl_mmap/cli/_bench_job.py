"""A job of ``skl-mmap bench``, as it runs in a child: load, warm up, measure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.model_selection import KFold, cross_validate

from skl_mmap import measure
from skl_mmap.cli._bench_peers import PEERS
from skl_mmap.cli._demo_data import make_friedman
from skl_mmap.cli._demo_job import describe_cost, start_workers

__all__ = ["JOBS", "work"]

_FEW_STEPS = {"max_iter": 5, "tol": None, "random_state": 0}


def _make_sgd(loss: str = "squared_error") -> BaseEstimator:
    """Make a model that makes no copies itself: what is measured is the backend."""
    return SGDRegressor(loss=loss, **_FEW_STEPS)


def _make_stack(n_splits: int) -> BaseEstimator:
    base = [("squares", _make_sgd()), ("huber", _make_sgd("huber"))]
    return StackingRegressor(base, final_estimator=Ridge(), cv=KFold(n_splits))


def _cross_validate(
    X: NDArray[Any], y: NDArray[Any], n_splits: int
) -> Callable[[], list[float]]:
    results = cross_validate(_make_sgd(), X, y, cv=KFold(n_splits), error_score="raise")
    return lambda: list(results["test_score"].tolist())


def _stack(
    X: NDArray[Any], y: NDArray[Any], n_splits: int
) -> Callable[[], list[float]]:
    stack = _make_stack(n_splits).fit(X, y)
    return lambda: [float(stack.score(X, y)), *stack.final_estimator_.coef_.tolist()]


# What each job runs; the scores are asked for when it has been measured.
JOBS = {"cross-validation": _cross_validate, "stacking": _stack}


def work(spec: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Run one job on Friedman's function with one peer.

    Parameters
    ----------
    spec : dict
        ``peer``, ``job``, ``n_rows``, ``n_features``, ``n_jobs``, ``n_splits``.
    announce : callable
        Called with the name of each step.

    Returns
    -------
    dict
        Scores and cost, see :class:`skl_mmap.cli._demo_report.Run`.
    """
    announce("loading")
    X, y = make_friedman(spec["n_rows"], n_features=spec["n_features"])
    run = JOBS[spec["job"]]
    with PEERS[spec["peer"]].enter(spec["n_jobs"]):
        announce("starting workers")
        start_workers(_make_stack(2), spec["n_jobs"], n_features=X.shape[1])
        announce("running")
        with measure() as cost:
            get_scores = run(X, y, spec["n_splits"])
        return describe_cost(spec["peer"], X, get_scores(), cost)
