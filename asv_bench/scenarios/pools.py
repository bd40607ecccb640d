"""Start workers and make them load what a job will load."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.base import clone

__all__ = ["warm"]

_ROWS = 100
_WAIT_SECONDS = 0.3


def warm(n_jobs: int, estimator: Any = None, *, is_classifier: bool = False) -> None:
    """Start all workers of the current backend, each fitting a little.

    Each task waits, since a quick worker would otherwise take the tasks of those that
    are still starting.
    """
    task = delayed(_fit_little)(estimator, is_classifier=is_classifier)
    Parallel(n_jobs=n_jobs, batch_size=1, pre_dispatch="all")([task] * (2 * n_jobs))


def _fit_little(estimator: Any, *, is_classifier: bool) -> None:
    if estimator is not None:
        random = np.random.default_rng(0)
        X = random.random((_ROWS, 5))
        y = X[:, 0] > X[:, 1] if is_classifier else X[:, 0]
        clone(estimator).fit(X, y).score(X, y)
    time.sleep(_WAIT_SECONDS)
