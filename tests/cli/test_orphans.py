"""Processes that lose their parent are waited for, reaped, and ended if need be."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import Any

import psutil
import pytest

from skl_mmap.cli._script import adopting_orphans
from tests.waiting import PATIENCE_SECONDS, wait_until

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux lets a process adopt orphans"
)

# Starts processes and ends at once; each lives for so many seconds.
PARENT = """
import subprocess, sys
code = "import sys, time; time.sleep(float(sys.argv[1]))"
for seconds in sys.argv[2:]:
    subprocess.Popen([sys.executable, "-c", code, seconds, sys.argv[1]])
"""
# Has a child that has a child, and waits for it.
CHAIN = """
import subprocess, sys
subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
"""
# Leaves a process that does not wait for a child that has ended.
NEGLIGENT = """
import subprocess, sys
code = "import os, time; os._exit(0) if os.fork() == 0 else time.sleep(600)"
subprocess.Popen([sys.executable, "-c", code])
"""


def start_orphans(name: str, *seconds: str) -> None:
    subprocess.run([sys.executable, "-c", PARENT, name, *seconds], check=True)


def list_children() -> list[str]:
    return [f"{child.pid} {child.status()}" for child in psutil.Process().children()]


def end_the_new_one(before: list[str]) -> None:
    """End the one child that was not there before; nobody else has done so."""
    (daemon,) = (
        child
        for child in psutil.Process().children()
        if f"{child.pid} {child.status()}" not in before
    )
    daemon.kill()
    assert daemon.wait(PATIENCE_SECONDS) == -signal.SIGKILL


def test_orphans_that_end_soon_are_reaped() -> None:
    before = list_children()
    with adopting_orphans():
        start_orphans("worker", "0.1", "0.5")
        assert len(list_children()) == len(before) + 2
    assert list_children() == before


def test_trackers_have_more_time() -> None:
    before = list_children()
    with adopting_orphans():
        start_orphans("resource_tracker", "1.5")
    assert list_children() == before


def test_what_is_to_outlive_the_block_does() -> None:
    before = list_children()
    start = time.monotonic()
    with adopting_orphans():
        start_orphans("daemon", "600")
    assert time.monotonic() - start < PATIENCE_SECONDS
    end_the_new_one(before)
    assert list_children() == before


def test_everything_is_ended_at_an_error() -> None:
    before = list_children()

    def fail() -> None:
        start_orphans("worker", "600", "600")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), adopting_orphans():
        fail()
    assert list_children() == before


def test_children_of_what_is_ended_are_reaped_too() -> None:
    before = list_children()
    with adopting_orphans() as end_orphans:
        process = subprocess.Popen([sys.executable, "-c", CHAIN])
        assert wait_until(psutil.Process(process.pid).children)
        end_orphans()
        assert list_children() == before
        process.wait()


def test_a_zombie_of_another_process_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = list_children()
    calls: list[int] = []
    wait_procs = psutil.wait_procs

    def count(processes: list[psutil.Process], timeout: float) -> Any:
        calls.append(len(processes))
        return wait_procs(processes, timeout=timeout)

    monkeypatch.setattr(psutil, "wait_procs", count)
    with adopting_orphans():
        subprocess.run([sys.executable, "-c", NEGLIGENT], check=True)
    # As long as anything may take, and no longer: ten rounds, fewer if busy.
    assert len(calls) <= 12
    end_the_new_one(before)
