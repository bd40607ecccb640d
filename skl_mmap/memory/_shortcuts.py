"""What numpy's functions and methods do with shared arrays: without a copy, or plainly.

Methods with a result of their own work on plain arrays, and so return these. Before
they do, and before functions of numpy do, a *shortcut* is tried, if there is one.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import PAGE_BYTES

# Methods that do not ask __array_wrap__.
_PLAIN_METHODS = (
    *("argmax", "argmin", "argpartition", "argsort", "astype", "choose", "compress"),
    *("copy", "cumprod", "cumsum", "dot", "flatten", "nonzero", "repeat", "round"),
    *("searchsorted", "take", "__copy__"),
)

_shortcuts: dict[Any, Callable[..., Any]] = {}


def shortcut(original: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Have shared arrays try a function before a function or method of numpy.

    Parameters
    ----------
    original : callable
        That of numpy. The new one has the same parameters, and returns what numpy
        would return, or None if numpy has to do it.
    """

    def register(function: Callable[..., Any]) -> Callable[..., Any]:
        _shortcuts[original] = function
        return function

    return register


def without_copy(original: Any, *args: Any, **kwargs: Any) -> Any:
    """Do the work of a function or method of numpy; None if there is no shortcut."""
    function = _shortcuts.get(original)
    return None if function is None else function(*args, **kwargs)


def add_plain_methods(class_: type[npt.NDArray[Any]]) -> None:
    """Give a class of arrays the methods that return plain ones."""
    for name in _PLAIN_METHODS:
        setattr(class_, name, _plain_method(name))


def _plain_method(name: str) -> Callable[..., Any]:
    plain = getattr(np.ndarray, name)

    def method(self: npt.NDArray[Any], *args: Any, **kwargs: Any) -> Any:
        if self.nbytes > PAGE_BYTES:  # for small ones, two calls more are many
            result = without_copy(plain, self, *args, **kwargs)
            if result is not None:
                return result
        return plain(self.view(np.ndarray), *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"As ``ndarray.{name}``; the result is a plain array or shared."
    return method
