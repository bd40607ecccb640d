"""What a file holds, from its header and metadata alone."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from skl_mmap.exceptions import SklMmapError
from skl_mmap.files._csv import CsvFile
from skl_mmap.files._formats import find_format
from skl_mmap.files._load import open_table
from skl_mmap.files._npy import read_npy_header

__all__ = ["FileInfo", "describe_file"]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file holds, and what `load` would make of it.

    Attributes
    ----------
    path : str
        The file.
    format : str
        Its format, with the compression if there is one.
    file_bytes : int
        Size of the file.
    shape : tuple of int
        Of X.
    item_type : dtype
        Of X.
    order : {"C", "F"}
        Of X.
    offset : int
        Where X begins: in the file if that is mapped, else in shared memory.
    is_mapped_in_place : bool
        Whether the file is mapped, not read.
    is_estimate : bool
        Whether the number of rows is an estimate.
    columns : tuple of (str, str)
        Names and types of all columns of a table.
    row_group_rows : tuple of int
        Rows of the row groups of a parquet file.
    note : str
        Why X cannot be made, or ``""``.
    """

    path: str
    format: str
    file_bytes: int
    shape: tuple[int, ...]
    item_type: np.dtype[Any]
    order: str = "C"
    offset: int = 0
    is_mapped_in_place: bool = False
    is_estimate: bool = False
    columns: tuple[tuple[str, str], ...] = ()
    row_group_rows: tuple[int, ...] = field(default=())
    note: str = ""

    @property
    def data_bytes(self) -> int:
        """Bytes of X."""
        return int(np.prod(self.shape, dtype=object)) * self.item_type.itemsize

    @property
    def dtype(self) -> str:
        """What to call the type: with the byte order, where that is the file's."""
        if self.item_type.names is not None:
            return str(self.item_type)
        return self.item_type.str if self.is_mapped_in_place else self.item_type.name


def describe_file(path: str | os.PathLike[str]) -> FileInfo:
    """Describe a file that `load` can read.

    Parameters
    ----------
    path : str or path-like
        The file.

    Returns
    -------
    FileInfo
        From header and metadata; of CSV, from the first MB.

    Raises
    ------
    OSError
        If the file cannot be opened.
    FileFormatError, InvalidParameterError
        If it is damaged, or has a format that cannot be loaded.
    """
    name = os.fspath(path)
    format_ = find_format(name)
    file_bytes = os.stat(name).st_size
    if format_.name == "npy":
        header = read_npy_header(name)
        return FileInfo(
            name,
            "npy",
            file_bytes,
            header.shape,
            header.dtype,
            header.order,
            header.offset,
            is_mapped_in_place=True,
            note="it holds Python objects" if header.dtype.hasobject else "",
        )
    with open_table(name, format_) as table:
        if isinstance(table, CsvFile):
            return _describe_csv(table, format_.compression)
        columns = tuple((f.name, str(f.type)) for f in table.schema)
        note = ""
        n_features, dtype = 0, np.dtype(np.float64)
        try:
            features = table.default_features(None)
            n_features, dtype = len(features), table.default_dtype(features)
        except SklMmapError as error:
            note = str(error)
        n_rows = table.count_rows()
        return FileInfo(
            name,
            format_.name,
            file_bytes,
            (n_rows or 0, n_features),
            dtype,
            is_estimate=n_rows is None,
            columns=columns,
            row_group_rows=tuple(table.row_group_rows),
            note=note or ("" if n_rows is not None else _STREAM_NOTE),
        )


_STREAM_NOTE = "a stream does not say how many rows it has"


def _describe_csv(table: CsvFile, compression: str | None) -> FileInfo:
    types, n_rows = table.infer()
    numbers = [t for t in types.values() if t in ("int64", "double", "null", "bool")]
    return FileInfo(
        table.path,
        "csv" + (f", {compression}" if compression else ""),
        table.n_bytes,
        (n_rows, len(numbers)),
        np.dtype(np.float64),
        is_estimate=not table.is_read,
        columns=tuple(types.items()),
    )
