"""The pool of workers: loky's, beside the one that joblib has for itself.

Its locks are freed by the kernel, so that nothing is left behind.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable
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
    from skl_mmap.backend._semaphore import EventSemaphore, has_eventfd

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
