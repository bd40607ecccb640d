"""A report in words: as plain text, and as HTML for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from skl_mmap._tables import (
    Markup,
    format_table,
    html_block,
    html_details,
    html_table,
)
from skl_mmap._units import format_bytes
from skl_mmap.report._findings import explain, format_share
from skl_mmap.report._picture import color_of, draw_svg, make_chart

if TYPE_CHECKING:
    from skl_mmap.monitor import GroupReading, SamplingCost, SegmentRecord
    from skl_mmap.report._memory_report import MemoryReport, TaskCost

_MAX_ROWS = 30
_MAX_HTML_ROWS = 200
_MAX_SEGMENTS = 8
_PLACES = {"memory": "in memory", "disk": "on disk", "file": "in its own file"}


def format_report(report: MemoryReport) -> str:
    """Write a report as text: a few lines, and a table of tasks."""
    lines = [_format_whole(report)]
    if peak := _format_peak(report):
        lines.append(_row("peak", peak))
    if report.holders:
        lines.append(_row("", _format_holders(report)))
    if estimate := _format_estimate(report):
        lines.append(_row("copying", estimate))
    if report.unit_bytes is not None:
        source = "" if report.named_bytes is not None else ", the largest shared array"
        lines.append(_row("X", f"{format_bytes(report.unit_bytes)}{source}"))
    lines += _format_segments(report.segments)
    lines += _format_tasks(report.tasks)
    lines += [
        _row("copied", f"{format_bytes(n_bytes)} of folds: {explain(key)}")
        for key, n_bytes in report.copy_reasons.items()
    ]
    lines += [_row("copies", sentence) for sentence in report.large_copies]
    lines += [_row("try", str(suggestion)) for suggestion in report.suggestions]
    if report.group is not None:
        lines.append(_row("cgroup", _format_group(report.group)))
    if report.sampling is not None:
        lines.append(_row("readings", _format_sampling(report.sampling)))
    lines += [_row("note", note) for note in report.notes]
    return "\n".join(lines)


def _row(label: str, text: str) -> str:
    return f"  {label:<10}{text}"


def _format_whole(report: MemoryReport) -> str:
    """Say what was done, and how long it took."""
    if report.wall_seconds is None:
        return report.title
    text = f"{report.title}: {report.wall_seconds:.2f} s"
    if report.cpu_seconds is not None:
        text += f", {report.cpu_seconds:.2f} s of CPU time"
    return text


def _format_peak(report: MemoryReport) -> str:
    """Say how high the peak was, and when; nothing if it is not known."""
    growth_bytes = report.peak_growth_bytes
    if report.peak_bytes is None or growth_bytes is None:
        return ""
    growth = _format_growth(growth_bytes, report)
    text = f"{format_bytes(report.peak_bytes)}, {growth}"
    if report.peak is not None:
        text += f", after {report.peak.seconds:.2f} s"
    if report.method == "uss":
        text += " (unique set sizes: without shared memory)"
    return text


def _format_growth(n_bytes: int, report: MemoryReport) -> str:
    """Write a growth, as a multiple of X too if no new interpreters are in it."""
    n_new = report.n_new_processes
    if not n_new:
        return f"{format_share(n_bytes, report.unit_bytes)} more than before"
    noun = "process" if n_new == 1 else "processes"
    return f"{format_bytes(n_bytes)} more than before ({n_new} new {noun} included)"


def _format_holders(report: MemoryReport) -> str:
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


def _format_estimate(report: MemoryReport) -> str:
    """Say what copying would have cost; nothing if it is not known."""
    n_bytes = report.copying_growth_bytes
    if n_bytes is None:
        return ""
    return (
        f"would have needed about {_format_growth(n_bytes, report)}: an estimate, "
        "with the mapped folds of tasks that ran at the same time as copies"
    )


def _format_segment(segment: SegmentRecord) -> str:
    """Say what was shared, and where it lies."""
    text = f"{segment.description}, {_PLACES.get(segment.place, segment.place)}"
    if segment.path:
        text += f" {segment.path}"
    if not segment.is_copy:
        text += ", without a copy"
    return text


def _format_segments(segments: tuple[SegmentRecord, ...]) -> list[str]:
    largest_first = sorted(segments, key=lambda segment: -segment.n_bytes)
    lines = [
        _row("shared", f"{format_bytes(segment.n_bytes)}: {_format_segment(segment)}")
        for segment in largest_first[:_MAX_SEGMENTS]
    ]
    rest = largest_first[_MAX_SEGMENTS:]
    if rest:
        n_bytes = format_bytes(sum(segment.n_bytes for segment in rest))
        lines.append(_row("shared", f"{n_bytes}: {len(rest)} more arrays"))
    return lines


def _format_tasks(tasks: tuple[TaskCost, ...]) -> list[str]:
    if not tasks:
        return ["  tasks     none that workers of mmap have run"]
    rows = [("task", "times", "mapped", "copied", "private", "seconds")]
    rows += [_list_cells(task, "unknown") for task in tasks[:_MAX_ROWS]]
    n_more = len(tasks) - _MAX_ROWS
    more = [f"  and {n_more} more"] if n_more > 0 else []
    return [format_table(rows, indent="  "), *more]


def _list_cells(task: TaskCost, unknown: str) -> tuple[str, str, str, str, str, str]:
    private = task.private_bytes
    return (
        task.label or "(no name)",
        str(task.n_tasks),
        format_bytes(task.mapped_bytes),
        format_bytes(task.copied_bytes),
        unknown if private is None else format_bytes(private),
        f"{task.seconds:.2f}",
    )


def _format_group(group: GroupReading) -> str:
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


def _format_sampling(sampling: SamplingCost) -> str:
    """Say how memory was read."""
    return (
        f"{sampling.n_readings}, one every {1000 * sampling.interval_seconds:g} ms "
        f"asked for, {sampling.cpu_seconds:.2f} s of CPU time in a process of "
        f"{format_bytes(sampling.sampler_bytes)}, not counted above"
    )


def render(report: MemoryReport) -> str:
    """Write a report as HTML, to be put into a page."""
    return html_block(
        _format_whole(report),
        _render_facts(report),
        *_render_chart(report),
        *(_paragraph(f"⚠ {sentence}") for sentence in report.large_copies),
        *(
            Markup(f"<p>→ <code>{escape(one.code)}</code> {escape(one.reason)}</p>")
            for one in report.suggestions
        ),
        *_render_tasks(report.tasks),
        *_render_details(report),
    )


def _paragraph(text: str) -> Markup:
    return Markup(f"<p>{escape(text)}</p>")


def _render_facts(report: MemoryReport) -> Markup:
    facts = [("peak", _format_peak(report))]
    if report.holders:
        facts.append(("at the peak", _format_holders(report)))
    facts.append(("with copies", _format_estimate(report)))
    if report.records:
        copied = format_share(report.copied_bytes, report.unit_bytes)
        mapped = format_share(report.mapped_bytes, report.unit_bytes)
        facts.append(("folds", f"{mapped} mapped, {copied} copied"))
    facts += [
        ("shared", f"{format_bytes(segment.n_bytes)}: {_format_segment(segment)}")
        for segment in report.segments[:_MAX_HTML_ROWS]
    ]
    rows = (f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts if text)
    return Markup(f"<dl>{''.join(rows)}</dl>")


def _render_chart(report: MemoryReport) -> list[Markup]:
    if not report.timeline or not report.processes:
        return []
    chart = make_chart(report)
    if not chart.layers:
        return []
    copying_bytes = report.copying_growth_bytes
    if copying_bytes is not None and report.baseline_bytes is not None:
        copying_bytes += report.baseline_bytes
    keys = (
        f'<span class="key" style="background: {color_of(chart, position)}"></span>'
        f"{escape(layer.label)}"
        for position, layer in enumerate(chart.layers)
    )
    svg = draw_svg(
        chart, baseline_bytes=report.baseline_bytes, copying_bytes=copying_bytes
    )
    return [Markup(f"<p>{''.join(keys)}</p>"), Markup(svg)]


def _render_tasks(tasks: tuple[TaskCost, ...]) -> list[Markup]:
    if not tasks:
        return [_paragraph("No tasks that workers of mmap have run.")]
    head = ("task", "times", "mapped", "copied", "private", "seconds", "why copied")
    rows = [
        (*_list_cells(task, "?"), "; ".join(map(explain, task.copy_reasons)))
        for task in tasks[:_MAX_HTML_ROWS]
    ]
    table = html_table(head, rows, align="<>>>>><")
    n_more = len(tasks) - _MAX_HTML_ROWS
    more = [_paragraph(f"and {n_more} more")] if n_more > 0 else []
    return [html_details("by estimator and fold", table, is_open=True), *more]


def _render_details(report: MemoryReport) -> list[Markup]:
    lines = []
    if report.group is not None:
        lines.append(f"control group: {_format_group(report.group)}")
    if report.sampling is not None:
        lines.append(f"readings: {_format_sampling(report.sampling)}")
    lines += report.notes
    if not lines:
        return []
    text = Markup("".join(map(_paragraph, lines)))
    return [html_details("how it was measured, and notes", text)]
