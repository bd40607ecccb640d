"""A process that starts a process for each job, from both sides.

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
import mmap
import os
import pickle
import signal
import sys
import time
import traceback
from dataclasses import dataclass, replace
from typing import Any, NoReturn, final

import numpy as np
import numpy.typing as npt

from skl_mmap._child import Child, Connection, explain_exit, function_command
from skl_mmap._linux import calls
from skl_mmap._scratch import open_scratch_file
from skl_mmap.copies._job import Answer, Job, Sample, Scouting, from_plain, to_plain
from skl_mmap.copies._results import MethodCopies, layout_of
from skl_mmap.exceptions import MeasurementError

_ENVIRONMENT = {
    # One thread each: their buffers are not copies, and the server forks.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "BLIS_NUM_THREADS": "1",
    # Untouched memory must not count, as it would in huge pages.
    "NUMPY_MADVISE_HUGEPAGE": "0",
}
# Beyond the timeout of a job, which the server keeps by itself.
_GRACE_SECONDS = 20.0
_START_SECONDS = 120.0
_N_WORDS = 400


@dataclass(frozen=True, slots=True)
class Spec:
    """What all jobs have in common; see `ServerProcess`."""

    estimator: bytes
    sample: Any
    timeout_seconds: float


def make_sample(X: npt.NDArray[Any], y: Any, n_rows: int) -> Sample:
    """Write some rows of X, evenly chosen, to a file in memory."""
    layout = layout_of(X)
    rows: Any = slice(None)
    if n_rows < len(X):
        rows = np.linspace(0, len(X) - 1, n_rows).astype(np.intp)
    shape = (n_rows, X.shape[1])
    n_bytes = n_rows * X.shape[1] * X.dtype.itemsize
    fd = open_scratch_file("skl_mmap-sample")
    try:
        os.ftruncate(fd, n_bytes)
        order: Any = layout.order
        with mmap.mmap(fd, n_bytes) as pages:
            target: npt.NDArray[Any] = np.ndarray(shape, X.dtype, pages, order=order)
            target[...] = np.asarray(X)[rows]
            del target
    except BaseException:
        os.close(fd)
        raise
    return Sample(fd, shape, layout, None if y is None else np.asarray(y)[rows])


@final
class ServerProcess:
    """Runs jobs, each in a process of its own, until it is closed."""

    def __init__(
        self, estimator: bytes, sample: Sample, *, timeout_seconds: float
    ) -> None:
        self._timeout_seconds = timeout_seconds
        self._child = Child(
            function_command(__name__, "serve"),
            environment=_ENVIRONMENT,
            pass_fds=[sample.fd],
        )
        try:
            self._write(Spec(estimator, sample, timeout_seconds), _START_SECONDS)
            self._check_start(*self._read(_START_SECONDS))
        except BaseException:
            self.close()
            raise

    def _check_start(self, kind: str, message: Any) -> None:
        if kind == "ready":
            return
        reason = message if kind == "failed" else f"it ended. {self._last_words(0)}"
        raise MeasurementError(
            "The process that measures copies could not load the estimator "
            f"({reason}), so nothing was measured. It is a new interpreter: classes "
            "have to be importable from sys.path or be defined in __main__, and their "
            "instances have to survive pickling."
        )

    def __enter__(self) -> ServerProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def scout(self, job: Job) -> Scouting | None:
        """Find out how many rows the time allows; None if that did not work out."""
        found: list[Scouting] = []
        self._follow(job, found)
        return found[-1] if found else None

    def measure(self, job: Job) -> list[Answer]:
        """Measure the methods of a job; a crash is an answer like others."""
        answers: dict[str, Answer] = {}
        while missing := [m for m in job.methods if m not in answers]:
            new: list[Answer] = []
            doing, end = self._follow(replace(job, methods=tuple(missing)), new)
            answers.update({answer.copies.method: answer for answer in new})
            if not end or doing in answers:
                end = end or "it ended without an answer"
            if doing not in missing or doing in answers:
                doing = next((m for m in missing if m not in answers), "")
            if doing:
                answers[doing] = _make_failure(job, doing, end)
            if doing == "fit":
                for other in missing:
                    failure = MethodCopies(other, job.layout, "not run", "fit failed")
                    answers.setdefault(other, Answer(failure))
        return [answers[method] for method in job.methods]

    def _follow(self, job: Job, answers: list[Any]) -> tuple[str, str]:
        """Run a job, and return the method it was at and how it ended."""
        start = self._child.count_words()
        doing, end = "", ""
        deadline = time.monotonic() + self._timeout_seconds + _GRACE_SECONDS
        self._write(job, _GRACE_SECONDS)
        while True:
            kind, message = self._read(deadline - time.monotonic())
            if kind == "doing":
                doing = message
            elif kind == "answer":
                answers.append(from_plain(message))
            elif kind == "ended":
                end = message
                break
            else:
                raise MeasurementError(
                    "The process that measures copies has ended or hangs, so nothing "
                    f"was measured. {self._last_words(start)}"
                )
        if end not in ("", "timeout"):
            end = f"{end}. {self._last_words(start)}".strip()
        return doing, end

    def _write(self, message: Any, timeout_seconds: float) -> None:
        # That it is gone, or reads nothing, is noticed by reading.
        with contextlib.suppress(TimeoutError):
            self._child.send(pickle.dumps(message), seconds=timeout_seconds)

    def _read(self, timeout_seconds: float) -> tuple[str, Any]:
        try:
            kind, message = self._child.receive(seconds=max(0.0, timeout_seconds))
        except (EOFError, TimeoutError):
            return "gone", None
        return kind, message

    def _last_words(self, start: int) -> str:
        """Return the end of what was written to stderr."""
        words = self._child.last_words(start, n_lines=5)[-_N_WORDS:]
        return f"Its last words: {words}" if words else ""

    def close(self) -> None:
        """Leave no process and no open file behind, whatever has happened."""
        self._child.close(seconds=2.0)


def _make_failure(job: Job, method: str, end: str) -> Answer:
    outcome = "timeout" if end == "timeout" else "crash"
    if outcome == "timeout":
        end = "it took longer than timeout_seconds"
    return Answer(MethodCopies(method, job.layout, outcome, end))


# ---------------------------------------------------------- the child's side


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
    return f"it {'was' if code < 0 else 'ended with'} {explain_exit(code)}"


def _forward(
    process: int, own: int, connection: Connection, timeout_seconds: float
) -> bool:
    """Pass answers on until the job ends; False if it took too long."""
    assert connection.peer is not None
    deadline = time.monotonic() + timeout_seconds
    answers = Connection(own, -1)
    watched = [own, process, connection.source]
    while True:
        seconds = max(0.0, deadline - time.monotonic())
        try:
            ready = connection.peer.wait(*watched, seconds=seconds)
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
