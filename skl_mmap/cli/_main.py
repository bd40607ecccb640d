"""The parser of ``skl-mmap``, and how errors become exit codes."""

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
from skl_mmap.cli import _bench, _check, _completion, _demo, _info, _run
from skl_mmap.cli._errors import CommandError, ExitCode

__all__ = ["main"]

_EPILOG = """\
exit codes:
  0    done, and every check held
  1    a check failed: results differ between backends
  2    an option cannot be used
  3    cannot run: a missing package, too little memory, a process that died
  130  interrupted (Ctrl-C)
  141  nobody reads the output any more
"""


def make_parser() -> argparse.ArgumentParser:
    """Make the parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="skl-mmap",
        description="Memory-neutral parallel jobs for scikit-learn.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"skl-mmap {__version__}"
    )
    subcommands = parser.add_subparsers(
        title="subcommands", dest="subcommand", metavar="SUBCOMMAND", required=True
    )
    _demo.add_parser(subcommands, epilog=_EPILOG)
    _info.add_parser(subcommands, epilog=_EPILOG)
    _run.add_parser(subcommands)
    _check.add_parser(subcommands)
    _bench.add_parser(subcommands, epilog=_EPILOG)
    _completion.add_parser(subcommands, whole=parser, epilog=_EPILOG)
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
    except CommandError as error:
        print(f"skl-mmap {arguments.subcommand}: error: {error}", file=sys.stderr)
        return error.exit_code
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
