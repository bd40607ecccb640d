"""What ``skl-mmap run`` found: how scripts have ended, and what they have cost."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from html import escape
from typing import IO, Any

from skl_mmap import MemoryReport, __version__
from skl_mmap._units import format_bytes
from skl_mmap.cli._script import ScriptResult
from skl_mmap.cli._text_table import format_table

__all__ = ["Comparison", "Difference", "ScriptRun", "find_difference"]

_MAX_CHARACTERS = 80
_NO_TASKS = (
    "no task ran in a worker: nothing in the script is parallel, or it gives no "
    "n_jobs, or backends of its own. --n-jobs 4 sets n_jobs where the script does not."
)


@dataclass(frozen=True, slots=True)
class ScriptRun:
    """One run of a script.

    Attributes
    ----------
    command : str
        The script and its arguments, as one would write them.
    backend : str
        joblib's backend where the script names none.
    exit_code : int
        As a shell gives it.
    signal_name : str or None
        The signal that has ended it, None if none has.
    report : MemoryReport
        What it has cost, the start of its interpreter included.
    """

    command: str
    backend: str
    exit_code: int
    signal_name: str | None
    report: MemoryReport

    @classmethod
    def from_result(cls, result: ScriptResult) -> ScriptRun:
        """Make a run of how a script has ended."""
        command = shlex.join(result.spec.command)
        title = f"{command} with the backend {result.spec.backend}"
        report = result.measurement.report(title)
        if result.spec.backend != "mmap":
            note = f"{result.spec.backend} does not say what its tasks have cost"
            report = replace(report, notes=(*report.notes, note))
        return cls(
            command=command,
            backend=result.spec.backend,
            exit_code=result.exit_code,
            signal_name=result.signal_name,
            report=report,
        )

    @property
    def remarks(self) -> tuple[str, ...]:
        """What a user should know who looks at the exit code or at the report."""
        if self.signal_name is not None:
            return (f"the script was ended by {self._explain_signal()}",)
        if self.exit_code:
            return (f"the script ended with exit code {self.exit_code}.",)
        if self.backend == "mmap" and not self.report.records:
            return (_NO_TASKS,)
        return ()

    def _explain_signal(self) -> str:
        text = f"{self.signal_name} (exit code {self.exit_code})"
        if self.signal_name != "SIGKILL":
            return f"{text}."
        peak = self.report.peak_bytes
        held = f" It held {format_bytes(peak)} at its peak." if peak else ""
        return (
            f"{text}, often the kernel's answer to too little memory.{held} "
            "Fewer workers (n_jobs) and --row-order any need less."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "version": __version__,
            "command": self.command,
            "backend": self.backend,
            "exit_code": self.exit_code,
            "signal": self.signal_name,
            "remarks": list(self.remarks),
            "peak_growth_bytes": self.report.peak_growth_bytes,
            "report": json.loads(self.report.to_json()),
        }


@dataclass(frozen=True, slots=True)
class Difference:
    """The first line in which two outputs differ.

    Attributes
    ----------
    line : int
        Its number, from 1.
    texts : tuple of (str, str)
        The line in both, shortened; empty where an output has ended.
    """

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
    """The same script under two backends.

    Attributes
    ----------
    runs : sequence of (ScriptRun, ScriptRun)
        One for each backend.
    difference : Difference or None
        Where what they wrote to stdout differs, None if it does not.
    """

    runs: Sequence[ScriptRun]
    difference: Difference | None

    @property
    def exit_code(self) -> int:
        """The first exit code that is not 0, 1 if the outputs differ, 0 otherwise."""
        codes = [run.exit_code for run in self.runs if run.exit_code]
        return codes[0] if codes else int(self.difference is not None)

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "version": __version__,
            "command": self.runs[0].command,
            "stdout_equal": self.difference is None,
            "difference": None
            if self.difference is None
            else {"line": self.difference.line, "texts": list(self.difference.texts)},
            "conclusion": self.conclude(),
            "runs": [run.to_dict() for run in self.runs],
        }

    def to_json(self) -> str:
        """Return it as JSON."""
        return json.dumps(self.to_dict())

    def conclude(self) -> str:
        """Say in one sentence what the figures mean."""
        first, second = self.runs
        names = f"{first.backend} and {second.backend}"
        if self.difference is not None:
            one, other = self.difference.texts
            return (
                f"stdout differs between {names} from line {self.difference.line} on: "
                f"{one!r} and {other!r}."
            )
        peaks = first.report.peak_growth_bytes, second.report.peak_growth_bytes
        if not all(peaks):
            return f"stdout is equal under {names}."
        saved = (peaks[0] or 0) - (peaks[1] or 0)
        return (
            f"{second.backend} needed {format_bytes(abs(saved))} "
            f"{'less' if saved >= 0 else 'more'} than {first.backend} at the peak, "
            f"{(peaks[1] or 0) / (peaks[0] or 1):.2f} times as much; stdout is equal."
        )

    def __str__(self) -> str:
        """Show the runs as a table, and say what they mean."""
        remarks = [
            f"{run.backend}: {remark}" for run in self.runs for remark in run.remarks
        ]
        return "\n".join([format_table(self._rows()), "", self.conclude(), *remarks])

    def _repr_html_(self) -> str:
        reports = "\n".join(run.report._repr_html_() for run in self.runs)
        return f"<pre>{escape(str(self))}</pre>\n{reports}"

    def _rows(self) -> list[list[str]]:
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
