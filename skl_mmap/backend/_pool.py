"""The pool of workers: loky's, beside the one that joblib has for itself.

joblib vendors loky and registers its context with multiprocessing under the name
"loky". Importing the loky package puts another one there, and joblib's own backend
would then talk to the wrong resource tracker: KeyErrors on stderr, and leaks. So the
names are given back to joblib after the import, and our context is passed explicitly.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing import context as mp_context
from typing import Any

from joblib.externals.loky import process_executor as joblib_executor
from joblib.externals.loky.backend import context as joblib_context

# No public name: multiprocessing offers no way to register a context, and loky itself
# assigns to this dictionary.
_contexts: dict[str, Any] = mp_context._concrete_contexts  # type: ignore[attr-defined]
_contexts_before = dict(_contexts)

import loky  # noqa: E402
from loky.backend.context import LokyContext  # noqa: E402

from skl_mmap.backend._locks import EventSemaphore, has_eventfd  # noqa: E402

__all__ = ["get_executor"]


def _give_names_back() -> None:
    """Register joblib's contexts again, whoever was imported first."""
    for name, kind in (
        ("loky", joblib_context.LokyContext),
        ("loky_init_main", joblib_context.LokyInitMainContext),
    ):
        before = _contexts_before.get(name)
        _contexts[name] = before if isinstance(before, kind) else kind()


_give_names_back()


class _Context(LokyContext):  # type: ignore[misc]
    """loky's context, with locks that leave nothing behind."""

    def Lock(self) -> Any:  # noqa: N802 - multiprocessing's name
        return EventSemaphore() if has_eventfd() else super().Lock()

    def BoundedSemaphore(self, value: int = 1) -> Any:  # noqa: N802
        return (
            EventSemaphore(value) if has_eventfd() else super().BoundedSemaphore(value)
        )


_context = _Context()


def get_executor(
    n_jobs: int,
    *,
    idle_worker_timeout: float,
    env: dict[str, str],
    initializer: Callable[..., object] | None = None,
    initargs: tuple[Any, ...] = (),
) -> Any:
    """Return this thread's pool, resized or restarted if need be.

    Parameters
    ----------
    n_jobs : int
        Workers.
    idle_worker_timeout : float
        Seconds after which idle workers stop.
    env : dict
        Environment variables of the workers.
    initializer : callable, optional
        Called in each worker when it starts.
    initargs : tuple, default=()
        Its arguments.

    Returns
    -------
    loky executor
        The same one for the same arguments, so that workers stay warm.
    """
    return loky.get_reusable_executor(
        max_workers=n_jobs,
        context=_context,
        timeout=idle_worker_timeout,
        initializer=_prepare_worker,
        initargs=(os.getpid(), initializer, initargs),
        env=env,
    )


def _prepare_worker(
    parent_pid: int,
    initializer: Callable[..., object] | None,
    initargs: tuple[Any, ...],
) -> None:
    """Make a new worker end with its parent, even if that is killed.

    loky's workers wait for tasks until they time out. Not PR_SET_PDEATHSIG: its
    signal comes when the *thread* that started the worker ends.
    """
    watcher = threading.Thread(
        target=_end_with, args=(parent_pid,), name="skl_mmap-parent", daemon=True
    )
    watcher.start()
    # joblib asks its own copy of loky whether it runs in a worker already.
    joblib_executor._CURRENT_DEPTH += 1
    if initializer is not None:
        initializer(*initargs)


def _end_with(parent_pid: int) -> None:
    if hasattr(os, "pidfd_open"):
        with contextlib.suppress(OSError):  # no such process, or an old kernel
            parent_fd = os.pidfd_open(parent_pid)
            if os.getppid() == parent_pid:
                poll = select.poll()
                poll.register(parent_fd, select.POLLIN)
                poll.poll()
            os.close(parent_fd)
    while os.getppid() == parent_pid:
        time.sleep(1.0)
    os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
