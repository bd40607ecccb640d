"""Does memory stay the same with more workers? Ratios that do not depend on sizes.

The peak of a case is X and what a cross-validation takes above "X loaded, workers
warm"; its estimator reads X and allocates nothing.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from .profiles import PROFILE, make_version

version = make_version(__file__)

_ROWS = 1_000_000

# A fresh process for each case: workers and the allocator of an earlier one would
# be warm. asv's own way to import this suite is not known there.
_PROGRAM = """\
import sys
sys.path.insert(0, sys.argv[1])
from benchmarks.ratios import measure_case
measure_case(*sys.argv[2:])
"""


def measure_case(backend: str, n_jobs_text: str, n_rows_text: str) -> None:
    """Measure one case in this process, and print its peak in bytes."""
    from asv_bench_peaktree import watch
    from sklearn.model_selection import KFold, cross_val_score

    from .data import make_friedman
    from .jobs import Reader, use_backend, warm_up

    n_jobs = int(n_jobs_text)
    X, y = make_friedman(int(n_rows_text))
    reader = Reader(PROFILE.seconds)
    with use_backend(backend, n_jobs):
        warm_up(n_jobs, Reader(0))
        with watch() as peak:
            cross_val_score(reader, X, y, cv=KFold(5), error_score="raise")
    print(json.dumps(X.nbytes + peak.growth_bytes))


def run_case(backend: str, n_jobs: int) -> int:
    """Measure one case in a fresh process and return its peak in bytes."""
    folder = Path(__file__).resolve().parents[1]
    arguments = [backend, str(n_jobs), str(PROFILE.rows(_ROWS))]
    result = subprocess.run(
        [sys.executable, "-c", _PROGRAM, str(folder), *arguments],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return int(json.loads(result.stdout.splitlines()[-1]))


class Ratios:
    params = [PROFILE.detail_n_jobs, PROFILE.detail_backends]
    param_names = ["n_jobs", "backend"]

    def setup_cache(self) -> dict[tuple[str, int], int]:
        cases = {("loky", n_jobs) for n_jobs in PROFILE.detail_n_jobs}
        for backend in PROFILE.detail_backends:
            cases |= {(backend, n_jobs) for n_jobs in [1, *PROFILE.detail_n_jobs]}
        return {case: run_case(*case) for case in sorted(cases)}

    setup_cache.timeout = 3600  # type: ignore[attr-defined]

    def track_over_one_job(self, peaks: Any, n_jobs: int, backend: str) -> float:
        return float(peaks[backend, n_jobs] / peaks[backend, 1])

    track_over_one_job.unit = "peak / peak at n_jobs=1"  # type: ignore[attr-defined]

    def track_over_loky(self, peaks: Any, n_jobs: int, backend: str) -> float:
        return float(peaks[backend, n_jobs] / peaks["loky", n_jobs])

    track_over_loky.unit = "peak / peak under loky"  # type: ignore[attr-defined]
