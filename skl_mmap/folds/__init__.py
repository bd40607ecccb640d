"""Folds whose rows can be mapped: page-friendly order, and a splitter that uses it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from skl_mmap.folds._page_order import page_order, page_ordered_runs

if TYPE_CHECKING:
    from skl_mmap.folds._page_friendly import PageFriendly

__all__ = ["PageFriendly", "page_order", "page_ordered_runs"]


def __getattr__(name: str) -> Any:
    # The splitter is the only part that needs scikit-learn, and the backend imports
    # this package without it.
    if name == "PageFriendly":
        from skl_mmap.folds._page_friendly import PageFriendly

        return PageFriendly
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
