"""The sampler, as the process that starts it sees it."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from skl_mmap._child import Child
from skl_mmap._scratch import find_temporary_folder
from skl_mmap.exceptions import MeasurementError
from skl_mmap.monitor import _process, _sampler

# Far more than it ever takes: a machine that swaps is slow, and a hung process is rare.
_START_SECONDS = 120.0
_FINISH_SECONDS = 120.0


class SamplerProcess:
    """The sampler, as its parent sees it.

    Raises
    ------
    MeasurementError
        If it cannot be started.
    """

    def __init__(self, interval_seconds: float, method: str) -> None:
        command = [
            sys.executable or "",  # None where Python is part of another program
            *("-I", "-S", os.path.abspath(_sampler.__file__)),
            *(str(os.getpid()), repr(interval_seconds)),
            *(method, find_psutil() if method == "uss" else ""),
            *find_joblib_places(),
            _process.SAMPLER_MARK,
        ]
        try:
            self.child = Child(command, keeps_stderr=False)
        except OSError as error:
            raise MeasurementError(_explain_no_start(command, str(error))) from error
        try:
            self.child.receive(seconds=_START_SECONDS)
        except (EOFError, TimeoutError) as error:
            self.end()
            reason = f"it ended with code {self.child.return_code}"
            if isinstance(error, TimeoutError):
                reason = f"it was not ready after {_START_SECONDS:g} s"
            raise MeasurementError(_explain_no_start(command, reason)) from error
        except BaseException:
            self.end()
            raise

    def finish(self) -> dict[str, Any]:
        """Have the last reading taken and return the results.

        Raises
        ------
        MeasurementError
            If the sampler has died, or belongs to the process this one was forked from.
        """
        if not self.child.is_ours:
            raise MeasurementError(
                f"Process {self.child.owner} is measuring, and this is process "
                f"{os.getpid()}, forked inside the block. Read the report over there."
            )
        try:
            self.child.send(_sampler.STOP, seconds=_FINISH_SECONDS)
            results: dict[str, Any] = self.child.receive(seconds=_FINISH_SECONDS)
        except (EOFError, TimeoutError) as error:
            self.end()
            raise MeasurementError(
                f"The process that reads memory ended early with code "
                f"{self.child.return_code}, so there is no peak. A negative code is "
                "a signal; -9 is often the kernel out of memory. Measure again."
            ) from error
        return results

    def end(self) -> None:
        """Leave no process and no open pipe behind, whatever has happened."""
        self.child.close()


def _explain_no_start(command: list[str], reason: str) -> str:
    return (
        f"The process that reads memory could not be started ({reason}), so nothing "
        f"was run. Its command is {' '.join(map(repr, command))}."
    )


def find_joblib_places() -> list[str]:
    """Where joblib puts its folders (joblib._memmapping_reducer._get_temp_dir)."""
    places = ["/dev/shm"]
    if folder := find_temporary_folder():
        places.append(folder)
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
