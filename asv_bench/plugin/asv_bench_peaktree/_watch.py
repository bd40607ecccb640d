"""Have another process watch the memory of this one and all it starts.

::

    watch()                              python -I -S _sampler.py PID ...
    -------                              --------------------------------
    starts it                   ------>  first reading
    waits until it is ready    <------
    runs the block                       a reading every interval
    block ends                  ------>  last reading
    fills the Peak             <------   results; exits

The sampler comes with this package and is the same whichever commit is measured.
"""

from __future__ import annotations

import contextlib
import marshal
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Peak", "can_measure", "check_interval", "watch"]

_STOP = "stop"
_MARK = "skl_mmap-memory-sampler"
"""Last argument of every sampler: none of them is part of what they measure."""

_MIN_INTERVAL_SECONDS = 0.001
_MAX_INTERVAL_SECONDS = 60.0
_END_SECONDS = 5.0


@dataclass(slots=True)
class Peak:
    """What a block cost in memory; complete when the block has ended.

    Attributes
    ----------
    baseline_bytes : int
        Committed memory of the tree just before the block.
    peak_bytes : int
        The most committed memory that was seen, baseline included.
    n_readings : int
        How often memory was read.
    """

    baseline_bytes: int = 0
    peak_bytes: int = 0
    n_readings: int = 0

    @property
    def growth_bytes(self) -> int:
        """How far the peak was above the baseline."""
        return self.peak_bytes - self.baseline_bytes


def can_measure() -> bool:
    """Whether this system has the numbers of /proc that readings are made of."""
    try:
        return b"\nRssAnon:" in Path("/proc/self/status").read_bytes()
    except OSError:
        return False


def find_sampler() -> Path:
    """Find the program that watches.

    Returns
    -------
    Path
        Of the file that came with the wheel; of the checkout's, if this package is
        installed from there in editable mode.

    Raises
    ------
    RuntimeError
        If there is neither.
    """
    package = Path(__file__).resolve().parent
    places = [package / "_monitor" / "_sampler.py"]
    if len(package.parents) > 2:
        places.append(package.parents[2] / "skl_mmap" / "monitor" / "_sampler.py")
    for place in places:
        if place.exists():
            return place
    raise RuntimeError(
        "The sampler of asv_bench_peaktree is at none of "
        f"{', '.join(map(str, places))}, so memory cannot be read. "
        "Install it again: pip install --force-reinstall asv_bench_peaktree"
    )


def check_interval(interval_seconds: object) -> float:
    """Return the time between two readings as a number.

    Raises
    ------
    ValueError
        If it is none, or out of bounds.
    """
    if isinstance(interval_seconds, (int, float)) and not isinstance(
        interval_seconds, bool
    ):
        seconds = float(interval_seconds)
        if _MIN_INTERVAL_SECONDS <= seconds <= _MAX_INTERVAL_SECONDS:
            return seconds
    raise ValueError(
        f"interval = {interval_seconds!r} cannot be the time between two readings. "
        f"Use a number of seconds from {_MIN_INTERVAL_SECONDS:g} to "
        f"{_MAX_INTERVAL_SECONDS:g}; 0.01 to 0.02 suits most."
    )


def _find_joblib_places() -> list[str]:
    """Where joblib may put its folders, whose files count if they are in memory."""
    places = ["/dev/shm", tempfile.gettempdir()]
    if folder := os.environ.get("JOBLIB_TEMP_FOLDER"):
        places.append(os.path.abspath(os.path.expanduser(folder)))
    return list(dict.fromkeys(places))


class _Sampler:
    """The sampler, as its parent sees it."""

    def __init__(self, interval_seconds: float) -> None:
        command = [
            *(sys.executable, "-I", "-S", str(find_sampler())),
            *(str(os.getpid()), repr(interval_seconds), "committed", ""),
            *_find_joblib_places(),
            _MARK,
        ]
        # A session of its own: Ctrl-C should end the benchmark, not the sampler.
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
        )
        if not self._receive():
            self.end()
            raise RuntimeError(
                "The process that reads memory ended with code "
                f"{self._process.returncode} before the first reading, so nothing was "
                f"run. Its command is {' '.join(map(repr, command))}."
            )

    def finish(self) -> dict[str, Any]:
        """Have the last reading taken and return the results.

        Raises
        ------
        RuntimeError
            If the sampler has died.
        """
        assert self._process.stdin is not None
        answer = b""
        with contextlib.suppress(OSError):
            stop = marshal.dumps(_STOP)
            self._process.stdin.write(len(stop).to_bytes(8, "little") + stop)
            answer = self._receive()
        if not answer:
            self.end()
            raise RuntimeError(
                "The process that reads memory ended early with code "
                f"{self._process.returncode}, so there is no peak. A negative code is "
                "a signal; -9 is often the kernel out of memory. Measure again."
            )
        results: dict[str, Any] = marshal.loads(answer)
        return results

    def end(self) -> None:
        """Leave no process and no open pipe behind."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        try:
            self._process.wait(timeout=_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _receive(self) -> bytes:
        """Read a message of `skl_mmap._child`, which has its size before it."""
        return self._read(int.from_bytes(self._read(8), "little"))

    def _read(self, n_bytes: int) -> bytes:
        """Read so many bytes; none if the sampler ends before it has sent them."""
        assert self._process.stdout is not None
        data = b""
        while len(data) < n_bytes:
            chunk = self._process.stdout.read(n_bytes - len(data))
            if not chunk:
                return b""
            data += chunk
        return data


@contextlib.contextmanager
def watch(interval_seconds: float = 0.01) -> Iterator[Peak]:
    """Watch the committed memory of this process and all it starts.

    Parameters
    ----------
    interval_seconds : float, default=0.01
        Time between two readings, from 0.001 to 60.

    Yields
    ------
    Peak
        Filled in when the block ends; not if it raises.

    Raises
    ------
    ValueError
        If the interval is out of bounds.
    RuntimeError
        If the sampler cannot be started, or has died.

    Notes
    -----
    Starting takes about 0.1 s. *Committed* memory is the private memory of all
    processes (RssAnon and VmSwap of ``/proc/PID/status``; what forked processes have in
    common counts once), and the allocated blocks of every tmpfs and memfd file that the
    tree has open, each once. The sampler itself is not counted.

    Examples
    --------
    >>> from asv_bench_peaktree import watch
    >>> with watch() as peak:
    ...     data = bytearray(50_000_000)
    >>> 40_000_000 < peak.growth_bytes < 60_000_000
    True
    """
    sampler = _Sampler(check_interval(interval_seconds))
    peak = Peak()
    try:
        yield peak
        results = sampler.finish()
        peak.baseline_bytes = results["baseline"][1]
        peak.peak_bytes = results["peak"][1]
        peak.n_readings = results["n_readings"]
    finally:
        sampler.end()
