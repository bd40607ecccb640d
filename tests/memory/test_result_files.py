"""Files for results: workers write, the parent maps, and nothing is left behind."""

from __future__ import annotations

import errno
import gc
import os
from collections.abc import Iterator

import numpy as np
import pytest

from skl_mmap._linux import calls, proc
from skl_mmap.memory import (
    FilePool,
    Hindrance,
    ResultWriter,
    Settings,
    _result_files,
    describe,
    find_mapping,
    read_file,
    rebuild_array,
)
from skl_mmap.monitor import listen, unlisten
from tests.memory.sharing import send

LARGE = b"\1" * (5 << 20)


@pytest.fixture(name="notes")
def collect_notes() -> Iterator[list[str]]:
    notes: list[str] = []
    listener = listen(notes.append, str)
    yield notes
    unlisten(listener)


def make_pool(min_bytes: int = 1) -> FilePool:
    pool = FilePool.for_call(min_bytes)
    assert pool is not None
    return pool


def count_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_what_is_read_is_what_was_written() -> None:
    files = make_pool().take()
    writer = ResultWriter(files.ticket)
    contents = [os.urandom(size) for size in (1, 4096, 100_000)]
    handles = [send(writer.write(memoryview(content))) for content in contents]
    assert writer.n_used == len(contents)
    assert [read_file(handle).tobytes() for handle in handles] == contents


def test_what_was_read_may_be_written_to() -> None:
    files = make_pool().take()
    handle = ResultWriter(files.ticket).write(memoryview(LARGE))
    assert handle is not None
    data = read_file(handle)
    data[:] = 7
    assert (data == 7).all()


@pytest.mark.parametrize("content", [b"abc", LARGE])
def test_writing_leaves_no_file_open(content: bytes) -> None:
    files = make_pool().take()
    before = count_descriptors()
    assert ResultWriter(files.ticket).write(memoryview(content)) is not None
    assert count_descriptors() == before


def test_small_results_keep_no_descriptor() -> None:
    pool = make_pool()
    files = pool.take()
    before = count_descriptors()
    handle = ResultWriter(files.ticket).write(memoryview(b"abc"))
    assert handle is not None
    data = read_file(handle)
    assert count_descriptors() == before - 1
    assert find_mapping(data) is None, "there is nothing to share it by"
    assert data.tobytes() == b"abc"


def test_large_results_can_be_shared_again() -> None:
    files = make_pool().take()
    handle = ResultWriter(files.ticket).write(memoryview(LARGE))
    assert handle is not None
    data = read_file(handle)
    described = describe(data, Settings())
    assert described is not None
    again = rebuild_array(send(described[0]))
    data[3] = 2
    assert again.tobytes() == LARGE
    assert describe(data) is None, "it was written to"
    with pytest.raises(PermissionError):
        os.pwrite(described[1].fd, b"x", 0)


def test_not_many_results_keep_their_descriptor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_result_files, "_MOST_KEPT", 2)
    files = make_pool().take()
    writer = ResultWriter(files.ticket)
    handles = [writer.write(memoryview(LARGE)) for _ in range(4)]
    arrays = [read_file(handle) for handle in handles if handle is not None]
    assert [find_mapping(array) is not None for array in arrays] == [
        *(True, True, False, False)
    ]
    files.drop(4)
    del arrays[0]
    handle = writer.write(memoryview(LARGE))
    assert handle is not None
    arrays.append(read_file(handle))
    assert find_mapping(arrays[-1]) is not None, "there is room again"


def test_memory_is_freed_with_each_array() -> None:
    files = make_pool().take()
    writer = ResultWriter(files.ticket)
    handles = [writer.write(memoryview(LARGE)) for _ in range(3)]
    kept = [read_file(handle) for handle in handles if handle is not None]
    files.drop(3)
    before = count_descriptors()
    del kept[1:]
    assert count_descriptors() == before - 2
    assert kept[0].tobytes() == LARGE


def test_files_that_stayed_empty_serve_the_next_batch() -> None:
    pool = make_pool()
    files = pool.take()
    n_files, ticket = count_descriptors(), files.ticket
    pool.give_back(files, 0)
    assert pool.take() is files
    assert files.ticket == ticket
    pool.give_back(files, 2)
    assert count_descriptors() == n_files - 2
    files = pool.take()
    assert count_descriptors() == n_files
    assert files.ticket != ticket


def test_files_that_were_used_are_not_handed_out_again() -> None:
    pool = make_pool()
    files = pool.take()
    first = ResultWriter(files.ticket).write(memoryview(LARGE))
    pool.give_back(files, 1)
    second = ResultWriter(pool.take().ticket).write(memoryview(b"2" * len(LARGE)))
    assert first is not None
    assert second is not None
    assert first.inode != second.inode
    assert read_file(second).tobytes() == b"2" * len(LARGE)


def test_pool_closes_what_nobody_has() -> None:
    before = count_descriptors()
    pool = make_pool()
    given, other = pool.take(), pool.take()
    pool.give_back(other, 0)
    del other
    pool.close()
    pool.give_back(given, 0)
    del given
    gc.collect()
    assert count_descriptors() == before


def test_descriptors_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "max_open_files", lambda: 400)
    before = count_descriptors()
    pool = make_pool()
    batches = [pool.take() for _ in range(200)]
    assert count_descriptors() - before == 100
    writers = [ResultWriter(files.ticket) for files in batches]
    written = [writer.write(memoryview(b"abc")) is not None for writer in writers]
    assert 20 < sum(written) < 100
    assert written[0]
    assert not written[-1]
    assert writers[-1].is_for(3) is False


def test_no_descriptor_left_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    pool = make_pool()
    monkeypatch.setattr(os, "memfd_create", fail)
    files = pool.take()
    assert ResultWriter(files.ticket).write(memoryview(b"abc")) is None


def test_what_has_no_file_left_is_pickled(notes: list[str]) -> None:
    files = make_pool().take()
    writer = ResultWriter(files.ticket)
    written = [writer.write(memoryview(b"abc")) for _ in range(20)]
    assert sum(handle is not None for handle in written) == 15, "one is for the pickle"
    assert writer.hindrance is Hindrance.NO_FILES
    writer.hindrance.tell()
    assert "may not open many" in notes[0]
    last = writer.open(1)
    assert last is not None
    last.close()


@pytest.mark.parametrize("min_bytes", [3, 4])
def test_small_data_is_pickled(min_bytes: int) -> None:
    writer = ResultWriter(make_pool(min_bytes).take().ticket)
    assert writer.is_for(3) is (min_bytes == 3)
    assert not ResultWriter(None).is_for(1 << 30)


def test_more_than_there_is_memory_is_pickled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 1000)
    files = make_pool().take()
    writer = ResultWriter(files.ticket)
    assert writer.write(memoryview(bytes(600))) is not None
    assert writer.write(memoryview(bytes(600))) is None
    assert writer.hindrance is Hindrance.NO_MEMORY


def test_full_memory_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    files = make_pool().take()

    def fail(fd: int, data: memoryview, offset: int) -> int:
        if offset:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(fd, data[:10], offset)

    real = os.pwrite
    monkeypatch.setattr(os, "pwrite", fail)
    writer = ResultWriter(files.ticket)
    assert writer.write(memoryview(bytes(600))) is None
    assert writer.hindrance is Hindrance.NO_MEMORY
    file = os.stat(f"/proc/self/fd/{files._segments[0].fd}")
    assert file.st_size == 0, "what was written is freed"


def test_files_of_a_parent_that_is_gone_are_not_written_to() -> None:
    files = make_pool().take()
    writer = ResultWriter(files.ticket)
    files.drop(1)
    gc.collect()
    assert writer.write(memoryview(b"abc")) is None


@pytest.mark.parametrize("reason", ["no mapping", "read-only", "too many"])
def test_what_cannot_be_mapped_is_copied(
    reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = count_descriptors()
    files = make_pool().take()
    handle = ResultWriter(files.ticket).write(memoryview(LARGE))
    assert handle is not None
    real = calls.map_file

    def fail(*args: object, writable: bool, shared: bool = False) -> None:
        if writable or reason == "no mapping":
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        real(*args, writable=writable, shared=shared)  # type: ignore[arg-type]

    if reason == "too many":
        monkeypatch.setattr(_result_files, "_most_mappings", lambda: 0)
    else:
        monkeypatch.setattr(calls, "map_file", fail)
    data = read_file(handle)
    assert data.tobytes() == LARGE
    data[0] = 9
    assert find_mapping(data) is None
    assert data.base is None
    del files
    gc.collect()
    assert count_descriptors() == before


def test_strict_overcommit_leaves_results_to_pickle(
    monkeypatch: pytest.MonkeyPatch, notes: list[str]
) -> None:
    monkeypatch.setattr(proc, "is_overcommit_strict", lambda: True)
    assert FilePool.for_call(1) is None
    assert "overcommit" in notes[0]


def test_systems_that_cannot_map_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
    assert FilePool.for_call(1) is None
    monkeypatch.undo()
    assert FilePool.for_call(None) is None


def test_descriptors_are_a_quarter_of_the_limit() -> None:
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    expected = (1 << 20) if soft == resource.RLIM_INFINITY else soft
    assert proc.max_open_files() == expected


def test_data_lies_at_the_beginning_of_a_page() -> None:
    files = make_pool().take()
    handle = ResultWriter(files.ticket).write(memoryview(b"abc"))
    assert handle is not None
    data = read_file(handle)
    assert data.ctypes.data % proc.PAGE_BYTES == 0
    assert data.dtype == np.uint8
