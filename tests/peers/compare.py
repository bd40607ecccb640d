"""Run one suite over both backends and compare what failed.

loky's side is kept from run to run, as long as neither the versions of what takes part
nor the way in which suites are run has changed. It is in ``SKL_MMAP_PEERS_CACHE``, or
in ``skl_mmap/peers`` of the user's cache folder, beside the last results of each suite.
"""

from __future__ import annotations

import hashlib
import os
import platform
from dataclasses import dataclass, field
from importlib.metadata import distributions
from pathlib import Path

from tests.peers.differences import DIFFERENCES
from tests.peers.outcomes import BAD, Run
from tests.peers.run_suite import run_suite
from tests.peers.suites import Suite

__all__ = ["OURS", "REFERENCE", "Comparison", "compare"]

OURS = "mmap"
REFERENCE = "loky"

# A test that differs is run again on both backends this many times. Some are about time
# and fail now and then: what does not differ again is reported, but is no difference.
N_RERUNS = 2

# Ours must run as many tasks as loky; some are not reached where a test fails, or are
# reached or not depending on time.
MIN_TASK_RATIO = 0.95


@dataclass(slots=True)
class Comparison:
    """What one suite came to over both backends.

    Attributes
    ----------
    reference, ours : Run
        Over loky and over our backend.
    expected : dict of str to str
        Ids of tests that differ and are expected to, and the reason.
    unexpected : dict of str to str
        Ids of tests that differ, and how.
    unsteady : dict of str to str
        Ids of tests that differed once and not again, and how.
    outdated : list of str
        Ids of tests that are expected to differ, and do not.
    """

    reference: Run
    ours: Run
    expected: dict[str, str] = field(default_factory=dict)
    unexpected: dict[str, str] = field(default_factory=dict)
    unsteady: dict[str, str] = field(default_factory=dict)
    outdated: list[str] = field(default_factory=list)

    def list_problems(self, min_submits: int) -> list[str]:
        """Return everything that must not be, one paragraph each."""
        problems = [f"{name}\n    {how}" for name, how in self.unexpected.items()]
        problems += [f"{name}\n    differs no more" for name in self.outdated]
        problems += [
            f"{run.backend} got {run.submits} batches, expected at least {min_submits}"
            for run in (self.reference, self.ours)
            if run.submits < min_submits
        ]
        tasks, expected_tasks = self.ours.tasks, self.reference.tasks
        if tasks < MIN_TASK_RATIO * expected_tasks:
            problems.append(f"{OURS} ran {tasks} tasks, {REFERENCE} {expected_tasks}")
        if not self.ours.shared:
            problems.append("no array was shared")
        problems += [f"{OURS}: {trouble}" for trouble in self.ours.troubles]
        return problems


def compare(suite: Suite) -> Comparison:
    """Run a suite over both backends, and again the tests that differ."""
    cache = _cache_folder()
    reference = _run_reference(suite, cache)
    ours = run_suite(suite, OURS)
    ours.save(cache / f"{suite.name}-{OURS}.json")

    comparison = Comparison(reference, ours)
    differing = _list_differing(reference, ours)
    for name in differing | (reference.outcomes.keys() & ours.outcomes.keys()):
        reason = _find_reason(name, reference, ours)
        if name in differing and reason:
            comparison.expected[name] = reason
        elif name in differing:
            comparison.unexpected[name] = _describe(name, reference, ours)
        elif any(difference.matches(name) for difference in DIFFERENCES):
            comparison.outdated.append(name)
    _set_unsteady_apart(suite, comparison)
    return comparison


def _set_unsteady_apart(suite: Suite, comparison: Comparison) -> None:
    """Run unexpected differences again, and keep those that differ again."""
    doubtful = set(comparison.unexpected)
    for _ in range(N_RERUNS):
        if not doubtful:
            return
        again = [run_suite(suite, name, doubtful) for name in (REFERENCE, OURS)]
        doubtful -= _list_differing(*again)
    for name in doubtful:
        comparison.unsteady[name] = comparison.unexpected.pop(name)


def _list_differing(reference: Run, ours: Run) -> set[str]:
    """Return the tests that failed on one side only, or are there on one side only."""
    there = reference.outcomes.keys() ^ ours.outcomes.keys()
    return there | (reference.failures ^ ours.failures)


def _find_reason(name: str, *runs: Run) -> str:
    """Return why a test is expected to fail where it failed, empty if it is not."""
    fails_on = [run.backend for run in runs if name in run.failures]
    if not all(name in run.outcomes for run in runs):
        return ""
    reasons = (
        difference.reason
        for difference in DIFFERENCES
        if [difference.fails_on] == fails_on and difference.matches(name)
    )
    return next(reasons, "")


def _describe(name: str, *runs: Run) -> str:
    parts = []
    for run in runs:
        test = run.outcomes.get(name)
        part = f"{run.backend}: {'did not run' if test is None else test.outcome}"
        if test is not None and test.outcome in BAD:
            part += f" ({test.message.splitlines()[0] if test.message else ''})"
        parts.append(part)
    return "; ".join(parts)


def _run_reference(suite: Suite, cache: Path) -> Run:
    """Return loky's side, from an earlier run if nothing has changed since."""
    path = cache / f"{suite.name}-{REFERENCE}-{_key(suite)}.json"
    if path.exists():
        return Run.load(path)
    run = run_suite(suite, REFERENCE)
    run.save(path)
    return run


def _key(suite: Suite) -> str:
    """Return a hash of what a run over loky depends on."""
    here = Path(__file__).parent
    sources = [(here / name).read_text() for name in ("plugin.py", "run_suite.py")]
    # All: optional dependencies decide which tests are skipped.
    versions = sorted(
        f"{distribution.name} {distribution.version}"
        for distribution in distributions()
        if distribution.name != "skl-mmap"
    )
    parts = [platform.python_version(), *versions, *sources, repr(suite)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]


def _cache_folder() -> Path:
    chosen = os.environ.get("SKL_MMAP_PEERS_CACHE")
    if chosen:
        return Path(chosen)
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(user_cache) / "skl_mmap" / "peers"
