"""Run jobs in fresh processes, and keep what they cost.

::

    run_jobs(jobs, settings, results)
       |   job by job, backend by backend; what is in `results` already is not run again
       v
    run_child --> child.work --> Cost, or the error that it has ended with
       v
    Results --> JSON, written after each run
"""

from __future__ import annotations

import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from skl_mmap.cli._child import run_child
from skl_mmap.cli._command import CommandError

from .jobs import N_JOBS, Job, installed_name

__all__ = ["BACKENDS", "Cost", "Results", "ResultsError", "Settings", "run_jobs"]

BACKENDS = ("loky", "threading", "mmap")
"""All that a job is run under; the first is what others are compared with."""

_PACKAGES = ("joblib", "loky", "numpy", "pandas", "scikit-learn", "skl-mmap")
# One thread for linear algebra and trees in every process: more would compete for the
# cores that the workers have. The order of sets is the same in all of them.
_ENVIRONMENT = {
    **dict.fromkeys(
        (
            "OMP_NUM_THREADS",
            "OPENBLAS_NUM_THREADS",
            "MKL_NUM_THREADS",
            "NUMBA_NUM_THREADS",
        ),
        "1",
    ),
    "PYTHONHASHSEED": "0",
    "PYTHONWARNINGS": "ignore",
}


class ResultsError(ValueError):
    """Results that cannot be gone on with."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How jobs are run.

    Attributes
    ----------
    n_bytes : int
        Size of X.
    n_jobs : int
        Number of workers.
    n_repeats : int
        How often a job runs under each backend.
    timeout_seconds : int
        After which a run is given up.
    options : dict of str to object
        Parameters of the backend "mmap" that are not the defaults.
    """

    n_bytes: int = 48_000_000
    n_jobs: int = N_JOBS
    n_repeats: int = 1
    timeout_seconds: int = 180
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cost:
    """What one run of a job cost.

    Attributes
    ----------
    digests : dict of str to str
        Of each part of the result: see `digests.digest_parts`.
    data_bytes : int
        Size of X.
    growth_bytes : int
        Committed memory at the peak, above that with X loaded and workers warm.
    interpreter_bytes : int
        Committed memory of warm workers, and of what starts them.
    own_bytes, shared_bytes, worker_bytes : int
        The growth at the peak: private memory of this process, files in memory, private
        memory of all other processes.
    n_new_processes : int
        Processes at the peak that have started during the job.
    wall_seconds : float
        Duration of the job.
    other_cores : float
        How many cores were busy meanwhile with something else.
    mapped_bytes, copied_bytes : int
        Folds that were mapped and copied, over all tasks; 0 unless under "mmap".
    copy_reasons : dict of str to int
        Why, and how many bytes, largest first.
    task_copied_bytes : int or None
        Folds that one task has copied, at most; None if tasks do not say.
    task_private_bytes : int or None
        Private memory that one task has needed beside them, at most.
    notes : list of str
        What the report says was done in another way.
    """

    digests: dict[str, str]
    data_bytes: int
    growth_bytes: int
    interpreter_bytes: int
    own_bytes: int
    shared_bytes: int
    worker_bytes: int
    n_new_processes: int
    wall_seconds: float
    other_cores: float
    mapped_bytes: int
    copied_bytes: int
    copy_reasons: dict[str, int]
    task_copied_bytes: int | None
    task_private_bytes: int | None
    notes: list[str]


@dataclass(slots=True)
class Results:
    """What is known so far; goes to JSON and comes back.

    Attributes
    ----------
    settings : Settings
        How jobs were run.
    date : str
        When the last one was.
    machine : dict
        What figures depend on.
    titles : dict of str to str
        Of the jobs, in their order.
    skipped : dict of str to str
        Jobs that could not be run, and why.
    costs : dict of str to dict of str to list of Cost
        By job and backend, a cost for each repeat.
    errors : dict of str to dict of str to str
        By job and backend, how a run has failed.
    """

    settings: Settings
    date: str = ""
    machine: dict[str, Any] = field(default_factory=dict)
    titles: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    costs: dict[str, dict[str, list[Cost]]] = field(default_factory=dict)
    errors: dict[str, dict[str, str]] = field(default_factory=dict)

    def median(self, job: str, backend: str, name: str) -> float | None:
        """Return the median of a figure over the repeats; None if there are none."""
        costs = self.costs.get(job, {}).get(backend, [])
        if not costs:
            return None
        return statistics.median(getattr(cost, name) for cost in costs)

    def find_unequal(self, job: str, backend: str) -> list[str] | None:
        """List the parts of a result that are not those of loky; None if not known."""
        ours = self.costs.get(job, {}).get(backend, [])
        theirs = self.costs.get(job, {}).get(BACKENDS[0], [])
        if not ours or not theirs:
            return None
        expected = theirs[0].digests
        return sorted(
            name
            for name in {*expected, *(name for cost in ours for name in cost.digests)}
            if any(cost.digests.get(name) != expected.get(name) for cost in ours)
        )

    def save(self, path: Path) -> None:
        """Write everything; an end in between leaves the file as it was."""
        beside = path.with_name(f"{path.name}.part")
        beside.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")
        beside.replace(path)

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` has written."""
        content = json.loads(path.read_text(encoding="utf-8"))
        content["settings"] = Settings(**content["settings"])
        content["costs"] = {
            job: {
                backend: [Cost(**cost) for cost in costs]
                for backend, costs in backends.items()
            }
            for job, backends in content["costs"].items()
        }
        return cls(**content)

    def check_settings(self, settings: Settings) -> None:
        """Refuse to go on in another way than these were begun.

        Raises
        ------
        ResultsError
            If runs of both would not be comparable.
        """
        mine, theirs = asdict(self.settings), asdict(settings)
        changed = {
            name: (mine[name], theirs[name])
            for name in ("n_bytes", "n_jobs", "options")
            if mine[name] != theirs[name]
        }
        if changed:
            text = ", ".join(f"{k} was {a} and is {b}" for k, (a, b) in changed.items())
            raise ResultsError(
                f"These results were begun in another way: {text}. Their figures "
                "cannot stand in one table. Choose the same, or another file."
            )


def describe_machine(jobs: Sequence[Job]) -> dict[str, Any]:
    """Return what figures depend on: system, cores, versions."""
    packages = {installed_name(name) for job in jobs for name in job.packages}
    versions = {}
    for name in sorted({*_PACKAGES, *packages}, key=str.lower):
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "system": platform.system(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "versions": versions,
    }


def run_jobs(
    jobs: Sequence[Job],
    backends: Sequence[str],
    results: Results,
    on_change: Callable[[], object] = lambda: None,
) -> Iterator[str]:
    """Run what is not known yet, and yield the name of each job that is done.

    Parameters
    ----------
    jobs : sequence of Job
        Which jobs.
    backends : sequence of str
        Of `BACKENDS`.
    results : Results
        Gets what is found.
    on_change : callable
        Called after each run.
    """
    results.machine = describe_machine(jobs)
    for job in jobs:
        results.titles[job.name] = job.title
        results.skipped.pop(job.name, None)
        if job.reason_to_skip is not None:
            results.skipped[job.name] = job.reason_to_skip
            yield job.name
            continue
        for backend in backends:
            known = results.costs.setdefault(job.name, {}).setdefault(backend, [])
            errors = results.errors.setdefault(job.name, {})
            while len(known) < results.settings.n_repeats:
                errors.pop(backend, None)
                try:
                    known.append(run_once(job, backend, results.settings))
                except CommandError as error:
                    errors[backend] = str(error)
                    break
                finally:
                    results.date = datetime.date.today().isoformat()
                    on_change()
        yield job.name


def run_once(job: Job, backend: str, settings: Settings) -> Cost:
    """Run a job under a backend in a fresh process.

    Raises
    ------
    CommandError
        If it has ended without a result: with what it has said last.
    """
    start = time.monotonic()
    spec = {
        "family": job.family,
        "name": job.name,
        "n_bytes": settings.n_bytes,
        "n_jobs": settings.n_jobs,
        "backend": backend,
        "options": settings.options if backend == "mmap" else {},
        "seconds": settings.timeout_seconds,
    }
    try:
        result, _ = run_child(f"{__package__}.child", spec, environment=_ENVIRONMENT)
    except CommandError as error:
        seconds = time.monotonic() - start
        if seconds >= settings.timeout_seconds:
            raise CommandError(f"no result after {seconds:.0f} s\n{error}") from error
        raise
    return Cost(**result)
