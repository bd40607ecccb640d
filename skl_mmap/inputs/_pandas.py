"""pandas frames and series in shared memory."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import block_values, masked_parts
from skl_mmap.memory import Placement, SegmentWriter, Settings, map_array

if TYPE_CHECKING:
    from skl_mmap.inputs._shared_frame import SharedFrame, SharedSeries

__all__ = [
    "column_major_block",
    "frame_bytes",
    "make_frame",
    "make_series",
    "pandas_classes",
    "rebuild_frame",
    "rebuild_series",
    "reduce_pandas",
    "row_bytes_of",
    "share_frame",
    "share_series",
]

_NUMBERS = "biufc"
_NUMBERS_AND_DATES = "biufcmM"
_BUFFER_BYTES = 8 << 20
_BUFFER_ITEMS = 1 << 20


def pandas_classes() -> dict[type[Any], str]:
    """Return pandas' and our classes of frames and series, and which each is.

    Nothing if pandas is not in use here.
    """
    pandas = sys.modules.get("pandas")
    if pandas is None or not hasattr(pandas, "DataFrame"):
        return {}  # not imported, or just being imported
    classes = {pandas.DataFrame: "frame", pandas.Series: "series"}
    shared = sys.modules.get("skl_mmap.inputs._shared_frame")
    if shared is not None and hasattr(shared, "SharedSeries"):
        classes[shared.SharedFrame] = "frame"
        classes[shared.SharedSeries] = "series"
    return classes


def reduce_pandas(frame: Any, min_bytes: int) -> tuple[Any, ...] | None:
    """Take a frame or series apart, so that its arrays can be shared.

    Returns
    -------
    tuple or None
        What ``__reduce__`` would return; None if it is smaller than `min_bytes`.
    """
    if frame_bytes(frame) < min_bytes:
        return None
    rebuild = rebuild_frame if pandas_classes()[type(frame)] == "frame" else None
    return rebuild or rebuild_series, (), frame.__getstate__()


def rebuild_frame() -> SharedFrame:
    """Return a frame without anything, whose state follows in the pickle."""
    from skl_mmap.inputs._shared_frame import SharedFrame

    return SharedFrame.__new__(SharedFrame)


def rebuild_series() -> SharedSeries:
    """Return a series without anything, whose state follows in the pickle."""
    from skl_mmap.inputs._shared_frame import SharedSeries

    return SharedSeries.__new__(SharedSeries)


def frame_bytes(frame: Any) -> int:
    """Bytes of the arrays of a frame or series, without its index."""
    return sum(int(getattr(array, "nbytes", 0)) for array in block_values(frame))


def row_bytes_of(frame: Any) -> tuple[int, int] | None:
    """Return how large the rows of a frame or series are that may be mapped.

    Returns
    -------
    (int, int) or None
        All of a row's bytes, and those of the smallest part of it that is mapped on
        its own: all of them if the frame is one block, else the smallest item.
    """
    from skl_mmap.inputs._shared_frame import numeric_block

    block = numeric_block(frame)
    if block is not None:
        row_bytes = block.itemsize * (len(block) if block.ndim == 2 else 1)
        return row_bytes, row_bytes
    sizes = [
        (size, len(array) if array.ndim == 2 else 1)
        for array in block_values(frame)
        for size in _item_sizes(array)
    ]
    if not sizes:
        return None
    return sum(size * n for size, n in sizes), min(size for size, _ in sizes)


def _item_sizes(values: Any) -> list[int]:
    """Bytes of one item of each array that a block consists of, if rows are mapped."""
    if masked_parts(values) is not None:
        return [values.dtype.itemsize, 1]
    values = getattr(values, "codes", values)  # of a Categorical
    dtype = getattr(values, "dtype", None)
    is_mapped = isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS_AND_DATES
    return [dtype.itemsize] if is_mapped and dtype is not None else []


def column_major_block(frame: Any) -> npt.NDArray[Any] | None:
    """Return the block of a frame of numbers that lies column by column.

    Returns
    -------
    ndarray of shape (n_columns, n_rows) or None
        pandas' own array. Stored in Fortran order, it becomes a block whose rows can
        be mapped. None if there is nothing to gain.
    """
    from skl_mmap.inputs._shared_frame import numeric_block

    block = numeric_block(frame)
    if block is None or block.ndim != 2 or block.flags.f_contiguous:
        return None
    return block


def make_frame(values: npt.NDArray[Any], columns: Any, index: Any = None) -> Any:
    """Make a frame over a shared array, without a copy.

    Parameters
    ----------
    values : SharedArray of shape (n_rows, n_columns)
        C-contiguous; writing to the frame writes to it.
    columns, index : array-like
        The labels; `index` is 0, 1, ... by default.

    Returns
    -------
    SharedFrame of shape (n_rows, n_columns)
    """
    from skl_mmap.inputs._shared_frame import SharedFrame

    return SharedFrame(np.asarray(values), index=index, columns=columns, copy=False)


def make_series(values: npt.NDArray[Any], index: Any = None, name: Any = None) -> Any:
    """Make a series over a shared array, without a copy; see `make_frame`."""
    from skl_mmap.inputs._shared_frame import SharedSeries

    return SharedSeries(np.asarray(values), index=index, name=name, copy=False)


def share_frame(df: Any, placement: Placement, settings: Settings) -> Any:
    """Copy the columns of a frame, or a series, into shared memory.

    Parameters
    ----------
    df : DataFrame of shape (n_rows, n_columns) or Series of shape (n_rows,)
        Left as it is.
    placement : Placement
        Where.
    settings : Settings
        How it is handed to tasks.

    Returns
    -------
    SharedFrame of shape (n_rows, n_columns) or SharedSeries of shape (n_rows,)
        If all columns are numbers of one dtype, they are stored row by row, so that
        rows are mapped in one piece and estimators get what they prefer. Otherwise
        each column of numbers, dates, categories or Arrow memory, text included, is
        shared for itself, and all others (objects, periods, dates with a time zone)
        refer to the same arrays as `df`.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Notes
    -----
    One copy in shared memory, and a buffer of 8 MiB.
    """
    from skl_mmap.inputs._shared_frame import make_mixed_frame

    if df.ndim == 1:
        return share_series(df, placement, settings)
    if _is_homogeneous(df):
        values = _share_rows(df, placement, settings)
        shared = make_frame(values, df.columns, df.index)
        return shared.__finalize__(df)
    arrays = _share_columns(df, placement, settings)
    columns = [df.iloc[:, place] for place in range(df.shape[1])]
    shared = make_mixed_frame(arrays, columns, df.index, df.columns)
    return shared.__finalize__(df)


def share_series(series: Any, placement: Placement, settings: Settings) -> Any:
    """Copy the elements of a series into shared memory.

    Returns
    -------
    SharedSeries of shape (n_rows,)
        See `share_frame`.
    """
    from skl_mmap.inputs._shared_frame import SharedSeries

    (values,) = _share_columns(series.to_frame(), placement, settings)
    dtype = object if series.dtype == object else None  # else pandas guesses
    shared = SharedSeries(
        values, index=series.index, name=series.name, dtype=dtype, copy=False
    )
    return shared.__finalize__(series)


def _is_homogeneous(df: Any) -> bool:
    dtypes = set(df.dtypes)
    if len(dtypes) != 1 or not df.size:
        return False
    (dtype,) = dtypes
    return isinstance(dtype, np.dtype) and dtype.kind in _NUMBERS


def _share_rows(df: Any, placement: Placement, settings: Settings) -> Any:
    dtype = df.dtypes.iloc[0]
    what = f"a frame of shape {df.shape} and dtype {dtype}"
    with SegmentWriter(placement, what, df.size * dtype.itemsize) as writer:
        for rows in _iterate_rows(df, dtype):
            writer.write(rows)
        segment = writer.finish()
    return map_array(segment, dtype, df.shape, settings)


def _iterate_rows(df: Any, dtype: np.dtype[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the values of so many rows that they fit into the buffer."""
    from skl_mmap.inputs._shared_frame import numeric_block

    n_rows, n_columns = df.shape
    n_at_once = max(_BUFFER_BYTES // (dtype.itemsize * n_columns), 1)
    block = numeric_block(df)
    columns = [] if block is not None else _list_columns(df)
    for start in range(0, n_rows, n_at_once):
        stop = min(start + n_at_once, n_rows)
        if block is not None:
            yield np.ascontiguousarray(block.T[start:stop])
            continue
        buffer = np.empty((stop - start, n_columns), dtype)
        for place, column in enumerate(columns):
            buffer[:, place] = column[start:stop]
        yield buffer


def _list_columns(df: Any) -> list[npt.NDArray[Any]]:
    places = range(df.shape[1])
    return [df.iloc[:, place].to_numpy(copy=False) for place in places]


def _share_columns(df: Any, placement: Placement, settings: Settings) -> list[Any]:
    """Return the columns of a frame, shared where that is possible."""
    from skl_mmap.inputs._frame_columns import arrays_of, is_arrow, like_column

    columns = [df.iloc[:, place] for place in range(df.shape[1])]
    result = [column.array for column in columns]
    arrow_places = [place for place, column in enumerate(columns) if is_arrow(column)]
    if arrow_places and len(df):
        arrow = [columns[place] for place in arrow_places]
        shared = _share_arrow(arrow, placement, settings)
        for place, array in zip(arrow_places, shared, strict=True):
            result[place] = array
    made_of = [arrays_of(column) for column in columns]
    arrays = [array for arrays in made_of for array in arrays]
    parts = iter(_share_arrays(arrays, placement, settings))
    for place, own in enumerate(made_of):
        if own:
            copies = tuple(next(parts) for _ in own)
            result[place] = like_column(columns[place], copies)
    return result


def _share_arrow(
    columns: list[Any], placement: Placement, settings: Settings
) -> list[Any]:
    """Copy columns of Arrow memory, in the chunks that they have."""
    import pyarrow

    from skl_mmap.inputs._arrow import share_table

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
    sizes = [_padded(array.nbytes) for array in arrays]
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


def _padded(n_bytes: int) -> int:
    """Round up to whole pages, so that each column can be mapped from its start."""
    return -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
