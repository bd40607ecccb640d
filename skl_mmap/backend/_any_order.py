"""Train sets in page-friendly order, for ``row_order="any"``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from skl_mmap.backend._arguments import position_of
from skl_mmap.backend._layouts import count_rows_of, size_of
from skl_mmap.backend._row_index import RowIndex
from skl_mmap.containers import RowSize
from skl_mmap.memory import Runs, index_of_runs
from skl_mmap.orders import ordered_runs

_TRAIN = "train"
_SPLITTER = "cv"
# With this argument beside it, scikit-learn's learning curves take the first rows of a
# train set, so that their order decides which rows are used.
_PREFIXES = "train_sizes"
# More runs than this are better sent as an array.
_MAX_RUNS = 256


def in_any_order(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Put the arguments named `train` and `cv` into page-friendly order."""
    values = (*args, *kwargs.values())
    reorder: dict[str, Callable[[Any], Any]] = {
        _TRAIN: functools.partial(_ordered_train, values=values),
        _SPLITTER: _ordered_splitter,
    }
    if _PREFIXES in kwargs or position_of(function, _PREFIXES) is not None:
        del reorder[_TRAIN]
    places = {position_of(function, name): name for name in reorder}
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
        return RowIndex(runs, max(n_rows, count_rows_of(values)))
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
