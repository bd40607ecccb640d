"""A report on folds in words."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes

if TYPE_CHECKING:
    from skl_mmap.folds._fold_report import FoldReport

__all__ = ["describe"]

_ROW = "  {:>5}  {:<5} {:>10} {:>7}  {:<11} {:>11} {:>11}  {}"
_TITLES = ("split", "part", "rows", "runs", "what", "mapped", "copied", "why")
# Of more splits, the first ones and the last one are shown.
_MAX_SPLITS = 12
_N_FIRST = 8
_WIDTH = 88


def describe(report: FoldReport) -> str:
    """Write a report as text.

    Parameters
    ----------
    report : FoldReport
        Any.

    Returns
    -------
    str
        Several lines without a newline at the end.
    """
    numbers = {text: number for number, text in enumerate(report.reasons, start=1)}
    lines = [report.title, _ROW.format(*_TITLES).rstrip(), *_rows(report, numbers)]
    mapped_bytes, copied_bytes = report.mapped_bytes, report.copied_bytes
    share = copied_bytes / max(mapped_bytes + copied_bytes, 1)
    lines.append(
        f"  all: {format_bytes(mapped_bytes)} mapped, {format_bytes(copied_bytes)} "
        f"copied ({share:.0%})"
    )
    for reason, number in numbers.items():
        lines += _wrap(f"  ({number}) ", reason)
    for remedy in report.remedies:
        lines += _wrap("  try: ", remedy)
    return "\n".join(lines)


def _rows(report: FoldReport, numbers: dict[str, int]) -> Iterator[str]:
    n_splits = len(report.folds)
    for fold in report.folds:
        if n_splits > _MAX_SPLITS and _N_FIRST <= fold.split < n_splits - 1:
            if fold.split == _N_FIRST:
                yield f"  {'...':>5}  and {n_splits - 1 - _N_FIRST} more splits"
            continue
        for rows in fold.parts:
            yield _ROW.format(
                fold.split if rows.part == "train" else "",
                rows.part,
                rows.n_rows,
                rows.n_runs,
                rows.kind,
                format_bytes(rows.mapped_bytes),
                format_bytes(rows.copied_bytes),
                f"({numbers[rows.reason]})" if rows.reason else "",
            ).rstrip()


def _wrap(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
