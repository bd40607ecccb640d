"""Which copies of a fit are worth a warning."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from skl_mmap._units import format_bytes

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import TaskCost

__all__ = [
    "find_fold_copies",
    "find_private_copies",
    "format_share",
    "list_complaints",
]

# Of its folds, copied by a task: seams between pages are always copied.
_MAX_COPIED_SHARE = 0.05
# Of X, in private memory of an estimator: vectors and buffers are no copies of X.
_MAX_PRIVATE_SHARE = 0.25
_MIN_BYTES = 1 << 20
# The first call of a library, threads and heaps take some MiB that are no copy of X.
_MIN_PRIVATE_BYTES = 8 << 20
_MAX_SITES = 3

# By a word of the reason that `skl_mmap.memory` gives.
_REMEDIES = (
    ("long runs", "put X into the order of its folds with skl_mmap.arrange()"),
    ("C-contiguous", "pass X in C order, or share it with skl_mmap.share(order='C')"),
    ("pages of the file", "use row_order='any'"),
)


def list_complaints(
    tasks: Iterable[TaskCost], input_bytes: int | None
) -> tuple[str, ...]:
    """Describe who has copied too much, a sentence or two for each estimator.

    Parameters
    ----------
    tasks : iterable of TaskCost
        What was done.
    input_bytes : int or None
        Size of X; None if it is not known.
    """
    by_name: dict[str, list[TaskCost]] = {}
    for task in tasks:
        by_name.setdefault(task.estimator or "A task", []).append(task)
    complaints = []
    for name, group in by_name.items():
        complaints += _complain_about_folds(name, group)
        complaints += _complain_about_estimator(name, group, input_bytes)
    return tuple(complaints)


def find_fold_copies(tasks: Iterable[TaskCost]) -> list[TaskCost]:
    """Return the tasks that copied more of their folds than the seams of pages."""
    return [
        task
        for task in tasks
        if task.copied_bytes > max(_MAX_COPIED_SHARE * task.selected_bytes, _MIN_BYTES)
    ]


def find_private_copies(
    tasks: Iterable[TaskCost], input_bytes: int | None
) -> list[TaskCost]:
    """Return the tasks whose estimator has made something of the size of X."""
    if input_bytes is None:
        return []
    least = _least_private_bytes(input_bytes)
    return [task for task in tasks if (task.private_bytes or 0) >= least]


def _least_private_bytes(input_bytes: int) -> float:
    return max(_MAX_PRIVATE_SHARE * input_bytes, _MIN_PRIVATE_BYTES)


def _complain_about_folds(name: str, group: list[TaskCost]) -> list[str]:
    guilty = find_fold_copies(group)
    if not guilty:
        return []
    worst = max(guilty, key=lambda task: task.copied_bytes / task.selected_bytes)
    reason = next(iter(worst.copy_reasons), "")
    remedy = next((text for word, text in _REMEDIES if word in reason), "")
    copied_bytes = sum(task.copied_bytes for task in guilty)
    complaint = (
        f"{name} copied {format_bytes(copied_bytes)} of folds"
        f"{_in_how_many(guilty, group)}, up to "
        f"{worst.copied_bytes / worst.selected_bytes:.0%} of one: {reason}."
    )
    return [complaint + (f" To avoid it, {remedy}." if remedy else "")]


def _complain_about_estimator(
    name: str, group: list[TaskCost], input_bytes: int | None
) -> list[str]:
    guilty = find_private_copies(group, input_bytes)
    if not guilty or input_bytes is None:
        return []
    least = _least_private_bytes(input_bytes)
    largest = max(task.private_bytes or 0 for task in guilty)
    written = ""
    if any((task.dirtied_bytes or 0) >= least for task in guilty):
        written = ", and wrote to its input, whose pages became its own"
    complaint = (
        f"{name} needed up to {format_share(largest, input_bytes)} of private memory "
        f"beside its folds{_in_how_many(guilty, group)}{written}. The estimator makes "
        "it itself: a parameter such as copy_X=False or copy=False, or another dtype "
        "or order of X, may avoid it."
    )
    large: dict[str, int] = {}
    for task in guilty:
        for site, n_bytes in task.copy_sites.items():
            if n_bytes >= max(least, large.get(site, 0)):
                large[site] = n_bytes
    if large:
        ordered = sorted(large.items(), key=lambda item: -item[1])
        named = [f"{site} ({format_bytes(n)})" for site, n in ordered]
        complaint += f" It was made at {', '.join(named[:_MAX_SITES])}."
    return [complaint]


def _in_how_many(guilty: list[TaskCost], group: list[TaskCost]) -> str:
    if len(group) == 1:
        return ""
    return f" in {len(guilty)} of {len(group)} kinds of tasks"


def format_share(n_bytes: int, input_bytes: int | None) -> str:
    """Write a size, and how many times X it is."""
    if not input_bytes:
        return format_bytes(n_bytes)
    return f"{format_bytes(n_bytes)} ({n_bytes / input_bytes:.2f} X)"
