"""Who held the memory at the worst moment, and how it would be with copies."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport

__all__ = ["Holder", "estimate_copying_growth", "list_holders", "name_role"]

PARENT, WORKER, OTHER, SHARED = (
    "this process",
    "worker",
    "other process",
    "shared memory",
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
            return "1 worker" if self.role == WORKER else self.role
        return f"{self.n_processes} {self.role}{'es' if self.role == OTHER else 's'}"


def name_role(report: MemoryReport, pid: int) -> str:
    """Return what a process has to do with the job."""
    if pid == report.pid:
        return PARENT
    return WORKER if any(record.pid == pid for record in report.records) else OTHER


def list_holders(report: MemoryReport) -> tuple[Holder, ...]:
    """Add up who held the memory at the peak, the largest first."""
    if report.peak is None:
        return ()
    before = {
        series.pid: series.anonymous_bytes[0]
        for series in report.processes
        if series.seconds[0] == 0.0
    }
    by_role: dict[str, list[tuple[int, int]]] = {}
    for process in report.peak.processes:
        held = process.anonymous_bytes, before.get(process.pid, 0)
        by_role.setdefault(name_role(report, process.pid), []).append(held)
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
    shared = report.peak.shared_bytes
    if shared:
        then = report.timeline[0].shared_bytes if report.timeline else 0
        holders.append(Holder(SHARED, 0, shared, then, shared))
    return tuple(sorted(holders, key=lambda holder: -holder.n_bytes))


def estimate_copying_growth(report: MemoryReport) -> int | None:
    """Estimate the peak growth with folds that are copied and not mapped.

    Notes
    -----
    No task is taken to hold more than all shared arrays at once: a batch of several
    tasks selects the same rows again and again, one task after the other.
    """
    if report.method != "committed" or report.baseline_bytes is None:
        return None
    most = sum(segment.n_bytes for segment in report.segments)
    changes: list[tuple[float, int]] = []
    for record in report.records:
        if record.end_seconds is not None and record.mapped_bytes:
            held = min(record.mapped_bytes, most) if most else record.mapped_bytes
            changes.append((record.end_seconds - record.seconds, held))
            changes.append((record.end_seconds, -held))
    # joblib writes every large array to /dev/shm but those that are a file already.
    shared_anyway = sum(
        segment.n_bytes
        for segment in report.segments
        if not segment.is_copy and segment.place != "file"
    )
    if not report.timeline or not (changes or shared_anyway):
        return None
    changes.sort()
    worst = held = 0
    moments = sorted(
        [(reading.seconds, reading.committed_bytes) for reading in report.timeline]
    )
    position = 0
    for seconds, committed in moments:
        while position < len(changes) and changes[position][0] <= seconds:
            held += changes[position][1]
            position += 1
        worst = max(worst, committed + held)
    return worst + shared_anyway - report.baseline_bytes
