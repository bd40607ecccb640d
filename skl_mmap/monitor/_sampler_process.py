"""The sampler, as the process that starts it sees it."""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from skl_mmap.exceptions import MeasurementError
from skl_mmap.monitor import _process, _sampler

__all__ = ["SamplerProcess", "find_joblib_places", "find_psutil"]


class SamplerProcess:
    """The sampler, as its parent sees it.

    Raises
    ------
    MeasurementError
        If it cannot be started.
    """

    def __init__(self, interval_seconds: float, method: str) -> None:
        self._owner = os.getpid()
        command = [
            sys.executable or "",  # None where Python is part of another program
            *("-I", "-S", os.path.abspath(_sampler.__file__)),
            *(str(self._owner), repr(interval_seconds)),
            *(method, find_psutil() if method == "uss" else ""),
            *find_joblib_places(),
            _process.SAMPLER_MARK,
        ]
        try:
            # A session of its own: Ctrl-C in a terminal goes to every process of the
            # session's foreground group, and should end the block, not the sampler.
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                bufsize=0,
                start_new_session=True,
            )
        except OSError as error:
            raise MeasurementError(_explain_no_start(command, str(error))) from error
        try:
            answer = self._read(1)
        except BaseException:
            self.end()
            raise
        if answer != _sampler.READY:
            self.end()
            reason = f"it ended with code {self._process.returncode}"
            raise MeasurementError(_explain_no_start(command, reason))

    def finish(self) -> dict[str, Any]:
        """Have the last reading taken and return the results.

        Raises
        ------
        MeasurementError
            If the sampler has died, or belongs to the process this one was forked from.
        """
        if os.getpid() != self._owner:
            raise MeasurementError(
                f"Process {self._owner} is measuring, and this is process "
                f"{os.getpid()}, forked inside the block. Read the report over there."
            )
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(_sampler.STOP)
        except OSError:
            answer = b""
        else:
            answer = self._read(int.from_bytes(self._read(8), "little"))
        if not answer:
            self.end()
            raise MeasurementError(
                f"The process that reads memory ended early with code "
                f"{self._process.returncode}, so there is no peak. A negative code is "
                "a signal; -9 is often the kernel out of memory. Measure again."
            )
        results: dict[str, Any] = marshal.loads(answer)
        return results

    def end(self) -> None:
        """Leave no process and no open pipe behind, whatever has happened.

        In a process forked inside the block there is no such child to wait for, which
        Popen takes for the end of it.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
            return
        self._process.kill()
        self._process.wait()

    def _read(self, n_bytes: int) -> bytes:
        """Read so many bytes; none at all if the sampler ends before it has sent them.

        Not to the end of the file: a process forked at the wrong moment may hold the
        other end of the pipe open.
        """
        assert self._process.stdout is not None
        data = b""
        while len(data) < n_bytes:
            chunk = self._process.stdout.read(n_bytes - len(data))
            if not chunk:
                return b""
            data += chunk
        return data


def _explain_no_start(command: list[str], reason: str) -> str:
    return (
        f"The process that reads memory could not be started ({reason}), so nothing "
        f"was run. Its command is {' '.join(map(repr, command))}."
    )


def find_joblib_places() -> list[str]:
    """Where joblib puts its folders (joblib._memmapping_reducer._get_temp_dir)."""
    import tempfile

    places = ["/dev/shm", tempfile.gettempdir()]
    if folder := os.environ.get("JOBLIB_TEMP_FOLDER"):
        places.append(os.path.abspath(os.path.expanduser(folder)))
    return list(dict.fromkeys(places))


def find_psutil() -> str:
    try:
        import psutil
    except ImportError as error:
        raise MeasurementError(
            "Memory cannot be read from /proc on this system, and psutil, which would "
            "do instead, is not installed. Run: pip install psutil"
        ) from error
    return str(Path(psutil.__file__).resolve().parent.parent)
