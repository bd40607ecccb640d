"""The names of a task's arguments."""

from __future__ import annotations

import functools
import inspect
import types
from collections.abc import Callable
from typing import Any


def position_of(function: Callable[..., Any], name: str) -> int | None:
    """Return the place of a parameter; None if there is none of this name."""
    try:
        return names_of(function).index(name)
    except (ValueError, TypeError):  # no such name, no signature, or not hashable
        return None


def names_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """Return the names of a function's parameters, in order."""
    # scikit-learn wraps the function anew for each task; the cache is on what lies
    # within, and only on functions: it must not keep objects, and their data, alive.
    function = inspect.unwrap(function)
    if isinstance(function, types.FunctionType):
        return _names_of_plain(function)
    return tuple(inspect.signature(function).parameters)


@functools.lru_cache(maxsize=256)
def _names_of_plain(function: types.FunctionType) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
