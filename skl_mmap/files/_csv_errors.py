"""Find the value that pyarrow could not parse, and say where it is.

Only after an error, and in one slice of the file: line by line, with Python's own
parser. pyarrow does not say in which line it was when it uses several threads.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from skl_mmap.files._columns import Plan

__all__ = ["explain", "find_line"]

_MAX_TEXT = 60


def find_line(data: memoryview, first_line: int, row: int) -> int:
    """Return the number of the line of a row: empty lines are no rows."""
    for place, (line, _) in enumerate(_lines(data, first_line)):
        if place == row:
            return line
    return first_line


def explain(
    data: memoryview,
    first_line: int,
    names: Sequence[str],
    plan: Plan,
) -> str | None:
    """Say which line and column cannot be read, what is there and what to do.

    Returns
    -------
    str or None
        None if everything looks right.
    """
    from pyarrow import csv as arrow_csv

    null_values = set(arrow_csv.ConvertOptions().null_values)
    places = [(names.index(name), name) for name in plan.features]
    for line, text in _lines(data, first_line):
        fields = next(csv.reader([text]))
        if len(fields) != len(names):
            return (
                f"line {line}: {len(fields)} values, {_shorten(text)}, and the header "
                f"names {len(names)} columns. Every line needs one value for each; "
                "quote values that have commas in them."
            )
        for place, name in places:
            value = fields[place]
            if value in null_values or _can_parse(value, plan.dtype):
                continue
            return (
                f"line {line}: column {name!r} has {_shorten(value)} there, which is "
                f"no {plan.dtype}, and all of X has one type. Leave the column out "
                "with columns=, make it the target=, encode it as numbers before, or "
                "pass another dtype."
            )
    return None


def _lines(data: memoryview, first_line: int) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(bytes(data).split(b"\n"), start=first_line):
        if text := line.rstrip(b"\r"):
            yield number, text.decode("utf-8", "replace")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= _MAX_TEXT else text[:_MAX_TEXT] + "...")


def _can_parse(text: str, dtype: np.dtype[Any]) -> bool:
    """Whether pyarrow reads a text as a number of this type."""
    text = text.strip(" \t")
    if dtype.kind == "b":
        return text in ("0", "1") or text.lower() in ("true", "false")
    if "_" in text:
        return False
    try:
        if dtype.kind == "f":
            float(text)
            return True
        limits = np.iinfo(dtype)
        return limits.min <= int(text) <= limits.max
    except ValueError:
        return False
