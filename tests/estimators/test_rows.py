"""Rows of rows are rows of X."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.backend import RowIndex
from skl_mmap.estimators._rows import Rows, Splits
from skl_mmap.memory import index_runs


@st.composite
def subsets(draw: Any, n_rows: int) -> Any:
    """Draw some rows, in runs or in any order, some of them twice."""
    kind = draw(st.sampled_from(["run", "hole", "shuffled", "any"]))
    index = np.arange(n_rows)
    if kind == "hole":
        return np.delete(index, slice(n_rows // 3, n_rows // 2))
    if kind == "run":
        return index[: 1 + draw(st.integers(0, n_rows - 1))]
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    if kind == "shuffled":
        return rng.permutation(n_rows)[: 1 + n_rows // 2]
    return rng.integers(0, n_rows, n_rows)


@given(data=st.data())
def test_selections_of_selections(data: Any) -> None:
    X = np.arange(100.0) ** 2
    outer = data.draw(subsets(100))
    inner = data.draw(subsets(len(outer)))
    rows = Rows(inner).of(Rows(outer))
    np.testing.assert_array_equal(rows.index(), outer[inner])
    np.testing.assert_array_equal(rows.select(X), X[outer][inner])
    np.testing.assert_array_equal(Rows(inner).of(None).index(), inner)
    assert (Rows(outer).digest == Rows(inner).digest) == np.array_equal(outer, inner)


def test_runs_of_the_backend_are_rows() -> None:
    index = np.r_[0:10, 20:30]
    runs = index_runs(index, min_bytes=1)
    assert runs is not None
    assert Rows(RowIndex(runs, 30)).digest == Rows(index).digest
    np.testing.assert_array_equal(Rows(RowIndex(runs, 30)).index(), index)


def test_splits_that_are_equal_have_equal_digests() -> None:
    halves = np.arange(5), np.arange(5, 10)
    splits = [halves, halves[::-1]]
    assert Splits(splits, 10).digest == Splits(iter(splits), 10).digest
    assert Splits(splits, 10).digest != Splits(splits[::-1], 10).digest
