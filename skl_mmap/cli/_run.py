"""``skl-mmap run``: an unchanged script with "mmap" as joblib's default backend."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import traceback
import warnings
from pathlib import Path
from typing import IO, Any

from skl_mmap.cli._errors import CommandError, ExitCode
from skl_mmap.cli._options import add_backend_options, integer, own_parameters
from skl_mmap.cli._run_report import Comparison, ScriptRun, find_difference
from skl_mmap.cli._script import ScriptSpec, run_script
from skl_mmap.cli._write_report import check_report_path, write_report

__all__ = ["add_parser", "run"]

_STDERR = 2
_COMPARED = ("loky", "mmap")
_DESCRIPTION = """\
Runs a Python script as python itself would, but with "mmap" as the backend of all
parallel jobs that name none, and says on stderr what they have cost in memory.

What the script says itself holds: its backends, its n_jobs, its row_order.
"""
_EXIT_CODES = """\
exit codes:
  the script's own, or 128 and the number of the signal that has ended it: 137 for
  SIGKILL, which is often the kernel's answer to too little memory; and
  0    with --compare: both runs ended with 0, and wrote the same to stdout
  1    with --compare: they wrote different things; or the script has a syntax error
  2    an option cannot be used, or there is no such script
  3    cannot run: the memory cannot be measured, a report cannot be written
  130  interrupted (Ctrl-C)
  141  nobody reads the output any more
"""


def add_parser(subcommands: Any) -> None:
    """Add the parser of ``run`` to those of the other subcommands."""
    parser = subcommands.add_parser(
        "run",
        help="run a script with the backend, and say what it has cost",
        usage="%(prog)s [options] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--backend",
        choices=("mmap", "loky", "threading"),
        default="mmap",
        help="joblib's backend where the script names none (default: mmap)",
    )
    parser.add_argument(
        "--compare",
        action="store_true",
        help="run the script under loky and under mmap, without stdin, and compare",
    )
    parser.add_argument(
        "--n-jobs",
        type=integer(at_least=1),
        metavar="N",
        help="number of workers where the script gives none (default: joblib's, 1)",
    )
    add_backend_options(parser)
    parser.add_argument(
        "-o",
        "--output",
        metavar="PATH",
        help="write the report to a file as well, .html or .json",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="write the report to stdout, as JSON; the script's own stdout goes to "
        "stderr, as it does with --compare",
    )
    parser.add_argument(
        "-m",
        dest="module",
        nargs=argparse.REMAINDER,
        metavar="MODULE",
        help="run a module, as python -m does; its arguments follow",
    )
    parser.add_argument(
        "command",
        nargs=argparse.REMAINDER,
        metavar="SCRIPT",
        help="the script; its arguments follow",
    )


def run(arguments: argparse.Namespace) -> int:
    """Run a script.

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed options.

    Returns
    -------
    int
        The exit code of the script, or of the comparison.

    Raises
    ------
    CommandError
        If there is no such script, or its report cannot be written.
    """
    command = _read_command(arguments)
    check_report_path(arguments.output)
    if arguments.compare:
        return _compare(command, arguments)
    spec = _make_spec(command, arguments.backend, arguments)
    result = run_script(spec, stdout=_STDERR if arguments.json else None)
    script_run = ScriptRun.from_result(result)
    if arguments.json:
        print(json.dumps(script_run.to_dict(), indent=2))
    else:
        print(script_run.report, file=sys.stderr)
    if arguments.output is not None:
        write_report(arguments.output, script_run.report, script_run.report.title)
    for remark in script_run.remarks:
        print(f"skl-mmap run: {remark}", file=sys.stderr)
    return script_run.exit_code


def _compare(command: tuple[str, ...], arguments: argparse.Namespace) -> int:
    """Run a script under each backend, and print what differs."""
    runs = []
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in _COMPARED]
        for backend, output in zip(_COMPARED, outputs, strict=True):
            print(f"skl-mmap run: under {backend}", file=sys.stderr)
            spec = _make_spec(command, backend, arguments)
            result = run_script(spec, stdin=subprocess.DEVNULL, stdout=output)
            _show(output)
            runs.append(ScriptRun.from_result(result))
            if runs[-1].exit_code == ExitCode.INTERRUPTED:
                raise KeyboardInterrupt
        comparison = Comparison(runs, find_difference(*outputs))
    print(json.dumps(comparison.to_dict(), indent=2) if arguments.json else comparison)
    if arguments.output is not None:
        write_report(arguments.output, comparison, runs[0].command)
    return comparison.exit_code


def _show(output: IO[bytes]) -> None:
    """Copy what a script wrote to stdout to stderr."""
    output.seek(0)
    with open(_STDERR, "wb", closefd=False) as stderr:
        shutil.copyfileobj(output, stderr)


def _make_spec(
    command: tuple[str, ...], backend: str, arguments: argparse.Namespace
) -> ScriptSpec:
    parameters = own_parameters(arguments) if backend == "mmap" else {}
    return ScriptSpec(command, backend, arguments.n_jobs, parameters)


def _read_command(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return what follows ``python``.

    Raises
    ------
    CommandError
        If there is nothing to run, or it cannot be run.
    """
    if arguments.module is not None:
        if not arguments.module:
            raise CommandError(
                "-m was given without a module. Pass its name: -m package.module.",
                ExitCode.USAGE,
            )
        return ("-m", *arguments.module)
    command = tuple(arguments.command)
    if command[:1] == ("--",):
        command = command[1:]
    if not command:
        raise CommandError(
            "there is nothing to run. Pass the path of a script, or -m and the name "
            "of a module.",
            ExitCode.USAGE,
        )
    _check_script(command[0])
    return command


def _check_script(name: str) -> None:
    """Refuse a script that Python could not even begin with."""
    path = Path(name)
    if not path.exists():
        raise CommandError(
            f"there is no script {name!r}. Options of skl-mmap go before the script, "
            "those of the script behind it; a module is run with -m.",
            ExitCode.USAGE,
        )
    if path.suffix != ".py" or not path.is_file():
        return  # a folder or an archive with a __main__.py
    try:
        source = path.read_bytes()
    except OSError as error:
        raise CommandError(
            f"{name} cannot be read ({error.strerror or error}). Check its "
            "permissions.",
            ExitCode.USAGE,
        ) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python will give them when it runs it
            compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        text = "".join(traceback.format_exception_only(error)).rstrip()
        raise CommandError(
            f"{name} is no valid Python, so nothing was run.\n{text}",
            ExitCode.CHECK_FAILED,
        ) from error
