"""The comparisons as text, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

from tests.peers.compare import Comparison
from tests.peers.outcomes import Run

__all__ = ["format_report"]

_COLUMNS = (
    *("suite", "backend", "passed", "failed", "skipped"),
    *("submits", "tasks", "shared", "seconds"),
)


def format_report(comparisons: Sequence[Comparison]) -> str:
    """Return one table of counts, and one list for each kind of difference."""
    rows = [
        _row(run)
        for comparison in comparisons
        for run in (comparison.reference, comparison.ours)
    ]
    lines = _format_table([_COLUMNS, *rows])
    for kind in ("expected", "unexpected", "unsteady"):
        entries = {
            name: how
            for comparison in comparisons
            for name, how in getattr(comparison, kind).items()
        }
        if entries:
            lines += ["", f"{len(entries)} {kind} differences:", ""]
            lines += [f"* {name}: {how}" for name, how in sorted(entries.items())]
    return "\n".join(lines)


def _row(run: Run) -> tuple[str, ...]:
    counts = run.counts
    return (
        run.suite,
        run.backend,
        # An expected failure that passes is one that the suite does not insist on.
        str(counts["passed"] + counts["xpassed"]),
        str(len(run.failures)),
        str(counts["skipped"] + counts["xfailed"]),
        *(str(count) for count in (run.submits, run.tasks, run.shared)),
        f"{run.seconds:.0f}",
    )


def _format_table(rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rules = ["-" * width for width in widths]
    return [
        "| "
        + " | ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True))
        + " |"
        for row in (rows[0], rules, *rows[1:])
    ]
