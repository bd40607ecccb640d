"""Estimators by name: of a module, or of a file."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from skl_mmap.cli._errors import CommandError, ExitCode

__all__ = ["loading_estimator"]


@contextlib.contextmanager
def loading_estimator(reference: str) -> Iterator[Any]:
    """Load an estimator, and let its module be imported for as long as it is used.

    Parameters
    ----------
    reference : str
        ``package.module:name`` or ``path/to/file.py:name``; the name may have dots. A
        class, or a function without arguments, is called.

    Yields
    ------
    estimator
        An object with a method fit.

    Raises
    ------
    CommandError
        If there is no such object, or it is no estimator.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise CommandError(
            f"{reference!r} does not say where the estimator is. Pass module:name or "
            "file.py:name, such as sklearn.linear_model:Ridge.",
            ExitCode.USAGE,
        )
    is_file = place.endswith(".py") or os.sep in place
    # As Python does for a script, and for a module with -m.
    folder = str(Path(place).absolute().parent) if is_file else os.getcwd()
    before = list(sys.path)
    sys.path.insert(0, folder)
    try:
        module = _load_file(place) if is_file else _import(place)
        yield _make(module, place, name)
    finally:
        sys.path[:] = before


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise CommandError(
            f"the module {name!r} cannot be imported ({error}). Check its name; a file "
            "is named with its path and .py.",
            ExitCode.USAGE,
        ) from error


def _load_file(path: str) -> ModuleType:
    """Run a file as a module of its own name, so that ``__main__`` parts do not run."""
    if not Path(path).is_file():
        raise CommandError(
            f"there is no file {path!r} to take the estimator from. Check the path.",
            ExitCode.USAGE,
        )
    name = Path(path).stem
    if name in sys.modules:
        raise CommandError(
            f"{path!r} has the name of the module {name!r}, which is imported already, "
            "so that its classes could not be told apart. Give the file another name.",
            ExitCode.USAGE,
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(
            f"{path!r} is no Python file. Pass one that ends with .py.", ExitCode.USAGE
        )
    module = importlib.util.module_from_spec(spec)
    # Pickle looks for classes there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _make(module: ModuleType, place: str, name: str) -> Any:
    """Look up an object of a module, and call it if it makes estimators."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise CommandError(
                f"{place} has no {name!r}. Pass the name of an estimator, of its class "
                "or of a function that makes one.",
                ExitCode.USAGE,
            )
        found = getattr(found, part)
    if isinstance(found, type) or not hasattr(found, "fit"):
        found = _call(found, f"{place}:{name}")
    if not hasattr(found, "fit"):
        raise CommandError(
            f"{place}:{name} is of type {type(found).__name__}, which has no method "
            "fit. Pass the name of an estimator, of its class or of a function that "
            "makes one.",
            ExitCode.USAGE,
        )
    return found


def _call(make: Any, reference: str) -> Any:
    if not callable(make):
        return make
    try:
        return make()
    except TypeError as error:
        raise CommandError(
            f"{reference} cannot be called without arguments ({error}). Write a "
            "function without arguments that makes the estimator, and pass its name.",
            ExitCode.USAGE,
        ) from error
