"""What the operating system tells, and how that is understood."""

from __future__ import annotations

import ctypes
import mmap
import os
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from skl_mmap._linux import proc

needs_proc = pytest.mark.skipif(
    not proc.is_readable(), reason="reads /proc, which only Linux has"
)

MOUNT_V1 = "36 25 0:31 {root} {place} rw,relatime - cgroup cgroup rw,{options}\n"
MOUNT_V2 = "37 25 0:32 {root} {place} rw,relatime - cgroup2 cgroup2 rw\n"


def mmap_private(fd: int, n_bytes: int) -> mmap.mmap:
    """Map a new file, copy-on-write."""
    os.ftruncate(fd, n_bytes)
    return mmap.mmap(fd, n_bytes, mmap.MAP_PRIVATE)


def address_of(pages: mmap.mmap) -> int:
    return ctypes.addressof(ctypes.c_char.from_buffer(pages))


@needs_proc
def test_pages_are_told_apart() -> None:
    n_pages = 1000
    n_bytes = n_pages * proc.PAGE_BYTES
    with (
        tempfile.TemporaryFile() as file,
        mmap_private(file.fileno(), n_bytes) as pages,
    ):
        address = address_of(pages)
        assert proc.resident_bytes(address, n_bytes) == (0, 0)
        assert not proc.has_private_pages(address, n_bytes)
        assert pages[0] == pages[n_bytes - 1] == 0
        private_bytes, file_bytes = proc.resident_bytes(address, n_bytes)
        assert private_bytes == 0
        assert 2 * proc.PAGE_BYTES <= file_bytes <= n_bytes  # neighbours are read too
        pages[5 * proc.PAGE_BYTES] = 1
        assert proc.resident_bytes(address, n_bytes)[0] == proc.PAGE_BYTES
        assert proc.has_private_pages(address, n_bytes)
        assert not proc.has_private_pages(address, 5 * proc.PAGE_BYTES)


def test_pages_that_cannot_be_told_apart_are_private(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError

    monkeypatch.setattr(proc.os, "open", refuse)
    assert proc.resident_bytes(1 << 30, 5000) == (5000, 0)
    assert proc.has_private_pages(1 << 30, 5000)


@needs_proc
def test_last_pid_changes_with_every_process() -> None:
    before = proc.read_last_pid()
    subprocess.run(["true"], check=True)
    assert proc.read_last_pid() != before


def test_table_of_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    header = b"Filename\tType\tSize\tUsed\tPriority\n"
    for text, expected in ((header, False), (header + b"/dev/sdb\t", True)):
        monkeypatch.setattr(proc, "read_file", lambda _, text=text: text)
        assert proc.has_swap() is expected


def test_swap_that_cannot_be_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> bytes:
        raise FileNotFoundError(path)

    monkeypatch.setattr(proc, "read_file", refuse)
    assert proc.has_swap()


@pytest.mark.parametrize(
    ("limit", "usage", "reclaimable", "room"),
    [
        ("1000000", "400000", "50000", 650_000),
        ("1000", "5000", "0", 0),
        ("max", "5000", "0", None),
        ("broken", "5000", "0", None),
    ],
)
def test_room_in_a_cgroup(
    limit: str, usage: str, reclaimable: str, room: int | None, tmp_path: Path
) -> None:
    (tmp_path / "memory.max").write_text(limit + "\n")
    (tmp_path / "memory.current").write_text(usage + "\n")
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {reclaimable}\n")
    assert proc._group_room(str(tmp_path), 2) == room
    assert proc._group_room(str(tmp_path / "missing"), 2) is None


def test_the_tightest_limit_counts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    groups = [(["/job", "/"], 2, True), (["/other"], 1, False)]
    monkeypatch.setattr(proc, "_list_groups", lambda pid: iter(groups))
    monkeypatch.setattr(proc, "_machine_room", lambda: 500)
    rooms = {("/job", 2): 400, ("/", 2): 300, ("/other", 1): None}
    monkeypatch.setattr(proc, "_group_room", lambda *place: rooms[place])
    assert proc.available_memory_bytes() == 300
    rooms["/other", 1] = 200
    assert proc.available_memory_bytes() == 200
    monkeypatch.setattr(proc, "_list_groups", lambda pid: iter([]))
    assert proc.available_memory_bytes() == 500
    monkeypatch.setattr(proc, "_machine_room", lambda: None)
    assert proc.available_memory_bytes() is None


def test_limits_of_groups_above_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    above = tmp_path / "a"
    (above / "b").mkdir(parents=True)
    (above / "memory.max").write_text("5000\n")
    (above / "memory.current").write_text("1000\n")
    (above / "memory.stat").write_text("inactive_file 0\n")
    files = {
        "/proc/self/cgroup": b"0::/a/b\n",
        "/proc/self/mountinfo": MOUNT_V2.format(root="/", place=tmp_path).encode(),
    }
    real = proc.read_file
    monkeypatch.setattr(
        proc, "read_file", lambda path: files[path] if path in files else real(path)
    )
    assert proc.available_memory_bytes() == 4000
    # A process that has been moved out of what the container shows.
    files["/proc/self/mountinfo"] = MOUNT_V2.format(root="/x", place=above).encode()
    assert proc.available_memory_bytes() == 4000


class TestGroup:
    @pytest.fixture
    def pretend(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> Callable[[str, str], tuple[str, int] | None]:
        def find(groups: str, mounts: str) -> tuple[str, int] | None:
            files = {
                "/proc/12/cgroup": groups,
                "/proc/self/cgroup": groups,
                "/proc/self/mountinfo": mounts,
            }
            real = proc.read_file
            monkeypatch.setattr(
                proc,
                "read_file",
                lambda path: files[path].encode() if path in files else real(path),
            )
            return proc.find_group(12)

        return find

    def test_version_1_is_found_by_its_controller(
        self, pretend: Callable[..., object], tmp_path: Path
    ) -> None:
        inside = tmp_path / "memory" / "a" / "b"
        inside.mkdir(parents=True)
        (inside / "memory.stat").touch()
        decoy = tmp_path / "cpu" / "a" / "b"
        decoy.mkdir(parents=True)
        (decoy / "memory.stat").touch()
        mounts = MOUNT_V1.format(root="/", place=tmp_path / "cpu", options="cpu")
        mounts += MOUNT_V1.format(root="/", place=tmp_path / "memory", options="memory")
        found = pretend("5:cpu:/x\n4:memory:/a/b\n0::/\n", mounts)
        assert found == (str(inside), 1)

    def test_version_2(self, pretend: Callable[..., object], tmp_path: Path) -> None:
        (tmp_path / "memory.stat").touch()
        mounts = MOUNT_V2.format(root="/", place=tmp_path)
        assert pretend("0::/\n", mounts) == (str(tmp_path), 2)

    def test_a_container_sees_its_own_part(
        self, pretend: Callable[..., object], tmp_path: Path
    ) -> None:
        inside = tmp_path / "job"
        inside.mkdir()
        (inside / "memory.stat").touch()
        mounts = MOUNT_V2.format(root="/docker/5", place=tmp_path)
        assert pretend("0::/docker/5/job\n", mounts) == (str(inside), 2)
        assert pretend("0::/other\n", mounts) is None
        assert pretend("0::/docker/55\n", mounts) is None

    def test_a_group_that_accounts_for_no_memory(
        self, pretend: Callable[..., object], tmp_path: Path
    ) -> None:
        mounts = MOUNT_V2.format(root="/", place=tmp_path)
        assert pretend("0::/\n", mounts) is None
        assert pretend("4:cpu:/\n", "") is None

    def test_no_proc(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: str) -> bytes:
            raise FileNotFoundError(path)

        monkeypatch.setattr(proc, "read_file", refuse)
        assert proc.find_group(1) is None
