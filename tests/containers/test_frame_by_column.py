"""Rows of a frame that lies column by column: as pandas takes them, but shared."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import KFold

import skl_mmap
from skl_mmap.containers import container_of
from skl_mmap.containers._pandas import make_frame, numeric_block
from skl_mmap.memory import (
    Placement,
    Settings,
    Store,
    can_remap,
    counters,
    find_mapping,
    geometry_of,
    rebuild_array,
)
from tests.strategies import NUMERIC_DTYPES, examples, fill

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

N_ROWS = 60_003
# Pages are shifted by a few rows in one column, and by many in another.
HALVES = [
    np.r_[0:15_000, 27_003:N_ROWS],
    np.r_[3:N_ROWS:1],
    np.r_[27_000:N_ROWS, 0:24_000],
]

_stores: list[Store] = []


@pytest.fixture(autouse=True)
def stores() -> Iterator[None]:
    """Files of shifted pages go with their stores."""
    yield
    _stores.clear()


def share_frame(frame: Any, n_workers: int = 4, mmap_mode: str = "c") -> Any:
    """Return a frame as a task would get it, column by column."""
    settings = Settings(mmap_mode, min_mapped_bytes=0, min_bytes=0)
    store = Store(Placement.from_parameter("memory"), settings)
    store.next_call(n_workers)
    _stores.append(store)
    block = numeric_block(frame)
    assert block is not None
    shared = store.share(block)
    assert shared is not None
    return make_frame(rebuild_array(shared[0]).T, frame.columns, frame.index)


def make_numbers(dtype: Any = "f8", n_columns: int = 5) -> Any:
    values = np.asfortranarray(fill(np.dtype(dtype), (N_ROWS, n_columns)))
    return pd.DataFrame(values, columns=[f"c{i}" for i in range(n_columns)])


def private_share(frame: Any) -> float:
    """Return which part of a frame every task would have for itself."""
    found = find_mapping(numeric_block(frame))  # type: ignore[arg-type]
    if found is None:
        return 1.0
    return 1 - found[0].mapped_bytes / found[0].n_bytes


def assert_as_taken(selected: Any, expected: Any) -> None:
    """Compare all that pandas knows of a frame, and how its numbers lie."""
    ours, theirs = numeric_block(selected), numeric_block(expected)
    assert ours is not None
    assert theirs is not None
    assert ours.tobytes() == theirs.tobytes()
    assert (ours.dtype, ours.shape, ours.strides) == (
        *(theirs.dtype, theirs.shape, theirs.strides),
    )
    assert ours.flags.forc == theirs.flags.forc
    assert ours.flags.f_contiguous == theirs.flags.f_contiguous
    assert selected.index.equals(expected.index)
    assert selected.columns.equals(expected.columns)


@given(
    dtype=st.sampled_from([d for d in NUMERIC_DTYPES if d.isnative and d != "g"]),
    n_columns=st.integers(1, 9),
    edges=st.lists(
        st.tuples(st.integers(0, N_ROWS), st.integers(0, N_ROWS)),
        min_size=1,
        max_size=4,
    ),
    mmap_mode=st.sampled_from("cr"),
)
@examples(25)
def test_rows_are_those_that_pandas_takes(
    dtype: Any, n_columns: int, edges: list[tuple[int, int]], mmap_mode: str
) -> None:
    frame = make_numbers(dtype, n_columns)
    shared = share_frame(frame, mmap_mode=mmap_mode)
    rows = np.concatenate([np.arange(*sorted(pair)) for pair in edges])
    if not len(rows):
        return
    for _ in range(2):
        assert_as_taken(shared.take(rows), frame.take(rows))
    _stores.clear()


@pytest.mark.parametrize("rows", HALVES)
def test_tasks_have_nothing_of_a_fold_for_themselves(rows: Any) -> None:
    frame = make_numbers()
    shared = share_frame(frame)
    first, second = shared.take(rows), shared.take(rows)
    assert_as_taken(second, frame.take(rows))
    assert private_share(second) < 0.08
    first.iloc[:, 0] = 0.0
    assert_as_taken(second, frame.take(rows))
    # A fold of a fold.
    some = np.r_[0:12_000, 13_000 : len(rows) - 100]
    assert_as_taken(second.take(some), frame.take(rows).take(some))


def test_labels_follow_their_rows() -> None:
    frame = make_numbers().set_index(np.random.default_rng(0).permutation(N_ROWS))
    for rows in (HALVES[0], HALVES[0] - N_ROWS):
        assert_as_taken(share_frame(frame).take(rows), frame.take(rows))


@pytest.mark.parametrize(
    ("n_workers", "rows", "is_shared"),
    [
        (1, HALVES[0], False),
        # Two workers would have less for themselves than both together.
        (2, HALVES[0], False),
        (4, HALVES[0], True),
        (4, np.arange(12_000), False),
        (8, np.arange(12_000), True),
        (4, np.random.default_rng(0).permutation(N_ROWS), False),
    ],
)
def test_pages_are_shared_where_that_takes_less(
    n_workers: int, rows: Any, is_shared: bool
) -> None:
    frame = make_numbers()
    selected = share_frame(frame, n_workers).take(rows)
    assert_as_taken(selected, frame.take(rows))
    assert (private_share(selected) < 0.5) == is_shared


def test_the_plan_is_what_is_done() -> None:
    shared = share_frame(make_numbers())
    container = container_of(shared)
    assert container is not None
    for rows in HALVES:
        planned = container.plan(shared, rows, geometry_of)
        counters.take()
        shared.take(rows)
        assert counters.take() == planned


def look(X: Any, train: Any) -> Any:
    taken = X.take(train)
    return float(taken.to_numpy().sum()), taken.to_numpy().flags.f_contiguous


def test_tasks_share_the_folds_of_a_frame() -> None:
    X = pd.DataFrame(np.asfortranarray(np.random.default_rng(0).random((N_ROWS, 6))))
    tasks = [joblib.delayed(look)(X, train) for train, _ in KFold(5).split(X)] * 2
    with (
        joblib.parallel_config("mmap", n_jobs=4),
        skl_mmap.measure() as report,
    ):
        results = joblib.Parallel()(tasks)
    expected = [look(X, train) for train, _ in KFold(5).split(X)] * 2
    assert results == expected
    reasons = report.copy_reasons
    assert "NOT_BY_ROW" not in reasons
    assert reasons["SEAMS"] < 0.1 * reasons["SHIFTED"]
    (folds,) = (s for s in report.segments if s.is_of_folds and "(6," in s.description)
    # Far less than what the tasks had, of which four had something at the same time.
    assert folds.n_bytes < 2.4 * X.to_numpy().nbytes
