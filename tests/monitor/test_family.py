"""Memory of processes that were forked from each other, against what is known of it."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from skl_mmap._linux import proc
from skl_mmap.monitor import _family, measure, read_committed
from skl_mmap.monitor._process import Process
from skl_mmap.monitor._sampler import GroupWatch, Sampler
from skl_mmap.monitor._tree import ProcessTree
from tests.waiting import is_running, wait_for_end, wait_until

from .conftest import MIB, Child, needs_proc

pytestmark = [
    needs_proc,
    pytest.mark.skipif(
        not os.path.exists("/proc/self/smaps_rollup"), reason="needs Linux 4.14"
    ),
]

MakeChild = Callable[..., Child]

# Pages of the interpreter that a fork writes to while it does what it is told.
FORK_BYTES = 2 * MIB

FORKS = """
import gc, mmap, os, signal, subprocess, sys, time

class Fork:
    def __init__(self):
        global inbox, outbox
        orders, answers = os.pipe(), os.pipe()
        self.pid = os.fork()
        if not self.pid:
            inbox, outbox = orders[0], answers[1]
            forks.clear()
            while True:
                code = os.read(inbox, 1 << 16)
                if not code:  # an orphan, which is ended from outside
                    signal.pause()
                exec(code, globals())
                os.write(outbox, repr(globals().get("answer")).encode())
        os.close(orders[0]), os.close(answers[1])
        self.orders, self.answers = orders[1], answers[0]

    def send(self, code):
        os.write(self.orders, code.encode())

    def receive(self):
        return eval(os.read(self.answers, 1 << 16))

    def run(self, code):
        self.send(code)
        return self.receive()

    def end(self):
        self.send("os._exit(0)")
        os.waitpid(self.pid, 0)
        os.close(self.orders), os.close(self.answers)

def fork(n):
    forks.extend(Fork() for _ in range(n))
    return [fork.pid for fork in forks[-n:]]

def allocate(n_mib):
    data = mmap.mmap(-1, n_mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    touch(data, n_mib)
    return data

def touch(data, n_mib, value=1):
    for place in range(0, n_mib << 20, mmap.PAGESIZE):
        data[place] = value

forks = []
gc.freeze()
"""


def sum_of_pss(*pids: int) -> int:
    """Add up the kernel's own account: slow, and right."""
    total = 0
    for pid in pids:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        for name in ("Pss_Anon", "SwapPss"):
            [size] = re.findall(rf"^{name}: +(\d+) kB", text, re.MULTILINE)
            total += int(size) * 1024
    return total


def pids_of(tree: ProcessTree) -> list[int]:
    return [numbers[0] for numbers in tree.processes]


def close_to(n_bytes: int, n_forks: int = 1) -> object:
    return pytest.approx(n_bytes, abs=n_forks * FORK_BYTES)


class Forks:
    """A process that forks others, and the trees that are read of them.

    Attributes
    ----------
    pids : list of int
        The forked ones. They end with the test, whether or not their parent lives.
    """

    def __init__(self, child: Child) -> None:
        self._trees: list[ProcessTree] = []
        self.pid = child.pid
        self.run, self.send = child.run, child.send
        self.wait_for_answer = child.wait_for_answer
        self.pids: list[int] = []
        self.run(FORKS)

    def start(self, n: int, n_mib: int = 64) -> None:
        """Have the process allocate `data`, and fork n others."""
        self.pids += self.run(f"data = allocate({n_mib}); answer = fork({n})")

    def ask(self, path: tuple[int, ...], code: str) -> Any:
        """Have a fork of a fork of ... run code, and return its `answer`."""
        for number in reversed(path):
            code = f"answer = forks[{number}].run({code!r})"
        return self.run(code)

    def tree(self, pid: int | None = None) -> ProcessTree:
        """Return a tree that is closed with the test."""
        self._trees.append(ProcessTree(self.pid if pid is None else pid, []))
        return self._trees[-1]

    def end(self) -> None:
        """Leave nothing behind."""
        for tree in self._trees:
            tree.close()
        for pid in filter(is_running, self.pids):
            os.kill(pid, signal.SIGKILL)
        assert wait_for_end(self.pids)


@pytest.fixture
def forks(make_child: MakeChild) -> Iterator[Forks]:
    """Forks that end with the test."""
    forks = Forks(make_child())
    yield forks
    forks.end()


@pytest.fixture
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let forks be walked over however young they are."""
    monkeypatch.setattr(_family, "_EXEC_GRACE_SECONDS", -60.0)


@pytest.fixture
def no_walks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let forks be walked over only in readings that look closely."""
    monkeypatch.setattr(_family._Family, "_is_due", lambda *_: False)


@pytest.fixture
def walks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Which processes are walked over, to no avail."""
    pids: list[int] = []
    monkeypatch.setattr(
        Process, "read_borrowed", lambda process: pids.append(process.pid) or 0
    )
    return pids


@pytest.mark.usefixtures("no_grace")
class TestCloseReadings:
    """What a round of walks finds is what the pages are."""

    @pytest.mark.parametrize("n_forks", [1, 4])
    def test_every_page_counts_once(self, forks: Forks, n_forks: int) -> None:
        before = read_committed(forks.pid).anonymous_bytes
        forks.start(n_forks)
        tree = forks.tree()
        shared = tree.read()
        assert shared[4] == n_forks + 1
        assert shared[1] - before == close_to(64 * MIB, n_forks)
        for number in range(n_forks):
            forks.ask((number,), "touch(data, 8, 2); more = allocate(4)")
        written = tree.read(closely=True)
        assert written[1] - shared[1] == close_to(n_forks * 12 * MIB, n_forks)
        exact = sum_of_pss(forks.pid, *forks.pids)
        assert written[1] == pytest.approx(exact, abs=MIB // 4)

    def test_the_parts_of_all_are_the_whole(self, forks: Forks) -> None:
        forks.start(3)
        reading = read_committed(forks.pid)
        parts = [process.anonymous_bytes for process in reading.processes]
        assert sum(parts) == reading.anonymous_bytes
        # Each has a fourth of what all share.
        assert len(parts) == 4
        assert all(part == close_to(64 * MIB // 4, 2) for part in parts)

    def test_what_the_parent_writes_is_its_own(self, forks: Forks) -> None:
        forks.start(2)
        tree = forks.tree()
        before = tree.read()
        forks.run("touch(data, 32, 2)")
        after = tree.read(closely=True)
        assert after[1] - before[1] == close_to(32 * MIB)

    def test_forks_of_forks(self, forks: Forks) -> None:
        before = read_committed(forks.pid).anonymous_bytes
        forks.start(1)
        forks.pids += forks.ask((0,), "more = allocate(32); answer = fork(2)")
        forks.ask((0, 1), "touch(more, 16, 3); touch(data, 16, 3)")
        after = forks.tree().read()
        assert after[4] == 4
        assert after[1] - before == close_to((64 + 32 + 16 + 16) * MIB, 3)

    def test_memory_that_is_swapped_is_divided_too(
        self, forks: Forks, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        process = Process(forks.pid)
        text = (
            b"0-1 [rollup]\nPss_Anon:   4 kB\nAnonymous:   12 kB\n"
            b"Swap:   32 kB\nSwapPss:   8 kB\n"
        )
        monkeypatch.setattr(proc, "read_file", lambda *_, **__: text)
        assert process.read_borrowed() == (12 - 4 + 32 - 8) * 1024
        monkeypatch.undo()
        process.close()

    def test_processes_without_relatives_are_not_walked_over(
        self, forks: Forks, walks: list[int]
    ) -> None:
        forks.run(
            "command = [sys.executable, '-c', 'input()']\n"
            "started = [subprocess.Popen(command, stdin=-1) for _ in range(2)]"
        )
        tree = forks.tree()
        n_processes = tree.read()[4]
        tree.read(closely=True)
        forks.run("for process in started: process.communicate(b'1')")
        assert n_processes == 3
        assert walks == []


@pytest.mark.usefixtures("no_walks")
class TestBetweenWalks:
    """What is known without a walk, and what is not."""

    def test_forks_count_only_what_they_allocate(self, forks: Forks) -> None:
        tree = forks.tree()
        before = tree.read()
        forks.start(4)
        during = tree.read()
        assert during[4] == 5
        assert during[1] - before[1] == close_to(64 * MIB)
        forks.ask((0,), "more = allocate(32)")
        assert tree.read()[1] - during[1] == close_to(32 * MIB)
        forks.ask((0,), "more.close()")
        assert tree.read()[1] - during[1] == close_to(0)

    @pytest.mark.usefixtures("no_grace")
    @pytest.mark.parametrize("n_ends", [1, 3])
    def test_those_that_end_leave_their_part_to_the_others(
        self, forks: Forks, n_ends: int
    ) -> None:
        forks.start(4)
        tree = forks.tree()
        before = tree.read()
        for _ in range(n_ends):
            forks.run("forks.pop().end()")
        after = tree.read()
        assert after[4] == before[4] - n_ends
        assert after[1] - before[1] == close_to(0, n_ends)
        assert sum(numbers[2] for numbers in tree.processes) == after[1]

    @pytest.mark.usefixtures("no_grace")
    def test_those_that_nobody_has_waited_for_have_nothing(self, forks: Forks) -> None:
        forks.start(3)
        tree = forks.tree()
        before = tree.read()
        os.kill(forks.pids[0], signal.SIGKILL)
        assert wait_for_end(forks.pids[:1])
        after = tree.read()
        assert after[4] == before[4] - 1
        assert after[1] - before[1] == close_to(0)

    @pytest.mark.usefixtures("no_grace")
    def test_the_last_one_has_all(self, forks: Forks) -> None:
        forks.start(1)
        tree = forks.tree()
        tree.read()
        forks.ask((0,), "touch(data, 32, 2)")
        forks.run("forks.pop().end()")
        assert tree.read()[1] == pytest.approx(sum_of_pss(forks.pid), abs=MIB // 4)

    @pytest.mark.usefixtures("no_grace")
    def test_shared_pages_that_are_written_to_are_late(self, forks: Forks) -> None:
        forks.start(2)
        tree = forks.tree()
        before = tree.read()
        forks.ask((0,), "touch(data, 48, 2)")
        unseen = tree.read()
        assert unseen[1] - before[1] == close_to(0)
        assert tree.late == []
        seen = tree.read(closely=True)
        assert seen[1] - before[1] == close_to(48 * MIB)
        [(_, n_bytes)] = tree.late
        assert n_bytes == pytest.approx(seen[1] - unseen[1], abs=MIB // 4)


class TestRounds:
    """When forks are walked over."""

    @pytest.mark.usefixtures("no_grace")
    def test_what_is_written_is_seen_soon(self, forks: Forks) -> None:
        forks.start(2)
        tree = forks.tree()
        before = tree.read()
        forks.ask((1,), "touch(data, 48, 2)")
        assert wait_until(lambda: tree.read()[1] - before[1] > 40 * MIB)
        assert tree.read()[1] - before[1] == close_to(48 * MIB)

    @pytest.mark.usefixtures("no_grace")
    def test_a_round_is_spread_over_readings(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        forks.start(3)
        tree = forks.tree()
        before = tree.read()
        monkeypatch.setattr(_family, "_SLICE_SECONDS", 0.0001)
        monkeypatch.setattr(_family._Family, "_is_due", lambda *_: True)
        walks: list[int] = []
        real = Process.read_borrowed

        def spy(process: Process) -> int | None:
            walks.append(process.pid)
            time.sleep(0.001)
            begin = time.thread_time()
            while time.thread_time() < begin + 0.0002:
                pass
            return real(process)

        monkeypatch.setattr(Process, "read_borrowed", spy)
        forks.ask((0,), "touch(data, 32, 2)")
        for n_walks in (1, 2, 3):
            # Nothing changes until all have been walked over: their numbers would not
            # fit together.
            assert tree.read()[1] - before[1] == close_to(0)
            assert len(walks) == n_walks
        assert tree.read()[1] - before[1] == close_to(32 * MIB)
        assert sorted(walks) == sorted([forks.pid, *forks.pids])

    @pytest.mark.usefixtures("no_grace")
    def test_a_round_begins_anew_when_one_of_them_ends(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        forks.start(3)
        tree = forks.tree()
        before = tree.read()
        monkeypatch.setattr(_family, "_SLICE_SECONDS", 0.0)
        monkeypatch.setattr(_family._Family, "_is_due", lambda *_: True)
        family = tree._families._relatives[forks.pid].family
        family._queue = [*family.relatives[2:]]
        forks.run("forks.pop().end()")
        after = [tree.read() for _ in range(4)]
        assert all(numbers[4] == 3 for numbers in after)
        assert all(n[1] - before[1] == close_to(0) for n in after)

    @pytest.mark.usefixtures("no_grace")
    def test_idle_forks_are_left_alone(self, forks: Forks, walks: list[int]) -> None:
        forks.start(2)
        tree = forks.tree()
        for number in range(2):
            forks.ask((number,), "pass")
        time.sleep(0.1)  # until they wait for the next order
        for _ in range(3):
            tree.read(closely=True)
        walks.clear()
        end = time.monotonic() + 1.5 * _family._MIN_ROUND_SECONDS
        while time.monotonic() < end:
            tree.read()
            time.sleep(0.01)
        assert walks == []

    def test_the_young_are_not_walked_over(
        self, forks: Forks, walks: list[int], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_family, "_EXEC_GRACE_SECONDS", 60.0)
        monkeypatch.setattr(_family, "_NOTED_SECONDS", 0.1)
        tree = forks.tree()
        tree.read()
        forks.start(2)
        tree.read(closely=True)
        assert walks == []
        assert tree.notes == set()
        time.sleep(0.2)
        tree.read(closely=True)
        assert walks == []
        assert tree.notes == {_family._RESTLESS}

    def test_children_that_are_about_to_call_exec_never_count(
        self, forks: Forks
    ) -> None:
        forks.run("data = allocate(128)")
        tree = forks.tree()
        before = tree.read()
        forks.send(
            "end = time.monotonic() + 2\n"
            "while time.monotonic() < end:\n"
            "    started = [subprocess.Popen(['true']) for _ in range(4)]\n"
            "    for process in started: process.wait()"
        )
        largest, end = 0, time.monotonic() + 1.8
        while time.monotonic() < end:
            numbers = tree.read()
            largest = max(largest, numbers[1])
        forks.wait_for_answer()
        assert largest - before[1] < 16 * MIB
        assert tree.notes == set()


class TestOrphans:
    """A server that ends before the processes that it has forked."""

    @pytest.mark.parametrize("is_walked", [False, True])
    def test_memory_of_a_dead_server_is_that_of_its_workers(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
        is_walked: bool,
    ) -> None:
        grace_seconds = -60.0 if is_walked else 0.5
        monkeypatch.setattr(_family, "_EXEC_GRACE_SECONDS", grace_seconds)
        tree = forks.tree()
        tree.read()
        forks.pids += forks.run("answer = fork(1)")
        forks.pids += forks.ask((0,), "data = allocate(64); answer = fork(4)")
        before = tree.read(closely=is_walked)
        assert before[4] == 6
        os.kill(forks.pids[0], signal.SIGKILL)
        forks.run(f"os.waitpid({forks.pids[0]}, 0)")
        if not is_walked:
            time.sleep(0.6)
        after = tree.read()
        assert after[4] == 5
        assert after[1] - before[1] == close_to(0, 2)
        exact = sum_of_pss(forks.pid, *forks.pids[1:])
        close = tree.read(closely=True)
        assert close[1] == pytest.approx(exact, abs=MIB // 4)


class TestExec:
    @pytest.mark.parametrize("grace_seconds", [60.0, -60.0])
    def test_a_fork_that_execs_is_an_ordinary_process(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
        grace_seconds: float,
    ) -> None:
        monkeypatch.setattr(_family, "_EXEC_GRACE_SECONDS", grace_seconds)
        forks.start(2)
        tree = forks.tree()
        before = tree.read()
        program = f"data = bytearray({32 * MIB}); print(1, flush=True); input()"
        code = (
            "os.dup2(inbox, 0); os.dup2(outbox, 1)\n"
            f"os.execv(sys.executable, [sys.executable, '-c', {program!r}])"
        )
        forks.ask((0,), code)
        after = tree.read()
        assert before[4] == after[4] == 3
        assert 32 * MIB < after[1] - before[1] < 48 * MIB
        family = tree._families._relatives[forks.pid].family
        relatives = [relative.process.pid for relative in family.relatives]
        assert relatives == [forks.pid, forks.pids[1]]
        assert forks.pids[0] in tree._families._relatives
        tree.read(closely=True)
        exact = sum_of_pss(forks.pid, *forks.pids)
        assert tree.read()[1] == pytest.approx(exact, abs=2 * MIB)

    @pytest.mark.usefixtures("no_grace")
    def test_an_exec_that_is_not_over_is_waited_for(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        forks.start(2)
        before = forks.tree().read()
        real = proc.ProcessFolder.read
        is_over = False

        def read(folder: proc.ProcessFolder, name: str) -> bytes:
            return bytes(16) if name == "auxv" and not is_over else real(folder, name)

        monkeypatch.setattr(proc.ProcessFolder, "read", read)
        tree = forks.tree()
        tree.read()
        assert tree._families._relatives == {}
        is_over = True
        tree.read()
        assert tree.read(closely=True)[1] - before[1] == close_to(0)
        assert tree.notes == set()


class TestWhatIsNotTold:
    def refuse(self, error: type[OSError]) -> Callable[[Any], None]:
        def refuse(_: object) -> None:
            raise error

        return refuse

    @pytest.mark.usefixtures("no_grace")
    def test_hidden_pages_count_in_full(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        forks.start(1)
        tree = forks.tree()
        before = tree.read()
        assert tree.notes == set()
        refuse = self.refuse(PermissionError)
        monkeypatch.setattr(proc.ProcessFolder, "read_borrowed", refuse)
        after = tree.read(closely=True)
        assert after[1] - before[1] == close_to(64 * MIB, 3)
        assert tree.notes == {_family._HIDDEN}

    @pytest.mark.usefixtures("no_grace")
    def test_a_process_that_ends_meanwhile_is_left_out(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        forks.start(1)
        tree = forks.tree()
        before = tree.read()
        refuse = self.refuse(ProcessLookupError)
        monkeypatch.setattr(proc.ProcessFolder, "read_borrowed", refuse)
        after = tree.read(closely=True)
        assert after[1] - before[1] == close_to(0)
        assert tree.notes == set()

    def test_processes_that_may_not_be_looked_at_count_in_full(
        self,
        forks: Forks,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        forks.start(1)
        before = forks.tree().read()
        real = proc.ProcessFolder.read

        def read(folder: proc.ProcessFolder, name: str) -> bytes:
            if name == "auxv":
                raise PermissionError
            return real(folder, name)

        monkeypatch.setattr(proc.ProcessFolder, "read", read)
        tree = forks.tree()
        for _ in range(2):
            assert tree.read()[1] - before[1] == close_to(64 * MIB, 4)
        assert tree.notes == {_family._HIDDEN}

    @pytest.mark.parametrize("kernel", ["no file", "no numbers"])
    def test_old_kernels(
        self, forks: Forks, monkeypatch: pytest.MonkeyPatch, kernel: str
    ) -> None:
        process = Process(forks.pid)

        def read(*_: object, **__: object) -> bytes:
            if kernel == "no file":
                raise FileNotFoundError
            return b"0-1 [rollup]\nPss: 4 kB\n"

        monkeypatch.setattr(proc, "read_file", read)
        monkeypatch.setattr(proc.os.path, "exists", lambda _: False)
        assert process.read_borrowed() is None
        monkeypatch.undo()
        process.close()

    @pytest.mark.usefixtures("no_grace")
    def test_memory_shared_with_a_process_outside_counts_in_full(
        self, forks: Forks
    ) -> None:
        before = read_committed(forks.pid).anonymous_bytes
        forks.start(1)
        tree = forks.tree(forks.pids[0])
        alone = tree.read()
        assert alone[1] - before == close_to(64 * MIB)
        assert tree.notes == set()
        forks.pids += forks.ask((0,), "answer = fork(2)")
        tree.read()
        together = tree.read(closely=True)
        assert together[4] == 3
        assert alone[1] - FORK_BYTES < together[1] < alone[1] + 64 * MIB
        assert tree.notes == {_family._REACHES_OUT}


class FakeProcess:
    """A process whose pages are made up."""

    start_time = 0.0

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.n_faults = 0
        self.borrowed_bytes = 500 * MIB
        self.walk_seconds = 0.0

    def read_borrowed(self) -> int:
        FakeProcess.clock += self.walk_seconds
        return self.borrowed_bytes

    clock: ClassVar[float] = 0.0


class TestPace:
    """When the next round is due."""

    PRIVATE_BYTES = 1000 * MIB

    @pytest.fixture
    def processes(self) -> list[FakeProcess]:
        return [FakeProcess(pid) for pid in range(2)]

    @pytest.fixture
    def family(
        self, processes: list[FakeProcess], monkeypatch: pytest.MonkeyPatch
    ) -> _family._Family:
        monkeypatch.setattr(time, "thread_time", lambda: FakeProcess.clock)
        family = _family._Family(b"image")
        for process in processes:
            relative = _family._Relative(process, family, None)  # type: ignore[arg-type]
            relative.take(self.PRIVATE_BYTES)
            family.add(relative)
        self.make_round(family, 1000.0)
        return family

    @staticmethod
    def make_round(family: _family._Family, now: float) -> _family.Late:
        late = family.walk(now, at_once=True)
        assert late is not None
        return late

    @staticmethod
    def seconds_until_due(family: _family._Family, now: float) -> float | None:
        """Return how long it takes after a round; None for longer than ever."""
        for steps in range(1, 300):
            if family._is_due(now + 0.01 * steps):
                return 0.01 * steps
        return None

    def test_nothing_is_due_while_nothing_changes(
        self, family: _family._Family, processes: list[FakeProcess]
    ) -> None:
        assert self.seconds_until_due(family, 1000.0) is None
        processes[0].n_faults += 1
        assert self.seconds_until_due(family, 1000.0) == 0.5
        self.make_round(family, 1001.0)
        assert self.seconds_until_due(family, 1001.0) is None
        family.relatives[1].take(self.PRIVATE_BYTES - 4096)
        assert self.seconds_until_due(family, 1001.0) == 0.5

    @pytest.mark.parametrize(
        ("walk_seconds", "expected"),
        [(0.001, 0.5), (0.01, 1.0), (0.1, 2.0), (0.125, 2.5)],
    )
    def test_walks_take_no_more_than_a_share_of_a_core(
        self,
        family: _family._Family,
        processes: list[FakeProcess],
        walk_seconds: float,
        expected: float,
    ) -> None:
        for process in processes:
            process.walk_seconds = walk_seconds
        self.make_round(family, 1001.0)
        processes[0].n_faults += 1
        due = self.seconds_until_due(family, 1001.0)
        assert due == pytest.approx(expected, abs=0.011)

    def test_a_burst_of_page_faults_is_looked_at_soon(
        self, family: _family._Family, processes: list[FakeProcess]
    ) -> None:
        processes[0].n_faults += 50_000
        assert self.seconds_until_due(family, 1000.0) == 0.13
        self.make_round(family, 1000.5)
        # As many again in the same time are nothing new.
        for step in range(1, 50):
            processes[0].n_faults += 1000
            assert not family._is_due(1000.5 + 0.01 * step)
        assert family._is_due(1001.0)

    def test_pages_that_came_late_are_looked_at_again_soon(
        self, family: _family._Family, processes: list[FakeProcess]
    ) -> None:
        processes[0].borrowed_bytes -= 10 * MIB
        assert self.make_round(family, 1001.0) == (1000.0, 10 * MIB)
        processes[0].n_faults += 1
        assert self.seconds_until_due(family, 1001.0) == 0.5
        processes[0].borrowed_bytes -= 100 * MIB
        assert self.make_round(family, 1002.0) == (1001.0, 100 * MIB)
        assert self.seconds_until_due(family, 1002.0) == 0.13

    def add(
        self, family: _family._Family, lender: _family._Relative | None = None
    ) -> _family._Relative:
        process: Any = FakeProcess(3)
        relative = _family._Relative(process, family, lender)
        relative.take(self.PRIVATE_BYTES)
        family.add(relative)
        return relative

    @pytest.mark.parametrize("comes", [False, True])
    def test_walks_before_and_after_a_change_do_not_fit_together(
        self,
        family: _family._Family,
        processes: list[FakeProcess],
        monkeypatch: pytest.MonkeyPatch,
        comes: bool,
    ) -> None:
        monkeypatch.setattr(_family, "_SLICE_SECONDS", 1e-6)
        for process in processes:
            process.walk_seconds = 1e-3
        third = self.add(family)
        third.process.walk_seconds = 1e-3  # type: ignore[attr-defined]
        assert family.walk(1001.0, at_once=False) is None
        if comes:
            self.add(family)
        else:
            family.remove(third)
        processes[0].borrowed_bytes = 100 * MIB
        while family.walk(1002.0, at_once=False) is None:
            pass
        assert family.relatives[0].borrowed_bytes == 100 * MIB

    def test_a_round_that_is_never_over_is_made_at_once(
        self,
        family: _family._Family,
        processes: list[FakeProcess],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(_family, "_SLICE_SECONDS", 1e-6)
        for process in processes:
            process.walk_seconds = 1e-3
        for step in range(11):
            processes[0].n_faults += 1
            assert family.walk(1001.0 + 0.1 * step, at_once=False) is None
            family.remove(self.add(family))
        processes[0].n_faults += 1
        assert family.walk(1002.2, at_once=False) is not None

    def test_waiting_ends_with_the_one_that_was_waited_for(
        self, family: _family._Family, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for relative in family.relatives:
            relative.grace_end = 2000.0
        gone = family.relatives[1]
        assert family.walk(1001.0, at_once=True) is None
        family.remove(gone)
        family.add(gone)
        assert family.walk(1001.0 + 2 * _family._NOTED_SECONDS, at_once=True) is None
        assert not family.is_restless

    def test_an_heir_is_as_good_as_the_one_that_has_gone(
        self, family: _family._Family
    ) -> None:
        lender = self.add(family)
        for relative in family.relatives:
            relative.settle(self.PRIVATE_BYTES * 2 // 3)

        def own_bytes() -> int:
            return sum(relative.own_bytes for relative in family.relatives)

        heir, other = (self.add(family, lender) for _ in range(2))
        for gone in (lender, heir, other):
            assert own_bytes() == pytest.approx(self.PRIVATE_BYTES, abs=10)
            family.remove(gone)
        assert own_bytes() == pytest.approx(self.PRIVATE_BYTES, abs=10)

    def test_one_that_has_gone_is_a_reason_to_look_soon(
        self, family: _family._Family
    ) -> None:
        third = self.add(family)
        self.make_round(family, 1001.0)
        family.remove(third)
        assert self.seconds_until_due(family, 1001.0) == 0.13


class _Model:
    """Which process has which pages, in blocks of 4 MiB with a version each."""

    BLOCK = 4

    def __init__(self, forks: Forks, n_blocks: int) -> None:
        self._forks = forks
        self._n_versions = n_blocks
        forks.run(f"blocks = [allocate({self.BLOCK}) for _ in range({n_blocks})]")
        self.blocks: dict[tuple[int, ...], list[int | None]] = {
            (): list(range(n_blocks))
        }
        self.pids = {(): forks.pid}
        self.n_forks: dict[tuple[int, ...], int] = {(): 0}
        self._orphans: list[tuple[int, ...]] = []

    def new_version(self) -> int:
        self._n_versions += 1
        return self._n_versions

    @property
    def n_bytes(self) -> int:
        """What all of them have, each page once."""
        versions = {v for blocks in self.blocks.values() for v in blocks}
        return len(versions - {None}) * self.BLOCK * MIB

    def step(self, choose: random.Random) -> None:
        """Have one of them do something."""
        path = choose.choice(sorted(self.blocks))
        number = choose.randrange(len(self.blocks[path]))
        what = choose.choice(["fork", "fork", "write", "write", "drop", "grow", "end"])
        if path in self._orphans:
            what = "end"
        if what == "fork" and len(self.blocks) < 7:
            self._fork(path)
        elif what == "write":
            self._run(path, f"touch(blocks[{number}], {self.BLOCK}, 2)")
            self.blocks[path][number] = self.new_version()
        elif what == "drop":
            self._run(path, f"blocks[{number}].madvise(mmap.MADV_DONTNEED)")
            self.blocks[path][number] = None
        elif what == "grow":
            self._run(path, f"blocks.append(allocate({self.BLOCK}))")
            self.blocks[path].append(self.new_version())
        elif what == "end" and path:
            os.kill(self.pids[path], signal.SIGKILL)
            assert wait_for_end([self.pids.pop(path)])
            del self.blocks[path]
            self._orphans += [p for p in self.blocks if p[: len(path)] == path]

    def _run(self, path: tuple[int, ...], code: str) -> Any:
        return self._forks.ask(path, code)

    def _fork(self, path: tuple[int, ...]) -> None:
        number = self.n_forks[path]
        self.n_forks[path] += 1
        new = (*path, number)
        [self.pids[new]] = self._run(path, "answer = fork(1)")
        self._forks.pids.append(self.pids[new])
        self.blocks[new] = list(self.blocks[path])
        self.n_forks[new] = 0


@pytest.mark.usefixtures("no_grace", "no_walks")
@pytest.mark.parametrize("seed", range(6))
def test_trees_that_do_anything(forks: Forks, seed: int) -> None:
    choose = random.Random(seed)
    model = _Model(forks, n_blocks=6)
    tree = forks.tree()
    before = tree.read()[1] - model.n_bytes
    for _ in range(25):
        model.step(choose)
        noise_bytes = (len(forks.pids) + 1) * FORK_BYTES
        # Without a walk it may be too little, and is never too much.
        assert tree.read()[1] - before < model.n_bytes + noise_bytes
        if choose.random() < 0.4:
            private = tree.read(closely=True)[1]
            assert private - before == pytest.approx(model.n_bytes, abs=noise_bytes)
            exact = sum_of_pss(*model.pids.values())
            assert private == pytest.approx(exact, abs=MIB // 2)


class TestPeak:
    """What may be missing from the peak is told."""

    class Tree:
        notes: ClassVar[set[str]] = {"something"}
        processes: ClassVar[list[object]] = []
        cpu_seconds: ClassVar[dict[int, float]] = {}

        def __init__(self) -> None:
            self.late: list[tuple[float, int]] = []
            self.n_bytes = 1000 * MIB

        def read(self, *, closely: bool = False) -> tuple[int, ...]:
            return (self.n_bytes, 0, 0, 0, 1, 0)

        def list_pids(self) -> list[int]:
            return []

    def notes(self, sampler: Sampler) -> object:
        return sampler.summarise()["notes"]

    def test_bytes_that_come_late(self) -> None:
        tree = self.Tree()
        sampler = Sampler(tree, GroupWatch(0), 0.01)  # type: ignore[arg-type]
        tree.n_bytes = 2000 * MIB
        sampler.read()
        tree.n_bytes = 500 * MIB
        tree.late = [(0.0, 30 * MIB)]
        sampler.read()
        [_, note] = self.notes(sampler)
        assert note.startswith("Up to 30 MiB that forked processes had written to")
        # These were not missing yet at the peak.
        tree.late = [(time.monotonic(), 300 * MIB)]
        sampler.read()
        assert self.notes(sampler) == ["something", note]
        # It is no peak any more.
        tree.n_bytes, tree.late = 2001 * MIB, []
        sampler.read()
        assert self.notes(sampler) == ["something"]

    def test_little_is_not_worth_a_note(self) -> None:
        tree = self.Tree()
        sampler = Sampler(tree, GroupWatch(0), 0.01)  # type: ignore[arg-type]
        tree.n_bytes -= 1
        tree.late = [(0.0, 9 * MIB)]
        sampler.read()
        assert self.notes(sampler) == ["something"]

    def test_peak_of_a_block_that_forks(self) -> None:
        code = FORKS + "data = allocate(64); fork(4)\n"
        code += "for fork in forks: fork.run('touch(data, 16, 2)')\n"
        code += "time.sleep(1); [fork.end() for fork in forks]"
        with measure() as report:
            subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
        assert report.peak_growth_bytes == close_to((8 + 64 + 4 * 16) * MIB, 5)


def read_for(tree: ProcessTree, seconds: float) -> tuple[float, int]:
    """Return the CPU time that readings take, and how many there were."""
    tree.read()
    n_readings, begin = 0, time.thread_time()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        tree.read()
        n_readings += 1
        time.sleep(0.01)
    return time.thread_time() - begin, n_readings


@pytest.mark.slow
def test_readings_of_busy_forks_are_cheap(forks: Forks) -> None:
    forks.start(8, n_mib=200)
    work = (
        "end = time.monotonic() + 4\n"
        "while time.monotonic() < end: more = allocate(1); time.sleep(0.05)"
    )
    forks.run(f"for fork in forks: fork.send({work!r})")
    time.sleep(_family._EXEC_GRACE_SECONDS)
    seconds = 3.0
    cpu_seconds, n_readings = read_for(forks.tree(), seconds)
    forks.run("for fork in forks: fork.receive()")
    forks.run(
        "for fork in forks: fork.end()\n"
        "command = [sys.executable, '-I', '-S', '-c', 'input()']\n"
        "started = [subprocess.Popen(command, stdin=-1) for _ in range(8)]"
    )
    usual_cpu_seconds, n_usual_readings = read_for(forks.tree(), 1.0)
    forks.run("for process in started: process.communicate(b'1')")
    usual_cpu_seconds *= n_readings / n_usual_readings
    # Beside what readings of unrelated processes take, whatever else the machine does.
    # Walks in each reading, as far as there is time for them, take a fourth of a core.
    assert (cpu_seconds - usual_cpu_seconds) / seconds < 0.15
