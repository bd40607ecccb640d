"""Row indices among the arguments of a task.

scikit-learn hands every task its train and test indices, and joblib keeps several
tasks' worth of them. Most are made of a few runs, which are a few bytes; and with
``row_order="any"`` the runs of a train set may be put into page-friendly order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from skl_mmap import _compat
from skl_mmap.backend._any_order import in_any_order
from skl_mmap.backend._layouts import count_rows_of, settle
from skl_mmap.backend._options import Options
from skl_mmap.backend._row_index import RowIndex
from skl_mmap.memory import index_runs


def compact_waiting(parallel: Any, options: Options) -> int:
    """Compact the batches that joblib has ready, and return the bytes freed.

    joblib prepares a batch for each worker before it sends the first one, and all of
    their index arrays would be there while the data is being shared.
    """
    freed_bytes = 0
    for batch in _compat.waiting_batches(parallel):
        compact, n_bytes = compact_batch(batch, options)
        if compact is not batch:
            _compat.set_tasks(batch, _compat.tasks_of(compact) or [])
        freed_bytes += n_bytes
    return freed_bytes


def compact_batch(batch: Any, options: Options) -> tuple[Any, int]:
    """Return a batch of tasks whose index arrays are runs, in the order asked for.

    And how many bytes of index arrays it refers to no more.
    """
    before = items = _compat.tasks_of(batch)
    if before is None or items is None:
        return batch, 0
    compact = [compact_item(item, options) for item in items]
    return _compat.with_tasks(batch, compact), sum(map(_freed_bytes, before, compact))


def _freed_bytes(item: Any, compact: Any) -> int:
    (_, args, kwargs), (_, compact_args, compact_kwargs) = item, compact
    before = (*args, *kwargs.values())
    after = (*compact_args, *compact_kwargs.values())
    return sum(
        old.nbytes
        for old, new in zip(before, after, strict=True)
        if type(new) is RowIndex and type(old) is np.ndarray
    )


def compact_item(item: Any, options: Options) -> Any:
    """Return one task, a tuple (function, args, kwargs), with runs for row indices."""
    function, args, kwargs = item
    if options.row_order == "any":
        args, kwargs = in_any_order(function, args, kwargs)
    if options.min_bytes is None:
        return function, args, kwargs
    values = (*args, *kwargs.values())
    # An array that is there twice stays one: what is written to it is seen in both.
    compacted: dict[int, Any] = {}

    def compact(value: Any) -> Any:
        if id(value) not in compacted:
            compacted[id(value)] = _compact_value(value, values, options)
        return compacted[id(value)]

    args = tuple(compact(value) for value in args)
    kwargs = {name: compact(value) for name, value in kwargs.items()}
    return function, *settle(args, kwargs)


def _compact_value(value: Any, values: tuple[Any, ...], options: Options) -> Any:
    if type(value) is not np.ndarray:
        return value
    runs = index_runs(value, min_bytes=max(options.min_index_bytes, 1))
    if runs is None:
        return value
    return RowIndex(runs, max(count_rows_of(values), int(runs[:, 1].max())))
