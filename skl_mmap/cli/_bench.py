"""``skl-mmap bench``: the same jobs with several backends, and what each one costs.

`Run`, `running_jobs`, `check_room` and `describe_unequal` serve ``skl-mmap demo`` too,
which is one job, told in more detail.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from skl_mmap import __version__
from skl_mmap._linux.proc import available_memory_bytes
from skl_mmap._units import format_bytes
from skl_mmap.cli._child import run_child
from skl_mmap.cli._command import (
    CommandError,
    ExitCode,
    add_job_options,
    add_json,
    add_list,
    add_numbers,
    add_subcommand,
)
from skl_mmap.cli._console import Progress, Rows, show

FLOAT_BYTES = 8
# Fewer say nothing about memory.
MIN_ROWS = 1000
_JOBS = ("cross-validation", "stacking")
_STEPS_PER_RUN = 3
# Friedman's function needs five.
_MIN_FEATURES = 5
# One thread for linear algebra: the number of threads changes the order of sums, and
# joblib's backends set it differently. Every backend gets the same.
_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)
_MLENS = (
    "its last release (0.2.3) needs Python 3.9 or older, and cannot run the same "
    "estimators"
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


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to run tasks in parallel.

    Attributes
    ----------
    name : str
        Its name in the table, and in `skl_mmap.cli._work.ENTER`.
    peak_ratios : tuple of (float, float)
        Measured peak of the process tree in multiples of X: what does not depend on
        the number of workers (X itself, and the shared copy), and what each one adds.
    package : str or None
        What has to be installed for it, None if that is the case anyway.
    problem : str or None
        Why it cannot take part, whatever is installed.
    keeps_row_order : bool
        Whether train rows come in the order of the splitter.
    """

    name: str
    peak_ratios: tuple[float, float]
    package: str | None = None
    problem: str | None = field(default=None, kw_only=True)
    keeps_row_order: bool = field(default=True, kw_only=True)

    @property
    def reason_to_skip(self) -> str | None:
        """Why it does not take part; None if it does."""
        if self.problem is not None:
            return self.problem
        if self.package is None or importlib.util.find_spec(self.package) is not None:
            return None
        return f"not installed (pip install {self.package})"


PEERS = {
    peer.name: peer
    for peer in (
        Peer("threading", (1.0, 2.1)),
        Peer("loky", (2.0, 2.25)),
        Peer("mmap", (2.0, 1.0)),
        Peer("mmap-any", (2.0, 1.0), keeps_row_order=False),
        Peer("dask", (2.0, 2.25), "distributed"),
        Peer("ray", (3.0, 2.5), "ray"),
        Peer("mlens", (0.0, 0.0), problem=_MLENS),
    )
}


@dataclass(frozen=True, slots=True)
class Run:
    """One job on one data set with one backend.

    Attributes
    ----------
    backend : str
        What the backend is called.
    shape : tuple of int
        Shape of X.
    data_bytes : int
        Size of X.
    scores : tuple of float
        Test score of each fold, or whatever else must be equal.
    wall_seconds : float
        Time of the job alone, with warm workers.
    baseline_bytes, peak_bytes, peak_growth_bytes : int
        Committed memory of the process tree: with X loaded and workers warm, at the
        worst moment of the job, and the difference.
    mapped_bytes, copied_bytes : int or None
        Rows of folds that were mapped and copied, over all tasks. None if the backend
        does not say.
    copy_reasons : dict of str to int, or None
        Why rows were copied, and how many bytes for each reason.
    """

    backend: str
    shape: tuple[int, int]
    data_bytes: int
    scores: tuple[float, ...]
    wall_seconds: float
    baseline_bytes: int
    peak_bytes: int
    peak_growth_bytes: int
    mapped_bytes: int | None
    copied_bytes: int | None
    copy_reasons: dict[str, int] | None

    @classmethod
    def from_result(cls, result: dict[str, Any]) -> Run:
        """Make a run from what a child returned."""
        rows, columns = result["shape"]
        scores = tuple(result["scores"])
        return cls(**{**result, "shape": (rows, columns), "scores": scores})

    @property
    def score_bits(self) -> tuple[str, ...]:
        """Text of the scores that is equal exactly if all bits are; nan equals nan."""
        return tuple(score.hex() for score in self.scores)

    @property
    def peak_growth_ratio(self) -> float:
        """Peak memory above the loaded X, in multiples of X."""
        return self.peak_growth_bytes / self.data_bytes

    def to_dict(self) -> dict[str, Any]:
        """Return all attributes and the ratio, as JSON can hold them."""
        return {**asdict(self), "peak_growth_ratio": self.peak_growth_ratio}


@contextlib.contextmanager
def running_jobs(n_runs: int) -> Iterator[Callable[[str, dict[str, Any]], Run]]:
    """Run jobs in fresh processes, and show how far they are.

    Yields a function that takes the name of a run and the spec of its child, see
    `skl_mmap.cli._work.work`. What children wrote to stderr, warnings say, is printed
    at the end, each text once.
    """
    notes: dict[str, None] = {}
    with Progress(n_runs * _STEPS_PER_RUN) as progress:

        def run(name: str, spec: dict[str, Any]) -> Run:
            result, messages = run_child(
                "skl_mmap.cli._work",
                spec,
                on_step=lambda step: progress.step(f"{name}: {step}"),
                environment=_ENVIRONMENT,
            )
            if messages:
                notes[messages] = None
            return Run.from_result(result)

        yield run
    for note in notes:
        print(note, file=sys.stderr)


def check_room(
    peers: Sequence[Peer],
    arguments: argparse.Namespace,
    *,
    data: str,
    data_bytes: int,
    advice: str,
) -> None:
    """Refuse to start what would end in the kernel's out-of-memory killer.

    Raises
    ------
    CommandError
        If a peer needs more than is available. `advice` says what to do then.
    """
    n_workers = min(arguments.n_jobs, arguments.n_splits)
    available = available_memory_bytes()
    needs = {
        peer.name: int(data_bytes * (fixed + per_worker * n_workers))
        for peer in peers
        for fixed, per_worker in [peer.peak_ratios]
    }
    worst = max(needs, key=lambda name: needs[name])
    if available is not None and needs[worst] > available:
        raise CommandError(
            f"{worst} with {n_workers} workers needs about "
            f"{format_bytes(needs[worst])} for X of {format_bytes(data_bytes)} "
            f"({data}), and {format_bytes(available)} are available. {advice}"
        )


def describe_unequal(
    where: str,
    first: Run,
    others: Sequence[Run],
    *,
    tolerance: float = 0.0,
    unit: str = "fold",
) -> str | None:
    """Say which score of other runs differs from that of the first one, None if none.

    Without a tolerance, all bits have to be equal.
    """
    how = f"within {tolerance:g}" if tolerance else "to the last bit"
    for other in others:
        pairs = zip(first.scores, other.scores, strict=True)
        for index, (a, b) in enumerate(pairs):
            if a.hex() == b.hex() or (tolerance and abs(a - b) <= tolerance):
                continue
            return (
                f"on {where}, the scores under {first.backend} and {other.backend} are "
                f"not equal {how}: {unit} {index} has {a!r} and {b!r}. A backend must "
                "not change results: please report it, with the output of --json."
            )
    return None


def largest_difference(runs: Sequence[Run]) -> float:
    """Return the largest difference between scores of the same fold in two runs."""
    folds = zip(*(run.scores for run in runs), strict=True)
    return max(
        (max(fold) - min(fold) for fold in folds if len({x.hex() for x in fold}) > 1),
        default=0.0,
    )


@dataclass(frozen=True, slots=True)
class PeerResult:
    """One job with one peer: its runs, or the reason why there are none."""

    peer: str
    keeps_row_order: bool
    runs: tuple[Run, ...]
    reason: str | None = None

    def to_figures(self) -> dict[str, float]:
        """Return the medians of the runs; the peak is that above the loaded X."""
        if not self.runs:
            return {}
        peak = statistics.median(run.peak_growth_bytes for run in self.runs)
        return {
            "peak_growth_bytes": peak,
            "peak_growth_ratio": peak / self.runs[0].data_bytes,
            "wall_seconds": statistics.median(run.wall_seconds for run in self.runs),
        }

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "peer": self.peer,
            "keeps_row_order": self.keeps_row_order,
            "reason": self.reason,
            **self.to_figures(),
            "runs": [run.to_dict() for run in self.runs],
        }


@dataclass(frozen=True, slots=True)
class JobTable:
    """One job with all peers."""

    job: str
    results: tuple[PeerResult, ...]

    @property
    def reference(self) -> PeerResult | None:
        """The peer that others are compared with: loky, or the first in exact order."""
        exact = [r for r in self.results if r.runs and r.keeps_row_order]
        return next((r for r in exact if r.peer == "loky"), exact[0] if exact else None)

    def find_unequal(self) -> str | None:
        """Say which scores differ that must be equal to the last bit, None if none."""
        if (reference := self.reference) is None:
            return None
        runs = [run for r in self.results if r.keeps_row_order for run in r.runs]
        return describe_unequal(self.job, reference.runs[0], runs, unit="score")

    def compare_scores(self, result: PeerResult) -> str:
        """Say how the scores of a peer agree with those of the reference."""
        if (reference := self.reference) is None:
            return "not compared"
        first = reference.runs[0]
        if all(run.score_bits == first.score_bits for run in result.runs):
            return "reference" if result is reference else "equal"
        difference = max(largest_difference([first, run]) for run in result.runs)
        return f"differ by {difference:.1g}"

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        return {
            "job": self.job,
            "scores_equal": self.find_unequal() is None,
            "peers": [
                {
                    **result.to_dict(),
                    "scores": self.compare_scores(result) if result.runs else None,
                }
                for result in self.results
            ],
        }

    def to_rows(self) -> Rows:
        """Make a table of the peers that have taken part."""
        rows = [["peer", "peak above X", "in X", "seconds", "scores"]]
        rows += [
            [
                result.peer,
                format_bytes(figures["peak_growth_bytes"]),
                f"{figures['peak_growth_ratio']:.2f}",
                f"{figures['wall_seconds']:.2f}",
                self.compare_scores(result),
            ]
            for result in self.results
            if (figures := result.to_figures())
        ]
        return rows


def add_parser(subcommands: Any) -> None:
    """Add the parser of ``bench`` to those of the other subcommands."""
    parser = add_subcommand(
        subcommands,
        "bench",
        run,
        help="compare memory, time and scores with other backends",
        description=_DESCRIPTION,
    )
    add_numbers(
        parser,
        ("--rows", MIN_ROWS, 200_000, "rows of X"),
        ("--n-features", _MIN_FEATURES, 50, "columns of X"),
        ("--repeat", 1, 1, "how often each is run; the table has medians"),
    )
    add_job_options(parser)
    add_list(parser, "--jobs", _JOBS, "what to run, comma-separated")
    add_list(parser, "--peers", tuple(PEERS), "with what, comma-separated")
    add_json(parser, "tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the jobs, and print what each peer has cost.

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
    data_bytes = arguments.rows * arguments.n_features * FLOAT_BYTES
    check_room(
        ready,
        arguments,
        data="Friedman's function",
        data_bytes=data_bytes,
        advice="Choose fewer --rows, a smaller --n-jobs, or leave it out of --peers.",
    )
    n_runs = len(arguments.jobs) * len(ready) * arguments.repeat
    with running_jobs(n_runs) as run_job:
        tables = [
            JobTable(
                job, tuple(_run_peer(peer, job, arguments, run_job) for peer in peers)
            )
            for job in arguments.jobs
        ]
    if arguments.json:
        _print_json(tables, arguments)
    else:
        title = (
            f"X {arguments.rows:,} x {arguments.n_features}, "
            f"{format_bytes(data_bytes)}; {arguments.n_splits} folds, "
            f"{arguments.n_jobs} workers"
        )
        _print_tables(tables, title)
    unequal = [text for table in tables if (text := table.find_unequal()) is not None]
    if unequal:
        raise CommandError("\n".join(unequal), ExitCode.CHECK_FAILED)
    return ExitCode.OK


def _run_peer(
    peer: Peer,
    job: str,
    arguments: argparse.Namespace,
    run_job: Callable[[str, dict[str, Any]], Run],
) -> PeerResult:
    """Run a job with a peer, each time in a fresh process.

    That a package which is not part of this one does not work is a result, not an
    error.
    """
    spec = {
        "backend": peer.name,
        "peer": peer.name,
        "job": job,
        "data": None,
        "n_rows": arguments.rows,
        "n_features": arguments.n_features,
        "n_jobs": arguments.n_jobs,
        "n_splits": arguments.n_splits,
    }
    reason = peer.reason_to_skip
    runs: list[Run] = []
    try:
        if reason is None:
            name = f"{job}, {peer.name}"
            runs = [run_job(name, spec) for _ in range(arguments.repeat)]
    except CommandError as error:
        if peer.package is None:
            raise
        reason = f"it failed: {error}"
    return PeerResult(peer.name, peer.keeps_row_order, tuple(runs), reason)


def _print_tables(tables: list[JobTable], title: str) -> None:
    for index, table in enumerate(tables):
        if index:
            show("")
        show(f"{table.job}: {title}", table.to_rows())
        for result in table.results:
            if result.reason is not None:
                show(f"{result.peer} has not taken part: {result.reason}.")


def _print_json(tables: list[JobTable], arguments: argparse.Namespace) -> None:
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
