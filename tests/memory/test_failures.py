"""Where the system refuses something, results are right, and nothing is left."""

from __future__ import annotations

import errno
import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skl_mmap._linux import calls
from skl_mmap.memory import _mapping, describe, live_mappings, rebuild_array
from tests.memory.sharing import (
    assert_same,
    make_store,
    mapped_bytes,
    run_python,
    send,
    share_one,
    shared_with,
)

# Five runs, each of which is mapped by one call.
PLAIN = np.arange(64 * 512.0)
ROWS = np.concatenate([np.arange(k * 6144, k * 6144 + 4608) for k in range(5)])


def count_mapped_lines() -> int:
    gc.collect()
    return sum(
        "/memfd:" in line for line in Path("/proc/self/maps").read_text().splitlines()
    )


def fail_at(
    monkeypatch: pytest.MonkeyPatch, name: str, number: int, *, always: bool = False
) -> Callable[[], int]:
    """Let a system call fail at its n-th call, and maybe ever after."""
    real = getattr(calls, name)
    n_calls = 0

    def call(*args: Any, **options: Any) -> Any:
        nonlocal n_calls
        n_calls += 1
        if n_calls == number or (always and n_calls > number):
            raise OSError(errno.ENOMEM, "no room")
        return real(*args, **options)

    monkeypatch.setattr(calls, name, call)
    return lambda: n_calls


@pytest.mark.parametrize("always", [False, True])
@pytest.mark.parametrize("number", range(1, 7))
@pytest.mark.parametrize("name", ["map_file", "protect"])
@pytest.mark.parametrize("mmap_mode", ["c", "r"])
def test_rows_are_copied_where_they_cannot_be_mapped(
    mmap_mode: str,
    name: str,
    number: int,
    always: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = np.delete(ROWS, [5000, 5001])  # a seam that has to be copied
    shared = share_one(PLAIN, mmap_mode)
    lines = count_mapped_lines()
    fail_at(monkeypatch, name, number, always=always)
    result = shared[rows]
    monkeypatch.undo()
    np.testing.assert_array_equal(result, PLAIN[rows])
    np.testing.assert_array_equal(shared, PLAIN)
    del result
    assert count_mapped_lines() == lines
    assert len(live_mappings()) == 1


@pytest.mark.parametrize("number", [1, 2, 3])
def test_rows_are_copied_where_no_addresses_are_left(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = share_one(PLAIN)
    fail_at(monkeypatch, "reserve", number, always=True)
    for _ in range(number):
        assert_same(shared[ROWS], PLAIN[ROWS])


@pytest.mark.parametrize("name", ["map_file", "reserve"])
def test_arrays_are_read_where_they_cannot_be_mapped(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handle, _segment = shared_with(make_store(), PLAIN)
    fail_at(monkeypatch, name, 1, always=True)
    result = rebuild_array(send(handle))
    assert type(result) is np.ndarray
    assert_same(result, PLAIN)
    assert live_mappings() == []


def test_joined_views_are_read_where_they_cannot_be_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    joined = share_one(PLAIN)[ROWS]
    found = describe(joined[100:-100])
    assert found is not None
    fail_at(monkeypatch, "map_file", 1, always=True)
    assert_same(rebuild_array(send(found[0])), PLAIN[ROWS][100:-100])


@pytest.mark.parametrize("name", ["map_file", "reserve"])
def test_an_array_is_shared_where_it_cannot_be_compared(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = make_store()
    array = PLAIN.copy()
    shared_with(store, array)
    store.next_call()
    fail_at(monkeypatch, name, 1, always=True)
    handle, _segment = shared_with(store, array)
    monkeypatch.undo()
    assert_same(rebuild_array(handle), PLAIN)


@pytest.mark.parametrize("name", ["map_file", "reserve"])
def test_large_arrays_are_shared_without_huge_pages(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    array = np.arange(1 << 19, dtype=np.float64)
    fail_at(monkeypatch, name, 1, always=True)
    handle, _segment = shared_with(make_store(), array)
    monkeypatch.undo()
    assert_same(rebuild_array(handle), array)


def test_kernels_without_collapse_fill_segments_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(calls, "advise", lambda *args: False)
    array = np.arange(1 << 19, dtype=np.float64)
    assert_same(share_one(array), array)


def test_where_writable_pages_are_refused_views_are_read_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    map_file = calls.map_file

    def refuse_writable(*args: Any, writable: bool, **options: Any) -> None:
        if writable:
            raise OSError(errno.ENOMEM, "strict overcommit")
        map_file(*args, writable=writable, **options)

    monkeypatch.setattr(calls, "map_file", refuse_writable)
    shared = share_one(PLAIN)
    joined = shared[ROWS]
    for array, expected in ((shared, PLAIN), (joined, PLAIN[ROWS])):
        assert mapped_bytes(array) > 0
        assert not array.flags.writeable
        np.testing.assert_array_equal(array, expected)
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1.0


def test_rows_are_selected_without_file_descriptors() -> None:
    run_python(
        """
        import os, resource
        import numpy as np
        from tests.memory.sharing import share_one
        plain = np.arange(64 * 512.0)
        rows = np.r_[0:10_000, 12_000:30_000]
        shared = share_one(plain)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        result = shared[rows]
        assert (result == plain[rows]).all()
        """
    )


def test_rows_are_selected_within_the_limit_of_mappings() -> None:
    printed = run_python(
        """
        import mmap, sys
        from pathlib import Path
        import numpy as np
        from tests.memory.sharing import mapped_bytes, share_one
        limit = int(Path("/proc/sys/vm/max_map_count").read_text())
        if limit > 200_000:
            sys.exit(print("unlimited"))
        plain = np.arange(1024 * 512).reshape(-1, 512)
        shared = share_one(plain)
        # Each page apart, so that each needs a mapping of its own.
        rows = np.arange(1024).reshape(-1, 2)[:, ::-1].ravel()
        expected = plain[rows]
        assert mapped_bytes(shared[rows]) == plain.nbytes
        # Neighbours of the same kind would become one mapping.
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        kinds = [mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE]
        kept = []
        try:
            while True:
                kept.append(mmap.mmap(-1, 4096, flags, kinds[len(kept) % 2]))
        except OSError:
            pass
        for n_free in (600, 50, 2):
            del kept[-n_free:]
            result = shared[rows]
            assert mapped_bytes(result) == 0
            assert (result == expected).all()
            del result
        print(len(kept) > limit // 2)
        """
    )
    assert printed in ("True", "unlimited")


def test_part_of_the_mappings_is_left_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shared = share_one(PLAIN)
    monkeypatch.setattr(_mapping, "_max_ranges", lambda: 40)
    kept = [shared[ROWS] for _ in range(10)]
    n_mapped = sum(mapped_bytes(joined) > 0 for joined in kept)
    assert 1 <= n_mapped <= 4
    for joined in kept:
        assert_same(joined, PLAIN[ROWS])
    # What goes away makes room.
    kept.clear()
    del joined
    assert mapped_bytes(shared[ROWS]) > 0


def test_joined_views_allocate_no_private_memory() -> None:
    printed = run_python(
        """
        import resource
        from pathlib import Path
        import numpy as np
        from tests.memory.sharing import mapped_bytes, share_one
        shared = share_one(np.ones((1 << 16, 128)), "r")  # 64 MiB
        rows = np.r_[0 : 1 << 14, 1 << 15 : 1 << 16]
        def private_bytes():
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith("VmData:"):
                    return int(line.split()[1]) << 10
        limit = private_bytes() + (16 << 20)
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        try:
            np.asarray(shared)[rows]
        except MemoryError:
            print("a copy does not fit")
        joined = shared[rows]
        assert mapped_bytes(joined) == joined.nbytes == 48 << 20
        assert joined.sum() == joined.size
        nested = joined[np.r_[0:1000, 20_000:40_000]]
        assert nested.sum() == nested.size
        """
    )
    assert printed == "a copy does not fit"


@pytest.mark.parametrize("number", [2, 3, 4])
def test_what_is_refused_halfway_may_be_written_to_as_a_copy(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = share_one(PLAIN)
    fail_at(monkeypatch, "map_file", number)
    result = shared[ROWS]
    monkeypatch.undo()
    assert_same(result, PLAIN[ROWS])
    assert mapped_bytes(result) == 0
    # The first mapping that is refused shows what the kernel has no room for.
    fail_at(monkeypatch, "map_file", 1)
    read_only = shared[ROWS]
    monkeypatch.undo()
    assert not read_only.flags.writeable
    assert mapped_bytes(read_only) > 0
    np.testing.assert_array_equal(read_only, PLAIN[ROWS])
