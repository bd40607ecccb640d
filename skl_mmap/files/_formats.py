"""Format and contents of a file, found without reading all of it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skl_mmap.exceptions import (
    FileFormatError,
    InvalidParameterError,
    SklMmapError,
)
from skl_mmap.files._columns import is_numeric
from skl_mmap.files._csv import CsvFile
from skl_mmap.files._npy import read_npy_header
from skl_mmap.files._typed import ArrowFile, ParquetFile, TypedTable

_MAGIC = {
    b"\x93NUMPY": "npy",
    b"PAR1": "parquet",
    b"ARROW1": "arrow file",
    b"\xff\xff\xff\xff": "arrow stream",
}
_COMPRESSION_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
_REFUSED_MAGIC = {
    b"PK": "a zip archive (.npz, .xlsx): unpack it first",
    b"FEA1": "Feather version 1: write it anew with pyarrow.feather.write_feather",
    b"PARE": "encrypted parquet: write it without encryption",
    b"\xff\xfe": "UTF-16 text: write it as UTF-8",
    b"\xfe\xff": "UTF-16 text: write it as UTF-8",
}
_SUFFIXES = {
    **dict.fromkeys((".parquet", ".pq"), "parquet"),
    **dict.fromkeys((".arrow", ".arrows", ".ipc", ".feather"), "arrow"),
    ".npy": "npy",
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

    FileFormatError says that it is not what its name says, and InvalidParameterError
    that its format cannot be loaded.
    """
    with open(path, "rb") as file:
        head = file.read(8)
    for magic, name in _MAGIC.items():
        if head.startswith(magic):
            return FileFormat(name)
    suffixes = [suffix.lower() for suffix in Path(path).suffixes[-2:]]
    last = suffixes[-1] if suffixes else ""
    if last in _SUFFIXES:
        found = repr(head) if head else "nothing at all"
        raise FileFormatError(
            f"{path} is named like a file of the format {_SUFFIXES[last]}, but it "
            f"begins with {found}: it is damaged, empty, or something else. Write it "
            "anew, or give it the suffix of its real format."
        )
    for magic, what in _REFUSED_MAGIC.items():
        if head.startswith(magic):
            raise InvalidParameterError(f"{path} cannot be loaded: it is {what}.")
    if last in (".gz", ".bz2", ".zst"):
        suffixes.pop()
    if suffixes[-1:] != [".csv"]:
        raise InvalidParameterError(
            f"{path} has no format that can be loaded: it begins with {head!r}, and "
            "its name does not end in .csv. Formats are .npy, .csv (also .csv.gz, "
            ".csv.bz2, .csv.zst), .parquet, and .arrow, .ipc or .feather."
        )
    for magic, name in _COMPRESSION_MAGIC.items():
        if head.startswith(magic):
            return FileFormat("csv", name)
    return FileFormat("csv")


def open_table(path: str, format_: FileFormat) -> CsvFile | TypedTable:
    """Open a table of any format; its `names` are those of the columns.

    FileFormatError says that it is damaged, InvalidParameterError that pyarrow is
    missing.
    """
    if format_.name == "csv":
        return CsvFile(path, format_.compression)
    return ParquetFile(path) if format_.name == "parquet" else ArrowFile(path)


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What a file holds, and what `load` would make of it."""

    path: str
    format: str  # with the compression, if there is one
    file_bytes: int
    # X: where it begins in the file, if that is mapped, else in shared memory.
    shape: tuple[int, ...]
    item_type: np.dtype[Any]
    order: str = "C"
    offset: int = 0
    is_mapped_in_place: bool = False
    is_estimate: bool = False  # of the number of rows
    columns: tuple[tuple[str, str], ...] = ()  # name and type of each, in a table
    row_group_rows: tuple[int, ...] = ()
    note: str = ""  # why X cannot be made

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

    FileFormatError and InvalidParameterError are raised as by `load`.
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
        schema: Any
        n_rows: int | None
        dtype, note = np.dtype(np.float64), ""
        if isinstance(table, CsvFile):
            schema, n_rows, is_estimate = table.infer()
            numbers = (is_numeric(f.type) or str(f.type) == "null" for f in schema)
            n_features = sum(numbers)
        else:
            schema, n_rows, n_features = table.schema, table.count_rows(), 0
            is_estimate = n_rows is None
            if is_estimate:
                note = "a stream does not say how many rows it has"
            try:
                features = table.default_features(None)
                n_features, dtype = len(features), table.default_dtype(features)
            except SklMmapError as error:
                note = str(error)
        return FileInfo(
            name,
            ", ".join(filter(None, (format_.name, format_.compression))),
            file_bytes,
            (n_rows or 0, n_features),
            dtype,
            is_estimate=is_estimate,
            columns=tuple((field.name, str(field.type)) for field in schema),
            row_group_rows=tuple(table.row_group_rows),
            note=note,
        )
