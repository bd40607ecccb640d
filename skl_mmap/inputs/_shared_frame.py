"""Data frames and series whose rows can be selected without a copy.

Imports pandas, so it is itself imported inside functions only.

Nothing is remembered about where the data lies. pandas may exchange the memory of a
frame at any assignment, so each selection looks at what the frame is made of then::

    one block of numbers, row by row     --> one joined view
    everything else                      --> column by column, see `_frame_columns`
"""

from __future__ import annotations

import copyreg
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skl_mmap._compat import single_block
from skl_mmap.inputs._closing import ClosedAtExit
from skl_mmap.inputs._frame_columns import (
    MAX_SLICES,
    MIN_SLICED_ROWS,
    arrays_of,
    count_copied_columns,
    is_arrow,
    join_arrays,
    like_column,
    take_slices,
)
from skl_mmap.inputs._pandas import frame_bytes
from skl_mmap.memory import Runs, counters, find_runs
from skl_mmap.memory._mapping import find_mapping
from skl_mmap.memory._row_selection import select_rows

__all__ = [
    "SharedFrame",
    "SharedSeries",
    "count_rows_of",
    "make_mixed_frame",
    "numeric_block",
]

# With more columns, each a block of its own, pandas warns of a fragmented frame when
# one is added.
_MAX_COLUMNS = 100
_MAX_RUNS = 4096
_NUMBERS = "biufc"


class _Plain(ClosedAtExit):
    """Pickled as what pandas has, by value."""

    _plain_class: type[Any]

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        # Not copyreg.__newobj__: pickle wants its class to be that of the object.
        make = copyreg._reconstructor  # type: ignore[attr-defined]
        return make, (self._plain_class, object, None), self.__getstate__()

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


class SharedFrame(_Plain, pd.DataFrame):  # type: ignore[misc]
    """A ``pandas.DataFrame`` in shared memory.

    ``take(indices)``, which is how scikit-learn selects the rows of folds, does not
    copy columns of numbers, dates and categories that lie in shared memory: they
    are joined views, in a SharedFrame again, and Arrow columns are slices. Values,
    dtypes, labels, index and errors are pandas'. So is everything else, which gives
    plain frames, pickling included.
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
    values = single_block(frame)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in _NUMBERS:
        return None
    return values if values.shape[::-1] == frame.shape else None


def count_rows_of(data: Any, indices: Any) -> None:
    """Do what selecting rows of a shared frame or series would count, and no more.

    Parameters
    ----------
    data : SharedFrame or SharedSeries
        What they would be selected from, while they are only planned.
    indices : array-like of shape (n_selected,)
        As for ``take``.
    """
    index = _row_index(indices, 0, {})
    if index is None:
        return
    if data.ndim == 1:
        _take_elements(data, index)
    elif numeric_block(data) is not None:
        _take_rows(data, index)
    elif data.shape[1] and _join_columns(data, _columns_of(data), index):
        _take_labels(data.index, index)


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
    values = _take_values(series, index)
    if values is None:
        return None
    labels = _take_labels(series.index, index)
    selected = SharedSeries(values, index=labels, name=series.name, copy=False)
    return selected.__finalize__(series, method="take")


def _take_values(series: pd.Series, index: npt.NDArray[Any]) -> Any:
    count_copied_columns([series], len(index))
    if is_arrow(series) and len(index) >= MIN_SLICED_ROWS:
        runs = _find_runs(index, len(series), _row_bytes(series))
        if runs is None or len(runs) > MAX_SLICES:
            return None
        return take_slices(series, runs)
    arrays = arrays_of(series)
    if not arrays or not _is_worth_it(arrays, len(index)):
        return None
    runs = _find_runs(index, len(series), sum(array.itemsize for array in arrays))
    joined = None if runs is None else join_arrays(series, runs)
    return None if joined is None else like_column(series, joined)


def _take_columns(frame: pd.DataFrame, index: npt.NDArray[Any]) -> Any:
    """Select rows of a frame of several dtypes, column by column."""
    n_columns = frame.shape[1]
    if not n_columns:
        return None
    columns = _columns_of(frame)
    taken = _join_columns(frame, columns, index)
    if not taken:
        return None
    for place, column in enumerate(columns):
        if place not in taken:
            # pyarrow refuses indices in another byte order, and pandas gives it none.
            taken[place] = column.array.take(index.astype(np.intp, copy=False))
    labels = _take_labels(frame.index, index)
    in_order = [taken[place] for place in range(n_columns)]
    selected = make_mixed_frame(in_order, columns, labels, frame.columns)
    return selected.__finalize__(frame, method="take")


def _columns_of(frame: pd.DataFrame) -> list[pd.Series]:
    if frame.shape[1] > _MAX_COLUMNS:
        return []  # they will be selected all at once
    return [frame.iloc[:, place] for place in range(frame.shape[1])]


def _join_columns(
    frame: pd.DataFrame, columns: list[pd.Series], index: npt.NDArray[Any]
) -> dict[int, Any] | None:
    """Select rows of the columns that can be mapped, and return these by place."""
    n_rows, n_columns = frame.shape
    if n_columns > _MAX_COLUMNS:
        reason = (
            f"frames of several dtypes and more than {_MAX_COLUMNS} columns (keep the "
            "numbers in a frame of their own)"
        )
        counters.add_copied(reason, frame_bytes(frame) // n_rows * len(index))
        return None
    count_copied_columns(columns, len(index))
    shared = [
        place
        for place, column in enumerate(columns)
        if (arrays := arrays_of(column)) and _is_worth_it(arrays, len(index))
    ]
    is_long = len(index) >= MIN_SLICED_ROWS
    sliced = [p for p, column in enumerate(columns) if is_long and is_arrow(column)]
    if not shared and not sliced:
        return None
    row_bytes = sum(_row_bytes(columns[place]) for place in [*shared, *sliced])
    runs = _find_runs(index, n_rows, row_bytes)
    if runs is None:
        return None
    taken: dict[int, Any] = {}
    for place in shared:
        joined = join_arrays(columns[place], runs)
        if joined is not None:
            taken[place] = like_column(columns[place], joined)
    if len(runs) <= MAX_SLICES:
        taken.update((place, take_slices(columns[place], runs)) for place in sliced)
    return taken


def make_mixed_frame(
    values: list[Any], columns: list[pd.Series], index: pd.Index, labels: pd.Index
) -> SharedFrame:
    """Make a frame of arrays, with the dtypes of columns that exist already.

    Of an array of objects, pandas would guess that it is text or dates, but not of a
    series.
    """
    entries = {
        place: pd.Series(array, dtype=object, copy=False)
        if column.dtype == object
        else array
        for place, (array, column) in enumerate(zip(values, columns, strict=True))
    }
    frame = SharedFrame(entries, index=pd.RangeIndex(len(index)), copy=False)
    frame.index, frame.columns = index, labels
    return frame


def _row_bytes(column: pd.Series) -> int:
    return int(column.array.nbytes) // max(len(column), 1)


def _find_runs(index: npt.NDArray[Any], n_rows: int, row_bytes: int) -> Runs | None:
    runs = find_runs(index, n_rows, max_runs=_MAX_RUNS)
    if runs is None:
        reason = "the rows are not in long runs (shuffled, or a class or group each)"
        counters.add_copied(reason, row_bytes * len(index))
    return runs


def _is_worth_it(arrays: tuple[npt.NDArray[Any], ...], n_selected: int) -> bool:
    """Whether at least the first, and largest, array can be mapped."""
    found = find_mapping(arrays[0])
    return (
        found is not None
        and n_selected * arrays[0].itemsize >= found[0].settings.min_mapped_bytes
    )


def _take_labels(labels: pd.Index, index: npt.NDArray[Any]) -> pd.Index:
    """Select labels, without copying numbers.

    Those of default labels are the index array itself. It need not be copied if it is
    a mapping of ours, which nobody writes to.
    """
    if int(index.min()) < 0:
        # As pandas does for frames: a range of dates stays one with a frequency.
        index = np.where(index < 0, index + len(labels), index)
    is_default = (
        type(labels) is pd.RangeIndex
        and labels.name is None
        and (labels.start, labels.step) == (0, 1)
    )
    if is_default and index.dtype == np.int64 and find_mapping(index) is not None:
        runs = find_runs(index, len(labels), max_runs=_MAX_RUNS)
        # One run is a range again.
        if runs is not None and len(runs) > 1:
            return pd.Index(np.asarray(index), copy=False)
    if type(labels) is pd.Index and isinstance(labels.dtype, np.dtype):
        joined = select_rows(np.asarray(labels), index, np.ndarray)
        if joined is not None:
            return pd.Index(joined, name=labels.name, copy=False)
    return labels.take(index)
