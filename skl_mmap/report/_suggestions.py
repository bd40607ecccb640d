"""What would need less memory, each with a line of code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes
from skl_mmap.report._complaints import find_fold_copies, find_private_copies

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport

__all__ = ["Suggestion", "list_suggestions"]

# Smaller arrays have no mapping of their own that could be taken in their place.
_MIN_ADOPTED_BYTES = 32 << 20
# Of the peak growth: less is not worth a thought.
_MIN_SHARE = 0.1

_LAYOUT_NOTE = "was given X as"

# By a word of the reason that `skl_mmap.memory` gives.
_CODE = (
    ("long runs", "X, y, cv = skl_mmap.arrange(X, y, cv=cv)"),
    ("C-contiguous", 'X = skl_mmap.share(X, order="C")'),
    ("pages of the file", 'parallel_config(backend="mmap", row_order="any")'),
)


@dataclass(frozen=True, slots=True)
class Suggestion:
    """One thing that would need less memory.

    Attributes
    ----------
    code : str
        The line to write.
    reason : str
        What it would save, or tell.
    """

    code: str
    reason: str

    def __str__(self) -> str:
        """Write the line with its reason."""
        return f"{self.code}  # {self.reason}"


def list_suggestions(report: MemoryReport) -> tuple[Suggestion, ...]:
    """List what would have needed less memory, the surest first."""
    found = []
    by_reason: dict[str, int] = {}
    for task in find_fold_copies(report.tasks):
        for reason, n_bytes in task.copy_reasons.items():
            by_reason[reason] = by_reason.get(reason, 0) + n_bytes
    for word, code in _CODE:
        n_bytes = sum(size for reason, size in by_reason.items() if word in reason)
        if n_bytes:
            saved = f"maps folds of {format_bytes(n_bytes)} that were copied"
            found.append(Suggestion(code, saved))
    found += _suggest_adoption(report)
    if find_private_copies(report.tasks, report.unit_bytes):
        code = "skl_mmap.check_copies(estimator, X, y)"
        found.append(Suggestion(code, "says what the estimator copies, and what helps"))
        # With layouts="auto", there is a note about every estimator.
        if not any(_LAYOUT_NOTE in note for note in report.notes):
            code = 'parallel_config(backend="mmap", layouts="auto")'
            reason = "shares one converted copy, where estimators convert X each"
            found.append(Suggestion(code, reason))
    return tuple(found)


def _suggest_adoption(report: MemoryReport) -> list[Suggestion]:
    growth_bytes = report.peak_growth_bytes
    if growth_bytes is None:
        return []
    n_bytes = sum(
        segment.n_bytes
        for segment in report.segments
        if segment.is_copy
        and segment.place == "memory"
        and segment.n_bytes >= _MIN_ADOPTED_BYTES
    )
    if n_bytes == 0 or n_bytes < _MIN_SHARE * growth_bytes:
        return []
    code = 'parallel_config(backend="mmap", adopt=True)'
    return [
        Suggestion(code, f"shares {format_bytes(n_bytes)} in place, without a copy")
    ]
