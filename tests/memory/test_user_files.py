"""Files that the user already has are mapped where they lie."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from skl_mmap.memory import Settings, describe_memmap, rebuild_array, writable_memmap_of
from tests.memory.sharing import (
    assert_same,
    assert_same_values,
    make_store,
    mapped_bytes,
    send,
    shared_with,
)

SETTINGS = Settings("c", 0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "X.npy"
    np.save(path, np.arange(16 * 512 * 8.0).reshape(-1, 8))
    return path


def identity_of(path: Path) -> tuple[int, int]:
    status = os.stat(path)
    return status.st_dev, status.st_ino


def test_a_read_only_file_is_not_copied(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    handle, segment = shared_with(make_store(), X)
    assert segment.identity == identity_of(path)
    assert X.offset % 4096  # the header: the data does not begin on a page
    shared = rebuild_array(send(handle))
    assert mapped_bytes(shared) == X.nbytes
    rows = np.r_[0:2048, 4096:8192]
    joined = shared[rows]
    assert mapped_bytes(joined) == joined.nbytes - 4096  # the seam
    assert_same(joined, np.load(path)[rows])
    joined[:] = 0
    shared[:] = 0
    assert np.load(path).any()


@pytest.mark.parametrize(
    "name", ["rows", "every second row", "reversed", "columns", "transposed", "one row"]
)
def test_views_of_a_file_are_mapped_too(name: str, path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    view = {
        "rows": X[100:],
        "every second row": X[::2],
        "reversed": X[::-1, ::-1],
        "columns": X[:, 1:3],
        "transposed": X.T,
        "one row": X[77],
    }[name]
    for array in (view, np.asarray(view)):
        handle, segment = shared_with(make_store(), array)
        assert segment.identity == identity_of(path)
        result = rebuild_array(send(handle))
        assert result.strides == array.strides
        assert_same_values(result, array)


def test_fortran_order_files(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, np.asfortranarray(np.arange(6000.0).reshape(-1, 6)))
    X = np.load(path, mmap_mode="r")
    handle, segment = shared_with(make_store(), X)
    assert segment.identity == identity_of(path)
    assert_same(rebuild_array(handle), np.load(path))


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_files_that_may_be_written_to_are_not_mapped_in_place(
    mode: str, path: Path
) -> None:
    X = np.load(path, mmap_mode=mode)
    assert describe_memmap(X, SETTINGS) is None
    X[0] = -1.0
    handle, segment = shared_with(make_store(), X)
    assert segment.identity != identity_of(path)
    assert rebuild_array(handle)[0, 0] == -1.0


def test_a_file_that_was_replaced_is_not_mixed_up(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    expected = np.array(X)
    other = path.with_name("other.npy")
    np.save(other, -expected)
    os.replace(other, path)
    handle, segment = shared_with(make_store(), X)
    assert segment.identity != identity_of(path)
    assert_same(rebuild_array(handle), expected)


def test_a_file_that_was_deleted_is_copied(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    expected = np.array(X)
    path.unlink()
    handle, _segment = shared_with(make_store(), X)
    assert_same(rebuild_array(handle), expected)


def test_another_folder_does_not_matter(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    X = np.load(path.name, mmap_mode="r")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert shared_with(make_store(), X)[1].identity == identity_of(path)


def test_the_parts_of_a_file_share_one_segment(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    store = make_store()
    _, first = shared_with(store, X[:1000])
    assert shared_with(store, X[1000:])[1] is first


def test_results_computed_from_a_file_are_no_file(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    assert describe_memmap(X[[1, 2, 3]], SETTINGS) is None
    assert describe_memmap(np.asarray(X + 1), SETTINGS) is None
    assert describe_memmap(np.zeros(3), SETTINGS) is None


def test_overlapping_views_of_a_file_are_copied(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    view = np.lib.stride_tricks.sliding_window_view(X[:, 0], 5)
    assert describe_memmap(view, SETTINGS) is None


def test_writable_files_are_found(path: Path) -> None:
    X = np.load(path, mmap_mode="r+")
    assert writable_memmap_of(np.asarray(X[3:])) is not None
    assert writable_memmap_of(np.load(path, mmap_mode="r")) is None
    assert writable_memmap_of(np.load(path, mmap_mode="c")) is None
    assert writable_memmap_of(np.zeros(3)) is None
    del X


def test_rows_of_an_unaligned_file_are_aligned(tmp_path: Path) -> None:
    path = tmp_path / "data"
    data = np.arange(16 * 512.0)
    path.write_bytes(b"xyz" + data.tobytes())
    X = np.memmap(path, dtype=np.float64, mode="r", offset=3)
    handle, segment = shared_with(make_store(), X)
    assert segment.identity == identity_of(path)
    shared = rebuild_array(handle)
    rows = np.r_[0:2048, 4096:8192]
    assert_same(shared[rows], data[rows])
    assert shared[rows].flags.aligned


def test_what_lies_behind_the_end_of_a_file_is_not_mapped(path: Path) -> None:
    X = np.load(path, mmap_mode="r")
    os.truncate(path, X.offset + X[:1000].nbytes)
    assert describe_memmap(X[:1000], SETTINGS) is not None
    assert describe_memmap(X[:1001], SETTINGS) is None
    assert describe_memmap(X[2000:], SETTINGS) is None
    assert describe_memmap(X[999:1000], SETTINGS) is not None
