"""What the kernel says of a control group, from files that are known."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skl_mmap._linux.proc import find_group
from skl_mmap.monitor import measure
from skl_mmap.monitor._group import ControlGroup

from .conftest import MIB, needs_proc

STAT_V1 = (
    "cache 1\nrss 2\nhierarchical_memory_limit 9\ntotal_cache 700\ntotal_rss 500\n"
    "total_shmem 300\ntotal_swap 40\n"
)
STAT_V2 = "anon 500\nfile 700\nshmem 300\nfile_mapped 1\n"


def write(folder: Path, **files: str) -> Path:
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


class TestNumbers:
    def test_version_1(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            memory__stat=STAT_V1,
            memory__max_usage_in_bytes="1234\n",
            memory__limit_in_bytes="9223372036854771712\n",
            memory__oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            cgroup__procs="5\n7\n",
        )
        group = ControlGroup(str(tmp_path), 1)
        assert group.read() == (500 + 300 + 40, 400)
        assert group.read_peak_bytes() == 1234
        assert group.read_limit_bytes() is None
        assert group.count_kills() == 3
        assert group.list_pids() == [5, 7]
        write(tmp_path, memory__limit_in_bytes="4096\n")
        assert group.read_limit_bytes() == 4096
        group.close()

    def test_version_2(self, tmp_path: Path) -> None:
        write(
            tmp_path,
            memory__stat=STAT_V2,
            memory__peak="1234\n",
            memory__max="max\n",
            memory__swap__current="60\n",
            memory__events="low 0\nhigh 0\noom 4\noom_kill 2\n",
        )
        (tmp_path / "memory.swap.current").write_text("60\n")
        group = ControlGroup(str(tmp_path), 2)
        assert group.read() == (500 + 300 + 60, 400)
        assert group.read_peak_bytes() == 1234
        assert group.read_limit_bytes() is None
        assert group.count_kills() == 2
        write(tmp_path, memory__max="8192\n")
        assert group.read_limit_bytes() == 8192
        group.close()

    def test_what_may_not_be_read_is_not_known(self, tmp_path: Path) -> None:
        group = ControlGroup(str(write(tmp_path, memory__stat=STAT_V2)), 2)
        assert group.read() == (800, 400)
        assert group.read_peak_bytes() is group.read_limit_bytes() is None
        assert group.count_kills() == 0
        assert group.list_pids() == []
        group.close()

    def test_a_group_without_numbers_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(OSError, match=r"memory\.stat"):
            ControlGroup(str(tmp_path), 1)


@needs_proc
@pytest.mark.skipif(
    find_group(os.getpid()) is None, reason="needs a control group for memory"
)
def test_measurements_have_what_the_kernel_says() -> None:
    with measure() as report:
        data = bytearray(32 * MIB)
        data[::4096] = b"x" * (len(data) // 4096)
    assert report.group is not None
    folder, version = find_group(os.getpid()) or ("", 0)
    assert (report.group.path, report.group.version) == (folder, version)
    # Others may be in the group, and give memory back meanwhile.
    assert report.group.peak_bytes > 32 * MIB
    assert report.group.peak_bytes >= report.group.baseline_bytes
    assert report.group.n_kills == 0
