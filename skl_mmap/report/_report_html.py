"""A memory report for notebooks: HTML that needs nothing but itself."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.report._chart import Chart, make_chart
from skl_mmap.report._complaints import format_share
from skl_mmap.report._report_text import (
    describe_estimate,
    describe_group,
    describe_holders,
    describe_peak,
    describe_sampling,
    describe_segment,
    describe_whole,
)
from skl_mmap.report._svg import color_of, draw_svg

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport

__all__ = ["render"]

_MAX_ROWS = 200
_STYLE = """
.skl-mmap-report {font: 13px/1.45 system-ui, sans-serif; max-width: 60em}
.skl-mmap-report h4 {margin: 0.2em 0; font-size: 15px}
.skl-mmap-report p {margin: 0.2em 0}
.skl-mmap-report dl {display: grid; grid-template-columns: max-content 1fr;
 gap: 0.1em 1em; margin: 0.4em 0}
.skl-mmap-report dt {font-weight: 600}
.skl-mmap-report dd {margin: 0}
.skl-mmap-report table {border-collapse: collapse; margin: 0.4em 0;
 font-size: inherit}
.skl-mmap-report th, .skl-mmap-report td {padding: 0.1em 0.8em 0.1em 0;
 text-align: right; white-space: nowrap; border: 0}
.skl-mmap-report th:first-child, .skl-mmap-report td:first-child,
.skl-mmap-report th:last-child,
.skl-mmap-report td.text {text-align: left; white-space: normal}
.skl-mmap-report .key {display: inline-block; width: 0.8em; height: 0.8em;
 margin: 0 0.35em 0 1em; border-radius: 2px}
.skl-mmap-report summary {cursor: pointer}
"""


def render(report: MemoryReport) -> str:
    """Write a report as HTML, to be put into a page."""
    parts = [
        f"<style>{_STYLE}</style>",
        f"<h4>{escape(describe_whole(report))}</h4>",
        _render_facts(report),
        *_render_chart(report),
        *(f"<p>⚠ {escape(complaint)}</p>" for complaint in report.complaints),
        *_render_suggestions(report),
        *_render_tasks(report),
        *_render_details(report),
    ]
    return f'<div class="skl-mmap-report">{"".join(parts)}</div>'


def _render_facts(report: MemoryReport) -> str:
    facts = [("peak", describe_peak(report))]
    if report.holders:
        facts.append(("at the peak", describe_holders(report)))
    facts.append(("with copies", describe_estimate(report)))
    if report.records:
        copied = format_share(report.copied_bytes, report.unit_bytes)
        mapped = format_share(report.mapped_bytes, report.unit_bytes)
        facts.append(("folds", f"{mapped} mapped, {copied} copied"))
    facts += [
        ("shared", f"{format_bytes(segment.n_bytes)}: {describe_segment(segment)}")
        for segment in report.segments[:_MAX_ROWS]
    ]
    rows = (f"<dt>{name}</dt><dd>{escape(text)}</dd>" for name, text in facts if text)
    return f"<dl>{''.join(rows)}</dl>"


def _render_chart(report: MemoryReport) -> list[str]:
    if not report.timeline or not report.processes:
        return []
    chart = make_chart(report)
    if not chart.layers:
        return []
    copying_bytes = report.copying_growth_bytes
    if copying_bytes is not None and report.baseline_bytes is not None:
        copying_bytes += report.baseline_bytes
    svg = draw_svg(
        chart, baseline_bytes=report.baseline_bytes, copying_bytes=copying_bytes
    )
    return [_render_keys(chart), svg]


def _render_keys(chart: Chart) -> str:
    keys = (
        f'<span class="key" style="background: {color_of(chart, position)}"></span>'
        f"{escape(layer.label)}"
        for position, layer in enumerate(chart.layers)
    )
    return f"<p>{''.join(keys)}</p>"


def _render_suggestions(report: MemoryReport) -> list[str]:
    return [
        f"<p>→ <code>{escape(suggestion.code)}</code> {escape(suggestion.reason)}</p>"
        for suggestion in report.suggestions
    ]


def _render_tasks(report: MemoryReport) -> list[str]:
    tasks = report.tasks
    if not tasks:
        return ["<p>No tasks that workers of mmap have run.</p>"]
    head = ("task", "times", "mapped", "copied", "private", "seconds", "why copied")
    rows = [
        (
            task.label or "(no name)",
            str(task.n_tasks),
            format_bytes(task.mapped_bytes),
            format_bytes(task.copied_bytes),
            "?" if task.private_bytes is None else format_bytes(task.private_bytes),
            f"{task.seconds:.2f}",
            "; ".join(task.copy_reasons),
        )
        for task in tasks[:_MAX_ROWS]
    ]
    more = len(tasks) - _MAX_ROWS
    parts = [_fold("by estimator and fold", _render_table(head, rows), is_open=True)]
    return parts + ([f"<p>and {more} more</p>"] if more > 0 else [])


def _render_details(report: MemoryReport) -> list[str]:
    lines = []
    if report.group is not None:
        lines.append(f"control group: {describe_group(report.group)}")
    if report.sampling is not None:
        lines.append(f"readings: {describe_sampling(report.sampling)}")
    lines += report.notes
    if not lines:
        return []
    text = "".join(f"<p>{escape(line)}</p>" for line in lines)
    return [_fold("how it was measured, and notes", text, is_open=False)]


def _render_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    titles = "".join(f"<th>{name}</th>" for name in head)
    lines = []
    for *cells, last in rows:
        columns = "".join(f"<td>{escape(cell)}</td>" for cell in cells)
        lines.append(f'<tr>{columns}<td class="text">{escape(last)}</td></tr>')
    return f"<table><tr>{titles}</tr>{''.join(lines)}</table>"


def _fold(title: str, content: str, *, is_open: bool) -> str:
    opened = " open" if is_open else ""
    return f"<details{opened}><summary>{title}</summary>{content}</details>"
