"""The values that readings of memory are given as."""

from __future__ import annotations

from dataclasses import dataclass, field

from skl_mmap.monitor._records import (
    CallRecord,
    SegmentRecord,
    TaskRecord,
    add_reasons,
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
        Its private memory, swapped or not. Of a page that n processes have in common
        since one was forked from the other, each has 1/n; so these can be added up.
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
        Private memory of all processes, swapped or not (RssAnon + VmSwap), each page
        once: Pss_Anon + SwapPss where processes were forked from each other.
    shared_bytes : int
        Files in memory (memfd, tmpfs) that the tree has open, mapped or not, and
        joblib's folders in memory; each file once, whoever uses it.
    file_bytes : int
        Resident pages of mapped files on disk, added up over the processes. The
        kernel can drop them at any time, so `committed_bytes` leaves them out.
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
        Its private memory at these times, as in `ProcessReading`: it grows when another
        process ends that had some of the same pages.
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
    """Numbers of the kernel for the control group that the tree is in.

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


@dataclass(frozen=True, slots=True)
class SamplingCost:
    """How memory was read, and what that has cost.

    Attributes
    ----------
    interval_seconds : float
        Time between two readings that was asked for.
    n_readings : int
        How often memory was read, baseline included.
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
class MeasuredBlock:
    """Cost of a block of code: `skl_mmap.MemoryReport` explains the attributes.

    The numbers are None, and the series empty, if the process that reads memory has
    died. What workers said about their tasks is known nevertheless.
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
    calls: tuple[CallRecord, ...] = field(default=(), repr=False)

    @property
    def peak_growth_bytes(self) -> int | None:
        """How far the peak was above the baseline; None if it is not known."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return self.peak_bytes - self.baseline_bytes

    @property
    def cpu_seconds(self) -> float | None:
        """CPU time of all processes during the block; None if it is not known."""
        if not self.timeline:
            return None
        return self.timeline[-1].cpu_seconds - self.timeline[0].cpu_seconds

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
