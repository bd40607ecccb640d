"""Row indices among the arguments of a task.

scikit-learn hands every task its train and test indices, and joblib keeps several
tasks' worth of them. Most are made of a few runs, which are a few bytes; and with
``row_order="any"`` the runs of a train set may be put into page-friendly order.
"""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from skl_mmap import _compat
from skl_mmap.backend._layouts import InLayout, settle
from skl_mmap.backend._options import Options
from skl_mmap.containers import RowSize, container_of
from skl_mmap.memory import Runs, index_of_runs, index_runs
from skl_mmap.orders import ordered_runs

_TRAIN = "train"
_SPLITTER = "cv"
# With this argument beside it, scikit-learn's learning curves take the first rows of a
# train set, so that their order decides which rows are used.
_PREFIXES = "train_sizes"
# More runs than this are better sent as an array.
_MAX_RUNS = 256


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


def _n_rows(values: tuple[Any, ...]) -> int:
    return max((value.shape[0] for value in values if size_of(value)), default=0)


def size_of(value: Any) -> RowSize | None:
    """Return how large the rows of an argument are; None if it has no rows."""
    if type(value) is InLayout:
        return RowSize(value.row_bytes, value.row_bytes)
    container = container_of(value)
    return None if container is None else container.row_size(value)


def _compact_value(value: Any, values: tuple[Any, ...], options: Options) -> Any:
    if type(value) is not np.ndarray:
        return value
    runs = index_runs(value, min_bytes=max(options.min_index_bytes, 1))
    if runs is None:
        return value
    return RowIndex(runs, max(_n_rows(values), int(runs[:, 1].max())))


def in_any_order(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the arguments named `train` and `cv` into page-friendly order."""
    values = (*args, *kwargs.values())
    reorder: dict[str, Callable[[Any], Any]] = {
        _TRAIN: functools.partial(_ordered_train, values=values),
        _SPLITTER: _ordered_splitter,
    }
    if _PREFIXES in kwargs or _position(function, _PREFIXES) is not None:
        del reorder[_TRAIN]
    places = {_position(function, name): name for name in reorder}
    return (
        tuple(
            reorder[places[place]](value) if place in places else value
            for place, value in enumerate(args)
        ),
        {
            name: reorder[name](value) if name in reorder else value
            for name, value in kwargs.items()
        },
    )


def _position(function: Callable[..., Any], name: str) -> int | None:
    try:
        return _parameter_names(function).index(name)
    except (ValueError, TypeError):  # no such name, no signature, or not hashable
        return None


def _parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    # scikit-learn wraps the function anew for each task; the cache is on what lies
    # within, and only on functions: it must not keep objects, and their data, alive.
    function = inspect.unwrap(function)
    if isinstance(function, types.FunctionType):
        return _names_of(function)
    return tuple(inspect.signature(function).parameters)


@functools.lru_cache(maxsize=256)
def _names_of(function: types.FunctionType) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)


def _ordered_train(train: Any, values: tuple[Any, ...]) -> Any:
    if (
        not isinstance(train, np.ndarray)
        or train.ndim != 1
        or train.dtype.kind not in "iu"
    ):
        return train
    if not len(train):
        return train
    n_rows = int(train.max()) + 1
    try:
        runs = _ordered_runs(train, n_rows, values)
    except ValueError:  # a row that is there twice must keep its place
        return train
    if runs is None:
        return train
    if len(runs) <= _MAX_RUNS:
        return RowIndex(runs, max(n_rows, _n_rows(values)))
    return index_of_runs(runs)


def _ordered_runs(train: Any, n_rows: int, values: tuple[Any, ...]) -> Runs | None:
    """Order a train set for the largest of the values that it may select from."""
    sizes = [
        size
        for value in values
        if (size := size_of(value)) is not None and value.shape[0] >= n_rows
    ]
    one_number = RowSize(8, 8)
    return ordered_runs(train, max(sizes, key=_n_bytes, default=one_number))


def _n_bytes(size: RowSize) -> int:
    return size.n_bytes


def _ordered_splitter(cv: Any) -> Any:
    if not hasattr(cv, "split") or not hasattr(cv, "get_n_splits"):
        return cv
    from skl_mmap.orders import PageFriendly

    return cv if isinstance(cv, PageFriendly) else PageFriendly(cv)
