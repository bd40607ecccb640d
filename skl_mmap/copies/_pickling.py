"""Pickle an estimator for a new interpreter, which may not find its classes."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import cloudpickle

__all__ = ["pickle_estimator"]


def pickle_estimator(estimator: Any) -> bytes:
    """Pickle an estimator.

    Parameters
    ----------
    estimator : estimator
        Its class, and those of its parameters, may be defined anywhere.

    Returns
    -------
    bytes
        Classes and functions that a new interpreter with this ``sys.path`` cannot
        import, of a test module for example, are in it by value.
    """
    with contextlib.ExitStack() as stack:
        for module in _find_modules(estimator):
            if not _is_importable(module):
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        data: bytes = cloudpickle.dumps(estimator)
    return data


def _find_modules(estimator: Any) -> Iterator[ModuleType]:
    """Return the modules of an estimator's classes and of its parameters."""
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += estimator.get_params(deep=True).values()
    names: dict[str, None] = {}
    for part in parts:
        classes = () if isinstance(part, type) else type(part).__mro__
        for item in (*classes, part):
            name = getattr(item, "__module__", None)
            if isinstance(name, str):
                names[name] = None
    for name in names:
        module = sys.modules.get(name)
        is_known = name in cloudpickle.list_registry_pickle_by_value()
        if module is not None and name not in ("__main__", "builtins") and not is_known:
            yield module


def _is_importable(module: ModuleType) -> bool:
    """Whether the finders lead to this module, whatever is imported already."""
    file = getattr(module, "__file__", None)
    if file is None:
        return True
    path: Any = None
    spec: Any = None
    parts = module.__name__.split(".")
    for n_parts in range(1, len(parts) + 1):
        name = ".".join(parts[:n_parts])
        for finder in sys.meta_path:
            with contextlib.suppress(ImportError, AttributeError):
                spec = finder.find_spec(name, path, None)
                if spec is not None:
                    break
        if spec is None:
            return False
        path = spec.submodule_search_locations
        if path is None and n_parts < len(parts):
            return False
    return bool(spec.origin == file)
