"""Signals to any process of the tree at any moment: slow, and run by hand.

    tox -e faults                # 200 signals
    tox -e faults -- -k parent

After each signal nothing hangs, the next call works, and in the end nothing is left.
"""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.backend.common import script_environment, write_script
from tests.waiting import is_running, wait_for_end, wait_until

N_SIGNALS = int(os.environ.get("SKL_MMAP_N_SIGNALS", "200"))
# Of these, to what the program has started, and to itself.
N_INNER = N_SIGNALS * 3 // 4
N_OUTER = N_SIGNALS - N_INNER

PROGRAM = """
import os, sys, time
import numpy as np
import skl_mmap
from joblib import Parallel, delayed, parallel_config
from loky.process_executor import BrokenProcessPool

def work(X, i):
    time.sleep(0.02 * (i % 3))
    return float(X[i:].sum())

if __name__ == "__main__":
    X = np.ones((4000, 100))
    expected = [float(X[i:].sum()) for i in range(12)]
    n_jobs = 2
    while True:
        n_jobs = 5 - n_jobs
        with parallel_config(backend="mmap", n_jobs=n_jobs, idle_worker_timeout=5):
            try:
                found = Parallel(batch_size=1)(delayed(work)(X, i) for i in range(12))
            except BrokenProcessPool as error:
                print("broken", flush=True)
            else:
                assert found == expected
                print("right", flush=True)
"""


class Program:
    """A program that calls its workers again and again, and says how it went."""

    def __init__(self, folder: Path, errors: Path) -> None:
        with errors.open("ab") as file:
            self.process = subprocess.Popen(
                write_script(folder, PROGRAM),
                env=script_environment({"TMPDIR": str(folder)}),
                stdout=subprocess.PIPE,
                stderr=file,
                text=True,
                start_new_session=True,
            )
        assert self.process.stdout is not None
        self.words: Iterator[str] = self.process.stdout
        self.read()

    def read(self) -> str:
        """Wait for the end of a call."""
        return next(self.words).strip()

    def descendants(self) -> list[psutil.Process]:
        """List what it has started: server, workers, resource trackers."""
        found = psutil.Process(self.process.pid).children(recursive=True)
        return [p for p in found if "resource_tracker" not in "".join(_words(p))]

    def group(self) -> list[int]:
        """List all processes of its session, whoever their parent is by now."""
        return [pid for pid in psutil.pids() if _session(pid) == self.process.pid]

    def close(self) -> None:
        """End it whatever has happened."""
        for pid in self.group():
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()


def wait_for_empty(program: Program) -> bool:
    """Wait until nothing is left of a program."""
    return wait_until(lambda: not program.group())


def _words(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return -1


def are_named(pids: set[int]) -> bool:
    """Tell if a file in shared memory has the number of one of these processes."""
    words = {
        word for name in os.listdir("/dev/shm") for word in re.split("[-_.]", name)
    }
    return bool(words & set(map(str, pids)))


@pytest.fixture
def seen_pids() -> Iterator[set[int]]:
    """Collect numbers of processes, and check that they have left no file in memory."""
    pids: set[int] = set()
    yield pids
    assert wait_until(lambda: not are_named(pids))


@pytest.mark.timeout(3600)
def test_signals_to_server_and_workers(tmp_path: Path, seen_pids: set[int]) -> None:
    choose = random.Random(0)
    errors = tmp_path / "errors.txt"
    program = Program(tmp_path, errors)
    outcomes = {"right": 0, "broken": 0}
    try:
        for _ in range(N_INNER):
            time.sleep(choose.random() * 0.4)
            victims = program.descendants()
            if not victims:
                continue
            seen_pids.update(program.group())
            victim = choose.choice(victims)
            number = choose.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP])
            try:
                victim.send_signal(number)
                if number == signal.SIGSTOP:
                    # A task that is stopped does not end, in loky either.
                    time.sleep(choose.random())
                    victim.send_signal(choose.choice([signal.SIGCONT, signal.SIGKILL]))
            except psutil.NoSuchProcess:
                continue
            # The call that runs, and two that have begun after the signal.
            outcomes[program.read()] += 1
            outcomes[program.read()] += 1
            assert program.process.poll() is None, errors.read_text()
        last = [program.read() for _ in range(4)]
        assert last[-1] == "right", errors.read_text()
        tree = [process.pid for process in program.descendants()]
        program.process.send_signal(signal.SIGINT)
        program.process.wait(60)
        assert wait_for_end(tree)
        assert wait_for_empty(program)
    finally:
        program.close()


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("target", ["parent", "group", "server and parent"])
def test_signals_to_the_parent(
    tmp_path: Path, target: str, seen_pids: set[int]
) -> None:
    choose = random.Random(target)
    for _ in range(-(-N_OUTER // 3)):
        program = Program(tmp_path, tmp_path / "errors.txt")
        try:
            time.sleep(choose.random() * 0.5)
            number = choose.choice([signal.SIGKILL, signal.SIGTERM])
            victims = program.descendants()
            seen_pids.update(program.group())
            if target == "group":
                os.killpg(program.process.pid, number)
            else:
                if target == "server and parent":
                    os.kill(victims[0].pid, number)
                os.kill(program.process.pid, number)
            assert program.process.wait(60) == -number
            assert wait_for_empty(program), program.group()
        finally:
            program.close()
    assert not [name for name in os.listdir(tmp_path) if "skl_mmap" in name]
