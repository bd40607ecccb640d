"""Data frames and series whose rows can be selected without a copy.

Imports pandas, so it is itself imported inside functions only.

Nothing is remembered about where the data lies. pandas may exchange the memory of a
frame at any assignment, so each selection looks at what the frame is made of then::

    one block of numbers, row by row     --> one joined view
    columns of numbers or categories     --> one joined view for each
    everything else                      --> copied by pandas
"""

from __future__ import annotations

import copyreg
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skl_mmap.memory import Runs, counters, find_runs, join_rows
from skl_mmap.memory._mapping import find_mapping
from skl_mmap.memory._row_selection import select_rows

__all__ = [
    "SharedFrame",
    "SharedSeries",
    "like_column",
    "numeric_block",
    "shareable_values",
]

# With more columns, each a block of its own, pandas warns of a fragmented frame when
# one is added.
_MAX_COLUMNS = 100
_MAX_RUNS = 4096
# Of columns in one reason for a copy.
_MAX_NAMES = 5
_NUMBERS = "biufc"


class _Plain:
    """Pickled as what pandas has, by value."""

    _plain_class: type[Any]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Not copyreg.__newobj__: pickle wants its class to be that of the object.
        make = copyreg._reconstructor  # type: ignore[attr-defined]
        return make, (self._plain_class, object, None), self.__getstate__()

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


class SharedFrame(_Plain, pd.DataFrame):  # type: ignore[misc]
    """A ``pandas.DataFrame`` in shared memory.

    ``take(indices)``, which is how scikit-learn selects the rows of folds, does not
    copy columns of numbers, booleans and categories that lie in shared memory: they
    are joined views, in a SharedFrame again. Values, dtypes, labels, index and errors
    are pandas'. So is everything else, which gives plain frames, pickling included.
    """

    _plain_class = pd.DataFrame
    # scikit-learn takes the first word of it for the library that made a container
    # (sklearn.utils._set_output), and pickles are of the plain class anyway.
    __module__ = "pandas"

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    @property
    def _constructor_sliced(self) -> Any:
        return pd.Series

    def take(self, indices: Any, axis: Any = 0, **parameters: Any) -> Any:
        """Select rows without copying them, or columns."""
        index = _row_index(indices, axis, parameters)
        taken = None if index is None else _take_rows(self, index)
        return super().take(indices, axis, **parameters) if taken is None else taken


class SharedSeries(_Plain, pd.Series):  # type: ignore[misc]
    """A ``pandas.Series`` in shared memory; see `SharedFrame`."""

    _plain_class = pd.Series
    __module__ = "pandas"  # as above

    @property
    def _constructor(self) -> Any:
        return pd.Series

    @property
    def _constructor_expanddim(self) -> Any:
        return pd.DataFrame

    def take(self, indices: Any, axis: Any = 0, **parameters: Any) -> Any:
        """Select elements without copying them."""
        index = _row_index(indices, axis, parameters)
        taken = None if index is None else _take_elements(self, index)
        return super().take(indices, axis, **parameters) if taken is None else taken


def numeric_block(frame: Any) -> npt.NDArray[Any] | None:
    """Return the one block that a frame or series of numbers consists of.

    Returns
    -------
    ndarray of shape (n_columns, n_rows) or (n_rows,), or None
        pandas' own array. None if there are several blocks, or none, or one that is
        no array of numbers.
    """
    manager: Any = getattr(frame, "_mgr", None)  # no public name
    if not getattr(manager, "is_single_block", False):
        return None
    values = getattr(manager.blocks[0], "values", None)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in _NUMBERS:
        return None
    return values if values.shape[::-1] == frame.shape else None


def _row_index(
    indices: Any, axis: Any, parameters: dict[str, Any]
) -> npt.NDArray[Any] | None:
    """Return the row indices, or None if something else is asked for."""
    if parameters or not isinstance(indices, np.ndarray | list):
        return None
    if not (axis == 0 or axis == "index"):
        return None
    index = np.asarray(indices)
    if index.ndim != 1 or index.dtype.kind not in "iu" or not len(index):
        return None
    return index


def _take_rows(frame: pd.DataFrame, index: npt.NDArray[Any]) -> Any:
    block = numeric_block(frame)
    if block is None:
        return _take_columns(frame, index)
    joined = select_rows(block.T, index, np.ndarray)
    if joined is None:
        return None
    labels = _take_labels(frame.index, index)
    selected = SharedFrame(joined, index=labels, columns=frame.columns, copy=False)
    return selected.__finalize__(frame, method="take")


def _take_elements(series: pd.Series, index: npt.NDArray[Any]) -> Any:
    values = shareable_values(series)
    if values is None:
        return None
    joined = select_rows(values, index, np.ndarray)
    if joined is None:
        return None
    labels = _take_labels(series.index, index)
    values = like_column(series, joined)
    selected = SharedSeries(values, index=labels, name=series.name, copy=False)
    return selected.__finalize__(series, method="take")


def _take_columns(frame: pd.DataFrame, index: npt.NDArray[Any]) -> Any:
    """Select rows of a frame of several dtypes, column by column."""
    n_rows, n_columns = frame.shape
    if not 0 < n_columns <= _MAX_COLUMNS:
        return None
    columns = [frame.iloc[:, place] for place in range(n_columns)]
    _count_other_columns(columns, len(index))
    shared = {
        place: values
        for place, column in enumerate(columns)
        if (values := shareable_values(column)) is not None
        and _is_worth_it(values, len(index))
    }
    if not shared:
        return None
    runs = find_runs(index, n_rows, max_runs=_MAX_RUNS)
    if runs is None:
        reason = "the rows are not in long runs (shuffled, or a class or group each)"
        item_bytes = sum(values.itemsize for values in shared.values())
        counters.add_copied(reason, item_bytes * len(index))
        return None
    joined = {place: _join(values, runs) for place, values in shared.items()}
    if all(values is None for values in joined.values()):
        return None
    taken = {}
    for place, column in enumerate(columns):
        values = joined.get(place)
        if values is None:
            taken[place] = column.array.take(index)
        else:
            taken[place] = like_column(column, values)
    labels = _take_labels(frame.index, index)
    selected = SharedFrame(taken, index=labels, copy=False)
    selected.columns = frame.columns
    return selected.__finalize__(frame, method="take")


def _count_other_columns(columns: list[pd.Series], n_selected: int) -> None:
    """Say of which columns rows are copied, because of what is in them."""
    others: dict[str, list[pd.Series]] = {}
    for column in columns:
        if shareable_values(column) is None:
            others.setdefault(str(column.dtype), []).append(column)
    for dtype, group in others.items():
        names = ", ".join(repr(column.name) for column in group[:_MAX_NAMES])
        if len(group) > _MAX_NAMES:
            names += f" and {len(group) - _MAX_NAMES} more"
        n_bytes = sum(column.array.nbytes // max(len(column), 1) for column in group)
        reason = f"columns of dtype {dtype}, neither numbers nor categories: {names}"
        counters.add_copied(reason, n_bytes * n_selected)


def shareable_values(column: pd.Series) -> npt.NDArray[Any] | None:
    """Return the numbers or the category codes of a column, without a copy."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return np.asarray(column.array.codes)
    return numeric_block(column)


def _is_worth_it(values: npt.NDArray[Any], n_selected: int) -> bool:
    found = find_mapping(values)
    return (
        found is not None
        and n_selected * values.itemsize >= found[0].settings.min_mapped_bytes
    )


def _join(values: npt.NDArray[Any], runs: Runs) -> npt.NDArray[Any] | None:
    if not values.flags.c_contiguous:
        n_bytes = int((runs[:, 1] - runs[:, 0]).sum()) * values.itemsize
        counters.add_copied("the array is not C-contiguous", n_bytes)
        return None
    return join_rows(values, runs)


def like_column(column: pd.Series, values: npt.NDArray[Any]) -> Any:
    """Return what a column is made of: its values, or a Categorical of its codes."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return pd.Categorical.from_codes(values, dtype=column.dtype, validate=False)
    return values


def _take_labels(labels: pd.Index, index: npt.NDArray[Any]) -> pd.Index:
    """Select labels, without copying numbers.

    Those of default labels are the index array itself. It need not be copied if it is
    a mapping of ours, which nobody writes to.
    """
    is_default = (
        type(labels) is pd.RangeIndex
        and labels.name is None
        and (labels.start, labels.step) == (0, 1)
    )
    if (
        is_default
        and index.dtype == np.int64
        and find_mapping(index) is not None
        and int(index.min()) >= 0
    ):
        runs = find_runs(index, len(labels), max_runs=_MAX_RUNS)
        # One run is a range again.
        if runs is not None and len(runs) > 1:
            return pd.Index(np.asarray(index), copy=False)
    if type(labels) is pd.Index and isinstance(labels.dtype, np.dtype):
        joined = select_rows(np.asarray(labels), index, np.ndarray)
        if joined is not None:
            return pd.Index(joined, name=labels.name, copy=False)
    return labels.take(index)
