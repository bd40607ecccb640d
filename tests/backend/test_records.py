"""What workers say about their tasks."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from joblib import Parallel, delayed
from sklearn.linear_model import Ridge
from sklearn.model_selection import cross_validate

import skl_mmap
from tests.backend.common import (
    call_each,
    numbered_rows,
    recorded,
    use_mmap,
)

Array = npt.NDArray[Any]

N_ROWS, N_COLUMNS = 100_000, 50
N_SPLITS = 5


@pytest.fixture(scope="module", name="X")
def make_matrix() -> Array:
    return numbered_rows(N_ROWS, N_COLUMNS)


def folds() -> list[tuple[Array, Array]]:
    """Train and test sets as KFold makes them."""
    rows = np.arange(N_ROWS)
    tests = np.array_split(rows, N_SPLITS)
    return [(np.setdiff1d(rows, test), test) for test in tests]


def fit(X: Array, train: Array, test: Array) -> float:
    return float(X[train][0, 0] + X[test][0, 0])


def run_folds(X: Array) -> Any:
    parallel = Parallel(batch_size=1)
    return parallel(delayed(fit)(X, train=train, test=test) for train, test in folds())


def nothing() -> None:
    pass


def test_every_batch_has_one_record() -> None:
    with use_mmap():
        with recorded() as records:
            Parallel(batch_size=3, pre_dispatch="all")(
                delayed(nothing)() for _ in range(12)
            )
        call_each(nothing)
    assert len(records) == 4
    assert os.getpid() not in {record.pid for record in records}
    assert all(record.seconds > 0 for record in records)


def fail() -> None:
    raise ValueError("no")


def test_failed_batch_has_a_record_too() -> None:
    with use_mmap(), recorded() as records, pytest.raises(ValueError, match="no"):
        call_each(fail, n_tasks=1)
    assert len(records) == 1


def test_any_order_maps_nearly_all_rows(X: Array) -> None:
    with use_mmap(row_order="any", min_bytes="1M"), recorded() as records:
        run_folds(X)
    assert len(records) == N_SPLITS
    total = N_SPLITS * X.nbytes
    mapped = sum(record.mapped_bytes for record in records)
    copied = sum(record.copied_bytes for record in records)
    assert 0.95 * total < mapped <= 1.02 * total
    assert copied < 0.05 * total


def test_exact_order_says_what_it_copied(X: Array) -> None:
    with use_mmap(min_bytes="1M"), recorded() as records:
        run_folds(X)
    for record in records:
        # The train and the test set of a fold are X together; the index arrays are
        # rows of a shared array as well.
        assert X.nbytes <= record.mapped_bytes + record.copied_bytes < 1.1 * X.nbytes
        assert record.copied_bytes == sum(record.copy_reasons.values())


def select_shuffled(X: Array) -> float:
    rows = np.random.default_rng(0).permutation(len(X))
    return float(X[rows][0, 0])


def test_reasons_for_copies_are_told(X: Array) -> None:
    fortran = np.asfortranarray(X)
    with use_mmap(min_bytes="1M"), recorded() as records:
        call_each(select_shuffled, X, n_tasks=1)
        call_each(select_shuffled, fortran, n_tasks=1)
    shuffled, transposed = (record.copy_reasons for record in records)
    assert shuffled == {"SCATTERED": X.nbytes}
    assert transposed == {"NOT_BY_ROW": X.nbytes}
    assert records[0].mapped_bytes == records[1].mapped_bytes == 0


def write_to_argument(X: Array, n_bytes: int) -> None:
    X.reshape(-1)[: n_bytes // X.itemsize] += 1


def write_to_fold(X: Array, train: Array) -> None:
    part = X[train]
    part += 1


def test_pages_written_to_are_counted_after_the_task_has_let_go(X: Array) -> None:
    n_bytes = 8 << 20
    with use_mmap(min_bytes="1M"), recorded() as records:
        call_each(write_to_argument, X, n_bytes, n_tasks=1)
    assert n_bytes <= (records[0].dirtied_bytes or 0) < 1.5 * n_bytes


def test_pages_of_a_fold_that_were_written_to_are_counted(X: Array) -> None:
    train, _ = folds()[0]
    with use_mmap(min_bytes="1M"), recorded() as records:
        call_each(write_to_fold, X, train, n_tasks=1)
    # The fold itself is gone when the task is done.
    assert (records[0].dirtied_bytes or 0) > 0.9 * len(train) * N_COLUMNS * 8


def allocate(n_bytes: int) -> int:
    return int(np.ones(n_bytes, dtype="u1")[-1])


def test_private_memory_at_its_worst_moment_is_told() -> None:
    n_bytes = 64 << 20
    with use_mmap(), recorded() as records:
        call_each(allocate, n_bytes, n_tasks=1)
    assert 0.9 * n_bytes < (records[0].peak_private_bytes or 0) < 1.5 * n_bytes


def test_reading_shared_rows_takes_no_private_memory(X: Array) -> None:
    with use_mmap(min_bytes="1M", row_order="any"):
        call_each(np.sum, X, n_tasks=4)
        with recorded() as records:
            call_each(np.sum, X, n_tasks=2)
    for record in records:
        assert (record.peak_private_bytes or 0) < 0.1 * X.nbytes


def test_measure_adds_up_what_the_workers_say(X: Array) -> None:
    with use_mmap(row_order="any", min_bytes="1M"), skl_mmap.measure() as report:
        run_folds(X)
    assert len(report.tasks) == N_SPLITS
    assert report.mapped_bytes == sum(task.mapped_bytes for task in report.tasks)
    assert report.mapped_bytes > 0.95 * N_SPLITS * X.nbytes
    assert report.copied_bytes == sum(report.copy_reasons.values())


def test_listening_ends_with_the_block() -> None:
    with use_mmap():
        with recorded() as records:
            call_each(nothing, n_tasks=2)
        n_records = len(records)
        call_each(nothing, n_tasks=2)
    assert len(records) == n_records == 2


def test_lines_that_ask_for_large_blocks_are_named_when_asked_for() -> None:
    X = np.random.default_rng(0).normal(size=(40_000, 40))
    y = X[:, 0].copy()
    with skl_mmap.measure(copy_sites=True) as report, use_mmap():
        cross_validate(Ridge(), X, y, cv=2)
    (task, *_) = report.report(input_bytes=X.nbytes).tasks
    (site, n_bytes), *_ = task.copy_sites.items()
    assert "check_array" in site
    assert site.startswith("sklearn/utils/validation.py:")
    # One of both halves.
    assert n_bytes == pytest.approx(X.nbytes / 2, rel=0.01)
    with skl_mmap.measure() as report, use_mmap():
        cross_validate(Ridge(), X, y, cv=2)
    assert not any(task.copy_sites for task in report.tasks)
