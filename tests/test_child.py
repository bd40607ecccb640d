"""The rules for a child process of our own, each as a test."""

from __future__ import annotations

import contextlib
import marshal
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from skl_mmap._child import (
    Child,
    Connection,
    Peer,
    end_with_parent,
    explain_exit,
    function_command,
)
from tests.child_functions import NAME
from tests.waiting import PATIENCE_SECONDS, wait_for_end

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.skipif(os.name != "posix", reason="kills and forks")
needs_pidfd = pytest.mark.skipif(
    not hasattr(os, "pidfd_open"), reason="only a pidfd tells while pipes are open"
)
needs_proc = pytest.mark.skipif(
    not Path("/proc/self/fd").exists(), reason="reads /proc"
)


def start(name: str, **options: Any) -> Child:
    return Child(function_command(NAME, name), **options)


@pytest.fixture
def numbers() -> Iterator[list[int]]:
    """Processes that are killed if a test fails to."""
    pids: list[int] = []
    yield pids
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


class TestMessages:
    @pytest.mark.parametrize(
        "message",
        [
            None,
            1.5,
            "text",
            b"\0" * 5_000_000,
            {"a": [1, (2, None)]},
            list(range(10_000)),
        ],
        ids=lambda message: type(message).__name__,
    )
    def test_plain_values_come_back(self, message: Any) -> None:
        with start("echo") as child:
            child.send(message, seconds=60)
            assert child.receive(seconds=60) == message

    def test_many_messages_keep_their_order(self) -> None:
        with start("echo") as child:
            for number in range(200):
                child.send(number)
            assert [child.receive() for _ in range(200)] == list(range(200))

    def test_what_is_printed_goes_to_stderr(self) -> None:
        with start("chatter") as child:
            assert child.receive() == ["", "answer"]
            assert child.last_words().split("\n") == [
                *("printed", "written to 1", "by a program")
            ]
            assert child.last_words(8, n_lines=1) == "by a program"
            assert child.count_words() == len("printed\nwritten to 1\nby a program\n")

    def test_the_environment_can_be_set(self) -> None:
        code = "import marshal, os; data = marshal.dumps(os.environ['A'])"
        code += "; os.write(1, len(data).to_bytes(8, 'little') + data)"
        command = [sys.executable, "-c", code]
        with Child(command, environment={"A": "yes"}) as child:
            assert child.receive(seconds=60) == "yes"

    def test_nothing_that_is_sent_is_executed(self, tmp_path: Path) -> None:
        class Bomb:
            def __reduce__(self) -> Any:
                return Path.touch, (tmp_path / "exploded",)

        with start("echo") as child:
            child.send(pickle.dumps(Bomb()))
            assert isinstance(child.receive(), bytes)
            with pytest.raises(ValueError, match="unmarshallable"):
                child.send(Bomb())
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.skipif(sys.version_info < (3, 13), reason="marshal refuses code")
    def test_code_is_not_even_read(self) -> None:
        data = marshal.dumps(compile("1", "", "eval"))
        receive, send = os.pipe()
        os.write(send, len(data).to_bytes(8, "little") + data)
        connection = Connection(receive, send)
        with pytest.raises(ValueError, match="code"):
            connection.receive()
        connection.close()

    def test_garbage_is_an_error(self) -> None:
        code = "import os; os.write(1, (4).to_bytes(8, 'little') + b'\\xff' * 4)"
        with (
            Child([sys.executable, "-c", code]) as child,
            pytest.raises((ValueError, EOFError, TypeError)),
        ):
            child.receive(seconds=60)


class TestEndOfTheChild:
    def test_killed_child(self) -> None:
        with start("die") as child:
            child.send(None)
            with pytest.raises(EOFError):
                child.receive(seconds=60)
            child.send("to nobody")
        assert child.return_code == -signal.SIGABRT
        assert not psutil.pid_exists(child.pid)

    @needs_pidfd
    def test_killed_child_whose_fork_holds_the_pipes(self, numbers: list[int]) -> None:
        with start("die_with_open_pipes") as child:
            numbers.append(child.receive(seconds=60))
            child.send(None)
            with pytest.raises(EOFError):
                child.receive(seconds=60)
            assert child.wait(seconds=60)
            assert psutil.pid_exists(numbers[0])
        # It was in the child's session.
        assert wait_for_end([numbers[0]])
        assert child.return_code == 7

    def test_a_child_ends_when_its_input_does(self) -> None:
        child = start("echo")
        child.send(1)
        assert child.receive() == 1
        child.close(seconds=60)
        assert child.return_code == 0
        child.close()

    def test_what_a_child_leaves_running_is_ended(self) -> None:
        with start("leave_program") as child:
            pid = child.receive()
        assert wait_for_end([pid])

    def test_no_zombies_and_no_files_are_left(self) -> None:
        children = [start("echo") for _ in range(3)]
        for child in children:
            child.close()
        assert not any(psutil.pid_exists(child.pid) for child in children)

    def test_a_command_that_is_not_there(self) -> None:
        with pytest.raises(OSError, match="no/such"):
            Child(["/no/such/command"])

    def test_a_child_without_its_module_says_so(self) -> None:
        with Child(function_command("no_such_module", "name")) as child:
            with pytest.raises(EOFError):
                child.receive(seconds=60)
            child.wait(seconds=60)
            assert "No module named 'no_such_module'" in child.last_words()
        assert child.return_code == 1

    def test_without_pidfd(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        with start("die") as child:
            assert not child.wait(seconds=0.05)
            child.send(None)
            with pytest.raises(EOFError):
                child.receive(seconds=60)
            assert child.wait(seconds=60)
        assert child.return_code == -signal.SIGABRT

    def test_ends_have_names(self) -> None:
        assert explain_exit(3) == "exit code 3"
        assert explain_exit(-6) == "killed by SIGABRT"
        assert "too little memory" in explain_exit(-9)


class TestHungChild:
    def test_no_answer(self) -> None:
        with start("echo") as child, pytest.raises(TimeoutError):
            child.receive(seconds=0.1)

    def test_half_an_answer(self) -> None:
        with start("hang") as child, pytest.raises(TimeoutError):
            child.receive(seconds=2.0)
        assert child.return_code == -signal.SIGKILL

    def test_a_child_that_does_not_read(self) -> None:
        with start("hang") as child, pytest.raises(TimeoutError):
            child.send(bytes(1 << 22), seconds=0.1)

    def test_a_stopped_child_is_killed(self) -> None:
        with start("echo") as child:
            child.send(1)
            child.receive()
            os.kill(child.pid, signal.SIGSTOP)
            with pytest.raises(TimeoutError):
                child.receive(seconds=0.1)
            child.close(seconds=0.1)
        assert child.return_code == -signal.SIGKILL


class TestEndOfTheParent:
    @pytest.mark.parametrize("forks", [False, pytest.param(True, marks=needs_pidfd)])
    def test_a_child_that_reads_ends(self, forks: bool, numbers: list[int]) -> None:
        with start("be_parent") as parent:
            parent.send(["echo", None, forks])
            pid, fork = parent.receive(seconds=60)
            numbers += [pid, *([fork] if fork > 0 else [])]
            os.kill(parent.pid, signal.SIGKILL)
            assert wait_for_end([pid])
            assert fork < 0 or psutil.pid_exists(fork)

    @pytest.mark.parametrize("forks", [False, True])
    def test_a_child_that_works_ends_in_order(
        self, forks: bool, numbers: list[int], tmp_path: Path
    ) -> None:
        path = tmp_path / "end"
        with start("be_parent") as parent:
            parent.send(["follow_parent", str(path), forks])
            pid, fork = parent.receive(seconds=60)
            numbers += [pid, *([fork] if fork > 0 else [])]
            os.kill(parent.pid, signal.SIGKILL)
            assert wait_for_end([pid])
        assert path.read_text() == "in order"

    def test_a_parent_that_has_ended_before_anybody_looked(self) -> None:
        # A process that has been waited for, so that its number is free.
        with subprocess.Popen(["true"]) as process:
            pass
        for pid in (process.pid, os.getpid()):  # the second one is somebody
            peer = Peer(pid)
            with pytest.raises(EOFError):
                peer.wait(seconds=60)
            peer.close()

    def test_without_pidfd_it_is_looked_at(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
        peer = Peer(os.getppid())
        with pytest.raises(TimeoutError):
            peer.wait(seconds=0.01)
        monkeypatch.setattr(os, "getppid", lambda: 1)
        with pytest.raises(EOFError):
            peer.wait()

    def test_a_process_without_a_group_of_its_own_ends_alone(self) -> None:
        code = (
            "import os, sys, time; sys.path[:] = eval(sys.argv[1])\n"
            "from skl_mmap._child import end_with_parent\n"
            "end_with_parent(int(sys.argv[2])); print(flush=True); time.sleep(600)"
        )
        other = str(os.getppid())  # whose child it is not
        command = [sys.executable, "-c", code, repr(sys.path), other]
        result = subprocess.run(command, stdout=-1, stderr=-1, timeout=PATIENCE_SECONDS)
        assert result.returncode == -signal.SIGKILL
        assert end_with_parent.__doc__


class TestDescriptors:
    @needs_proc
    def test_only_what_is_meant_to_be_is_inherited(self, tmp_path: Path) -> None:
        inherited = os.open(tmp_path / "given", os.O_CREAT | os.O_RDWR)
        other = os.open(tmp_path / "other", os.O_CREAT | os.O_RDWR)
        os.set_inheritable(other, True)
        try:
            with start("list_files", pass_fds=[inherited]) as child:
                files, of_program = child.receive(seconds=60)
        finally:
            os.close(inherited)
            os.close(other)
        assert files[0] == os.devnull
        assert files[1] == files[2] != os.devnull  # what keeps stderr
        rest = [target for fd, target in files.items() if fd > 2]
        assert rest.count(str(tmp_path / "given")) == 1
        assert not any("other" in target for target in rest)
        assert len([target for target in rest if target.startswith("pipe:")]) == 2
        # 0, 1, 2, the file that was given, and the listing itself.
        assert of_program[0].startswith(os.devnull)
        assert of_program[1] in ("4", "5")

    @pytest.mark.parametrize("closed", ["0", "1", "2", "0, 1", "0, 1, 2"])
    def test_standard_streams_may_be_closed(self, closed: str, tmp_path: Path) -> None:
        path = tmp_path / "result"
        code = (
            f"import os, sys; sys.path[:] = {sys.path!r}\n"
            f"for fd in ({closed},): os.close(fd)\n"
            "from skl_mmap._child import Child, function_command\n"
            "answers = []\n"
            "for keeps in (True, False):\n"
            f"    command = function_command({NAME!r}, 'echo')\n"
            "    with Child(command, keeps_stderr=keeps) as child:\n"
            "        child.send('hello')\n"
            "        answers.append(child.receive(seconds=60))\n"
            f"open({str(path)!r}, 'w').write(repr(answers))\n"
        )
        subprocess.run(
            [sys.executable, "-c", code],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=PATIENCE_SECONDS,
        )
        assert path.read_text() == "['hello', 'hello']"


class TestSignals:
    def test_the_child_has_a_session_of_its_own_and_ends_in_order(
        self, tmp_path: Path
    ) -> None:
        path = tmp_path / "end"
        with start("wait_for_interrupt") as child:
            child.send(str(path))
            pid, session = child.receive(seconds=60)
            assert session == pid == child.pid
            assert os.getsid(0) != session
            child.interrupt(seconds=60)
        assert child.return_code == 130
        assert path.read_text() == "in order"

    def test_interrupts_work_where_the_parent_ignores_them(
        self, tmp_path: Path
    ) -> None:
        before = signal.signal(signal.SIGINT, signal.SIG_IGN)
        try:
            with start("wait_for_interrupt") as child:
                child.send(str(tmp_path / "end"))
                child.receive(seconds=60)
                child.interrupt(seconds=60)
        finally:
            signal.signal(signal.SIGINT, before)
        assert child.return_code == 130


class TestThreadsAndForks:
    def test_a_child_outlives_the_thread_that_has_started_it(self) -> None:
        children: list[Child] = []
        thread = threading.Thread(
            target=lambda: children.append(start("echo")), daemon=True
        )
        thread.start()
        thread.join()
        with children[0] as child:
            time.sleep(0.2)
            child.send(2)
            assert child.receive(seconds=60) == 2

    def test_a_fork_leaves_the_child_alone(self) -> None:
        with start("echo") as child:
            pid = os.fork()
            if not pid:
                code = 9
                with contextlib.suppress(BaseException):
                    child.interrupt(seconds=1)
                    child.close()
                    code = 3 if not child.is_ours else 4
                os._exit(code)
            _, status = os.waitpid(pid, 0)
            assert os.waitstatus_to_exitcode(status) == 3
            child.send("still there")
            assert child.receive(seconds=60) == "still there"
