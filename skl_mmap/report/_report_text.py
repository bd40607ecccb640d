"""A memory report in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.report._complaints import format_share

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport, TaskCost

__all__ = ["describe"]

_MAX_ROWS = 30
_MIN_LABEL = 12


def describe(report: MemoryReport) -> str:
    """Write a report as text: a few lines, and a table of tasks."""
    lines = [_describe_whole(report)]
    growth_bytes = report.peak_growth_bytes
    if report.peak_bytes is not None and growth_bytes is not None:
        growth = format_share(growth_bytes, report.input_bytes)
        peak = format_bytes(report.peak_bytes)
        lines.append(f"  peak      {peak}, {growth} more than before")
    if report.input_bytes is not None:
        lines.append(f"  X         {format_bytes(report.input_bytes)}")
    lines += [*_describe_tasks(report.tasks)]
    lines += [f"  copies    {complaint}" for complaint in report.complaints]
    lines += [f"  note      {note}" for note in report.notes]
    return "\n".join(lines)


def _describe_whole(report: MemoryReport) -> str:
    seconds = report.wall_seconds
    return report.title if seconds is None else f"{report.title}: {seconds:.2f} s"


def _describe_tasks(tasks: tuple[TaskCost, ...]) -> list[str]:
    if not tasks:
        return ["  tasks     none: everything ran in this process"]
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
