"""Train sets that are joined column by column, from arrays in Fortran order."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import Conversion, counters, find_mapping, rebuild_array
from tests.memory.sharing import make_store, send, take_counted

UNIT = 512


def shared_by_column(X: Any, runs: Any) -> Any:
    shared = make_store().share(X, conversion=Conversion(order="F"))
    assert shared is not None
    handle, _segment = shared
    settings = handle.settings._replace(column_runs=tuple(runs))
    return rebuild_array(send(dataclasses.replace(handle, settings=settings)))


def rows_of(runs: Any) -> Any:
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


@given(
    cuts=st.lists(st.integers(0, 4 * UNIT), min_size=2, max_size=6, unique=True),
    n_columns=st.integers(1, 6),
    dtype=st.sampled_from(["f8", "f4"]),
)
def test_selected_rows_equal_numpys_and_have_fortran_order(
    cuts: list[int], n_columns: int, dtype: str
) -> None:
    cuts = sorted(cuts)
    runs = list(zip(cuts[::2], cuts[1::2], strict=False))
    X = np.random.default_rng(0).normal(size=(4 * UNIT, n_columns)).astype(dtype)
    shared = shared_by_column(X, runs)
    train = rows_of(runs)
    selected = shared[train, ...]
    np.testing.assert_array_equal(selected, X[train])
    if find_mapping(selected) is not None:
        assert selected.flags.f_contiguous
    np.testing.assert_array_equal(shared.take(train, axis=0), X[train])


def test_all_of_it_is_mapped_where_columns_fill_pages() -> None:
    X = np.random.default_rng(0).normal(size=(6 * UNIT, 20))
    runs = [(0, 2 * UNIT), (3 * UNIT, 6 * UNIT)]
    shared = shared_by_column(X, runs)
    train = rows_of(runs)
    counters.take()
    selected = shared[train]
    mapped_bytes, reasons = take_counted()
    assert mapped_bytes == selected.nbytes
    assert not reasons
    selected[7, 7] = 0  # stays private
    np.testing.assert_array_equal(shared[train], X[train])


@pytest.mark.parametrize("rows", [range(5), range(2 * UNIT), range(UNIT, 3 * UNIT)])
def test_other_rows_are_copied_into_c_order(rows: range) -> None:
    X = np.random.default_rng(0).normal(size=(6 * UNIT, 20))
    shared = shared_by_column(X, [(0, 2 * UNIT), (3 * UNIT, 6 * UNIT)])
    index = np.array(rows)
    counters.take()
    selected = shared[index]
    (reason,) = take_counted()[1]
    assert reason == "TEST_SETS"
    assert selected.flags.c_contiguous
    np.testing.assert_array_equal(selected, X[index])
