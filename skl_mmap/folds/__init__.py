"""Folds whose rows can be mapped: page-friendly order, and data in fold order."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skl_mmap.folds._element_order import element_ordered_runs
from skl_mmap.folds._page_order import page_order, page_ordered_runs

if TYPE_CHECKING:
    from skl_mmap.folds._arrange import arrange
    from skl_mmap.folds._arranged_splits import ArrangedSplits
    from skl_mmap.folds._check_folds import check_folds
    from skl_mmap.folds._fold_report import Fold, FoldReport, FoldRows
    from skl_mmap.folds._page_friendly import PageFriendly

__all__ = [
    "ArrangedSplits",
    "Fold",
    "FoldReport",
    "FoldRows",
    "PageFriendly",
    "arrange",
    "check_folds",
    "element_ordered_runs",
    "page_order",
    "page_ordered_runs",
]

# These need scikit-learn, and the backend imports this package without it.
_MODULES = {
    "ArrangedSplits": "_arranged_splits",
    "Fold": "_fold_report",
    "FoldReport": "_fold_report",
    "FoldRows": "_fold_report",
    "PageFriendly": "_page_friendly",
    "arrange": "_arrange",
    "check_folds": "_check_folds",
}


def __getattr__(name: str) -> Any:
    """Import what needs scikit-learn when it is first asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
