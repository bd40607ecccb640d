"""Arrays that take the rows of a train set from somewhere else."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import (
    Conversion,
    can_remap,
    counters,
    find_mapping,
    rebuild_array,
    with_train_rows,
)
from tests.memory.sharing import make_store, send, take_counted

UNIT = 512


def shared_by_column(X: Any, train: Any) -> Any:
    """Return X in Fortran order, of which fit gets the train set in that order."""
    shared = make_store().share(X, conversion=Conversion(order="F"))
    assert shared is not None
    handle, _segment = shared
    settings = handle.settings._replace(is_by_column=True)
    array = rebuild_array(send(dataclasses.replace(handle, settings=settings)))
    return with_train_rows(array, array, train, is_source=True)


def rows_of(runs: Any) -> Any:
    return np.concatenate([np.arange(start, stop) for start, stop in runs])


@st.composite
def train_sets(draw: Any) -> npt.NDArray[np.intp]:
    cuts = sorted(
        draw(st.lists(st.integers(0, 4 * UNIT), min_size=2, max_size=6, unique=True))
    )
    train: npt.NDArray[np.intp] = rows_of(zip(cuts[::2], cuts[1::2], strict=False))
    if draw(st.booleans()):
        train = np.random.default_rng(draw(st.integers(0, 9))).permutation(train)
    return train


@given(
    train=train_sets(),
    n_columns=st.integers(1, 6),
    dtype=st.sampled_from(["f8", "f4"]),
)
def test_train_sets_equal_numpys_and_have_fortran_order(
    train: npt.NDArray[np.intp], n_columns: int, dtype: str
) -> None:
    X = np.random.default_rng(0).normal(size=(4 * UNIT, n_columns)).astype(dtype)
    shared = shared_by_column(X, train)
    for selected in (shared[train, ...], shared.take(train.copy(), axis=0)):
        np.testing.assert_array_equal(selected, X[train])
        assert selected.flags.f_contiguous
    others = np.setdiff1d(np.arange(len(X)), train)
    for index in (others, train[:-1], train[::-1], np.isin(np.arange(len(X)), train)):
        selected = shared[index]
        np.testing.assert_array_equal(selected, X[index])
        if not np.array_equal(index, train):
            assert selected.flags.c_contiguous


@pytest.mark.skipif(not can_remap(), reason="nothing is mapped here")
def test_all_of_it_is_mapped_where_columns_fill_pages() -> None:
    X = np.random.default_rng(0).normal(size=(6 * UNIT, 20))
    train = rows_of([(0, 2 * UNIT), (3 * UNIT, 6 * UNIT)])
    shared = shared_by_column(X, train)
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
    shared = shared_by_column(X, rows_of([(0, 2 * UNIT), (3 * UNIT, 6 * UNIT)]))
    index = np.array(rows)
    counters.take()
    selected = shared[index]
    (reason,) = take_counted()[1]
    assert reason == "TEST_SETS"
    assert selected.flags.c_contiguous
    np.testing.assert_array_equal(selected, X[index])


def test_views_select_rows_as_numpy_does() -> None:
    X = np.random.default_rng(0).normal(size=(4 * UNIT, 3))
    train = np.arange(UNIT)
    shared = shared_by_column(X, train)
    for view in (shared[:, :2], shared[:], np.asarray(shared)):
        assert getattr(view, "take_train", None) is None
        np.testing.assert_array_equal(view[train], np.asarray(view)[train])


@given(train=train_sets())
def test_only_the_train_set_comes_from_another_array(
    train: npt.NDArray[np.intp],
) -> None:
    X = np.random.default_rng(0).normal(size=(4 * UNIT, 3))
    store = make_store()
    given_, source = store.share(X), store.share(X + 1)
    assert given_ is not None
    assert source is not None
    shared = with_train_rows(
        rebuild_array(given_[0]), rebuild_array(source[0]), train, is_source=False
    )
    np.testing.assert_array_equal(shared[train], X[train] + 1)
    np.testing.assert_array_equal(shared[train.copy()], X[train] + 1)
    np.testing.assert_array_equal(shared[train[1:]], X[train[1:]])
    np.testing.assert_array_equal(shared, X)
    shared[train] = 0  # stays private
    assert find_mapping(X) is None
    np.testing.assert_array_equal(
        with_train_rows(
            rebuild_array(given_[0]), rebuild_array(source[0]), train, is_source=False
        )[train],
        X[train] + 1,
    )
