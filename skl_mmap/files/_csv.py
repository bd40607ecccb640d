r"""CSV files, read in slices of some MB that end with a line.

::

    file --(decompressed)--> buffer: |carried over|....lines....|begin of a line|
                                      \______ pyarrow.csv ______/ \_carried over_/

pyarrow has readers of its own for files that do not fit into memory, ``csv.open_csv``
and ``pyarrow.dataset``, which is made of it. They are not used, for they (as measured
with release 26)

- parse with one thread, however many there are; slices are parsed with all;
- read 32 blocks ahead: 60 to 110 MB of private memory with the default of 1 MB for a
  block, 390 MB with the 8 MB of a slice, which takes 30 MB here;
- fix the type of every column by the first block, so that a target that looks like
  numbers there, and like text later, is an error;
- know the row of an error only with ``use_threads=False``.
"""

from __future__ import annotations

import csv
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from skl_mmap.exceptions import FileFormatError
from skl_mmap.files._columns import Part, Selection, Table

_SLICE_BYTES = 8 << 20
# The first slice tells how many bytes its values take in memory.
_FIRST_SLICE_BYTES = 1 << 20
_MAX_LINE_BYTES = 64 << 20
_MAX_TEXT = 60


class CsvFile(Table):
    """A CSV file with a header; FileFormatError if that cannot be read.

    `compression` is that of all of the file: "gzip", "bz2", "zstd" or None.
    """

    def __init__(self, path: str, compression: str | None = None) -> None:
        super().__init__(path)
        self._compression = compression
        self._raw = self._stack.enter_context(self._pa.OSFile(path, "rb"))
        self.n_bytes = self._raw.size()
        self._stream = self._raw
        if compression is not None:
            stream = self._pa.CompressedInputStream(self._raw, compression)
            self._stream = self._stack.enter_context(stream)
        self._buffer = bytearray(_FIRST_SLICE_BYTES)
        self._n_filled = 0
        self._slice_bytes = _FIRST_SLICE_BYTES
        self._is_at_end = False
        # Begin in the file, and end in the buffer, of the slice that is being parsed.
        self._offset = self._end = 0
        self._n_parsed_bytes = self._n_parsed_rows = 0
        self._slices = self._read_slices()
        try:
            first = next(self._slices, memoryview(b""))
            self.names, header_bytes = self._parse_header(first)
        except BaseException:
            self._stack.close()
            raise
        self._first_slice = first[header_bytes:]
        self._offset += header_bytes

    def default_features(self, target: str | None) -> tuple[str, ...]:
        """Return all columns but the target."""
        return tuple(name for name in self.names if name != target)

    def default_dtype(self, features: tuple[str, ...]) -> np.dtype[Any]:
        """Return float64: the types are known only when all was read."""
        return np.dtype(np.float64)

    def parts(self, selection: Selection) -> Iterator[Part]:
        """Read the rest of the file; see `Table.parts`."""
        if bytes(self._first_slice).strip():
            yield from self._parse(self._first_slice, selection)
        for data in self._slices:
            yield from self._parse(data, selection)

    def infer(self) -> tuple[Any, int, bool]:
        """Look at the first slice only.

        What pyarrow infers from it as the schema is returned, the number of rows of the
        whole file, and whether that is an estimate, for there are more slices.
        """
        part = next(self.parts(Selection((), None, np.dtype(float))), None)
        if part is None:
            null = self._pa.null()
            return self._pa.schema([(name, null) for name in self.names]), 0, False
        return part.rows.schema, part.expected_rows, not self._is_at_end

    def _parse(self, data: memoryview, selection: Selection) -> Iterator[Part]:
        try:
            table = self._parse_lines(data, selection, selection.names)
        except self._pa.ArrowInvalid as error:
            message = self._explain(data, selection) or error
            raise FileFormatError(f"{self.path}, {message}") from error
        first_row = n_rows = self._n_parsed_rows
        self._n_parsed_bytes += len(data)
        self._n_parsed_rows += table.num_rows
        # The next slice is so large that neither it nor its values exceed 8 MB.
        ratio = min(len(data) / max(table.nbytes, 1), 1.0)
        self._slice_bytes = max(int(_SLICE_BYTES * ratio), _FIRST_SLICE_BYTES)
        done_bytes = self._raw.tell()
        expected_rows = self._n_parsed_rows
        if not self._is_at_end:
            # What is left in the buffer has been read, but not been parsed.
            n_read = self._n_parsed_bytes + self._n_filled - self._end
            parsed_bytes = max(done_bytes * self._n_parsed_bytes / n_read, 1)
            expected_rows = int(expected_rows * self.n_bytes / parsed_bytes)
        for rows in table.to_batches():

            def find_line(row: int, first: int = n_rows - first_row) -> int:
                return self._rows(data)[first + row][0]

            yield Part(rows, n_rows, done_bytes, expected_rows, find_line)
            n_rows += rows.num_rows

    def _parse_lines(
        self, data: bytes | memoryview, selection: Selection, wanted: list[str]
    ) -> Any:
        """Let pyarrow parse some lines: the columns that are wanted, or all if none."""
        from pyarrow import csv as arrow_csv

        dtype = selection.dtype.newbyteorder("=")
        if dtype == np.float16:
            dtype = np.dtype(np.float32)  # pyarrow cannot parse the shorter one
        number = self._pa.from_numpy_dtype(dtype)
        types = {name: number for name in wanted if name != selection.target}
        if selection.is_text_target and selection.target in wanted:
            types[selection.target] = self._pa.string()
        return arrow_csv.read_csv(
            self._pa.BufferReader(self._pa.py_buffer(data)),
            arrow_csv.ReadOptions(column_names=self.names),
            convert_options=arrow_csv.ConvertOptions(
                column_types=types, include_columns=wanted, strings_can_be_null=True
            ),
            # pyarrow's own keeps twice as much for later.
            memory_pool=self._pa.system_memory_pool(),
        )

    def _explain(self, data: memoryview, selection: Selection) -> str | None:
        """Say which line and column pyarrow cannot read, what is there and what to do.

        With threads pyarrow does not say in which row it was, and without them only in
        words. So more and more lines are tried, then more and more columns of the line.
        """

        def fails(lines: Sequence[bytes], wanted: list[str]) -> bool:
            try:
                self._parse_lines(b"\n".join(lines), selection, wanted)
            except self._pa.ArrowInvalid:
                return True
            return False

        self._check_quotes(data)
        wanted = selection.names
        numbers, lines = zip(*self._rows(data), strict=True)
        row = bisect_left(
            range(len(lines)), True, key=lambda row: fails(lines[: row + 1], wanted)
        )
        if row == len(lines):
            return None
        line, text = numbers[row], lines[row].decode("utf-8", "replace")
        try:
            fields = next(csv.reader([text]))
        except csv.Error:  # a value is too long for it
            return None
        if len(fields) != len(self.names):
            return (
                f"line {line}: {len(fields)} values, {_shorten(text)}, and the header "
                f"names {len(self.names)} columns. Every line needs one value for "
                "each; quote values that have commas in them."
            )
        place = bisect_left(
            range(len(wanted)),
            True,
            key=lambda place: fails([lines[row]], wanted[: place + 1]),
        )
        if place == len(wanted):
            return None
        name = wanted[place]
        if name == selection.target:
            return (
                f"line {line}: the target {name!r} is not text in UTF-8 there. Convert "
                "the file, for example with iconv."
            )
        value = fields[self.names.index(name)]
        return (
            f"line {line}: column {name!r} has {_shorten(value)} there, which is "
            f"no {selection.dtype}, and all of X has one type. Leave the column out "
            "with columns=, make it the target=, encode it as numbers before, or "
            "pass another dtype."
        )

    def _rows(self, data: memoryview) -> list[tuple[int, bytes]]:
        """Return number and text of the lines that are not empty: these are rows."""
        lines = enumerate(bytes(data).splitlines(), self._line_of(self._offset))
        return [(number, line) for number, line in lines if line]

    def _line_of(self, offset: int) -> int:
        """Return the number of the line that begins at a place, by reading up to it.

        Only after an error: to count the lines of all files would take longer.
        """
        line = 1
        with self._pa.input_stream(self.path, self._compression) as stream:
            while offset > 0:
                data = stream.read(min(offset, _FIRST_SLICE_BYTES))
                if not data:
                    break
                offset -= len(data)
                line += data.count(b"\n")
        return line

    def _parse_header(self, data: memoryview) -> tuple[list[str], int]:
        """Return the names in the first line that is not empty, and where it ends."""
        rest = bytes(data).lstrip(b"\r\n")
        raw = rest.partition(b"\n")[0]
        start = len(data) - len(rest)

        def bad(found: str) -> FileFormatError:
            line = self._line_of(self._offset + start)
            return FileFormatError(f"{self.path}, line {line}: {found}")

        if b"\r" in raw.rstrip(b"\r"):
            raise bad(
                "lines end with a carriage return alone, as on old Macs, and "
                "all of the file would be one line. Convert it, for example with "
                "tr '\\r' '\\n'."
            )
        try:
            text = raw.decode("utf-8-sig").rstrip("\r")
            names = next(csv.reader([text]), [])
        except UnicodeDecodeError as error:
            raise bad(
                f"the header is not UTF-8 ({error}). Convert the file, for "
                "example with iconv."
            ) from None
        except csv.Error as error:
            raise bad(
                f"the header {text[:_MAX_TEXT]!r}... cannot be read ({error}). A CSV "
                "file begins with a line that names the columns."
            ) from None
        if not any(names):
            raise FileFormatError(
                f"{self.path} is empty, so there are no names of columns. A CSV file "
                "begins with a line that names them."
            )
        if len(names) == 1 and (separators := {";", "\t", "|"} & set(text)):
            raise bad(
                f"the header {text.strip()[:80]!r} has no comma, but "
                f"{separators.pop()!r}. Values must be separated by commas; read such "
                "a file with pandas and pass it to skl_mmap.share."
            )
        is_first_row = not all(map(str.isdecimal, names))
        try:
            [float(name) for name in names]
        except ValueError:
            is_first_row = False
        if is_first_row:
            raise bad(
                "all names in the header are numbers "
                f"({text.strip()[:60]!r}), so that it seems to be the first row. Add a "
                "line that names the columns."
            )
        return names, min(start + len(raw) + 1, len(data))

    def _read_slices(self) -> Iterator[memoryview]:
        """Yield whole lines, valid until the next ones."""
        offset = 0
        while not self._is_at_end:
            self._fill()
            end = self._n_filled
            if not self._is_at_end:
                end = self._buffer.rfind(b"\n", 0, self._n_filled) + 1
                if not end and len(self._buffer) > _MAX_LINE_BYTES:
                    raise FileFormatError(
                        f"{self.path}, line {self._line_of(offset)}: it is longer than "
                        f"{_MAX_LINE_BYTES >> 20} MiB. Lines must end with a line "
                        "feed; convert the file if its lines end otherwise, or save "
                        "the table as parquet."
                    )
                if not end:
                    self._slice_bytes = 2 * len(self._buffer)
                    continue
            self._offset, self._end = offset, end
            offset += end
            data = memoryview(self._buffer)[:end]
            if bytes(data[:64]).strip() or bytes(data).strip():
                # Few files of numbers have quotes, and looking for one is faster.
                has_quotes = self._buffer.find(b'"', 0, end) >= 0
                if has_quotes and self._buffer.count(b'"', 0, end) % 2:
                    self._check_quotes(data)
                yield data
            n_left = self._n_filled - end
            self._buffer[:n_left] = self._buffer[end : self._n_filled]
            self._n_filled = n_left

    def _check_quotes(self, data: memoryview) -> None:
        """Raise an error if a quoted value does not end in its line."""
        for number, line in self._rows(data):
            if line.count(b'"') % 2:
                raise FileFormatError(
                    f"{self.path}, line {number}: a quoted value does not end in its "
                    "line, or a quote is missing, so that lines cannot be told apart. "
                    "Values with line breaks cannot be read; save the table as parquet."
                )

    def _fill(self) -> None:
        """Read until the buffer is full, or the file ends."""
        if self._slice_bytes > len(self._buffer):
            # A new one: somebody may still look at the old one.
            larger = bytearray(self._slice_bytes)
            larger[: self._n_filled] = self._buffer[: self._n_filled]
            self._buffer = larger
        view = memoryview(self._buffer)
        while self._n_filled < len(view) and not self._is_at_end:
            try:
                n_read = self._stream.readinto(view[self._n_filled :])
            except OSError as error:
                raise FileFormatError(
                    f"{self.path} cannot be read beyond {self._n_parsed_rows} rows: "
                    f"{error}. It is damaged or was cut off; get it anew."
                ) from error
            self._n_filled += n_read
            self._is_at_end = not n_read


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "...")
