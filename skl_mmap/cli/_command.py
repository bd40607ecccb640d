"""What all subcommands share: exit codes, errors, and options with their types."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from enum import IntEnum
from typing import Any

from skl_mmap._units import parse_bytes
from skl_mmap.exceptions import (
    CopyError,
    FileFormatError,
    InvalidParameterError,
    SklMmapError,
)


class ExitCode(IntEnum):
    """Exit codes of every subcommand.

    A shell adds 128 to the number of a signal: 130 is Ctrl-C, 141 a closed pipe.
    """

    OK = 0
    CHECK_FAILED = 1
    USAGE = 2
    CANNOT_RUN = 3
    INTERRUPTED = 130
    BROKEN_PIPE = 141


# The one table of exit codes: --help is made from it, and a test compares the how-to
# with it and runs a case for each row.
MEANINGS = {
    0: "done, and every check held",
    1: "a check failed: results differ between backends, X is copied, a method fails",
    2: "an option or a file cannot be used",
    3: "cannot run: a missing package, too little memory, a process that died",
    130: "interrupted (Ctrl-C)",
    141: "nobody reads the output any more",
}
_COMPARING = {1: "scores differ that have to be equal", 2: "an option cannot be used"}
_NO_PACKAGE = "cannot run: a missing package"
# How a subcommand puts it. What has an empty text cannot happen to it.
_PARTICULAR: dict[str, dict[int, str]] = {
    "demo": _COMPARING,
    "bench": _COMPARING,
    "info": {0: "done", 1: "", 3: _NO_PACKAGE},
    "run": {
        0: "with --compare: both runs ended with 0, and wrote the same to stdout",
        1: "with --compare: the outputs differ; or the script has a syntax error",
        2: "an option cannot be used, or there is no such script",
        3: "cannot run: the memory cannot be measured, a report cannot be written",
    },
    "check": {
        0: "done",
        1: "a method failed, or copies more often than --max-copies allows",
        2: "an option, a file or the estimator cannot be used",
        3: f"{_NO_PACKAGE}, or nothing can be measured",
    },
    "completion": {0: "done", 1: "", 2: "there is no such shell", 3: _NO_PACKAGE},
}
_RUN_PASSES_THROUGH = """\
  the script's own, or 128 and the number of the signal that has ended it: 137 for
  SIGKILL, which is often the kernel's answer to too little memory; and
"""


def list_exit_codes(subcommand: str = "") -> str:
    """Write the part of ``--help`` about exit codes, of all subcommands or of one."""
    meanings = {**MEANINGS, **_PARTICULAR.get(subcommand, {})}
    rows = "\n".join(f"  {code:<4} {text}" for code, text in meanings.items() if text)
    own = _RUN_PASSES_THROUGH if subcommand == "run" else ""
    return f"exit codes:\n{own}{rows}\n"


class CommandError(SklMmapError, RuntimeError):
    """A command cannot go on; says what was found, why it matters, what to do."""


class UsageError(CommandError):
    """An option, a file or a name that was given cannot be used."""


class CheckFailedError(CommandError):
    """What was to be checked does not hold."""


def exit_code_of(error: SklMmapError) -> ExitCode:
    """Return the exit code of an error that has ended a subcommand."""
    if isinstance(error, CheckFailedError | CopyError):
        return ExitCode.CHECK_FAILED
    if isinstance(error, UsageError):
        return ExitCode.USAGE
    # Files of some formats cannot be used, and options neither, for want of a package.
    is_package_missing = isinstance(error.__context__, ImportError)
    is_usage = isinstance(error, InvalidParameterError | FileFormatError)
    if is_usage and not is_package_missing:
        return ExitCode.USAGE
    return ExitCode.CANNOT_RUN


def refuse_unreadable(path: str, error: OSError) -> SklMmapError:
    """Return the error to raise for a file that the system does not let one read."""
    if isinstance(error, SklMmapError):
        return error  # no room on the disk for what is read
    return UsageError(
        f"{error.filename or path} cannot be read ({error.strerror or error}). "
        "Check the path and its permissions."
    )


class Parser(argparse.ArgumentParser):
    """The parser of the whole command line, and of each subcommand."""

    _subcommands: Any = None

    def add_subcommand(
        self, name: str, run: Callable[[argparse.Namespace], int], **texts: str
    ) -> Parser:
        """Add a subcommand; `texts` are its help, description and usage."""
        if self._subcommands is None:
            self._subcommands = self.add_subparsers(
                title="subcommands",
                dest="subcommand",
                metavar="SUBCOMMAND",
                required=True,
            )
        parser: Parser = self._subcommands.add_parser(
            name,
            epilog=list_exit_codes(name),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            **texts,
        )
        parser.set_defaults(run=run)
        return parser

    def add_integer(
        self, name: str, least: int, default: int | None, text: str
    ) -> None:
        """Add an option for a whole number with a lower bound."""
        self.add_argument(
            name,
            type=number(int, at_least=least),
            default=default,
            metavar="N",
            help=text if default is None else f"{text} (default: {default})",
        )

    def add_choice(self, name: str, values: tuple[str, ...], text: str) -> None:
        """Add an option that has one of some values, the first one by default."""
        text = f"{text} (default: {values[0]})"
        self.add_argument(name, choices=values, default=values[0], help=text)

    def add_list(self, name: str, known: tuple[str, ...], text: str) -> None:
        """Add an option for a list of known words, all of them by default."""
        self.add_argument(
            name,
            type=choices(known),
            default=known,
            metavar="NAMES",
            help=f"{text}, comma-separated (default: {','.join(known)})",
        )

    def add_json(self, instead_of: str = "text") -> None:
        """Add ``--json``."""
        text = f"write JSON to stdout instead of {instead_of}"
        self.add_argument("--json", action="store_true", help=text)

    def add_job_options(self, n_jobs_help: str = "number of workers") -> None:
        """Add ``--n-jobs`` and ``--n-splits``."""
        self.add_integer("--n-jobs", 1, 4, n_jobs_help)
        self.add_integer("--n-splits", 2, 5, "number of folds")


def rows_or_bytes(*, row_bytes: int) -> Callable[[str], int]:
    """Make a type for rows: a plain number counts them, one with a unit their bytes.

    Examples
    --------
    >>> read = rows_or_bytes(row_bytes=400)
    >>> read("20000"), read("400MB")
    (20000, 1048576)
    """

    def read(text: str) -> int:
        try:
            if text.strip().isdecimal():
                return int(text)
            return parse_bytes(text, name="size") // row_bytes
        except InvalidParameterError:
            raise argparse.ArgumentTypeError(
                f"{text!r} is neither a number of rows nor a size in bytes. "
                "Pass rows, such as 1000000, or bytes with a unit, such as 400MB."
            ) from None

    return read


def number(kind: type[int | float], *, at_least: float) -> Callable[[str], float]:
    """Make a type for whole or other finite numbers with a lower bound."""

    def read(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not at_least <= value < math.inf:
            what = "whole number" if kind is int else "number"
            raise argparse.ArgumentTypeError(
                f"{text!r} is not a {what} of at least {at_least:g}."
            )
        return value

    return read


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
