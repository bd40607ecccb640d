"""Measure a block of code, or read memory once.

The readings are taken by a process of their own: see `_sampler` for how it and
`measure` talk to each other.
"""

from __future__ import annotations

import contextlib
import dataclasses
import numbers
import os
import time
from collections.abc import Iterator
from typing import Any, TypeVar

from skl_mmap._linux import proc
from skl_mmap.exceptions import InvalidParameterError, MeasurementError
from skl_mmap.monitor._measurement import (
    GroupReading,
    Measurement,
    ProcessReading,
    ProcessSeries,
    Reading,
)
from skl_mmap.monitor._portable import PortableTree
from skl_mmap.monitor._process import ProcessNumbers
from skl_mmap.monitor._records import TaskRecord, listen, looking_for_sites, unlisten
from skl_mmap.monitor._sampler import ProcessesNumbers
from skl_mmap.monitor._sampler_process import (
    SamplerProcess,
    find_joblib_places,
    find_psutil,
)
from skl_mmap.monitor._tree import ProcessTree

__all__ = ["measure", "measure_as", "read_committed"]

_Measured = TypeVar("_Measured", bound=Measurement)

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
            f"method={method!r} is no way to read memory. "
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
    measurement.processes = _as_series(results["processes"], results["names"])
    group = results["group"]
    measurement.group = None if group is None else GroupReading(**group)
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
        What to read; see `skl_mmap.measure`, which shows the same as a report.

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

    Examples
    --------
    >>> from skl_mmap.monitor import measure
    >>> with measure() as report:
    ...     data = bytearray(50_000_000)
    >>> 40_000_000 < report.peak_growth_bytes < 60_000_000
    True
    """
    with measure_as(
        Measurement, interval_seconds=interval_seconds, method=method
    ) as measurement:
        yield measurement


@contextlib.contextmanager
def measure_as(
    kind: type[_Measured],
    *,
    interval_seconds: float = 0.01,
    method: str = "auto",
    copy_sites: bool = False,
) -> Iterator[_Measured]:
    """Measure a block as `measure` does, and fill in a measurement of some subclass."""
    interval_seconds = _check_interval(interval_seconds)
    method = _check_method(method)
    measurement = kind(interval_seconds, method, pid=os.getpid())
    remarks: dict[str, None] = {}  # each once, in order
    sampler = SamplerProcess(interval_seconds, method)
    try:
        start = time.perf_counter()

        def take_record(record: TaskRecord) -> None:
            end_seconds = time.perf_counter() - start
            record = dataclasses.replace(record, end_seconds=end_seconds)
            measurement.tasks.append(record)

        listener = listen(take_record, remarks.setdefault, measurement.add_segment)
        looking = looking_for_sites() if copy_sites else contextlib.nullcontext()
        try:
            with looking:
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
