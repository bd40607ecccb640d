"""Locks of the pool, which the kernel frees: nothing is left behind."""

from __future__ import annotations

import contextlib
import os
import select
import time
import weakref
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from typing import Any


def has_eventfd() -> bool:
    """Return whether this system has eventfd."""
    return hasattr(os, "eventfd")


def can_be_read(fd: int, seconds: float | None) -> bool:
    """Wait until a descriptor can be read; False if it cannot in time."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(None if seconds is None else 1000 * seconds))


class EventSemaphore:
    """A semaphore shared with child processes; a lock if `value` is 1.

    The part of ``multiprocessing.Lock`` and ``multiprocessing.BoundedSemaphore`` that
    queues and pools use. These are named semaphores: files in /dev/shm that stay there
    for ever when parent, workers and resource tracker are killed together. An eventfd
    in semaphore mode (``man 2 eventfd``, Linux) does the same and has no name; workers
    inherit it like the pipes of their queues.
    """

    def __init__(self, value: int = 1) -> None:
        # Nothing may block in the read itself: two processes can wake up for one
        # release, and the second one has to go back to waiting.
        flags = os.EFD_CLOEXEC | os.EFD_NONBLOCK | os.EFD_SEMAPHORE
        self._adopt(os.eventfd(value, flags))

    def _adopt(self, fd: int) -> None:
        self._fd = fd
        self._finalizer = weakref.finalize(self, _close, fd)
        # Threads of loky's queues use it until the interpreter has ended.
        self._finalizer.atexit = False

    def acquire(self, block: bool = True, timeout: float | None = None) -> bool:
        """Take one; False if there was none in time."""
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            try:
                os.eventfd_read(self._fd)
            except BlockingIOError:
                if not block or not self._wait(deadline):
                    return False
            else:
                return True

    def _wait(self, deadline: float | None) -> bool:
        """Wait until there may be one; False if the deadline came first."""
        seconds = None if deadline is None else deadline - time.monotonic()
        if seconds is not None and seconds <= 0:
            return False
        can_be_read(self._fd, seconds)
        return True

    def release(self) -> None:
        """Give one back."""
        os.eventfd_write(self._fd, 1)

    @property
    def _semlock(self) -> EventSemaphore:
        # multiprocessing.Queue.full() and loky look behind the lock's own methods.
        return self

    def _is_zero(self) -> bool:
        return not can_be_read(self._fd, 0.0)

    def __enter__(self) -> bool:
        return self.acquire()

    def __exit__(self, *exception: object) -> None:
        self.release()

    def __reduce__(self) -> tuple[Callable[..., EventSemaphore], tuple[Any]]:
        # Only to a process that is being started, which inherits the descriptor.
        return _inherited, (DupFd(self._fd),)


def _inherited(descriptor: Any) -> EventSemaphore:
    semaphore = EventSemaphore.__new__(EventSemaphore)
    semaphore._adopt(descriptor.detach())
    return semaphore


def _close(fd: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
