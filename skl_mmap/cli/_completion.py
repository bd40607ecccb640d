"""``skl-mmap completion``: what a shell needs to complete the command line."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from typing import Any

from skl_mmap.cli._errors import CommandError, ExitCode

__all__ = ["add_parser", "run"]

_SHELLS = ("bash", "zsh", "fish")
# What stands for a file where an option or an argument is described.
_FILE_METAVARS = frozenset({"PATH", "SCRIPT"})
_MISSING = (
    "completion needs the package shtab, which is not installed. It comes with the "
    "extra: pip install 'skl-mmap[completion]'."
)
_DESCRIPTION = """\
Prints a script that lets a shell complete subcommands, options and their values:

  bash   skl-mmap completion bash > ~/.local/share/bash-completion/completions/skl-mmap
  zsh    skl-mmap completion zsh > FOLDER/_skl-mmap    (FOLDER is one of $fpath)
  fish   skl-mmap completion fish > ~/.config/fish/completions/skl-mmap.fish
"""


def add_parser(
    subcommands: Any, *, whole: argparse.ArgumentParser, epilog: str
) -> None:
    """Add the parser of ``completion``, which describes the whole one."""
    parser = subcommands.add_parser(
        "completion",
        help="print a script that lets a shell complete this command",
        description=_DESCRIPTION,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run, whole=whole)
    parser.add_argument("shell", choices=_SHELLS, help="which shell")


def run(arguments: argparse.Namespace) -> int:
    """Print the script.

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed options, and the whole parser.

    Returns
    -------
    int
        0.

    Raises
    ------
    CommandError
        If shtab is not installed.
    """
    try:
        import shtab
    except ImportError as error:
        raise CommandError(_MISSING) from error
    for action in _list_actions(arguments.whole):
        if action.metavar in _FILE_METAVARS:
            action.complete = shtab.FILE  # type: ignore[attr-defined]
    print(shtab.complete(arguments.whole, arguments.shell))
    return ExitCode.OK


def _list_actions(parser: argparse.ArgumentParser) -> Iterator[argparse.Action]:
    """List what a parser and its subparsers take."""
    # No public name, and the only way to the subparsers.
    for action in parser._actions:
        yield action
        if isinstance(action, argparse._SubParsersAction):
            for subparser in action.choices.values():
                yield from _list_actions(subparser)
