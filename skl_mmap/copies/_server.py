"""The process that starts a process for each job, as it sees itself.

::

    parent  --spec, jobs-->  server (new interpreter)  --fork-->  job
                             | imports, unpickles the             | measures, and may
                             | estimator, runs nothing of it      | crash
    parent  <---answers----  | <-----------answers--------------- |

Importing takes a second, forking some milliseconds. The server has one thread and no
BLAS or OpenMP threads, so that forking it is safe. What a job leaves running ends with
it; job and server end when their parent does, however it does.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import pickle
import select
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from skl_mmap._linux import calls

__all__ = ["Spec", "read_message", "serve", "write_message"]

_SIZE_BYTES = 8


@dataclass(frozen=True, slots=True)
class Spec:
    """What all jobs have in common.

    Attributes
    ----------
    estimator : bytes
        Pickled, not fitted.
    sample : Sample
        The data.
    timeout_seconds : float
        For each job.
    """

    estimator: bytes
    sample: Any
    timeout_seconds: float


def write_message(fd: int, message: Any) -> None:
    """Write an object to a pipe, with its size before it."""
    data = pickle.dumps(message, protocol=4)
    view = memoryview(len(data).to_bytes(_SIZE_BYTES, "little") + data)
    while view:
        view = view[os.write(fd, view) :]


def read_message(fd: int) -> Any:
    """Read an object from a pipe.

    Raises
    ------
    EOFError
        If the other end is closed.
    """
    return pickle.loads(_read(fd, int.from_bytes(_read(fd, _SIZE_BYTES), "little")))


def _read(fd: int, n_bytes: int) -> bytes:
    data = bytearray()
    while len(data) < n_bytes:
        piece = os.read(fd, min(n_bytes - len(data), 1 << 20))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)


def serve() -> None:
    """Do the jobs that the parent sends, until it sends no more."""
    source, answers = _take_pipes()
    try:
        spec: Spec = read_message(source)
    except EOFError:
        return
    try:
        # So that jobs find it imported.
        importlib.import_module("skl_mmap.copies._measuring")
        pickle.loads(spec.estimator)
    except BaseException as error:  # noqa: BLE001 - it is told, and nothing else done
        traceback.print_exc()
        write_message(answers, ("failed", f"{type(error).__name__}: {error}"))
        return
    write_message(answers, ("ready", None))
    gc.collect()
    gc.freeze()
    with contextlib.suppress(EOFError):
        while True:
            job = read_message(source)
            write_message(answers, ("ended", _run(job, spec, source, answers)))


def _take_pipes() -> tuple[int, int]:
    """Keep both pipes to the parent from whatever reads and prints."""
    source, answers = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return source, answers


def _run(job: Any, spec: Spec, source: int, answers: int) -> str:
    """Run one job in a process of its own, and return how that ended."""
    own, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        for fd in (own, source, answers):
            os.close(fd)
        _do(job, spec, theirs)
    os.close(theirs)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    process = os.pidfd_open(pid)
    try:
        has_ended = _forward(process, own, source, answers, spec.timeout_seconds)
    finally:
        # With all that it has started.
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(process)
        os.close(own)
    return _describe(status) if has_ended else "timeout"


def _forward(
    process: int, own: int, source: int, answers: int, timeout_seconds: float
) -> bool:
    """Pass answers on until the job ends; False if it took too long.

    Raises
    ------
    EOFError
        If the parent is gone.
    """
    deadline = time.monotonic() + timeout_seconds
    watched = [own, process, source]
    while True:
        seconds = deadline - time.monotonic()
        ready, _, _ = select.select(watched, [], [], max(0.0, seconds))
        if own in ready:
            try:
                write_message(answers, read_message(own))
            except EOFError:
                watched.remove(own)
            continue
        if process in ready:
            return True
        if source in ready:
            raise EOFError
        if seconds <= 0:
            return False


def _describe(status: int) -> str:
    """Name the end of a process; empty if it did what it was to do."""
    code = os.waitstatus_to_exitcode(status)
    if code == 0:
        return ""
    if code > 0:
        return f"it ended with exit code {code}"
    hint = ", often the kernel's answer to too little memory" if code == -9 else ""
    return f"it was killed by {signal.Signals(-code).name}{hint}"


def _do(job: Any, spec: Spec, answers: int) -> NoReturn:
    """Be the process of a job."""
    code = 1
    try:
        os.setpgid(0, 0)
        # Its parent has only the thread that forked.
        calls.set_parent_death_signal(signal.SIGKILL)
        # Memory in pages of 4 KiB: in huge ones, untouched memory counts.
        calls.disable_huge_pages()
        from skl_mmap.copies._measuring import perform

        def make_estimator() -> Any:
            estimator = pickle.loads(spec.estimator)
            return (
                estimator.set_params(**job.parameters) if job.parameters else estimator
            )

        def send(message: Any) -> None:
            name = "doing" if isinstance(message, str) else "answer"
            write_message(answers, (name, message))

        perform(job, spec.sample, make_estimator, send)
        code = 0
    except BaseException:  # noqa: BLE001 - what else could a process do with it
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        # Not the exit handlers of the server, whose copy this is.
        os._exit(code)


if __name__ == "__main__":
    serve()
