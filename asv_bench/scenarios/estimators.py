"""Estimators whose tasks show when they ran. Workers import them from here."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import numpy as np
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import SGDRegressor

__all__ = ["NullRegressor", "TimedSGDRegressor", "count_overlap"]

_BLOCK_ROWS = 2048


class NullRegressor(RegressorMixin, BaseEstimator):
    """Read all of X several times and allocate nothing: what is left is the backend's.

    Parameters
    ----------
    min_seconds : float, default=1.5
        Read for at least so long, so that the tasks of all workers overlap.
    min_passes : int, default=2
        Read all rows at least so often.
    """

    def __init__(self, min_seconds: float = 1.5, min_passes: int = 2) -> None:
        self.min_seconds = min_seconds
        self.min_passes = min_passes

    def fit(self, X: Any, y: Any) -> NullRegressor:
        """Read X, row block by row block."""
        self.began_ = time.monotonic()
        n_passes = 0
        while (
            n_passes < self.min_passes
            or time.monotonic() - self.began_ < self.min_seconds
        ):
            self.mean_ = _sum_columns(X) / len(X)
            n_passes += 1
        self.ended_ = time.monotonic()
        return self

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Read X once; the score is the same wherever the rows lie."""
        return float(_sum_columns(X)[0]) / len(X)


class TimedSGDRegressor(SGDRegressor):
    """Linear model by gradient descent that says when it was fitted."""

    def fit(self, X: Any, y: Any, **options: Any) -> TimedSGDRegressor:
        """Fit, and note when."""
        self.began_ = time.monotonic()
        super().fit(X, y, **options)
        self.ended_ = time.monotonic()
        return self


def _sum_columns(X: Any) -> np.ndarray:
    """Sum each column; the temporaries are those of one row."""
    values = np.asarray(X)
    total = np.zeros(values.shape[1])
    part = np.empty_like(total)
    for start in range(0, len(values), _BLOCK_ROWS):
        np.add.reduce(values[start : start + _BLOCK_ROWS], axis=0, out=part)
        total += part
    return total


def count_overlap(estimators: Iterable[Any]) -> int:
    """Count how many estimators were being fitted at the same time, at most.

    The clock of ``time.monotonic`` is one for all processes on Linux.
    """
    events = []
    for estimator in estimators:
        events += [(estimator.began_, 1), (estimator.ended_, -1)]
    running = most = 0
    for _, change in sorted(events):
        running += change
        most = max(most, running)
    return most
