"""Row indices of a task as runs, and the rows of its arguments."""

from __future__ import annotations

from typing import Any, NamedTuple

from skl_mmap.backend._layouts import InLayout
from skl_mmap.containers import RowSize, container_of
from skl_mmap.memory import Runs


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


def count_rows_of(values: tuple[Any, ...]) -> int:
    """Return how many rows the longest of a task's arguments has."""
    return max((value.shape[0] for value in values if size_of(value)), default=0)


def size_of(value: Any) -> RowSize | None:
    """Return how large the rows of an argument are; None if it has no rows."""
    if type(value) is InLayout:
        return RowSize(value.row_bytes, value.row_bytes)
    container = container_of(value)
    return None if container is None else container.row_size(value)
