"""What users have in memory: arrays, data frames and sparse matrices."""

from __future__ import annotations

from skl_mmap.inputs._share import share

__all__ = ["share"]
