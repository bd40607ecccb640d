"""Which columns of a file become X, and which one becomes y."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from skl_mmap.exceptions import FileFormatError, InvalidParameterError

__all__ = ["Plan", "check_dtype", "choose_names", "list_names"]

_MAX_NAMES = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be read from a table.

    Attributes
    ----------
    features : tuple of str
        The columns of X, in order.
    target : str or None
        The column that becomes y.
    dtype : dtype
        Of X.
    is_text_target : bool
        Whether values of y that look like numbers are text nevertheless.
    """

    features: tuple[str, ...]
    target: str | None
    dtype: np.dtype[Any]
    is_text_target: bool = False

    @property
    def names(self) -> list[str]:
        """All columns that are needed."""
        return [*self.features, *([] if self.target is None else [self.target])]


def list_names(names: Iterable[str]) -> str:
    """Write some names for an error message, not all if they are many."""
    known = list(names)
    text = ", ".join(repr(name) for name in known[:_MAX_NAMES])
    n_more = len(known) - _MAX_NAMES
    return (text + (f" and {n_more} more" if n_more > 0 else "")) or "none"


def check_dtype(dtype: object) -> np.dtype[Any] | None:
    """Return the dtype asked for; None if it is left to the file.

    Raises
    ------
    InvalidParameterError
        If it is not a type of numbers.
    """
    if dtype is None:
        return None
    try:
        found: np.dtype[Any] | None = np.dtype(dtype)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if found is None or found.kind not in "biuf" or found.itemsize > 8:
        raise InvalidParameterError(
            f"dtype={dtype!r} is not a type that a file can be read as. Pass None, "
            "bool, or a type of integers or floating point numbers of up to 64 bits, "
            "such as 'float32'."
        )
    return found


def choose_names(
    path: str, known: Sequence[str], columns: object, target: object
) -> tuple[tuple[str, ...] | None, str | None]:
    """Check the names that the user gave against those of the file.

    Parameters
    ----------
    path : str
        The file, for error messages.
    known : sequence of str
        The names of its columns.
    columns : iterable of str or None
        What should become X.
    target : str or None
        What should become y.

    Returns
    -------
    features : tuple of str or None
        None if the user leaves the choice to the file.
    target : str or None
        The name of the target.

    Raises
    ------
    InvalidParameterError
        If a name is unknown, given twice, or not a text.
    FileFormatError
        If the file uses a name twice.
    """
    seen: set[str] = set()
    repeated = list(dict.fromkeys(n for n in known if n in seen or seen.add(n)))  # type: ignore[func-returns-value]
    if repeated:
        raise FileFormatError(
            f"{path} has more than one column named {list_names(repeated)}, so a name "
            "does not say which one is meant. Give every column a name of its own."
        )
    if target is not None:
        _check_name(path, known, target, "target")
    if columns is None:
        return None, target  # type: ignore[return-value]
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise InvalidParameterError(
            f"columns={columns!r} is not a list of names of columns of {path}. "
            f"Pass a list such as [{list_names(known[:2])}]."
        )
    features = list(columns)
    for name in features:
        _check_name(path, known, name, "columns")
    if not features or len(set(features)) < len(features):
        raise InvalidParameterError(
            f"columns={features!r} names no column, or one of them twice. Pass each "
            f"column that X should have once; {path} has {list_names(known)}."
        )
    if target in features:
        raise InvalidParameterError(
            f"target={target!r} is one of columns, so X would hold what is to be "
            "predicted. Take it out of columns."
        )
    return tuple(features), target  # type: ignore[return-value]


def _check_name(path: str, known: Sequence[str], name: object, parameter: str) -> None:
    if isinstance(name, str) and name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    hint = f"Did you mean {list_names(near)}?" if near else "Check the spelling."
    kind = "" if isinstance(name, str) else f" ({type(name).__name__}, not a text)"
    raise InvalidParameterError(
        f"{parameter}: {path} has no column {name!r}{kind}. {hint} Its {len(known)} "
        f"columns are {list_names(known)}."
    )
