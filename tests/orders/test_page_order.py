"""The order of a train set's rows changes, the set does not."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.containers import RowSize
from skl_mmap.memory import expand_runs
from skl_mmap.orders import ordered_runs, page_order
from tests import strategies
from tests.memory.sharing import mapped_bytes, share_one

ROW_BYTES = st.sampled_from(strategies.ROW_BYTES) | st.integers(1, 10_000)


@st.composite
def train_sets(draw: st.DrawFn, *, max_rows: int = 20_000) -> np.ndarray[Any, Any]:
    """Rows without repetition: long runs and single rows, sorted or not."""
    borders = sorted(draw(st.sets(st.integers(0, max_rows), max_size=8)))
    parts = [
        np.arange(*pair) for pair in zip(borders[::2], borders[1::2], strict=False)
    ]
    parts.append(np.array(sorted(draw(st.sets(st.integers(0, max_rows), max_size=4)))))
    rows = np.unique(np.concatenate(parts)).astype(np.intp)
    order = draw(st.sampled_from(["sorted", "descending", "rolled", "shuffled"]))
    if order == "descending":
        rows = rows[::-1]
    elif order == "rolled":
        rows = np.roll(rows, draw(st.integers(0, max(len(rows), 1))))
    elif order == "shuffled":
        rows = np.random.default_rng(draw(st.integers(0, 99))).permutation(rows)
    return rows


@strategies.examples(200)
@given(train=train_sets(), row_bytes=ROW_BYTES)
def test_the_order_is_a_permutation(
    train: np.ndarray[Any, Any], row_bytes: int
) -> None:
    before = train.copy()
    ordered = page_order(train, row_bytes=row_bytes)
    assert ordered.dtype == np.intp
    np.testing.assert_array_equal(np.sort(ordered), np.sort(train))
    np.testing.assert_array_equal(train, before)


@strategies.examples(100)
@given(train=train_sets(), row_bytes=ROW_BYTES)
def test_ordering_twice_changes_nothing_more(
    train: np.ndarray[Any, Any], row_bytes: int
) -> None:
    ordered = page_order(train, row_bytes=row_bytes)
    np.testing.assert_array_equal(page_order(ordered, row_bytes=row_bytes), ordered)


@strategies.examples(100)
@given(train=train_sets(), row_bytes=ROW_BYTES)
def test_the_runs_are_the_order(train: np.ndarray[Any, Any], row_bytes: int) -> None:
    runs = ordered_runs(train, RowSize(row_bytes, row_bytes))
    if runs is None:
        np.testing.assert_array_equal(page_order(train, row_bytes=row_bytes), train)
    else:
        rows = np.concatenate(list(expand_runs(runs)))
        np.testing.assert_array_equal(rows, page_order(train, row_bytes=row_bytes))


@strategies.examples(60)
@given(
    n_rows=st.integers(6000, 12_000),
    holes=st.lists(
        st.tuples(st.integers(0, 11_000), st.integers(1, 900)), min_size=1, max_size=2
    ),
    row_bytes=st.sampled_from([8, 24, 64, 100, 160]),
)
def test_all_but_a_few_rows_of_each_run_are_mapped(
    n_rows: int, holes: list[tuple[int, int]], row_bytes: int
) -> None:
    is_train = np.ones(n_rows, dtype=bool)
    for start, length in holes:
        is_train[start : start + length] = False
    train = np.flatnonzero(is_train)
    n_runs = 1 + np.count_nonzero(np.diff(train) > 1)
    X = strategies.fill(np.dtype("u1"), (n_rows, row_bytes))
    ordered = page_order(train, row_bytes=row_bytes)
    joined = share_one(X)[ordered]
    np.testing.assert_array_equal(joined, X[ordered])
    unit = max(4096 // math.gcd(4096, row_bytes), 512)
    least = len(train) - (n_runs + 1) * 2 * unit
    assert mapped_bytes(joined) >= least * row_bytes
    # Targets and weights, indexed by the same rows, are mapped too.
    y = np.arange(n_rows, dtype=np.float64)
    joined_y = share_one(y)[ordered]
    np.testing.assert_array_equal(joined_y, y[ordered])
    assert mapped_bytes(joined_y) >= least * y.itemsize


def test_without_the_order_most_rows_behind_a_hole_are_copied() -> None:
    X = strategies.fill(np.dtype("u1"), (12_000, 100))
    shared = share_one(X)
    train = np.r_[0:3001, 4000:12_000]
    ordered = page_order(train, row_bytes=100)
    assert mapped_bytes(shared[ordered]) > 0.8 * len(train) * 100
    assert mapped_bytes(shared[train]) < 0.8 * len(train) * 100


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize(
    "train",
    [
        np.r_[0:5000, 17],
        np.r_[0, 0],
        np.r_[0:3000, 2999:9000],
        np.r_[5, 5, 6:4000],
        np.r_[0:4000, 0:4000],
        np.r_[7, 3, 7],
    ],
    ids=["at the end", "only", "overlap", "at the start", "twice", "unsorted"],
)
def test_repeated_rows_are_refused(train: np.ndarray[Any, Any], order: int) -> None:
    with pytest.raises(ValueError, match="more than once"):
        page_order(train[::order], row_bytes=8)


def test_repeated_rows_are_refused_among_many_runs() -> None:
    train = np.r_[np.arange(0, 20_000, 2), 10_000]
    with pytest.raises(ValueError, match="has the index 10000 more than once"):
        page_order(train, row_bytes=8)


@pytest.mark.parametrize("train", [[-1], [0, 1, -5000], np.r_[-3:5000]])
def test_negative_rows_are_refused(train: Any) -> None:
    with pytest.raises(ValueError, match="negative index"):
        page_order(np.asarray(train), row_bytes=8)


def test_no_rows_stay_no_rows() -> None:
    assert page_order(np.empty(0, dtype=np.intp), row_bytes=8).shape == (0,)


def test_short_runs_stay_as_they_are() -> None:
    train = np.random.default_rng(0).permutation(5000)[:4000]
    np.testing.assert_array_equal(page_order(train, row_bytes=8), train)


@pytest.mark.parametrize("dtype", ["i4", "u4", "u8", ">i8"])
def test_any_integers_are_rows(dtype: str) -> None:
    train = np.r_[0:600, 700:3000]
    ordered = page_order(train.astype(dtype), row_bytes=400)
    assert ordered.dtype == np.intp
    np.testing.assert_array_equal(ordered, page_order(train, row_bytes=400))


def test_a_mask_is_ordered_or_refused_by_its_name() -> None:
    mask = np.ones(5000, dtype=bool)
    mask[100:200] = False
    try:
        ordered = page_order(mask, row_bytes=8)
    except ValueError as error:
        assert "bool" in str(error) or "mask" in str(error)  # noqa: PT017
    else:
        np.testing.assert_array_equal(np.sort(ordered), np.flatnonzero(mask))


def test_the_longest_run_is_placed_from_its_first_row_on() -> None:
    for start in (3003, 3072, 3583):
        train = np.r_[5:2000, start:20_000, 21_001:30_000]
        ordered = page_order(train, row_bytes=8)
        n_whole = (20_000 - start) // 512 * 512
        np.testing.assert_array_equal(ordered[:n_whole], start + np.arange(n_whole))


def test_runs_of_one_length_keep_their_order() -> None:
    starts = 1536 * np.arange(60)
    lengths = np.random.default_rng(0).choice([1050, 1100, 1200], 60)
    parts = [np.arange(*pair) for pair in zip(starts, starts + lengths, strict=True)]
    runs = ordered_runs(np.concatenate(parts), RowSize(8, 8))
    assert runs is not None
    expected = starts[np.lexsort((starts, -lengths))]
    np.testing.assert_array_equal(runs[: len(starts), 0], expected)


def test_a_run_that_is_left_over_stays_in_one_piece() -> None:
    train = np.r_[0:2048, 3000:3100, 5120:7168]
    runs = ordered_runs(train, RowSize(8, 8))
    assert runs is not None
    assert runs.tolist() == [[0, 2048], [5120, 7168], [3000, 3100]]
