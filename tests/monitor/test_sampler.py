"""The sampler process: what it keeps, what it costs, when it ends."""

from __future__ import annotations

import marshal
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.monitor import _process, _sampler
from skl_mmap.monitor._sampler import TimeLine
from tests.waiting import PATIENCE_SECONDS, is_running, wait_for_end, wait_until

from .conftest import MIB, Child, needs_proc

MakeChild = Callable[..., Child]

START_MEASURING = """
import os, psutil, time
from skl_mmap.monitor import measure
context = measure()
report = context.__enter__()
answer = psutil.Process().children()[0].pid
"""


class TestTimeLine:
    @given(
        st.lists(st.integers(0, 50), min_size=1, max_size=200),
        st.sampled_from([2, 4, 16, 100]),
    )
    def test_keeps_the_peak_and_never_too_many(
        self, sizes: list[int], max_readings: int
    ) -> None:
        readings = [(float(i), size, 0, 0, 0, 1) for i, size in enumerate(sizes)]
        time_line = TimeLine(max_readings)
        for reading in readings:
            time_line.add(reading)
            # One more than fit: the largest of a stretch that has not ended.
            assert len(time_line.get()) <= max_readings
        kept = time_line.get()
        first_peak = max(readings, key=lambda reading: reading[1])
        assert first_peak in kept
        assert kept == sorted(set(kept))
        assert set(kept) <= set(readings)
        if len(readings) < max_readings:
            assert kept == readings

    def test_each_reading_is_the_largest_of_its_stretch(self) -> None:
        time_line = TimeLine(4)
        for i in range(14):
            time_line.add((float(i), i % 4, 0, 0, 0, 1))
        seconds = [reading[0] for reading in time_line.get()]
        assert seconds == [3.0, 7.0, 11.0, 13.0]


def make_command(*options: str) -> list[str]:
    arguments = [str(os.getpid()), "0.01", "committed", "", "/dev/shm"]
    return [
        *(sys.executable, "-I", "-S", *options, _sampler.__file__),
        *(*arguments, _process.SAMPLER_MARK),
    ]


def run_sampler(*options: str) -> subprocess.CompletedProcess[bytes]:
    """Run a sampler that finds its input closed as soon as it is ready."""
    return subprocess.run(
        make_command(*options),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=True,
        timeout=PATIENCE_SECONDS,
    )


@needs_proc
def test_imports_next_to_nothing() -> None:
    printed = run_sampler("-X", "importtime").stderr.decode()
    imported = set(re.findall(r"\| +(\S+)$", printed, flags=re.MULTILINE))
    files = ("_family", "_group", "_process", "_tree")
    monitor = [f"monitor.{name}" for name in files]
    names = ["_child", "_linux", "_linux.proc", *monitor]
    assert {f"skl_mmap.{name}" for name in names} == {
        name for name in imported if name.startswith("skl_mmap")
    }
    assert "_thread" in sys.modules
    large = {"typing", "dataclasses", "collections", "re", "contextlib", "threading"}
    assert not imported & large


@needs_proc
def test_ends_without_a_word_when_its_input_ends() -> None:
    result = run_sampler()
    assert marshal.loads(result.stdout[8:]) == _sampler.READY
    assert result.stderr == b""


@needs_proc
def test_ends_without_a_word_when_nobody_reads_its_output() -> None:
    receive, send = os.pipe()
    os.close(receive)
    try:
        result = subprocess.run(
            make_command(),
            stdin=subprocess.DEVNULL,
            stdout=send,
            stderr=subprocess.PIPE,
            check=True,
            timeout=PATIENCE_SECONDS,
        )
    finally:
        os.close(send)
    assert result.stderr == b""


@needs_proc
class TestEnd:
    @pytest.fixture
    def child(self, make_child: MakeChild) -> Child:
        return make_child(package=True)

    def test_sampler_ends_when_its_parent_is_killed(self, child: Child) -> None:
        sampler = child.run(START_MEASURING)
        assert is_running(sampler)
        child.kill()
        assert wait_for_end([sampler])

    def test_sampler_ends_even_if_a_fork_holds_its_input_open(
        self, child: Child
    ) -> None:
        sampler, fork = child.run(
            START_MEASURING + "sampler, fork = answer, os.fork()\n"
            "if not fork: time.sleep(600)\n"
            "answer = sampler, fork"
        )
        try:
            # Pipes are inherited by a fork, so this end of the sampler's input stays.
            child._process.kill()
            assert wait_for_end([sampler])
            assert is_running(fork)
        finally:
            os.kill(fork, signal.SIGKILL)

    def test_results_arrive_even_if_a_fork_holds_the_pipes_open(
        self, child: Child
    ) -> None:
        n_readings = child.run(
            START_MEASURING + "fork = os.fork()\n"
            "if not fork: time.sleep(600)\n"
            "try:\n"
            "    context.__exit__(None, None, None)\n"
            "finally:\n"
            "    os.kill(fork, 9); os.waitpid(fork, 0)\n"
            "answer = report.n_readings"
        )
        assert n_readings >= 2

    def test_a_fork_that_leaves_the_block_leaves_the_sampler_alone(
        self, child: Child
    ) -> None:
        problem, code, n_readings = child.run(
            START_MEASURING + "receive, send = os.pipe()\n"
            "fork = os.fork()\n"
            "if not fork:\n"
            "    context.__exit__(None, None, None)\n"
            "    os.write(send, report.problem.encode()); os._exit(3)\n"
            "_, status = os.waitpid(fork, 0)\n"
            "context.__exit__(None, None, None)\n"
            "code = os.waitstatus_to_exitcode(status)\n"
            "answer = os.read(receive, 1000).decode(), code, report.n_readings"
        )
        assert code == 3
        assert "forked inside the block" in problem
        assert n_readings >= 2

    def test_interrupt_ends_the_block_but_not_the_sampler(
        self, child: Child, tmp_path: Path
    ) -> None:
        sign = tmp_path / "data is there"
        child.send(
            "import signal, time\n"
            "from skl_mmap.monitor import measure\n"
            # Ignored if the tests were started in the background of a shell.
            "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
            "try:\n"
            "    with measure() as report:\n"
            f"        data = bytearray({64 * MIB})\n"
            f"        open({str(sign)!r}, 'w').close()\n"
            "        time.sleep(600)\n"
            "except KeyboardInterrupt:\n"
            "    answer = report.peak_growth_bytes"
        )
        assert wait_until(sign.exists)
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait_for_answer() >= 60 * MIB
