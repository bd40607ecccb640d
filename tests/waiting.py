"""Waiting for what will happen: with patience, as a machine may be busy for a while."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import psutil

# Nobody waits that long where a test passes: waiting ends with what it is for.
PATIENCE_SECONDS = 120.0


def wait_until(condition: Callable[[], object]) -> bool:
    """Wait until a condition holds; False if it does not, after all patience."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def is_running(pid: int) -> bool:
    """Tell if a process runs; a zombie, which its parent has to reap, does not."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_end(pids: Collection[int]) -> bool:
    """Wait until processes have ended; False if one of them does not."""
    return wait_until(lambda: not any(map(is_running, pids)))
