"""The joblib backend "mmap": workers that share arrays and map folds."""

from skl_mmap.backend._backend import MmapBackend

__all__ = ["MmapBackend"]
