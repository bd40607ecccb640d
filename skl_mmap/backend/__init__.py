"""The joblib backend "mmap": workers that share arrays and map folds."""

# First, because it sees to it that the import of loky does no harm to joblib.
import skl_mmap.backend._pool  # noqa: F401
from skl_mmap.backend._backend import MmapBackend
from skl_mmap.backend._labels import label_fold

__all__ = ["MmapBackend", "label_fold"]
