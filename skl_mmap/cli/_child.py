"""Work in a fresh interpreter, which leaves nothing behind however it ends.

::

    parent: run_child("package.module", spec)
       |  stdin:  one line of JSON, the spec; then left open
       |  stdout: lines of JSON, {"step": text} ... {"result": value}
       v
    child:  package.module.work(spec, announce)
       |    in a session of its own, so that Ctrl-C in the terminal reaches the
       |    parent alone, which ends the child in order
       v
    workers of the child: in the child's process group, ended with it

A child whose parent dies sees the end of its stdin and ends its own group.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

from skl_mmap.cli._command import CommandError

__all__ = ["ChildResult", "run_child", "serve"]

# How long a child may take to end its workers and delete its files when interrupted.
_GRACE_SECONDS = 5.0
_STDERR_LINES = 15

# The child imports from where the parent does, also from a checkout.
_CODE = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from skl_mmap.cli._child import serve
serve(sys.argv[2])
"""

ChildResult = dict[str, Any]


def run_child(
    module: str,
    spec: Mapping[str, Any],
    *,
    on_step: Callable[[str], None] = lambda _: None,
    environment: Mapping[str, str] | None = None,
) -> tuple[ChildResult, str]:
    """Run the function ``work`` of a module in a fresh interpreter.

    Parameters
    ----------
    module : str
        Name of the module. Its ``work(spec, announce)`` takes the spec and a function
        to announce steps with, and returns a dict that JSON can hold.
    spec : mapping
        What to do; JSON must be able to hold it.
    on_step : callable
        Called with the text of each step that the child begins.
    environment : mapping of str to str, default=None
        Variables to set in the child, beside those of this process.

    Returns
    -------
    result : dict
        What ``work`` returned.
    messages : str
        What the child and its workers wrote to stderr, warnings say.

    Raises
    ------
    CommandError
        If the child ends without a result; the message has the end of its stderr.
    """
    with tempfile.TemporaryFile() as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", _CODE, json.dumps(sys.path), module],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=stderr,
            env={**os.environ, **(environment or {})},
            text=True,
            start_new_session=True,
        )
        try:
            result = _follow(process, spec, on_step)
            process.wait()
        except BaseException:
            _interrupt(process)
            raise
        finally:
            _end_group(process)
        messages = _read_text(stderr)
    if result is None:
        tail = "\n".join(messages.splitlines()[-_STDERR_LINES:])
        raise CommandError(
            f"the process that ran {module} ended without a result "
            f"({_describe_exit(process.returncode)}). Its last words:\n{tail}"
        )
    return result, messages


def _follow(
    process: subprocess.Popen[str],
    spec: Mapping[str, Any],
    on_step: Callable[[str], None],
) -> ChildResult | None:
    """Send the spec, pass on steps, return the result or None if none came."""
    assert process.stdin is not None
    assert process.stdout is not None
    # A child that died at import is reported by its exit code, not by the pipe.
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(json.dumps(spec) + "\n")
        process.stdin.flush()
    result: ChildResult | None = None
    for line in process.stdout:
        message = json.loads(line)
        if "step" in message:
            on_step(message["step"])
        else:
            result = message["result"]
    return result


def _interrupt(process: subprocess.Popen[str]) -> None:
    """Ask the child to end its workers and delete its files, and wait a little."""
    if process.poll() is None:
        process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECONDS)


def _end_group(process: subprocess.Popen[str]) -> None:
    """Kill what is left of the child's process group, and remove joblib's folders."""
    if os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):
                pipe.close()
    # joblib's own clean-up does not survive SIGKILL. The folder has the child's pid
    # in its name, so nobody else's is touched.
    roots = {os.environ.get("JOBLIB_TEMP_FOLDER"), "/dev/shm", tempfile.gettempdir()}
    pattern = f"joblib_memmapping_folder_{process.pid}_*"
    for root in roots - {None}:
        for folder in glob.glob(str(Path(str(root)) / pattern)):
            shutil.rmtree(folder, ignore_errors=True)


def _read_text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def _describe_exit(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    hint = ", often the kernel's answer to too little memory" if code == -9 else ""
    return f"killed by {name}{hint}"


def serve(module: str) -> None:
    """Do in the child what the parent asked for."""
    # Libraries that print would mix with the protocol: their stdout is our stderr.
    messages = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    spec = json.loads(_read_line(0))
    # Ignored where the command was started in the background of a shell script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def announce(step: str) -> None:
        messages.write(json.dumps({"step": step}) + "\n")

    try:
        result = importlib.import_module(module).work(spec, announce)
    except KeyboardInterrupt:
        # Ended in order: exit handlers stop the workers and delete their files.
        sys.exit(130)
    messages.write(json.dumps({"result": result}) + "\n")
    messages.close()


def _read_line(descriptor: int) -> bytes:
    """Read one line without a buffer, so that the watching thread sees the rest."""
    line = bytearray()
    while not line.endswith(b"\n") and (piece := os.read(descriptor, 1)):
        line += piece
    return bytes(line)


def _leave_with_parent() -> None:
    """Wait for the end of stdin, which is the end of the parent, and follow it."""
    while os.read(0, 1024):
        pass
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(_GRACE_SECONDS)
    if os.name == "posix" and os.getpgrp() == os.getpid():
        os.killpg(os.getpid(), signal.SIGKILL)
    os._exit(1)
