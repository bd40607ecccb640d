"""Measure a block of code, or read memory once.

The readings are taken by a process of their own: see `_sampler` for how it and
`measure` talk to each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import numbers
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Generic, TypeVar

from skl_mmap._linux import proc
from skl_mmap._units import format_bytes
from skl_mmap.exceptions import InvalidParameterError, MeasurementError
from skl_mmap.monitor._portable import PortableTree
from skl_mmap.monitor._process import ProcessNumbers
from skl_mmap.monitor._readings import (
    GroupReading,
    MeasuredBlock,
    ProcessReading,
    ProcessSeries,
    Reading,
    SamplingCost,
)
from skl_mmap.monitor._records import (
    CallRecord,
    Record,
    SegmentRecord,
    TaskRecord,
    listen,
    unlisten,
)
from skl_mmap.monitor._sampler import ProcessesNumbers
from skl_mmap.monitor._sampler_process import (
    SamplerProcess,
    find_joblib_places,
    find_psutil,
)
from skl_mmap.monitor._tree import ProcessTree

_Report = TypeVar("_Report", bound=MeasuredBlock)

_UNFINISHED = (
    "The block that is being measured has not ended yet, so there is no peak. "
    "Read the report after the with block."
)
# Older names of what the report has in `sampling`.
_OF_SAMPLING = {
    "n_readings": "n_readings",
    "mean_reading_seconds": "mean_reading_seconds",
    "sampler_cpu_seconds": "cpu_seconds",
    "sampler_bytes": "sampler_bytes",
}
# Reports are kept, pickled with models, and drawn: more would be no use there.
_MAX_MOMENTS = 512

_METHODS = ("auto", "committed", "uss")
_MIN_INTERVAL_SECONDS = 0.001
_MAX_INTERVAL_SECONDS = 60.0


def _explain_no_process(pid: int) -> str:
    return (
        f"Process {pid} has ended, was never there or may not be looked at by this "
        "user, so its memory cannot be read. Pass the number of a process that runs."
    )


def _check_method(method: str) -> str:
    if method not in _METHODS:
        raise InvalidParameterError(
            f"method={method!r} does not name a way to read memory. "
            f"Pass one of {', '.join(_METHODS)}."
        )
    if method == "auto":
        return "committed" if proc.is_readable() else "uss"
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
    timed: tuple[float, int, int, int, int, int, float],
    processes: list[ProcessNumbers] | tuple[()] = (),
) -> Reading:
    largest_first = sorted(processes, key=lambda process: -process[2])
    readings = tuple(ProcessReading(*process) for process in largest_first)
    return Reading(*timed[:6], readings, timed[6])


def _as_series(
    moments: list[ProcessesNumbers], names: dict[int, str]
) -> tuple[ProcessSeries, ...]:
    """Turn the processes of each moment into the moments of each process."""
    by_pid: dict[int, list[tuple[float, int, float]]] = {}
    for seconds, _, processes in moments:
        for pid, private, cpu_seconds in processes:
            by_pid.setdefault(pid, []).append((seconds, private, cpu_seconds))
    return tuple(
        ProcessSeries(pid, names[pid], *zip(*points, strict=True))
        for pid, points in by_pid.items()
    )


class Measurement(Generic[_Report]):
    """A block of code that is being measured: what `skl_mmap.measure` yields.

    When the block has ended, `report` gives what was found as a value, and all that the
    value has can be asked for here, too: its numbers, its text, its picture.

    Attributes
    ----------
    interval_seconds : float
        Time between two readings that was asked for.
    method : {"committed", "uss"}
        What is read: committed memory, or the sum of unique set sizes where there is
        no /proc.
    pid : int
        The process that is measured with all that it starts.
    tasks : list of TaskRecord
        What the workers have said about the tasks of the block, as they arrive.
    segments : list of SegmentRecord
        The arrays that tasks were given in shared memory, each once.
    calls : list of CallRecord
        The parallel calls of the block, each kind of call once.
    problem : str or None
        Why there are no numbers; None if there are.

    Raises
    ------
    MeasurementError
        If a number is read before the block has ended, or if the sampler has died.
    """

    __slots__ = (
        *("_kind", "_notes", "_numbers", "_start_seconds", "calls"),
        *("interval_seconds", "method", "pid", "problem", "segments", "tasks"),
    )

    def __init__(
        self, interval_seconds: float, method: str, kind: type[_Report]
    ) -> None:
        self.interval_seconds = interval_seconds
        self.method = method
        self.pid = os.getpid()
        self.tasks: list[TaskRecord] = []
        self.segments: list[SegmentRecord] = []
        self.calls: list[CallRecord] = []
        self.problem: str | None = _UNFINISHED
        self._kind = kind
        self._notes: dict[str, None] = {}  # each once, in order
        self._numbers: dict[str, Any] = {}
        self._start_seconds = time.perf_counter()

    @property
    def is_finished(self) -> bool:
        """Tell if the block has ended."""
        return self.problem != _UNFINISHED

    def take(self, record: Record) -> None:
        """Take up what workers and the backend say, as it comes."""
        if isinstance(record, TaskRecord):
            if record.end_seconds is None:
                end_seconds = time.perf_counter() - self._start_seconds
                record = dataclasses.replace(record, end_seconds=end_seconds)
            self.tasks.append(record)
        elif isinstance(record, SegmentRecord):
            if all(known.inode != record.inode for known in list(self.segments)):
                self.segments.append(record)
        elif isinstance(record, CallRecord):
            if record not in self.calls:
                self.calls.append(record)
        else:
            self._notes[record] = None

    def finish(self, results: dict[str, Any], wall_seconds: float) -> None:
        """Take up what the sampler has found."""
        timeline = _thin_out([_as_reading(timed) for timed in results["timeline"]])
        peak = _as_reading(results["peak"], results["peak_processes"])
        group = results["group"]
        self._notes = {**dict.fromkeys(results["notes"]), **self._notes}
        self._numbers = {
            "baseline_bytes": results["baseline"][1],
            "peak_bytes": peak.committed_bytes,
            "wall_seconds": wall_seconds,
            "peak": peak,
            "timeline": timeline,
            "processes": _as_series(results["processes"], results["names"]),
            "group": None if group is None else GroupReading(**group),
            "sampling": SamplingCost(
                self.interval_seconds,
                results["n_readings"],
                results["mean_reading_seconds"],
                results["sampler_cpu_seconds"],
                results["sampler_bytes"],
            ),
        }
        self.problem = None

    def fail(self, problem: str) -> None:
        """Take up why there are no numbers."""
        self._numbers = dict.fromkeys(("baseline_bytes", "peak_bytes", "wall_seconds"))
        self._notes = {problem: None, **self._notes}
        self.problem = problem

    def report(
        self, title: str = "Measured block", *, input_bytes: int | None = None
    ) -> _Report:
        """Return what was found as a value that can be kept.

        Parameters
        ----------
        title : str, default="Measured block"
            What was done.
        input_bytes : int, default=None
            Size of X, the unit of all multiples. None takes the largest array that
            was shared.

        Raises
        ------
        MeasurementError
            If the block has not ended.
        """
        if not self.is_finished:
            raise MeasurementError(f"There is no report. {self.problem}")
        return self._kind(
            title=title,
            input_bytes=input_bytes,
            records=tuple(self.tasks),
            segments=tuple(self.segments),
            calls=tuple(self.calls),
            notes=tuple(self._notes),
            method=self.method,
            pid=self.pid,
            **self._numbers,
        )

    def __getattr__(self, name: str) -> Any:
        """Return what the report has under this name."""
        if name in _OF_SAMPLING:
            return getattr(self.sampling, _OF_SAMPLING[name])
        if name.startswith("_") or not hasattr(self._kind, name):
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        value = getattr(self.report(), name) if self.is_finished else None
        if value is None and self.problem is not None:
            raise MeasurementError(f"{name} is not known. {self.problem}")
        return value

    def __dir__(self) -> list[str]:
        """List what the report has as well."""
        return [*super().__dir__(), *dir(self._kind)]

    def __str__(self) -> str:
        """Tell what the block has cost, or that it has not ended."""
        return str(self.report()) if self.is_finished else str(self.problem)

    def __repr__(self) -> str:
        """Tell the peak, or that there is none yet."""
        text = "no numbers" if self.is_finished else "not finished"
        if self.problem is None:
            text = (
                f"peak {format_bytes(self.peak_bytes)}, "
                f"{format_bytes(self.peak_growth_bytes)} above the start"
            )
        return f"<{type(self).__name__}: {text}>"

    def _repr_html_(self) -> str:
        """Tell what the block has cost, for notebooks."""
        show = getattr(self._kind, "_repr_html_", None) if self.is_finished else None
        return (
            f"<pre>{escape(str(self))}</pre>" if show is None else show(self.report())
        )


def _thin_out(timeline: Sequence[Reading]) -> tuple[Reading, ...]:
    """Keep the first, the last, and the largest reading of each stretch of time."""
    if len(timeline) <= _MAX_MOMENTS:
        return tuple(timeline)
    first, *between, last = timeline
    n_stretches = _MAX_MOMENTS - 2
    bounds = [i * len(between) // n_stretches for i in range(n_stretches + 1)]
    largest = (
        max(between[start:stop], key=lambda reading: reading.committed_bytes)
        for start, stop in itertools.pairwise(bounds)
    )
    return (first, *largest, last)


def measure(
    *, interval_seconds: float = 0.01, method: str = "auto"
) -> contextlib.AbstractContextManager[Measurement[MeasuredBlock]]:
    """Measure the memory of this process and all it starts while a block runs.

    As `skl_mmap.measure`, with the same parameters and errors; the report is a
    `MeasuredBlock`, which has numbers and no words.

    Examples
    --------
    >>> from skl_mmap.monitor import measure
    >>> with measure() as report:
    ...     data = bytearray(50_000_000)
    >>> 40_000_000 < report.peak_growth_bytes < 60_000_000
    True
    """
    return measure_as(MeasuredBlock, interval_seconds=interval_seconds, method=method)


@contextlib.contextmanager
def measure_as(
    kind: type[_Report],
    *,
    interval_seconds: float = 0.01,
    method: str = "auto",
    copy_sites: bool = False,
) -> Iterator[Measurement[_Report]]:
    """Measure a block; its report is of the class `kind`. See `skl_mmap.measure`."""
    interval_seconds = _check_interval(interval_seconds)
    method = _check_method(method)
    sampler = SamplerProcess(interval_seconds, method)
    try:
        measurement = Measurement(interval_seconds, method, kind)
        start = time.perf_counter()
        listener = listen(measurement.take, copy_sites=copy_sites)
        try:
            yield measurement
        finally:
            wall_seconds = time.perf_counter() - start
            unlisten(listener)
            try:
                measurement.finish(sampler.finish(), wall_seconds)
            except MeasurementError as error:
                measurement.fail(str(error))
    finally:
        sampler.end()


def read_committed(pid: int | None = None, *, method: str = "auto") -> Reading:
    """Read the committed memory of a process and all it has started, once.

    `pid` is None for this process, `method` as in `skl_mmap.measure`. The reading has
    all processes; its `seconds` is 0. Takes 1 ms, and 7 microseconds per open file.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used.
    MeasurementError
        If there is no such process.

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
            find_psutil()
            tree = PortableTree(pid)
        else:
            tree = ProcessTree(pid, find_joblib_places())
    except OSError as error:
        raise MeasurementError(_explain_no_process(pid)) from error
    try:
        reading = _as_reading((0.0, *tree.read()), tree.processes)
    finally:
        tree.close()
    if reading.n_processes == 0:
        raise MeasurementError(_explain_no_process(pid))
    return reading


@dataclass(frozen=True, slots=True)
class OwnMemory:
    """The memory of this process at one moment.

    Attributes
    ----------
    anonymous_bytes : int
        Private memory, swapped or not (RssAnon + VmSwap).
    resident_bytes : int
        Everything that is mapped and in memory, shared pages included (VmRSS).
    peak_bytes : int
        The most that `resident_bytes` has been since the peak was last reset
        (VmHWM); the same as `resident_bytes` where the peak could not be reset.
    """

    anonymous_bytes: int
    resident_bytes: int
    peak_bytes: int


class _Peak:
    """Tells whether the kernel's peak is that since it was asked to reset it."""

    is_known = True


_peak = _Peak()


def own_memory(*, reset_peak: bool = False) -> OwnMemory:
    """Read the memory of this process, without the processes it has started.

    Parameters
    ----------
    reset_peak : bool, default=False
        Let the peak start from the present size, for this reading and all later ones.

    Notes
    -----
    Where there is no ``/proc``: unique and resident set size from psutil, and no better
    idea of the peak than the resident set size.

    30 microseconds whatever the size (psutil: 12 ms per GB). The kernel keeps one
    peak for each process: threads that reset it do so for each other.

    In a process that was forked, pages that it still has in common with others count as
    its own from the start. So writing to one, which takes memory for a copy of it, is
    no growth here; `read_committed` has it.
    """
    if not proc.is_readable():
        import psutil

        numbers = psutil.Process().memory_full_info()
        return OwnMemory(numbers.uss, numbers.rss, numbers.rss)
    if reset_peak:
        _peak.is_known = proc.reset_own_peak()
    text = proc.read_own_status()
    resident_bytes = proc.find_bytes(text, b"\nVmRSS:")
    return OwnMemory(
        proc.find_bytes(text, b"\nRssAnon:") + proc.find_bytes(text, b"\nVmSwap:"),
        resident_bytes,
        proc.find_bytes(text, b"\nVmHWM:") if _peak.is_known else resident_bytes,
    )
