"""What a job has cost: plain results.

Words are in `_report_text`, pictures in `_report_html` and `_plot`, files in `_json`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skl_mmap.monitor import (
    GroupReading,
    Measurement,
    ProcessSeries,
    Reading,
    SegmentRecord,
    TaskRecord,
)
from skl_mmap.report._task_cost import TaskCost, add_reasons, group_tasks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skl_mmap.report._holders import Holder
    from skl_mmap.report._suggestions import Suggestion

__all__ = ["MemoryReport", "SamplingCost"]

# Reports are kept, pickled with models, and drawn: more would be no use there.
_MAX_MOMENTS = 512


@dataclass(frozen=True, slots=True)
class SamplingCost:
    """How memory was read, and what that has cost.

    Attributes
    ----------
    interval_seconds : float
        Time between two readings that was asked for.
    n_readings : int
        How many there were.
    mean_reading_seconds : float
        How long one of them took.
    cpu_seconds : float
        CPU time of the process that reads memory.
    sampler_bytes : int
        Its private memory, which is in no other number.
    """

    interval_seconds: float
    n_readings: int
    mean_reading_seconds: float
    cpu_seconds: float
    sampler_bytes: int


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What a job has cost in memory: over time, by process, by estimator and fold.

    Attributes
    ----------
    title : str
        What was done.
    input_bytes : int or None
        Size of X, the unit of all multiples; None where it is not known.
    baseline_bytes : int or None
        Committed memory of the process tree when the job began: see `skl_mmap.measure`.
        None, like the next two, if the process that reads memory has died.
    peak_bytes : int or None
        The most that it has been, baseline included.
    wall_seconds : float or None
        Duration of the job.
    records : tuple of TaskRecord
        What the workers said about each batch of tasks.
    notes : tuple of str
        What was done in another way than asked for, and why; what the numbers leave
        out.
    segments : tuple of SegmentRecord
        The arrays that tasks were given in shared memory.
    method : {"committed", "uss"}
        What was read: see `skl_mmap.measure`.
    pid : int
        The process that was measured with all that it started.
    peak : Reading or None
        The worst moment, with its processes.
    timeline : tuple of Reading
        Readings in order of time, the peak among them; some hundred at most.
    processes : tuple of ProcessSeries
        Private memory and CPU time of each process over time.
    group : GroupReading or None
        What the kernel has counted for the control group.
    sampling : SamplingCost or None
        How memory was read.
    """

    title: str
    input_bytes: int | None
    baseline_bytes: int | None
    peak_bytes: int | None
    wall_seconds: float | None
    records: tuple[TaskRecord, ...] = field(repr=False)
    notes: tuple[str, ...] = ()
    segments: tuple[SegmentRecord, ...] = ()
    method: str = "committed"
    pid: int = 0
    peak: Reading | None = field(default=None, repr=False)
    timeline: tuple[Reading, ...] = field(default=(), repr=False)
    processes: tuple[ProcessSeries, ...] = field(default=(), repr=False)
    group: GroupReading | None = field(default=None, repr=False)
    sampling: SamplingCost | None = field(default=None, repr=False)

    @classmethod
    def from_measurement(
        cls, measurement: Measurement, title: str, input_bytes: int | None = None
    ) -> MemoryReport:
        """Make a report of what `skl_mmap.measure` has found.

        Raises
        ------
        MeasurementError
            If the measurement is not finished.

        Notes
        -----
        What workers said about their tasks is known even if the process that reads
        memory has died, so there is a report nevertheless.
        """
        told: dict[str, Any] = {
            "title": title,
            "input_bytes": input_bytes,
            "records": tuple(measurement.tasks),
            "segments": tuple(measurement.segments),
            "method": measurement.method,
            "pid": measurement.pid,
        }
        if measurement.is_finished and measurement.problem is not None:
            return cls(
                **told,
                baseline_bytes=None,
                peak_bytes=None,
                wall_seconds=None,
                notes=(measurement.problem,),
            )
        return cls(
            **told,
            baseline_bytes=measurement.baseline_bytes,
            peak_bytes=measurement.peak_bytes,
            wall_seconds=measurement.wall_seconds,
            notes=measurement.notes,
            peak=measurement.peak,
            timeline=_thin_out(measurement.timeline),
            processes=measurement.processes,
            group=measurement.group,
            sampling=SamplingCost(
                measurement.interval_seconds,
                measurement.n_readings,
                measurement.mean_reading_seconds,
                measurement.sampler_cpu_seconds,
                measurement.sampler_bytes,
            ),
        )

    @classmethod
    def from_json(cls, source: str | os.PathLike[str]) -> MemoryReport:
        """Read a report that `to_json` has written.

        Parameters
        ----------
        source : str or path-like
            The JSON itself, or the path of a file.

        Raises
        ------
        FileFormatError
            If it is no such report, or was written by a newer version of skl_mmap.
        OSError
            If the file cannot be read.
        """
        from skl_mmap.report._json import read_json

        return read_json(source)

    def to_json(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write the report as JSON, with all its numbers.

        Parameters
        ----------
        path : path-like, default=None
            File to write to as well.

        Returns
        -------
        str
            The JSON. Its `schema` is the version of its layout.
        """
        from skl_mmap.report._json import write_json

        return write_json(self, path)

    def to_frame(self, what: str = "tasks") -> Any:
        """Return a part of the report as a data frame.

        Parameters
        ----------
        what : {"tasks", "records", "timeline", "processes", "segments"}
            One row for each estimator and fold, for each batch of tasks, for each
            reading, for each process and moment, or for each shared array.

        Returns
        -------
        pandas.DataFrame

        Raises
        ------
        ImportError
            If pandas is missing: it is in the extra ``tables``.
        InvalidParameterError
            If there is no such part.
        """
        from skl_mmap.report._frames import make_frame

        return make_frame(self, what)

    def plot(self) -> Figure:
        """Draw memory by process, tasks, and CPU use over time.

        Returns
        -------
        matplotlib.figure.Figure

        Raises
        ------
        ImportError
            If matplotlib is missing: it is in the extra ``plot``.
        MeasurementError
            If nothing was measured over time.
        """
        from skl_mmap.report._plot import draw

        return draw(self)

    @property
    def peak_growth_bytes(self) -> int | None:
        """How far the peak was above the baseline; None if it is not known."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return self.peak_bytes - self.baseline_bytes

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of all processes during the job; None if it is not known."""
        if not self.timeline:
            return None
        return self.timeline[-1].cpu_seconds - self.timeline[0].cpu_seconds

    @property
    def unit_bytes(self) -> int | None:
        """Size of X, or else of the largest array that was shared."""
        if self.input_bytes is not None:
            return self.input_bytes
        return max((segment.n_bytes for segment in self.segments), default=None)

    @property
    def mapped_bytes(self) -> int:
        """Bytes of folds that were mapped, over all tasks."""
        return sum(record.mapped_bytes for record in self.records)

    @property
    def copied_bytes(self) -> int:
        """Bytes of folds that were copied, over all tasks."""
        return sum(record.copied_bytes for record in self.records)

    @property
    def copy_reasons(self) -> dict[str, int]:
        """Why folds were copied, and how many bytes for each reason, largest first."""
        return add_reasons(self.records)

    @property
    def tasks(self) -> tuple[TaskCost, ...]:
        """The cost of the tasks by estimator and fold, in the order of their names."""
        return group_tasks(self.records)

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who held the memory at the peak, the largest first: they add up to it."""
        from skl_mmap.report._holders import list_holders

        return list_holders(self)

    @property
    def copying_growth_bytes(self) -> int | None:
        """An estimate of the peak growth if folds were copied, as with "loky".

        What was measured at each moment, plus the folds that the tasks running then
        had mapped, plus the arrays that were shared without a copy. None if there is
        nothing to estimate it from.
        """
        from skl_mmap.report._holders import estimate_copying_growth

        return estimate_copying_growth(self)

    @property
    def complaints(self) -> tuple[str, ...]:
        """Who has copied so much of X that it matters, why, and what helps.

        A task that had to copy more than a twentieth of its folds, or whose estimator
        needed private memory of a quarter of X or more beside them. Less than 1 MiB
        of folds, less than 8 MiB of private memory, and inputs of unknown size are not
        looked at.
        """
        from skl_mmap.report._complaints import list_complaints

        return list_complaints(self.tasks, self.unit_bytes)

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """What would need less memory, each with a line of code."""
        from skl_mmap.report._suggestions import list_suggestions

        return list_suggestions(self)

    def __str__(self) -> str:
        """Tell what the job has cost, as text with a table."""
        from skl_mmap.report._report_text import describe

        return describe(self)

    def _repr_html_(self) -> str:
        """Tell what the job has cost, for notebooks."""
        from skl_mmap.report._report_html import render

        return render(self)


def _thin_out(timeline: Sequence[Reading]) -> tuple[Reading, ...]:
    """Keep the first, the last, and the largest reading of each stretch of time."""
    if len(timeline) <= _MAX_MOMENTS:
        return tuple(timeline)
    first, *between, last = timeline
    n_stretches = _MAX_MOMENTS - 2
    bounds = [i * len(between) // n_stretches for i in range(n_stretches + 1)]
    stretches = itertools.pairwise(bounds)
    largest = (
        max(between[start:stop], key=lambda reading: reading.committed_bytes)
        for start, stop in stretches
    )
    return (first, *largest, last)
