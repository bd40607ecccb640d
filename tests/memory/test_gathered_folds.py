"""Scattered folds are gathered once for all tasks, and are those of numpy."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import (
    ArrayHandle,
    Segment,
    Store,
    _fold_budget,
    _gathered_folds,
    _page_filler,
    can_remap,
    describe,
    find_mapping,
    rebuild_array,
)
from tests.memory.sharing import (
    PAGE_BYTES,
    assert_same,
    make_store,
    mapped_bytes,
    send,
    shared_with,
    take_counted,
)
from tests.strategies import arrays, examples, row_keys

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

RNG = np.random.default_rng(0)
PLAIN = RNG.random((3000, 100))
PLAIN[::7, 3] = np.nan
TEST = np.sort(RNG.permutation(3000)[:1000])
TRAIN = np.setdiff1d(np.arange(3000), TEST)

# Files go with their stores.
_stores: list[Store] = []


@pytest.fixture(autouse=True)
def stores() -> Iterator[None]:
    yield
    _stores.clear()


def make_searching_store(
    n_workers: int = 4, n_splits: int = 3, mmap_mode: str = "c"
) -> Store:
    """Make a store that is told of a task of a search."""
    store = make_store(mmap_mode)
    store.next_call(n_workers)
    store.next_task(n_splits)
    _stores.append(store)
    return store


def share_plain(array: npt.NDArray[Any] = PLAIN) -> tuple[ArrayHandle, Segment]:
    return shared_with(make_searching_store(), array)


def task(handle: ArrayHandle) -> Any:
    """Return the array as another task gets it."""
    return rebuild_array(send(handle))


def file_of(handle: ArrayHandle) -> int:
    """Return the descriptor, which is the parent's, of the file of a handle."""
    assert handle.settings.shifted is not None
    return handle.settings.shifted.file.fd


def allocated_bytes(handle: ArrayHandle) -> int:
    return os.fstat(file_of(handle)).st_blocks * 512


def assert_gathered(rows: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    assert take_counted() == (0, {"GATHERED": expected.nbytes})
    assert mapped_bytes(rows) == expected.nbytes
    assert_same(rows, expected)


def assert_copied() -> None:
    """Look that a task has copied rows for itself, some of them at least."""
    reasons = take_counted()[1]
    assert reasons
    assert reasons.keys() <= {"SCATTERED", "SHORT_RUNS", "SEAMS"}


@given(data=st.data(), array=arrays(max_pages=40), mmap_mode=st.sampled_from("cr"))
@examples(60)
def test_folds_of_several_tasks_are_numpys(
    data: st.DataObject, array: npt.NDArray[Any], mmap_mode: str
) -> None:
    store = make_searching_store(mmap_mode=mmap_mode)
    handle, _segment = shared_with(store, array)
    stored = np.array(array, order="K") if array.ndim else array
    keys = [np.arange(len(array))[::-2]] if array.ndim else []
    for key in [*keys, data.draw(row_keys(len(array) if array.ndim else 0))]:
        for _ in range(2):
            try:
                expected = stored[key]
            except (IndexError, ValueError, TypeError) as error:
                with pytest.raises(type(error)):
                    task(handle)[key]
                continue
            rows = task(handle)[key]
            assert rows.tobytes() == expected.tobytes() or array.dtype.names
            # What one task writes, the next one does not see.
            if isinstance(rows, np.ndarray) and rows.flags.writeable and rows.size:
                rows[...] = np.zeros((), array.dtype)


@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("dtype", ["f8", "f4", "i4", ">i2", "c16"])
def test_rows_are_gathered_once(dtype: str, order: Any) -> None:
    numbers = PLAIN if np.dtype(dtype).kind in "fc" else np.nan_to_num(1000 * PLAIN)
    # Rows of 99 elements fill no whole number of pages.
    array = np.asarray(numbers[:, :99], dtype=dtype, order=order)
    handle, _segment = share_plain(array)
    before = allocated_bytes(handle)
    take_counted()
    assert_gathered(task(handle)[TRAIN], array[TRAIN])
    n_bytes = allocated_bytes(handle) - before
    # The rows, the key, the directory, its marks and the marks of pages.
    assert 0 <= n_bytes - array[TRAIN].nbytes < 7 * PAGE_BYTES
    for key in (TRAIN, TRAIN.tolist(), (TRAIN, ...), TRAIN - 3000, TRAIN.astype("u2")):
        assert_gathered(task(handle)[key], array[TRAIN])
    mask = np.isin(np.arange(3000), TRAIN)
    assert_gathered(task(handle)[mask], array[TRAIN])
    assert_gathered(task(handle).take(TRAIN, axis=0), array.take(TRAIN, axis=0))
    assert allocated_bytes(handle) - before == n_bytes
    for other in (TEST, TRAIN[::-1], TRAIN[:-1], np.r_[TRAIN, TRAIN[:9]]):
        assert_gathered(task(handle)[other], array[other])


def test_rows_in_fortran_order_too() -> None:
    store = make_searching_store()
    array = np.asfortranarray(PLAIN)
    handle, _segment = shared_with(store, array)
    settings = handle.settings._replace(is_by_column=True)
    X = task(ArrayHandle(*_fields(handle)[:-1], settings))
    take_counted()
    assert_gathered(X[TRAIN], np.asfortranarray(array[TRAIN]))
    # Beside the same rows in another order.
    assert_gathered(task(handle)[TRAIN], array[TRAIN])
    # Rows of a fold are those of any array.
    assert X[TRAIN][TEST[:500]].flags.c_contiguous


def _fields(handle: ArrayHandle) -> list[Any]:
    return [getattr(handle, name) for name in handle.__slots__]


def test_folds_with_the_same_checksum_are_told_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_gathered_folds.zlib, "crc32", lambda _key: 1)
    handle, _segment = share_plain()
    folds = [np.sort(RNG.permutation(3000)[:2000]) for _ in range(5)]
    for _ in range(2):
        for rows in folds:
            assert_same(task(handle)[rows], PLAIN[rows])
    assert allocated_bytes(handle) < 5 * PLAIN[TRAIN].nbytes + 20 * PAGE_BYTES


def test_rows_from_the_end_are_told_from_others() -> None:
    wide = RNG.random((200, 400))
    rows = RNG.permutation(np.arange(56, 200))
    handle, _segment = share_plain(wide)
    take_counted()
    # The same numbers, if they are written down as bytes without a sign.
    for index in (rows, rows - 256):
        assert_gathered(task(handle)[index], wide[index])


def test_parts_of_one_segment_are_told_apart() -> None:
    handle, segment = share_plain()
    both = PLAIN[:1500], PLAIN[1500:]
    views = task(handle)[:1500], task(handle)[1500:]
    rows = TEST[TEST < 1500]
    for part, view in zip(both, views, strict=True):
        take_counted()
        assert_gathered(view[rows], part[rows])
    wide = task(handle).reshape(1500, 200)
    assert_gathered(wide[rows], PLAIN.reshape(1500, 200)[rows])
    assert segment.n_bytes == PLAIN.nbytes


@pytest.mark.parametrize("mmap_mode", "cr")
def test_what_a_task_writes_stays_its_own(mmap_mode: str) -> None:
    store = make_searching_store(mmap_mode=mmap_mode)
    handle, _segment = shared_with(store, PLAIN)
    # Folds are writable, as copies would be.
    task(handle)[TRAIN][...] = -1.0
    assert_same(task(handle)[TRAIN], PLAIN[TRAIN])
    if mmap_mode == "r":
        return
    X, expected = task(handle), PLAIN.copy()
    X[TEST[0]] = expected[TEST[0]] = 5.0
    take_counted()
    assert_same(X[TEST], expected[TEST])
    assert_copied()
    assert_same(task(handle)[TEST], PLAIN[TEST])


def test_a_result_is_sent_by_value() -> None:
    handle, _segment = share_plain()
    fold = task(handle)[TRAIN]
    assert find_mapping(fold) is not None
    assert describe(fold) is None


def test_folds_of_a_fold_are_numpys() -> None:
    handle, _segment = share_plain()
    fold, expected = task(handle)[TRAIN], PLAIN[TRAIN]
    for rows in (np.r_[0:400, 900:2000], np.arange(0, 2000, 3)):
        assert_same(fold[rows], expected[rows])
    assert mapped_bytes(fold[np.r_[0:512, 1024:2000]]) > 0


def test_nothing_is_left_of_a_call() -> None:
    store = make_searching_store()
    handle, _segment = shared_with(store, PLAIN)
    X = task(handle)
    kept, fd = X[TRAIN], file_of(handle)
    store.end_call()
    # A task that is still running has what it has mapped, and copies what it selects.
    assert_same(kept, PLAIN[TRAIN])
    del kept
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    take_counted()
    assert_same(X[TRAIN], PLAIN[TRAIN])
    assert_copied()
    store.next_call(4)
    store.next_task(3)
    again, _segment = shared_with(store, PLAIN)
    assert allocated_bytes(again) == 0


@pytest.mark.parametrize(("n_workers", "n_splits"), [(4, 0), (4, 5), (1, 1)], ids=str)
def test_otherwise_each_task_copies(n_workers: int, n_splits: int) -> None:
    store = make_searching_store(n_workers, n_splits)
    handle, _segment = shared_with(store, PLAIN)
    take_counted()
    assert_same(task(handle)[TRAIN], PLAIN[TRAIN])
    assert_copied()


def test_small_folds_are_copied() -> None:
    handle, _segment = share_plain()
    settings = handle.settings._replace(min_bytes=PLAIN[TRAIN].nbytes)
    X = task(ArrayHandle(*_fields(handle)[:-1], settings))
    take_counted()
    assert_same(X[TEST], PLAIN[TEST])
    assert_copied()
    assert_gathered(X[TRAIN], PLAIN[TRAIN])


def test_rows_that_are_mostly_mapped_are_not_gathered() -> None:
    handle, _segment = share_plain()
    rows = np.r_[0:1000, 1500:3000]
    take_counted()
    assert_same(task(handle)[rows], PLAIN[rows])
    assert set(take_counted()[1]) == {"SHIFTED", "SEAMS"}


def test_a_key_that_is_large_beside_its_rows_is_not_kept() -> None:
    narrow = RNG.random(50_000)
    rows = RNG.permutation(50_000)[:40_000]
    handle, _segment = share_plain(narrow)
    take_counted()
    assert_same(task(handle)[rows], narrow[rows])
    assert_copied()
    assert_gathered(task(handle)[np.sort(rows)], narrow[np.sort(rows)])


@pytest.mark.parametrize("spare_bytes", [0, 1_000_000])
def test_without_room_rows_are_copied(
    spare_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _segment = share_plain()
    for module in (_page_filler, _gathered_folds):
        monkeypatch.setattr(module, "spare_memory_bytes", lambda: spare_bytes)
    take_counted()
    assert_same(task(handle)[TRAIN], PLAIN[TRAIN])
    assert_copied()


def test_the_directory_may_be_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_gathered_folds, "_MAX_ENTRIES", 2)
    handle, _segment = share_plain()
    take_counted()
    assert_gathered(task(handle)[TRAIN], PLAIN[TRAIN])
    assert_gathered(task(handle)[TEST], PLAIN[TEST])
    assert_same(task(handle)[TEST[1:]], PLAIN[TEST[1:]])
    assert_copied()
    assert_gathered(task(handle)[TRAIN], PLAIN[TRAIN])


def test_the_file_grows_no_further_than_copies_of_all_workers() -> None:
    handle, _segment = share_plain()
    for n_left_out in range(1, 9):
        for rows in (TRAIN[n_left_out:], TEST[n_left_out:]):
            assert_same(task(handle)[rows], PLAIN[rows])
    limit = 4 * 17 / 16 * PLAIN.nbytes + (4 << 20)
    assert PLAIN.nbytes * 3 < allocated_bytes(handle) < limit + 9 * PAGE_BYTES


@pytest.mark.parametrize(
    ("module", "name"),
    [
        (_page_filler, "fcntl"),
        (_page_filler, "write_buffer"),
        (_gathered_folds, "write_buffer"),
    ],
)
def test_what_fails_is_copied(
    module: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    handle, _segment = share_plain()
    with monkeypatch.context() as broken:
        broken.setattr(module, name, fail)
        take_counted()
        assert_same(task(handle)[TRAIN], PLAIN[TRAIN])
        assert_copied()
    assert_gathered(task(handle)[TRAIN], PLAIN[TRAIN])


def test_what_a_killed_worker_has_begun_is_gathered_again() -> None:
    """It has all locks, has written nonsense, and dies before it marks anything."""
    handle, _segment = share_plain()
    shifted = handle.settings.shifted
    assert shifted is not None
    place, n_bytes = shifted.folds_place, PLAIN.nbytes
    script = f"""
import fcntl, os, struct, time
fd = os.open("/proc/{os.getpid()}/fd/{shifted.file.fd}", os.O_RDWR)
lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, {place}, 0, 0)
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
os.pwrite(fd, b"x" * 4000, {place} + {_gathered_folds._MAX_ENTRIES})
pages = {shifted.file.n_bytes} - ({shifted.file.n_bytes} - {place}) // 2
os.pwrite(fd, b"x" * {n_bytes}, pages)
print("ready", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        X = task(handle)
        selected: list[npt.NDArray[Any]] = []
        thread = threading.Thread(target=lambda: selected.append(X[TRAIN]))
        thread.start()
        os.kill(process.pid, signal.SIGKILL)
        thread.join()
    assert_same(selected[0], PLAIN[TRAIN])
    assert mapped_bytes(selected[0]) == PLAIN[TRAIN].nbytes


def test_half_a_fold_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker that dies in the middle has marked some pages, and not others."""
    handle, _segment = share_plain()
    write = _gathered_folds.write_buffer
    n_written: list[int] = []

    def write_some(*arguments: Any) -> None:
        n_written.append(1)
        if len(n_written) > 3:  # entry, key, mark, and one step
            raise OSError(5, "Input/output error")
        write(*arguments)

    with monkeypatch.context() as broken:
        broken.setattr(_page_filler, "_STEP_PAGES", 16)
        broken.setattr(_gathered_folds, "write_buffer", write_some)
        assert_same(task(handle)[TRAIN], PLAIN[TRAIN])
    take_counted()
    assert_gathered(task(handle)[TRAIN], PLAIN[TRAIN])


def test_threads_that_gather_at_the_same_time_get_the_same() -> None:
    handle, _segment = share_plain()
    folds = [np.sort(RNG.permutation(3000)[:1500]) for _ in range(4)]
    barrier = threading.Barrier(4)
    failed: list[object] = []

    def select(order: int) -> None:
        X = task(handle)
        barrier.wait()
        failed.extend(
            order
            for rows in folds[:: 1 if order % 2 else -1]
            if X[rows].tobytes() != PLAIN[rows].tobytes()
        )

    threads = [threading.Thread(target=select, args=(order,)) for order in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert allocated_bytes(handle) < 4 * PLAIN[folds[0]].nbytes + 20 * PAGE_BYTES


class TestBudget:
    def count(self, store: Store, *arrays: npt.NDArray[Any]) -> list[int]:
        found = []
        for array in arrays:
            shared = shared_with(store, array)
            _segments.append(shared[1])
            assert shared[0].settings.shifted is not None
            found.append(shared[0].settings.shifted.n_splits)
        return found

    def test_all_arrays_of_a_task_count(self) -> None:
        store = make_searching_store(4, 4)
        assert self.count(store, PLAIN, PLAIN[:1000].copy()) == [4, 4]
        # Another task has none of them: the first ones stay to the end.
        store.next_task(4)
        assert self.count(store, PLAIN + 1.0) == [0]
        assert self.count(store, PLAIN) == [4]

    def test_with_more_splits_than_workers_small_arrays_do_not_either(self) -> None:
        store = make_searching_store(4, 5)
        assert self.count(store, PLAIN, PLAIN[:1000].copy()) == [0, 0]

    def test_there_may_be_room_for_more(self) -> None:
        store = make_searching_store(8, 4)
        assert self.count(store, PLAIN) == [4]
        store.next_task(4)
        assert self.count(store, PLAIN + 1.0, PLAIN + 2.0) == [4, 4]
        store.next_task(4)
        assert self.count(store, PLAIN + 3.0) == [4]
        store.next_task(4)
        assert self.count(store, PLAIN + 4.0) == [0]

    def test_another_task_may_be_told_nothing(self) -> None:
        store = make_searching_store(4, 4)
        assert self.count(store, PLAIN) == [4]
        store.next_task()
        assert self.count(store, PLAIN) == [0]

    def test_memory_may_be_short(self, monkeypatch: pytest.MonkeyPatch) -> None:
        room_bytes = 8 * PLAIN.nbytes - 1
        monkeypatch.setattr(_fold_budget, "spare_memory_bytes", lambda: room_bytes)
        assert self.count(make_searching_store(4, 4), PLAIN) == [0]
        assert self.count(make_searching_store(4, 3), PLAIN) == [3]


_segments: list[Segment] = []


@pytest.fixture(autouse=True)
def segments() -> Iterator[None]:
    yield
    _segments.clear()
