"""What the tasks of one name have cost together."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from skl_mmap.monitor import TaskRecord

__all__ = ["TaskCost", "add_reasons", "group_tasks", "join_sites"]


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
    copy_sites : dict of str to int
        Lines of code that asked for large blocks of memory, and the bytes of the
        largest one of each, if sites were asked for; largest first.
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
    copy_sites: dict[str, int] = field(default_factory=dict)

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
            copy_reasons=add_reasons(records),
            private_bytes=max(0, *private) if private else None,
            dirtied_bytes=sum(dirtied) if dirtied else None,
            seconds=sum(record.seconds for record in records),
            copy_sites=join_sites(record.copy_sites for record in records),
        )


def group_tasks(records: Iterable[TaskRecord]) -> tuple[TaskCost, ...]:
    """Add up the tasks of each name, in the order of the names."""
    by_label: dict[str, list[TaskRecord]] = {}
    for record in records:
        by_label.setdefault(record.label, []).append(record)
    return tuple(
        TaskCost.from_records(label, by_label[label])
        for label in sorted(by_label, key=_natural_order)
    )


def add_reasons(records: Iterable[TaskRecord]) -> dict[str, int]:
    """Add up why folds were copied: bytes for each reason, largest first."""
    total: dict[str, int] = {}
    for record in records:
        for reason, n_bytes in record.copy_reasons.items():
            total[reason] = total.get(reason, 0) + n_bytes
    return dict(sorted(total.items(), key=lambda item: -item[1]))


def join_sites(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Join lines of code: bytes of the largest block of each, largest first."""
    largest: dict[str, int] = {}
    for part in parts:
        for site, n_bytes in part.items():
            largest[site] = max(largest.get(site, 0), n_bytes)
    return dict(sorted(largest.items(), key=lambda item: -item[1]))


def _natural_order(label: str) -> list[tuple[int, str]]:
    """Return a key that sorts fold 10 behind fold 9."""
    return [(int(w), "") if w.isdigit() else (-1, w) for w in re.split(r"(\d+)", label)]
