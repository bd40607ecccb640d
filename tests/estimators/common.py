"""What the tests of Memmapped share; workers import it, so it stays light."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator

import skl_mmap
from skl_mmap import Memmapped

Array = npt.NDArray[Any]

N_SAMPLES, N_FEATURES = 240, 6


def make_data(n_samples: int = N_SAMPLES, n_features: int = N_FEATURES) -> Any:
    """Make features, targets and three classes that depend on them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, n_features))
    target = X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.1 * rng.normal(size=n_samples)
    return X, target, np.digitize(target, [0.0, 1.0])


def share_all(estimator: Any, **parameters: Any) -> Memmapped:
    """Wrap an estimator so that every input is shared, however small."""
    return Memmapped(estimator, **{"min_bytes": 1, "check": "off", **parameters})


@contextmanager
def no_warning_of_copies() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", skl_mmap.exceptions.CopyWarning)
        yield


def assert_equal_state(actual: Any, expected: Any, path: str = "") -> None:
    """Compare fitted objects all the way down, arrays bit for bit."""
    assert type(actual) is type(expected), path
    if isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype, path
        assert actual.shape == expected.shape, path
        if expected.dtype.hasobject:
            assert actual.tolist() == expected.tolist(), path
        else:
            assert actual.tobytes() == expected.tobytes(), path
    elif isinstance(expected, dict):
        assert actual.keys() == expected.keys(), path
        for key in expected:
            assert_equal_state(actual[key], expected[key], f"{path}[{key!r}]")
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected), path
        for place, pair in enumerate(zip(actual, expected, strict=True)):
            assert_equal_state(*pair, f"{path}[{place}]")
    elif isinstance(expected, BaseEstimator):
        assert_equal_state(vars(actual), vars(expected), f"{path}.")
    elif isinstance(expected, np.random.RandomState):
        assert_equal_state(actual.get_state(), expected.get_state(), path)
    elif type(expected).__eq__ is not object.__eq__:
        assert actual == expected or actual != actual, path
