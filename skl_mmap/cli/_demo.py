"""``skl-mmap demo``: the same job under several backends, and what each one costs."""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from dataclasses import dataclass
from typing import Any

from skl_mmap import __version__
from skl_mmap._units import format_bytes
from skl_mmap.cli._child import run_child
from skl_mmap.cli._demo_data import (
    FLIGHTS_SHAPE,
    FRIEDMAN_FEATURES,
    MISSING_EXTRA,
    find_flights,
)
from skl_mmap.cli._demo_report import Comparison, Run
from skl_mmap.cli._errors import CommandError, ExitCode
from skl_mmap.cli._options import Size, add_job_options, choices, size
from skl_mmap.cli._progress import Progress
from skl_mmap.cli._room import check_room

__all__ = ["add_parser", "run"]

_BACKENDS = ("loky", "threading", "mmap")
_FLOAT_BYTES = 8
_MIN_ROWS = 1000
_STEPS_PER_RUN = 3
# One thread for linear algebra: the number of threads changes the order of sums, and
# joblib's backends set it differently. Every backend gets the same.
_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
# Peak of the process tree in multiples of X, measured: what does not depend on the
# number of workers (X itself, and the shared copy), and what each worker adds.
_PEAK_RATIOS = {"loky": (2.0, 2.25), "threading": (1.0, 2.1), "mmap": (2.0, 1.0)}

_DESCRIPTION = """\
Cross-validates a stack of cheap regressors under each backend, each in a fresh process
with warm workers, checks that the scores are equal, and shows time and memory.

data sets:
  flights   delays of the 327,346 flights that left New York in 2013 (357 MiB)
  friedman  Friedman's function as in the benchmark of ML-Ensemble, 50 features
"""


@dataclass(frozen=True, slots=True)
class _Data:
    """A data set to be loaded by children."""

    name: str
    n_rows: int
    n_features: int

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.n_features * _FLOAT_BYTES


def add_parser(subcommands: Any, *, epilog: str) -> None:
    """Add the parser of ``demo`` to those of the other subcommands."""
    parser = subcommands.add_parser(
        "demo",
        help="compare time and memory of backends on real and on artificial data",
        description=_DESCRIPTION,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument(
        "--data",
        choices=("flights", "friedman", "both"),
        default="both",
        help="which data (default: both)",
    )
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
    parser.add_argument(
        "--backends",
        type=choices(_BACKENDS),
        default=_BACKENDS,
        metavar="NAMES",
        help="comma-separated, in this order (default: loky,threading,mmap)",
    )
    parser.add_argument(
        "--row-order",
        choices=("exact", "any"),
        default="exact",
        help="of train rows under mmap: as in the other backends, or the one that "
        "saves most memory (default: exact)",
    )
    parser.add_argument(
        "--model",
        choices=("stack", "ridge"),
        default="stack",
        help="ridge does not depend on the order of rows, so that its scores can be "
        "checked with --row-order any (default: stack)",
    )
    parser.add_argument(
        "--json", action="store_true", help="write JSON to stdout instead of tables"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo.

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed options.

    Returns
    -------
    int
        0, or 1 if scores differ that must be equal.

    Raises
    ------
    CommandError
        If a package or memory is missing, an option cannot be used or a child fails.
    """
    data_sets = _choose_data(arguments)
    if not arguments.json and importlib.util.find_spec("rich") is None:
        raise CommandError(MISSING_EXTRA.format(package="rich"))
    _check_memory(data_sets, arguments)
    print(_describe_plan(data_sets, arguments), file=sys.stderr)
    notes: list[str] = []
    n_steps = len(data_sets) * len(arguments.backends) * _STEPS_PER_RUN
    with Progress(n_steps) as progress:
        comparisons = [_compare(data, arguments, progress, notes) for data in data_sets]
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
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


def _choose_data(arguments: argparse.Namespace) -> list[_Data]:
    """Return the data sets asked for, once it is clear that they can be had."""
    data_sets = []
    if arguments.data != "friedman":
        find_flights()
        data_sets.append(_Data("flights", *FLIGHTS_SHAPE))
    if arguments.data == "flights" and arguments.size is not None:
        raise CommandError(
            "--size was given with --data flights, whose size is fixed. "
            "Leave it out, or choose --data friedman or both.",
            ExitCode.USAGE,
        )
    if arguments.data != "flights":
        asked = arguments.size or Size(1_000_000)
        n_rows = asked.to_rows(FRIEDMAN_FEATURES * _FLOAT_BYTES)
        min_rows = max(_MIN_ROWS, 2 * arguments.n_splits)
        if n_rows < min_rows:
            raise CommandError(
                f"--size gives {n_rows} rows; {arguments.n_splits} folds of a "
                f"measurable size need at least {min_rows}. A plain number counts "
                "rows: write a size in bytes with its unit, such as 400MB.",
                ExitCode.USAGE,
            )
        data_sets.append(_Data("friedman", n_rows, FRIEDMAN_FEATURES))
    return data_sets


def _check_memory(data_sets: list[_Data], arguments: argparse.Namespace) -> None:
    """Refuse to start what would end in the kernel's out-of-memory killer."""
    largest = max(data_sets, key=lambda data: data.n_bytes)
    check_room(
        {backend: _PEAK_RATIOS[backend] for backend in arguments.backends},
        data=largest.name,
        data_bytes=largest.n_bytes,
        n_workers=min(arguments.n_jobs, arguments.n_splits),
        advice="Choose a smaller --size, a smaller --n-jobs, or leave it out of "
        "--backends.",
    )


def _describe_plan(data_sets: list[_Data], arguments: argparse.Namespace) -> str:
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
    data: _Data, arguments: argparse.Namespace, progress: Progress, notes: list[str]
) -> Comparison:
    """Run the job under each backend, each in a fresh process.

    What the processes wrote to stderr goes to `notes`: warnings of workers, say.
    """
    runs = []
    for backend in arguments.backends:
        spec = {
            "data": data.name,
            "n_rows": data.n_rows,
            "backend": backend,
            "model": arguments.model,
            "n_jobs": arguments.n_jobs,
            "n_splits": arguments.n_splits,
            "row_order": arguments.row_order,
        }

        def announce(step: str, backend: str = backend) -> None:
            progress.step(f"{data.name}, {backend}: {step}")

        result, messages = run_child(
            "skl_mmap.cli._demo_job",
            spec,
            on_step=announce,
            environment=_ENVIRONMENT,
        )
        if messages:
            notes.append(messages)
        runs.append(Run.from_result(result))
    return Comparison(
        data=data.name,
        runs=tuple(runs),
        row_order=arguments.row_order,
        depends_on_row_order=arguments.model == "stack",
    )


def _print_tables(comparisons: list[Comparison], arguments: argparse.Namespace) -> None:
    from rich.console import Console

    console = Console()
    for comparison in comparisons:
        first = comparison.runs[0]
        title = (
            f"{comparison.data}: X {first.shape} float64, "
            f"{format_bytes(first.data_bytes)}; {arguments.n_splits} folds, "
            f"{arguments.n_jobs} workers"
        )
        console.print()
        console.print(comparison.to_table(title))
        if reasons := comparison.explain_copies():
            console.print(reasons, highlight=False)
        console.print(comparison.conclude(), highlight=False)
