"""A memory report in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.report._complaints import format_share

if TYPE_CHECKING:
    from skl_mmap.monitor import GroupReading, SegmentRecord
    from skl_mmap.report._memory_report import MemoryReport, SamplingCost
    from skl_mmap.report._task_cost import TaskCost

__all__ = [
    "describe",
    "describe_estimate",
    "describe_group",
    "describe_holders",
    "describe_peak",
    "describe_sampling",
    "describe_segment",
    "describe_whole",
]

_MAX_ROWS = 30
_MAX_SEGMENTS = 8
_MIN_LABEL = 12
_PLACES = {"memory": "in memory", "disk": "on disk", "file": "in its own file"}


def describe(report: MemoryReport) -> str:
    """Write a report as text: a few lines, and a table of tasks."""
    lines = [describe_whole(report)]
    if peak := describe_peak(report):
        lines.append(_row("peak", peak))
    if report.holders:
        lines.append(_row("", describe_holders(report)))
    if estimate := describe_estimate(report):
        lines.append(_row("copying", estimate))
    if report.unit_bytes is not None:
        source = "" if report.input_bytes is not None else ", the largest shared array"
        lines.append(_row("X", f"{format_bytes(report.unit_bytes)}{source}"))
    lines += _describe_segments(report.segments)
    lines += _describe_tasks(report.tasks)
    lines += [
        _row("copied", f"{format_bytes(n_bytes)} of folds: {reason}")
        for reason, n_bytes in report.copy_reasons.items()
    ]
    lines += [_row("copies", complaint) for complaint in report.complaints]
    lines += [_row("try", str(suggestion)) for suggestion in report.suggestions]
    if report.group is not None:
        lines.append(_row("cgroup", describe_group(report.group)))
    if report.sampling is not None:
        lines.append(_row("readings", describe_sampling(report.sampling)))
    lines += [_row("note", note) for note in report.notes]
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"  {label:<10}{text}"


def describe_whole(report: MemoryReport) -> str:
    """Say what was done, and how long it took."""
    if report.wall_seconds is None:
        return report.title
    text = f"{report.title}: {report.wall_seconds:.2f} s"
    if report.cpu_seconds is not None:
        text += f", {report.cpu_seconds:.2f} s of CPU time"
    return text


def describe_peak(report: MemoryReport) -> str:
    """Say how high the peak was, and when; nothing if it is not known."""
    growth_bytes = report.peak_growth_bytes
    if report.peak_bytes is None or growth_bytes is None:
        return ""
    growth = format_share(growth_bytes, report.unit_bytes)
    text = f"{format_bytes(report.peak_bytes)}, {growth} more than before"
    if report.peak is not None:
        text += f", after {report.peak.seconds:.2f} s"
    if report.method == "uss":
        text += " (unique set sizes: without shared memory)"
    return text


def describe_holders(report: MemoryReport) -> str:
    """Say who held the memory at the peak, and how much of it before."""
    parts = []
    for holder in report.holders:
        text = f"{holder} {format_bytes(holder.n_bytes)}"
        if holder.n_processes > 1:
            text += f" (the largest {format_bytes(holder.largest_bytes)})"
        elif holder.before_bytes:
            text += f" ({format_bytes(holder.before_bytes)} before)"
        parts.append(text)
    return "held by " + ", ".join(parts)


def describe_estimate(report: MemoryReport) -> str:
    """Say what copying would have cost; nothing if there is no idea."""
    n_bytes = report.copying_growth_bytes
    if n_bytes is None:
        return ""
    return (
        f"would have needed about {format_share(n_bytes, report.unit_bytes)} more than "
        "before: an estimate, with the mapped folds of tasks that ran at the same time "
        "as copies"
    )


def describe_segment(segment: SegmentRecord) -> str:
    """Say what was shared, and where it lies."""
    text = f"{segment.description}, {_PLACES.get(segment.place, segment.place)}"
    if segment.path:
        text += f" {segment.path}"
    if not segment.is_copy:
        text += ", without a copy"
    return text


def _describe_segments(segments: tuple[SegmentRecord, ...]) -> list[str]:
    largest_first = sorted(segments, key=lambda segment: -segment.n_bytes)
    lines = [
        _row("shared", f"{format_bytes(segment.n_bytes)}: {describe_segment(segment)}")
        for segment in largest_first[:_MAX_SEGMENTS]
    ]
    rest = largest_first[_MAX_SEGMENTS:]
    if rest:
        n_bytes = format_bytes(sum(segment.n_bytes for segment in rest))
        lines.append(_row("shared", f"{n_bytes}: {len(rest)} more arrays"))
    return lines


def _describe_tasks(tasks: tuple[TaskCost, ...]) -> list[str]:
    if not tasks:
        return ["  tasks     none that workers of mmap have run"]
    width = max(_MIN_LABEL, *(len(task.label) for task in tasks[:_MAX_ROWS]))
    row = f"  {{:<{width}}} {{:>5}} {{:>11}} {{:>11}} {{:>11}} {{:>9}}"
    lines = [row.format("task", "times", "mapped", "copied", "private", "seconds")]
    for task in tasks[:_MAX_ROWS]:
        private = task.private_bytes
        lines.append(
            row.format(
                task.label or "(no name)",
                task.n_tasks,
                format_bytes(task.mapped_bytes),
                format_bytes(task.copied_bytes),
                "unknown" if private is None else format_bytes(private),
                f"{task.seconds:.2f}",
            )
        )
    n_more = len(tasks) - _MAX_ROWS
    return lines + ([f"  and {n_more} more"] if n_more > 0 else [])


def describe_group(group: GroupReading) -> str:
    """Say what the kernel has counted, and whether others are in it."""
    text = f"{format_bytes(group.peak_bytes)} private and shared at most"
    if group.kernel_peak_bytes is not None:
        text += f", {format_bytes(group.kernel_peak_bytes)} with page cache"
    if group.limit_bytes is not None:
        text += f", limit {format_bytes(group.limit_bytes)}"
    if group.n_others:
        noun = "process" if group.n_others == 1 else "processes"
        text += f"; {group.n_others} other {noun} included"
    if group.n_kills:
        noun = "process" if group.n_kills == 1 else "processes"
        text += f"; the kernel has ended {group.n_kills} {noun} for want of memory"
    return text


def describe_sampling(sampling: SamplingCost) -> str:
    """Say how memory was read."""
    return (
        f"{sampling.n_readings}, one every {1000 * sampling.interval_seconds:g} ms "
        f"asked for, {sampling.cpu_seconds:.2f} s of CPU time in a process of "
        f"{format_bytes(sampling.sampler_bytes)}, not counted above"
    )
