"""A report on folds as text."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import TYPE_CHECKING

from skl_mmap._tables import format_table
from skl_mmap._units import format_bytes

if TYPE_CHECKING:
    from skl_mmap.preview._fold_report import FoldReport

_HEAD = ("split", "part", "rows", "runs", "what", "mapped", "copied", "why")
_ALIGN = "><>><>><"
# If there are more splits, the first ones and the last one are shown.
_MAX_SPLITS = 12
_N_FIRST = 8
_WIDTH = 88


def format_folds(report: FoldReport) -> str:
    """Write a report as text, without a newline at the end."""
    numbers = {text: number for number, text in enumerate(report.reasons, start=1)}
    table = format_table([_HEAD, *_rows(report, numbers)], align=_ALIGN, indent="  ")
    rows = table.splitlines()
    if (n_splits := len(report.folds)) > _MAX_SPLITS:
        rows.insert(
            2 * _N_FIRST + 1, f"  ... and {n_splits - 1 - _N_FIRST} more splits"
        )
    mapped_bytes, copied_bytes = report.mapped_bytes, report.copied_bytes
    mapped, copied = format_bytes(mapped_bytes), format_bytes(copied_bytes)
    share = copied_bytes / max(mapped_bytes + copied_bytes, 1)
    lines = [
        report.title,
        *rows,
        f"  all: {mapped} mapped, {copied} copied ({share:.0%})",
    ]
    for reason, number in numbers.items():
        lines += _wrap(f"  ({number}) ", reason)
    lines += [f"  try: {remedy}" for remedy in report.remedies]
    return "\n".join(lines)


def _rows(report: FoldReport, numbers: dict[str, int]) -> Iterator[tuple[str, ...]]:
    n_splits = len(report.folds)
    for fold in report.folds:
        if n_splits > _MAX_SPLITS and _N_FIRST <= fold.split < n_splits - 1:
            continue
        for rows in fold.parts:
            yield (
                str(fold.split) if rows.part == "train" else "",
                rows.part,
                str(rows.n_rows),
                str(rows.n_runs),
                rows.kind,
                format_bytes(rows.mapped_bytes),
                format_bytes(rows.copied_bytes),
                f"({numbers[rows.reason]})" if rows.reason else "",
            )


def _wrap(label: str, text: str) -> list[str]:
    return textwrap.wrap(
        text,
        _WIDTH,
        initial_indent=label,
        subsequent_indent=" " * len(label),
        break_long_words=False,
        break_on_hyphens=False,
    )
