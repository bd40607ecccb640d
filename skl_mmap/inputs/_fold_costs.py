"""What the folds of KFold would cost, from the layout of a file alone."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skl_mmap.folds import _page_order
from skl_mmap.memory import Settings
from skl_mmap.memory._mapping import Piece
from skl_mmap.memory._planning import PlannedMapping
from skl_mmap.memory._row_selection import plan_rows

__all__ = ["FoldCost", "Layout", "kfold_costs", "mapped_bytes"]

_HUGE_PAGE_BYTES = 2 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """How the rows of an array lie in its file.

    Attributes
    ----------
    n_rows : int
        Rows.
    row_bytes : int
        Bytes of each.
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
        return mmap.PAGESIZE // int(np.gcd(mmap.PAGESIZE, self.row_bytes))

    @property
    def page_offset(self) -> int:
        """Place of the first row in its page."""
        return self.offset % mmap.PAGESIZE

    @property
    def huge_page_offset(self) -> int:
        """Place of the first row in its huge page of 2 MiB."""
        return self.offset % _HUGE_PAGE_BYTES


@dataclass(frozen=True, slots=True)
class FoldCost:
    """Bytes of all train sets of a KFold.

    Attributes
    ----------
    row_order : {"exact", "any"}
        Of the train sets.
    mapped_bytes, copied_bytes : tuple of int
        For each train set.
    """

    row_order: str
    mapped_bytes: tuple[int, ...]
    copied_bytes: tuple[int, ...]


def kfold_costs(layout: Layout, n_splits: int) -> list[FoldCost]:
    """Predict what selecting the train sets of ``KFold(n_splits)`` maps and copies.

    Parameters
    ----------
    layout : Layout
        The rows, in C order.
    n_splits : int
        Number of folds; not more than there are rows.

    Returns
    -------
    list of FoldCost
        For both orders of rows.

    Examples
    --------
    >>> exact, any_ = kfold_costs(Layout(10_000, 400), 2)
    >>> exact.mapped_bytes, any_.copied_bytes
    ((2000000, 2000000), (0, 0))
    """
    costs = []
    for row_order in ("exact", "any"):
        mapped = []
        copied = []
        for runs in _train_runs(layout.n_rows, n_splits):
            ordered = runs
            if row_order == "any":
                ordered = _page_ordered(runs, layout)
            n_bytes = sum(stop - start for start, stop in runs) * layout.row_bytes
            mapped.append(mapped_bytes(layout, ordered))
            copied.append(n_bytes - mapped[-1])
        costs.append(FoldCost(row_order, tuple(mapped), tuple(copied)))
    return costs


def _train_runs(n_rows: int, n_splits: int) -> list[list[list[int]]]:
    """Return the runs of each train set: all rows but those of one fold."""
    sizes = np.full(n_splits, n_rows // n_splits)
    sizes[: n_rows % n_splits] += 1
    stops = np.cumsum(sizes)
    folds = zip((stops - sizes).tolist(), stops.tolist(), strict=True)
    return [
        [run for run in ([0, start], [stop, n_rows]) if run[0] < run[1]]
        for start, stop in folds
    ]


def _page_ordered(runs: list[list[int]], layout: Layout) -> list[list[int]]:
    """Order runs as `page_ordered_runs` does, without an index of all rows."""
    unit = max(layout.unit_rows, _page_order.VECTOR_UNIT)
    if max(stop - start for start, stop in runs) < 2 * unit:
        return runs
    placed, left_over = _page_order.cut_runs(np.array(runs, dtype=np.intp), unit)
    merged: list[list[int]] = []
    for start, stop in placed + left_over:
        if merged and merged[-1][1] == start:
            merged[-1][1] = stop
        else:
            merged.append([start, stop])
    return merged


def mapped_bytes(layout: Layout, runs: Sequence[Any]) -> int:
    """Predict how many bytes of a joined view share pages with the file.

    Parameters
    ----------
    layout : Layout
        The rows.
    runs : sequence of (int, int)
        First row, and the row after the last, of each run.

    Returns
    -------
    int
        0 if so little can be mapped that all of it is copied. The rest is copied.
    """
    n_bytes = layout.n_rows * layout.row_bytes
    file = PlannedMapping(0, [Piece(0, n_bytes, layout.offset)], Settings())
    selected = np.array(runs, dtype=np.intp).reshape(-1, 2)
    plan = plan_rows(file, 0, layout.row_bytes, selected, layout.alignment)
    return 0 if plan is None else plan.mapped_bytes
