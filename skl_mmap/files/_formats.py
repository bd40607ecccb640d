"""Format and contents of a file, found without reading all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from skl_mmap.exceptions import (
    FileFormatError,
    InvalidParameterError,
    SklMmapError,
)
from skl_mmap.files._csv import CsvFile
from skl_mmap.files._npy import read_npy_header
from skl_mmap.files._typed import ArrowFile, ParquetFile, TypedTable

_MAGIC_BYTES = 8
_MAGIC = {
    b"\x93NUMPY": "npy",
    b"PAR1": "parquet",
    b"ARROW1": "arrow file",
    b"\xff\xff\xff\xff": "arrow stream",
}
_COMPRESSION_MAGIC = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bz2",
    b"\x28\xb5\x2f\xfd": "zstd",
}
_COMPRESSION_SUFFIXES = (".gz", ".bz2", ".zst")
_REFUSED_MAGIC = {
    b"PK": "a zip archive (.npz, .xlsx): unpack it first",
    b"FEA1": "Feather version 1: write it anew with pyarrow.feather.write_feather",
    b"PARE": "encrypted parquet: write it without encryption",
    b"\xff\xfe": "UTF-16 text: write it as UTF-8",
    b"\xfe\xff": "UTF-16 text: write it as UTF-8",
}
_SUFFIXES = {
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".arrows", ".ipc", ".feather"),
    "npy": (".npy",),
}


@dataclass(frozen=True, slots=True)
class FileFormat:
    """The format of a file, and how all of it is compressed (only CSV may be)."""

    # "npy", "csv", "parquet", "arrow file" or "arrow stream"
    name: str
    compression: str | None = None

    @property
    def is_table(self) -> bool:
        """Tell if the columns have names."""
        return self.name != "npy"


def find_format(path: str) -> FileFormat:
    """Find the format of a file: its first bytes decide, then its name.

    Raises
    ------
    OSError
        If it cannot be read.
    FileFormatError
        If the file is not what its name says.
    InvalidParameterError
        If it has a format that cannot be loaded.
    """
    with open(path, "rb") as file:
        head = file.read(_MAGIC_BYTES)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return FileFormat(name)
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    for name, known in _SUFFIXES.items():
        if last in known:
            found = repr(head) if head else "nothing at all"
            raise FileFormatError(
                f"{path} is named like a file of the format {name}, but it begins "
                f"with {found}: it is damaged, empty, or something else. Write it "
                "anew, or give it the suffix of its real format."
            )
    for magic, what in _REFUSED_MAGIC.items():
        if head.startswith(magic):
            raise InvalidParameterError(f"{path} cannot be loaded: it is {what}.")
    compression = None
    for magic, name in _COMPRESSION_MAGIC.items():
        if head.startswith(magic):
            compression = name
    if last in _COMPRESSION_SUFFIXES:
        suffixes.pop()
    if not suffixes or suffixes[-1] != ".csv":
        raise InvalidParameterError(
            f"{path} has no format that can be loaded: it begins with {head!r}, and "
            "its name does not end in .csv. Formats are .npy, .csv (also .csv.gz, "
            ".csv.bz2, .csv.zst), .parquet, and .arrow, .ipc or .feather."
        )
    return FileFormat("csv", compression)


def open_table(path: str, format_: FileFormat) -> CsvFile | TypedTable:
    """Open a table of any format; its `names` are those of the columns.

    Raises
    ------
    FileFormatError
        If it is damaged.
    InvalidParameterError
        If pyarrow is missing.
    """
    if format_.name == "csv":
        return CsvFile(path, format_.compression)
    return ParquetFile(path) if format_.name == "parquet" else ArrowFile(path)


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
    row_group_rows: tuple[int, ...] = ()
    note: str = ""

    @property
    def data_bytes(self) -> int:
        """Bytes of X."""
        return int(np.prod(self.shape, dtype=object)) * self.item_type.itemsize

    @property
    def dtype(self) -> str:
        """Name of the type, with the byte order where that is the file's."""
        if self.item_type.names is not None:
            return str(self.item_type)
        return self.item_type.str if self.is_mapped_in_place else self.item_type.name


def file_info(path: str | os.PathLike[str]) -> FileInfo:
    """Say what a file holds, from header and metadata; of CSV, from the first MB.

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
    if not format_.is_table:
        header = read_npy_header(name)
        return FileInfo(
            name,
            format_.name,
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
            return _csv_info(table, format_)
        info = FileInfo(
            name,
            format_.name,
            file_bytes,
            (0, 0),
            np.dtype(np.float64),
            columns=tuple((field.name, str(field.type)) for field in table.schema),
            row_group_rows=tuple(table.row_group_rows),
        )
        n_rows = table.count_rows()
        if n_rows is None:
            note = "a stream does not say how many rows it has"
            info = replace(info, is_estimate=True, note=note)
        try:
            features = table.default_features(None)
        except SklMmapError as error:
            return replace(info, shape=(n_rows or 0, 0), note=str(error))
        dtype = table.default_dtype(features)
        return replace(info, shape=(n_rows or 0, len(features)), item_type=dtype)


def _csv_info(table: CsvFile, format_: FileFormat) -> FileInfo:
    types, n_rows, is_estimate = table.infer()
    numbers = [t for t in types.values() if t in ("int64", "double", "null", "bool")]
    return FileInfo(
        table.path,
        "csv" + (f", {format_.compression}" if format_.compression else ""),
        table.n_bytes,
        (n_rows, len(numbers)),
        np.dtype(np.float64),
        is_estimate=is_estimate,
        columns=tuple(types.items()),
    )
