"""Arrow memory in tasks: buffers of pyarrow, and frames of polars.

::

    table or column --pickled by pyarrow--> its buffers --> arrays of bytes, shared once
    polars frame ----> Arrow table (the same memory) --^

Rows of polars frames are selected without a copy, see `_shared_polars`; those of
pyarrow tables by pyarrow itself, which copies them.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, SegmentWriter, Settings, map_array

__all__ = [
    "arrow_reducers",
    "is_table",
    "rebuild_buffer",
    "rebuild_polars",
    "rebuild_polars_series",
    "reduce_buffer",
    "reduce_polars",
    "reduce_polars_series",
    "share_table",
]


def arrow_reducers() -> dict[type[Any], Any]:
    """Return the classes of Arrow memory that are in use here, and their reducers."""
    reducers: dict[type[Any], Any] = {}
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is None or not hasattr(pyarrow, "py_buffer"):
        return reducers  # not imported, or just being imported
    reducers[pyarrow.Buffer] = reducers[pyarrow.ResizableBuffer] = reduce_buffer
    polars = _find_polars()
    if polars is not None:
        reducers[polars.DataFrame] = reduce_polars
        shared = sys.modules.get("skl_mmap.inputs._shared_polars")
        if shared is not None:
            reducers[shared.SharedPolarsFrame] = reduce_polars
        reducers[polars.Series] = reduce_polars_series
    return reducers


def _find_polars() -> Any:
    """Return polars, if it is in use and new enough to keep dtypes in Arrow."""
    polars = sys.modules.get("polars")
    return polars if hasattr(polars, "CompatLevel") else None


def reduce_buffer(buffer: Any, min_bytes: int) -> tuple[Any, ...] | None:
    """Turn a ``pyarrow.Buffer`` into an array of its bytes, which can be shared.

    Returns
    -------
    tuple or None
        What ``__reduce__`` would return; None if it is smaller than `min_bytes`.
    """
    if buffer.size < max(min_bytes, 1) or not buffer.is_cpu:
        return None
    return rebuild_buffer, (np.frombuffer(buffer, dtype=np.uint8),)


def rebuild_buffer(data: npt.NDArray[np.uint8]) -> Any:
    """Make a ``pyarrow.Buffer`` over an array, without a copy."""
    import pyarrow

    return pyarrow.py_buffer(np.asarray(data))


def reduce_polars(frame: Any, min_bytes: int) -> tuple[Any, ...] | None:
    """Turn a polars frame into an Arrow table over the same memory.

    Returns
    -------
    tuple or None
        None if it is smaller than `min_bytes`, or if one of its dtypes would be
        another one on the way back.
    """
    if frame.estimated_size() < min_bytes:
        return None
    table = _to_arrow(frame)
    return None if table is None else (rebuild_polars, (table,))


def _to_arrow(frame: Any) -> Any:
    """Return an Arrow table over a polars frame; None if dtypes would change."""
    import polars

    newest = polars.CompatLevel.newest()
    back = polars.from_arrow(frame.clear().to_arrow(compat_level=newest))
    if getattr(back, "schema", None) != frame.schema:
        return None
    return frame.to_arrow(compat_level=newest)


def rebuild_polars(table: Any) -> Any:
    """Make a polars frame over the memory of an Arrow table."""
    import polars

    from skl_mmap.inputs._shared_polars import SharedPolarsFrame

    return SharedPolarsFrame(polars.from_arrow(table))


def reduce_polars_series(series: Any, min_bytes: int) -> tuple[Any, ...] | None:
    """Turn a polars series into a frame, for `reduce_polars`."""
    if reduce_polars(series.to_frame(), min_bytes) is None:
        return None
    return rebuild_polars_series, (series.to_frame(),)


def rebuild_polars_series(frame: Any) -> Any:
    """Return the one column of a polars frame."""
    return frame.to_series()


def is_table(X: Any) -> bool:
    """Whether something is a pyarrow table or a polars frame."""
    pyarrow, polars = sys.modules.get("pyarrow"), _find_polars()
    return (pyarrow is not None and isinstance(X, pyarrow.Table)) or (
        polars is not None and isinstance(X, polars.DataFrame)
    )


class _Sink:
    """What pyarrow takes for a file, and what goes to a segment."""

    closed = False

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> int:
        self._writer.write(np.frombuffer(data, dtype=np.uint8))
        return len(data)


def share_table(X: Any, placement: Placement, settings: Settings) -> Any:
    """Copy a pyarrow table or a polars frame into shared memory.

    Parameters
    ----------
    X : pyarrow.Table or polars.DataFrame
        Any columns.
    placement : Placement
        Where it lives.
    settings : Settings
        How it is handed to tasks.

    Returns
    -------
    pyarrow.Table or polars.DataFrame
        All of its columns in one segment, in the chunks that they came in.

    Raises
    ------
    InvalidParameterError
        If a polars frame has columns that Arrow does not have.
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Notes
    -----
    One pass in Arrow's stream format; at most one chunk of one column is there a
    third time meanwhile.
    """
    import pyarrow

    table = X if isinstance(X, pyarrow.Table) else _to_arrow(X)
    if table is None:
        raise InvalidParameterError(
            f"X has columns of types that Arrow does not have ({X.schema}), so its "
            "memory cannot be shared. Convert these columns, or leave them out."
        )
    what = f"a table of {table.num_rows} rows and {table.num_columns} columns"
    with SegmentWriter(placement, what, table.get_total_buffer_size()) as writer:
        with pyarrow.ipc.new_stream(_Sink(writer), table.schema) as stream:
            stream.write_table(table)
        segment = writer.finish()
    data = map_array(segment, np.dtype(np.uint8), (segment.n_bytes,), settings)
    with pyarrow.ipc.open_stream(pyarrow.py_buffer(np.asarray(data))) as reader:
        shared = reader.read_all()
    return shared if isinstance(X, pyarrow.Table) else rebuild_polars(shared)
