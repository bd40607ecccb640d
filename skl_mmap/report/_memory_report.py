"""The report of a job: its value, what follows from it, and how it is measured.

How it is shown is in `_words` and `_picture`, files and tables are in `_export`, and
what helps is in `_findings`.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from skl_mmap.memory import Reason
from skl_mmap.monitor import (
    MeasuredBlock,
    Measurement,
    SegmentRecord,
    TaskRecord,
    add_reasons,
    measure_as,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from skl_mmap.report._findings import Suggestion

# Of these bytes, tasks share one copy.
_SHARED = [reason.name for reason in Reason if reason.is_shared]


def _count_shared(copy_reasons: Mapping[str, int]) -> int:
    """Add up the bytes of folds that tasks share a copy of."""
    return sum(copy_reasons.get(name, 0) for name in _SHARED)


@dataclass(frozen=True, slots=True)
class TaskCost:
    """Cost of the tasks of one name.

    Attributes
    ----------
    label : str
        The estimator and, where it is known, the fold.
    n_tasks : int
        How many there were.
    mapped_bytes, copied_bytes : int
        Bytes of folds that were mapped, and that were copied.
    attached_bytes : int
        Bytes of whole arrays that were mapped.
    copy_reasons : dict of str to int
        Why folds were copied, and how many bytes for each reason, largest first.
    private_bytes : int or None
        The most private memory that one of the tasks needed beside copied folds: what
        the estimator itself has made. A lower bound; None where it was not measured.
    dirtied_bytes : int or None
        Bytes of copy-on-write pages that were written to. None where not measured.
    seconds : float
        Wall time of all of them.
    copy_sites : dict of str to int
        Lines of code that asked for large blocks of memory, and the bytes of the
        largest one of each, if sites were asked for; largest first.
    """

    label: str
    n_tasks: int
    mapped_bytes: int
    copied_bytes: int
    attached_bytes: int
    copy_reasons: dict[str, int]
    private_bytes: int | None
    dirtied_bytes: int | None
    seconds: float
    copy_sites: dict[str, int] = field(default_factory=dict)

    @property
    def estimator(self) -> str:
        """The label without the fold."""
        return self.label.partition(", ")[0]

    @property
    def selected_bytes(self) -> int:
        """Bytes of folds, mapped or copied."""
        return self.mapped_bytes + self.copied_bytes

    @property
    def own_copied_bytes(self) -> int:
        """Bytes of folds that each task has copied for itself."""
        return self.copied_bytes - _count_shared(self.copy_reasons)

    @classmethod
    def from_records(cls, label: str, records: list[TaskRecord]) -> TaskCost:
        """Add up the records of tasks of one name."""
        private = [
            record.peak_private_bytes
            - record.copied_bytes
            + _count_shared(record.copy_reasons)
            for record in records
            if record.peak_private_bytes is not None
        ]
        dirtied = [r.dirtied_bytes for r in records if r.dirtied_bytes is not None]
        return cls(
            label=label,
            n_tasks=len(records),
            mapped_bytes=sum(record.mapped_bytes for record in records),
            copied_bytes=sum(record.copied_bytes for record in records),
            attached_bytes=sum(record.attached_bytes for record in records),
            copy_reasons=add_reasons(records),
            private_bytes=max(0, *private) if private else None,
            dirtied_bytes=sum(dirtied) if dirtied else None,
            seconds=sum(record.seconds for record in records),
            copy_sites=_join_sites(record.copy_sites for record in records),
        )


@dataclass(frozen=True, slots=True)
class Holder:
    """A part of the memory at the peak.

    Attributes
    ----------
    role : {"this process", "worker", "other process", "shared memory"}
        Who had it: private memory of processes, or files in memory.
    n_processes : int
        How many processes there were in this role; 0 for shared memory.
    n_bytes : int
        What all of them had together at the peak.
    before_bytes : int
        What they had when the job began.
    largest_bytes : int
        What the largest of them had at the peak.
    """

    role: str
    n_processes: int
    n_bytes: int
    before_bytes: int
    largest_bytes: int

    def __str__(self) -> str:
        """Name the processes, as many as there are."""
        if self.n_processes < 2:
            return "1 worker" if self.role == "worker" else self.role
        ending = "es" if self.role == "other process" else "s"
        return f"{self.n_processes} {self.role}{ending}"


class MemoryReport(MeasuredBlock):
    """Cost of a job in memory: over time, by process, by estimator and fold.

    `skl_mmap.measure` and `skl_mmap.Memmapped` give it; it never changes.

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
    calls : tuple of CallRecord
        The parallel calls of the backend "mmap", each kind of call once.
    """

    __slots__ = ()

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
            If it is not such a report, or was written by a newer version of skl_mmap.
        OSError
            If the file cannot be read.
        """
        from skl_mmap.report._export import read_json

        return read_json(cls, source)

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
        from skl_mmap.report._export import write_json

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
        from skl_mmap.report._export import make_part

        return make_part(self, what)

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
        from skl_mmap.report._picture import plot

        return plot(self)

    @property
    def unit_bytes(self) -> int | None:
        """Size of X, or else of the largest array that was shared."""
        if self.named_bytes is not None:
            return self.named_bytes
        return max((segment.n_bytes for segment in self._arrays()), default=None)

    def _arrays(self) -> list[SegmentRecord]:
        """Return what was shared of arrays, and not of folds."""
        return [segment for segment in self.segments if not segment.is_of_folds]

    @property
    def named_bytes(self) -> int | None:
        """Size of X as whoever measures or the tasks name it; None if they do not."""
        if self.input_bytes is not None:
            return self.input_bytes
        named = [call.input_bytes for call in self.calls if call.input_bytes]
        return max(named, default=None)

    @property
    def tasks(self) -> tuple[TaskCost, ...]:
        """The cost of the tasks by estimator and fold, in the order of their names."""
        by_label: dict[str, list[TaskRecord]] = {}
        for record in self.records:
            by_label.setdefault(record.label, []).append(record)
        return tuple(
            TaskCost.from_records(label, by_label[label])
            for label in sorted(by_label, key=_natural_order)
        )

    def role_of(self, pid: int) -> str:
        """Return what a process has to do with the job: see `Holder`."""
        if pid == self.pid:
            return "this process"
        is_worker = any(record.pid == pid for record in self.records)
        return "worker" if is_worker else "other process"

    @property
    def holders(self) -> tuple[Holder, ...]:
        """Who held the memory at the peak, the largest first: they add up to it."""
        if self.peak is None:
            return ()
        before = self._list_before()
        by_role: dict[str, list[tuple[int, int]]] = {}
        for process in self.peak.processes:
            held = process.anonymous_bytes, before.get(process.pid, 0)
            by_role.setdefault(self.role_of(process.pid), []).append(held)
        holders = [
            Holder(
                role,
                len(held),
                sum(now for now, _ in held),
                sum(then for _, then in held),
                max(now for now, _ in held),
            )
            for role, held in by_role.items()
        ]
        shared = self.peak.shared_bytes
        if shared:
            then = self.timeline[0].shared_bytes if self.timeline else 0
            holders.append(Holder("shared memory", 0, shared, then, shared))
        return tuple(sorted(holders, key=lambda holder: -holder.n_bytes))

    def _list_before(self) -> dict[int, int]:
        """List who was there when the job began, and with how much private memory."""
        begin = self.timeline[0].seconds if self.timeline else 0.0
        return {
            series.pid: series.anonymous_bytes[0]
            for series in self.processes
            if series.seconds[0] <= begin
        }

    @property
    def n_new_processes(self) -> int:
        """Processes at the peak that have started during the job.

        What their interpreters need is in all growths, and has nothing to do with X.
        """
        if self.peak is None or not self.processes:
            return 0
        before = self._list_before()
        return sum(process.pid not in before for process in self.peak.processes)

    @property
    def copying_growth_bytes(self) -> int | None:
        """An estimate of the peak growth if folds were copied, as with "loky".

        What was measured at each moment, plus the folds that the tasks running then
        had mapped, plus the arrays that were shared without a copy. No task is taken
        to hold more than all shared arrays at once: a batch of several tasks selects
        the same rows again and again, one task after the other. None if there is
        nothing to estimate it from.
        """
        if self.method != "committed" or self.baseline_bytes is None:
            return None
        # joblib writes every large array to /dev/shm but those that are a file already.
        shared_anyway = sum(
            segment.n_bytes
            for segment in self.segments
            if not segment.is_copy and segment.place != "file"
        )
        changes = self._list_mapped_changes()
        if not self.timeline or not (changes or shared_anyway):
            return None
        worst = held = position = 0
        for reading in sorted(self.timeline, key=lambda reading: reading.seconds):
            while position < len(changes) and changes[position][0] <= reading.seconds:
                held += changes[position][1]
                position += 1
            worst = max(worst, reading.committed_bytes + held)
        return worst + shared_anyway - self.baseline_bytes

    def _list_mapped_changes(self) -> list[tuple[float, int]]:
        """List when tasks mapped folds, and let go of them: seconds and bytes."""
        most = sum(segment.n_bytes for segment in self._arrays())
        changes: list[tuple[float, int]] = []
        for record in self.records:
            if record.end_seconds is not None and record.mapped_bytes:
                held = min(record.mapped_bytes, most) if most else record.mapped_bytes
                changes.append((record.end_seconds - record.seconds, held))
                changes.append((record.end_seconds, -held))
        return sorted(changes)

    @property
    def large_copies(self) -> tuple[str, ...]:
        """Who has copied so much of X that it matters, why, and what helps.

        A task that had to copy more than a twentieth of its folds, or whose estimator
        needed private memory of a quarter of X or more beside them. Less than 1 MiB
        of folds, less than 8 MiB of private memory, and inputs of unknown size are not
        looked at.
        """
        from skl_mmap.report._findings import list_large_copies

        return list_large_copies(self)

    @property
    def complaints(self) -> tuple[str, ...]:
        """The older name of `large_copies`."""
        return self.large_copies

    @property
    def suggestions(self) -> tuple[Suggestion, ...]:
        """Lines of code to paste that would need less memory, each with its reason."""
        from skl_mmap.report._findings import list_suggestions

        return list_suggestions(self)

    def __str__(self) -> str:
        """Tell what the job has cost, as text with a table."""
        from skl_mmap.report._words import format_report

        return format_report(self)

    def _repr_html_(self) -> str:
        """Tell what the job has cost, for notebooks."""
        from skl_mmap.report._words import render

        return render(self)


@contextlib.contextmanager
def measure(
    *,
    interval_seconds: float = 0.01,
    method: str = "auto",
    copy_sites: bool = False,
) -> Iterator[Measurement[MemoryReport]]:
    """Measure the memory of this process and all it starts while a block runs.

    Parameters
    ----------
    interval_seconds : float, default=0.01
        Time between two readings, from 0.001 to 60. It becomes longer, up to 0.02,
        where readings would take more than 1.5 % of all cores.
    method : {"auto", "committed", "uss"}, default="auto"
        What to read. ``"committed"``: private memory of all processes plus files in
        memory, each once (Linux). ``"uss"``: sum of unique set sizes, which leaves
        shared memory out; needs psutil. ``"auto"``: the former where there is a
        ``/proc``, otherwise the latter; `Measurement.method` says which.
    copy_sites : bool, default=False
        Whether tasks of the backend "mmap" name the lines of code that ask for large
        blocks of memory. Small arrays of NumPy take four times as long then; see
        `skl_mmap.check_copies` for more about one estimator.

    Yields
    ------
    Measurement
        Shown, drawn and written like the `skl_mmap.MemoryReport` that its `report`
        returns. Filled in when the block ends, also if it raises.

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
    Starting takes about 0.1 s, before the first reading. A reading of five processes
    takes about 0.35 ms of CPU time: 3.6 % of a core at 10 ms. A peak that is shorter
    than the interval can be missed. Blocks may be nested and run in
    several threads; each has a sampler of its own, and no sampler is counted.

    Committed memory is the sum of RssAnon and VmSwap (proc_pid_status(5)) and the
    allocated blocks of all files in memory that the tree has open. Summed RSS would
    count shared pages once per process, and PSS takes 12 ms per GB and process and
    misses a memfd that nobody has mapped.

    Processes that were forked from each other without exec have pages in common, which
    count once: there it is the sum of Pss_Anon and SwapPss. The kernel is asked for
    these once in 0.5 to 2 seconds, less often where that would take more than a tenth
    of a core, and four times as often after large changes. Memory that is allocated or
    freed in between is exact; a common page that is written to, and copied, is missing
    until then, or altogether if its process ends before. If the next look finds that
    the peak may have been more than 1 % higher, a note says by how much.

    Not covered: huge pages of hugetlbfs, page tables, GPU memory. Shared memory that
    has no file descriptor (System V, ``MAP_SHARED | MAP_ANONYMOUS``) counts only as
    far as one process has more of it than there is in all files together.

    Examples
    --------
    >>> import skl_mmap
    >>> with skl_mmap.measure() as report:
    ...     data = bytearray(50_000_000)
    >>> 40_000_000 < report.peak_growth_bytes < 60_000_000
    True
    >>> report.report().holders[0].role
    'this process'
    """
    with measure_as(
        MemoryReport,
        interval_seconds=interval_seconds,
        method=method,
        copy_sites=copy_sites,
    ) as report:
        yield report


def _join_sites(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Join lines of code: bytes of the largest block of each, largest first."""
    largest: dict[str, int] = {}
    for part in parts:
        for site, n_bytes in part.items():
            largest[site] = max(largest.get(site, 0), n_bytes)
    return dict(sorted(largest.items(), key=lambda item: -item[1]))


def _natural_order(label: str) -> list[tuple[int, str]]:
    """Return a key that sorts fold 10 behind fold 9."""
    return [(int(w), "") if w.isdigit() else (-1, w) for w in re.split(r"(\d+)", label)]
