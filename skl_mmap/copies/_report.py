"""The report on copies: what was found, and how it is told as text and as HTML."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from html import escape
from typing import Any

from skl_mmap._tables import Markup, as_data_frame, html_block, html_table
from skl_mmap._units import format_bytes
from skl_mmap.copies._numpy_memory import shorten
from skl_mmap.copies._results import (
    CopySite,
    Layout,
    LayoutResult,
    MethodCopies,
    Reason,
    Suggestion,
)
from skl_mmap.exceptions import CopyError, InvalidParameterError, MeasurementError

_MAX_SITES = 6
_MAX_NONE = 0.1
_MAX_ESTIMATOR = 70
_COLUMNS = (
    *("method", "outcome", "copies", "native_copies"),
    *("peak_bytes", "input_bytes", "written_bytes", "output_bytes"),
)


@dataclass(frozen=True, slots=True)
class CopyReport:
    """How often an estimator copies X, where and why.

    ``str`` and a notebook show it as a table.

    Attributes
    ----------
    estimator : str
        The estimator.
    given : Layout
        Layout of X, as the backend "mmap" hands it to estimators: copy-on-write.
    shape : (int, int)
        Of X.
    n_samples : int
        Rows of the largest sample that was measured.
    layouts : tuple of LayoutResult
        What was found, the given layout first.
    suggestions : tuple of Suggestion
        What was tried and needs less, that which changes no results first.
    same_results : tuple of Layout
        The layouts in which fitted model and results are those of the given one, bit
        by bit.
    notes : tuple of str
        What the numbers do not tell.
    seconds : float
        How long it took.
    """

    estimator: str
    given: Layout
    shape: tuple[int, int]
    n_samples: int
    layouts: tuple[LayoutResult, ...]
    suggestions: tuple[Suggestion, ...] = ()
    same_results: tuple[Layout, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were called."""
        return tuple(found.method for found in self.layouts[0].methods)

    def find(self, method: str, layout: Layout | str | None = None) -> MethodCopies:
        """Return everything about one method in one layout.

        Parameters
        ----------
        method : str
            Its name.
        layout : Layout or str, default=None
            The layout, or text such as "float32 C read-only". None for the given one.

        Returns
        -------
        MethodCopies
            Sizes, sites and reasons.

        Raises
        ------
        InvalidParameterError
            If that was not measured.
        """
        wanted = Layout.parse(layout) if isinstance(layout, str) else layout
        wanted = self.given if wanted is None else wanted
        for found in self._found(method):
            if found.layout == wanted:
                return found
        names = ", ".join(f"'{result.layout}'" for result in self.layouts)
        raise InvalidParameterError(
            f"{method!r} in layout '{wanted}' was not measured. There are the methods "
            f"{', '.join(map(repr, self.methods))} in the layouts {names}."
        )

    def copies(self, method: str = "fit", layout: Layout | str | None = None) -> float:
        """Return how often a method copies X.

        Parameters
        ----------
        method : str, default="fit"
            Its name.
        layout : Layout or str, default=None
            As in `find`.

        Returns
        -------
        float
            Private memory in units of X that grows with n_samples * n_features.

        Raises
        ------
        MeasurementError
            If the method failed, with its error.
        """
        found = self.find(method, layout)
        if found.copies is None:
            raise MeasurementError(
                f"{self.estimator}.{method} could not be measured with X as "
                f"{found.layout}: {found.outcome}. {found.message}"
            )
        return found.copies

    def best(self, method: str = "fit") -> Layout:
        """Return the layout in which a method needs the least memory for copies.

        Of those that were measured. Other dtypes count only if they change no bit of
        the results. Where two are equal, the given one is better, then copy-on-write.

        Parameters
        ----------
        method : str, default="fit"
            Its name.

        Returns
        -------
        Layout
            The layout.

        Raises
        ------
        MeasurementError
            If the method failed in all of them.
        """
        candidates = [
            (round(found.copies * found.input_bytes / 2**18), place, found.layout)
            for place, found in enumerate(self._found(method))
            if found.copies is not None
            and (
                found.layout.dtype == self.given.dtype
                or found.layout in self.same_results
            )
        ]
        if not candidates:
            self.copies(method)
        return min(candidates)[2]

    def _found(self, *methods: str) -> list[MethodCopies]:
        """Return what was found of some methods, one after the other, by layout."""
        return [
            found
            for method in methods
            for result in self.layouts
            for found in result.methods
            if found.method == method
        ]

    def assert_no_copy(
        self,
        *,
        methods: tuple[str, ...] = ("fit",),
        layout: Layout | str | None = None,
        max_copies: float = 0.1,
    ) -> None:
        """Raise an error if a method copies X.

        Parameters
        ----------
        methods : tuple of str, default=("fit",)
            Which must not.
        layout : Layout or str, default=None
            As in `find`.
        max_copies : float, default=0.1
            What still counts as none, in units of X.

        Raises
        ------
        CopyError
            With the places and what helps.
        MeasurementError
            If a method failed.
        """
        guilty = [
            self.find(method, layout)
            for method in methods
            if self.copies(method, layout) > max_copies
        ]
        if guilty:
            raise CopyError(_explain_copies(self, guilty, max_copies))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, text and numbers, for JSON."""
        result = dataclasses.asdict(self)
        result["shape"] = list(self.shape)
        plain: dict[str, Any] = _as_plain({"schema": 1, **result})
        return plain

    def to_frame(self) -> Any:
        """Return one row for each layout and method.

        Returns
        -------
        pandas.DataFrame
            With the numbers, the reasons and the first place.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        rows = [
            {
                "estimator": self.estimator,
                **dataclasses.asdict(result.layout),
                **{name: getattr(found, name) for name in _COLUMNS},
                "reasons": ", ".join(found.reasons),
                "place": _name_place(found.sites[0]) if found.sites else "",
                "keeps_view": ", ".join(found.keeps_view),
                "seconds": found.seconds,
            }
            for result in self.layouts
            for found in result.methods
        ]
        return as_data_frame(rows)

    def __str__(self) -> str:
        """Tell it line by line."""
        return _write_text(self)

    def _repr_html_(self) -> str:
        return _write_html(self)


def _as_plain(value: Any) -> Any:
    """Replace tuples by lists and reasons by their words, as JSON has them."""
    if isinstance(value, dict):
        # What a place holds is said in words there, as its content.
        return {key: _as_plain(v) for key, v in value.items() if key != "holds"}
    if isinstance(value, tuple | list):
        return [_as_plain(item) for item in value]
    return value.value if isinstance(value, Reason) else value


def _name_estimator(report: CopyReport) -> str:
    line = report.estimator
    return line if len(line) <= _MAX_ESTIMATOR else line[: _MAX_ESTIMATOR - 3] + "..."


def _write_text(report: CopyReport) -> str:
    n, d = report.shape
    size = f"({n:,}, {d:,}) {report.given.dtype} {report.given.order}"
    how = f"{report.n_samples:,} rows in {report.seconds:.1f} s"
    lines = [
        f"CopyReport for {_name_estimator(report)}, X of shape {size}",
        f"  measured on {how}; 1.00 X is one more X in that layout",
    ]
    for method in report.methods:
        lines.append(f"  {method}")
        found = report._found(method)
        lines += [f"    {line}" for one in found for line in _format_found(one)]
        if any(one.copies is not None for one in found):
            best = report.best(method)
            copies = report.copies(method, best)
            lines.append(f"  best layout for {method}: {best}, {copies:.2f} X")
    lines += [f"  advice: {_format_suggestion(s)}" for s in report.suggestions]
    lines += [f"  note: {note}" for note in report.notes]
    return "\n".join(lines)


def _write_html(report: CopyReport) -> str:
    n, d = report.shape
    title = (
        f"{_name_estimator(report)}: copies of X, ({n:,}, {d:,}) "
        f"{report.given.dtype} {report.given.order}"
    )
    rows = []
    for found in report._found(*report.methods):
        places = Markup(
            "<br>".join(
                escape(f"{site.copies:.2f} X {site.reason}: {_name_place(site)}")
                for site in _list_at_peak(found)
            )
        )
        rows.append((found.method, str(found.layout), _format_method(found), places))
    return html_block(
        title,
        html_table(("method", "layout", "found", "where and why"), rows, align="<<<<"),
        *(
            Markup(f"<p>→ <code>{escape(_format_suggestion(s))}</code></p>")
            for s in report.suggestions
        ),
        *(Markup(f"<p>note: {escape(note)}</p>") for note in report.notes),
    )


def _format_method(found: MethodCopies) -> str:
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


def _format_found(found: MethodCopies) -> list[str]:
    lines = [f"{found.layout!s:<26} {_format_method(found)}"]
    for site in found.sites[:_MAX_SITES]:
        if not site.is_at_peak and site.copies <= _MAX_NONE:
            continue
        content = f" [{site.content}]" if site.content else ""
        times = f", {site.n_times} times" if site.n_times > 1 else ""
        before = "" if site.is_at_peak else ", not at the peak"
        lines += [
            f"    {_format_site(site)}{content}{times}{before}",
            f"            at {_name_place(site)}",
        ]
    n_more = len(found.sites) - _MAX_SITES
    if n_more > 0:
        lines.append(f"    and {n_more} more places")
    if found.keeps_view:
        names = ", ".join(found.keeps_view[:4])
        lines.append(f"    keeps a view of X: {names}")
    lines += [f"    memray: {frames}" for frames in found.native_frames[:_MAX_SITES]]
    return lines + [f"    note: {note}" for note in found.notes]


def _format_site(site: CopySite) -> str:
    return f"{site.copies:.2f} X  {site.reason}: {site.detail}"


def _name_place(site: CopySite) -> str:
    """Name the line that made a copy, and how the estimator got there."""
    if not site.file:
        return "a place that is not known"
    place = f"{shorten(site.file)}:{site.line} {site.function}"
    if site.through and site.through != place:
        place = f"{place} <- {site.through}"
    return place


def _format_suggestion(suggestion: Suggestion) -> str:
    """Write a suggestion as a line of code with a comment."""
    by = ""
    if suggestion.difference is not None:
        by = f" by {suggestion.difference:.1g} of the largest number"
    result = {
        "identical": "same results, bit by bit",
        "rounding": f"same numbers up to rounding{by if suggestion.difference else ''}",
        "different": f"CHANGES RESULTS{by}",
    }.get(suggestion.results, "results could not be compared")
    if suggestion.changes_model:
        result = f"ANOTHER MODEL: here {result}"
    effect = f"{suggestion.method} {suggestion.before:.2f} -> {suggestion.after:.2f} X"
    return f"{suggestion.code}  # {effect}, {result}"


def _explain_copies(
    report: CopyReport, guilty: list[MethodCopies], max_copies: float
) -> str:
    """Say who copied X although it must not, where, and what helps."""
    parts = []
    for found in guilty:
        size = format_bytes((found.copies or 0.0) * found.input_bytes)
        parts.append(
            f"{_name_estimator(report)}.{found.method} copied X {found.copies:.2f} "
            f"times ({size} of {found.n_samples:,} rows, {found.layout}), and at most "
            f"{max_copies:g} is allowed."
        )
        for site in _list_at_peak(found):
            parts += [f"  {_format_site(site)}", f"    at {_name_place(site)}"]
    parts.append(
        "Every worker would have such copies of its own, and X is no longer shared."
    )
    if report.suggestions:
        remedies = [_format_suggestion(s) for s in report.suggestions]
        return "\n".join((*parts, "What helps:", *(f"  {line}" for line in remedies)))
    reasons = dict.fromkeys(s.reason for found in guilty for s in _list_at_peak(found))
    if reasons:
        parts.append("What helps, where the code that copies can be changed:")
        parts += [f"  {reason}: {reason.remedy}" for reason in reasons]
    most = max(found.copies or 0.0 for found in guilty)
    parts.append(f"Or allow it with max_copies={most + 0.1:.1f}.")
    return "\n".join(parts)


def _list_at_peak(found: MethodCopies) -> list[CopySite]:
    return [site for site in found.sites if site.is_at_peak]
