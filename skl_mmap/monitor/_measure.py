"""Measure a block of code, or read memory once.

The readings are taken by a process of their own: see `_sampler` for how it and
`measure` talk to each other.
"""

from __future__ import annotations

import contextlib
import marshal
import numbers
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from skl_mmap.exceptions import InvalidParameterError, MeasurementError
from skl_mmap.monitor import _process, _sampler
from skl_mmap.monitor._measurement import Measurement, ProcessReading, Reading
from skl_mmap.monitor._portable import PortableTree
from skl_mmap.monitor._records import listen, unlisten
from skl_mmap.monitor._tree import ProcessTree

__all__ = ["measure", "read_committed"]

_METHODS = ("auto", "committed", "uss")
_MIN_INTERVAL_SECONDS = 0.001
_MAX_INTERVAL_SECONDS = 60.0


class _SamplerProcess:
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
            *(method, _find_psutil() if method == "uss" else ""),
            *_find_joblib_places(),
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


def _explain_no_process(pid: int) -> str:
    return (
        f"Process {pid} has ended, was never there or may not be looked at by this "
        "user, so its memory cannot be read. Pass the number of a process that runs."
    )


def _find_joblib_places() -> list[str]:
    """Where joblib puts its folders (joblib._memmapping_reducer._get_temp_dir)."""
    import tempfile

    places = ["/dev/shm", tempfile.gettempdir()]
    if folder := os.environ.get("JOBLIB_TEMP_FOLDER"):
        places.append(os.path.abspath(os.path.expanduser(folder)))
    return list(dict.fromkeys(places))


def _find_psutil() -> str:
    try:
        import psutil
    except ImportError as error:
        raise MeasurementError(
            "Memory cannot be read from /proc on this system, and psutil, which would "
            "do instead, is not installed. Run: pip install psutil"
        ) from error
    return str(Path(psutil.__file__).resolve().parent.parent)


def _check_method(method: str) -> str:
    if method not in _METHODS:
        raise InvalidParameterError(
            f"method={method!r} is no way to read memory. "
            f"Pass one of {', '.join(_METHODS)}."
        )
    if method == "auto":
        return "committed" if _process.is_readable() else "uss"
    return method


def _check_interval(interval_seconds: object) -> float:
    is_number = not isinstance(interval_seconds, bool)
    if is_number and isinstance(interval_seconds, numbers.Real):
        seconds = float(interval_seconds)
        if _MIN_INTERVAL_SECONDS <= seconds <= _MAX_INTERVAL_SECONDS:
            return seconds
    raise InvalidParameterError(
        f"interval_seconds={interval_seconds!r} cannot be the time between two "
        f"readings. Pass a number from {_MIN_INTERVAL_SECONDS:g} to "
        f"{_MAX_INTERVAL_SECONDS:g}; 0.01 to 0.02 suits most."
    )


def _check_pid(pid: object) -> int:
    if pid is None:
        return os.getpid()
    if not isinstance(pid, bool) and isinstance(pid, numbers.Integral):
        number = int(pid)
        if number > 0:
            return number
    raise InvalidParameterError(
        f"pid={pid!r} is not the number of a process. "
        "Pass a positive whole number, or None for this process."
    )


def _as_reading(
    timed: tuple[float, int, int, int, int, int],
    processes: list[_process.ProcessNumbers] | tuple[()] = (),
) -> Reading:
    largest_first = sorted(processes, key=lambda process: -process[2])
    return Reading(*timed, tuple(ProcessReading(*process) for process in largest_first))


def _fill(
    measurement: Measurement,
    results: dict[str, Any],
    wall_seconds: float,
    remarks: tuple[str, ...],
) -> None:
    measurement.baseline_bytes = results["baseline"][1]
    measurement.peak = _as_reading(results["peak"], results["peak_processes"])
    measurement.peak_bytes = measurement.peak.committed_bytes
    measurement.timeline = tuple(map(_as_reading, results["timeline"]))
    measurement.wall_seconds = wall_seconds
    measurement.n_readings = results["n_readings"]
    measurement.mean_reading_seconds = results["mean_reading_seconds"]
    measurement.sampler_cpu_seconds = results["sampler_cpu_seconds"]
    measurement.sampler_bytes = results["sampler_bytes"]
    measurement.notes = (*results["notes"], *remarks)
    measurement.problem = None


@contextlib.contextmanager
def measure(
    *, interval_seconds: float = 0.01, method: str = "auto"
) -> Iterator[Measurement]:
    """Measure the memory of this process and all it starts while a block runs.

    Parameters
    ----------
    interval_seconds : float, default=0.01
        Time between two readings, from 0.001 to 60.
    method : {"auto", "committed", "uss"}, default="auto"
        What to read. ``"committed"``: private memory of all processes plus files in
        memory, each once (Linux). ``"uss"``: sum of unique set sizes, which leaves
        shared memory out; needs psutil. ``"auto"``: the former where there is a
        ``/proc``, otherwise the latter; `Measurement.method` says which.

    Yields
    ------
    Measurement
        Filled in when the block ends, also if it raises.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used.
    MeasurementError
        If the sampler cannot be started; the block is then not run. If it dies while
        the block runs, the block's result is not lost: the error is raised when a
        number of the report is read.

    Notes
    -----
    Starting takes about 0.1 s, before the first reading. A reading of seven processes
    takes about 1 ms on a busy machine: 7 % of a core at 10 ms, 5 % at 20 ms. A peak
    that is shorter than the interval can be missed. Blocks may be nested and run in
    several threads; each has a sampler of its own, and no sampler is counted.

    Committed memory is the sum of RssAnon and VmSwap (proc_pid_status(5)) and the
    allocated blocks of all files in memory that the tree has open. Summed RSS would
    count shared pages once per process, and PSS takes 12 ms per GB and process and
    misses a memfd that nobody has mapped. In a process that was forked without exec,
    only the pages that are no longer its parent's are counted; in its first quarter
    of a second, only its growth.

    Not covered: huge pages of hugetlbfs, page tables, GPU memory. Shared memory that
    has no file descriptor (System V, ``MAP_SHARED | MAP_ANONYMOUS``) counts only as
    far as one process has more of it than there is in all files together.

    Examples
    --------
    >>> from skl_mmap.monitor import measure
    >>> with measure() as report:
    ...     data = bytearray(50_000_000)
    >>> 49_000_000 < report.peak_growth_bytes < 60_000_000
    True
    """
    interval_seconds = _check_interval(interval_seconds)
    method = _check_method(method)
    measurement = Measurement(interval_seconds, method)
    remarks: dict[str, None] = {}  # each once, in order
    sampler = _SamplerProcess(interval_seconds, method)
    try:
        listener = listen(measurement.tasks.append, remarks.setdefault)
        start = time.perf_counter()
        try:
            yield measurement
        finally:
            wall_seconds = time.perf_counter() - start
            unlisten(listener)
            try:
                _fill(measurement, sampler.finish(), wall_seconds, tuple(remarks))
            except MeasurementError as error:
                measurement.problem = str(error)
    finally:
        sampler.end()


def read_committed(pid: int | None = None, *, method: str = "auto") -> Reading:
    """Read the committed memory of a process and all it has started, once.

    Parameters
    ----------
    pid : int, default=None
        Root of the tree; None for this process.
    method : {"auto", "committed", "uss"}, default="auto"
        As in `measure`.

    Returns
    -------
    Reading
        With all its processes; `seconds` is 0.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used.
    MeasurementError
        If there is no such process.

    Notes
    -----
    About 1 ms, and 7 microseconds for each open file of the tree.

    Examples
    --------
    >>> from skl_mmap.monitor import read_committed
    >>> read_committed().n_processes >= 1
    True
    """
    pid = _check_pid(pid)
    tree: ProcessTree | PortableTree
    try:
        if _check_method(method) == "uss":
            _find_psutil()
            tree = PortableTree(pid)
        else:
            tree = ProcessTree(pid, _find_joblib_places())
    except OSError as error:
        raise MeasurementError(_explain_no_process(pid)) from error
    try:
        reading = _as_reading((0.0, *tree.read()), tree.processes)
    finally:
        tree.close()
    if reading.n_processes == 0:
        raise MeasurementError(_explain_no_process(pid))
    return reading
