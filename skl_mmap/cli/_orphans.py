"""Processes that outlive the one that started them, and how they are ended."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator

import psutil

from skl_mmap._linux.calls import set_child_subreaper

__all__ = ["adopting_orphans"]

# How long all that is left may take to end by itself, and those that surely will:
# resource trackers, which remove what is left of others first.
_REST_SECONDS = 1.0
_GRACE_SECONDS = 5.0
# Between two looks at which processes there are.
_ROUND_SECONDS = 0.1


@contextlib.contextmanager
def adopting_orphans() -> Iterator[Callable[[], None]]:
    """Become the parent of all processes that lose theirs while a block runs.

    When the block ends, what will end by itself is waited for. If it ends with an
    exception, everything that it has started is ended.

    Yields
    ------
    callable
        Ends everything that the block has started.
    """
    before = {child.pid for child in psutil.Process().children()}

    def list_new(*, recursive: bool = True) -> list[psutil.Process]:
        children = psutil.Process().children(recursive=recursive)
        return [child for child in children if child.pid not in before]

    def list_ending() -> list[psutil.Process]:
        # Those of another process end with it, and are for it to wait for.
        children = list_new(recursive=False)
        return [process for process in children if _is_ending(process)]

    def kill_new() -> list[psutil.Process]:
        processes = list_new()
        _kill(process for process in processes if not _is_ending(process))
        return processes

    def end_new() -> None:
        _wait(kill_new, _GRACE_SECONDS)
        _kill(list_new())
        _wait(list_new, _REST_SECONDS)

    set_child_subreaper(is_on=True)
    try:
        yield end_new
        # Not for ever: a script may have started something that is to outlive it.
        _wait(list_new, _REST_SECONDS)
        _wait(list_ending, _GRACE_SECONDS)
    except BaseException:
        end_new()
        raise
    finally:
        set_child_subreaper(is_on=False)


def _wait(list_processes: Callable[[], list[psutil.Process]], seconds: float) -> None:
    """Wait until there are no processes, and reap those that are children by then.

    They are listed again and again: the end of one makes others children of this
    process, which are not reaped by having been waited for before.
    """
    deadline = time.monotonic() + seconds
    while processes := list_processes():
        left = deadline - time.monotonic()
        if left <= 0:
            return
        psutil.wait_procs(processes, timeout=min(left, _ROUND_SECONDS))


def _is_ending(process: psutil.Process) -> bool:
    """Whether a process has ended, or will when all others have: a resource tracker.

    Trackers remove what is left of others, so that they should not be killed.
    """
    try:
        if process.status() == psutil.STATUS_ZOMBIE:
            return True
        return any("resource_tracker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True
    except psutil.Error:
        return False


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.Error):
            process.kill()
