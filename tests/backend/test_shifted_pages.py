"""What folds need of pages that do not agree is copied once by all workers."""

from __future__ import annotations

import os
import signal
from typing import Any

import joblib
import numpy as np
import pytest
from loky.process_executor import TerminatedWorkerError
from sklearn.model_selection import KFold

import skl_mmap
from skl_mmap.memory import _shifted_pages, can_remap
from tests.backend.common import use_mmap

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

# The folds have no whole number of pages.
X = np.random.default_rng(0).random((40_005, 13))
FOLDS = list(KFold(5).split(X))


def checksum(X: Any, train: Any) -> tuple[int, int]:
    """Return what depends on each bit of a fold, and on its place."""
    words = X[train].view(np.uint64).ravel()
    return int(np.bitwise_xor.reduce(words)), int((words * np.arange(len(words))).sum())


def select(X: Any, train: Any) -> Any:
    return X[train]


def expected_of(X: Any) -> list[tuple[int, int]]:
    return [checksum(X, train) for train, _ in FOLDS] * 4


def run(function: Any, X: Any, n_times: int = 4) -> list[Any]:
    parallel = joblib.Parallel(batch_size=1)
    tasks = [joblib.delayed(function)(X, train) for train, _ in FOLDS] * n_times
    return list(parallel(tasks))


def shared_folds_bytes(report: Any) -> int:
    return sum(
        segment.n_bytes
        for segment in report.segments
        if segment.is_of_folds and "(40005, 13)" in segment.description
    )


@pytest.mark.parametrize(("n_jobs", "mmap_mode"), [(2, "c"), (4, "r")])
def test_folds_are_copied_once_whatever_the_number_of_tasks(
    n_jobs: int, mmap_mode: str
) -> None:
    with (
        use_mmap(n_jobs=n_jobs, mmap_mode=mmap_mode),
        skl_mmap.measure() as report,
    ):
        assert run(checksum, X) == expected_of(X)
    # (K - 2) / K of X, and a few pages for each of five folds.
    assert 0.5 * X.nbytes < shared_folds_bytes(report) < 0.6 * X.nbytes + 20 * 4096
    copied_bytes = report.copy_reasons.get("SEAMS", 0)
    assert copied_bytes < 0.02 * report.mapped_bytes
    assert report.copy_reasons["SHIFTED"] > 3 * 0.5 * X.nbytes


def test_what_an_array_had_in_the_call_before_is_never_seen() -> None:
    refilled = X.copy()
    with use_mmap(n_jobs=2):
        for _ in range(3):
            assert run(checksum, refilled, 1) == expected_of(refilled)[:5]
            refilled[::-1] = refilled + 1.0


def test_folds_that_are_results_are_those_of_numpy() -> None:
    with use_mmap(n_jobs=2):
        results = run(select, X, 1)
        # Results outlive the call, and can be given to the next one.
        tasks = [joblib.delayed(checksum)(fold, np.arange(9, 9000)) for fold in results]
        sums = joblib.Parallel()(tasks)
    for fold, (train, _), known in zip(results, FOLDS, sums, strict=True):
        assert fold.tobytes() == X[train].tobytes()
        assert known == checksum(X[train], np.arange(9, 9000))


def die_while_filling(X: Any, train: Any) -> None:
    def write_half(filler: Any, first: int, stop: int) -> None:
        os.pwrite(filler._fd, b"x" * 5000, first * 4096)
        os.kill(os.getpid(), signal.SIGKILL)

    _shifted_pages._Filler._copy = write_half  # type: ignore[method-assign]
    X[train]


def test_after_a_worker_has_died_while_filling_results_are_right() -> None:
    with use_mmap(n_jobs=2):
        assert run(checksum, X, 1) == expected_of(X)[:5]
        with pytest.raises(TerminatedWorkerError):
            run(die_while_filling, X, 1)
        assert run(checksum, X) == expected_of(X)
