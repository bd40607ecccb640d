"""What all subcommands share: exit codes, errors and types of options."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
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
    ExitCode.OK: "done, and every check held",
    ExitCode.CHECK_FAILED: (
        "a check failed: results differ between backends, X is copied, a method fails"
    ),
    ExitCode.USAGE: "an option or a file cannot be used",
    ExitCode.CANNOT_RUN: (
        "cannot run: a missing package, too little memory, a process that died"
    ),
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
    ExitCode.BROKEN_PIPE: "nobody reads the output any more",
}
_SCORES_DIFFER = {ExitCode.CHECK_FAILED: "scores differ that have to be equal"}
# How each subcommand puts it. What has no text here cannot happen to it.
_PARTICULAR: dict[str, Mapping[ExitCode, str]] = {
    "demo": {**_SCORES_DIFFER, ExitCode.USAGE: "an option cannot be used"},
    "bench": {**_SCORES_DIFFER, ExitCode.USAGE: "an option cannot be used"},
    "info": {
        ExitCode.OK: "done",
        ExitCode.CHECK_FAILED: "",
        ExitCode.CANNOT_RUN: "cannot run: a missing package",
    },
    "run": {
        ExitCode.OK: "with --compare: both runs ended with 0, and wrote the same",
        ExitCode.CHECK_FAILED: (
            "with --compare: they wrote different things to stdout; or the script has "
            "a syntax error"
        ),
        ExitCode.USAGE: "an option cannot be used, or there is no such script",
        ExitCode.CANNOT_RUN: (
            "cannot run: the memory cannot be measured, a report cannot be written"
        ),
    },
    "check": {
        ExitCode.OK: "done",
        ExitCode.CHECK_FAILED: (
            "a method failed, or copies more often than --max-copies allows"
        ),
        ExitCode.USAGE: "an option, a file or the estimator cannot be used",
        ExitCode.CANNOT_RUN: (
            "cannot run: a missing package, or nothing can be measured"
        ),
    },
    "completion": {
        ExitCode.OK: "done",
        ExitCode.CHECK_FAILED: "",
        ExitCode.USAGE: "there is no such shell",
        ExitCode.CANNOT_RUN: "cannot run: a missing package",
    },
}
_RUN_PASSES_THROUGH = """\
  the script's own, or 128 and the number of the signal that has ended it: 137 for
  SIGKILL, which is often the kernel's answer to too little memory; and
"""


def describe_exit_codes(subcommand: str = "") -> str:
    """Write the part of ``--help`` about exit codes, of all subcommands or of one."""
    meanings = {**MEANINGS, **_PARTICULAR.get(subcommand, {})}
    rows = "\n".join(f"  {code:<4} {text}" for code, text in meanings.items() if text)
    own = _RUN_PASSES_THROUGH if subcommand == "run" else ""
    return f"exit codes:\n{own}{rows}\n"


class CommandError(SklMmapError, RuntimeError):
    """A command cannot go on.

    Parameters
    ----------
    message : str
        What was found, why it matters, what to do.
    exit_code : ExitCode, default=ExitCode.CANNOT_RUN
        What the process returns to the shell.
    """

    def __init__(
        self, message: str, exit_code: ExitCode = ExitCode.CANNOT_RUN, /
    ) -> None:
        super().__init__(message, exit_code)
        self.message = message
        self.exit_code = exit_code

    def __str__(self) -> str:
        """Return the message alone: the exit code is for the shell."""
        return self.message


def exit_code_of(error: SklMmapError) -> ExitCode:
    """Return the exit code of an error that no subcommand has dealt with."""
    if isinstance(error, CommandError):
        return error.exit_code
    if isinstance(error, CopyError):
        return ExitCode.CHECK_FAILED
    # Files of some formats cannot be used, and options neither, for want of a package.
    is_package_missing = isinstance(error.__context__, ImportError)
    is_usage = isinstance(error, InvalidParameterError | FileFormatError)
    if is_usage and not is_package_missing:
        return ExitCode.USAGE
    return ExitCode.CANNOT_RUN


def cannot_be_read(path: str, error: OSError) -> CommandError:
    """Make the error of a file that the system does not let one read."""
    return CommandError(
        f"{error.filename or path} cannot be read ({error.strerror or error}). "
        "Check the path and its permissions.",
        ExitCode.USAGE,
    )


def add_subcommand(
    subcommands: Any, name: str, run: Callable[[argparse.Namespace], int], **texts: str
) -> argparse.ArgumentParser:
    """Add the parser of a subcommand; `texts` are its help, description and usage."""
    parser: argparse.ArgumentParser = subcommands.add_parser(
        name,
        epilog=describe_exit_codes(name),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        **texts,
    )
    parser.set_defaults(run=run)
    return parser


def add_numbers(parser: argparse.ArgumentParser, *options: Any) -> None:
    """Add options for whole numbers: of each name, lower bound, default and help."""
    for name, least, default, text in options:
        parser.add_argument(
            name,
            type=integer(at_least=least),
            default=default,
            metavar="N",
            help=text if default is None else f"{text} (default: {default})",
        )


def add_job_options(
    parser: argparse.ArgumentParser, *, n_jobs_help: str = "number of workers"
) -> None:
    """Add ``--n-jobs`` and ``--n-splits``."""
    add_numbers(
        parser,
        ("--n-jobs", 1, 4, n_jobs_help),
        ("--n-splits", 2, 5, "number of folds"),
    )


def add_choice(
    parser: argparse.ArgumentParser, name: str, values: tuple[str, ...], text: str
) -> None:
    """Add an option that has one of some values, the first one by default."""
    parser.add_argument(
        name, choices=values, default=values[0], help=f"{text} (default: {values[0]})"
    )


def add_list(
    parser: argparse.ArgumentParser, name: str, known: tuple[str, ...], text: str
) -> None:
    """Add an option for a list of known words, all of them by default."""
    parser.add_argument(
        name,
        type=choices(known),
        default=known,
        metavar="NAMES",
        help=f"{text} (default: {','.join(known)})",
    )


def add_json(parser: argparse.ArgumentParser, instead_of: str = "text") -> None:
    """Add ``--json``."""
    parser.add_argument(
        "--json",
        action="store_true",
        help=f"write JSON to stdout instead of {instead_of}",
    )


@dataclass(frozen=True, slots=True)
class Size:
    """A number of rows, given as such or as the bytes that they take."""

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
