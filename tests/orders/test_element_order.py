"""Splitters order the rows of sparse matrices by the pages of their elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.model_selection import KFold, StratifiedKFold

import skl_mmap
from skl_mmap.containers import RowSize
from skl_mmap.memory import can_remap, counters
from skl_mmap.orders import PageFriendly, order_runs
from tests.memory.sharing import take_counted
from tests.strategies import examples

N_ROWS = 60_000


def test_runs_of_one_length_keep_their_order() -> None:
    starts = np.arange(100_001, dtype=np.int64)
    runs = np.array([[512 * 3 * n, 512 * (3 * n + 2)] for n in range(64)])
    ordered = order_runs(runs, RowSize(8, None, starts, 512))
    np.testing.assert_array_equal(ordered, runs)


def make_matrix() -> Any:
    # 10 to 30 elements in a row; `sparse.random` would permute all 24 million places.
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 31, N_ROWS)
    ends = lengths.cumsum()
    columns = 13 * (np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))
    columns += np.repeat(rng.integers(0, 10, N_ROWS), lengths)
    parts = rng.random(len(columns)), columns, np.r_[0, ends]
    return sparse.csr_matrix(parts, shape=(N_ROWS, 400))


def count_copied(matrix: Any, rows: Any) -> float:
    """Share of the selected elements' bytes that had to be copied."""
    counters.take()
    selected = matrix[rows]
    mapped_bytes, reasons = take_counted()
    assert mapped_bytes or reasons
    return sum(reasons.values()) / (selected.data.nbytes + selected.indices.nbytes)


@pytest.mark.skipif(not can_remap(), reason="needs pages of a memfd")
@pytest.mark.parametrize("kind", ["PageFriendly", "arrange"])
def test_nearly_all_elements_of_a_train_set_are_mapped(kind: str) -> None:
    X = make_matrix()
    y = np.arange(N_ROWS) % 3
    if kind == "arrange":
        cv: Any = StratifiedKFold(5, shuffle=True, random_state=0)
        Xs, ys, cv = skl_mmap.arrange(X, y, cv=cv, classifier=True)
        X = X[cv.permutation]
    else:
        Xs, ys, cv = skl_mmap.share(X), y, skl_mmap.PageFriendly(KFold(5))
    for train, test in cv.split(Xs, ys):
        assert len(np.unique(np.r_[train, test])) == N_ROWS == len(train) + len(test)
        assert count_copied(Xs, train) < 0.15
        assert (Xs[train] != X[train]).nnz == 0


def test_masks_and_short_train_sets_are_ordered_too() -> None:
    X = make_matrix()
    mask = np.zeros(N_ROWS, dtype=bool)
    mask[5_000:] = True
    few = np.array([3, 1, 2])
    (ordered, _), (unchanged, _) = PageFriendly([(mask, few), (few, few)]).split(X)
    np.testing.assert_array_equal(np.sort(ordered), np.flatnonzero(mask))
    np.testing.assert_array_equal(unchanged, few)


# Rows that are looked at from either end of a run for a place to cut.
N_SEARCHED = 1 << 16


def order_slowly(
    runs: list[list[int]], starts: list[int], unit: int
) -> list[list[int]] | None:
    """Do what `order_runs` does, looking at one row after the other."""
    runs = sorted(runs, key=lambda run: starts[run[0]] - starts[run[1]])
    longest = runs[0]
    if starts[longest[1]] - starts[longest[0]] < 2 * unit:
        return None
    phase = starts[longest[0]] % unit
    placed, left_over = [], []
    for start, stop in runs:
        cuts = [row for row in range(start, stop + 1) if starts[row] % unit == phase]
        low = next((row for row in cuts if row < start + N_SEARCHED), start)
        high = next((row for row in cuts[::-1] if row > stop - N_SEARCHED), low)
        if not cuts or low >= high:
            left_over.append([start, stop])
            continue
        placed.append([low, high])
        left_over += [[start, low], [high, stop]]
    rest = sorted(part for part in left_over if part[0] < part[1])
    return placed + rest if placed else None


def as_list(runs: Any) -> list[list[int]] | None:
    return None if runs is None else runs.tolist()


@examples(100)
@given(
    lengths=st.lists(st.integers(0, 4), min_size=8, max_size=60),
    bounds=st.sets(st.integers(0, 60), min_size=2, max_size=8),
    unit=st.sampled_from([1, 2, 4, 8]),
)
def test_runs_are_cut_where_elements_continue_a_page(
    lengths: list[int], bounds: set[int], unit: int
) -> None:
    ends = sorted({min(bound, len(lengths)) for bound in bounds} | {0})
    runs = [list(run) for run in zip(ends[::2], ends[1::2], strict=False)]
    starts = np.r_[0, np.cumsum(lengths)]
    ordered = order_runs(np.array(runs), RowSize(8, None, starts, unit))
    assert as_list(ordered) == order_slowly(runs, starts.tolist(), unit)


@pytest.mark.parametrize("at", [0, 4_095, 4_096, N_SEARCHED - 1])
@pytest.mark.parametrize("behind", [0, 4_095, 4_096, N_SEARCHED])
def test_the_place_to_cut_may_be_many_rows_away(at: int, behind: int) -> None:
    # Only three rows begin at the phase of the first run: two of them in the second.
    unit = 1_024
    starts = np.full(20_000 + 2 * N_SEARCHED, 1, dtype=np.int64)
    first, last = 10 + at, 10 + at + 5_000
    stop = last + behind
    starts[:2] = 0, 4 * unit
    starts[2:] = 4 * unit + 1
    starts[first], starts[first + 1 :] = 5 * unit, 5 * unit + 1
    starts[last], starts[last + 1 :] = 6 * unit, 6 * unit + 1
    runs = [[0, 1], [10, stop]]
    ordered = order_runs(np.array(runs), RowSize(8, None, starts, unit))
    assert as_list(ordered) == order_slowly(runs, starts.tolist(), unit)
    assert ordered.dtype == np.intp
