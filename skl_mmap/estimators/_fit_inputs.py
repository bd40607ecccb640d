"""Arguments of `fit` and `predict`: files are loaded, data stays as it is."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from skl_mmap.files import find_format, load, load_column, open_table
from skl_mmap.memory import Placement

# The arguments with one value for each sample.
_VECTORS = ("y", "sample_weight")


def read_arguments(
    method: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    store: Any,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Load the arguments of an estimator's method that are files.

    X becomes a matrix, from a path or a tuple of a path and columns; ``y`` and
    ``sample_weight`` become vectors, from a path or a tuple of a path and a column. All
    others stay as they are. `store` is where tables that are read live.
    """
    if not any(map(_split_source, (*args, *kwargs.values()))):
        return tuple(args), dict(kwargs)
    names = [*inspect.signature(method).parameters][: len(args)]
    names += [""] * (len(args) - len(names))  # the method takes any number of them
    read = (_read(name, value, store) for name, value in zip(names, args, strict=True))
    named = {name: _read(name, value, store) for name, value in kwargs.items()}
    return tuple(read), named


def _read(name: str, value: Any, store: Any) -> Any:
    source = _split_source(value) if name in ("X", *_VECTORS) else None
    if source is None:
        return value
    path, columns = source
    if name in _VECTORS:
        return _read_vector(path, columns, store)
    columns = [columns] if isinstance(columns, str) else columns
    return load(path, columns=columns, store=store)


def _split_source(value: Any) -> tuple[str, Any] | None:
    """Return the path and the columns that a value names; None if it is data."""
    if isinstance(value, str | os.PathLike):
        return os.fspath(value), None
    if isinstance(value, tuple) and len(value) == 2:
        path, columns = value
        if isinstance(path, str | os.PathLike):
            return os.fspath(path), columns
    return None


def _read_vector(path: str, columns: Any, store: Any) -> Any:
    format_ = find_format(path)
    if columns is None and format_.is_table:
        with open_table(path, format_) as table:
            if len(table.names) == 1:
                columns = table.names[0]
    if isinstance(columns, str) and format_.is_table:
        return load_column(path, format_, columns, Placement.from_parameter(store))
    columns = [columns] if isinstance(columns, str | int) else columns
    values = load(path, columns=columns, as_frame=False, store=store)
    # Several columns are several outputs.
    return values[:, 0] if values.ndim == 2 and values.shape[1] == 1 else values
