"""Tables that know the types of their columns: parquet and Arrow's own formats.

They are read with pyarrow's readers of one file, not with ``pyarrow.dataset``, which
takes memory for all of a row group or record batch: 280 to 740 MB for a row group of
180 MB that takes 46 MB here, and 155 MB for an Arrow file that is read where it lies.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Iterator
from typing import Any

import numpy as np

from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from skl_mmap.files._columns import (
    Part,
    Selection,
    Table,
    is_numeric,
    is_text,
    list_names,
)

_BATCH_BYTES = 4 << 20
_MAX_BATCH_ROWS = 1 << 16
# Of the file, read ahead for each column.
_READ_AHEAD_BYTES = 128 << 10
# A column of a parquet file that is being read holds about this much (a dictionary, a
# page, both unpacked), and this many bytes of columns are read at a time.
_MAX_COLUMN_BYTES = 5 << 19
_MAX_GROUP_BYTES = 16 << 20
# A guess for one value of a column whose values differ in size.
_TEXT_BYTES = 32
# More types than this are not listed.
_MAX_LISTED = 8


class TypedTable(Table):
    """A table with a schema; subclasses set `schema` in `_open`."""

    schema: Any

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.n_bytes = os.stat(path).st_size
        try:
            self._open()
        except (self._pa.ArrowException, OSError) as error:
            self._stack.close()
            raise FileFormatError(
                f"{path} cannot be opened: {error}. It is damaged, was cut off, or is "
                "still being written; get it anew."
            ) from error
        self.names = list(self.schema.names)

    def default_features(self, target: str | None) -> tuple[str, ...]:
        """Return all columns of numbers but the target, and a pandas index."""
        # Indices that are ranges have no column, and are described by a dict.
        index = (self.schema.pandas_metadata or {}).get("index_columns", ())
        others = {target, *(name for name in index if isinstance(name, str))}
        features = tuple(name for name in self._numeric_names() if name not in others)
        if not features:
            fields = list(self.schema)[:_MAX_LISTED]
            types = ", ".join(f"{field.name!r} {field.type}" for field in fields)
            raise InvalidParameterError(
                f"{self.path} has no column of numbers that could be X; its columns "
                f"are {types or 'none'}. Encode them as numbers before."
            )
        return features

    def default_dtype(self, features: tuple[str, ...]) -> np.dtype[Any]:
        """Return the common type of some columns; see `Table.default_dtype`."""
        self._check_numeric(features)
        types = {self.schema.field(name).type.to_pandas_dtype() for name in features}
        return np.dtype(np.result_type(*types))

    def parts(self, selection: Selection) -> Iterator[Part]:
        """Read the file; see `Table.parts`."""
        self._check_numeric(selection.features)
        if selection.target is not None:
            type_ = self.schema.field(selection.target).type
            if not is_numeric(type_) and not is_text(type_):
                raise InvalidParameterError(
                    f"target={selection.target!r} of {self.path} is {type_}, which is "
                    "neither numbers nor text. Convert the column before."
                )
        n_rows = 0
        try:
            for batch, first_row, done_bytes, n_expected in self._batches(selection):
                n_rows = first_row + batch.num_rows
                yield Part(batch, first_row, done_bytes, n_expected)
                del batch  # so that none is kept while the next one is read
        except (self._pa.ArrowException, OSError) as error:
            raise FileFormatError(
                f"{self.path} cannot be read beyond row {n_rows}: {error}. It is "
                "damaged or was cut off; get it anew."
            ) from error

    def count_rows(self) -> int | None:
        """Count the rows from metadata; None if there is none."""
        return self.exact_rows

    def _numeric_names(self) -> list[str]:
        return [field.name for field in self.schema if is_numeric(field.type)]

    def _check_numeric(self, features: tuple[str, ...]) -> None:
        for name in features:
            type_ = self.schema.field(name).type
            if not is_numeric(type_):
                raise InvalidParameterError(
                    f"column {name!r} of {self.path} is {type_}, and X can only hold "
                    "numbers. Columns of numbers are "
                    f"{list_names(self._numeric_names())}; encode the others before, "
                    "or leave them out."
                )

    def _batch_rows(self, names: list[str]) -> int:
        row_bytes = 0
        for name in names:
            try:
                row_bytes += max(int(self.schema.field(name).type.bit_width) // 8, 1)
            except ValueError:
                row_bytes += _TEXT_BYTES
        return min(max(_BATCH_BYTES // row_bytes, 1), _MAX_BATCH_ROWS)

    @abstractmethod
    def _open(self) -> None:
        """Open the file and read its schema; errors of pyarrow are explained."""

    @abstractmethod
    def _batches(self, selection: Selection) -> Iterator[tuple[Any, int, int, int]]:
        """Yield a batch, its first row, how much was read, and rows to expect."""


class ParquetFile(TypedTable):
    """A parquet file, read a few columns at a time."""

    def _open(self) -> None:
        from pyarrow import parquet

        self._file = self._stack.enter_context(
            parquet.ParquetFile(
                self.path, buffer_size=_READ_AHEAD_BYTES, pre_buffer=False
            )
        )
        self.schema = self._file.schema_arrow
        metadata = self._file.metadata
        self.exact_rows = int(metadata.num_rows)
        groups = map(metadata.row_group, range(metadata.num_row_groups))
        self.row_group_rows = [group.num_rows for group in groups]

    def _batches(self, selection: Selection) -> Iterator[tuple[Any, int, int, int]]:
        n_rows = self.exact_rows or 0
        column_groups = self._column_groups(selection.names)
        n_done = first_row = 0
        for group, group_rows in enumerate(self.row_group_rows):
            for columns in column_groups:
                place = first_row
                for batch in self._file.iter_batches(
                    self._batch_rows(columns), row_groups=[group], columns=columns
                ):
                    n_done += batch.num_rows * len(columns)
                    n_values = max(n_rows * len(selection.names), 1)
                    yield batch, place, self.n_bytes * n_done // n_values, n_rows
                    place += batch.num_rows
                    del batch
                self._pa.default_memory_pool().release_unused()
            first_row += group_rows

    def _column_groups(self, names: list[str]) -> list[list[str]]:
        """Divide columns into groups that can be unpacked at the same time."""
        metadata = self._file.metadata
        costs: dict[str, int] = {}
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            for chunk in map(group.column, range(metadata.num_columns)):
                # What is unpacked, and the same again as a dictionary.
                cost = min(2 * chunk.total_uncompressed_size, _MAX_COLUMN_BYTES)
                name = chunk.path_in_schema
                costs[name] = max(costs.get(name, 0), cost)
        groups: list[list[str]] = [[]]
        n_bytes = 0
        for name in names:
            cost = costs.get(name, _MAX_COLUMN_BYTES)
            if groups[-1] and n_bytes + cost > _MAX_GROUP_BYTES:
                groups.append([])
                n_bytes = 0
            groups[-1].append(name)
            n_bytes += cost
        return groups


class ArrowFile(TypedTable):
    """An Arrow IPC file, which Feather version 2 is, or an Arrow stream.

    Batches that are not compressed are read where they lie; a compressed one is
    unpacked with all of its columns. (Leaving some out would make pyarrow copy those
    that are not compressed.)
    """

    def _open(self) -> None:
        ipc = self._pa.ipc
        self._source = self._stack.enter_context(self._pa.memory_map(self.path))
        self._is_stream = self._source.read(6) != b"ARROW1"
        self._open_reader = ipc.open_stream if self._is_stream else ipc.open_file
        self._source.seek(0)
        with self._open_reader(self._source) as reader:
            self.schema = reader.schema

    def count_rows(self) -> int | None:
        """Count the rows from metadata; None for streams, which have none."""
        if self._is_stream:
            return None
        self._source.seek(0)
        with self._open_reader(self._source) as reader:
            if hasattr(reader, "count_rows"):
                return int(reader.count_rows())
            # Older releases of pyarrow: compressed batches are unpacked for it.
            batches = map(reader.get_batch, range(reader.num_record_batches))
            return sum(int(batch.num_rows) for batch in batches)

    def _batches(self, selection: Selection) -> Iterator[tuple[Any, int, int, int]]:
        self._source.seek(0)
        names = selection.names
        n_done = 0
        step = self._batch_rows(names)
        with self._open_reader(self._source) as reader:
            for whole, done_bytes in self._record_batches(reader):
                first_row = n_done
                n_done += whole.num_rows
                expected = n_done * self.n_bytes // max(done_bytes, 1)
                for start in range(0, whole.num_rows, step):
                    part = whole.slice(start, step).select(names)
                    # Damaged sizes and offsets would end the process.
                    part.validate()
                    if selection.target is not None:
                        part.column(selection.target).validate(full=True)
                    yield part, first_row + start, done_bytes, expected
                    del part
                del whole

    def _record_batches(self, reader: Any) -> Iterator[tuple[Any, int]]:
        if self._is_stream:
            for batch in reader:
                yield batch, self._source.tell()
                del batch  # before the next one is read
            return
        n_batches = reader.num_record_batches
        for index in range(n_batches):
            yield reader.get_batch(index), self.n_bytes * (index + 1) // n_batches
