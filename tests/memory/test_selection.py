"""Rows of a shared array are numpy's, whatever is asked for; only copies are saved."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import (
    Cause,
    Cost,
    Reason,
    Settings,
    SharedArray,
    can_remap,
    counters,
    find_mapping,
    rebuild_array,
)
from skl_mmap.memory import _plan as plan_module
from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    as_stored,
    assert_same,
    assert_same_outcome,
    make_store,
    mapped_bytes,
    send,
    share_one,
    shared_with,
    take_counted,
)

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@strategies.examples(300)
@given(data=st.data())
def test_brackets_do_what_numpy_does(data: st.DataObject) -> None:
    array = data.draw(strategies.arrays())
    shared, plain = share_one(array), as_stored(array)
    key = data.draw(strategies.row_keys(len(plain) if plain.ndim else 3))
    assert_same_outcome(lambda: shared[key], lambda: plain[key])
    assert_same(shared, plain)


@strategies.examples(150)
@given(data=st.data())
def test_take_does_what_numpy_does(data: st.DataObject) -> None:
    array = data.draw(strategies.arrays())
    shared, plain = share_one(array), as_stored(array)
    n_rows = len(plain) if plain.ndim else 1
    indices = data.draw(strategies.row_indices(n_rows) | strategies.row_masks(n_rows))
    axis = data.draw(st.sampled_from([0, 0, 0, None, -1, 1, 5]))
    mode = data.draw(st.sampled_from(["raise", "raise", "wrap", "clip", "none"]))
    if axis != 0 and plain.ndim > 1:
        indices = indices[:4]  # of each row: the result could fill the memory
    assert_same_outcome(
        lambda: np.take(shared, indices, axis=axis, mode=mode),
        lambda: np.take(plain, indices, axis=axis, mode=mode),
    )
    assert_same_outcome(
        lambda: shared.take(indices, axis, mode=mode),
        lambda: plain.take(indices, axis, mode=mode),
    )


@strategies.examples(150)
@given(data=st.data())
def test_joined_views_of_joined_views_and_slices(data: st.DataObject) -> None:
    plain = data.draw(strategies.dense_arrays(min_rows=1))
    shared = share_one(plain)
    for _ in range(3):
        if not len(plain):
            break
        key = data.draw(
            strategies.row_runs(len(plain))
            | st.builds(slice, st.integers(0, 9), st.none(), st.sampled_from([1, 1, 2]))
        )
        shared, plain = shared[key], plain[key]
        assert_same(shared, plain)


def test_strategies_produce_joined_views() -> None:
    n_mapped = 0
    n_pieces = set()

    @strategies.examples(100)
    @given(data=st.data())
    def select(data: st.DataObject) -> None:
        nonlocal n_mapped
        array = data.draw(strategies.dense_arrays(min_rows=1))
        shared = share_one(array)
        key = data.draw(strategies.row_runs(len(array)))
        counters.take()
        joined = shared[key]
        n_mapped += take_counted()[0] > 0
        found = find_mapping(joined)
        n_pieces.add(len(found[0].mapped) if found else 0)

    select()
    assert n_mapped > 50
    assert max(n_pieces) > 2


@pytest.mark.parametrize("dtype", strategies.DTYPES, ids=str)
def test_every_dtype_is_joined(dtype: np.dtype[Any]) -> None:
    row_items = -(-PAGE_BYTES // dtype.itemsize)
    plain = strategies.fill(dtype, (30, row_items))
    shared = share_one(plain)
    rows = np.r_[0:9, 20:30, 3:6]
    joined = shared[rows]
    assert type(joined) is SharedArray
    assert mapped_bytes(joined) > 0
    assert_same(joined, plain[rows])
    assert_same(np.take(shared, rows, axis=0), plain[rows])


@pytest.mark.parametrize("row_bytes", strategies.ROW_BYTES)
@pytest.mark.parametrize("hole", [1, 7, 512, 4096])
def test_seams_at_every_place_in_a_page(row_bytes: int, hole: int) -> None:
    n_rows = max(40 * PAGE_BYTES // row_bytes, 3)
    hole = max(min(hole, n_rows - 2), 1)
    plain = strategies.fill(np.dtype("u1"), (n_rows, row_bytes))
    shared = share_one(plain)
    starts = np.unique(np.linspace(0, n_rows - hole, 17).astype(int))
    for start in starts:
        rows = np.delete(np.arange(n_rows), np.s_[start : start + hole])
        assert_same(shared[rows], plain[rows])
        # And with the parts in the other order.
        rows = np.roll(rows, len(rows) - start)
        assert_same(shared[rows], plain[rows])


def test_rows_of_one_fold_own_almost_no_memory() -> None:
    plain = np.arange(64 * 512, dtype=np.float64).reshape(-1, 8)
    shared = share_one(plain)
    # A hole of whole pages: everything behind it can still be mapped.
    rows = np.r_[0:640, 1280:4096]
    joined = shared[rows]
    assert mapped_bytes(joined) == joined.nbytes
    assert_same(joined, plain[rows])


def test_few_bytes_are_copied_by_numpy() -> None:
    array = np.arange(4096.0)
    store = make_store()
    store.settings = Settings("c", 1 << 20)
    handle, _segment = shared_with(store, array)
    shared = rebuild_array(send(handle))
    result = shared[np.arange(2000)]
    assert type(result) is np.ndarray
    assert mapped_bytes(result) == 0


def test_scattered_rows_are_copied_and_the_reason_is_counted() -> None:
    plain = np.arange(100_000.0)
    shared = share_one(plain)
    rows = np.random.default_rng(0).permutation(len(plain))
    counters.take()
    assert_same(shared[rows], plain[rows])
    n_mapped, reasons = take_counted()
    assert n_mapped == 0
    assert sum(reasons.values()) == plain.nbytes
    assert list(reasons) == ["SCATTERED"]


# What may follow the rows in a key, and whether it leaves them whole.
RESTS: dict[str, tuple[tuple[Any, ...], bool]] = {
    "nothing": ((), True),
    "everything": ((slice(None),), True),
    "dots": ((...,), True),
    "dots and everything": ((..., slice(None)), True),
    "everything and dots": ((slice(None), ...), True),
    "some columns": ((slice(1, 4),), False),
    "no columns": ((slice(0, 0),), False),
    "dots twice": ((..., ...), False),
    "too many": ((slice(None), slice(None)), False),
    "a column": ((2,), False),
    "a new axis": ((None,), False),
}


@pytest.mark.parametrize(("rest", "is_whole"), RESTS.values(), ids=RESTS)
def test_whole_rows_are_mapped(rest: tuple[Any, ...], is_whole: bool) -> None:
    plain = np.arange(5 * 4096.0).reshape(-1, 5)
    shared = share_one(plain)
    key = (np.r_[0:1024, 2048:4096], *rest)
    assert_same_outcome(lambda: shared[key], lambda: plain[key])
    if is_whole and can_remap():
        assert mapped_bytes(shared[key]) > 0


def test_costs_are_added_up() -> None:
    seams, scattered = Cause(Reason.SEAMS), Cause(Reason.SCATTERED)
    total = Cost(5, {seams: 1}) + Cost(3, {seams: 2, scattered: 4})
    assert total == Cost(8, {seams: 3, scattered: 4})


@pytest.mark.parametrize("n_runs", [3, 4, 5])
def test_more_runs_than_may_be_mapped_are_copied(
    n_runs: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "MAX_RUNS", 4)
    plain = np.arange(32 * 512.0)
    shared = share_one(plain)
    rows = np.concatenate([np.arange(k * 2048, k * 2048 + 1024) for k in range(n_runs)])
    counters.take()
    assert_same(shared[rows], plain[rows])
    assert (take_counted()[0] > 0) == (n_runs <= 4)


def test_mapped_and_copied_bytes_add_up() -> None:
    shared = share_one(np.arange(32 * 512.0))
    rows = np.r_[0:5000, 6001:16000]
    counters.take()
    joined = shared[rows]
    n_mapped, reasons = take_counted()
    assert n_mapped == mapped_bytes(joined)
    assert n_mapped + sum(reasons.values()) == joined.nbytes


def test_rows_of_arrays_that_are_not_c_contiguous_are_copied() -> None:
    plain = np.asfortranarray(np.arange(64 * 512.0).reshape(-1, 8))
    shared = share_one(plain)
    rows = np.r_[0:1000, 2000:4096]
    counters.take()
    result = shared[rows]
    assert_same(result, plain[rows])
    assert "NOT_BY_ROW" in take_counted()[1]
    assert mapped_bytes(result) == 0


def test_read_only_mode_gives_read_only_rows() -> None:
    plain = np.arange(32 * 512.0)
    shared = share_one(plain, "r")
    joined = shared[np.r_[0:5000, 6001:16000]]
    assert mapped_bytes(joined) > 0
    assert not joined.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        joined[0] = 1.0
    np.testing.assert_array_equal(joined, plain[np.r_[0:5000, 6001:16000]])
