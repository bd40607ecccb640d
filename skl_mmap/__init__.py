"""A joblib backend that shares X, y and their folds between workers instead of copying.

Importing this package registers the backend ``"mmap"`` with joblib, and nothing else::

    import skl_mmap
    from joblib import parallel_backend

    with parallel_backend("mmap", n_jobs=4):
        cross_val_score(est, X, y, cv=5)

Everything heavy (scikit-learn, loky, the backend itself) is imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import joblib

from skl_mmap import exceptions

if TYPE_CHECKING:
    from skl_mmap.backend import MmapBackend
    from skl_mmap.containers import share
    from skl_mmap.copies import CopyReport, assert_no_copy, check_copies
    from skl_mmap.estimators import Memmapped
    from skl_mmap.files import load
    from skl_mmap.memory import SharedArray
    from skl_mmap.monitor import Measurement
    from skl_mmap.orders import ArrangedSplits, PageFriendly, arrange, page_order
    from skl_mmap.preview import FoldReport, check_folds
    from skl_mmap.report import MemoryReport, measure

__version__ = "0.1.0.dev0"

__all__ = [
    "ArrangedSplits",
    "CopyReport",
    "FoldReport",
    "Measurement",
    "Memmapped",
    "MemoryReport",
    "PageFriendly",
    "SharedArray",
    "__version__",
    "arrange",
    "assert_no_copy",
    "check_copies",
    "check_folds",
    "exceptions",
    "load",
    "measure",
    "page_order",
    "share",
]

# Where each lazily imported name lives.
_MODULES = {
    "ArrangedSplits": "skl_mmap.orders",
    "CopyReport": "skl_mmap.copies",
    "FoldReport": "skl_mmap.preview",
    "Measurement": "skl_mmap.monitor",
    "Memmapped": "skl_mmap.estimators",
    "MemoryReport": "skl_mmap.report",
    "PageFriendly": "skl_mmap.orders",
    "SharedArray": "skl_mmap.memory",
    "arrange": "skl_mmap.orders",
    "assert_no_copy": "skl_mmap.copies",
    "check_copies": "skl_mmap.copies",
    "check_folds": "skl_mmap.preview",
    "load": "skl_mmap.files",
    "measure": "skl_mmap.report",
    "page_order": "skl_mmap.orders",
    "share": "skl_mmap.containers",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for (PEP 562)."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Names in the module, including those not imported yet."""
    return sorted({*globals(), *__all__})


def _make_backend(**parameters: Any) -> MmapBackend:
    """Make the backend for joblib, which calls this each time "mmap" is asked for."""
    from skl_mmap.backend import MmapBackend

    return MmapBackend(**parameters)


joblib.register_parallel_backend("mmap", _make_backend)
