"""``skl-mmap bench``: the same jobs with every backend, and what each one costs."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from skl_mmap import __version__
from skl_mmap._units import format_bytes
from skl_mmap.cli._bench_peers import PEERS, Peer
from skl_mmap.cli._bench_report import JobTable, PeerResult
from skl_mmap.cli._child import run_child
from skl_mmap.cli._demo_report import Run
from skl_mmap.cli._errors import CommandError, ExitCode
from skl_mmap.cli._options import add_job_options, choices, integer
from skl_mmap.cli._progress import Progress
from skl_mmap.cli._room import check_room

__all__ = ["add_parser", "run"]

_JOBS = ("cross-validation", "stacking")
_FLOAT_BYTES = 8
_STEPS_PER_RUN = 3
# Friedman's function needs five.
_MIN_FEATURES = 5
_MIN_ROWS = 1000
# The number of threads changes the order of sums; every backend gets the same.
_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
_DESCRIPTION = """\
Runs the same jobs with every backend, each in a fresh process with warm workers, and
shows committed memory at the peak, time, and whether the scores are equal to the bit.

jobs:
  cross-validation  cross_validate of an SGDRegressor, which makes no copies itself
  stacking          fit of a StackingRegressor of two of them

peers:
  threading, loky   joblib's own backends
  mmap, mmap-any    this package's, with row_order "exact" and "any"
  dask              joblib's dask backend, if the package distributed is installed
  ray               joblib's ray backend, if the package ray is installed
  mlens             named for completeness: it does not run on this Python
"""


def add_parser(subcommands: Any, *, epilog: str) -> None:
    """Add the parser of ``bench`` to those of the other subcommands."""
    parser = subcommands.add_parser(
        "bench",
        help="compare memory, time and scores with other backends",
        description=_DESCRIPTION,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    for name, least, default, text in (
        ("--rows", _MIN_ROWS, 200_000, "rows of X"),
        ("--n-features", _MIN_FEATURES, 50, "columns of X"),
        ("--repeat", 1, 1, "how often each is run; the table has medians"),
    ):
        parser.add_argument(
            name,
            type=integer(at_least=least),
            default=default,
            metavar="N",
            help=f"{text} (default: {default})",
        )
    add_job_options(parser)
    for name, known, text in (
        ("--jobs", _JOBS, "what to run"),
        ("--peers", tuple(PEERS), "with what"),
    ):
        parser.add_argument(
            name,
            type=choices(known),
            default=known,
            metavar="NAMES",
            help=f"{text}, comma-separated (default: {','.join(known)})",
        )
    parser.add_argument(
        "--json", action="store_true", help="write JSON to stdout instead of tables"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the jobs.

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed options.

    Returns
    -------
    int
        0; scores that differ and must not are an error.

    Raises
    ------
    CommandError
        If no peer or not enough memory is there, a child fails, or scores differ.
    """
    peers = [PEERS[name] for name in arguments.peers]
    ready = [peer for peer in peers if peer.reason_to_skip is None]
    if not ready:
        reasons = "; ".join(f"{peer.name}: {peer.reason_to_skip}" for peer in peers)
        raise CommandError(f"none of the peers can take part ({reasons}).")
    data_bytes = arguments.rows * arguments.n_features * _FLOAT_BYTES
    check_room(
        {peer.name: peer.peak_ratios for peer in ready},
        data="Friedman's function",
        data_bytes=data_bytes,
        n_workers=min(arguments.n_jobs, arguments.n_splits),
        advice="Choose fewer --rows, a smaller --n-jobs, or leave it out of --peers.",
    )
    n_steps = len(arguments.jobs) * len(ready) * arguments.repeat * _STEPS_PER_RUN
    notes: list[str] = []
    with Progress(n_steps) as progress:
        tables = [
            JobTable(
                job=job,
                title=(
                    f"X {arguments.rows:,} x {arguments.n_features}, "
                    f"{format_bytes(data_bytes)}; {arguments.n_splits} folds, "
                    f"{arguments.n_jobs} workers"
                ),
                results=tuple(
                    _run_peer(peer, job, arguments, progress, notes) for peer in peers
                ),
            )
            for job in arguments.jobs
        ]
    for note in dict.fromkeys(notes):
        print(note, file=sys.stderr)
    _print_tables(tables, arguments)
    unequal = [text for table in tables if (text := table.find_unequal()) is not None]
    if unequal:
        raise CommandError("\n".join(unequal), ExitCode.CHECK_FAILED)
    return ExitCode.OK


def _run_peer(
    peer: Peer,
    job: str,
    arguments: argparse.Namespace,
    progress: Progress,
    notes: list[str],
) -> PeerResult:
    """Run a job with a peer, each time in a fresh process.

    What the processes wrote to stderr goes to `notes`. That a package which is not part
    of this one does not work is a result, not an error.
    """
    reason = peer.reason_to_skip
    runs: list[Run] = []
    spec = {
        "peer": peer.name,
        "job": job,
        "n_rows": arguments.rows,
        "n_features": arguments.n_features,
        "n_jobs": arguments.n_jobs,
        "n_splits": arguments.n_splits,
    }
    try:
        for _ in range(arguments.repeat if reason is None else 0):
            result, messages = run_child(
                "skl_mmap.cli._bench_job",
                spec,
                on_step=lambda step: progress.step(f"{job}, {peer.name}: {step}"),
                environment=_ENVIRONMENT,
            )
            notes += [messages] if messages else []
            runs.append(Run.from_result(result))
    except CommandError as error:
        if peer.package is None:
            raise
        reason, runs = f"it failed: {error}", []
    return PeerResult(peer.name, peer.keeps_row_order, tuple(runs), reason)


def _print_tables(tables: list[JobTable], arguments: argparse.Namespace) -> None:
    if arguments.json:
        report = {
            "version": __version__,
            "n_rows": arguments.rows,
            "n_features": arguments.n_features,
            "n_jobs": arguments.n_jobs,
            "n_splits": arguments.n_splits,
            "repeat": arguments.repeat,
            "jobs": [table.to_dict() for table in tables],
        }
        print(json.dumps(report, indent=2))
    else:
        print("\n\n".join(map(str, tables)))
