"""The parser of ``skl-mmap``, and how errors become exit codes.

``skl-mmap completion`` is here as well: it describes the parser to a shell.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from types import FrameType

from skl_mmap import __version__
from skl_mmap.cli import _bench, _check, _demo, _info, _run
from skl_mmap.cli._command import (
    CommandError,
    ExitCode,
    Parser,
    exit_code_of,
    list_exit_codes,
)
from skl_mmap.exceptions import SklMmapError

_SHELLS = ("bash", "zsh", "fish")
# What stands for a file where an option or an argument is described.
_FILE_METAVARS = frozenset({"PATH", "SCRIPT"})
_COMPLETION = """\
Prints a script that lets a shell complete subcommands, options and their values:

  bash   skl-mmap completion bash > ~/.local/share/bash-completion/completions/skl-mmap
  zsh    skl-mmap completion zsh > FOLDER/_skl-mmap    (FOLDER is one of $fpath)
  fish   skl-mmap completion fish > ~/.config/fish/completions/skl-mmap.fish
"""


def make_parser() -> Parser:
    """Make the parser with all subcommands."""
    parser = Parser(
        prog="skl-mmap",
        description="Memory-neutral parallel jobs for scikit-learn.",
        epilog=list_exit_codes(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    version = f"skl-mmap {__version__}"
    parser.add_argument("--version", action="version", version=version)
    for module in (_demo, _info, _run, _check, _bench):
        module.add_parser(parser)
    completion = parser.add_subcommand(
        "completion",
        _complete,
        help="print a script that lets a shell complete this command",
        description=_COMPLETION,
    )
    completion.set_defaults(whole=parser)
    completion.add_argument("shell", choices=_SHELLS, help="which shell")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    argv : sequence of str, default=None
        Arguments without the program's name; ``sys.argv[1:]`` if None.

    Returns
    -------
    int
        The exit code, see ``skl-mmap --help``.
    """
    try:
        arguments = make_parser().parse_args(argv)
    except SystemExit as exit_:
        # argparse leaves this way after --help, --version and bad options.
        return exit_.code if isinstance(exit_.code, int) else ExitCode.USAGE
    try:
        with _ending_in_order():
            exit_code = int(arguments.run(arguments))
            sys.stdout.flush()
            return exit_code
    except SklMmapError as error:
        print(f"skl-mmap {arguments.subcommand}: error: {error}", file=sys.stderr)
        return exit_code_of(error)
    except BrokenPipeError:
        # Whoever read the output wants no more of it: head, or a pager that was left.
        # What is still buffered must not be tried again when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        print(f"skl-mmap {arguments.subcommand}: interrupted", file=sys.stderr)
        return ExitCode.INTERRUPTED


@contextlib.contextmanager
def _ending_in_order() -> Iterator[None]:
    """Make termination by a signal unwind the stack, so that children are ended."""

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGTERM", "SIGHUP")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    before = {number: signal.signal(number, leave) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _complete(arguments: argparse.Namespace) -> int:
    """Print what a shell needs to complete the command line."""
    try:
        import shtab
    except ImportError as error:
        raise CommandError(
            "completion needs the package shtab, which is not installed. It comes "
            "with the extra: pip install 'skl-mmap[completion]'."
        ) from error
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
