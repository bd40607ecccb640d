"""Files of users: mapped where they lie, or read into shared memory."""

from __future__ import annotations

from skl_mmap.files._file_info import FileInfo, describe_file
from skl_mmap.files._formats import find_format
from skl_mmap.files._load import load, open_table
from skl_mmap.files._load_column import load_column

__all__ = [
    "FileInfo",
    "describe_file",
    "find_format",
    "load",
    "load_column",
    "open_table",
]
