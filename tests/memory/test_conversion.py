"""Arrays that are stored in another layout than they have."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap._linux import proc
from skl_mmap.exceptions import NotEnoughMemoryError
from skl_mmap.memory import (
    Conversion,
    LossyConversionError,
    Placement,
    Settings,
    Store,
    _conversion,
    rebuild_array,
)
from tests.memory.sharing import make_store, shared_with

FLOAT32 = Conversion(np.dtype(np.float32))
OPTIONAL = Conversion(np.dtype(np.float32), "C", is_optional=True)


def converted(store: Store, array: npt.NDArray[Any], conversion: Conversion) -> Any:
    shared = store.share(array, conversion=conversion)
    assert shared is not None
    return rebuild_array(shared[0])


@given(
    shape=st.sampled_from([(1, 1), (7, 3), (60, 11), (11, 60), (5, 4, 3), (50,)]),
    source=st.sampled_from(["<f8", "<f4", ">f8", "<i8", "<u2"]),
    source_order=st.sampled_from(["C", "F", "strided", "reversed"]),
    dtype=st.sampled_from([None, "<f4", "<f8"]),
    order=st.sampled_from([None, "C", "F"]),
    chunk_bytes=st.sampled_from([1, 100, 1 << 20]),
)
def test_what_is_stored_equals_numpys_conversion(
    shape: tuple[int, ...],
    source: str,
    source_order: str,
    dtype: str | None,
    order: str | None,
    chunk_bytes: int,
) -> None:
    array: Any = np.random.default_rng(0).normal(0, 100, shape).astype(source)
    if source_order == "strided":
        array = np.repeat(array, 2, axis=0)[::2]
    elif source_order == "reversed":
        array = array[::-1]
    else:
        array = np.array(array, order=source_order)
    conversion = Conversion(None if dtype is None else np.dtype(dtype), order)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_conversion, "_CHUNK_BYTES", chunk_bytes)
        found = converted(make_store(), array, conversion)
    expected = np.array(array, dtype=dtype, order=order or "K")
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)
    if order is not None:
        assert found.flags[f"{order}_CONTIGUOUS"]


def test_it_is_made_once_and_anew_when_the_array_has_changed() -> None:
    store = make_store()
    array = np.random.default_rng(0).normal(size=(300, 10))
    first = store.share(array, conversion=FLOAT32)
    again = store.share(array, conversion=FLOAT32)
    assert first is not None
    assert again is not None
    assert first[1] is again[1]
    store.next_call()
    unchanged = store.share(array, conversion=FLOAT32)
    assert unchanged is not None
    assert unchanged[1] is first[1]
    array[299, 9] = 5
    store.next_call()
    changed = converted(store, array, FLOAT32)
    np.testing.assert_array_equal(changed, array.astype(np.float32))


def test_the_array_itself_can_be_shared_beside_it() -> None:
    store = make_store()
    array = np.random.default_rng(0).normal(size=(300, 10))
    handle, _segment = shared_with(store, array)
    assert converted(store, array, FLOAT32).dtype == np.float32
    np.testing.assert_array_equal(rebuild_array(handle), array)


def test_a_number_that_would_become_infinite_is_an_error() -> None:
    array = np.ones((300, 10))
    array[7, 7] = np.inf
    array[8, 8] = np.nan
    found = converted(make_store(), array, FLOAT32)
    np.testing.assert_array_equal(found, array)
    array[299, 9] = 1e39
    with pytest.raises(LossyConversionError, match="too large for float32"):
        make_store().share(array, conversion=FLOAT32)


def limit_room(monkeypatch: pytest.MonkeyPatch, n_bytes: int) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: n_bytes)


def test_what_is_optional_takes_no_room_on_a_disk(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    array = np.ones((300, 10))
    store = Store(Placement.from_parameter("auto"), Settings())
    limit_room(monkeypatch, array.nbytes // 4)
    with pytest.raises(NotEnoughMemoryError):
        store.share(array, conversion=OPTIONAL)
    needed = store.share(array, conversion=FLOAT32)
    assert needed is not None
    assert not needed[1].is_memfd


@pytest.mark.parametrize("is_short_of_room", [False, True])
def test_what_is_optional_is_dropped_first(
    monkeypatch: pytest.MonkeyPatch, is_short_of_room: bool
) -> None:
    array, other = np.ones((300, 10)), np.zeros((300, 10))
    store = Store(Placement.from_parameter("auto"), Settings())
    optional = store.share(array, conversion=OPTIONAL)
    assert optional is not None
    _, segment = optional
    if is_short_of_room:
        limit_room(monkeypatch, other.nbytes // 2)
    shared_with(store, other)
    monkeypatch.undo()
    del optional
    inode = segment.identity
    del segment
    again = store.share(array, conversion=OPTIONAL)
    assert again is not None
    assert (again[1].identity != inode) is is_short_of_room
