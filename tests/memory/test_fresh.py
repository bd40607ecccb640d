"""What numpy makes anew from shared rows is numpy's, and costs only what it must."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import (
    Reason,
    Settings,
    SharedArray,
    counters,
    find_mapping,
    rebuild_array,
)
from skl_mmap.memory import _mapping as mapping_module
from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    as_stored,
    assert_same,
    assert_same_outcome,
    make_store,
    mapped_bytes,
    send,
    share,
    share_one,
    shared_with,
    take_counted,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

AXES = st.sampled_from([0, 0, 0, 0, None, -1, -2, 1, 5, True, "0"])
ORDERS = st.sampled_from(["C", "F", "A", "K", "c", None, "X", 1])


def deleted_rows(n_rows: int) -> st.SearchStrategy[Any]:
    return (
        strategies.row_indices(n_rows)
        | strategies.row_masks(n_rows)
        | strategies.slices(n_rows)
        | st.integers(-n_rows - 1, n_rows)
        | st.sampled_from([[], 1.5, [1.0], True, None, "a", np.array([])])
    )


@strategies.examples(200)
@given(data=st.data())
def test_what_is_left_by_delete_is_what_numpy_leaves(data: st.DataObject) -> None:
    array = data.draw(strategies.arrays())
    shared, plain = share_one(array), as_stored(array)
    rows = data.draw(deleted_rows(len(plain) if plain.ndim else 3))
    axis = data.draw(AXES)
    assert_same_outcome(
        lambda: np.delete(shared, rows, axis=axis),
        lambda: np.delete(plain, rows, axis=axis),
    )
    assert_same(shared, plain)


@strategies.examples(150)
@given(data=st.data())
def test_compress_does_what_numpy_does(data: st.DataObject) -> None:
    array = data.draw(strategies.arrays())
    shared, plain = share_one(array), as_stored(array)
    n_rows = len(plain) if plain.ndim else 3
    mask = data.draw(strategies.row_masks(n_rows) | strategies.row_indices(n_rows))
    mask = mask[: data.draw(st.sampled_from([None, None, n_rows // 2, 1]))]
    axis = data.draw(AXES)
    for compress in (
        lambda X: X.compress(mask, axis),
        lambda X: np.compress(mask, X, axis=axis),
    ):
        assert_same_outcome(lambda f=compress: f(shared), lambda f=compress: f(plain))


@st.composite
def parts(draw: st.DrawFn, n_rows: int) -> list[Any]:
    """Slices and other selections of rows, one behind the other."""
    selection = strategies.slices(n_rows) | strategies.row_runs(n_rows)
    return draw(st.lists(selection, min_size=1, max_size=4))


@strategies.examples(120)
@given(data=st.data())
def test_parts_are_put_together_as_by_numpy(data: st.DataObject) -> None:
    array = data.draw(strategies.arrays().filter(lambda a: a.ndim))
    shared, plain = share_one(array), as_stored(array)
    keys = data.draw(parts(len(plain)))
    other = data.draw(st.sampled_from([None, None, None, "f4", "i8", 0, "flat"]))
    axis = data.draw(AXES)
    dtype = data.draw(st.sampled_from([None, None, "f4", "i8", plain.dtype]))
    if plain.dtype.char in "gG" and (other or dtype):
        return  # what pads such numbers changes when they are converted

    def pieces(X: Any) -> list[Any]:
        made = [X[key] for key in keys]
        if other == "flat":
            made.append(X.ravel()[:2])
        elif other is not None:
            made.append(np.zeros((1, *X.shape[1:]), other or "f8"))
        return made

    for join in (
        lambda arrays: np.concatenate(arrays, axis=axis),
        lambda arrays: np.concatenate(tuple(arrays), dtype=dtype),
        np.vstack,
        np.hstack,
        lambda arrays: np.r_[tuple(arrays)],
    ):
        assert_same_outcome(
            lambda f=join: f(pieces(shared)), lambda f=join: f(pieces(plain))
        )
    assert_same(shared, plain)


class _ArrayLike:
    """As a series of pandas, say."""

    def __init__(self, rows: Any) -> None:
        self._rows = np.asarray(rows)
        self.ndim = self._rows.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return self._rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: Any) -> Any:
        return self._rows[place]


@strategies.examples(60)
@given(data=st.data())
def test_grids_of_rows_and_columns_are_numpys(data: st.DataObject) -> None:
    array = data.draw(strategies.arrays().filter(lambda a: a.ndim == 2))
    shared, plain = share_one(array), as_stored(array)
    n_rows, n_columns = plain.shape
    rows = data.draw(strategies.row_runs(n_rows) | strategies.row_masks(n_rows))
    n_some = data.draw(st.integers(0, n_columns + 1))
    columns = data.draw(
        st.sampled_from(
            [np.arange(n_columns), np.arange(n_some), np.arange(n_columns)[::-1]]
        )
    )
    assert_same_outcome(
        lambda: shared[np.ix_(rows, columns)], lambda: plain[np.ix_(rows, columns)]
    )
    for key in (
        (rows, slice(0, n_columns)),
        (rows, slice(n_some)),
        (np.asarray(rows)[:, None], columns),
        (np.asarray(rows)[:, None], columns[None]),
        (columns[None], np.asarray(rows)[:, None]),
        (rows, slice("a")),
        range(n_some),
        _ArrayLike(rows),
        (_ArrayLike(rows), slice(0, n_columns)),
    ):
        assert_same_outcome(lambda k=key: shared[k], lambda k=key: plain[k])


COPIES: dict[str, Callable[[Any, Any], Any]] = {
    "method": lambda X, order: X.copy(order),
    "function": lambda X, order: np.copy(X, order=order),
    "subclass": lambda X, order: np.copy(X, order=order, subok=True),
    "default": lambda X, _order: X.copy(),
    "default of function": lambda X, _order: np.copy(X),
    "copy.copy": lambda X, _order: copy.copy(X),
    "copy.deepcopy": lambda X, _order: copy.deepcopy(X),
    "astype": lambda X, order: X.astype(X.dtype, order=order),
    "without a copy": lambda X, order: X.astype(X.dtype, order, copy=False),
    "casting": lambda X, order: X.astype(X.dtype, order, casting="no"),
    "unknown casting": lambda X, order: X.astype(X.dtype, order, casting="odd"),
    "by name": lambda X, _order: X.astype(X.dtype.str),
    "other dtype": lambda X, order: X.astype("f4", order=order),
    "unknown dtype": lambda X, order: X.astype("nothing", order=order),
    "native": lambda X, order: X.astype(X.dtype.newbyteorder("="), order),
}


@strategies.examples(250)
@given(array=strategies.arrays(), order=ORDERS, name=st.sampled_from(list(COPIES)))
@pytest.mark.filterwarnings("ignore:Casting complex")
def test_copies_are_numpys(array: np.ndarray[Any, Any], order: Any, name: str) -> None:
    shared, plain = share_one(array), as_stored(array)
    duplicate = COPIES[name]
    assert_same_outcome(
        lambda: duplicate(shared, order), lambda: duplicate(plain, order)
    )
    assert type(duplicate(shared, "C") if name == "method" else 0) is not SharedArray


SOME = np.r_[0:1024, 2048:4096]
# What makes rows 0 to 1023 and 2048 to 4095 of 4096; nothing is on another page.
WAYS: dict[str, Callable[[Any], Any]] = {
    "delete slice": lambda X: np.delete(X, slice(1024, 2048), axis=0),
    "delete list": lambda X: np.delete(X, list(range(1024, 2048)), axis=0),
    "delete array": lambda X: np.delete(X, np.arange(1024, 2048), 0),
    "delete from the end": lambda X: np.delete(X, np.arange(-3072, -2048), axis=-2),
    "delete mask": lambda X: np.delete(X, np.arange(4096) // 1024 == 1, axis=0),
    "compress": lambda X: X.compress(np.arange(4096) // 1024 != 1, axis=0),
    "short mask": lambda X: np.concatenate(
        [X.compress(np.ones(1024, bool), axis=0), X[2048:]]
    ),
    "np.compress": lambda X: np.compress(np.arange(4096) // 1024 != 1, X, 0),
    "concatenate": lambda X: np.concatenate([X[:1024], X[2048:]]),
    "folds": lambda X: np.concatenate([X[:1024], X[2048:3072], X[3072:]], axis=0),
    "vstack": lambda X: np.vstack((X[:1024], X[2048:])),
    "r_": lambda X: np.r_[X[:1024], X[2048:]],
    "append": lambda X: np.append(X[:1024], X[2048:], axis=0),
    "grid": lambda X: X[np.ix_(SOME, np.arange(X.shape[1]))],
    "series": lambda X: X[_ArrayLike(np.arange(4096) // 1024 != 1)],
    "all columns": lambda X: X[SOME, 0 : X.shape[1]],
    "joined again": lambda X: np.concatenate([X[SOME][:1024], X[SOME][1024:]]),
}


@pytest.mark.parametrize("name", WAYS)
def test_long_runs_are_mapped(name: str) -> None:
    plain = np.arange(64 * 512.0).reshape(4096, 8)
    shared = share_one(plain)
    counters.take()
    result = WAYS[name](shared)
    n_mapped, reasons = take_counted()
    assert n_mapped >= result.nbytes
    assert not reasons
    assert mapped_bytes(result) == result.nbytes
    assert type(result) is SharedArray
    assert_same(result, plain[SOME])
    result[1000] = -1.0
    assert_same(shared, plain)
    # Rows of the result can be selected again, and what was written is seen.
    assert result[np.arange(100, 2000)][900, 0] == -1.0


def test_vectors_without_an_axis_are_mapped() -> None:
    plain = np.arange(32 * 512.0)
    shared = share_one(plain)
    rows = np.r_[0:8192, 12_288:16_384]
    rest = np.arange(8192, 12_288)
    mask = np.isin(np.arange(len(plain)), rest, invert=True)
    for select in (
        lambda y: np.delete(y, rest),
        lambda y: y.take(rows),
        lambda y: y.compress(mask),
        lambda y: np.extract(mask, y),
        lambda y: np.hstack([y[:8192], y[12_288:]]),
        lambda y: np.concatenate([y[:8192], y[12_288:]], axis=None),
    ):
        result = select(shared)
        assert mapped_bytes(result) == result.nbytes
        assert_same(result, plain[rows])


def test_folds_that_follow_each_other_have_no_seam() -> None:
    plain = np.arange(100_000.0).reshape(-1, 10)
    shared = share_one(plain)
    folds = np.array_split(shared, 7)
    joined = np.concatenate(folds)
    found = find_mapping(joined)
    assert found is not None
    assert len(found[0].mapped) == 1
    assert mapped_bytes(joined) == joined.nbytes
    assert_same(joined, plain)


def test_parts_of_different_arrays_are_put_together_by_numpy() -> None:
    plain = np.arange(32 * 512.0)
    store = make_store()
    handles = [shared_with(store, array) for array in (plain, plain[::-1].copy())]
    first, second = (rebuild_array(send(handle)) for handle, _segment in handles)
    for others in ([first, second], [first, plain], [second, first, plain]):
        result = np.concatenate(others)
        assert mapped_bytes(result) == 0
        assert type(result) is np.ndarray
        assert_same(result, np.concatenate([np.asarray(array) for array in others]))
    # But the same array, attached twice, is the same.
    again = rebuild_array(send(handles[0][0]))
    both = np.concatenate([first, again])
    assert mapped_bytes(both) == both.nbytes


def test_rows_that_are_put_together_by_numpy_are_counted_with_the_reason() -> None:
    plain = np.asfortranarray(np.arange(64 * 512.0).reshape(-1, 8))
    shared = share_one(plain)
    counters.take()
    assert_same(np.delete(shared, [5], axis=0), np.delete(plain, [5], axis=0))
    assert list(take_counted()[1]) == ["NOT_BY_ROW"]
    rows = share_one(np.arange(4096.0).reshape(-1, 8))
    pieces = [rows[start : start + 8] for start in range(0, 512, 16)]
    assert mapped_bytes(np.concatenate(pieces)) == 0
    assert not take_counted()[1], "pieces of less than a page are not looked at"
    store = make_store()
    store.settings = Settings("c", 1 << 14)
    handle, _segment = shared_with(store, np.arange(1 << 14, dtype="f8").reshape(-1, 8))
    rows = rebuild_array(send(handle))
    thirds = [rows[start : start + 130] for start in (0, 500, 1001)]
    assert_same(np.concatenate(thirds), np.concatenate(list(map(np.asarray, thirds))))
    assert list(take_counted()[1]) == ["SHORT_RUNS"]


@pytest.mark.parametrize("mmap_mode", ["c", "r"])
@pytest.mark.parametrize(
    "duplicate",
    [np.copy, copy.copy, lambda X: X.astype("f8")],
    ids=["np.copy", "copy.copy", "astype"],
)
def test_copies_cost_the_pages_that_are_written_to(
    mmap_mode: str, duplicate: Callable[[Any], Any]
) -> None:
    plain = np.arange(64 * 512.0).reshape(64, 512)
    shared, other = share(plain, mmap_mode, n_arrays=2)
    counters.take()
    result = duplicate(shared)
    assert take_counted() == (plain.nbytes, {})
    assert type(result) is np.ndarray
    found = find_mapping(result)
    assert found is not None
    assert found[0].resident_bytes()[0] == 0
    result[3, 7] = -1.0
    assert found[0].resident_bytes()[0] == PAGE_BYTES
    assert_same(np.asarray(shared), np.asarray(other))
    expected = plain.copy()
    expected[3, 7] = -1.0
    assert_same(result, expected)


def test_only_copies_that_convert_nothing_are_mapped() -> None:
    plain = np.arange(64 * 512.0)
    shared = share_one(plain)
    assert np.shares_memory(shared.astype("f8", copy=False), shared)
    for convert in (
        lambda X: X.astype("f4"),
        lambda X: X.astype(">f8"),
        lambda X: X.astype(np.dtype("f8", metadata={"unit": "m"})),
    ):
        result = convert(shared)
        assert mapped_bytes(result) == 0
        assert_same(result, convert(plain))
        assert result.dtype.metadata == convert(plain).dtype.metadata
    with pytest.raises(ValueError, match="casting must be one of"):
        shared.astype("f8", casting="odd")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="order must be one of"):
        shared.copy("X")  # type: ignore[arg-type]


def test_fortran_order_is_kept_by_copies_that_keep_it() -> None:
    plain = np.asfortranarray(np.arange(64 * 512.0).reshape(-1, 8))
    shared = share_one(plain)
    for duplicate in (np.copy, copy.copy, lambda X: X.copy("F"), lambda X: X.copy("A")):
        result = duplicate(shared)
        assert mapped_bytes(result) == plain.nbytes
        assert_same(result, duplicate(plain))
    assert mapped_bytes(shared.copy()) == 0, "copy() is in C order"
    assert_same(shared.copy(), plain.copy())


@strategies.examples(100)
@given(data=st.data())
def test_copies_are_independent_of_what_is_written_before_and_after(
    data: st.DataObject,
) -> None:
    plain = data.draw(strategies.dense_arrays(max_pages=24, min_rows=2))
    shared, original = share_one(plain), plain.copy()
    if data.draw(st.booleans()):
        rows = data.draw(strategies.row_runs(len(plain)))
        shared, original = shared[rows], original[rows]
    if not len(original):
        return
    copies: list[tuple[Any, Any]] = [(shared, original)]
    for step in range(data.draw(st.integers(1, 5))):
        source, expected = data.draw(st.sampled_from(copies))
        if data.draw(st.booleans()):
            # A copy is a plain array, from which numpy copies.
            copies.append((source.view(SharedArray).copy(), expected.copy()))
            continue
        start = data.draw(st.integers(0, len(expected) - 1))
        rows = slice(start, start + data.draw(st.sampled_from([1, 2, 600])))
        new = strategies.fill(expected.dtype, expected[rows].shape, step)
        source[rows] = new
        expected[rows] = new
    for source, expected in copies:
        assert_same(source, expected)


def test_what_was_written_before_is_copied_and_the_rest_is_mapped() -> None:
    plain = np.zeros((64, 512))
    shared = share_one(plain)[np.r_[0:16, 32:64]]
    shared[40] = 1.0
    duplicate = shared.copy()
    shared[2] = 5.0
    assert np.flatnonzero(duplicate[:, 0]).tolist() == [40]
    assert mapped_bytes(duplicate) == 16 * PAGE_BYTES
    joined = np.concatenate([shared[8:16], shared[16:], shared[:8]])
    shared[:] = 9.0
    assert np.flatnonzero(joined[:, 0]).tolist() == [32, 42]
    assert mapped_bytes(joined) == 8 * PAGE_BYTES


def test_without_writable_mappings_numpy_copies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plain = np.arange(64 * 512.0)
    shared = share_one(plain)
    map_file = mapping_module.calls.map_file

    def refuse(*args: Any, writable: bool) -> None:
        if writable:
            raise OSError("no promises")
        map_file(*args, writable=writable)

    monkeypatch.setattr(mapping_module.calls, "map_file", refuse)
    counters.take()
    for make in (np.copy, lambda X: np.delete(X, [0]), lambda X: np.hstack([X, X])):
        result = make(shared)
        assert_same(result, make(plain))
        assert mapped_bytes(result) == 0
        assert list(take_counted()[1]) == [Reason.NO_MAPPINGS.name]


def test_copies_of_small_parts_are_numpys() -> None:
    shared = share_one(np.arange(64 * 512.0).reshape(64, 512))
    assert mapped_bytes(shared[5, :100].copy()) == 0
    assert mapped_bytes(shared[:, :100].copy()) == 0


@pytest.mark.parametrize(
    ("action", "is_mapped"),
    [
        (lambda X: X.copy(), True),
        (np.copy, True),
        (copy.copy, True),
        (lambda X: X.astype(X.dtype), True),
        (np.array, False),
        (copy.deepcopy, False),
    ],
    ids=["method", "function", "copy.copy", "astype", "np.array", "deepcopy"],
)
def test_each_way_to_copy_an_array_costs_what_is_documented(
    action: Any, is_mapped: bool
) -> None:
    shared = share_one(np.random.default_rng(0).random((4096, 4)))
    copied = action(shared)
    assert not np.shares_memory(copied, shared)
    assert (find_mapping(copied) is not None) == is_mapped
