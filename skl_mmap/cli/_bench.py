"""``skl-mmap bench``: the same jobs with several backends, and what each one costs.

`Peer`, `Comparison` and what makes one serve ``skl-mmap demo`` too.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from skl_mmap import __version__
from skl_mmap._linux import proc
from skl_mmap._units import format_bytes
from skl_mmap.cli._child import run_child
from skl_mmap.cli._command import CheckFailedError, CommandError, ExitCode, Parser
from skl_mmap.cli._console import Rows, show, show_json, showing_progress

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
    """A way to run tasks in parallel: a backend of joblib, perhaps with options.

    `peak_ratios` are the measured peak of the process tree in multiples of X: what does
    not depend on the number of workers (X itself, and the shared copy), and what each
    one adds. A peer takes part if its package is installed, and it has no `problem`.
    """

    name: str
    peak_ratios: tuple[float, float]
    backend: str
    options: dict[str, str] = field(default_factory=dict, kw_only=True)
    package: str | None = field(default=None, kw_only=True)
    problem: str | None = field(default=None, kw_only=True)

    @property
    def keeps_row_order(self) -> bool:
        """Whether train rows come in the order of the splitter."""
        return self.options.get("row_order") != "any"

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
        Peer("threading", (1.0, 2.1), "threading"),
        Peer("loky", (2.0, 2.25), "loky"),
        Peer("mmap", (2.0, 1.0), "mmap"),
        Peer("mmap-any", (2.0, 1.0), "mmap", options={"row_order": "any"}),
        Peer("dask", (2.0, 2.25), "dask", package="distributed"),
        Peer("ray", (3.0, 2.5), "ray", package="ray"),
        Peer("mlens", (0.0, 0.0), "mlens", problem=_MLENS),
    )
}


@dataclass(frozen=True, slots=True)
class Run:
    """One job on one data set with one peer, and what it has cost.

    Memory is that committed by the process tree: the baseline with X loaded and workers
    warm, the peak at the worst moment of the job, and their difference. Time is that of
    the job alone. Scores are those of the folds, or whatever else must be equal. Rows
    of folds were mapped, or copied and why, over all tasks: None if the backend does
    not say.
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


@dataclass(frozen=True, slots=True)
class PeerResult:
    """One job with one peer: its runs, or the reason why there are none."""

    peer: Peer
    runs: tuple[Run, ...]
    reason: str | None = None

    def median(self, name: str) -> float:
        """Return the median of an attribute of the runs."""
        return float(statistics.median(getattr(run, name) for run in self.runs))

    def to_dict(self) -> dict[str, Any]:
        """Return all of it, as JSON can hold it."""
        figures = ("peak_growth_bytes", "peak_growth_ratio", "wall_seconds")
        return {
            "peer": self.peer.name,
            "keeps_row_order": self.peer.keeps_row_order,
            "reason": self.reason,
            **{name: self.median(name) for name in figures if self.runs},
            "runs": [run.to_dict() for run in self.runs],
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """One job on one data set with several peers.

    `tolerance` is for scores of peers that have another order of rows; without one they
    are not checked. `unit` is what each score belongs to.
    """

    where: str
    results: tuple[PeerResult, ...]
    tolerance: float | None = None
    unit: str = "score"

    @property
    def runs(self) -> list[Run]:
        """All runs of all peers."""
        return [run for result in self.results for run in result.runs]

    @property
    def reference(self) -> PeerResult | None:
        """The peer that others are compared with: loky, or the first in exact order."""
        exact = [r for r in self.results if r.runs and r.peer.keeps_row_order]
        loky = (result for result in exact if result.peer.name == "loky")
        return next(loky, exact[0] if exact else None)

    def find_unequal(self) -> str | None:
        """Say which scores differ that must be equal, None if there are none.

        Rows in the same order must give the same scores to the last bit. Rows in
        another order must give the same scores but for rounding, if the model does
        not depend on it; if it does, there is nothing to check.
        """
        if (reference := self.reference) is None:
            return None
        exact: list[Run] = []
        others: list[Run] = []
        for result in self.results:
            (exact if result.peer.keeps_row_order else others).extend(result.runs)
        problem = self._tell_unequal(reference.runs[0], exact, 0.0)
        if problem is None and self.tolerance is not None:
            return self._tell_unequal(reference.runs[0], others, self.tolerance)
        return problem

    def _tell_unequal(
        self, first: Run, others: Sequence[Run], tolerance: float
    ) -> str | None:
        how = f"within {tolerance:g}" if tolerance else "to the last bit"
        for other in others:
            pairs = zip(first.scores, other.scores, strict=True)
            for index, (a, b) in enumerate(pairs):
                if a.hex() == b.hex() or (tolerance and abs(a - b) <= tolerance):
                    continue
                return (
                    f"on {self.where}, the scores under {first.backend} and "
                    f"{other.backend} are not equal {how}: {self.unit} {index} has "
                    f"{a!r} and {b!r}. A backend must not change results: please "
                    "report it, with the output of --json."
                )
        return None

    def compare_scores(self, result: PeerResult) -> str:
        """Say how the scores of a peer agree with those of the reference."""
        if (reference := self.reference) is None:
            return "not compared"
        first = reference.runs[0]
        if all(run.score_bits == first.score_bits for run in result.runs):
            return "reference" if result is reference else "equal"
        difference = max(largest_difference([first, run]) for run in result.runs)
        return f"differ by {difference:.1g}"

    def to_rows(self) -> Rows:
        """Make a table of what each peer has cost that has taken part."""
        names = ("peak above X", "in X", "seconds", "mapped", "copied", "scores")
        rows = [["backend", *names]]
        for result in self.results:
            if not result.runs:
                continue
            # Only workers of the backend "mmap" report about their tasks.
            is_told = all(run.mapped_bytes is not None for run in result.runs)
            selected = [
                format_bytes(result.median(name)) if is_told else "-"
                for name in ("mapped_bytes", "copied_bytes")
            ]
            rows.append(
                [
                    result.peer.name,
                    format_bytes(result.median("peak_growth_bytes")),
                    f"{result.median('peak_growth_ratio'):.2f}",
                    f"{result.median('wall_seconds'):.2f}",
                    *selected,
                    self.compare_scores(result),
                ]
            )
        return rows

    def print_table(self, arguments: argparse.Namespace) -> None:
        """Print the table, and why peers have not taken part."""
        title = f"{self.where}: "
        if self.runs:
            n_rows, n_features = self.runs[0].shape
            data_bytes = format_bytes(self.runs[0].data_bytes)
            title += f"X {n_rows:,} x {n_features}, {data_bytes}; "
        title += f"{arguments.n_splits} folds, {arguments.n_jobs} workers"
        show(title, self.to_rows())
        for result in self.results:
            if result.reason is not None:
                show(f"{result.peer.name} has not taken part: {result.reason}.")


def largest_difference(runs: Sequence[Run]) -> float:
    """Return the largest difference between scores of the same fold in two runs."""
    folds = zip(*(run.scores for run in runs), strict=True)
    return max(
        (max(fold) - min(fold) for fold in folds if len({x.hex() for x in fold}) > 1),
        default=0.0,
    )


def check_room(
    peers: Sequence[Peer],
    arguments: argparse.Namespace,
    *,
    data: str,
    data_bytes: int,
    advice: str,
) -> None:
    """Refuse to start what would end in the kernel's out-of-memory killer."""
    n_workers = min(arguments.n_jobs, arguments.n_splits)
    available = proc.available_memory_bytes()
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


RunPeer = Callable[[Peer, str, dict[str, Any]], PeerResult]


@contextlib.contextmanager
def running_peers(n_runs: int, arguments: argparse.Namespace) -> Iterator[RunPeer]:
    """Run jobs in fresh processes, and show how far they are.

    Yields a function that runs a job with a peer: it takes the peer, the name of the
    job, and the rest of the spec of `skl_mmap.cli._work.work`. What children wrote to
    stderr, warnings say, is printed at the end, each text once.
    """
    notes: dict[str, None] = {}

    def run_once(peer: Peer, name: str, spec: dict[str, Any]) -> Run:
        result, messages = run_child(
            "skl_mmap.cli._work",
            {
                **spec,
                "peer": peer.name,
                "backend": peer.backend,
                "options": peer.options,
                "n_jobs": arguments.n_jobs,
                "n_splits": arguments.n_splits,
            },
            on_step=lambda step: begin_step(f"{name}, {peer.name}: {step}"),
            environment=_ENVIRONMENT,
        )
        if messages:
            notes[messages] = None
        return Run.from_result(result)

    def run_peer(peer: Peer, name: str, spec: dict[str, Any]) -> PeerResult:
        if peer.reason_to_skip is not None:
            return PeerResult(peer, (), peer.reason_to_skip)
        n_repeats = getattr(arguments, "repeat", 1)
        try:
            runs = [run_once(peer, name, spec) for _ in range(n_repeats)]
        except CommandError as error:
            # That a package which is not ours does not work is a result.
            if peer.package is None:
                raise
            return PeerResult(peer, (), f"it failed: {error}")
        return PeerResult(peer, tuple(runs))

    with showing_progress(n_runs * _STEPS_PER_RUN) as begin_step:
        yield run_peer
    for note in notes:
        print(note, file=sys.stderr)


def raise_unequal(comparisons: Sequence[Comparison]) -> None:
    """Raise an error if scores differ that must be equal."""
    found = [comparison.find_unequal() for comparison in comparisons]
    if unequal := [text for text in found if text is not None]:
        raise CheckFailedError("\n".join(unequal))


def add_parser(whole: Parser) -> None:
    """Add the parser of ``bench`` to the whole one."""
    parser = whole.add_subcommand(
        "bench",
        run,
        help="compare memory, time and scores with other backends",
        description=_DESCRIPTION,
    )
    parser.add_integer("--rows", MIN_ROWS, 200_000, "rows of X")
    parser.add_integer("--n-features", _MIN_FEATURES, 50, "columns of X")
    text = "how often each is run; the table has medians"
    parser.add_integer("--repeat", 1, 1, text)
    parser.add_job_options()
    parser.add_list("--jobs", _JOBS, "what to run")
    parser.add_list("--peers", tuple(PEERS), "with what")
    parser.add_json("tables")


def run(arguments: argparse.Namespace) -> int:
    """Run the jobs, and print what each peer has cost."""
    peers = [PEERS[name] for name in arguments.peers]
    ready = [peer for peer in peers if peer.reason_to_skip is None]
    if not ready:
        reasons = "; ".join(f"{peer.name}: {peer.reason_to_skip}" for peer in peers)
        raise CommandError(f"none of the peers can take part ({reasons}).")
    check_room(
        ready,
        arguments,
        data="Friedman's function",
        data_bytes=arguments.rows * arguments.n_features * FLOAT_BYTES,
        advice="Choose fewer --rows, a smaller --n-jobs, or leave it out of --peers.",
    )
    n_runs = len(arguments.jobs) * len(ready) * arguments.repeat
    shape = {"n_rows": arguments.rows, "n_features": arguments.n_features}
    with running_peers(n_runs, arguments) as run_peer:
        comparisons = []
        for job in arguments.jobs:
            spec = {"job": job, "folder": None, **shape}
            results = tuple(run_peer(peer, job, spec) for peer in peers)
            comparisons.append(Comparison(job, results))
    if arguments.json:
        names = ("n_jobs", "n_splits", "repeat")
        settings = {name: getattr(arguments, name) for name in names}
        jobs = [_to_dict(comparison) for comparison in comparisons]
        show_json({"version": __version__, **shape, **settings, "jobs": jobs})
    else:
        for comparison in comparisons:
            if comparison is not comparisons[0]:
                show("")
            comparison.print_table(arguments)
    raise_unequal(comparisons)
    return ExitCode.OK


def _to_dict(comparison: Comparison) -> dict[str, Any]:
    """Return a job with all peers, as JSON can hold it."""
    peers = []
    for result in comparison.results:
        scores = comparison.compare_scores(result) if result.runs else None
        peers.append({**result.to_dict(), "scores": scores})
    is_equal = comparison.find_unequal() is None
    return {"job": comparison.where, "scores_equal": is_equal, "peers": peers}
