"""What is shared already is not shared twice, is never stale, and goes in time."""

from __future__ import annotations

import gc
import mmap
import os
import threading
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap._linux import proc
from skl_mmap._linux.proc import resident_bytes
from skl_mmap.exceptions import NotEnoughMemoryError
from skl_mmap.memory import (
    Conversion,
    LossyConversionError,
    Store,
    _store,
    rebuild_array,
)
from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    as_stored,
    assert_same,
    assert_same_values,
    make_store,
    run_python,
    send,
    share_one,
    shared_with,
)


def count_files() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def received(store: Store, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    handle, _segment = shared_with(store, array)
    return rebuild_array(send(handle))


def flip_one_byte(array: np.ndarray[Any, Any], item: int, byte: int) -> None:
    position = np.unravel_index(item, array.shape)
    changed = np.array([array[position]], array.dtype)
    changed.view("u1")[byte] ^= 1
    array[position] = changed[0]


@strategies.examples(100)
@given(data=st.data())
def test_one_byte_changed_between_two_calls_is_seen(data: st.DataObject) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(["u1", "i2", "i8", "S5"])))
    n_rows = data.draw(st.integers(2, 3000))
    base = np.zeros((n_rows, data.draw(st.integers(1, 4))), dtype)
    layout = data.draw(st.sampled_from(["C", "F", "rows", "columns", "reversed"]))
    array = {
        "C": lambda: base,
        "F": lambda: np.asfortranarray(base),
        "rows": lambda: base[::2],
        "columns": lambda: base[:, ::2],
        "reversed": lambda: base[::-1],
    }[layout]()
    store = make_store()
    first = received(store, array)
    before = array.copy()
    last = array.size - 1
    item = data.draw(st.sampled_from([0, last]) | st.integers(0, last))
    flip_one_byte(array, item, data.draw(st.integers(0, dtype.itemsize - 1)))
    assert array.tobytes() != before.tobytes()
    store.next_call()
    assert_same(received(store, array), as_stored(array))
    assert_same_values(first, before)


CONVERSIONS = {
    "as it is": Conversion(),
    "float32": Conversion(np.dtype(np.float32)),
    "C": Conversion(order="C"),
    "float32 F": Conversion(np.dtype(np.float32), "F"),
}


def refill(array: np.ndarray[Any, Any], seed: int) -> None:
    array[...] = strategies.fill(array.dtype, array.shape, seed)


@strategies.examples(150)
@given(
    array=strategies.arrays(max_pages=200),
    small_bytes=st.sampled_from([0, _store._SMALL_BYTES]),
)
def test_an_array_refilled_within_a_call_is_seen(
    array: np.ndarray[Any, Any], small_bytes: int
) -> None:
    array = array if array.flags.writeable else array.copy(order="K")
    with mock.patch.object(_store, "_SMALL_BYTES", small_bytes):
        store = make_store()
        first = received(store, array)
        before = array.copy()
        for seed in (1, 2):
            refill(array, seed)
            assert_same(received(store, array), as_stored(array))
            _, segment = shared_with(store, array)
            # NumPy does not copy what pads records of which not all are shared.
            if small_bytes == 0 or array.dtype.names is None:
                assert shared_with(store, array)[1] is segment
        assert_same_values(first, before)


@strategies.examples(60)
@given(
    shape=st.sampled_from(
        [(300_000,), (60_000, 5), (500, 600), (2, 150_000), (3, 4, 30_000)]
    ),
    order=st.sampled_from(["C", "F"]),
    step=st.sampled_from([1, 2, -1]),
    name=st.sampled_from(list(CONVERSIONS)),
    data=st.data(),
)
def test_an_array_refilled_within_a_call_is_converted_anew(
    shape: tuple[int, ...], order: Any, step: int, name: str, data: st.DataObject
) -> None:
    rng = np.random.default_rng(0)
    array = np.asarray(rng.random(shape), order=order)[::step]
    store = make_store()

    def receive() -> np.ndarray[Any, Any]:
        shared = store.share(array, conversion=CONVERSIONS[name])
        assert shared is not None
        again = store.share(array, conversion=CONVERSIONS[name])
        assert again is not None
        assert again[1] is shared[1]
        return rebuild_array(shared[0])

    for _ in range(3):
        dtype = CONVERSIONS[name].dtype_of(array)
        np.testing.assert_array_equal(receive(), array.astype(dtype))
        end = data.draw(st.sampled_from(["all", 0, -1]))
        if end == "all":
            array[...] = rng.random(array.shape)
        else:
            array[(end,) * array.ndim] += 1


def test_numbers_too_large_for_the_conversion_are_seen_within_a_call() -> None:
    array = np.zeros(300_000)
    store = make_store()
    assert store.share(array, conversion=CONVERSIONS["float32"]) is not None
    array[...] = 1e300
    with pytest.raises(LossyConversionError):
        store.share(array, conversion=CONVERSIONS["float32"])


def test_a_new_view_is_compared_as_a_whole() -> None:
    array = np.zeros((50_000, 10))
    store = make_store()
    for number in range(1, 4):
        _, segment = shared_with(store, array[:])
        array[number * 7777, 3] = number
        assert shared_with(store, array[:])[1] is not segment
        assert_same(received(store, array.reshape(-1)), array.reshape(-1))


def test_each_call_compares_all_of_an_array() -> None:
    views = [array := np.zeros(300_000), array[:]]
    store = make_store()
    for number in range(1, 5):
        for view in views:
            shared_with(store, view)
        array[number * 1000] = number  # between two places of the sample
        store.next_call()
        for view in views:
            assert_same(received(store, view), array)
        store.next_call()
        shared_with(store, array)
        array[number * 1000 + 1] = number
        # It was compared in the call before, and not yet in this one.
        assert_same(received(store, views[1]), array)


def test_what_loky_pickles_is_compared_as_a_whole() -> None:
    array = np.zeros((1 << 20) // 8)
    store = make_store()
    for place in (700, 1700, 2700):
        array[place] = 1.0
        assert_same(received(store, array), array)


def test_several_views_of_one_array_stay_known() -> None:
    views = [base := np.zeros(300_000), base[:], base.view()]
    store = make_store()
    segments = {id(shared_with(store, view)[1]) for view in views}
    with mock.patch.object(_store, "holds", side_effect=AssertionError):
        segments |= {id(shared_with(store, view)[1]) for view in views}
    assert len(segments) == 1


def test_a_version_that_was_old_once_has_to_prove_itself() -> None:
    array = np.zeros(300_000)
    middle = len(array) // 130  # between two places of the sample
    store = make_store()
    _, kept = shared_with(store, array)
    array[0] = 1.0
    shared_with(store, array)
    array[0] = 0.0
    array[middle] = 1.0
    assert received(store, array)[middle] == 1.0
    assert kept.n_bytes == array.nbytes


def test_only_a_sample_is_read_within_a_call(tmp_path: Path) -> None:
    path = tmp_path / "numbers"
    path.write_bytes(bytes(64 << 20))
    with path.open("r+b") as file:
        mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    array = np.frombuffer(mapped, dtype=float)
    store = make_store()
    _, segment = shared_with(store, array)
    mapped.madvise(mmap.MADV_DONTNEED)
    assert shared_with(store, array)[1] is segment
    # The kernel maps up to 16 pages at once that are there already.
    _, read_bytes = resident_bytes(array.ctypes.data, array.nbytes)
    assert 0 < read_bytes <= 66 * 2 * 16 * PAGE_BYTES < array.nbytes / 4


@strategies.examples(60)
@given(array=strategies.arrays())
def test_equal_bytes_are_shared_once(array: np.ndarray[Any, Any]) -> None:
    store = make_store()
    _, segment = shared_with(store, array)
    store.next_call()
    assert shared_with(store, array)[1] is segment
    if array.dtype.names is None:  # what pads a record need not be copied
        equal = array.copy(order="K")
        if equal.flags.c_contiguous == (array.flags.c_contiguous or not equal.ndim):
            assert shared_with(store, equal)[1] is segment


def test_within_a_call_an_array_is_shared_once() -> None:
    store = make_store()
    array = np.arange(10_000.0)
    _, segment = shared_with(store, array)
    n_files = count_files()
    for view in (array, array[:], np.asarray(array), array.reshape(-1)):
        assert shared_with(store, view)[1] is segment
    assert count_files() == n_files


def test_views_of_the_same_shape_at_the_same_place_are_told_apart() -> None:
    base = np.arange(1000.0).reshape(100, 10)
    views = {
        "every second row": base[::2],
        "first half": base[:50],
        "left": base[:50, :5],
        "left, every second row": base[::2, :5],
        "every second column": base[:50, ::2],
        "square": base[:10, :10],
        "square, transposed": base[:10, :10].T,
        "as integers": base[:50].view("i8"),
        "the same row": np.broadcast_to(base[0], (50, 10)),
    }
    store = make_store()
    segments = []
    for _ in range(2):
        for view in views.values():
            handle, segment = shared_with(store, view)
            segments.append(segment)
            assert_same_values(rebuild_array(handle), view)


@strategies.examples(30)
@given(data=st.data())
def test_views_of_one_array_within_one_call(data: st.DataObject) -> None:
    base = np.arange(60 * 6, dtype="i4").reshape(60, 6)
    keys = st.tuples(
        st.builds(slice, st.sampled_from([0, 1, 30]), st.none(), st.integers(1, 3)),
        st.builds(slice, st.just(0), st.sampled_from([2, 3, 6]), st.integers(1, 2)),
    )
    store = make_store()
    for key in data.draw(st.lists(keys, min_size=2, max_size=8)):
        for view in (base[key], base[key].T):
            assert_same_values(received(store, view), view)


def test_temporary_arrays_with_the_same_bytes_share_a_segment() -> None:
    store = make_store()
    _, segment = shared_with(store, np.arange(10_000.0))
    gc.collect()
    for _ in range(3):
        assert shared_with(store, np.arange(10_000.0))[1] is segment


def test_a_segment_goes_with_its_source() -> None:
    n_files = count_files()
    store = make_store()
    array = np.arange(10_000.0)
    shared_with(store, array)
    assert count_files() == n_files + 1
    view = array[5:]
    del array
    assert count_files() == n_files + 1  # its memory is alive
    del view
    assert count_files() == n_files


def test_what_is_gone_does_not_hide_what_is_there() -> None:
    store = make_store()
    arrays = [np.full(10_000, number) for number in range(3)]
    segments = [id(shared_with(store, array)[1]) for array in arrays]
    del arrays[0]
    gc.collect()
    assert [id(shared_with(store, array)[1]) for array in arrays] == segments[1:]


def test_a_segment_outlives_its_source_while_it_is_used() -> None:
    n_files = count_files()
    store = make_store()
    array = np.arange(10_000.0)
    handle, segment = shared_with(store, array)
    del array
    store.close()
    task = rebuild_array(handle)
    del segment
    assert count_files() == n_files + 1
    assert task[7] == 7.0
    del task
    assert count_files() == n_files


def test_closing_frees_segments_while_their_sources_live() -> None:
    n_files = count_files()
    store = make_store()
    array = np.arange(10_000.0)
    shared_with(store, array)
    store.identity(10)
    assert count_files() == n_files + 2
    store.close()
    assert count_files() == n_files
    assert_same(received(store, array), array)
    assert store.identity(10) is not None


def test_versions_of_a_changing_array_do_not_pile_up() -> None:
    n_files = count_files()
    store = make_store()
    array = np.zeros(10_000)
    for version in range(5):
        array[version] = 1.0
        store.next_call()
        assert_same(received(store, array), array)
    assert count_files() <= n_files + 2


def test_arrays_in_a_mapping_are_not_shared_again() -> None:
    store = make_store()
    handle, segment = shared_with(store, np.arange(10_000.0))
    array = rebuild_array(handle)
    n_files = count_files()
    assert shared_with(make_store(), array)[1] is segment
    assert shared_with(make_store(), np.asarray(array)[::-1])[1] is segment
    assert count_files() == n_files
    array[3] = -1.0
    other_handle, other = shared_with(make_store(), array)
    assert other is not segment
    assert rebuild_array(other_handle)[3] == -1.0


def test_a_written_copy_shared_again_is_not_stale() -> None:
    store = make_store()
    array = share_one(np.zeros(10_000))
    for value in range(1, 4):
        array[17] = value
        store.next_call()
        assert received(store, array)[17] == value


def test_identity_holds_the_row_numbers() -> None:
    store = make_store()
    for n_rows in (1, 5, 70_000, 3):
        handle, _segment = store.identity(n_rows) or (None, None)
        assert handle is not None
        numbers = rebuild_array(handle)
        assert numbers.dtype == np.intp
        np.testing.assert_array_equal(numbers[:n_rows], np.arange(n_rows))
        np.testing.assert_array_equal(numbers, np.arange(len(numbers)))
    assert store.identity(100) == store.identity(70_000)


def test_threads_share_one_array_once() -> None:
    store = make_store()
    array = np.arange(200_000.0)
    segments: list[object] = []
    threads = [
        threading.Thread(target=lambda: segments.append(store.share(array)[1]))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(segments) == 8
    assert len({id(segment) for segment in segments}) == 1


def test_too_little_memory_is_an_error_that_names_the_sizes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 5 << 10)
    array = np.zeros((1000, 8))
    n_files = count_files()
    with pytest.raises(NotEnoughMemoryError) as caught:
        make_store().share(array)
    message = str(caught.value)
    assert message.startswith("store='memory' needs 62.5 KiB for ")
    assert "(1000, 8)" in message
    assert "float64" in message
    assert "5.0 KiB are available" in message
    assert "Use store='disk'" in message
    del caught
    assert count_files() == n_files


def test_auto_goes_to_the_disk_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 5 << 10)
    array = np.arange(3 * PAGE_BYTES, dtype=np.uint8)
    store = make_store(store="auto")
    handle, segment = shared_with(store, array)
    assert not segment.is_memfd
    assert_same(rebuild_array(handle), array)
    small = np.arange(3000, dtype=np.uint8)
    assert shared_with(store, small)[1].is_memfd


def test_without_file_descriptors_nothing_is_shared() -> None:
    printed = run_python(
        """
        import os, resource
        import numpy as np
        from tests.memory.sharing import make_store, shared_with
        store = make_store()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        used = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 4, hard))
        kept = []
        for number in range(20):
            kept.append((number + np.zeros(5000), store.share(number + np.zeros(5000))))
        assert kept[0][1] is not None
        assert kept[-1][1] is None
        assert store.identity(10) is None
        n_shared = sum(shared is not None for _, shared in kept)
        kept.clear()
        assert store.share(np.ones(5000)) is not None
        print(n_shared)
        """
    )
    assert 0 < int(printed) <= 6


def test_parts_of_an_array_go_before_it() -> None:
    n_files = count_files()
    store = make_store()
    base = np.arange(100_000.0)
    for start in range(5):
        part = base[start : start + 10_000]
        assert_same(received(store, part), part)
        del part
        assert count_files() == n_files
    kept = base[:10_000]
    shared_with(store, kept)
    assert count_files() == n_files + 1
