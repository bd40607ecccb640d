"""Row indices as runs, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import Runs, count_runs, expand_runs, find_runs
from skl_mmap.memory import _runs as runs_module
from tests import strategies


@pytest.fixture(params=[1, 2, 3, 7, 1 << 13])
def chunk_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(runs_module, "_CHUNK_ROWS", request.param)
    return int(request.param)


def expanded(runs: Runs) -> np.ndarray[Any, Any]:
    chunks = list(expand_runs(runs))
    return np.concatenate(chunks) if chunks else np.empty(0, dtype=np.intp)


def n_runs_of(rows: np.ndarray[Any, Any]) -> int:
    return 1 + np.count_nonzero(np.diff(rows) != 1) if len(rows) else 0


@strategies.examples(60)
@given(data=st.data())
def test_integers_become_runs_and_come_back(
    chunk_rows: int, data: st.DataObject
) -> None:
    n_rows = 30
    index = data.draw(strategies.row_runs(n_rows))
    rows = index.copy()
    index[data.draw(st.integers(0, 3)) :: 2] -= n_rows
    index = index.astype(data.draw(st.sampled_from(["i1", "i2", ">i4", "i8"])))
    runs = find_runs(index, n_rows, max_runs=1000)
    assert runs is not None
    assert runs.dtype == np.intp
    assert len(runs) == n_runs_of(rows)
    np.testing.assert_array_equal(expanded(runs), rows)


@strategies.examples(60)
@given(mask=st.lists(st.booleans(), max_size=30))
def test_masks_become_runs_and_come_back(chunk_rows: int, mask: list[bool]) -> None:
    key = np.array(mask, dtype=bool)
    runs = find_runs(key, len(key), max_runs=1000)
    assert runs is not None
    rows = np.flatnonzero(key)
    assert len(runs) == n_runs_of(rows)
    np.testing.assert_array_equal(expanded(runs), rows)


@strategies.examples(40)
@given(data=st.data())
def test_exactly_so_many_runs_are_allowed(chunk_rows: int, data: st.DataObject) -> None:
    rows = data.draw(strategies.row_runs(40))
    mask = np.zeros(40, dtype=bool)
    mask[rows] = True
    for key, n_runs in ((rows, n_runs_of(rows)), (mask, n_runs_of(mask.nonzero()[0]))):
        assert find_runs(key, 40, max_runs=n_runs) is not None
        if n_runs:
            assert find_runs(key, 40, max_runs=n_runs - 1) is None


@pytest.mark.parametrize("dtype", ["i1", "u1", "i8", "u8", ">u2"])
def test_indices_out_of_range_have_no_runs(chunk_rows: int, dtype: str) -> None:
    for index in ([0, 1, 10], [10, 0], [-11, 0], [0, -11]):
        if min(index) < 0 and "u" in dtype:
            continue
        assert find_runs(np.array(index, dtype=dtype), 10, max_runs=9) is None


def test_huge_unsigned_indices_do_not_wrap() -> None:
    for index in ([2**64 - 1], [0, 2**63]):
        assert find_runs(np.array(index, dtype=np.uint64), 10, max_runs=9) is None


def test_masks_of_another_length_have_no_runs() -> None:
    assert find_runs(np.ones(9, dtype=bool), 10, max_runs=9) is None
    assert find_runs(np.ones(11, dtype=bool), 10, max_runs=9) is None


def test_expanding_takes_bounded_steps(chunk_rows: int) -> None:
    runs = np.array([[5, 40], [0, 3], [100, 101]])
    chunks = list(expand_runs(runs))
    assert max(map(len, chunks)) <= chunk_rows
    expected = np.r_[5:40, 0:3, 100]
    np.testing.assert_array_equal(np.concatenate(chunks), expected)


@pytest.mark.parametrize("n_rows", [1, 2, 65_536, 65_537, 140_000])
def test_runs_are_counted_across_chunks(n_rows: int) -> None:
    rows = np.arange(n_rows)
    assert count_runs(rows) == 1
    assert count_runs(np.ones(n_rows, dtype=bool)) == 1
    assert count_runs(np.zeros(n_rows, dtype=bool)) == 0
    every_second = rows % 2 == 0
    assert count_runs(every_second) == count_runs(rows[every_second]) == -(-n_rows // 2)
    assert count_runs(rows[::-1]) == n_rows
    assert count_runs(rows[:0]) == 0


def test_runs_of_few_bits_do_not_wrap() -> None:
    assert count_runs(np.array([254, 255, 0, 1], dtype=np.uint8)) == 2
    assert count_runs(np.array([127, -128], dtype=np.int8)) == 2
