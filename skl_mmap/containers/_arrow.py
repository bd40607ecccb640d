"""Arrow memory in tasks: buffers of pyarrow, which tables and columns are made of.

::

    table or column --pickled by pyarrow--> its buffers --> arrays of bytes, shared once

The rows of pyarrow tables are selected by pyarrow itself, which copies them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow

from skl_mmap.containers._container import Container, register
from skl_mmap.memory import (
    Placement,
    SegmentWriter,
    Settings,
    map_array,
)


def rebuild_buffer(data: npt.NDArray[np.uint8]) -> Any:
    """Make a ``pyarrow.Buffer`` over an array, without a copy."""
    return pyarrow.py_buffer(np.asarray(data))


class _Sink:
    """Takes the bytes of a table for a segment; looks like a file to pyarrow."""

    closed = False

    def __init__(self, writer: SegmentWriter) -> None:
        self._writer = writer

    def write(self, data: bytes) -> int:
        self._writer.write(np.frombuffer(data, dtype=np.uint8))
        return len(data)


def share_table(table: Any, placement: Placement, settings: Settings) -> Any:
    """Copy a pyarrow table into shared memory.

    All columns are in one segment, in the chunks that they came in. One pass in
    Arrow's stream format; at most one chunk of one column is there a third time
    meanwhile.
    """
    what = f"a table of {table.num_rows} rows and {table.num_columns} columns"
    with SegmentWriter(placement, what, table.get_total_buffer_size()) as writer:
        with pyarrow.ipc.new_stream(_Sink(writer), table.schema) as stream:
            stream.write_table(table)
        segment = writer.finish()
    data = map_array(segment, np.dtype(np.uint8), (segment.n_bytes,), settings)
    with pyarrow.ipc.open_stream(pyarrow.py_buffer(np.asarray(data))) as reader:
        return reader.read_all()


class BufferContainer(Container):
    """The memory that columns are made of; it has no rows of its own."""

    def classes(self) -> tuple[type[Any], ...]:
        return pyarrow.Buffer, pyarrow.ResizableBuffer

    def n_bytes(self, X: Any) -> int:
        return int(X.size)

    def bytes_of_rows(self, X: Any, rows: npt.NDArray[Any]) -> int:
        return 0

    def take_apart(self, X: Any, min_bytes: int) -> tuple[Any, ...] | None:
        if X.size < max(min_bytes, 1) or not X.is_cpu:
            return None
        return rebuild_buffer, (np.frombuffer(X, dtype=np.uint8),)


class TableContainer(Container):
    """Tables of pyarrow."""

    def classes(self) -> tuple[type[Any], ...]:
        return (pyarrow.Table,)

    def n_bytes(self, X: Any) -> int:
        return int(X.nbytes)

    def share(self, X: Any, placement: Placement, settings: Settings) -> Any:
        return share_table(X, placement, settings)


register(BufferContainer())
register(TableContainer())
