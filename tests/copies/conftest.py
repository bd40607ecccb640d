"""One process that measures for all tests of a module."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import numpy as np
import psutil
import pytest

from tests.waiting import PATIENCE_SECONDS, wait_until

if sys.platform != "linux":
    collect_ignore_glob = ["test_*.py"]

from skl_mmap.copies import Layout, Prober

from .switch import Switch

GIVEN = Layout("float64", "C")
READ_ONLY = Layout("float64", "C", "r")


@pytest.fixture(scope="session")
def data() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(30_000, 20))
    return X, X[:, 0] + 0.1 * rng.normal(size=len(X))


@pytest.fixture(scope="module")
def prober(data: tuple[np.ndarray, np.ndarray]) -> Iterator[Prober]:
    """A prober of 4.8 MB; its estimator is told what to do by parameters."""
    X, y = data
    with Prober(
        Switch(),
        X,
        y,
        layout=GIVEN,
        methods=("fit",),
        n_rows=len(X),
        timeout_seconds=PATIENCE_SECONDS,
    ) as prober:
        # Otherwise the guard of the first test takes it for another process.
        assert wait_until(are_children_asleep)
        yield prober


def are_children_asleep() -> bool:
    return all(c.status() == "sleeping" for c in psutil.Process().children())
