"""What the benchmarks have in common: backends, warm workers, three figures each."""

from __future__ import annotations

import contextlib
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import cloudpickle
import numpy as np
from joblib import Parallel, delayed, parallel_config
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.linear_model import SGDRegressor

from .profiles import PROFILE

__all__ = [
    "BACKENDS",
    "DetailedJob",
    "Job",
    "Reader",
    "ScoredJob",
    "hold",
    "make_sgd",
    "use_backend",
    "warm_up",
]

# Workers import what they run, and the way in which asv imports this suite is unknown
# to them.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

BACKENDS: dict[str, dict[str, Any]] = {
    "loky": {"backend": "loky"},
    "threading": {"backend": "threading"},
    "mmap": {"backend": "mmap"},
    "mmap, any row order": {"backend": "mmap", "row_order": "any"},
}
"""The backend and its options for each value of the parameter."""

_BLOCK_ROWS = 2048
_WARM_ROWS = 100
_WARM_SECONDS = 0.2


@contextlib.contextmanager
def use_backend(name: str, n_jobs: int, **options: Any) -> Iterator[None]:
    """Run what is parallel in the block with one of `BACKENDS`.

    Raises
    ------
    NotImplementedError
        If the installed skl_mmap does not know an option; asv skips the benchmark.
    """
    if name.startswith("mmap"):
        import skl_mmap  # noqa: F401, registers the backend
    try:
        context = parallel_config(**BACKENDS[name], n_jobs=n_jobs, **options)
    except (TypeError, ValueError) as error:
        raise NotImplementedError(
            f"the installed skl_mmap does not take {options or BACKENDS[name]}: {error}"
        ) from error
    with context:
        yield


def warm_up(n_jobs: int, estimator: Any = None) -> None:
    """Start all workers of the current backend, and make them import what they need.

    Each task waits, since a quick worker would otherwise take the tasks of those that
    are still starting.
    """
    if n_jobs > 1:
        task = delayed(_fit_little)(estimator)
        Parallel(batch_size=1, pre_dispatch="all")([task] * (2 * n_jobs))
    else:
        _fit_little(estimator)


def _fit_little(estimator: Any) -> None:
    if estimator is not None:
        X = np.random.default_rng(0).random((_WARM_ROWS, 10))
        y = X[:, 0]
        clone(estimator).fit(X, y).score(X, y)
    time.sleep(_WARM_SECONDS)


def hold(array: Any, seconds: float) -> None:
    """Read one element, and wait."""
    float(array[-1])
    time.sleep(seconds)


class Reader(RegressorMixin, BaseEstimator):
    """Read all of X and allocate nothing: what is left is what the backend takes."""

    def __init__(self, seconds: float = 1.0) -> None:
        self.seconds = seconds

    def fit(self, X: Any, y: Any) -> Reader:
        """Read X, row block by row block, for so long that all workers are at it."""
        end = time.monotonic() + self.seconds
        while True:
            total = self._read(X)
            if time.monotonic() >= end:
                self.mean_ = total / X.size
                return self

    @staticmethod
    def _read(X: Any) -> float:
        return sum(
            float(np.add.reduce(X[start : start + _BLOCK_ROWS], axis=None))
            for start in range(0, len(X), _BLOCK_ROWS)
        )

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Read X once."""
        return self._read(X) / X.size


def make_sgd() -> SGDRegressor:
    """Make a model that copies nothing itself."""
    return SGDRegressor(max_iter=PROFILE.n_passes, tol=None, eta0=0.001, random_state=0)


class Job(ABC):
    """A parallel job, and its memory.

    Memory is the growth of the whole process tree above "X loaded, workers warm".
    """

    relative = True
    rounds = PROFILE.rounds

    @abstractmethod
    def run(self, *params: Any) -> float:
        """Run the job, with what setup has made, and return a score."""

    def peaktree_job(self, *params: Any) -> None:
        self.run(*params)


class ScoredJob(Job):
    """The same, with time and score under the same parameters."""

    # A job is long, and its workers are warm.
    number = 1
    repeat = 1 if PROFILE.is_quick else 3
    warmup_time = 0.0

    def time_job(self, *params: Any) -> None:
        self.run(*params)

    def track_score(self, *params: Any) -> float:
        return self.run(*params)

    track_score.unit = "R2"  # type: ignore[attr-defined]


DetailedJob = Job if PROFILE.is_quick else ScoredJob
"""Most of the time of a small job is that of starting its processes, thrice."""
