"""Segments hold their bytes, cannot be changed, and leave nothing behind."""

from __future__ import annotations

import errno
import fcntl
import gc
import mmap
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given

from skl_mmap.exceptions import NotEnoughDiskError, SegmentLostError
from skl_mmap.memory import (
    Placement,
    Segment,
    SegmentHandle,
    _filling,
    new_segment,
    open_file_segment,
    rebuild_array,
)
from skl_mmap.memory import _segment as segments
from skl_mmap.memory._segment import (
    attach_segment,
    create_range_segment,
    create_segment,
)
from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    as_stored,
    assert_same,
    make_store,
    run_python,
    send,
    shared_with,
)

MEMORY = Placement.from_parameter("memory")


def content(segment: Segment) -> bytes:
    return os.pread(segment.fd, segment.n_bytes + 1, 0)


@strategies.examples(60)
@given(array=strategies.arrays())
def test_segments_hold_the_bytes_in_the_order_of_pickles(
    array: np.ndarray[tuple[int, ...], np.dtype[np.void]],
) -> None:
    segment = create_segment(array, MEMORY)
    if array.dtype.names is None:
        assert content(segment) == as_stored(array).tobytes("A")
    assert segment.n_bytes == array.nbytes == os.fstat(segment.fd).st_size


@pytest.mark.parametrize("extra_bytes", [-1, 0, 1, 5000])
@pytest.mark.parametrize("n_huge_pages", [1, 2, 5])
def test_large_segments_hold_the_bytes(n_huge_pages: int, extra_bytes: int) -> None:
    n_bytes = n_huge_pages * (2 << 20) + extra_bytes
    array = strategies.fill(np.dtype("u1"), (n_bytes,))
    assert content(create_segment(array, MEMORY)) == array.tobytes()


def test_chunks_of_rows_follow_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_filling, "_FILL_CHUNK_BYTES", 1000)
    base = np.arange(5000, dtype=np.int32).reshape(-1, 5)
    for array in (base[::2], base[:, ::2], base, base.T, base[:, :3].T):
        segment = create_segment(array, MEMORY)
        assert content(segment) == array.tobytes("K" if array is base.T else "A")


@pytest.mark.parametrize("n_rows", [1, 999, 1000, 1001, 3000])
def test_range_segments_hold_the_numbers(
    n_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_RANGE_CHUNK_ROWS", 1000)
    segment = create_range_segment(n_rows, MEMORY)
    assert content(segment) == np.arange(n_rows, dtype=np.intp).tobytes()


def test_a_filled_memfd_cannot_be_altered() -> None:
    segment = create_segment(np.zeros(3 * PAGE_BYTES, dtype=np.uint8), MEMORY)
    for change in (
        lambda fd: os.pwrite(fd, b"x", 0),
        lambda fd: os.ftruncate(fd, 0),
        lambda fd: os.ftruncate(fd, 1 << 20),
        lambda fd: mmap.mmap(fd, 0, mmap.MAP_SHARED),
    ):
        with pytest.raises(PermissionError) as caught:
            change(segment.fd)
        assert caught.value.errno == errno.EPERM
    # Nor by somebody who opens it anew.
    fd = os.open(f"/proc/self/fd/{segment.fd}", os.O_RDWR)
    try:
        with pytest.raises(PermissionError):
            os.pwrite(fd, b"x", 0)
    finally:
        os.close(fd)


def test_range_segments_cannot_be_altered() -> None:
    segment = create_range_segment(1000, MEMORY)
    with pytest.raises(PermissionError):
        os.pwrite(segment.fd, b"x", 0)


def test_a_mapping_of_somebody_else_does_not_prevent_sealing() -> None:
    # A child that was forked while the file was filled has inherited the mapping.
    segment = new_segment(PAGE_BYTES, MEMORY, "a page")
    with mmap.mmap(segment.fd, PAGE_BYTES, mmap.MAP_SHARED) as inherited:
        inherited[:5] = b"whole"
        segment.seal()
        with pytest.raises(PermissionError):
            os.pwrite(segment.fd, b"x", 0)
        with pytest.raises(PermissionError):
            os.ftruncate(segment.fd, 0)
    assert content(segment).startswith(b"whole")


@pytest.mark.parametrize("is_busy", [False, True])
def test_kernels_without_the_best_seal(
    is_busy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fcntl_of_linux_5_0(fd: int, command: int, seals: int) -> int:
        if seals & fcntl.F_SEAL_WRITE and is_busy:
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))
        if seals & segments._F_SEAL_FUTURE_WRITE:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        return fcntl.fcntl(fd, command, seals)

    monkeypatch.setattr(segments, "fcntl", fcntl_of_linux_5_0)
    segment = create_segment(np.arange(1000.0), MEMORY)
    with pytest.raises(PermissionError):
        os.ftruncate(segment.fd, 0)
    found = fcntl.fcntl(segment.fd, fcntl.F_GET_SEALS)
    assert bool(found & fcntl.F_SEAL_WRITE) is not is_busy


def test_files_on_the_disk_have_no_name(tmp_path: Path) -> None:
    store = make_store(store=tmp_path)
    array = np.arange(5000.0)
    handle, segment = shared_with(store, array)
    assert list(tmp_path.iterdir()) == []
    assert os.fstat(segment.fd).st_nlink == 0
    assert os.fstat(segment.fd).st_dev == os.stat(tmp_path).st_dev
    shared = rebuild_array(send(handle))
    rows = np.r_[0:1024, 2048:5000]
    assert_same(shared[rows], array[rows])


def test_file_systems_without_nameless_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = os.open

    def refuse_nameless(path: str, flags: int, *args: int, **options: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, "not here")
        return real_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuse_nameless)
    array = np.arange(5000.0)
    segment = create_segment(array, Placement.from_parameter(tmp_path))
    assert list(tmp_path.iterdir()) == []
    assert content(segment) == array.tobytes()


def test_descriptors_are_closed_on_exec_and_with_the_segment() -> None:
    segment = create_segment(np.arange(1000.0), MEMORY)
    fd = segment.fd
    assert not os.get_inheritable(fd)
    del segment
    gc.collect()
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(fd)


def test_another_process_opens_the_same_file() -> None:
    array = np.arange(32 * 512.0)
    handle, segment = shared_with(make_store(), array)
    script = (
        "import pickle, sys, os; from skl_mmap.memory import rebuild_array, describe\n"
        "import numpy as np\n"
        "handle = pickle.load(sys.stdin.buffer)\n"
        "array = rebuild_array(handle)\n"
        "assert os.getpid() != handle.segment.pid\n"
        "joined = array[np.r_[0:4096, 8192:16384]]\n"
        "array[0] = -1.0\n"
        "sys.stdout.buffer.write(pickle.dumps((joined, describe(joined)[0])))\n"
    )
    root = str(Path(segments.__file__).parents[2])
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=pickle.dumps(handle),
        capture_output=True,
        check=True,
        env=os.environ | {"PYTHONPATH": root},
    )
    joined, joined_handle = pickle.loads(done.stdout)
    expected = array[np.r_[0:4096, 8192:16384]]
    assert_same(joined, expected)
    # What comes back refers to the segment of its owner, which did not change.
    assert joined_handle.segment == segment.handle()
    assert_same(rebuild_array(joined_handle), expected)
    assert array[0] == 0.0


def test_a_segment_is_opened_once_in_a_process() -> None:
    segment = create_segment(np.arange(1000.0), MEMORY)
    assert attach_segment(send(segment.handle())) is segment


def test_a_segment_that_was_freed_is_lost() -> None:
    segment = create_segment(np.arange(1000.0), MEMORY)
    handle = segment.handle()
    del segment
    with pytest.raises(SegmentLostError, match="cannot be opened"):
        attach_segment(handle)


def test_a_descriptor_that_was_used_anew_is_not_believed() -> None:
    freed = create_segment(np.arange(1000.0), MEMORY)
    handle = freed.handle()
    del freed
    other = create_segment(np.arange(2000.0), MEMORY)
    assert other.fd == handle.fd
    with pytest.raises(SegmentLostError, match="not the shared data any more"):
        attach_segment(handle)
    assert content(other) == np.arange(2000.0).tobytes()


def test_the_segment_of_a_process_that_ended_is_lost() -> None:
    handle = SegmentHandle(2**22 + 1, 3, 1, 1, 100)
    with pytest.raises(SegmentLostError, match="must be alive"):
        attach_segment(handle)


def test_a_file_that_was_truncated_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"x" * 1000)
    segment = open_file_segment(str(path))
    assert segment is not None
    os.truncate(path, 500)
    target = np.empty(1000, dtype=np.uint8)
    with pytest.raises(SegmentLostError, match="truncated while in use"):
        segment.read_into(target.ctypes.data, 1000, 0)


def test_files_that_cannot_be_opened_are_no_segments(tmp_path: Path) -> None:
    assert open_file_segment(str(tmp_path / "missing")) is None


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_an_error_that_says_what_to_do(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, offset: int, length: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    n_files = len(os.listdir("/proc/self/fd"))
    with pytest.raises(NotEnoughDiskError) as caught:
        make_store(store=tmp_path).share(np.zeros((1000, 8)))
    message = str(caught.value)
    assert repr(str(tmp_path)) in message
    assert "62.5 KiB" in message
    assert "(1000, 8)" in message
    assert "store=" in message
    del caught
    gc.collect()
    assert list(tmp_path.iterdir()) == []
    assert len(os.listdir("/proc/self/fd")) == n_files


def test_other_errors_of_the_disk_are_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int, offset: int, length: int) -> None:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(OSError, match="broken"):
        make_store(store=tmp_path).share(np.zeros(1000))


def test_nothing_is_left_of_a_file_that_may_not_be_as_large(tmp_path: Path) -> None:
    printed = run_python(
        f"""
        import gc, os, resource
        import numpy as np
        import skl_mmap
        from tests.memory.sharing import make_store
        n_files = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
        store = make_store(store={str(tmp_path)!r})
        assert store.share(np.zeros(1 << 10)) is not None
        assert store.share(np.zeros(1 << 20)) is None  # it is sent by value
        try:
            skl_mmap.share(np.zeros(1 << 20), store={str(tmp_path)!r})
        except skl_mmap.exceptions.NotEnoughDiskError as error:
            print(error)
        gc.collect()
        assert len(os.listdir("/proc/self/fd")) == n_files
        """
    )
    assert "8.0 MiB" in printed
    assert list(tmp_path.iterdir()) == []


def test_a_full_file_system_is_an_error_and_no_crash(tmp_path: Path) -> None:
    mount = ["unshare", "--user", "--map-root-user", "--mount"]
    if os.getuid() == 0:
        mount = ["unshare", "--mount"]
    command = f"mount -t tmpfs -o size=1m tmpfs {tmp_path}"
    if subprocess.run([*mount, "sh", "-c", command], check=False).returncode:
        pytest.skip("this user may not mount a file system, however small")
    script = (
        "import os, sys, numpy as np\n"
        "from skl_mmap.exceptions import NotEnoughDiskError\n"
        "from tests.memory.sharing import make_store\n"
        "folder = sys.argv[1]\n"
        "store = make_store(store=folder)\n"
        "small, large = np.zeros(60_000), np.ones(90_000)\n"
        "kept = store.share(small)\n"
        "try:\n"
        "    store.share(large)\n"
        "except NotEnoughDiskError as error:\n"
        "    print(error)\n"
        "assert os.listdir(folder) == []\n"
        "del kept, small\n"
        "assert store.share(large) is not None  # the room of both is free again\n"
    )
    root = str(Path(segments.__file__).parents[2])
    inside = f'{command} && exec "$0" -c "$1" {tmp_path}'
    done = subprocess.run(
        [*mount, "sh", "-c", inside, sys.executable, script],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": root},
    )
    assert done.returncode == 0, done.stderr
    assert "703.1 KiB" in done.stdout
