"""Whoever measures learns what was shared, and where it lies."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import skl_mmap
from skl_mmap.memory import Placement, Settings, Store, can_remap
from skl_mmap.monitor import SegmentRecord, listen, unlisten

MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not can_remap(), reason="where segments are named files, all of them are on disk"
)


@pytest.fixture
def segments() -> Iterator[list[SegmentRecord]]:
    found: list[SegmentRecord] = []
    listener = listen(found.append, SegmentRecord)
    yield found
    unlisten(listener)


def make_store(place: str = "memory", *, can_adopt: bool = False) -> Store:
    placement = Placement.from_parameter(place)
    return Store(placement, Settings("c"), can_adopt=can_adopt)


@pytest.mark.parametrize(
    ("place", "expected"), [("memory", "memory"), ("disk", "disk")]
)
def test_a_new_segment(
    segments: list[SegmentRecord], place: str, expected: str, tmp_path: Path
) -> None:
    X = np.ones((MIB, 2), dtype=np.float32)
    store = make_store(str(tmp_path) if place == "disk" else place)
    shared = store.share(X)
    assert shared is not None
    [record] = segments
    assert record.description == f"float32 ({MIB}, 2)"
    assert record.n_bytes == X.nbytes
    assert (record.place, record.is_copy, record.path) == (expected, True, "")
    assert record.inode == shared[1].identity
    store.close()


def test_what_is_there_already_is_no_copy(segments: list[SegmentRecord]) -> None:
    X = np.ones((MIB, 1))
    store = make_store()
    kept = store.share(X)
    store.next_call()
    store.share(X)
    assert [record.is_copy for record in segments] == [True, False]
    assert segments[0].inode == segments[1].inode
    del kept
    store.close()


def test_shared_arrays(segments: list[SegmentRecord]) -> None:
    with skl_mmap.share(np.ones((MIB, 1))) as X:
        make_store().share(X)
        [record] = segments
        assert (record.place, record.is_copy) == ("memory", False)


def test_files_of_the_user(segments: list[SegmentRecord], tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, np.ones((MIB, 2)))
    X = np.load(path, mmap_mode="r")
    make_store().share(X[: MIB // 2])
    [record] = segments
    assert (record.place, record.is_copy) == ("file", False)
    assert record.path == str(path)
    assert record.n_bytes == X.nbytes // 2


def test_files_of_the_user_in_memory(segments: list[SegmentRecord]) -> None:
    """They have a name, and others may change them: they are no segments of ours."""
    if not os.access("/dev/shm", os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    with tempfile.NamedTemporaryFile(dir="/dev/shm", suffix=".npy") as file:
        np.save(file, np.ones((MIB, 2)))
        file.flush()
        make_store().share(np.load(file.name, mmap_mode="r"))
        [record] = segments
        assert (record.place, record.path) == ("file", file.name)


def test_adopted_arrays(segments: list[SegmentRecord]) -> None:
    X = np.ones((5 * MIB, 8))
    store = make_store(can_adopt=True)
    store.share(X)
    [record] = segments
    assert (record.place, record.is_copy) == ("memory", False)
    assert record.n_bytes >= X.nbytes
    store.close()


def test_row_numbers(segments: list[SegmentRecord]) -> None:
    store = make_store()
    for _ in range(2):
        assert store.identity(1000) is not None
    [record] = segments
    assert (record.description, record.is_copy) == ("int64 (1000,)", True)
    store.close()


def test_nothing_is_told_while_nobody_measures(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(_: object) -> None:
        pytest.fail("somebody looked")

    monkeypatch.setattr("skl_mmap.memory._sharing._find_place", fail)
    store = make_store()
    assert store.share(np.ones(MIB)) is not None
    store.close()


def test_a_measured_job_has_them_once_each() -> None:
    from joblib import Parallel, delayed, parallel_config

    X = np.ones((MIB, 2))
    with (
        skl_mmap.measure() as report,
        parallel_config(backend="mmap", n_jobs=2),
    ):
        for _ in range(2):
            Parallel()(delayed(np.sum)(X) for _ in range(4))
    [record] = report.segments
    assert (record.n_bytes, record.place, record.is_copy) == (X.nbytes, "memory", True)
    assert "16.0 MiB: float64 (1048576, 2), in memory" in str(report)
