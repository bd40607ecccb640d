"""``skl-mmap run``: an unchanged script with "mmap" as joblib's default backend."""

from __future__ import annotations

import argparse
import contextlib
import json
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
import warnings
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import IO, Any, NamedTuple

from skl_mmap import MemoryReport, __version__
from skl_mmap._tables import Markup, html_block, html_table
from skl_mmap._units import format_bytes
from skl_mmap.cli._command import (
    CheckFailedError,
    CommandError,
    ExitCode,
    Parser,
    UsageError,
    refuse_unreadable,
)
from skl_mmap.cli._console import Rows, show, show_json
from skl_mmap.cli._script import run_script

_STDERR = 2
_COMPARED = ("loky", "mmap")
_MAX_CHARACTERS = 80
_SUFFIXES = (".html", ".json")
# Options of the backend "mmap": their values, the first one the default, and what for.
_BACKEND_OPTIONS = {
    "row_order": (
        ("exact", "any"),
        "of train rows under mmap: as in other backends, or what saves most memory",
    ),
    "layouts": (
        ("auto", "given"),
        "of X under mmap: one converted copy for all that need it, or as it is",
    ),
}
_NO_TASKS = (
    "no task ran in a worker: nothing in the script is parallel, or it gives no "
    "n_jobs, or backends of its own. --n-jobs 4 sets n_jobs where the script does not."
)
_DESCRIPTION = """\
Runs a Python script as python itself would, but with "mmap" as the backend of all
parallel jobs that name none, and says on stderr what they have cost in memory.

What the script says itself holds: its backends, its n_jobs, its row_order.
"""
_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>{title}</title></head>
<body>
{body}
</body>
</html>
"""


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """One run of a script: how it has ended, and what it has cost.

    `backend` is joblib's where the script names none, and `return_code` is minus the
    number of a signal that has ended it. The start of its interpreter is in the report.
    """

    command: str
    backend: str
    return_code: int
    report: MemoryReport

    @property
    def exit_code(self) -> int:
        """The exit code as a shell gives it: 128 and the number of a signal."""
        return self.return_code if self.return_code >= 0 else 128 - self.return_code

    @property
    def signal_name(self) -> str | None:
        """Name of the signal that has ended the script, None if none has."""
        return None if self.return_code >= 0 else signal.Signals(-self.return_code).name

    @property
    def hint(self) -> str:
        """What a user should know who looks at the exit code or at the report."""
        if self.signal_name is not None:
            text = (
                f"the script was ended by {self.signal_name} "
                f"(exit code {self.exit_code})"
            )
            if self.signal_name != "SIGKILL":
                return f"{text}."
            peak = self.report.peak_bytes
            held = f" It held {format_bytes(peak)} at its peak." if peak else ""
            return (
                f"{text}, often the kernel's answer to too little memory.{held} "
                "Fewer workers (n_jobs) and --row-order any need less."
            )
        if self.exit_code:
            return f"the script ended with exit code {self.exit_code}."
        has_no_tasks = self.backend == "mmap" and not self.report.records
        return _NO_TASKS if has_no_tasks else ""

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "version": __version__,
            "command": self.command,
            "backend": self.backend,
            "exit_code": self.exit_code,
            "signal": self.signal_name,
            "remarks": [self.hint] if self.hint else [],
            "peak_growth_bytes": self.report.peak_growth_bytes,
            "report": json.loads(self.report.to_json()),
        }


class Difference(NamedTuple):
    """The first line, from 1, in which two outputs differ, and its text in both."""

    line: int
    texts: tuple[str, str]


def find_difference(first: IO[bytes], second: IO[bytes]) -> Difference | None:
    """Compare two files from their starts, line by line; None if they are equal."""
    first.seek(0)
    second.seek(0)
    line = 1
    while True:
        one, other = first.readline(), second.readline()
        if one != other:
            return Difference(line, (_shorten(one), _shorten(other)))
        if not one:
            return None
        line += 1


def _shorten(line: bytes) -> str:
    text = line.decode(errors="replace").rstrip("\n")
    is_long = len(text) > _MAX_CHARACTERS
    return f"{text[: _MAX_CHARACTERS - 3]}..." if is_long else text


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same script under two backends, and where what it writes differs."""

    runs: tuple[ScriptRun, ScriptRun]
    difference: Difference | None

    @property
    def exit_code(self) -> int:
        """The first exit code that is not 0, 1 if the outputs differ, 0 otherwise."""
        codes = [run.exit_code for run in self.runs if run.exit_code]
        return codes[0] if codes else int(self.difference is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        difference = self.difference and self.difference._asdict()
        return {
            "version": __version__,
            "command": self.runs[0].command,
            "stdout_equal": difference is None,
            "difference": difference,
            "conclusion": self._conclude(),
            "runs": [run.to_dict() for run in self.runs],
        }

    def to_html(self) -> str:
        """Return it as HTML, to be put into a page."""
        head, *rows = self.to_rows()
        texts = [Markup(f"<p>{escape(text)}</p>") for text in self.to_texts()]
        block = html_block(self.runs[0].command, html_table(head, rows), *texts)
        return "\n".join([block, *(run.report._repr_html_() for run in self.runs)])

    def to_texts(self) -> list[str]:
        """Say what the table means, and what there is to know about a run."""
        hints = [f"{run.backend}: {run.hint}" for run in self.runs if run.hint]
        return [self._conclude(), *hints]

    def to_rows(self) -> Rows:
        """Make a table of the runs."""
        rows = [["backend", "peak above start", "seconds", "exit code", "stdout"]]
        for run in self.runs:
            growth, seconds = run.report.peak_growth_bytes, run.report.wall_seconds
            rows.append(
                [
                    run.backend,
                    "unknown" if growth is None else format_bytes(growth),
                    "unknown" if seconds is None else f"{seconds:.2f}",
                    str(run.exit_code),
                    "equal" if self.difference is None else "differs",
                ]
            )
        return rows

    def _conclude(self) -> str:
        """Say in one sentence what the figures mean."""
        first, second = self.runs
        names = f"{first.backend} and {second.backend}"
        if self.difference is not None:
            one, other = self.difference.texts
            return (
                f"stdout differs between {names} from line {self.difference.line} on: "
                f"{one!r} and {other!r}."
            )
        before, after = first.report.peak_growth_bytes, second.report.peak_growth_bytes
        if not before or not after:
            return f"stdout is equal under {names}."
        return (
            f"{second.backend} needed {format_bytes(abs(before - after))} "
            f"{'less' if before >= after else 'more'} than {first.backend} at the "
            f"peak, {after / before:.2f} times as much; stdout is equal."
        )


def add_parser(whole: Parser) -> None:
    """Add the parser of ``run`` to the whole one."""
    parser = whole.add_subcommand(
        "run",
        run,
        help="run a script with the backend, and say what it has cost",
        usage="%(prog)s [options] (SCRIPT | -m MODULE) [ARGUMENT ...]",
        description=_DESCRIPTION,
    )
    text = "joblib's backend where the script names none"
    parser.add_choice("--backend", ("mmap", "loky", "threading"), text)
    parser.add_argument(
        "--compare",
        action="store_true",
        help="run the script under loky and under mmap, without stdin, and compare",
    )
    text = "number of workers where the script gives none (default: joblib's, 1)"
    parser.add_integer("--n-jobs", 1, None, text)
    for name, (values, text) in _BACKEND_OPTIONS.items():
        parser.add_choice(f"--{name.replace('_', '-')}", values, text)
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
    """Run a script, and return its exit code, or that of the comparison."""
    command = _read_command(arguments)
    _check_output(arguments.output)
    if arguments.compare:
        return _compare(command, arguments)
    stdout = _STDERR if arguments.json else None
    script_run = _run_under(arguments.backend, command, arguments, stdout=stdout)
    report = script_run.report
    if arguments.json:
        show_json(script_run.to_dict())
    else:
        print(report, file=sys.stderr)
    if arguments.output is not None:
        html, fields = report._repr_html_(), json.loads(report.to_json())
        _write(arguments.output, report.title, html, fields)
    if script_run.hint:
        print(f"skl-mmap run: {script_run.hint}", file=sys.stderr)
    return script_run.exit_code


def _run_under(
    backend: str, command: tuple[str, ...], arguments: argparse.Namespace, **files: Any
) -> ScriptRun:
    """Run a script with a backend as joblib's default."""
    parameters = {
        name: getattr(arguments, name)
        for name, (values, _) in _BACKEND_OPTIONS.items()
        if backend == "mmap" and getattr(arguments, name) != values[0]
    }
    defaults = {
        "backend": backend,
        "n_jobs": arguments.n_jobs,
        "parameters": parameters,
    }
    return_code, measurement = run_script(command, defaults, **files)
    text = shlex.join(command)
    report = measurement.report(f"{text} with the backend {backend}")
    if backend != "mmap":
        note = f"{backend} does not say what its tasks have cost"
        report = replace(report, notes=(*report.notes, note))
    return ScriptRun(text, backend, return_code, report)


def _compare(command: tuple[str, ...], arguments: argparse.Namespace) -> int:
    """Run a script under each backend, and print what differs."""
    runs = []
    with contextlib.ExitStack() as stack:
        outputs = [stack.enter_context(tempfile.TemporaryFile()) for _ in _COMPARED]
        for backend, output in zip(_COMPARED, outputs, strict=True):
            print(f"skl-mmap run: under {backend}", file=sys.stderr)
            files = {"stdin": subprocess.DEVNULL, "stdout": output}
            runs.append(_run_under(backend, command, arguments, **files))
            output.seek(0)
            with open(_STDERR, "wb", closefd=False) as stderr:
                shutil.copyfileobj(output, stderr)
            if runs[-1].exit_code == ExitCode.INTERRUPTED:
                raise KeyboardInterrupt
        comparison = Comparison((runs[0], runs[1]), find_difference(*outputs))
    if arguments.json:
        show_json(comparison.to_dict())
    else:
        show(comparison.to_rows(), "", *comparison.to_texts())
    if arguments.output is not None:
        fields = comparison.to_dict()
        _write(arguments.output, runs[0].command, comparison.to_html(), fields)
    return comparison.exit_code


def _read_command(arguments: argparse.Namespace) -> tuple[str, ...]:
    """Return what follows ``python``, once it is clear that it can be run."""
    if arguments.module is not None:
        if not arguments.module:
            raise UsageError(
                "-m was given without a module. Pass its name: -m package.module."
            )
        return ("-m", *arguments.module)
    command = tuple(arguments.command)
    if command[:1] == ("--",):
        command = command[1:]
    if not command:
        raise UsageError(
            "there is nothing to run. Pass the path of a script, or -m and the name "
            "of a module."
        )
    _check_script(command[0])
    return command


def _check_script(name: str) -> None:
    """Refuse a script that Python could not even begin with."""
    path = Path(name)
    if not path.exists():
        raise UsageError(
            f"there is no script {name!r}. Options of skl-mmap go before the script, "
            "those of the script behind it; a module is run with -m."
        )
    if path.suffix != ".py" or not path.is_file():
        return  # a folder or an archive with a __main__.py
    try:
        source = path.read_bytes()
    except OSError as error:
        raise refuse_unreadable(name, error) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python will give them when it runs it
            compile(source, name, "exec", dont_inherit=True)
    except (SyntaxError, ValueError) as error:
        text = "".join(traceback.format_exception_only(error)).rstrip()
        raise CheckFailedError(
            f"{name} is not valid Python, so nothing was run.\n{text}"
        ) from error


def _check_output(path: str | None) -> None:
    """Refuse the path of a report before any work is done for it."""
    if path is None:
        return
    if Path(path).suffix not in _SUFFIXES:
        raise UsageError(
            f"{path!r} does not say in which format to write the report. "
            f"Pass a name that ends with {' or '.join(_SUFFIXES)}."
        )
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise UsageError(
            f"{path!r} cannot be written, since there is no folder {str(folder)!r}. "
            "Make it first."
        )


def _write(path: str, title: str, html: str, fields: dict[str, Any]) -> None:
    """Write a report to a file, as a page or as JSON: its suffix says which."""
    if Path(path).suffix == ".json":
        text = json.dumps(fields, indent=2) + "\n"
    else:
        text = _PAGE.format(title=escape(title), body=html)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(
            f"{path} cannot be written ({error.strerror or error}), so the report is "
            "lost. Check the folder's permissions and the room on its disk."
        ) from error
