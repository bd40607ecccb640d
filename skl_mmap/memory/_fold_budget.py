"""From which arrays of a call scattered folds are gathered, and kept until its end.

A search takes its candidates one after another, and each of them needs all splits: what
was gathered of one is needed to the end. Otherwise each worker has one fold at a time
for itself. So, by bytes::

    gathered    n_splits  x  each array that folds are selected from
    copied      n_workers x  the arrays of one task

Where the first is not more than the second, folds are gathered.
"""

from __future__ import annotations

import weakref

from skl_mmap.memory._placement import spare_memory_bytes
from skl_mmap.memory._segment import Segment

# The rest of the memory that may be taken is left to the tasks.
_SHARE_OF_SPARE = 0.5


class FoldBudget:
    """Keeps count of what folds of the arrays of one call may take.

    Parameters
    ----------
    n_workers : int
        How many tasks run at the same time.

    Notes
    -----
    Not safe to be used by several threads.
    """

    def __init__(self, n_workers: int) -> None:
        self._n_workers = n_workers
        self._n_splits = 0
        self._allowed: weakref.WeakSet[Segment] = weakref.WeakSet()
        self._allowed_bytes = 0
        self._of_task: weakref.WeakSet[Segment] = weakref.WeakSet()
        self._task_bytes = self._most_task_bytes = 0

    def next_task(self, n_splits: int) -> None:
        """Say that another task begins, and how many splits others share with it."""
        self._n_splits = n_splits if n_splits <= self._n_workers else 0
        self._of_task.clear()
        self._task_bytes = 0

    def count_splits(self, segment: Segment) -> int:
        """Return how many splits may be gathered of an array of the task; 0 if none."""
        if not self._n_splits:
            return 0
        if segment not in self._of_task:
            self._of_task.add(segment)
            self._task_bytes += segment.n_bytes
            self._most_task_bytes = max(self._most_task_bytes, self._task_bytes)
        if segment not in self._allowed and not self._allow(segment):
            return 0
        return self._n_splits

    def _allow(self, segment: Segment) -> bool:
        n_bytes = self._allowed_bytes + self._n_splits * segment.n_bytes
        if n_bytes > self._n_workers * self._most_task_bytes:
            return False
        if n_bytes > _SHARE_OF_SPARE * spare_memory_bytes():
            return False
        self._allowed.add(segment)
        self._allowed_bytes = n_bytes
        return True
