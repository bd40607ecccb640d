"""Sharing in place: the array stays what it was, and there is no second copy."""

from __future__ import annotations

import gc
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skl_mmap.memory import (
    Placement,
    Settings,
    Store,
    adopt,
    can_remap,
    describe,
    live_mappings,
    rebuild_array,
)
from skl_mmap.monitor import read_committed
from tests.memory.sharing import own_mapping, run_python

pytestmark = pytest.mark.skipif(not can_remap(), reason="needs pages of a memfd")

MEMORY = Placement.from_parameter("memory")
# Above the largest size (32 MiB) that glibc may take from its heap.
LARGE_BYTES = 40 << 20


def make_large(dtype: Any = "f8", n_columns: int = 50) -> np.ndarray[Any, Any]:
    dtype = np.dtype(dtype)
    n_rows = LARGE_BYTES // (dtype.itemsize * n_columns) + 3
    values = np.arange(n_rows * n_columns, dtype="u4")
    values = values.astype(dtype).reshape(n_rows, n_columns)
    return own_mapping(values.copy)


def adopt_or_fail(array: np.ndarray[Any, Any]) -> Any:
    mapping = adopt(array, MEMORY, Settings())
    assert not isinstance(mapping, str), mapping
    return mapping


@settings(max_examples=12)
@given(
    dtype=st.sampled_from(["f8", "f4", "i1", ">i4", "c16", "V24"]),
    n_columns=st.sampled_from([1, 3, 50, 4096]),
    order=st.sampled_from("CF"),
)
def test_contents_and_properties_stay(dtype: str, n_columns: int, order: str) -> None:
    n_rows = LARGE_BYTES // (np.dtype(dtype).itemsize * n_columns) + 1
    array = own_mapping(lambda: np.zeros((n_rows, n_columns), dtype, order))  # type: ignore[call-overload]
    raw = array.ravel("K").view("u1")
    raw[:] = np.resize(np.arange(251, dtype="u1"), len(raw))
    del raw
    before = array.tobytes("A"), array.ctypes.data, array.flags.writeable, array.strides
    mapping = adopt_or_fail(array)
    assert before == (
        array.tobytes("A"),
        array.ctypes.data,
        array.flags.writeable,
        array.strides,
    )
    described = describe(array)
    assert described is not None
    shared = rebuild_array(described[0])
    assert shared.tobytes("A") == before[0]
    assert shared.strides == array.strides
    del mapping, shared, described


def test_there_is_no_second_copy() -> None:
    array = make_large()
    gc.collect()
    before = read_committed().committed_bytes
    mapping = adopt_or_fail(array)
    grown = read_committed().committed_bytes - before
    assert abs(grown) < 2 << 20
    del mapping


def test_writes_of_the_owner_stay_private() -> None:
    array = make_large()
    mapping = adopt_or_fail(array)
    described = describe(array)
    assert described is not None
    shared = rebuild_array(described[0])
    array[7] = -1.0
    assert shared[7, 0] == 350.0
    # What was written to is not described as what is shared.
    assert describe(array) is None
    shared[9] = -2.0
    assert array[9, 0] == 450.0
    del mapping


def test_an_adopted_array_that_is_refilled_is_shared_anew() -> None:
    array = make_large()
    store = Store(MEMORY, Settings(), can_adopt=True)
    contents, received = [], []
    for change in ("nothing", "one", "all", "all", "two"):
        if change == "all":
            array += 1.0
        elif change != "nothing":
            array[len(array) // 3, 7] -= 1.0  # "two": after it was copied
        shared = store.share(array if change != "two" else array[:])
        assert shared is not None
        contents.append(array.tobytes())
        received.append(rebuild_array(shared[0]))
        assert (describe(array) is not None) == (change == "nothing")
    # What tasks were given stays what it was.
    for content, given_array in zip(contents, received, strict=True):
        assert given_array.tobytes() == content


def test_adopted_arrays_are_known_in_the_next_call_until_they_are_freed() -> None:
    array = make_large()
    n_files = len(os.listdir("/proc/self/fd"))
    store = Store(MEMORY, Settings(), can_adopt=True)
    segments = set()
    for _ in range(3):
        shared = store.share(array)
        assert shared is not None
        segments.add(shared[1].identity)
        store.next_call()
    assert len(segments) == 1
    assert len(os.listdir("/proc/self/fd")) == n_files + 1
    del array, shared
    store.next_call()
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == n_files


@pytest.mark.parametrize("n_more_rows", [-1000, -1, 1, 300, 200_000])
def test_resize_works_and_the_array_is_not_taken_for_shared(n_more_rows: int) -> None:
    array = make_large()
    plain = array.copy()
    mapping = adopt_or_fail(array)
    shape = len(array) + n_more_rows, array.shape[1]
    array.resize(shape)
    plain.resize(shape)
    np.testing.assert_array_equal(array, plain)
    array += 1.0
    np.testing.assert_array_equal(array, plain + 1.0)
    assert describe(array) is None
    del mapping


def test_freed_arrays_are_forgotten() -> None:
    array = make_large()
    mapping = adopt_or_fail(array)
    address = array.ctypes.data
    del array
    assert not mapping.is_at(0, mapping.n_bytes)
    others = [make_large() for _ in range(3)]
    for other in others:
        assert describe(other) is None
    del mapping, others
    assert all(mapping.address != address for mapping in live_mappings())


def test_forked_child_has_its_own() -> None:
    # In a process without threads, which may fork.
    printed = run_python(
        """
        import os
        import numpy as np
        from skl_mmap.memory import Placement, Settings, adopt
        array = np.ones((110_000, 50))
        mapping = adopt(array, Placement.from_parameter("memory"), Settings())
        assert not isinstance(mapping, str), mapping
        pid = os.fork()
        if pid == 0:
            array[:] = 7.0
            os._exit(0 if bool((array == 7.0).all()) else 1)
        print(os.waitpid(pid, 0)[1], bool((array == 1.0).all()))
        """
    )
    assert printed == "0 True"


def test_readers_in_other_threads_see_the_same_all_the_time() -> None:
    array = make_large()
    expected = array.sum()
    wrong: list[float] = []
    stop = threading.Event()

    def read() -> None:
        while not stop.is_set():
            if (total := array.sum()) != expected:
                wrong.append(total)

    thread = threading.Thread(target=read)
    thread.start()
    try:
        mapping = adopt_or_fail(array)
    finally:
        stop.set()
        thread.join()
    assert wrong == []
    del mapping


def test_adopted_on_disk(tmp_path: Path) -> None:
    array = make_large()
    plain = array.copy()
    mapping = adopt(array, Placement.from_parameter(tmp_path), Settings())
    assert not isinstance(mapping, str)
    np.testing.assert_array_equal(array, plain)
    assert describe(array) is not None


def make_refused(kind: str, tmp_path: Path) -> Any:
    large = make_large()
    if kind == "view":
        return large[1:]
    if kind == "all of it as a view":
        return large.view()
    if kind == "small":
        return np.zeros(100)
    if kind == "subclass":
        return large.view(np.recarray)
    if kind == "objects":
        return np.full(LARGE_BYTES // 8, None)
    if kind == "buffer of another":
        return np.frombuffer(bytearray(LARGE_BYTES), dtype="u1")
    if kind == "file":
        np.save(tmp_path / "X.npy", large)
        return np.load(tmp_path / "X.npy", mmap_mode="r")
    if kind == "heap":
        return np.ones(1 << 18)
    raise ValueError(kind)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("view", "view"),
        ("all of it as a view", "view"),
        ("small", "small"),
        ("subclass", "view, or of a class"),
        ("objects", "Python objects"),
        ("buffer of another", "view|belongs to"),
        ("file", "view, or of a class"),
    ],
)
def test_refusals_have_reasons(kind: str, reason: str, tmp_path: Path) -> None:
    array = make_refused(kind, tmp_path)
    refusal = adopt(array, MEMORY, Settings())
    assert isinstance(refusal, str)
    assert any(word in refusal for word in reason.split("|"))


IN_A_PROCESS = """
import ctypes, numpy as np
from skl_mmap.memory import Placement, Settings, adopt, describe
libc = ctypes.CDLL(None, use_errno=True)
X = np.ones(({n_bytes} // 400, 50))
address = ctypes.c_void_p(X.ctypes.data - 16)
{prepare}
refusal = adopt(X, Placement.from_parameter("memory"), Settings())
print(refusal if isinstance(refusal, str) else "adopted")
assert (X == 1).all()
"""


@pytest.mark.parametrize(
    ("prepare", "reason"),
    [
        ("libc.mlock(address, ctypes.c_size_t(1 << 16))", "locked"),
        ("libc.madvise(address, ctypes.c_size_t(1 << 20), 10)", "special"),  # DONTFORK
        ("libc.mprotect(address, ctypes.c_size_t(8192), 1)", "protected"),
        ("pass", "adopted"),
    ],
)
def test_special_memory_is_left_alone(prepare: str, reason: str) -> None:
    code = IN_A_PROCESS.format(n_bytes=LARGE_BYTES, prepare=prepare)
    printed = run_python(code)
    assert reason in printed


def test_memory_of_glibcs_heap_is_left_alone() -> None:
    printed = run_python(
        IN_A_PROCESS.format(n_bytes=4 << 20, prepare="pass"),
        MALLOC_MMAP_THRESHOLD_=str(64 << 20),
    )
    assert "does not lie in a mapping of its own" in printed


def test_kernel_that_refuses_leaves_the_array_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from skl_mmap._linux import calls
    from skl_mmap.memory import _adoption

    array = make_large()
    plain = array.copy()
    real = calls.map_file
    n_calls = 0

    def refuse_second(*args: Any, **kwargs: Any) -> None:
        nonlocal n_calls
        n_calls += 1
        if n_calls > 1 and not kwargs.get("shared"):
            raise OSError(12, os.strerror(12))
        real(*args, **kwargs)

    monkeypatch.setattr(calls, "map_file", refuse_second)
    monkeypatch.setattr(_adoption, "_CHUNK_BYTES", 4 << 20)
    refusal = adopt(array, MEMORY, Settings())
    assert isinstance(refusal, str)
    assert "the kernel stopped it" in refusal
    np.testing.assert_array_equal(array, plain)
    array[:] = 3.0
    assert (array == 3.0).all()
