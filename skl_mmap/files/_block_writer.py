"""Columns that arrive in parts become the rows of one array in shared memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import FileFormatError
from skl_mmap.memory import Placement, Segment, SegmentWriter
from skl_mmap.memory._segment import new_segment

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["Part", "RowScatterer", "RowWriter", "convert", "missing_of", "values_of"]

# Rows that are put together at a time: in the processor's cache while that is done.
_BLOCK_BYTES = 4 << 20


class Part(NamedTuple):
    """Some rows of a table.

    Attributes
    ----------
    table : pyarrow.Table
        The columns that were asked for, or some of them.
    locate : callable
        Where a row of this part is in the file, in words.
    first_row : int
        Number of the first one.
    done_bytes : int
        How much of the file was read.
    expected_rows : int
        Rows of all of the table, as far as is known by now.
    """

    table: Any
    locate: Callable[[int], str]
    first_row: int
    done_bytes: int
    expected_rows: int


class RowWriter:
    """Write the features of a table into a new segment; a context manager.

    Parameters
    ----------
    placement : Placement
        Where the segment lives.
    path : str
        The file that is read, for error messages.
    names : tuple of str
        The columns, in order.
    dtype : dtype
        Of the array.
    """

    def __init__(
        self,
        placement: Placement,
        path: str,
        names: tuple[str, ...],
        dtype: np.dtype[Any],
    ) -> None:
        self._placement = placement
        self._path = path
        self._names = names
        self._dtype = dtype
        self._writer: SegmentWriter | None = None
        self.n_rows = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up what was not finished."""
        if self._writer is not None:
            self._writer.__exit__(exc_type, exc_value, traceback)

    @property
    def row_bytes(self) -> int:
        """Bytes of one row."""
        return len(self._names) * self._dtype.itemsize

    def write(self, part: Part) -> None:
        """Append rows.

        Raises
        ------
        FileFormatError
            If a value is missing or cannot be converted.
        NotEnoughMemoryError, NotEnoughDiskError
            If there is no room.
        """
        if self._writer is None:
            n_bytes = part.expected_rows * self.row_bytes
            what = f"{self._path} ({part.expected_rows} rows or so)"
            self._writer = SegmentWriter(self._placement, what, n_bytes)
        table = part.table.select(list(self._names))
        block_rows = max(_BLOCK_BYTES // self.row_bytes, 1)
        # One buffer for all blocks: a new one each time would be new pages.
        buffer = np.empty(
            (min(block_rows, table.num_rows), len(self._names)), self._dtype
        )
        for start in range(0, table.num_rows, block_rows):
            rows = table.slice(start, block_rows)
            block = buffer[: rows.num_rows]
            for place, name in enumerate(self._names):
                self._fill(block[:, place], rows.column(name), name, start, part)
            self._writer.write(block)
        self.n_rows += table.num_rows

    def finish(self) -> Segment | None:
        """Return the segment; None if there was no row."""
        return (
            self._writer.finish() if self._writer is not None and self.n_rows else None
        )

    def _fill(
        self, out: npt.NDArray[Any], column: Any, name: str, start: int, part: Part
    ) -> None:
        """Fill one column of a block."""
        place = 0
        for chunk in column.chunks:
            rows = out[place : place + len(chunk)]
            if chunk.null_count and self._dtype.kind != "f":
                row = start + place + int(np.argmax(missing_of(chunk)))
                raise FileFormatError(
                    f"{self._path}, {part.locate(row)}: column {name!r} has no "
                    f"value there, and {self._dtype} cannot say that one is missing. "
                    "Pass dtype='float64', which reads it as NaN, fill it in, or "
                    "leave the column out with columns=."
                )
            values = values_of(chunk)
            bad = convert(values, rows)
            if bad is not None:
                raise FileFormatError(
                    f"{self._path}, {part.locate(start + place + bad)}: column "
                    f"{name!r} has {values[bad]!s} there, which {self._dtype} cannot "
                    "hold. Pass a dtype that can, such as 'float64'."
                )
            place += len(chunk)


class RowScatterer(RowWriter):
    """Write features that come some columns at a time.

    Parameters
    ----------
    placement : Placement
        Where the segment lives.
    path : str
        The file that is read, for error messages.
    names : tuple of str
        The columns, in order.
    dtype : dtype
        Of the array.
    n_rows : int
        Rows of the array.
    """

    def __init__(
        self,
        placement: Placement,
        path: str,
        names: tuple[str, ...],
        dtype: np.dtype[Any],
        n_rows: int,
    ) -> None:
        super().__init__(placement, path, names, dtype)
        self.n_rows = n_rows
        self._n_missing = n_rows * len(names)
        self._segment: Segment | None = None
        self._array: npt.NDArray[Any] | None = None
        if n_rows:
            n_bytes = n_rows * self.row_bytes
            self._segment = new_segment(n_bytes, placement, f"{path} ({n_rows} rows)")
            # Others cannot see it yet; it is unmapped before it is sealed.
            memory = mmap.mmap(self._segment.fd, n_bytes)
            self._array = np.ndarray((n_rows, len(names)), dtype, memory)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up what was not finished."""
        self._array = self._segment = None

    def write(self, part: Part) -> None:
        """Write some columns of some rows.

        Raises
        ------
        FileFormatError
            If a value is missing or cannot be converted.
        """
        if self._array is None:
            return
        rows = self._array[part.first_row : part.first_row + part.table.num_rows]
        for place, name in enumerate(self._names):
            if name in part.table.column_names:
                self._fill(rows[:, place], part.table.column(name), name, 0, part)
                self._n_missing -= len(rows)

    def finish(self) -> Segment | None:
        """Return the segment; None if there was no row."""
        if self._n_missing:
            raise FileFormatError(
                f"{self._path} says that it has {self.n_rows} rows, and not all of "
                "them were found: it is damaged. Get it anew."
            )
        segment = self._segment
        self._array = self._segment = None
        if segment is not None:
            segment.seal()
        return segment


def convert(values: npt.NDArray[Any], out: npt.NDArray[Any]) -> int | None:
    """Copy values into an array of another type.

    Returns
    -------
    int or None
        The place in C order of the first value that an integer type cannot hold.
        Floating point types round, as always.
    """
    if out.dtype.kind == "f" or np.can_cast(values.dtype, out.dtype):
        np.copyto(out, values, casting="unsafe")
        return None
    with np.errstate(invalid="ignore"):
        np.copyto(out, values, casting="unsafe")
        is_different = out != values
    return int(np.argmax(is_different)) if is_different.any() else None


def values_of(chunk: Any) -> npt.NDArray[Any]:
    """Return the numbers of an Arrow array; NaN where there is none.

    Arrow's own ``to_numpy`` imports pandas, which takes 30 MB and a third of a second.
    """
    import pyarrow
    from pyarrow import compute

    dtype = np.dtype(chunk.type.to_pandas_dtype())
    if dtype.kind == "b":
        chunk = chunk.cast(pyarrow.uint8())  # bits become bytes
    if chunk.null_count:
        if dtype.kind != "f":
            chunk, dtype = chunk.cast(pyarrow.float64(), safe=False), np.dtype(float)
        chunk = compute.fill_null(chunk, pyarrow.scalar(np.nan, chunk.type))
    data = chunk.buffers()[1]
    if data is None:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(chunk), chunk.offset * dtype.itemsize)


def missing_of(chunk: Any) -> npt.NDArray[np.bool_]:
    """Return a mask of the values that are missing in an Arrow array."""
    return values_of(chunk.is_null()).view(bool)
