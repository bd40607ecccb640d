"""What does not agree with the pages of a segment is copied once, for all."""

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
    _page_filler,
    _shifted_pages,
    can_remap,
    describe,
    find_mapping,
    new_segment,
    rebuild_array,
)
from skl_mmap.memory import _plan as plan_module
from skl_mmap.monitor import SegmentRecord, listen, unlisten
from tests.memory.sharing import (
    PAGE_BYTES,
    assert_same,
    make_store,
    send,
    shared_with,
    take_counted,
)
from tests.strategies import dense_arrays, examples

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

# Rows of 24 bytes, so that hardly two runs agree modulo the page size.
PLAIN = np.random.default_rng(0).random((20_000, 3))
# The rows in front of the hole are the fewer ones, and so the shifted ones.
FOLD = np.r_[0:5000, 5999:20_000]
SHIFTED_BYTES = 5000 * 24


# Files go with their stores.
_stores: list[Store] = []


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let there be shifted pages of short runs, so that arrays may be small."""
    monkeypatch.setattr(plan_module, "MIN_SHIFTED_BYTES", PAGE_BYTES)
    yield
    _stores.clear()


def make_sharing_store(n_workers: int = 4, mmap_mode: str = "c") -> Store:
    store = make_store(mmap_mode)
    store.next_call(n_workers)
    _stores.append(store)
    return store


def file_of(handle: ArrayHandle) -> int:
    """Return the descriptor, which is the parent's, of the file of a handle."""
    shifted = handle.settings.shifted
    assert shifted is not None
    return shifted.file.fd


def allocated_bytes(handle: ArrayHandle) -> int:
    return os.fstat(file_of(handle)).st_blocks * 512


def private_bytes(array: npt.NDArray[Any]) -> int:
    found = find_mapping(array)
    assert found is not None
    return found[0].n_bytes - found[0].mapped_bytes


runs = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=5)


@given(
    array=dense_arrays(max_pages=40, min_rows=1),
    cuts=st.lists(runs, min_size=1, max_size=3),
    mmap_mode=st.sampled_from("cr"),
)
@examples(60)
def test_folds_of_several_tasks_are_numpys(
    array: npt.NDArray[Any], cuts: list[Any], mmap_mode: str
) -> None:
    handle, _segment = shared_with(make_sharing_store(mmap_mode=mmap_mode), array)
    for fold in cuts:
        edges = [sorted(int(part * len(array)) for part in run) for run in fold]
        rows = np.concatenate([np.arange(*run) for run in edges])
        if not len(rows):
            continue
        expected = array[rows]
        expected.flags.writeable = mmap_mode == "c"
        for _ in range(2):
            selected = rebuild_array(send(handle))[rows]
            assert_same(selected, expected)
            # What one task writes, the next one does not see.
            if mmap_mode == "c":
                selected[...] = np.zeros((), array.dtype)


@given(
    array=dense_arrays(max_pages=40, min_rows=1).filter(
        lambda array: array.flags.c_contiguous
    ),
    cuts=runs,
    mmap_mode=st.sampled_from("cr"),
)
@examples(40)
def test_slices_that_several_tasks_put_together_are_numpys(
    array: npt.NDArray[Any], cuts: Any, mmap_mode: str
) -> None:
    handle, _segment = shared_with(make_sharing_store(mmap_mode=mmap_mode), array)
    edges = [sorted(int(part * len(array)) for part in run) for run in cuts]
    expected = np.concatenate([array[start:stop] for start, stop in edges])
    for _ in range(2):
        X = rebuild_array(send(handle))
        joined = np.concatenate([X[start:stop] for start, stop in edges])
        assert_same(joined, expected)
        joined[...] = np.zeros((), array.dtype)


@pytest.mark.parametrize(
    "join",
    [
        lambda X: np.concatenate([X[:5000], X[5999:]]),
        lambda X: np.vstack([X[:5000], X[5999:]]),
        lambda X: np.delete(X, slice(5000, 5999), axis=0),
    ],
    ids=["concatenate", "vstack", "delete"],
)
def test_the_second_task_copies_nothing_of_what_it_puts_together(join: Any) -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    take_counted()
    joined = [join(rebuild_array(send(handle))) for _ in range(2)]
    _, reasons = take_counted()
    assert allocated_bytes(handle) <= SHIFTED_BYTES + 4 * PAGE_BYTES
    assert reasons["SHIFTED"] > 2 * SHIFTED_BYTES - 4 * PAGE_BYTES
    assert max(map(private_bytes, joined)) <= 4 * PAGE_BYTES
    for found in joined:
        assert_same(found, PLAIN[FOLD])


def test_the_second_task_copies_nothing() -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    tasks = [rebuild_array(send(handle)) for _ in range(3)]
    take_counted()
    selected = [X[FOLD] for X in tasks]
    mapped_bytes, reasons = take_counted()
    for fold in selected:
        assert_same(fold, PLAIN[FOLD])
        assert private_bytes(fold) <= 2 * PAGE_BYTES
    # All pages but those at the seams, and a page of marks.
    assert 0 < SHIFTED_BYTES - allocated_bytes(handle) + PAGE_BYTES < 3 * PAGE_BYTES
    assert abs(reasons["SHIFTED"] - 3 * SHIFTED_BYTES) < 9 * PAGE_BYTES
    assert mapped_bytes + sum(reasons.values()) == 3 * PLAIN[FOLD].nbytes


def test_folds_of_one_size_share_their_pages() -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    X = rebuild_array(send(handle))
    folds = [np.r_[0:start, start + 999 : 20_000] for start in (3000, 5000, 7000)]
    selected = [X[rows] for rows in folds]
    for fold, rows in zip(selected, folds, strict=True):
        assert_same(fold, PLAIN[rows])
    assert allocated_bytes(handle) <= 7000 * 24 + PAGE_BYTES


def test_folds_of_a_fold_are_mapped_too() -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    fold = rebuild_array(send(handle))[FOLD]
    # Within what is shifted already, and across the seam.
    for rows in (np.r_[100:4000], np.r_[0:2000, 2999:9000, 9999:15_000]):
        assert_same(fold[rows], PLAIN[FOLD][rows])
        assert private_bytes(fold[rows]) <= 6 * PAGE_BYTES


def test_rows_that_were_written_to_are_not_taken_from_the_file() -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    fold, other = (rebuild_array(send(handle))[FOLD] for _ in range(2))
    assert describe(fold) is not None
    fold[2000] = -1.0
    expected = PLAIN[FOLD]
    expected[2000] = -1.0
    assert describe(fold) is None
    rows = np.r_[1000:4000, 4500:9001]
    assert_same(fold[rows], expected[rows])
    assert_same(other, PLAIN[FOLD])


def test_a_result_needs_no_shifted_pages() -> None:
    store = make_sharing_store()
    handle, _segment = shared_with(store, PLAIN)
    described = describe(rebuild_array(send(handle))[FOLD])
    assert described is not None
    assert described[0].settings.shifted is None
    store.end_call()
    assert_same(rebuild_array(send(described[0])), PLAIN[FOLD])


def test_nothing_is_left_of_a_call() -> None:
    store = make_sharing_store()
    handle, _segment = shared_with(store, PLAIN)
    X = rebuild_array(send(handle))
    kept = X[FOLD]
    fd, before = file_of(handle), os.fstat(file_of(handle)).st_ino
    store.end_call()
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)
    # A task that is still running has what it has mapped, and copies what it selects.
    take_counted()
    assert_same(kept, PLAIN[FOLD])
    assert_same(X[FOLD], PLAIN[FOLD])
    assert "SHIFTED" not in take_counted()[1]
    store.next_call(4)
    again, _segment = shared_with(store, PLAIN)
    assert os.fstat(file_of(again)).st_ino != before


def test_whoever_measures_is_told_what_the_file_takes() -> None:
    told: list[SegmentRecord] = []
    listener = listen(told.append, SegmentRecord)
    try:
        store = make_sharing_store()
        handle, _segment = shared_with(store, PLAIN)
        rebuild_array(send(handle))[FOLD]
        n_bytes = allocated_bytes(handle)
        store.end_call()
    finally:
        unlisten(listener)
    (record,) = (record for record in told if record.is_of_folds)
    assert record.n_bytes == n_bytes
    assert record.place == "memory"


def test_one_worker_has_no_use_for_it() -> None:
    handle, _segment = shared_with(make_sharing_store(n_workers=1), PLAIN)
    assert handle.settings.shifted is None


def test_segments_that_may_still_change_have_no_shifted_pages() -> None:
    def is_constant(segment: Segment) -> bool:
        return _shifted_pages.is_constant(segment)

    segment = new_segment(1 << 20, make_store().placement, "an array")
    assert not is_constant(segment)
    segment.seal()
    assert is_constant(segment)


def test_a_file_of_the_user_has_no_shifted_pages(tmp_path: Any) -> None:
    np.save(tmp_path / "x.npy", PLAIN)
    handle, _segment = shared_with(
        make_sharing_store(), np.load(tmp_path / "x.npy", mmap_mode="r")
    )
    assert handle.settings.shifted is None


@pytest.mark.parametrize("spare_bytes", [0, 100_000])
def test_without_room_rows_are_copied_as_before(
    spare_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    monkeypatch.setattr(_page_filler, "spare_memory_bytes", lambda: spare_bytes)
    take_counted()
    assert_same(rebuild_array(send(handle))[FOLD], PLAIN[FOLD])
    assert set(take_counted()[1]) == {"SEAMS"}


def test_the_file_grows_no_further_than_its_budget() -> None:
    store = make_sharing_store(n_workers=2)
    handle, _segment = shared_with(store, PLAIN)
    X = rebuild_array(send(handle))
    for hole in range(1, 60):
        rows = np.r_[0:9000, 9000 + hole : 20_000]
        assert_same(X[rows], PLAIN[rows])
    assert PLAIN.nbytes / 2 < allocated_bytes(handle) < 1.1 * PLAIN.nbytes


@pytest.mark.parametrize("error", [OSError(28, "No space"), OSError(37, "No locks")])
def test_a_file_that_cannot_be_filled_is_done_without(
    error: OSError, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(*error.args)  # one whose traceback nobody keeps

    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    name = "write_buffer" if error.errno == 28 else "fcntl"
    monkeypatch.setattr(_page_filler, name, fail)
    take_counted()
    assert_same(rebuild_array(send(handle))[FOLD], PLAIN[FOLD])
    assert set(take_counted()[1]) == {"SEAMS"}


def test_no_file_can_be_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(_shifted_pages, "create_in_memory", fail)
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    assert handle.settings.shifted is None


def test_nobody_waits_for_long_and_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_page_filler, "_PATIENCE_SECONDS", 0.05)
    handle, segment = shared_with(make_sharing_store(), PLAIN)
    shifted = handle.settings.shifted
    assert shifted is not None
    stopped = _shifted_pages._Filler.open(segment, shifted)
    assert stopped is not None
    stopped._lock(_page_filler.F_WRLCK, 0, shifted.marks_place)
    pauses: list[float] = []
    sleep = _page_filler.time.sleep
    monkeypatch.setattr(
        _page_filler.time, "sleep", lambda s: (pauses.append(s), sleep(s))
    )
    take_counted()
    X = rebuild_array(send(handle))
    assert_same(X[FOLD], PLAIN[FOLD])
    assert pauses
    pauses.clear()
    assert_same(X[FOLD], PLAIN[FOLD])
    assert not pauses
    assert set(take_counted()[1]) == {"SEAMS"}
    stopped.close()
    assert_same(X[FOLD], PLAIN[FOLD])
    assert set(take_counted()[1]) == {"SEAMS", "SHIFTED"}


def test_what_a_killed_worker_has_begun_is_copied_again() -> None:
    """It has the lock, has written nonsense, and dies before it marks anything."""
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    shifted = handle.settings.shifted
    assert shifted is not None
    n_bytes = PAGE_BYTES * PAGE_BYTES * shifted.n_pages
    # Those that the fold needs begin so far behind the beginning of one of the segment.
    shift = 999 * 24 % PAGE_BYTES
    first = shifted.number_of(PAGE_BYTES - shift) * PAGE_BYTES
    script = f"""
import fcntl, os, struct, sys, time
fd = os.open("/proc/{os.getpid()}/fd/{shifted.file.fd}", os.O_RDWR)
lock = struct.pack("hhqqi4x", fcntl.F_WRLCK, os.SEEK_SET, 0, {n_bytes}, 0)
fcntl.fcntl(fd, fcntl.F_OFD_SETLK, lock)
os.pwrite(fd, b"x" * {20 * PAGE_BYTES}, {first})
print("ready", flush=True)
time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        X = rebuild_array(send(handle))
        selected: list[npt.NDArray[Any]] = []
        thread = threading.Thread(target=lambda: selected.append(X[FOLD]))
        thread.start()
        os.kill(process.pid, signal.SIGKILL)
        thread.join()
    take_counted()
    assert_same(selected[0], PLAIN[FOLD])
    assert private_bytes(selected[0]) <= 2 * PAGE_BYTES


def test_threads_that_fill_at_the_same_time_get_the_same() -> None:
    handle, _segment = shared_with(make_sharing_store(), PLAIN)
    starts = np.arange(1000, 9000, 500)
    folds = [np.r_[0:start, start + 999 : 20_000] for start in starts]
    barrier = threading.Barrier(4)
    failed: list[object] = []

    def select(order: int) -> None:
        X = rebuild_array(send(handle))
        barrier.wait()
        failed.extend(
            (order, len(rows))
            for rows in folds[:: 1 if order % 2 else -1]
            if X[rows].tobytes() != PLAIN[rows].tobytes()
        )

    threads = [threading.Thread(target=select, args=(order,)) for order in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert allocated_bytes(handle) <= 9000 * 24 + 2 * PAGE_BYTES
