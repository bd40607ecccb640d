from __future__ import annotations

import sys
import time

import psutil
import pytest

from skl_mmap.cli._child import run_child
from skl_mmap.cli._command import CommandError
from tests.waiting import wait_for_end

WORK = "tests.cli.child_work"

needs_posix = pytest.mark.skipif(
    sys.platform == "win32", reason="process groups are POSIX"
)


def test_work_gets_the_spec_and_the_environment_and_returns_its_result() -> None:
    steps: list[str] = []
    result, messages = run_child(
        WORK,
        {"what": "echo", "numbers": [1, 2.5]},
        on_step=steps.append,
        environment={"SKL_TEST": "yes"},
    )
    assert result["spec"] == {"what": "echo", "numbers": [1, 2.5]}
    assert result["variable"] == "yes"
    assert steps == ["doing echo"]
    assert messages == ""


def test_each_child_is_a_fresh_process_that_ends() -> None:
    pids = {run_child(WORK, {"what": "echo"})[0]["pid"] for _ in range(2)}
    assert len(pids) == 2
    assert wait_for_end(pids)


def test_what_work_prints_does_not_disturb_the_result() -> None:
    result, messages = run_child(WORK, {"what": "print"})
    assert "pid" in result
    assert "printed by a library" in messages
    assert "written to file descriptor 1" in messages


def test_an_error_in_the_child_is_reported_with_its_traceback() -> None:
    with pytest.raises(CommandError, match="exit code 1") as error:
        run_child(WORK, {"what": "fail"})
    assert "ValueError: this work cannot be done" in str(error.value)


def test_a_module_that_cannot_be_imported_is_reported() -> None:
    with pytest.raises(CommandError, match="No module named 'no_such_module'"):
        run_child("no_such_module", {})


@needs_posix
def test_a_child_that_is_killed_is_reported_by_signal() -> None:
    with pytest.raises(CommandError, match="killed by SIGABRT"):
        run_child(WORK, {"what": "die"})


@needs_posix
def test_processes_that_work_leaves_running_are_ended() -> None:
    result, _ = run_child(WORK, {"what": "orphan"})
    assert wait_for_end([result["pid"]])


@needs_posix
def test_an_exception_while_waiting_ends_the_child_and_its_processes() -> None:
    children: list[psutil.Process] = []

    def interrupt(_step: str) -> None:
        while not children:
            children.extend(
                process
                for child in psutil.Process().children()
                for process in child.children()
            )
        raise KeyboardInterrupt

    start = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        run_child(WORK, {"what": "orphan", "seconds": 600}, on_step=interrupt)
    assert wait_for_end([child.pid for child in children])
    assert time.monotonic() - start < 300
