"""Without remapping, segments are named files, folds are copies, values are equal."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from skl_mmap.memory import (
    IndexHandle,
    can_remap,
    counters,
    live_mappings,
    rebuild_array,
    rebuild_index,
)
from tests import strategies
from tests.memory.sharing import (
    as_stored,
    assert_same,
    assert_same_values,
    make_store,
    run_python,
    send,
    share_one,
    shared_with,
    take_counted,
)


@pytest.fixture(autouse=True)
def portable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")


def temporary_files() -> list[Path]:
    gc.collect()
    return list(Path(tempfile.gettempdir()).glob("skl_mmap-*"))


@pytest.mark.parametrize(("value", "expected"), [("0", True), ("", True), ("1", False)])
def test_the_variable_decides(
    value: str, expected: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", value)
    assert can_remap() == expected


@strategies.examples(50)
@given(array=strategies.arrays(max_pages=4))
def test_values_are_equal(
    array: np.ndarray[tuple[int, ...], np.dtype[np.void]],
) -> None:
    assert_same(share_one(array), as_stored(array))


def test_folds_are_copies() -> None:
    plain = np.arange(32 * 512.0)
    shared = share_one(plain)
    counters.take()
    rows = np.r_[0:5000, 6001:16000]
    assert_same(shared[rows], plain[rows])
    assert_same(np.take(shared, rows, axis=0), plain[rows])
    assert not np.may_share_memory(shared[rows], shared)
    assert take_counted()[0] == 0
    assert live_mappings() == []


def test_writes_are_private() -> None:
    handle, _segment = shared_with(make_store(), np.zeros(5000))
    first, second = (rebuild_array(send(handle)) for _ in range(2))
    first[0] = 1.0
    assert second[0] == 0.0
    assert rebuild_array(handle)[0] == 0.0


def test_read_only_mode_is_kept() -> None:
    assert not share_one(np.zeros(5000), "r").flags.writeable


@pytest.mark.parametrize("store", ["memory", "disk", "auto"])
def test_files_go_with_their_segments(store: str) -> None:
    shared = make_store(store=store)
    array = np.zeros(5000)
    handle, segment = shared_with(shared, array)
    assert [str(path) for path in temporary_files()] == [handle.segment.path]
    assert os.stat(handle.segment.path).st_mode & 0o777 == 0o600
    del segment, array
    assert temporary_files() == []


def test_changes_between_two_calls_are_seen() -> None:
    store = make_store()
    array = np.zeros(5000)
    for value in range(3):
        array[-1] = value
        store.next_call()
        handle, _segment = shared_with(store, array)
        assert rebuild_array(handle)[-1] == value


def test_calls_on_one_array_do_not_pile_up_files() -> None:
    store = make_store()
    array = np.zeros(5000)
    for _ in range(5):
        store.next_call()
        shared_with(store, array)
    assert len(temporary_files()) <= 2


def test_index_arrays_come_back() -> None:
    identity, _segment = make_store().identity(5000) or (None, None)
    index = rebuild_index(send(IndexHandle(((0, 1000), (2000, 5000)), identity)))
    assert_same_values(index, np.r_[0:1000, 2000:5000])
    assert type(index) is np.ndarray


def test_files_are_deleted_when_the_interpreter_ends(tmp_path: Path) -> None:
    printed = run_python(
        f"""
        import os
        import numpy as np
        from tests.memory.sharing import make_store
        store = make_store(store={str(tmp_path)!r})
        array = np.zeros(5000)
        shared = store.share(array)
        print(len(os.listdir({str(tmp_path)!r})))
        """
    )
    assert printed == "1"
    assert list(tmp_path.iterdir()) == []
