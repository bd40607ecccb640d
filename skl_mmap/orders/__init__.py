"""Orders of rows in which folds can be mapped: page order, and data in fold order."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from skl_mmap.orders._page_order import (
    VECTOR_UNIT,
    order_runs,
    ordered_runs,
    page_order,
    rows_of_pages,
    size_of_rows,
)

if TYPE_CHECKING:
    from skl_mmap.orders._arrange import arrange
    from skl_mmap.orders._partition import PartitionCheck, find_partition
    from skl_mmap.orders._splitters import ArrangedSplits, PageFriendly

__all__ = [
    "VECTOR_UNIT",
    "ArrangedSplits",
    "PageFriendly",
    "PartitionCheck",
    "arrange",
    "find_partition",
    "order_runs",
    "ordered_runs",
    "page_order",
    "rows_of_pages",
    "size_of_rows",
]

# These need scikit-learn, and the backend imports this package without it.
_MODULES = {
    "ArrangedSplits": "_splitters",
    "PageFriendly": "_splitters",
    "PartitionCheck": "_partition",
    "arrange": "_arrange",
    "find_partition": "_partition",
}


def __getattr__(name: str) -> Any:
    """Import what needs scikit-learn when it is first asked for."""
    if name in _MODULES:
        return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
