"""Copies of a job that matter, and the lines of code that would avoid them.

::

    MemoryReport --> _Job: bytes by reason, estimators, options of the call
                       |--> ADVICE: one rule for each line that can be given
                       '--> list_large_copies: sentences, with the same lines

Every line can be pasted, and does what it says: tests/report/test_advice.py does it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from skl_mmap._advice import backend_line, parameters_of
from skl_mmap._units import format_bytes
from skl_mmap.memory import Cause, Reason, Remedy
from skl_mmap.monitor import CallRecord

if TYPE_CHECKING:
    from skl_mmap.report._memory_report import MemoryReport, TaskCost

# Fraction of its folds that a task may copy: seams between pages are always copied.
_MAX_COPIED_SHARE = 0.05
# Fraction of X in private memory of an estimator: vectors and buffers are less.
_MAX_PRIVATE_SHARE = 0.25
_MIN_BYTES = 1 << 20
# The first call of a library, threads and heaps take some MiB beside any copy of X.
_MIN_PRIVATE_BYTES = 8 << 20
_MAX_SITES = 3
# Smaller arrays have no mapping of their own that could be taken in their place.
_MIN_ADOPTED_BYTES = 32 << 20
# Fraction of the peak growth that adopting has to save to be worth a thought.
_MIN_ADOPTED_SHARE = 0.1
# Train sets of more runs are scattered, and their runs are rarely long.
_MAX_LONG_RUNS = 16


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


@dataclass(slots=True)
class _Job:
    """Facts that advice is derived from."""

    report: MemoryReport
    # The last one, whose options a line repeats.
    call: CallRecord | None
    # Bytes of folds that were copied, by tasks that copied more than seams.
    fold_bytes: dict[Reason, int] = field(default_factory=dict)
    # Tasks whose estimator has made something of the size of X.
    private: list[TaskCost] = field(default_factory=list)

    @classmethod
    def of(cls, report: MemoryReport) -> _Job:
        """Add up the tasks of a report."""
        job = cls(report, report.calls[-1] if report.calls else None)
        tasks = report.tasks
        for task in _find_fold_copies(tasks):
            for key, n_bytes in task.copy_reasons.items():
                cause = _parse(key)
                if cause is not None:
                    known = job.fold_bytes.get(cause.reason, 0)
                    job.fold_bytes[cause.reason] = known + n_bytes
        job.private = _find_private_copies(tasks, report.unit_bytes)
        return job

    @property
    def is_scattered(self) -> bool:
        """Tell if train sets have so many runs that the order of rows is to blame."""
        return any(call.n_runs > _MAX_LONG_RUNS for call in self.report.calls)

    @property
    def scattered_bytes(self) -> int:
        """Bytes of folds that another order of the rows would map."""
        n_bytes = self.fold_bytes.get(Reason.SCATTERED, 0)
        if self.is_scattered:
            # In the order of the folds, the rows also lie one by one.
            n_bytes += self.fold_bytes.get(Reason.SHORT_RUNS, 0)
            n_bytes += self.fold_bytes.get(Reason.NOT_BY_ROW, 0)
        return n_bytes + (self.folds_file_bytes if self.has_gathered else 0)

    @property
    def has_gathered(self) -> bool:
        """Tell if what all tasks shared a copy of are scattered folds."""
        return Reason.GATHERED.name in self.report.copy_reasons

    @property
    def folds_file_bytes(self) -> int:
        """Bytes of parts of folds that all tasks shared a copy of."""
        segments = [s for s in self.report.segments if s.is_of_folds]
        n_bytes = sum(segment.n_bytes for segment in segments)
        return n_bytes if n_bytes >= _MIN_BYTES else 0

    def has(self, option: str, value: object) -> bool:
        """Tell if the job had this option set already."""
        return self.call is not None and self.call.options.get(option) == value

    def line(self, **options: object) -> str:
        """Write the line that sets options, beside those that the job had."""
        if self.call is None:
            return backend_line(None, **options)
        if self.call.owner:
            return f"model.set_params({parameters_of(options)})"
        return backend_line(self.call.n_jobs, **{**self.call.options, **options})

    def arrange_line(self, cv: str) -> str:
        """Write the line that puts X, and y if there is one, into another order."""
        has_target = any(call.has_target for call in self.report.calls)
        remedy = Remedy.ARRANGE if has_target else Remedy.ARRANGE_X
        return remedy.line(cv=cv)


def list_suggestions(report: MemoryReport) -> tuple[Suggestion, ...]:
    """List what would have needed less memory, the surest first."""
    job = _Job.of(report)
    return tuple(filter(None, (give(job) for give in ADVICE.values())))


def _mapped(code: str, n_bytes: int, more: str = "") -> Suggestion:
    return Suggestion(
        code, f"maps folds of {format_bytes(n_bytes)} that were copied{more}"
    )


def _arrange(job: _Job) -> Suggestion | None:
    known = {call.is_partition for call in job.report.calls}
    if not job.scattered_bytes or True not in known or False in known:
        return None
    is_classifier = any(call.is_classifier for call in job.report.calls)
    # It decides what a number of folds means.
    cv = "cv, classifier=True" if is_classifier else "cv"
    return _mapped(
        *(job.arrange_line(cv), job.scattered_bytes),
        "; groups=groups too, if cv needs them",
    )


def _arrange_other_folds(job: _Job) -> Suggestion | None:
    calls = [call for call in job.report.calls if call.is_partition is False]
    if not job.scattered_bytes or not calls:
        return None
    n_splits = max(2, *(call.n_splits for call in calls))
    is_classifier = any(call.is_classifier for call in calls)
    kind = "StratifiedKFold" if is_classifier else "KFold"
    cv = f"{kind}({n_splits}, shuffle=True, random_state=0)"
    return _mapped(
        *(job.arrange_line(cv), job.scattered_bytes),
        "; tests each row once, unlike this cv",
    )


def _store_by_row(job: _Job) -> Suggestion | None:
    n_bytes = job.fold_bytes.get(Reason.NOT_BY_ROW, 0)
    if not n_bytes or job.is_scattered:
        return None
    return _mapped(Remedy.BY_ROW.line(), n_bytes, ", but for seams between pages")


def _order_rows(job: _Job) -> Suggestion | None:
    n_bytes = job.fold_bytes.get(Reason.SEAMS, 0)
    n_bytes += 0 if job.has_gathered else job.folds_file_bytes
    can_reorder = not job.report.calls or any(c.can_reorder for c in job.report.calls)
    if not n_bytes or not can_reorder or job.has("row_order", "any"):
        return None
    return _mapped(job.line(row_order="any"), n_bytes)


def _adopt(job: _Job) -> Suggestion | None:
    growth_bytes = job.report.peak_growth_bytes
    if growth_bytes is None or job.has("adopt", True):
        return None
    n_bytes = sum(
        segment.n_bytes
        for segment in job.report.segments
        if segment.is_adoptable and segment.n_bytes >= _MIN_ADOPTED_BYTES
    )
    if n_bytes == 0 or n_bytes < _MIN_ADOPTED_SHARE * growth_bytes:
        return None
    saved = f"shares {format_bytes(n_bytes)} in place, without a copy"
    return Suggestion(job.line(adopt=True), saved)


def _check_copies(job: _Job) -> Suggestion | None:
    if not job.private:
        return None
    code = "print(skl_mmap.check_copies(estimator, X, y))"
    return Suggestion(code, "says what the estimator copies, and what helps")


def _share_conversion(job: _Job) -> Suggestion | None:
    converting = {name for call in job.report.calls for name in call.conversions}
    names = sorted({task.estimator for task in job.private} & converting)
    if not names or not job.has("layouts", "given"):
        return None
    saved = f"shares one converted copy, where {', '.join(names)} converts X each time"
    return Suggestion(job.line(layouts="auto"), saved)


ADVICE: dict[str, Callable[[_Job], Suggestion | None]] = {
    "arrange": _arrange,
    "arrange other folds": _arrange_other_folds,
    "store by row": _store_by_row,
    "row_order": _order_rows,
    "adopt": _adopt,
    "check_copies": _check_copies,
    "layouts": _share_conversion,
}
"""A rule for each line of code that a report can give, the surest first."""

_SCATTERED_RULES = (_arrange, _arrange_other_folds)
_RULES: dict[Reason, tuple[Callable[[_Job], Suggestion | None], ...]] = {
    Reason.SCATTERED: _SCATTERED_RULES,
    Reason.SHORT_RUNS: _SCATTERED_RULES,
    Reason.NOT_BY_ROW: (_store_by_row, *_SCATTERED_RULES),
    Reason.SEAMS: (_order_rows,),
}


def list_large_copies(report: MemoryReport) -> tuple[str, ...]:
    """Say who has copied so much that it matters, one estimator after the other."""
    job = _Job.of(report)
    by_name: dict[str, list[TaskCost]] = {}
    for task in report.tasks:
        by_name.setdefault(task.estimator or "A task", []).append(task)
    sentences = []
    for name, group in by_name.items():
        sentences += _explain_fold_copies(name, group, job)
        sentences += _explain_private_copies(name, group, report.unit_bytes)
    return tuple(sentences)


def _find_fold_copies(tasks: Iterable[TaskCost]) -> list[TaskCost]:
    """Return the tasks that copied more of their folds than the seams of pages."""
    return [
        task
        for task in tasks
        if task.own_copied_bytes
        > max(_MAX_COPIED_SHARE * task.selected_bytes, _MIN_BYTES)
    ]


def _find_private_copies(
    tasks: Iterable[TaskCost], input_bytes: int | None
) -> list[TaskCost]:
    """Return the tasks whose estimator has made something of the size of X."""
    if input_bytes is None:
        return []
    least = _least_private_bytes(input_bytes)
    return [task for task in tasks if (task.private_bytes or 0) >= least]


def _least_private_bytes(input_bytes: int) -> float:
    return max(_MAX_PRIVATE_SHARE * input_bytes, _MIN_PRIVATE_BYTES)


def _explain_fold_copies(name: str, group: list[TaskCost], job: _Job) -> list[str]:
    guilty = _find_fold_copies(group)
    if not guilty:
        return []
    worst = max(guilty, key=lambda task: task.own_copied_bytes / task.selected_bytes)
    key = next((key for key in worst.copy_reasons if not _is_shared(key)), "")
    copied_bytes = sum(task.own_copied_bytes for task in guilty)
    sentence = (
        f"{name} copied {format_bytes(copied_bytes)} of folds"
        f"{_in_how_many(guilty, group)}, up to "
        f"{worst.own_copied_bytes / worst.selected_bytes:.0%} of one: {explain(key)}."
    )
    cause = _parse(key)
    rules = () if cause is None else _RULES.get(cause.reason, ())
    helpful = next(filter(None, (give(job) for give in rules)), None)
    return [f"{sentence} To avoid it: {helpful.code}." if helpful else sentence]


def _explain_private_copies(
    name: str, group: list[TaskCost], input_bytes: int | None
) -> list[str]:
    guilty = _find_private_copies(group, input_bytes)
    if not guilty or input_bytes is None:
        return []
    least = _least_private_bytes(input_bytes)
    largest = max(task.private_bytes or 0 for task in guilty)
    written = ""
    if any((task.dirtied_bytes or 0) >= least for task in guilty):
        written = ", and wrote to its input, whose pages became its own"
    sentence = (
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
        sentence += f" It was made at {', '.join(named[:_MAX_SITES])}."
    return [sentence]


def _in_how_many(guilty: list[TaskCost], group: list[TaskCost]) -> str:
    if len(group) == 1:
        return ""
    return f" in {len(guilty)} of {len(group)} kinds of tasks"


def format_share(n_bytes: int, input_bytes: int | None) -> str:
    """Write a size, and how many times X it is."""
    if not input_bytes:
        return format_bytes(n_bytes)
    return f"{format_bytes(n_bytes)} ({n_bytes / input_bytes:.2f} X)"


def explain(key: str) -> str:
    """Write the reason of a copy, as records name it, as a sentence."""
    cause = _parse(key)
    return key if cause is None else str(cause)


def _is_shared(key: str) -> bool:
    """Return whether tasks share one copy of what a record names."""
    cause = _parse(key)
    return cause is not None and cause.reason.is_shared


def _parse(key: str) -> Cause | None:
    """Return the cause that a record names; None if it names none that is known."""
    with contextlib.suppress(KeyError):
        return Cause.from_key(key)
    with contextlib.suppress(ValueError):
        return Cause(Reason(key))  # a file of an older version has the sentence
    return None
