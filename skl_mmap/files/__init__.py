"""Files of users: mapped where they lie, or read into shared memory."""

from __future__ import annotations

from skl_mmap.files._formats import FileInfo, file_info, find_format, open_table
from skl_mmap.files._load import load, load_column

__all__ = [
    "FileInfo",
    "file_info",
    "find_format",
    "load",
    "load_column",
    "open_table",
]
