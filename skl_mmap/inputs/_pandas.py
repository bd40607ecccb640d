"""pandas frames and series in shared memory."""

from __future__ import annotations

import mmap
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
_BUFFER_BYTES = 8 << 20


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
    blocks = getattr(getattr(frame, "_mgr", None), "blocks", ())  # no public name
    return sum(int(getattr(block.values, "nbytes", 0)) for block in blocks)


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
    blocks = getattr(getattr(frame, "_mgr", None), "blocks", ())
    sizes = [
        (size, len(block.values) if np.ndim(block.values) == 2 else 1)
        for block in blocks
        if (size := _item_bytes(block.values))
    ]
    if not sizes:
        return None
    return sum(size * n for size, n in sizes), min(size for size, _ in sizes)


def _item_bytes(values: Any) -> int:
    codes = getattr(values, "codes", values)  # of a Categorical
    is_shareable = isinstance(codes, np.ndarray) and codes.dtype.kind in _NUMBERS
    return codes.itemsize if is_shareable else 0


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
    """Copy the numbers and categories of a frame or series into shared memory.

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
        each column of numbers, booleans or categories is shared for itself, and all
        others (text, dates, nullable dtypes) refer to the same arrays as `df`.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Notes
    -----
    One copy in shared memory, and a buffer of 8 MiB.
    """
    from skl_mmap.inputs._shared_frame import SharedFrame

    if df.ndim == 1:
        return share_series(df, placement, settings)
    if _is_homogeneous(df):
        values = _share_rows(df, placement, settings)
        shared = make_frame(values, df.columns, df.index)
        return shared.__finalize__(df)
    arrays = _share_columns(df, placement, settings)
    columns = dict(enumerate(arrays))
    shared = SharedFrame(columns, index=df.index, copy=False)
    shared.columns = df.columns
    return shared.__finalize__(df)


def share_series(series: Any, placement: Placement, settings: Settings) -> Any:
    """Copy the numbers or categories of a series into shared memory.

    Returns
    -------
    SharedSeries of shape (n_rows,)
        See `share_frame`.
    """
    from skl_mmap.inputs._shared_frame import SharedSeries

    (values,) = _share_columns(series.to_frame(), placement, settings)
    shared = SharedSeries(values, index=series.index, name=series.name, copy=False)
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
    from skl_mmap.inputs._shared_frame import like_column, shareable_values

    columns = [df.iloc[:, place] for place in range(df.shape[1])]
    plain = [shareable_values(column) for column in columns]
    sizes = [0 if array is None else _padded(array.nbytes) for array in plain]
    arrays = [column.array for column in columns]
    if not sum(sizes):
        return arrays
    what = f"{sum(size > 0 for size in sizes)} columns of a frame"
    with SegmentWriter(placement, what, sum(sizes)) as writer:
        for array, size in zip(plain, sizes, strict=True):
            if array is not None:
                writer.write(array)
                writer.write(np.zeros(size - array.nbytes, dtype=np.uint8))
        segment = writer.finish()
    memory = map_array(segment, np.dtype(np.uint8), (sum(sizes),), settings)
    all_bytes = np.asarray(memory)
    offset = 0
    for place, (array, size) in enumerate(zip(plain, sizes, strict=True)):
        if size and array is not None:
            part = all_bytes[offset : offset + array.nbytes].view(array.dtype)
            arrays[place] = like_column(columns[place], part)
        offset += size
    return arrays


def _padded(n_bytes: int) -> int:
    """Round up to whole pages, so that each column can be mapped from its start."""
    return -(-n_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
