"""Which format a file has: its first bytes decide, then its name."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skl_mmap.exceptions import FileFormatError, InvalidParameterError

__all__ = ["FileFormat", "find_format", "import_pyarrow"]

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
    """The format of a file.

    Attributes
    ----------
    name : {"npy", "csv", "parquet", "arrow file", "arrow stream"}
        What it is.
    compression : str or None
        How all of the file is compressed; only for CSV.
    """

    name: str
    compression: str | None = None

    @property
    def is_table(self) -> bool:
        """Whether the columns have names."""
        return self.name != "npy"


def find_format(path: str) -> FileFormat:
    """Find the format of a file.

    Parameters
    ----------
    path : str
        An existing file.

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


def import_pyarrow(path: str | os.PathLike[str]) -> Any:
    """Return the module pyarrow.

    Raises
    ------
    InvalidParameterError
        If it is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise InvalidParameterError(
            f"{os.fspath(path)!r} is a table, and pyarrow, which reads tables, is not "
            "installed. Run pip install 'skl-mmap[tables]', or save the data as .npy."
        ) from None
    return pyarrow
