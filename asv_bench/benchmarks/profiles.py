"""How large the benchmarks are: quick, regular or full."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

__all__ = ["PROFILE", "Profile", "make_version"]

_VARIABLE = "SKL_MMAP_BENCH_PROFILE"


@dataclass(frozen=True, slots=True)
class Profile:
    """Sizes and parameters of all benchmarks.

    Attributes
    ----------
    scale : float
        Rows of a benchmark, over those at full size.
    n_passes : int
        How often gradient descent goes through the rows. A peak is that of tasks that
        run at the same time, so they must be long beside what it takes to start one.
    seconds : float
        How long a task lasts that only reads or holds an array.
    rounds : int
        In how many processes memory is measured.
    n_jobs, n_splits : list of int
        Values of these parameters.
    backends : list of str
        Of `jobs.BACKENDS`.
    detail_backends : list of str
        Backends in all benchmarks but the first one.
    is_quick : bool
        Whether what only adds detail is left out.
    """

    scale: float
    n_passes: int
    seconds: float
    rounds: int
    n_jobs: list[int]
    n_splits: list[int]
    backends: list[str]
    detail_backends: list[str]
    is_quick: bool = False

    @property
    def detail_n_jobs(self) -> list[int]:
        """Numbers of workers that are worth a process each."""
        return [n_jobs for n_jobs in self.n_jobs if n_jobs > 1]

    def rows(self, n: int) -> int:
        """Return a number of rows for the size asked for."""
        return max(int(n * self.scale), 1000)


_BACKENDS = ["loky", "threading", "mmap", "mmap, any row order"]

_PROFILES = {
    "quick": Profile(
        scale=0.02,
        n_passes=10,
        seconds=0.3,
        rounds=1,
        n_jobs=[2],
        n_splits=[3],
        backends=["loky", "mmap"],
        detail_backends=["mmap"],
        is_quick=True,
    ),
    "regular": Profile(
        scale=0.2,
        n_passes=10,
        seconds=1.0,
        rounds=1,
        n_jobs=[1, 2, 4],
        n_splits=[2, 5],
        backends=_BACKENDS,
        detail_backends=["loky", "mmap", "mmap, any row order"],
    ),
    "full": Profile(
        scale=1.0,
        n_passes=5,
        seconds=3.0,
        rounds=3,
        n_jobs=[1, 2, 4, 8],
        n_splits=[2, 5, 10],
        backends=_BACKENDS,
        detail_backends=_BACKENDS,
    ),
}


def _find_profile() -> Profile:
    name = os.environ.get(_VARIABLE, "regular")
    if name not in _PROFILES:
        raise ValueError(
            f"{_VARIABLE}={name!r} is not a size of the benchmarks. "
            f"Set it to one of {', '.join(_PROFILES)}."
        )
    return _PROFILES[name]


PROFILE = _find_profile()


def make_version(*files: str | Path) -> str:
    """Name the version of the benchmarks in a module, for its attribute `version`.

    asv compares results of one version only. It would not notice another size of the
    data, nor a change of what is called from the benchmark.
    """
    parts = [repr(PROFILE).encode(), *(Path(file).read_bytes() for file in files)]
    return hashlib.sha256(b"".join(parts)).hexdigest()
