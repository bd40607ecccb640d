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
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from typing import Any, NoReturn

from skl_mmap._child import Connection, describe_exit
from skl_mmap._linux import calls
from skl_mmap.copies._job import to_plain


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


def serve(connection: Connection) -> None:
    """Do the jobs that the parent sends, until it sends no more."""
    with contextlib.suppress(EOFError):
        # What comes from the parent is its own.
        spec: Spec = pickle.loads(connection.receive())
        try:
            # So that jobs find it imported.
            importlib.import_module("skl_mmap.copies._measuring")
            pickle.loads(spec.estimator)
        except BaseException as error:  # noqa: BLE001 - it is told, and nothing else done
            traceback.print_exc()
            connection.send(["failed", f"{type(error).__name__}: {error}"])
            return
        connection.send(["ready", None])
        gc.collect()
        gc.freeze()
        while True:
            job = pickle.loads(connection.receive())
            connection.send(["ended", _run(job, spec, connection)])


def _run(job: Any, spec: Spec, connection: Connection) -> str:
    """Run one job in a process of its own, and return how that ended."""
    own, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(own)
        connection.close()
        _do(job, spec, Connection(-1, theirs))
    os.close(theirs)
    with contextlib.suppress(OSError):
        os.setpgid(pid, pid)
    process = os.pidfd_open(pid)
    try:
        has_ended = _forward(process, own, connection, spec.timeout_seconds)
    finally:
        # With all that it has started.
        with contextlib.suppress(OSError):
            os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        os.close(process)
        os.close(own)
    code = os.waitstatus_to_exitcode(status)
    if not has_ended:
        return "timeout"
    if code == 0:
        return ""
    return f"it {'was' if code < 0 else 'ended with'} {describe_exit(code)}"


def _forward(
    process: int, own: int, connection: Connection, timeout_seconds: float
) -> bool:
    """Pass answers on until the job ends; False if it took too long.

    Raises
    ------
    EOFError
        If the parent is gone.
    """
    deadline = time.monotonic() + timeout_seconds
    answers = Connection(own, -1)
    watched = [own, process, connection.source]
    while True:
        seconds = max(0.0, deadline - time.monotonic())
        try:
            ready = connection.wait(*watched, seconds=seconds)
        except TimeoutError:
            return False
        if own in ready:
            try:
                connection.send(answers.receive())
            except EOFError:
                watched.remove(own)
        elif process in ready:
            return True
        else:  # the parent has no more to say while a job runs
            raise EOFError


def _do(job: Any, spec: Spec, answers: Connection) -> NoReturn:
    """Be the process of a job."""
    code = 1
    try:
        os.setpgid(0, 0)
        # Its parent has only the thread that forked, and it should have no more.
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
            answers.send([name, to_plain(message)])

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
