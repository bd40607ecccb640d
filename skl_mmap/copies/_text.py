"""A report on copies in words."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.copies._results import CopySite, MethodCopies, Suggestion
from skl_mmap.copies._stacks import shorten

if TYPE_CHECKING:
    from skl_mmap.copies._report import CopyReport

__all__ = [
    "describe",
    "describe_method",
    "describe_suggestion",
    "explain_copies",
    "name_place",
]

_MAX_SITES = 6
_MAX_NONE = 0.1
_MAX_ESTIMATOR = 70


def describe(report: CopyReport) -> str:
    """Write a report as text."""
    n, d = report.shape
    name = shorten_estimator(report.estimator)
    size = f"({n:,}, {d:,}) {report.given.dtype} {report.given.order}"
    how = f"{report.n_samples:,} rows in {report.seconds:.1f} s"
    lines = [
        f"CopyReport for {name}, X of shape {size}",
        f"  measured on {how}; 1.00 X is one more X in that layout",
    ]
    for method in report.methods:
        lines.append(f"  {method}")
        for result in report.layouts:
            found = next(m for m in result.methods if m.method == method)
            lines += [f"    {line}" for line in _describe_found(found)]
        lines += [f"  {line}" for line in _describe_best(report, method)]
    lines += [f"  advice: {describe_suggestion(s)}" for s in report.suggestions]
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines)


def _describe_best(report: CopyReport, method: str) -> list[str]:
    measured = [
        found
        for result in report.layouts
        for found in result.methods
        if found.method == method and found.copies is not None
    ]
    if not measured:
        return []
    layout = report.best(method)
    copies = report.copies(method, layout)
    return [f"best layout for {method}: {layout}, {copies:.2f} X"]


def describe_method(found: MethodCopies) -> str:
    """Say in one line what a method did in one layout."""
    if found.copies is None:
        return f"{found.outcome} {found.message}".strip()
    peak = "unknown"
    if found.peak_bytes is not None:
        peak = f"{found.peak_bytes / max(found.input_bytes, 1):.2f} X"
    verdict = "no copies" if found.copies < _MAX_NONE else "copies"
    parts = [f"{found.copies:5.2f} X  {verdict}", f"peak {peak}"]
    if found.native_copies:
        parts.append(f"native {found.native_copies:.2f} X")
    if found.written_bytes:
        parts.append(f"wrote {format_bytes(found.written_bytes)} of X in place")
    parts.append(f"{found.seconds:.2f} s")
    return ", ".join(parts)


def _describe_found(found: MethodCopies) -> list[str]:
    lines = [f"{found.layout!s:<26} {describe_method(found)}"]
    for site in found.sites[:_MAX_SITES]:
        if not site.is_at_peak and site.copies <= _MAX_NONE:
            continue
        lines += [f"    {line}" for line in describe_site(site)]
    n_more = len(found.sites) - _MAX_SITES
    if n_more > 0:
        lines.append(f"    and {n_more} more places")
    if found.keeps_view:
        names = ", ".join(found.keeps_view[:4])
        lines.append(f"    keeps a view of X: {names}")
    lines += [f"    memray: {frames}" for frames in found.native_frames[:_MAX_SITES]]
    return lines + [f"    note: {note}" for note in found.notes]


def describe_site(site: CopySite) -> list[str]:
    """Say in two lines what was copied, why and where."""
    content = f" [{site.content}]" if site.content else ""
    times = f", {site.n_times} times" if site.n_times > 1 else ""
    before = "" if site.is_at_peak else ", not at the peak"
    return [
        f"{site.copies:.2f} X  {site.reason}: {site.detail}{content}{times}{before}",
        f"        at {name_place(site)}",
    ]


def name_place(site: CopySite) -> str:
    """Name the line that made a copy, and how the estimator got there."""
    if not site.file:
        return "a place that is not known"
    place = f"{shorten(site.file)}:{site.line} {site.function}"
    if site.through and site.through != place:
        place = f"{place} <- {site.through}"
    return place


def describe_suggestion(suggestion: Suggestion) -> str:
    """Write a suggestion as a line of code with a comment."""
    effect = f"{suggestion.method} {suggestion.before:.2f} -> {suggestion.after:.2f} X"
    return f"{suggestion.code}  # {effect}, {_describe_results(suggestion)}"


def _describe_results(suggestion: Suggestion) -> str:
    by = ""
    if suggestion.difference is not None:
        by = f" by {suggestion.difference:.1g} of the largest number"
    result = {
        "identical": "same results, bit by bit",
        "rounding": f"same numbers up to rounding{by if suggestion.difference else ''}",
        "different": f"CHANGES RESULTS{by}",
    }.get(suggestion.results, "results could not be compared")
    return f"ANOTHER MODEL: here {result}" if suggestion.changes_model else result


def shorten_estimator(text: str) -> str:
    """Write an estimator in one line."""
    line = " ".join(text.split())
    if len(line) <= _MAX_ESTIMATOR:
        return line
    return line[: _MAX_ESTIMATOR - 3] + "..."


def explain_copies(
    report: CopyReport, guilty: list[MethodCopies], max_copies: float
) -> str:
    """Say who copied X although it must not, where, and what helps."""
    name = shorten_estimator(report.estimator)
    parts = []
    for found in guilty:
        size = format_bytes((found.copies or 0.0) * found.input_bytes)
        parts.append(
            f"{name}.{found.method} copied X {found.copies:.2f} times ({size} of "
            f"{found.n_samples:,} rows, {found.layout}), and at most {max_copies:g} "
            "is allowed."
        )
        for site in found.sites:
            if site.is_at_peak:
                parts.append(f"  {site.copies:.2f} X {site.reason}: {site.detail}")
                parts.append(f"    at {name_place(site)}")
    parts.append(
        "Every worker would have such copies of its own, and X is no longer shared."
    )
    remedies = [describe_suggestion(s) for s in report.suggestions]
    if remedies:
        parts += ["What helps:", *(f"  {remedy}" for remedy in remedies)]
    else:
        parts.append(
            "Pass another layout or parameters such as copy_X=False, or allow it "
            f"with max_copies={max(f.copies or 0 for f in guilty) + 0.1:.1f}."
        )
    return "\n".join(parts)
