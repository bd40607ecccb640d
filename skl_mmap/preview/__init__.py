"""What folds would cost: the same plan as a worker's, not carried out."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skl_mmap.preview._file_folds import KFoldCosts, Layout, kfold_costs

if TYPE_CHECKING:
    from skl_mmap.preview._check_folds import check_folds
    from skl_mmap.preview._fold_report import Fold, FoldReport, FoldRows

__all__ = [
    "Fold",
    "FoldReport",
    "FoldRows",
    "KFoldCosts",
    "Layout",
    "check_folds",
    "kfold_costs",
]

# These need scikit-learn, and the command line imports this package without it.
_MODULES = {
    "Fold": "_fold_report",
    "FoldReport": "_fold_report",
    "FoldRows": "_fold_report",
    "check_folds": "_check_folds",
}


def __getattr__(name: str) -> Any:
    """Import what needs scikit-learn when it is first asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
