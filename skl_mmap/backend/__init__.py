"""The joblib backend "mmap": workers that share arrays and map folds."""

# First, because it sees to it that the import of loky does no harm to joblib.
import skl_mmap.backend._pool  # noqa: F401
from skl_mmap.backend._backend import MmapBackend
from skl_mmap.backend._fork_server import set_variables
from skl_mmap.backend._indices import compact_item
from skl_mmap.backend._layouts import InLayout
from skl_mmap.backend._observation import label_fold, name_estimator
from skl_mmap.backend._options import Options
from skl_mmap.backend._pickling import TaskPickler
from skl_mmap.backend._row_index import RowIndex

__all__ = [
    "InLayout",
    "MmapBackend",
    "Options",
    "RowIndex",
    "TaskPickler",
    "compact_item",
    "label_fold",
    "name_estimator",
    "set_variables",
]
