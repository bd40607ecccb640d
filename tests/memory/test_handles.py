"""Handles describe what is still as it was shared, and nothing else."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap._linux import calls
from skl_mmap.memory import (
    IndexHandle,
    Settings,
    describe,
    index_runs,
    rebuild_array,
    rebuild_index,
)
from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    as_stored,
    assert_same,
    assert_same_values,
    make_store,
    mapped_bytes,
    send,
    share_one,
    shared_with,
)

ROWS = np.r_[0:5000, 6001:16000, 40:3000]


def described(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    found = describe(array)
    return None if found is None else rebuild_array(send(found[0]))


@strategies.examples(150)
@given(array=strategies.arrays())
def test_every_layout_comes_back(array: np.ndarray[Any, Any]) -> None:
    shared = share_one(array)
    assert_same(shared, as_stored(array))
    again = described(shared)
    assert again is not None
    assert again.strides == shared.strides
    assert_same(again, shared)
    stripped = described(np.asarray(shared))
    assert stripped is not None
    assert_same(stripped, shared)


@strategies.examples(100)
@given(data=st.data())
def test_joined_views_come_back(data: st.DataObject) -> None:
    plain = data.draw(strategies.dense_arrays(min_rows=1))
    shared = share_one(plain)
    for _ in range(2):
        rows = data.draw(strategies.row_runs(len(plain)))
        shared, plain = shared[rows], plain[rows]
        again = described(shared)
        if mapped_bytes(shared):
            assert again is not None
        if again is not None:
            assert_same(again, plain)
        if not len(plain):
            break


@strategies.examples(100)
@given(data=st.data())
def test_one_changed_byte_is_never_lost(data: st.DataObject) -> None:
    n_bytes = data.draw(st.integers(1, 5 * PAGE_BYTES))
    array = share_one(np.zeros(n_bytes, dtype=np.uint8))
    if data.draw(st.booleans()):
        array = array[data.draw(strategies.row_runs(n_bytes))]
    if not len(array):
        return
    start = data.draw(st.sampled_from([0, 1, 17]))
    view = array[start:] if start < len(array) else array
    position = data.draw(
        st.sampled_from([0, len(view) - 1]) | st.integers(0, len(view) - 1)
    )
    view[position] = 1
    assert describe(view) is None
    assert describe(np.asarray(view)) is None
    assert describe(view[::-1]) is None


def test_changed_bytes_at_seams_and_ends_are_never_lost() -> None:
    # Three parts that are mapped, with copied bytes at both seams.
    plain = np.zeros(12 * PAGE_BYTES, dtype=np.uint8)
    rows = np.r_[
        100 : 3 * PAGE_BYTES - 5,
        4 * PAGE_BYTES - 5 : 7 * PAGE_BYTES + 1,
        8 * PAGE_BYTES + 1 : 11 * PAGE_BYTES - 1,
    ]
    borders = np.flatnonzero((rows + 8) % PAGE_BYTES < 16)
    for position in np.r_[0, borders, len(rows) - 1]:
        joined = share_one(plain)[rows]
        assert mapped_bytes(joined) > 6 * PAGE_BYTES
        assert describe(joined) is not None
        joined[position] = 1
        assert describe(joined) is None
        assert describe(joined[::-1]) is None


def test_parts_that_were_not_written_to_are_described() -> None:
    shared = share_one(np.zeros((8, PAGE_BYTES), dtype=np.uint8))
    shared[0] = 1
    assert describe(shared) is None
    assert describe(shared[:1]) is None
    again = described(shared[1:])
    assert again is not None
    assert not again.any()


@pytest.mark.parametrize(
    "view",
    [
        lambda X: X[3:],
        lambda X: X[:-3],
        lambda X: X[::-1],
        lambda X: X.T,
        lambda X: X[:, 1:],
        lambda X: X[:, ::-1],
        lambda X: X[:, 2:].T[::-1],
        lambda X: X.reshape(-1, 2, 4),
        lambda X: X.ravel()[5:],
        lambda X: X.view("u4"),
        lambda X: X[7],
    ],
    ids=[
        "X[3:]",
        "X[:-3]",
        "X[::-1]",
        "X.T",
        "X[:, 1:]",
        "X[:, ::-1]",
        "X[:, 2:].T[::-1]",
        "X.reshape(-1, 2, 4)",
        "X.ravel()[5:]",
        'X.view("u4")',
        "X[7]",
    ],
)
@pytest.mark.parametrize("is_joined", [False, True])
def test_views_keep_their_strides(view: Callable[[Any], Any], is_joined: bool) -> None:
    plain = np.arange(16 * 512 * 8.0).reshape(-1, 8)
    shared = share_one(plain)
    if is_joined:
        rows = np.r_[0:3000, 4001:8000]
        shared, plain = shared[rows], plain[rows]
        assert mapped_bytes(shared) > 0
    again = described(view(shared))
    assert again is not None
    assert again.strides == view(plain).strides
    assert_same(again, view(plain))


def test_a_view_of_few_of_its_bytes_is_sent_by_value() -> None:
    shared = share_one(np.zeros((4096, 8)))
    assert describe(shared[::5]) is None
    assert describe(shared[:, 0]) is None


@pytest.mark.parametrize("name", ["repeated", "one row", "windows", "sparse windows"])
def test_views_whose_elements_overlap_are_sent_by_value(name: str) -> None:
    shared = share_one(np.zeros((4096, 8)))
    windows = np.lib.stride_tricks.sliding_window_view
    view = {
        "repeated": np.broadcast_to(shared, (3, 4096, 8)),
        "one row": np.broadcast_to(shared[0], (100, 8)),
        "windows": windows(shared.ravel(), 5),
        # Fewer bytes than they span, and overlapping all the same.
        "sparse windows": windows(shared[:, 0], 5),
    }[name]
    assert describe(np.asarray(view)) is None


@pytest.mark.parametrize(("n_items", "is_described"), [(124, False), (125, True)])
def test_small_parts_are_sent_by_value(n_items: int, is_described: bool) -> None:
    store = make_store()
    store.settings = Settings("c", min_mapped_bytes=0, min_bytes=1000)
    handle, _segment = shared_with(store, np.zeros(5000))
    shared = rebuild_array(send(handle))
    assert (describe(shared[:n_items]) is not None) == is_described


def test_plain_arrays_are_not_described() -> None:
    shared = share_one(np.zeros(1000))
    assert describe(np.zeros(1000)) is None
    assert describe(shared[:0]) is None
    assert describe(shared + 1) is None


def test_the_dtype_is_sent_as_an_object() -> None:
    dtype = np.dtype([(("a title", "a"), "i1"), ("b", "f8")], align=True)
    again = described(share_one(np.zeros(1000, dtype=dtype)))
    assert again is not None
    assert again.dtype.fields == dtype.fields
    assert again.dtype.isalignedstruct


def test_two_arrays_of_one_handle_are_separate() -> None:
    handle, _segment = shared_with(make_store(), np.zeros(1000))
    first, second = (rebuild_array(send(handle)) for _ in range(2))
    first[:] = 1
    assert not second.any()
    assert not rebuild_array(handle).any()


def test_settings_of_the_receiver_can_be_chosen() -> None:
    shared = share_one(np.zeros(1000))
    found = describe(shared, Settings("r", 0, 0))
    assert found is not None
    assert not rebuild_array(found[0]).flags.writeable


def test_handles_are_small() -> None:
    handle, _segment = shared_with(make_store(), np.zeros(1_000_000))
    assert len(pickle.dumps(handle)) < 1000


def test_a_changed_view_that_became_read_only_is_not_described(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = share_one(np.zeros(16 * 512))
    shared[5] = -1.0
    map_file = calls.map_file

    def refuse_writable(*args: Any, writable: bool, **options: Any) -> None:
        if writable:
            raise OSError(12, "strict overcommit")
        map_file(*args, writable=writable, **options)

    monkeypatch.setattr(calls, "map_file", refuse_writable)
    # The first run holds the write, so that it is copied; the second one is mapped.
    joined = shared[np.r_[0:100, 4096:8192]]
    monkeypatch.undo()
    assert mapped_bytes(joined) > 0
    assert joined[5] == -1.0
    again = described(joined)
    assert again is None or again[5] == -1.0


@given(data=st.data())
def test_index_arrays_come_back(data: st.DataObject) -> None:
    index = data.draw(strategies.row_runs(20_000))
    runs = index_runs(index, min_bytes=1) if len(index) else None
    if runs is None:
        return
    identity, _segment = make_store().identity(int(index.max()) + 1) or (None, None)
    for handle in (
        IndexHandle(tuple(map(tuple, runs.tolist())), identity),
        IndexHandle(tuple(map(tuple, runs.tolist())), None),
    ):
        assert_same(rebuild_index(send(handle)), index)


def test_long_index_arrays_cost_no_memory() -> None:
    index = np.r_[0 : 512 * 10, 512 * 20 : 512 * 40]
    runs = index_runs(index, min_bytes=1)
    assert runs is not None
    identity, _segment = make_store().identity(512 * 40) or (None, None)
    rebuilt = rebuild_index(send(IndexHandle(tuple(map(tuple, runs)), identity)))
    assert mapped_bytes(rebuilt) == index.nbytes
    assert type(rebuilt) is np.ndarray
    assert_same(rebuilt, index)
    rebuilt[0] = 7  # as any index array, it may be written to


@pytest.mark.parametrize(
    "array",
    [
        np.arange(1000, dtype=np.int32),
        np.arange(1000, dtype=np.uint64),
        np.arange(1000.0),
        np.arange(1000).reshape(-1, 2),
        np.arange(2000)[::2],
        np.arange(-5, 1000),
        np.r_[5:1000, -1],
        np.arange(1000)[::-1],
        np.arange(0, 5000, 5),
        np.r_[0:5, np.random.default_rng(0).permutation(1000)],
        np.arange(3),
        np.arange(1_700_000_000, 1_700_001_000),
    ],
    ids=[
        "int32",
        "uint64",
        "float64",
        "2-D",
        "strided",
        "negative first",
        "negative last",
        "descending",
        "gaps",
        "shuffled",
        "short",
        "seconds since 1970",
    ],
)
def test_other_arrays_are_no_index(array: np.ndarray[Any, Any]) -> None:
    assert index_runs(array, min_bytes=100) is None


def test_same_values_and_signs_of_zero() -> None:
    plain = np.array([0.0, -0.0, np.nan, np.inf] * 1000)
    assert_same_values(share_one(plain)[np.r_[0:3000, 3500:4000]], plain[:3500])
