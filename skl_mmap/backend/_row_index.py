"""Row indices of a task: as index arrays, or as the runs of one."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from skl_mmap.memory import MAX_RUNS, Runs, find_runs


class RowIndex(NamedTuple):
    """An index array of a task until it is rebuilt in the worker.

    Attributes
    ----------
    runs : ndarray of shape (n_runs, 2)
        Its runs.
    n_rows : int
        More than its largest index.
    """

    runs: Runs
    n_rows: int


def known_runs(rows: Any) -> Runs | None:
    """Return the runs of rows that are known by them; None of an index array."""
    return rows.runs if type(rows) is RowIndex else None


def find_runs_of(rows: Any, n_rows: int) -> Runs | None:
    """Return the runs of rows of an array of so many; None if there are too many."""
    known = known_runs(rows)
    if known is not None:
        return known
    return find_runs(np.asarray(rows), n_rows, max_runs=MAX_RUNS)


def count_rows(rows: Any) -> int:
    """Count the rows that are selected."""
    runs = known_runs(rows)
    return len(rows) if runs is None else int((runs[:, 1] - runs[:, 0]).sum())
