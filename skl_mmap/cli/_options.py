"""Types of command line options: text in, value or a clear error out."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass

from skl_mmap._units import parse_bytes
from skl_mmap.exceptions import InvalidParameterError

__all__ = [
    "Size",
    "add_backend_options",
    "add_job_options",
    "choices",
    "integer",
    "number",
    "own_parameters",
    "size",
]

# Options of the backend "mmap": their values, the first one the default, and what for.
_BACKEND_OPTIONS = {
    "row_order": (
        ("exact", "any"),
        "of train rows under mmap: as in other backends, or what saves most memory",
    ),
    "layouts": (
        ("given", "auto"),
        "of X under mmap: as it is, or one converted copy for all that need it",
    ),
}


@dataclass(frozen=True, slots=True)
class Size:
    """A number of rows, given as such or as the bytes that they take.

    Attributes
    ----------
    count : int
        The number given.
    is_bytes : bool
        Whether it counts bytes, not rows.
    """

    count: int
    is_bytes: bool = False

    def to_rows(self, row_bytes: int) -> int:
        """Return the number of rows of `row_bytes` each; bytes are rounded down."""
        return self.count // row_bytes if self.is_bytes else self.count


def size(text: str) -> Size:
    """Read a size: a plain number counts rows, a number with a unit bytes.

    Examples
    --------
    >>> size("20000")
    Size(count=20000, is_bytes=False)
    >>> size("400MB").to_rows(row_bytes=400)
    1048576
    """
    try:
        if text.strip().isdecimal():
            return Size(int(text))
        return Size(parse_bytes(text, name="size"), is_bytes=True)
    except InvalidParameterError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a number of rows nor a size in bytes. "
            "Pass rows, such as 1000000, or bytes with a unit, such as 400MB."
        ) from None


def integer(*, at_least: int) -> Callable[[str], int]:
    """Make a type for whole numbers with a lower bound."""

    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = at_least - 1
        if number < at_least:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a whole number of at least {at_least}."
            )
        return number

    return read


def number(*, at_least: float) -> Callable[[str], float]:
    """Make a type for finite numbers with a lower bound."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        if not at_least <= value < math.inf:
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a number of at least {at_least:g}."
            )
        return value

    return read


def add_job_options(
    parser: argparse.ArgumentParser, *, n_jobs_help: str = "number of workers"
) -> None:
    """Add ``--n-jobs`` and ``--n-splits``."""
    for name, least, default, text in (
        ("--n-jobs", 1, 4, n_jobs_help),
        ("--n-splits", 2, 5, "number of folds"),
    ):
        parser.add_argument(
            name,
            type=integer(at_least=least),
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )


def add_backend_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--row-order`` and ``--layouts``."""
    for name, (values, text) in _BACKEND_OPTIONS.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            choices=values,
            default=values[0],
            help=f"{text} (default: {values[0]})",
        )


def own_parameters(arguments: argparse.Namespace) -> dict[str, str]:
    """Return what was asked of the backend "mmap" that is not its default."""
    return {
        name: getattr(arguments, name)
        for name, (values, _) in _BACKEND_OPTIONS.items()
        if getattr(arguments, name) != values[0]
    }


def choices(known: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    """Make a type for a comma-separated list of known words, each at most once.

    Examples
    --------
    >>> choices(("loky", "mmap"))("mmap,loky")
    ('mmap', 'loky')
    """

    def read(text: str) -> tuple[str, ...]:
        words = tuple(word.strip() for word in text.split(","))
        unknown = [word for word in words if word not in known]
        if unknown:
            raise argparse.ArgumentTypeError(
                f"{unknown[0]!r} in {text!r} is none of {', '.join(known)}."
            )
        if len(set(words)) < len(words):
            raise argparse.ArgumentTypeError(f"{text!r} names one of them twice.")
        return words

    return read
