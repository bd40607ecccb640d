"""How the methods of an estimator are called, and what they leave behind."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["call", "find_own_files", "find_views", "fits", "list_arrays"]

_FITTING = frozenset({"fit", "fit_predict", "fit_transform", "partial_fit"})
_WITH_TARGET = _FITTING | {"score"}
# Of all estimators, and therefore of none.
_BASES = (
    os.path.join("sklearn", "base.py"),
    os.path.join("sklearn", "utils", "_metadata_requests.py"),
    os.path.join("sklearn", "utils", "_set_output.py"),
    os.path.join("sklearn", "utils", "metaestimators.py"),
)
_MAX_DEPTH = 6
_MAX_ITEMS = 200
_MAX_VIEWS = 8
_POSITION = re.compile(r"\[\d+\]")


def fits(method: str) -> bool:
    """Whether a method makes a fitted estimator of one that is not."""
    return method in _FITTING


def call(estimator: Any, method: str, X: npt.NDArray[Any], y: Any) -> Any:
    """Call a method of an estimator with data, and with y if it takes one."""
    function = getattr(estimator, method)
    if method not in _WITH_TARGET or y is None:
        return function(X)
    if method == "partial_fit" and "classes" in inspect.signature(function).parameters:
        return function(X, y, classes=np.unique(y))
    return function(X, y)


def find_own_files(estimator: Any) -> frozenset[str]:
    """Return the files of the classes that an estimator and its parts are made of."""
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += estimator.get_params(deep=True).values()
    classes = {
        class_
        for part in parts
        if hasattr(part, "fit") and not isinstance(part, type)
        for class_ in type(part).__mro__
    }
    files = {_file_of(class_) for class_ in classes} - {""}
    return frozenset(file for file in files if not file.endswith(_BASES))


def _file_of(class_: type[Any]) -> str:
    try:
        return inspect.getfile(class_)
    except (TypeError, OSError):
        return ""


def list_arrays(value: Any) -> list[npt.NDArray[Any]]:
    """Return the arrays that a result is made of."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple | list):
        return [array for item in value[:_MAX_ITEMS] for array in list_arrays(item)]
    parts = (getattr(value, name, None) for name in ("data", "indices", "indptr"))
    return [part for part in parts if isinstance(part, np.ndarray)]


def find_views(estimator: Any, X: npt.NDArray[Any]) -> tuple[str, ...]:
    """Name the attributes of an estimator that share memory with X."""
    start = int(X.__array_interface__["data"][0])
    found = [
        path
        for path, array in _walk(estimator, "", 0, set())
        if start <= int(array.__array_interface__["data"][0]) < start + X.nbytes
    ]
    if len(found) > _MAX_VIEWS:
        # Those of every leaf of a tree, for example: once for all leaves.
        found = [_POSITION.sub("[...]", path) for path in found]
    return tuple(dict.fromkeys(found))


def _walk(
    value: Any, path: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield all arrays that can be reached, with the attributes that lead there."""
    if isinstance(value, np.ndarray):
        if value.size:
            yield path, value
        return
    if depth > _MAX_DEPTH or id(value) in seen or isinstance(value, str | bytes | type):
        return
    seen.add(id(value))
    items: Any = ()
    if isinstance(value, dict):
        items = ((f"{path}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, tuple | list):
        items = ((f"{path}[{i}]", item) for i, item in enumerate(value[:_MAX_ITEMS]))
    elif hasattr(value, "__dict__") and not callable(value):
        items = ((f"{path}.{name}".lstrip("."), v) for name, v in vars(value).items())
    elif type(value).__module__.startswith("sklearn."):
        # Trees of neighbours, written in C, show what they were made from.
        data = getattr(value, "data", None)
        if isinstance(data, np.ndarray | memoryview):
            items = [(f"{path}.data", np.asarray(data))]
    for name, item in items:
        yield from _walk(item, name, depth + 1, seen)
