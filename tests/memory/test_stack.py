"""Several arrays that are stored as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import Conversion, Stack, Store, _conversion, rebuild_array
from tests.memory.sharing import make_store

ROW_BY_ROW = Conversion(np.dtype(np.float32), "F", is_optional=True)


def make_parts(sizes: list[int], n_items: int) -> tuple[list[Any], list[Any], Any]:
    """Return arrays, the columns that they are, and all columns in their order."""
    rng = np.random.default_rng(len(sizes))
    columns = rng.normal(size=(sum(sizes), n_items))
    places = np.split(rng.permutation(sum(sizes)), np.cumsum(sizes)[:-1])
    return [columns[place] for place in places], places, columns


def share(store: Store, stack: Any) -> Any:
    shared = store.share(stack, conversion=ROW_BY_ROW)
    assert shared is not None
    return shared


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    n_items=st.integers(1, 900),
    chunk_bytes=st.sampled_from([1, 500, 1 << 20]),
)
def test_what_is_stored_are_all_columns_row_by_row(
    sizes: list[int], n_items: int, chunk_bytes: int
) -> None:
    parts, places, columns = make_parts(sizes, n_items)
    store = make_store()
    stack = Stack(parts, places)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_conversion, "_CHUNK_BYTES", chunk_bytes)
        handle, segment = share(store, stack)
    found = rebuild_array(handle)
    np.testing.assert_array_equal(found, columns.astype(np.float32))
    assert found.flags.f_contiguous
    assert share(store, stack)[1] is segment


@pytest.mark.parametrize("n_items", [60, 300_000])
def test_a_change_of_any_part_is_seen(n_items: int) -> None:
    parts, places, _ = make_parts([2, 1, 1], n_items)
    store = make_store()
    stack = Stack(parts, places)
    _, segment = share(store, stack)
    parts[1][0] += 1  # all of a column: what is looked at is a sample
    handle, changed = share(store, stack)
    assert changed is not segment
    row = places[1][0]
    np.testing.assert_array_equal(
        rebuild_array(handle)[row], parts[1][0].astype(np.float32)
    )
    store.next_call()
    parts[0][1, n_items // 2] = 7  # and between calls, all of it
    assert share(store, stack)[1] is not changed


def test_other_arrays_make_another_stack() -> None:
    parts, places, _ = make_parts([2, 1], 10)
    stack = Stack(parts, places)
    assert stack.is_like(Stack(list(parts), places))
    assert not stack.is_like(Stack([parts[0], parts[1].copy()], places))
    assert not stack.is_like(Stack(parts, [places[0][::-1], places[1]]))
    assert not stack.is_like(Stack(parts[:1], places[:1]))
