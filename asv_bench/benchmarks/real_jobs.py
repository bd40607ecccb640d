"""Real jobs of the corpus: their growth under "mmap", over that under loky."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from .profiles import PROFILE, make_version

_FOLDER = Path(__file__).resolve().parents[1]
# Last, so that the package is the installed one, not that of the checkout.
sys.path.append(str(_FOLDER))
_jobs: Any = importlib.import_module("corpus.jobs")
_runs: Any = importlib.import_module("corpus.runs")

version = make_version(__file__, *sorted((_FOLDER / "corpus").glob("*.py")))

_FEW = ("forest_grid_array", "sgd_frame", "logistic_path", "stack", "own_jackknife")
if PROFILE.is_quick:
    _SETTINGS = _runs.Settings(n_bytes=3_000_000, n_jobs=2)
elif PROFILE.scale < 1:
    _SETTINGS = _runs.Settings(n_bytes=16_000_000)
else:
    _SETTINGS = _runs.Settings()
_JOBS = {
    job.name: job
    for job in _jobs.select_jobs(
        _FEW[:1] if PROFILE.is_quick else _FEW if PROFILE.scale < 1 else ()
    )
}


class RealJobs:
    params = [list(_JOBS)]
    param_names = ["job"]
    timeout = 2 * _SETTINGS.timeout_seconds

    def setup(self, job: str) -> None:
        if (reason := _JOBS[job].reason_to_skip) is not None:
            raise NotImplementedError(f"{job}: {reason}")

    def track_growth_over_loky(self, job: str) -> float:
        costs = [
            _runs.run_once(_JOBS[job], backend, _SETTINGS)
            for backend in ("mmap", "loky")
        ]
        ours, theirs = costs
        if ours.digests != theirs.digests:
            raise ValueError(f"the result of {job} under mmap is not that under loky")
        return float(ours.growth_bytes / theirs.growth_bytes)

    track_growth_over_loky.unit = "growth / growth under loky"  # type: ignore[attr-defined]
