"""What a measurement found: plain results, their wording is in `_text`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skl_mmap.exceptions import MeasurementError
from skl_mmap.monitor._records import SegmentRecord, TaskRecord

__all__ = [
    "GroupReading",
    "Measurement",
    "ProcessReading",
    "ProcessSeries",
    "Reading",
]

UNFINISHED = (
    "The block that is being measured has not ended yet, so there is no peak. "
    "Read the report after the with block."
)


@dataclass(frozen=True, slots=True)
class ProcessReading:
    """The memory of one process at one moment.

    Attributes
    ----------
    pid : int
        The process.
    name : str
        What the system calls it.
    anonymous_bytes : int
        Its private memory, swapped or not.
    shared_bytes : int
        Shared memory that it has mapped and touched. Other processes may have the
        same pages: never add these up.
    file_bytes : int
        Pages of files that it has mapped and touched; the same goes for them.
    """

    pid: int
    name: str
    anonymous_bytes: int
    shared_bytes: int
    file_bytes: int


@dataclass(frozen=True, slots=True)
class Reading:
    """The memory of a process tree at one moment.

    Attributes
    ----------
    seconds : float
        Time since the start of the measurement.
    committed_bytes : int
        Private and shared memory together: what the tree cannot do without.
    anonymous_bytes : int
        Private memory of all processes (RssAnon + VmSwap), swapped or not.
    shared_bytes : int
        Files in memory (memfd, tmpfs) that the tree has open, mapped or not, and
        joblib's folders in memory; each file once, whoever uses it.
    file_bytes : int
        Resident pages of mapped files on disk, added up over the processes. The
        kernel can drop them at any time, so they are no part of `committed_bytes`.
    n_processes : int
        Processes of the tree, samplers excluded.
    processes : tuple of ProcessReading
        One for each process; empty except at the peak and in one-off readings.
    cpu_seconds : float
        CPU time that the processes of the tree have used in their lives, those that
        have ended included.
    """

    seconds: float
    committed_bytes: int
    anonymous_bytes: int
    shared_bytes: int
    file_bytes: int
    n_processes: int
    processes: tuple[ProcessReading, ...] = ()
    cpu_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ProcessSeries:
    """The private memory and the CPU time of one process over time.

    Attributes
    ----------
    pid : int
        The process; 0 for the small ones of a very large tree, taken together.
    name : str
        What the system calls it.
    seconds : tuple of float
        Time since the start of the measurement; at most some hundred points.
    anonymous_bytes : tuple of int
        Its private memory, swapped or not, at these times.
    cpu_seconds : tuple of float
        CPU time that it has used in its life, at these times.
    """

    pid: int
    name: str
    seconds: tuple[float, ...]
    anonymous_bytes: tuple[int, ...]
    cpu_seconds: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class GroupReading:
    """What the kernel has counted for the control group that the tree is in.

    Attributes
    ----------
    path : str
        Folder of the group.
    version : {1, 2}
        Version of the control groups.
    baseline_bytes, peak_bytes : int
        Private and shared memory of all that is charged to the group, at the start and
        at its worst moment seen: as committed memory, but with everybody in the group,
        samplers and processes that have left the tree included.
    kernel_peak_bytes : int or None
        The kernel's own peak, exact and with page cache, which it can take back. None
        if the peak was before this measurement.
    limit_bytes : int or None
        Limit of the group itself; None if it has none.
    n_others : int
        Processes of the group that are not of the tree: if there are any, the numbers
        are theirs too.
    n_kills : int
        Processes that the kernel has ended for want of memory.
    """

    path: str
    version: int
    baseline_bytes: int
    peak_bytes: int
    kernel_peak_bytes: int | None
    limit_bytes: int | None
    n_others: int
    n_kills: int


@dataclass(slots=True, eq=False, repr=False)
class Measurement:
    """What a block of code cost in memory, filled in when the block ends.

    Attributes
    ----------
    interval_seconds : float
        Time between two readings that was asked for.
    method : {"committed", "uss"}
        What was read: committed memory, or the sum of unique set sizes where there
        is no /proc.
    tasks : list of TaskRecord
        What the workers said about the tasks of the block, as they arrive.
    segments : list of SegmentRecord
        The arrays that tasks were given in shared memory, each once.
    pid : int
        The process that is measured with all that it starts.
    baseline_bytes : int
        Committed memory of the tree just before the block.
    peak_bytes : int
        The most committed memory that was seen, baseline included.
    peak : Reading
        The moment of the peak, with its processes.
    timeline : tuple of Reading
        The readings in order of time. If there are more than some thousand, each is
        the largest of its stretch of time; the peak is always one of them.
    processes : tuple of ProcessSeries
        The private memory and CPU time of each process over time.
    group : GroupReading or None
        What the kernel has counted, where there are control groups for memory.
    wall_seconds : float
        Duration of the block.
    n_readings : int
        How often memory was read, baseline included.
    mean_reading_seconds : float
        How long a reading took.
    sampler_cpu_seconds : float
        CPU time that the sampler used while the block ran.
    sampler_bytes : int
        Private memory of the sampler, which is in none of the other numbers.
    notes : tuple of str
        What the numbers leave out, where that was noticed.

    Raises
    ------
    MeasurementError
        If a number is read before the block has ended, or if the sampler has died.
    """

    interval_seconds: float
    method: str
    tasks: list[TaskRecord] = field(default_factory=list)
    problem: str | None = UNFINISHED
    """Why there are no numbers; None if there are."""
    segments: list[SegmentRecord] = field(default_factory=list)
    pid: int = 0

    # Not set until the block has ended: see __getattr__.
    baseline_bytes: int = field(init=False)
    peak_bytes: int = field(init=False)
    peak: Reading = field(init=False)
    timeline: tuple[Reading, ...] = field(init=False)
    processes: tuple[ProcessSeries, ...] = field(init=False)
    group: GroupReading | None = field(init=False)
    wall_seconds: float = field(init=False)
    n_readings: int = field(init=False)
    mean_reading_seconds: float = field(init=False)
    sampler_cpu_seconds: float = field(init=False)
    sampler_bytes: int = field(init=False)
    notes: tuple[str, ...] = field(init=False)

    if not TYPE_CHECKING:  # a type checker would take any name for an attribute

        def __getattr__(self, name):
            """Explain why a number is missing."""
            if name in type(self).__dataclass_fields__:
                raise MeasurementError(f"{name} is not known. {self.problem}")
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )

    @property
    def is_finished(self) -> bool:
        """Whether the block has ended."""
        return self.problem != UNFINISHED

    @property
    def peak_growth_bytes(self) -> int:
        """How far the peak was above the baseline."""
        return self.peak_bytes - self.baseline_bytes

    @property
    def cpu_seconds(self) -> float:
        """CPU time that the tree used while the block ran, the sampler's excluded."""
        return self.timeline[-1].cpu_seconds - self.timeline[0].cpu_seconds

    @property
    def mapped_bytes(self) -> int:
        """Bytes of folds that were mapped and cost no memory, over all tasks."""
        return sum(record.mapped_bytes for record in self.tasks)

    @property
    def copied_bytes(self) -> int:
        """Bytes of folds that were copied although their source is shared."""
        return sum(record.copied_bytes for record in self.tasks)

    @property
    def copy_reasons(self) -> dict[str, int]:
        """Why folds were copied, and how many bytes for each reason, largest first."""
        total: dict[str, int] = {}
        for record in list(self.tasks):
            for reason, n_bytes in record.copy_reasons.items():
                total[reason] = total.get(reason, 0) + n_bytes
        return dict(sorted(total.items(), key=lambda item: -item[1]))

    def add_segment(self, record: SegmentRecord) -> None:
        """Take up a shared array, if it is not known."""
        if all(known.inode != record.inode for known in list(self.segments)):
            self.segments.append(record)

    def __str__(self) -> str:
        """Tell what the block cost, in a few lines of text."""
        from skl_mmap.monitor._text import describe

        return describe(self)

    def __repr__(self) -> str:
        """Tell the peak, or that there is none yet."""
        from skl_mmap.monitor._text import name_peak

        return f"<{type(self).__name__}: {name_peak(self)}>"
