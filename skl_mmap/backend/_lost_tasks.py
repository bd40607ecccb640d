"""What is said when a worker has ended in the middle of a task."""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any

from skl_mmap import _compat
from skl_mmap._linux import proc
from skl_mmap._units import format_bytes
from skl_mmap.backend._observation import label_batch
from skl_mmap.exceptions import LostWorkerError
from skl_mmap.monitor import count_own_kills

_MOST_NAMES = 6
_OTHERS = _compat.terminated_worker_errors()


class TerminatedWorkerError(LostWorkerError, *_OTHERS):  # type: ignore[misc]
    """The error of loky, of joblib's copy of it, and ours: whichever is expected."""


class TasksInFlight:
    """The batches of a call that have no result yet, in the order they were sent.

    Parameters
    ----------
    n_workers : int
        How many of them run at the same time.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._batches: dict[Future[Any], Any] = {}
        self._kills = count_own_kills()

    def add(self, future: Future[Any], batch: Any) -> None:
        """Remember a batch, until it has a result."""
        self._batches[future] = batch
        # Behind joblib's own callback, which raises the error of the first batch.
        future.add_done_callback(self._forget)

    def _forget(self, future: Future[Any]) -> None:
        self._batches.pop(future, None)

    def explain(self, error: BaseException) -> TerminatedWorkerError:
        """Return an error that says which tasks ran when a worker ended, and why."""
        running = list(self._batches.values())[: self._n_workers]
        names = list(dict.fromkeys(filter(None, map(label_batch, running))))
        shown = [*names[:_MOST_NAMES], "others"][: len(names)] or ["tasks of yours"]
        codes = str(error).partition("The exit codes of the workers are ")[2]
        return TerminatedWorkerError(
            "A worker has ended in the middle of a task, so the call has no result. "
            f"Those that ran: {'; '.join(shown)}. Exit codes of the workers: "
            f"{codes.partition(chr(10))[0] or 'not known'}. {self._find_cause()} The "
            "next call starts new workers."
        )

    def _find_cause(self) -> str:
        n_kills = count_own_kills() - self._kills
        if n_kills > 0:
            return (
                f"The kernel has ended {n_kills} processes of this control group for "
                "want of memory. Let fewer tasks run at once (n_jobs), share X in "
                "place (adopt=True), or keep it on a disk (store='disk')."
            )
        room = proc.available_memory_bytes()
        left = "" if room is None else f"; {format_bytes(room)} are available now"
        return (
            "SIGKILL is mostly the kernel's, for want of memory, and SIGSEGV that of "
            f"faulty native code{left}. A report of skl_mmap.measure() says what tasks "
            "need."
        )
