"""A report on copies as a table for notebooks."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from skl_mmap.copies._text import (
    describe_method,
    describe_suggestion,
    name_place,
    shorten_estimator,
)

if TYPE_CHECKING:
    from skl_mmap.copies._report import CopyReport
    from skl_mmap.copies._results import MethodCopies

__all__ = ["describe_html"]


def describe_html(report: CopyReport) -> str:
    """Write a report as HTML, without scripts and without files of others."""
    n, d = report.shape
    title = (
        f"{shorten_estimator(report.estimator)}: copies of X, ({n:,}, {d:,}) "
        f"{report.given.dtype} {report.given.order}"
    )
    rows = [
        _make_row(found)
        for method in report.methods
        for result in report.layouts
        for found in result.methods
        if found.method == method
    ]
    head = "".join(
        f"<th>{name}</th>" for name in ("method", "layout", "found", "where and why")
    )
    advice = "".join(
        f"<li><code>{escape(describe_suggestion(s))}</code></li>"
        for s in report.suggestions
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    return (
        f"<div><p><b>{escape(title)}</b></p>"
        f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
        + (f"<p>Advice</p><ul>{advice}</ul>" if advice else "")
        + (f"<p>Notes</p><ul>{notes}</ul>" if notes else "")
        + "</div>"
    )


def _make_row(found: MethodCopies) -> str:
    places = "<br>".join(
        escape(f"{site.copies:.2f} X {site.reason}: {name_place(site)}")
        for site in found.sites
        if site.is_at_peak
    )
    cells = (
        escape(found.method),
        escape(str(found.layout)),
        escape(describe_method(found)),
        places,
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
