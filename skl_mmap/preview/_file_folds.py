"""What the folds of KFold would cost, from the layout of a file alone."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from skl_mmap.containers import RowSize
from skl_mmap.memory import Cost, Geometry, Origin, Piece, Runs, Settings, plan_runs
from skl_mmap.orders import order_runs, rows_of_pages

_HUGE_PAGE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of an array lie in its file.

    Attributes
    ----------
    n_rows, row_bytes : int
        Rows, and the bytes of each.
    offset : int
        Place of the first one in the file.
    alignment : int
        What the address of an element must be a multiple of.
    """

    n_rows: int
    row_bytes: int
    offset: int = 0
    alignment: int = 8

    @property
    def unit_rows(self) -> int:
        """Rows after which the same place in a page comes again."""
        return rows_of_pages(self.row_bytes)

    @property
    def page_offset(self) -> int:
        """Place of the first row in its page."""
        return self.offset % mmap.PAGESIZE

    @property
    def huge_page_offset(self) -> int:
        """Place of the first row in its huge page of 2 MiB."""
        return self.offset % _HUGE_PAGE_BYTES

    def plan(self, runs: Runs) -> Cost:
        """Return what selecting runs of rows would map and copy."""
        n_bytes = self.n_rows * self.row_bytes
        pieces = [Piece(0, n_bytes, self.offset)]
        origin = Origin(0, pieces, [(0, n_bytes)], Settings())
        itemsize = self.alignment
        geometry = Geometry(
            self.n_rows, self.row_bytes, self.alignment, "C", origin, itemsize
        )
        return plan_runs(geometry, runs).cost


class KFoldCosts(NamedTuple):
    """What the train sets of a KFold cost.

    Attributes
    ----------
    row_order : {"exact", "any"}
        Of the train sets.
    costs : tuple of Cost
        For each train set.
    """

    row_order: str
    costs: tuple[Cost, ...]

    @property
    def mapped_bytes(self) -> tuple[int, ...]:
        """Bytes that are mapped of each train set."""
        return tuple(cost.mapped_bytes for cost in self.costs)

    @property
    def copied_bytes(self) -> tuple[int, ...]:
        """Bytes that are copied of each train set."""
        return tuple(cost.copied_bytes for cost in self.costs)


def kfold_costs(layout: Layout, n_splits: int) -> list[KFoldCosts]:
    """Predict what selecting the train sets of ``KFold(n_splits)`` maps and copies.

    Parameters
    ----------
    layout : Layout
        The rows, in C order.
    n_splits : int
        Number of folds; not more than there are rows.

    Returns
    -------
    list of KFoldCosts
        For both orders of rows.

    Examples
    --------
    >>> exact, any_ = kfold_costs(Layout(10_000, 400), 2)
    >>> exact.mapped_bytes, any_.copied_bytes
    ((2000000, 2000000), (0, 0))
    """
    train_sets = _train_runs(layout.n_rows, n_splits)
    size = RowSize(layout.row_bytes, layout.row_bytes)
    ordered = []
    for runs in train_sets:
        in_any_order = order_runs(runs, size)
        ordered.append(runs if in_any_order is None else _joined(in_any_order))
    return [
        KFoldCosts("exact", tuple(map(layout.plan, train_sets))),
        KFoldCosts("any", tuple(map(layout.plan, ordered))),
    ]


def _train_runs(n_rows: int, n_splits: int) -> list[Runs]:
    """Return the runs of each train set: all rows but those of one fold."""
    sizes = np.full(n_splits, n_rows // n_splits)
    sizes[: n_rows % n_splits] += 1
    stops = np.cumsum(sizes)
    folds = zip((stops - sizes).tolist(), stops.tolist(), strict=True)
    return [
        np.array(
            [run for run in ([0, start], [stop, n_rows]) if run[0] < run[1]],
            dtype=np.intp,
        ).reshape(-1, 2)
        for start, stop in folds
    ]


def _joined(runs: Runs) -> Runs:
    """Join runs that follow each other, as those of an index array are."""
    joined: list[list[int]] = []
    for start, stop in runs.tolist():
        if joined and joined[-1][1] == start:
            joined[-1][1] = stop
        else:
            joined.append([start, stop])
    return np.array(joined, dtype=np.intp)
