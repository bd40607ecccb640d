"""What a fresh process runs: one function, named by its parent."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

__all__ = ["work"]


def work(spec: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Call the function and return what it returns."""
    announce(spec["function"])
    module = importlib.import_module(spec["module"])
    result: dict[str, Any] = getattr(module, spec["function"])(**spec["arguments"])
    return result
