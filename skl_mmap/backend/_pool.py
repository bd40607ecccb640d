"""The pool of workers: loky's, beside the one that joblib has for itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from skl_mmap import _compat
from skl_mmap._child import end_with_parent
from skl_mmap.backend._locks import EventSemaphore, has_eventfd

# Ours is passed explicitly, and joblib's own copy of loky keeps its name.
with _compat.keeping_contexts():
    import loky
    from loky.backend.context import LokyContext


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
    """Return this thread's pool, resized or restarted if need be."""
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

    loky's workers wait for tasks until they time out.
    """
    end_with_parent(parent_pid)
    _compat.count_as_worker()
    if initializer is not None:
        initializer(*initargs)
