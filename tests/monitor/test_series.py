"""Processes over time, CPU time, and readings that look only at what changes fast."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from skl_mmap._linux import proc
from skl_mmap.monitor import (
    SegmentRecord,
    TaskRecord,
    _sampler,
    measure,
    publish,
    read_committed,
)
from skl_mmap.monitor._measure import _as_series, _thin_out
from skl_mmap.monitor._process import Process
from skl_mmap.monitor._sampler import GroupWatch, Sampler
from skl_mmap.monitor._tree import ProcessTree
from tests.report.common import make_reading

from .conftest import MIB, Child, needs_proc

MakeChild = Callable[..., Child]

USE_CPU = (
    "import time; begin = time.process_time()\n"
    "while time.process_time() < begin + {}: pass"
)
RECORD = TaskRecord(pid=1, seconds=0.5)


@pytest.fixture
def process(make_child: MakeChild) -> Iterator[tuple[Child, Process]]:
    child = make_child()
    process = Process(child.pid)
    yield child, process
    process.close()


@needs_proc
class TestQuickReadings:
    def test_private_memory_is_exact(self, process: tuple[Child, Process]) -> None:
        child, read = process
        read.read_memory()
        child.run(f"data = bytearray({8 * MIB})")
        quick, close = read.read_memory(quickly=True), read.read_memory()
        assert quick is not None
        assert close is not None
        assert quick[2] == close[2] > 8 * MIB
        child.run("del data")
        after = read.read_memory(quickly=True)
        assert after is not None
        assert after[2] < close[2] - 7 * MIB

    def test_a_close_look_where_other_memory_has_changed(
        self,
        process: tuple[Child, Process],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        child, read = process
        read.read_memory()
        names: list[str] = []
        real = proc.read_file

        def spy(path: str, *, folder: int | None = None) -> bytes:
            names.append(path)
            return real(path, folder=folder)

        monkeypatch.setattr(proc, "read_file", spy)
        read.read_memory(quickly=True)
        assert names == []
        child.run(
            "import mmap\n"
            f"shared = mmap.mmap(-1, {4 * MIB}); shared[:] = bytes({4 * MIB})"
        )
        seen = read.read_memory(quickly=True)
        assert names == ["status"]
        assert seen is not None
        assert seen[3] >= 4 * MIB
        read.read_memory(quickly=True)
        assert names == ["status"]

    def test_a_process_that_has_ended_is_none(self, make_child: MakeChild) -> None:
        child = make_child()
        forked = child.run(
            "import subprocess; ended = subprocess.Popen(['sleep', '60']); "
            "answer = ended.pid"
        )
        process = Process(forked)
        numbers = process.read_memory()
        assert numbers is not None
        # As if next to nothing of it had been shared.
        process._known = (*numbers[:3], 0, 0)
        child.run(
            "import os; ended.kill(); os.waitid(os.P_PID, ended.pid, os.WEXITED | "
            "os.WNOWAIT)"
        )
        assert process.read_memory(quickly=True) is None
        child.run("ended.wait()")
        with pytest.raises(OSError, match="No such process"):
            process.read_memory(quickly=True)
        process.close()

    def test_swap_is_looked_for_where_there_is_some(
        self, make_child: MakeChild, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        child = make_child()
        looks: list[bool] = []
        real = Process.read_memory

        def spy(process: Process, *, quickly: bool = False) -> object:
            looks.append(quickly)
            return real(process, quickly=quickly)

        monkeypatch.setattr(Process, "read_memory", spy)
        for has_swap in (True, False):
            monkeypatch.setattr(
                "skl_mmap.monitor._tree.has_swap", lambda answer=has_swap: answer
            )
            tree = ProcessTree(child.pid, [])
            tree.read()
            tree._next_full_scan = float("inf")
            tree.read()
            tree.close()
        assert looks == [False, False, False, True]


@needs_proc
class TestCpuTime:
    def test_of_a_process(self, process: tuple[Child, Process]) -> None:
        child, read = process
        before = read.read_cpu_seconds()
        child.run(USE_CPU.format(0.3))
        used = read.read_cpu_seconds() - before
        assert 0.27 <= used < 0.6

    def test_of_a_tree_with_processes_that_have_ended(
        self, make_child: MakeChild
    ) -> None:
        child = make_child()
        tree = ProcessTree(child.pid, [])
        before = tree.read()[5]
        child.run(
            "import subprocess, sys\n"
            f"command = [sys.executable, '-I', '-S', '-c', {USE_CPU.format(0.3)!r} + "
            "'\\nprint(1, flush=True); input()']\n"
            "started = subprocess.Popen(command, stdin=-1, stdout=-1)\n"
            "started.stdout.readline()"
        )
        during = tree.read(closely=True)[5]
        child.run("started.communicate(b'1')")
        tree.read()
        after = tree.read()[5]
        tree.close()
        assert 0.27 <= during - before < 1.0
        assert after >= during

    def test_of_a_block(self) -> None:
        with measure() as report:
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass
        assert 0.17 <= report.cpu_seconds < 1.0
        cpu = [reading.cpu_seconds for reading in report.timeline]
        assert cpu == sorted(cpu)

    def test_of_a_single_reading(self) -> None:
        own = sum(os.times()[:2])
        assert read_committed().cpu_seconds >= own - 0.02

    def test_where_there_is_no_proc(self) -> None:
        with measure(method="uss") as report:
            end = time.process_time() + 0.2
            while time.process_time() < end:
                pass
        assert report.cpu_seconds >= 0.17


@needs_proc
class TestProcesses:
    def test_each_has_its_own_series(self, make_child: MakeChild) -> None:
        with measure(interval_seconds=0.005) as report:
            child = make_child()
            child.run(f"data = bytearray({16 * MIB})")
            time.sleep(0.1)
        by_pid = {process.pid: process for process in report.processes}
        assert {os.getpid(), child.pid} <= set(by_pid)
        series = by_pid[child.pid]
        assert series.name.startswith("python")
        assert 16 * MIB < max(series.anonymous_bytes) < 24 * MIB
        assert len(series.seconds) == len(series.anonymous_bytes)
        assert len(series.seconds) == len(series.cpu_seconds)
        assert list(series.seconds) == sorted(series.seconds)
        assert series.seconds[0] > by_pid[os.getpid()].seconds[0]
        assert report.pid == os.getpid()

    def test_private_memory_of_all_is_that_of_the_tree(self) -> None:
        with measure() as report:
            time.sleep(0.1)
        total: dict[float, int] = {}
        for process in report.processes:
            for seconds, n_bytes in zip(
                process.seconds, process.anonymous_bytes, strict=True
            ):
                total[seconds] = total.get(seconds, 0) + n_bytes
        by_seconds = {r.seconds: r.anonymous_bytes for r in report.timeline}
        assert total == {seconds: by_seconds[seconds] for seconds in total}

    def test_timelines_are_thinned_out_and_keep_the_peak(self) -> None:
        readings = [make_reading(float(i), 100, 0, 0.0) for i in range(5000)]
        readings[3210] = peak = make_reading(3210.0, 900, 0, 0.0)
        thin = _thin_out(readings)
        assert len(thin) == 512
        assert thin[0] is readings[0]
        assert thin[-1] is readings[-1]
        assert peak in thin
        seconds = [reading.seconds for reading in thin]
        assert seconds == sorted(set(seconds))
        assert _thin_out(readings[:512]) == tuple(readings[:512])

    def test_moments_are_turned_into_series(self) -> None:
        moments = [(0.0, 9, [(1, 9, 0.5)]), (1.0, 12, [(1, 10, 0.6), (2, 2, 0.1)])]
        first, second = _as_series(moments, {1: "python", 2: "worker"})
        assert (first.pid, first.name, first.seconds) == (1, "python", (0.0, 1.0))
        assert first.anonymous_bytes == (9, 10)
        assert first.cpu_seconds == (0.5, 0.6)
        assert (second.name, second.anonymous_bytes) == ("worker", (2,))

    def test_the_small_ones_of_a_very_large_tree_are_taken_together(self) -> None:
        class Tree:
            def __init__(self) -> None:
                pids = range(1, 101)
                self.processes = [(pid, f"p{pid}", 1000 - pid, 0, 0) for pid in pids]
                self.cpu_seconds = dict.fromkeys(pids, 1.0)
                self.late: list[object] = []

            def read(self, *, closely: bool = False) -> tuple[int, ...]:
                return (1, 1, 0, 0, 100, 0)

        sampler = Sampler(Tree(), GroupWatch(0), 0.01)  # type: ignore[arg-type]
        [(_, _, processes)] = sampler._process_line.get()[:1]
        assert len(processes) == 32
        assert sum(process[2] for process in processes) == 100
        assert sum(p[1] for p in processes) == sum(1000 - p for p in range(1, 101))
        assert processes[-1][0] == 0
        assert min(p[1] for p in processes[:-1]) == 1000 - 31


class TestPace:
    """How often memory is read where that takes much of the cores."""

    @pytest.mark.parametrize(
        ("n_cores", "interval_seconds", "expected"),
        [
            (1, 0.01, 0.02),  # 0.3 ms for each reading: 1.5 % of a core
            (2, 0.01, 0.01),
            (2, 0.001, 0.01),
            (64, 0.001, 0.001),
            (1, 0.05, 0.05),
        ],
    )
    def test_at_most_a_share_of_all_cores(
        self,
        n_cores: int,
        interval_seconds: float,
        expected: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        sampler = self.make_sampler(n_cores, interval_seconds, 0.0003, monkeypatch)
        wait = sampler._find_next_start() - sampler._begin
        assert wait == pytest.approx(expected, abs=1e-4)

    def test_no_reading_waits_for_long(self, monkeypatch: pytest.MonkeyPatch) -> None:
        sampler = self.make_sampler(1, 0.01, 0.1, monkeypatch)
        wait = sampler._find_next_start() - sampler._begin
        assert wait == pytest.approx(0.02, abs=1e-4)

    @staticmethod
    def make_sampler(
        n_cores: int,
        interval_seconds: float,
        cpu_seconds: float,
        monkeypatch: pytest.MonkeyPatch,
    ) -> Sampler:
        class Tree:
            cpu_seconds: ClassVar[dict[int, float]] = {}
            processes: ClassVar[list[object]] = []
            late: ClassVar[list[object]] = []

            def read(self, *, closely: bool = False) -> tuple[int, ...]:
                return (1, 1, 0, 0, 0, 0)

        monkeypatch.setattr(_sampler, "_count_cores", lambda: n_cores)
        sampler = Sampler(Tree(), GroupWatch(0), interval_seconds)  # type: ignore[arg-type]
        for _ in range(9):
            sampler.read()
        sampler._end = sampler._begin
        now = sampler._cpu_at_start + 10 * cpu_seconds
        monkeypatch.setattr(time, "process_time", lambda: now)
        return sampler


@needs_proc
class TestRecords:
    def test_records_say_when_their_result_arrived(self) -> None:
        with measure() as report:
            time.sleep(0.1)
            publish(RECORD)
        assert RECORD.end_seconds is None
        assert report.tasks == [RECORD]
        assert 0.1 <= (report.tasks[0].end_seconds or 0) <= report.wall_seconds

    def test_segments_are_known_once(self, tmp_path: Path) -> None:
        first = SegmentRecord("float64 (3, 2)", 48, "memory", inode=(1, 5))
        other = SegmentRecord("float64 (3, 2)", 48, "memory", inode=(1, 6))
        publish(first)
        with measure() as report:
            for record in (first, other, first):
                publish(record)
        publish(SegmentRecord("late", 1, "memory", inode=(1, 7)))
        assert report.segments == [first, other]
