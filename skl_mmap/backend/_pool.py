"""The pool of workers: loky's, beside the one that joblib has for itself.

Its locks are freed by the kernel, so that nothing is left behind.
"""

from __future__ import annotations

import contextlib
import functools
import os
import select
import time
import weakref
from collections.abc import Callable
from multiprocessing.reduction import DupFd
from typing import Any

from skl_mmap import _compat
from skl_mmap._child import end_with_parent

# Ours is passed explicitly, and joblib's own copy of loky keeps its name.
with _compat.keeping_contexts():
    import loky
    from loky.backend.context import LokyContext

    from skl_mmap.backend import _fork_server
    from skl_mmap.backend._forking import ForkedProcess
    from skl_mmap.backend._options import Options

# A server stays that long without workers, for calls that end theirs and start others.
_SERVER_SECONDS = 60.0


class _Context(LokyContext):  # type: ignore[misc]
    """loky's context, with locks that leave nothing behind, and workers as asked for.

    Parameters
    ----------
    can_fork : bool
        Whether workers are forked from a server where that is possible.
    preload : tuple of str
        Modules that the server imports, beside those of this process.
    idle_seconds : float
        Time without workers after which the server ends.
    """

    def __init__(
        self, can_fork: bool, preload: tuple[str, ...], idle_seconds: float
    ) -> None:
        super().__init__()
        self._can_fork = can_fork
        self._preload = preload
        self._idle_seconds = idle_seconds
        self._started: weakref.WeakSet[ForkedProcess] = weakref.WeakSet()

    def Process(self, *args: Any, **kwargs: Any) -> Any:  # noqa: N802
        if not self._can_fork:
            return super().Process(*args, **kwargs)
        process = ForkedProcess(*args, **kwargs)
        process.preload, process.idle_seconds = self._preload, self._idle_seconds
        self._started.add(process)
        return process

    def why_spawned(self) -> str:
        """Return why a worker could not be forked; empty if all were."""
        return next((p.refusal for p in list(self._started) if p.refusal), "")

    def Lock(self) -> Any:  # noqa: N802 - multiprocessing's name
        return EventSemaphore() if has_eventfd() else super().Lock()

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
        return (
            EventSemaphore(value) if has_eventfd() else super().BoundedSemaphore(value)
        )


# loky compares the contexts of two calls, to find out if workers may stay.
_get_context = functools.cache(_Context)


def _find_context(options: Options) -> _Context:
    idle_seconds = min(options.idle_worker_timeout, _SERVER_SECONDS)
    return _get_context(options.workers == "auto", options.preload, idle_seconds)


def get_executor(n_jobs: int, options: Options, env: dict[str, str]) -> Any:
    """Return this thread's pool, resized or restarted if need be."""
    get = functools.partial(
        loky.get_reusable_executor,
        max_workers=n_jobs,
        context=_find_context(options),
        timeout=options.idle_worker_timeout,
        initializer=_prepare_worker,
        initargs=(os.getpid(), options.initializer, options.initargs),
        env=env,
    )
    try:
        return get()
    except OSError:
        # A worker was killed while others were started. loky knows of it by now, and
        # begins a new pool; whatever else it was happens again.
        return get()


def submit(executor: Any, task: Any) -> Any:
    """Send a task to the workers, and return its future.

    Raises
    ------
    BrokenProcessPool
        If a worker has ended.
    """
    try:
        return executor.submit(task)
    except OSError as error:
        broken = _compat.why_broken(executor)
        if broken is None:
            raise
        raise broken from error


def why_spawned(options: Options) -> str:
    """Return why workers are new interpreters; empty if none is, or as asked for."""
    return _find_context(options).why_spawned()


def _prepare_worker(
    parent_pid: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Make a new worker end with its parent, even if that is killed.

    loky's workers wait for tasks until they time out.
    """
    end_with_parent(parent_pid, parent_fd=_fork_server.parent_fd)
    _compat.count_as_worker()
    if initializer is not None:
        initializer(*initargs)


def has_eventfd() -> bool:
    """Return whether this system has eventfd."""
    return hasattr(os, "eventfd")


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
        milliseconds = None
        if deadline is not None:
            milliseconds = 1000 * (deadline - time.monotonic())
            if milliseconds <= 0:
                return False
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        poll.poll(milliseconds)
        return True

    def release(self) -> None:
        """Give one back."""
        os.eventfd_write(self._fd, 1)

    @property
    def _semlock(self) -> EventSemaphore:
        # multiprocessing.Queue.full() and loky look behind the lock's own methods.
        return self

    def _is_zero(self) -> bool:
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        return not poll.poll(0)

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
