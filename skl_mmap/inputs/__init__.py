"""What users have: arrays, files, data frames and sparse matrices."""

from __future__ import annotations

from skl_mmap.inputs._load import load
from skl_mmap.inputs._share import share

__all__ = ["load", "share"]
