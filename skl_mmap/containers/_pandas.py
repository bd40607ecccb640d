"""Data frames and series of pandas whose rows can be selected without a copy.

Nothing is remembered about where the data lies. pandas may exchange the memory of a
frame at any assignment, so each selection looks at what the frame is made of then::

    one block of numbers               an array            --> one joined view
    columns: numbers, dates            an array            --> a joined view
             categories                an array of codes   --> a joined view, of the
                                                               same categories
             Int64, boolean, ...       values and a mask   --> a joined view of each
             Arrow                     chunks              --> slices of the chunks
             everything else                               --> copied by pandas
"""

from __future__ import annotations

import copyreg
import functools
import mmap
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from skl_mmap import _compat
from skl_mmap._compat import (
    backing_array,
    block_values,
    masked_parts,
    placed_blocks,
    select_by_label,
    single_block,
)
from skl_mmap.containers._container import Container, GeometryOf, RowSize, register
from skl_mmap.containers._numpy import CHUNK_BYTES
from skl_mmap.containers._pandas_idioms import Idioms
from skl_mmap.memory import (
    MAX_RUNS,
    Cause,
    ClosedAtExit,
    Cost,
    Placement,
    PlannedArray,
    Reason,
    Runs,
    SegmentWriter,
    Settings,
    Stack,
    TrainRows,
    carry_out,
    carry_out_together,
    copy_array,
    counters,
    expand_runs,
    find_mapping,
    find_runs,
    gather_rows,
    geometry_of,
    map_array,
    plan_by_column,
    plan_one_of_several,
    plan_rows,
    select_rows,
)

# With more columns, each a block of its own, pandas warns of a fragmented frame when
# one is added.
_MAX_COLUMNS = 100
# Each run becomes a chunk of an Arrow column, and many chunks make everything slow.
_MAX_SLICES = 256
# Taking fewer rows is quicker than looking at them.
_MIN_SLICED_ROWS = 1024
_NUMBERS = "biufc"
_NUMBERS_AND_DATES = "biufcmM"
_MASKED = (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray)
# What columns are selected by.
_COLUMNS = (list, np.ndarray, pd.Index)
# Names of columns that the cause of a copy lists.
_MAX_NAMES = 5
_BUFFER_ITEMS = 1 << 20


class _Shared(Idioms, ClosedAtExit):
    """Selects rows in shared memory; pickled as what pandas has, by value."""

    # Selects rows in a way of its own, or returns None; see memory/_train_rows.py.
    _take_train: Callable[[npt.NDArray[Any]], Any] | None = None

    def take(self: Any, indices: Any, axis: Any = 0, **parameters: Any) -> Any:
        """Select rows without copying them, or columns."""
        index = _row_index(indices, axis, parameters)
        taken = None if index is None else _select(self, index)
        return super().take(indices, axis, **parameters) if taken is None else taken

    def _select_shared_rows(self, rows: npt.NDArray[np.intp]) -> Any:
        return _select(self, rows)

    def _copy_shared(self) -> Any:
        return _copy(self)

    def __reduce_ex__(self: Any, protocol: Any) -> Any:
        # Not copyreg.__newobj__: pickle wants its class to be that of the object.
        make = copyreg._reconstructor  # type: ignore[attr-defined]
        return make, (self._plain_class, object, None), self.__getstate__()

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


def _as_plain(shared: Any) -> Any:
    """Return the same frame or column, in the same memory, as pandas has them."""
    plain = object.__new__(shared._plain_class)
    plain.__setstate__(shared.__getstate__())
    return plain


_compat.hash_as_plain(_Shared, _as_plain)


class SharedFrame(_Shared, pd.DataFrame):  # type: ignore[misc]
    """A ``pandas.DataFrame`` in shared memory.

    ``take(indices)``, which is how scikit-learn selects the rows of folds, does not
    copy columns of numbers, dates and categories that lie in shared memory: they
    are joined views, in a SharedFrame again, and Arrow columns are slices. So do
    ``iloc`` and ``loc`` with an index array or a mask, and ``drop``. Values, dtypes,
    labels, index and errors are pandas'. So is everything else, which gives plain
    frames, pickling included; those of ``copy()`` cost what is written to them.
    """

    _plain_class = pd.DataFrame
    # scikit-learn takes the first word of it for the library that made a container
    # (sklearn.utils._set_output), and pickles are of the plain class anyway.
    __module__ = "pandas"

    def __getitem__(self, key: Any) -> Any:
        result = super().__getitem__(key)
        return self._as_shared(result) if isinstance(key, _COLUMNS) else result

    @property
    def _constructor(self) -> Any:
        return pd.DataFrame

    @property
    def _constructor_sliced(self) -> Any:
        return pd.Series


class SharedSeries(_Shared, pd.Series):  # type: ignore[misc]
    """A ``pandas.Series`` in shared memory; see `SharedFrame`."""

    _plain_class = pd.Series
    __module__ = "pandas"  # as above

    @property
    def _constructor(self) -> Any:
        return pd.Series

    @property
    def _constructor_expanddim(self) -> Any:
        return pd.DataFrame


# XGBoost knows a frame by the name of its class, and else forgets its columns.
for _class in (SharedFrame, SharedSeries):
    _class.__name__ = _class._plain_class.__name__

select_by_label(SharedFrame)
select_by_label(SharedSeries)


# What frames are made of.


def numeric_block(frame: Any) -> npt.NDArray[Any] | None:
    """Return the one block that a frame or series of numbers consists of.

    pandas' own array. None if there are several blocks, or none, or one that is not an
    array of numbers.
    """
    values = single_block(frame)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in _NUMBERS:
        return None
    return values if values.shape[::-1] == frame.shape else None


def _columns_of(frame: Any) -> list[pd.Series]:
    if frame.ndim == 1:
        return [frame]
    return [frame.iloc[:, place] for place in range(frame.shape[1])]


def _arrays_of(column: pd.Series) -> tuple[npt.NDArray[Any], ...]:
    """Return the arrays that hold the elements of a column; () if others do."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return (np.asarray(column.array.codes),)
    if isinstance(column.array, _MASKED):
        return masked_parts(column.array) or ()
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in _NUMBERS_AND_DATES:
        return (column.to_numpy(copy=False),)
    return ()


def _like_column(column: pd.Series, arrays: tuple[npt.NDArray[Any], ...]) -> Any:
    """Put together what `_arrays_of` has taken apart, with other elements."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        (codes,) = arrays
        return pd.Categorical.from_codes(codes, dtype=column.dtype, validate=False)
    if isinstance(column.array, _MASKED):
        return type(column.array)(*arrays, copy=False)
    (values,) = arrays
    return values


def _is_arrow(column: pd.Series) -> bool:
    """Return whether a column is made of chunks of Arrow memory."""
    if isinstance(column.dtype, pd.StringDtype):
        return str(column.dtype.storage).startswith("pyarrow")
    return isinstance(column.dtype, pd.ArrowDtype)


def _row_bytes(column: pd.Series) -> int:
    return int(column.array.nbytes) // max(len(column), 1)


def _only_dtype(frame: Any) -> np.dtype[Any] | None:
    """Return the dtype of a frame or series of numbers of one dtype; else None."""
    dtypes = set(frame.dtypes) if frame.ndim == 2 else {frame.dtype}
    dtype = dtypes.pop() if len(dtypes) == 1 and frame.size else None
    return dtype if isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS else None


# Selecting rows.


class _ColumnPlan(NamedTuple):
    """The plan of one column.

    Attributes
    ----------
    column : Series
        The column.
    parts : tuple of PlannedArray
        The arrays that it is made of; empty if rows of them cannot be mapped.
    rest : Cost
        What its rows cost otherwise.
    taken : extension array or None
        The rows, where they are slices of chunks.
    """

    column: pd.Series
    parts: tuple[PlannedArray, ...] = ()
    rest: Cost = Cost()
    taken: Any = None


class _FramePlan(NamedTuple):
    """The plan of a selection from a frame or series of several arrays."""

    columns: list[_ColumnPlan]
    rest: Cost
    n_rows: int
    runs: Runs | None = None

    @property
    def cost(self) -> Cost:
        """What it costs to carry the plan out."""
        return sum((part.plan.cost for part in self.parts), self.rest)

    @property
    def parts(self) -> list[PlannedArray]:
        """The arrays of all columns."""
        return [part for column in self.columns for part in column.parts]


def _plan_columns(
    frame: Any, index: npt.NDArray[Any], geometry_of: GeometryOf
) -> _FramePlan:
    n_bytes = _frame_bytes(frame) * len(index) // len(frame)
    if frame.ndim == 2 and frame.shape[1] > _max_columns(frame):
        return _FramePlan([], Cost.of_copy(Reason.MANY_COLUMNS, n_bytes), len(index))
    columns = _columns_of(frame)
    runs = find_runs(index, len(frame), max_runs=MAX_RUNS)
    plans = [
        _plan_column(column, index, runs, geometry_of, n_bytes) for column in columns
    ]
    rest = sum((plan.rest for plan in plans), _cost_of_others(columns, len(index)))
    return _FramePlan(plans, rest, len(index), runs)


def _max_columns(frame: Any) -> int:
    """Return how many arrays the rows of a frame may be: no more than it has itself."""
    return max(_MAX_COLUMNS, len(block_values(frame)))


def _plan_column(
    column: pd.Series,
    index: npt.NDArray[Any],
    runs: Runs | None,
    geometry_of: GeometryOf,
    whole_bytes: int,
) -> _ColumnPlan:
    n_bytes = _row_bytes(column) * len(index)
    if _is_arrow(column):
        if len(index) < _MIN_SLICED_ROWS:
            return _ColumnPlan(column, rest=Cost.of_copy(Reason.FEW_BYTES, n_bytes))
        if runs is None or len(runs) > _MAX_SLICES:
            return _ColumnPlan(column, rest=Cost.of_copy(Reason.SCATTERED, n_bytes))
        slices = [column.iloc[start:stop] for start, stop in runs.tolist()]
        taken = pd.concat(slices, ignore_index=True).array
        return _ColumnPlan(column, rest=Cost(int(taken.nbytes)), taken=taken)
    arrays = _arrays_of(column)
    if not arrays:
        return _ColumnPlan(column)  # its cost is that of all columns of this dtype
    # The first array is the largest.
    origin = geometry_of(arrays[0]).origin
    if origin is None:
        return _ColumnPlan(column, rest=Cost.of_copy(Reason.NOT_SHARED, n_bytes))
    if whole_bytes < origin.settings.min_mapped_bytes:
        return _ColumnPlan(column, rest=Cost.of_copy(Reason.FEW_BYTES, n_bytes))
    if runs is None:
        return _ColumnPlan(column, rest=Cost.of_copy(Reason.SCATTERED, n_bytes))
    parts = []
    for array in arrays:
        geometry = geometry_of(array)
        plan = plan_one_of_several(geometry, runs, whole_bytes)
        parts.append(PlannedArray(array, geometry, plan))
    return _ColumnPlan(column, tuple(parts))


def _cost_of_others(columns: list[pd.Series], n_selected: int) -> Cost:
    """Return the cost of columns whose rows pandas copies, whatever rows they are."""
    groups: dict[str, list[pd.Series]] = {}
    for column in columns:
        if not _arrays_of(column) and not _is_arrow(column):
            groups.setdefault(str(column.dtype), []).append(column)
    cost = Cost()
    for dtype, group in groups.items():
        names = ", ".join(repr(column.name) for column in group[:_MAX_NAMES])
        if len(group) > _MAX_NAMES:
            names += f" and {len(group) - _MAX_NAMES} more"
        n_bytes = sum(map(_row_bytes, group)) * n_selected
        cost += Cost.of_copy(Cause(Reason.COLUMNS, f"{dtype}: {names}"), n_bytes)
    return cost


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
    # As pandas does. Labels and pyarrow refuse indices in another byte order, and what
    # counts from the end of many rows does not fit into few bits.
    return index.astype(np.intp, copy=False)


def _select(frame: Any, index: npt.NDArray[Any]) -> Any:
    """Select rows as planned, and count what it costs; None if pandas has to do it."""
    if frame._take_train is not None:
        rows = frame._take_train(index)
        if rows is not None:
            return rows
    block = numeric_block(frame) if frame.ndim == 2 else None
    if block is not None:
        return _select_in_block(frame, block.T, index)
    plan = _plan_columns(frame, index, geometry_of)
    counters.add(plan.rest)
    joined = iter(carry_out_together(plan.parts, plan.n_rows))
    taken = {
        place: values
        for place, column_plan in enumerate(plan.columns)
        if (values := _put_together(column_plan, plan, joined)) is not None
    }
    if not taken:
        return None
    labels = _take_labels(frame.index, index)
    if frame.ndim == 1:
        selected = SharedSeries(taken[0], index=labels, name=frame.name, copy=False)
        return selected.__finalize__(frame, method="take")
    columns = [column_plan.column for column_plan in plan.columns]
    values = [
        taken[place] if place in taken else column.array.take(index)
        for place, column in enumerate(columns)
    ]
    selected = _make_mixed_frame(values, columns, labels, frame.columns)
    return selected.__finalize__(frame, method="take")


def _select_in_block(frame: Any, values: npt.NDArray[Any], index: Any) -> Any:
    """Select rows of a frame that is one array; so is the result, in the same order."""
    geometry = geometry_of(values)
    plan = plan_by_column(geometry, index)
    joined = gather_rows(plan, geometry, values, index, order=geometry.order)
    if joined is None:
        joined = carry_out(plan, geometry, values, len(index))
    if joined is None:
        return None
    labels = _take_labels(frame.index, index)
    selected = SharedFrame(joined, index=labels, columns=frame.columns, copy=False)
    return selected.__finalize__(frame, method="take")


def _put_together(plan: _ColumnPlan, whole: _FramePlan, mapped: Iterator[Any]) -> Any:
    """Return the selected rows of a column; None if pandas has to select them."""
    if not plan.parts:
        return plan.taken
    joined = [next(mapped) for _ in plan.parts]
    if all(rows is None for rows in joined):
        return None
    # What is too small to be worth a mapping, the mask of some values say, is copied.
    arrays = tuple(
        _copy_rows(part.array, whole) if rows is None else rows
        for part, rows in zip(plan.parts, joined, strict=True)
    )
    return _like_column(plan.column, arrays)


def _copy_rows(array: npt.NDArray[Any], plan: _FramePlan) -> npt.NDArray[Any]:
    assert plan.runs is not None
    copied = np.empty(plan.n_rows, array.dtype)
    place = 0
    for rows in expand_runs(plan.runs):
        np.take(array, rows, out=copied[place : place + len(rows)], mode="clip")
        place += len(rows)
    return copied


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
        runs = find_runs(index, len(labels), max_runs=MAX_RUNS)
        # One run is a range again.
        if runs is not None and len(runs) > 1:
            return pd.Index(np.asarray(index), copy=False)
    if _are_numbers(labels):
        joined = select_rows(np.asarray(labels), index, np.ndarray)
        if joined is not None:
            return pd.Index(joined, name=labels.name, copy=False)
    return labels.take(index)


def _are_numbers(labels: pd.Index) -> bool:
    return type(labels) is pd.Index and isinstance(labels.dtype, np.dtype)


def _array_of_labels(labels: pd.Index, *, is_mapped: bool) -> npt.NDArray[Any] | None:
    """Return the array that labels are selected from, if that may be a mapped one.

    pandas itself selects dates from it, whether other rows are mapped or not.
    """
    if isinstance(labels, pd.DatetimeIndex | pd.TimedeltaIndex):
        return np.asarray(labels.asi8)
    return np.asarray(labels) if is_mapped and _are_numbers(labels) else None


# Copying.


def _copy(frame: Any) -> Any:
    """Copy a frame or series such that only what is written to costs memory.

    None if pandas has to do it.
    """
    block = numeric_block(frame)
    if block is not None:
        elements = copy_array(block, "K" if _copies_keep_order() else "C")
        if elements is None:
            return None
        copied = _with_labels_of(frame, elements.T)
    elif frame.ndim == 1 or not 1 < frame.shape[1] <= _MAX_COLUMNS // 2:
        return None
    elif len(set(frame.dtypes)) == 1:
        return None  # pandas makes one block of several
    else:
        columns = _columns_of(frame)
        arrays = [_copy_column(column) for column in columns]
        if all(array is None for array in arrays):
            return None
        values = [
            column.array.copy() if array is None else array
            for array, column in zip(arrays, columns, strict=True)
        ]
        labels = frame.index.view(), frame.columns.view()
        copied = pd.DataFrame(_make_mixed_frame(values, columns, *labels), copy=False)
    return copied.__finalize__(frame, method="copy")


def _copy_column(column: pd.Series) -> Any:
    """Copy a column of a frame; None if pandas has to do it."""
    arrays = _arrays_of(column)
    copies = [copy_array(array) for array in arrays]
    if all(copied is None for copied in copies):
        return None
    return _like_column(
        column,
        tuple(
            array.copy() if copied is None else copied
            for array, copied in zip(arrays, copies, strict=True)
        ),
    )


def _with_labels_of(frame: Any, values: npt.NDArray[Any]) -> Any:
    """Make a plain frame or series; its labels can be renamed independently."""
    if frame.ndim == 1:
        return pd.Series(values, index=frame.index.view(), name=frame.name, copy=False)
    labels = {"index": frame.index.view(), "columns": frame.columns.view()}
    return pd.DataFrame(values, **labels, copy=False)


@functools.cache
def _copies_keep_order() -> bool:
    """Return whether frames that are stored by rows are copied so; not by pandas 2."""
    frame = pd.DataFrame(np.zeros((2, 2)), copy=False)
    return bool(frame.copy().to_numpy().flags.c_contiguous)


# Making frames.


def make_frame(values: npt.NDArray[Any], columns: Any, index: Any = None) -> Any:
    """Make a frame over a shared array, without a copy."""
    return SharedFrame(np.asarray(values), index=index, columns=columns, copy=False)


def make_series(values: npt.NDArray[Any], index: Any = None, name: Any = None) -> Any:
    """Make a series over a shared array, without a copy; see `make_frame`."""
    return SharedSeries(np.asarray(values), index=index, name=name, copy=False)


def _make_mixed_frame(
    values: list[Any], columns: list[pd.Series], index: pd.Index, labels: pd.Index
) -> SharedFrame:
    """Make a frame of arrays, with the dtypes of columns that exist already.

    pandas would guess that an array of objects is text or dates, but not a series.
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


def _rebuild_frame() -> SharedFrame:
    """Return a frame without anything, whose state follows in the pickle."""
    return SharedFrame.__new__(SharedFrame)


def _rebuild_series() -> SharedSeries:
    """Return a series without anything, whose state follows in the pickle."""
    return SharedSeries.__new__(SharedSeries)


def _rebuild_frame_over(
    numbers: npt.NDArray[Any],
    index: pd.Index,
    columns: pd.Index,
    attrs: dict[Any, Any],
    allows_duplicate_labels: bool,
) -> SharedFrame:
    """Return a frame over numbers of shape (n_columns, n_rows)."""
    frame = make_frame(numbers.T, columns, index)
    frame.attrs = attrs
    frame.flags.allows_duplicate_labels = allows_duplicate_labels
    return frame  # type: ignore[no-any-return]


def _take_by_column(frame: Any, index: npt.NDArray[Any]) -> pd.DataFrame:
    """Copy rows of a frame that lie one after the other into columns."""
    rows = np.asarray(numeric_block(frame)).T
    columns = np.empty((rows.shape[1], len(index)), rows.dtype)
    n_at_once = max(CHUNK_BYTES // (rows.itemsize * rows.shape[1]), 1)
    for start in range(0, len(index), n_at_once):
        stop = start + n_at_once
        columns[:, start:stop] = rows[index[start:stop]].T
    labels = _take_labels(frame.index, index)
    taken = pd.DataFrame(columns.T, index=labels, columns=frame.columns, copy=False)
    return taken.__finalize__(frame, method="take")


# Sharing.


def _share_rows(frame: Any, placement: Placement, settings: Settings) -> Any:
    """Copy a frame of numbers of one dtype, row by row, through a buffer."""
    dtype = frame.dtypes.iloc[0]
    n_rows, n_columns = frame.shape
    n_at_once = max(CHUNK_BYTES // (dtype.itemsize * n_columns), 1)
    block = numeric_block(frame)
    columns = [] if block is not None else _columns_of(frame)
    what = f"a frame of shape {frame.shape} and dtype {dtype}"
    with SegmentWriter(placement, what, frame.size * dtype.itemsize) as writer:
        for start in range(0, n_rows, n_at_once):
            stop = min(start + n_at_once, n_rows)
            if block is not None:
                writer.write(block.T[start:stop])
                continue
            rows = np.empty((stop - start, n_columns), dtype)
            for place, column in enumerate(columns):
                rows[:, place] = column.to_numpy(copy=False)[start:stop]
            writer.write(rows)
        segment = writer.finish()
    return map_array(segment, dtype, frame.shape, settings)


def _share_columns(frame: Any, placement: Placement, settings: Settings) -> list[Any]:
    """Return the columns of a frame, shared where that is possible."""
    columns = _columns_of(frame)
    result = [column.array for column in columns]
    arrow_places = [place for place, column in enumerate(columns) if _is_arrow(column)]
    if arrow_places and len(frame):
        arrow = [columns[place] for place in arrow_places]
        shared = _share_arrow(arrow, placement, settings)
        for place, array in zip(arrow_places, shared, strict=True):
            result[place] = array
    made_of = [_arrays_of(column) for column in columns]
    arrays = [array for own in made_of for array in own]
    copies = iter(_share_arrays(arrays, placement, settings))
    for place, own in enumerate(made_of):
        if own:
            result[place] = _like_column(
                columns[place], tuple(next(copies) for _ in own)
            )
    return result


def _share_arrow(
    columns: list[Any], placement: Placement, settings: Settings
) -> list[Any]:
    """Copy columns of Arrow memory, in the chunks that they have."""
    import pyarrow

    from skl_mmap.containers._arrow import share_table

    chunks = [column.array.__arrow_array__() for column in columns]
    table = pyarrow.table(chunks, [str(place) for place in range(len(columns))])
    table = share_table(table, placement, settings)
    return [
        column.dtype.__from_arrow__(shared)
        for column, shared in zip(columns, table.columns, strict=True)
    ]


def _share_arrays(
    arrays: list[npt.NDArray[Any]], placement: Placement, settings: Settings
) -> list[npt.NDArray[Any]]:
    """Copy vectors into one segment, each from the start of a page."""
    sizes = [-(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE for array in arrays]
    if not sum(sizes):
        return arrays
    what = f"{len(arrays)} columns of a frame"
    with SegmentWriter(placement, what, sum(sizes)) as writer:
        for array, size in zip(arrays, sizes, strict=True):
            for start in range(0, len(array), _BUFFER_ITEMS):
                writer.write(array[start : start + _BUFFER_ITEMS])
            writer.write(np.zeros(size - array.nbytes, dtype=np.uint8))
        segment = writer.finish()
    memory = map_array(segment, np.dtype(np.uint8), (sum(sizes),), settings)
    all_bytes = np.asarray(memory)
    starts = np.cumsum([0, *sizes[:-1]]).tolist()
    return [
        all_bytes[start : start + array.nbytes].view(array.dtype)
        for start, array in zip(starts, arrays, strict=True)
    ]


class PandasContainer(Container):
    """Frames and series of pandas, and ours."""

    def classes(self) -> tuple[type[Any], ...]:
        return pd.DataFrame, pd.Series, SharedFrame, SharedSeries

    def n_bytes(self, X: Any) -> int:
        return _frame_bytes(X)

    def row_size(self, X: Any) -> RowSize | None:
        block = numeric_block(X)
        if block is not None:
            n_bytes = block.itemsize * (len(block) if block.ndim == 2 else 1)
            return RowSize(n_bytes, n_bytes)
        sizes = [
            (size, len(values) if values.ndim == 2 else 1)
            for values in block_values(X)
            for size in _item_sizes(values)
        ]
        if not sizes:
            return None
        return RowSize(
            sum(size * n for size, n in sizes), min(size for size, _ in sizes)
        )

    def n_arrays(self, X: Any) -> int:
        if X.ndim == 1 or numeric_block(X) is not None:
            return 1
        return max(sum(len(_arrays_of(column)) for column in _columns_of(X)), 1)

    def take_apart(self, X: Any, min_bytes: int) -> tuple[Any, ...] | None:
        if _frame_bytes(X) < min_bytes:
            return None
        rebuild = _rebuild_series if X.ndim == 1 else _rebuild_frame
        return rebuild, (), X.__getstate__()

    def arrays(self, X: Any) -> Sequence[npt.NDArray[Any]]:
        found: list[Any] = []
        for values in block_values(X):
            found += masked_parts(values) or (backing_array(values),)
        return [array for array in found if isinstance(array, np.ndarray)]

    def block_by_column(self, X: Any) -> npt.NDArray[Any] | None:
        block = numeric_block(X)
        if block is None or block.ndim != 2 or block.flags.f_contiguous:
            return None
        return block

    def numbers(self, X: Any) -> npt.NDArray[Any] | Stack | None:
        if X.ndim != 2 or not X.size:
            return None
        block = numeric_block(X)
        if block is not None:
            return block
        placed = placed_blocks(X) or []
        parts = [values for values, _ in placed]
        are_arrays = bool(parts) and all(
            isinstance(part, np.ndarray) and part.ndim == 2 for part in parts
        )
        if not are_arrays or {part.dtype for part in parts} != {parts[0].dtype}:
            return None
        return Stack(parts, [place for _, place in placed])

    def rebuild_over(self, X: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        labels = X.index, X.columns, X.attrs, X.flags.allows_duplicate_labels
        return _rebuild_frame_over, labels

    def with_train_rows(
        self, X: Any, source: Any, train: npt.NDArray[Any], *, is_source: bool
    ) -> Any:
        copy_others = functools.partial(_take_by_column, source) if is_source else None
        frame = SharedFrame(X, copy=False).__finalize__(X)
        frame._take_train = TrainRows(train, source.take, copy_others).take
        return frame

    def plan(self, X: Any, rows: npt.NDArray[Any], geometry_of: GeometryOf) -> Cost:
        # pandas' loc turns a mask into indices for take().
        index = np.flatnonzero(rows) if rows.dtype == bool else np.asarray(rows)
        if not isinstance(X, SharedFrame | SharedSeries) or not len(index):
            return super().plan(X, index, geometry_of)
        block = numeric_block(X) if X.ndim == 2 else None
        if block is not None:
            cost = plan_by_column(geometry_of(block.T), index).cost
        else:
            cost = _plan_columns(X, index, geometry_of).cost
        labels = _array_of_labels(X.index, is_mapped=cost.mapped_bytes > 0)
        if labels is not None:
            selected = plan_rows(geometry_of(labels), index).cost
            # Labels that are sent by value are not data.
            cost += Cost(selected.mapped_bytes, selected.counted)
        return cost

    def share(self, X: Any, placement: Placement, settings: Settings) -> Any:
        """Copy a frame or series into shared memory.

        If all columns are numbers of one dtype, they are stored row by row, so that
        rows are mapped in one piece and estimators get what they prefer. Otherwise
        each column of numbers, dates, categories or Arrow memory, text included, is
        shared for itself, and all others (objects, periods, dates with a time zone)
        refer to the same arrays as X. One copy, and a buffer of 8 MiB.
        """
        if X.ndim == 1:
            (values,) = _share_columns(X, placement, settings)
            dtype = object if X.dtype == object else None  # else pandas guesses
            shared: Any = SharedSeries(
                values, index=X.index, name=X.name, dtype=dtype, copy=False
            )
        elif _only_dtype(X) is not None:
            values = _share_rows(X, placement, settings)
            shared = make_frame(values, X.columns, X.index)
        else:
            arrays = _share_columns(X, placement, settings)
            shared = _make_mixed_frame(arrays, _columns_of(X), X.index, X.columns)
        return shared.__finalize__(X)

    def gather(
        self,
        X: Any,
        permutation: npt.NDArray[np.intp],
        placement: Placement,
        settings: Settings,
        name: str,
    ) -> Any:
        """Gather numbers of one dtype row by row; take others as pandas does."""
        dtype = _only_dtype(X)
        if dtype is None:
            return X.take(permutation)
        n_at_once = max(CHUNK_BYTES * len(X) // (X.size * dtype.itemsize), 1)
        what = f"{name} of shape {X.shape} and dtype {dtype}, arranged"
        with SegmentWriter(placement, what, X.size * dtype.itemsize) as writer:
            for start in range(0, len(X), n_at_once):
                writer.write(X.take(permutation[start : start + n_at_once]).to_numpy())
            segment = writer.finish()
        values = map_array(segment, dtype, X.shape, settings)
        index = X.index.take(permutation)
        if X.ndim == 1:
            return make_series(values, index, X.name).__finalize__(X)
        return make_frame(values, X.columns, index).__finalize__(X)


def _frame_bytes(frame: Any) -> int:
    """Bytes of the arrays of a frame or series, without its index."""
    return sum(int(getattr(values, "nbytes", 0)) for values in block_values(frame))


def _item_sizes(values: Any) -> list[int]:
    """Bytes of one item of each array that a block consists of, if rows are mapped."""
    if masked_parts(values) is not None:
        return [values.dtype.itemsize, 1]
    values = getattr(values, "codes", values)  # of a Categorical
    dtype = getattr(values, "dtype", None)
    is_mapped = isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS_AND_DATES
    return [dtype.itemsize] if is_mapped and dtype is not None else []


register(PandasContainer())
