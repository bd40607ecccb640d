"""A user's script in an interpreter of its own, measured from outside.

::

    skl-mmap run: measure() ---- sampler reads the tree
       |  python script.py, with _startup/sitecustomize.py before it
       v
    script: joblib's default backend is set --> workers
       |  records of tasks, appended to a temporary file
       v
    skl-mmap run: reads the file when the script has ended, however it has

The script shares terminal and process group with this process, as if the shell had
started it: Ctrl-C reaches both, and it may ask questions. Processes that outlive the
script become children of this one, and are waited for or ended.
"""

from __future__ import annotations

import contextlib
import json
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import psutil

from skl_mmap import MemoryReport, measure
from skl_mmap._compat import interpreter_flags
from skl_mmap._linux.calls import set_child_subreaper
from skl_mmap.cli._startup import sitecustomize
from skl_mmap.monitor import Measurement

# How long a script may take to end its workers when it is terminated, and resource
# trackers, which remove what is left of others first, to end by themselves.
_GRACE_SECONDS = 5.0
# How long all that a script leaves may take to end by itself.
_REST_SECONDS = 1.0
# Between two looks at which processes there are.
_ROUND_SECONDS = 0.1
_PACKAGE_ROOT = str(Path(__file__).parents[2])


def run_script(
    command: Sequence[str],
    defaults: Mapping[str, Any],
    *,
    stdin: int | IO[bytes] | None = None,
    stdout: int | IO[bytes] | None = None,
) -> tuple[int, Measurement[MemoryReport]]:
    """Run a script in a fresh interpreter, and measure it.

    `command` is what follows ``python``. `defaults` hold where the script says nothing:
    ``backend``, ``n_jobs`` (None leaves joblib's), and ``parameters`` of the backend
    "mmap". Returns the exit code, minus the number of the signal if one has ended the
    script, and what it has cost from before the start of its interpreter on.
    """
    handle, path = tempfile.mkstemp(prefix="skl_mmap_run_")
    with open(handle, "rb") as records:
        try:
            with measure() as measurement, adopting_orphans() as end_orphans:
                variables = _make_environment(defaults, path)
                process = subprocess.Popen(
                    [sys.executable, *interpreter_flags(), *command],
                    stdin=stdin,
                    stdout=stdout,
                    env={**os.environ, **variables},
                )
                # The main process is the script, this one only looks on.
                measurement.pid = process.pid
                return_code = _wait(process)
                if return_code < 0:
                    end_orphans()
        finally:
            # Where the script has not done so itself.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        # A script that was killed may not have finished the last one.
        with contextlib.suppress(EOFError, pickle.UnpicklingError):
            while True:
                measurement.take(pickle.load(records))
    return return_code, measurement


def _make_environment(defaults: Mapping[str, Any], path: str) -> dict[str, str]:
    before = os.environ.get("PYTHONPATH")
    settings = {
        **defaults,
        "parent_pid": os.getpid(),
        "path": path,
        "python_path": before,
        "root": _PACKAGE_ROOT,
        "start_seconds": time.perf_counter(),
    }
    folders = [sitecustomize.FOLDER, *([before] if before else [])]
    return {
        sitecustomize.VARIABLE: json.dumps(settings),
        "PYTHONPATH": os.pathsep.join(folders),
    }


def _wait(process: subprocess.Popen[bytes]) -> int:
    """Wait for a script, and end it if this process is told to end."""
    try:
        is_told = _is_in_foreground()
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                # The terminal tells both processes; nobody else does, and it will
                # have been a mistake if one Ctrl-C has not been enough.
                if not is_told:
                    process.send_signal(signal.SIGINT)
                is_told = False
    finally:
        if process.poll() is None:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(_GRACE_SECONDS)
            process.kill()
            process.wait()


def _is_in_foreground() -> bool:
    """Say if Ctrl-C in a terminal reaches this process, and with it the script."""
    if os.name != "posix":
        return True
    try:
        terminal = os.open("/dev/tty", os.O_RDONLY | os.O_NOCTTY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


@contextlib.contextmanager
def adopting_orphans() -> Iterator[Callable[[], None]]:
    """Become the parent of all processes that lose theirs while a block runs.

    When the block ends, what will end by itself is waited for. If it ends with an
    exception, everything that it has started is ended. What is yielded does the same.
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
        _wait_until_none(kill_new, _GRACE_SECONDS)
        _kill(list_new())
        _wait_until_none(list_new, _REST_SECONDS)

    set_child_subreaper(is_on=True)
    try:
        yield end_new
        # Not for ever: a script may have started something that is to outlive it.
        _wait_until_none(list_new, _REST_SECONDS)
        _wait_until_none(list_ending, _GRACE_SECONDS)
    except BaseException:
        end_new()
        raise
    finally:
        set_child_subreaper(is_on=False)


def _wait_until_none(
    list_processes: Callable[[], list[psutil.Process]], seconds: float
) -> None:
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
    """Say if a process has ended, or will when all others have: a resource tracker.

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
