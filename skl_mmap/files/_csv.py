r"""CSV files, read in slices of some MB that end with a line.

::

    file --(decompressed)--> buffer: |carried over|....lines....|begin of a line|
                                      \______ pyarrow.csv ______/ \_carried over_/

pyarrow parses each slice with all threads. Its own streaming reader uses one only.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from skl_mmap.exceptions import FileFormatError
from skl_mmap.files._block_writer import Part
from skl_mmap.files._columns import Plan
from skl_mmap.files._csv_errors import explain, find_line
from skl_mmap.files._formats import import_pyarrow

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["CsvFile"]

_SLICE_BYTES = 8 << 20
# The first slice tells how many bytes its values take in memory.
_FIRST_SLICE_BYTES = 1 << 20
_MAX_LINE_BYTES = 64 << 20
_HEADER_STEP_BYTES = 64 << 10


class CsvFile:
    """A CSV file with a header, open for reading; a context manager.

    Parameters
    ----------
    path : str
        The file.
    compression : {"gzip", "bz2", "zstd"} or None
        Of all of it.

    Attributes
    ----------
    names : list of str
        The columns.
    exact_rows : None
        The number of rows is not known before all is read.

    Raises
    ------
    FileFormatError
        If it has no header that can be read.
    """

    def __init__(self, path: str, compression: str | None = None) -> None:
        self._pa = import_pyarrow(path)
        self.path = path
        self.exact_rows: int | None = None
        self._compression = compression
        self._stack = ExitStack()
        self._raw = self._stack.enter_context(self._pa.OSFile(path, "rb"))
        self.n_bytes = self._raw.size()
        self._stream = self._raw
        if compression is not None:
            stream = self._pa.CompressedInputStream(self._raw, compression)
            self._stream = self._stack.enter_context(stream)
        self._buffer = bytearray()
        self._n_filled = 0
        self._slice_bytes = _FIRST_SLICE_BYTES
        self._is_at_end = False
        # Of the header; later lines are counted when there is an error.
        self._line = 1
        self._header_bytes = self._passed_bytes = 0
        self._n_parsed_bytes = self._n_parsed_rows = 0
        try:
            self.names = self._read_header()
        except BaseException:
            self._stack.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        self._stack.close()

    @property
    def is_read(self) -> bool:
        """Whether there is nothing left to read."""
        return self._is_at_end

    def default_features(self, target: str | None) -> tuple[str, ...]:
        """Return all columns but the target."""
        return tuple(name for name in self.names if name != target)

    def default_dtype(self, features: tuple[str, ...]) -> np.dtype[Any]:
        """Return float64: the types are known only when all was read."""
        return np.dtype(np.float64)

    def parts(self, plan: Plan) -> Iterator[Part]:
        """Read the rest of the file.

        Raises
        ------
        FileFormatError
            If a row or a value cannot be parsed.
        """
        from pyarrow import csv as arrow_csv

        types = self._types(plan)
        wanted = set(plan.names)
        # Of a long header, only what is wanted is looked at.
        options = arrow_csv.ConvertOptions(
            column_types=types,
            include_columns=[name for name in self.names if name in wanted],
            strings_can_be_null=True,
        )
        for data in self._slices():
            try:
                table = arrow_csv.read_csv(
                    self._pa.BufferReader(self._pa.py_buffer(data)),
                    arrow_csv.ReadOptions(column_names=self.names),
                    convert_options=options,
                    # pyarrow's own keeps twice as much for later.
                    memory_pool=self._pa.system_memory_pool(),
                )
            except self._pa.ArrowInvalid as error:
                message = explain(data, self._current_line(), self.names, plan)
                raise FileFormatError(f"{self.path}, {message or error}") from error
            self._n_parsed_bytes += len(data)
            self._n_parsed_rows += table.num_rows
            yield self._part(table, data)
            self._passed_bytes += len(data)
            self._adapt(len(data), table.nbytes)

    def infer(self) -> tuple[dict[str, str], int]:
        """Return the types that the first rows seem to have, and how many rows.

        Returns
        -------
        types : dict of str to str
            Name of each column, and Arrow's name of its type.
        n_rows : int
            An estimate for all of the file.
        """
        from pyarrow import csv as arrow_csv

        data = next(self._slices(), None)
        if data is None:
            return dict.fromkeys(self.names, "null"), 0
        try:
            table = arrow_csv.read_csv(
                self._pa.BufferReader(self._pa.py_buffer(data)),
                arrow_csv.ReadOptions(column_names=self.names),
            )
        except self._pa.ArrowInvalid as error:
            plan = Plan((), None, np.dtype(np.float64))
            message = explain(data, self._current_line(), self.names, plan)
            raise FileFormatError(f"{self.path}, {message or error}") from error
        self._n_parsed_bytes += len(data)
        self._n_parsed_rows += table.num_rows
        types = {field.name: str(field.type) for field in table.schema}
        return types, self._part(table, data).expected_rows

    def _part(self, table: Any, data: memoryview) -> Part:
        def locate(row: int) -> str:
            return f"line {find_line(data, self._current_line(), row)}"

        done = self._raw.tell()
        expected = self._n_parsed_rows
        if not self._is_at_end or self._n_filled > len(data):
            # What is in the buffer has been read, but not been parsed.
            share = self._n_parsed_bytes / (
                self._n_parsed_bytes + self._n_filled - len(data)
            )
            parsed_bytes = max(done * share, 1)
            expected = int(self._n_parsed_rows * self.n_bytes / parsed_bytes)
        first_row = self._n_parsed_rows - table.num_rows
        return Part(table, locate, first_row, done, expected)

    def _types(self, plan: Plan) -> Mapping[str, Any]:
        dtype = plan.dtype.newbyteorder("=")
        if dtype == np.float16:
            dtype = np.dtype(np.float32)  # pyarrow cannot parse the shorter one
        types = dict.fromkeys(plan.features, self._pa.from_numpy_dtype(dtype))
        if plan.is_text_target and plan.target is not None:
            types[plan.target] = self._pa.string()
        return types

    def _adapt(self, text_bytes: int, table_bytes: int) -> None:
        """Choose the next slice so that neither it nor its values exceed 8 MB."""
        ratio = min(text_bytes / max(table_bytes, 1), 1.0)
        size = max(int(_SLICE_BYTES * ratio), _FIRST_SLICE_BYTES)
        self._slice_bytes = size

    def _read_header(self) -> list[str]:
        line = self._first_line()
        try:
            text = line.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise FileFormatError(
                f"{self.path}, line {self._line}: the header is not UTF-8 ({error}). "
                "Convert the file, for example with iconv."
            ) from None
        names = next(csv.reader([text.rstrip("\r\n")]), [])
        if not any(names):
            raise FileFormatError(
                f"{self.path} is empty, so there are no names of columns. A CSV file "
                "begins with a line that names them."
            )
        if len(names) == 1 and (separators := {";", "\t", "|"} & set(text)):
            raise FileFormatError(
                f"{self.path}, line {self._line}: the header {text.strip()[:80]!r} has "
                f"no comma, but {separators.pop()!r}. Values must be separated by "
                "commas; read such a file with pandas and pass it to skl_mmap.share."
            )
        if all(map(_is_number, names)) and not all(map(str.isdecimal, names)):
            raise FileFormatError(
                f"{self.path}, line {self._line}: all names in the header are numbers "
                f"({text.strip()[:60]!r}), so that it seems to be the first row. Add a "
                "line that names the columns."
            )
        self._line += 1
        return names

    def _first_line(self) -> bytes:
        """Return the first line that is not empty; what follows is in the buffer."""
        data = b""
        while b"\n" not in data.lstrip(b"\r\n"):
            more = self._read(_HEADER_STEP_BYTES)
            data += more
            if not more:
                break
            if len(data) > _MAX_LINE_BYTES:
                raise self._line_too_long()
        rest = data.lstrip(b"\r\n")
        self._line += data[: len(data) - len(rest)].count(b"\n")
        line, _, rest = rest.partition(b"\n")
        self._header_bytes = len(data) - len(rest)
        if line.count(b'"') % 2:
            raise self._odd_quotes(self._line, self._line)
        if b"\r" in line.rstrip(b"\r"):
            raise FileFormatError(
                f"{self.path}, line {self._line}: lines end with a carriage return "
                "alone, as on old Macs, and all of the file would be one line. Convert "
                "it, for example with tr '\\r' '\\n'."
            )
        self._buffer = bytearray(max(len(rest), _FIRST_SLICE_BYTES))
        self._buffer[: len(rest)] = rest
        self._n_filled = len(rest)
        return line

    def _read(self, n_bytes: int) -> bytes:
        try:
            return bytes(self._stream.read(n_bytes))
        except OSError as error:
            raise self._damaged(error) from error

    def _slices(self) -> Iterator[memoryview]:
        """Yield whole lines, valid until the next ones."""
        while not self._is_at_end:
            self._fill()
            end = self._n_filled
            if not self._is_at_end:
                end = self._buffer.rfind(b"\n", 0, self._n_filled) + 1
                if not end:
                    if len(self._buffer) > _MAX_LINE_BYTES:
                        raise self._line_too_long()
                    self._slice_bytes = 2 * len(self._buffer)
                    continue
            # Few files of numbers have quotes, and looking for one is faster.
            has_quotes = self._buffer.find(b'"', 0, end) >= 0
            if has_quotes and self._buffer.count(b'"', 0, end) % 2:
                first = self._current_line()
                n_lines = self._buffer.count(b"\n", 0, end)
                raise self._odd_quotes(first, first + n_lines)
            data = memoryview(self._buffer)[:end]
            if bytes(data[:64]).strip() or bytes(data).strip():
                yield data
            else:
                self._passed_bytes += end
            n_left = self._n_filled - end
            self._buffer[:n_left] = self._buffer[end : self._n_filled]
            self._n_filled = n_left

    def _fill(self) -> None:
        if self._slice_bytes > len(self._buffer):
            # A new one: somebody may still look at the old one.
            larger = bytearray(self._slice_bytes)
            larger[: self._n_filled] = self._buffer[: self._n_filled]
            self._buffer = larger
        view = memoryview(self._buffer)
        while self._n_filled < len(view):
            try:
                n_read = self._stream.readinto(view[self._n_filled :])
            except OSError as error:
                raise self._damaged(error) from error
            if not n_read:
                self._is_at_end = True
                return
            self._n_filled += n_read

    def _current_line(self) -> int:
        """Return the number of the next line, by reading the file once more."""
        n_left = self._header_bytes + self._passed_bytes
        line = 1
        with self._pa.input_stream(self.path, self._compression) as stream:
            while n_left:
                data = bytes(stream.read(min(n_left, _FIRST_SLICE_BYTES)))
                if not data:
                    break
                n_left -= len(data)
                line += data.count(b"\n")
        return line

    def _damaged(self, error: Exception) -> FileFormatError:
        return FileFormatError(
            f"{self.path} cannot be read beyond {self._n_parsed_rows} rows: {error}. "
            "It is damaged or was cut off; get it anew."
        )

    def _odd_quotes(self, first: int, last: int) -> FileFormatError:
        return FileFormatError(
            f"{self.path}, lines {first} to {last}: a quoted value does not end in its "
            "line, or a quote is missing, so that lines cannot be told apart. Values "
            "with line breaks cannot be read; save the table as parquet."
        )

    def _line_too_long(self) -> FileFormatError:
        return FileFormatError(
            f"{self.path}, line {self._line}: it is longer than "
            f"{_MAX_LINE_BYTES >> 20} MiB. Lines must end with a line feed; convert "
            "the file if its lines end otherwise, or save the table as parquet."
        )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
