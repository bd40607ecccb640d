"""What a fit has cost: plain results, their wording is in `_report_text`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from skl_mmap.monitor import Measurement, TaskRecord

__all__ = ["MemoryReport", "TaskCost"]


@dataclass(frozen=True, slots=True)
class TaskCost:
    """What the tasks of one name have cost.

    Attributes
    ----------
    label : str
        The estimator and, where it is known, the fold.
    n_tasks : int
        How many there were.
    mapped_bytes, copied_bytes : int
        Bytes of folds that were mapped, and that were copied.
    attached_bytes : int
        Bytes of whole arrays that were mapped.
    copy_reasons : dict of str to int
        Why folds were copied, and how many bytes for each reason, largest first.
    private_bytes : int or None
        The most private memory that one of the tasks needed beside copied folds: what
        the estimator itself has made. A lower bound; None where it was not measured.
    dirtied_bytes : int or None
        Bytes of copy-on-write pages that were written to. None where not measured.
    seconds : float
        Wall time of all of them.
    """

    label: str
    n_tasks: int
    mapped_bytes: int
    copied_bytes: int
    attached_bytes: int
    copy_reasons: dict[str, int]
    private_bytes: int | None
    dirtied_bytes: int | None
    seconds: float

    @property
    def estimator(self) -> str:
        """The label without the fold."""
        return self.label.partition(", ")[0]

    @property
    def selected_bytes(self) -> int:
        """Bytes of folds, mapped or copied."""
        return self.mapped_bytes + self.copied_bytes

    @classmethod
    def from_records(cls, label: str, records: list[TaskRecord]) -> TaskCost:
        """Add up the records of tasks of one name."""
        private = [
            record.peak_private_bytes - record.copied_bytes
            for record in records
            if record.peak_private_bytes is not None
        ]
        dirtied = [r.dirtied_bytes for r in records if r.dirtied_bytes is not None]
        return cls(
            label=label,
            n_tasks=len(records),
            mapped_bytes=sum(record.mapped_bytes for record in records),
            copied_bytes=sum(record.copied_bytes for record in records),
            attached_bytes=sum(record.attached_bytes for record in records),
            copy_reasons=_add_reasons(records),
            private_bytes=max(0, *private) if private else None,
            dirtied_bytes=sum(dirtied) if dirtied else None,
            seconds=sum(record.seconds for record in records),
        )


def _add_reasons(records: Iterable[TaskRecord]) -> dict[str, int]:
    total: dict[str, int] = {}
    for record in records:
        for reason, n_bytes in record.copy_reasons.items():
            total[reason] = total.get(reason, 0) + n_bytes
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def _natural_order(label: str) -> list[tuple[int, str]]:
    """Return a key that sorts fold 10 behind fold 9."""
    return [(int(w), "") if w.isdigit() else (-1, w) for w in re.split(r"(\d+)", label)]


@dataclass(frozen=True, slots=True)
class MemoryReport:
    """What a fit has cost in memory, by estimator and fold.

    Attributes
    ----------
    title : str
        What was fitted.
    input_bytes : int or None
        Size of X, the unit of all multiples; None where it is not known.
    baseline_bytes : int or None
        Committed memory of the process tree when the fit began: see `skl_mmap.measure`.
        None, like the next two, if the process that reads memory has died.
    peak_bytes : int or None
        The most that it has been, baseline included.
    wall_seconds : float or None
        Duration of the fit.
    records : tuple of TaskRecord
        What the workers said about each batch of tasks.
    notes : tuple of str
        What was done in another way than asked for, and why.
    """

    title: str
    input_bytes: int | None
    baseline_bytes: int | None
    peak_bytes: int | None
    wall_seconds: float | None
    records: tuple[TaskRecord, ...] = field(repr=False)
    notes: tuple[str, ...] = ()

    @classmethod
    def from_measurement(
        cls, measurement: Measurement, title: str, input_bytes: int | None = None
    ) -> MemoryReport:
        """Make a report of what `skl_mmap.measure` has found.

        Raises
        ------
        MeasurementError
            If the measurement is not finished.

        Notes
        -----
        What workers said about their tasks is known even if the process that reads
        memory has died, so there is a report nevertheless.
        """
        has_numbers = measurement.problem is None or not measurement.is_finished
        return cls(
            title=title,
            input_bytes=input_bytes,
            baseline_bytes=measurement.baseline_bytes if has_numbers else None,
            peak_bytes=measurement.peak_bytes if has_numbers else None,
            wall_seconds=measurement.wall_seconds if has_numbers else None,
            records=tuple(measurement.tasks),
            notes=measurement.notes if has_numbers else (str(measurement.problem),),
        )

    @property
    def peak_growth_bytes(self) -> int | None:
        """How far the peak was above the baseline; None if it is not known."""
        if self.peak_bytes is None or self.baseline_bytes is None:
            return None
        return self.peak_bytes - self.baseline_bytes

    @property
    def mapped_bytes(self) -> int:
        """Bytes of folds that were mapped, over all tasks."""
        return sum(record.mapped_bytes for record in self.records)

    @property
    def copied_bytes(self) -> int:
        """Bytes of folds that were copied, over all tasks."""
        return sum(record.copied_bytes for record in self.records)

    @property
    def tasks(self) -> tuple[TaskCost, ...]:
        """The cost of the tasks by estimator and fold, in the order of their names."""
        by_label: dict[str, list[TaskRecord]] = {}
        for record in self.records:
            by_label.setdefault(record.label, []).append(record)
        return tuple(
            TaskCost.from_records(label, by_label[label])
            for label in sorted(by_label, key=_natural_order)
        )

    @property
    def complaints(self) -> tuple[str, ...]:
        """Who has copied so much of X that it matters, why, and what helps.

        A task that had to copy more than a twentieth of its folds, or whose estimator
        needed private memory of a quarter of X or more beside them. Less than 1 MiB
        of folds, less than 8 MiB of private memory, and inputs of unknown size are not
        looked at.
        """
        from skl_mmap.report._complaints import list_complaints

        return list_complaints(self.tasks, self.input_bytes)

    def __str__(self) -> str:
        """Tell what the fit has cost, as a table."""
        from skl_mmap.report._report_text import describe

        return describe(self)
