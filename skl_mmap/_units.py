"""Sizes in bytes: as text for people, and from text that people write."""

from __future__ import annotations

import operator
import re
from typing import SupportsIndex

from skl_mmap.exceptions import InvalidParameterError

_STEP = 1024
_PREFIXES = ("B", "KiB", "MiB", "GiB", "TiB")
_TEXT = re.compile(r"\s*(\d+(?:\.\d*)?)\s*([kmgt]?)(?:i?b)?\s*", re.IGNORECASE)


def format_bytes(n_bytes: float) -> str:
    """Write a size with a binary unit.

    Parameters
    ----------
    n_bytes : float
        Size in bytes; may be negative, for differences.

    Returns
    -------
    str
        Three significant digits or so, with the unit.

    Examples
    --------
    >>> format_bytes(400_000_000)
    '381.5 MiB'
    >>> format_bytes(12)
    '12 B'
    """
    size = float(n_bytes)
    for prefix in _PREFIXES[:-1]:
        if abs(size) < _STEP:
            break
        size /= _STEP
    else:
        prefix = _PREFIXES[-1]
    return f"{size:.0f} {prefix}" if prefix == "B" else f"{size:.1f} {prefix}"


def parse_bytes(value: object, *, name: str) -> int:
    """Read a size that a person wrote.

    Parameters
    ----------
    value : int or str
        Bytes, or text such as ``"1M"``, ``"1.5 GiB"`` (units of 1024, as joblib's).
    name : str
        The parameter it came from, for the error message.

    Returns
    -------
    int
        Bytes, never negative.

    Raises
    ------
    InvalidParameterError
        If the value is not a size.

    Examples
    --------
    >>> parse_bytes("1M", name="min_bytes")
    1048576
    """
    if isinstance(value, SupportsIndex) and not isinstance(value, bool):
        if (n_bytes := operator.index(value)) >= 0:
            return n_bytes
    elif isinstance(value, str) and (match := _TEXT.fullmatch(value)):
        power = "BKMGT".index(match[2].upper() or "B")
        return int(float(match[1]) * _STEP**power)
    raise InvalidParameterError(
        f"{name}={value!r} is not a size in bytes. "
        f"Pass a whole number of bytes, or text such as '1M' or '2.5 GiB'."
    )
