"""One job under one backend, in a process of its own.

::

    parent: runs.py, spec --> work(spec)
                               |  a small run here, which imports what the job needs
                               |  committed memory: this interpreter
                               |  workers start, each with a small run
                               |  committed memory: their interpreters too
                               |  X is made
                               v
                              measure() around the job --> what it cost, its digests
"""

from __future__ import annotations

import faulthandler
import gc
import os
import time
import warnings
from collections.abc import Callable
from typing import Any

import psutil
from joblib import Parallel, delayed, parallel_config

import skl_mmap
from skl_mmap.monitor import read_committed

from .data import count_bytes
from .digests import digest_parts
from .jobs import Job, find_job

__all__ = ["work"]

_WARM_BYTES = 400_000
_WARM_SECONDS = 0.1
_MAX_ROUNDS = 10


def work(spec: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Run a job once; return what makes a `runs.Cost`.

    The spec has ``family`` and ``name`` of the job, ``n_bytes`` (of X), ``backend`` and
    ``options`` (joblib's), ``n_jobs``, and ``seconds`` after which the process ends and
    says where it was.
    """
    faulthandler.dump_traceback_later(spec["seconds"], exit=True)
    warnings.simplefilter("ignore")
    announce("starting")
    job = find_job(spec["family"], spec["name"])
    # In this process alone: a job that says how many workers it wants starts some.
    with parallel_config("threading", n_jobs=1):
        job.run(*job.make(_WARM_BYTES))
    alone_bytes = _read_committed()
    with parallel_config(spec["backend"], n_jobs=spec["n_jobs"], **spec["options"]):
        warm(job, spec["n_jobs"])
        interpreter_bytes = _read_committed() - alone_bytes
        X, y = job.make(spec["n_bytes"])
        gc.collect()
        announce("running")
        cpu_seconds = _count_busy_seconds()
        with skl_mmap.measure() as measured:
            result = job.run(X, y)
        cost = measured.report(input_bytes=count_bytes(X))
        other_seconds = _count_busy_seconds() - cpu_seconds - cost.cpu_seconds
    faulthandler.cancel_dump_traceback_later()
    return {
        "digests": digest_parts(result),
        "data_bytes": cost.input_bytes,
        "growth_bytes": cost.peak_growth_bytes,
        "interpreter_bytes": interpreter_bytes,
        "wall_seconds": cost.wall_seconds,
        "other_cores": max(0.0, other_seconds / cost.wall_seconds),
        "n_new_processes": cost.n_new_processes,
        **_divide_growth(cost),
        "mapped_bytes": cost.mapped_bytes,
        "copied_bytes": cost.copied_bytes,
        "copy_reasons": cost.copy_reasons,
        "task_copied_bytes": max((r.copied_bytes for r in cost.records), default=None),
        "task_private_bytes": max(
            (t.private_bytes or 0 for t in cost.tasks), default=None
        ),
        "notes": list(cost.notes),
    }


def warm(job: Job, n_jobs: int) -> None:
    """Start all workers, and have each of them import what the job needs.

    Each task waits, since a quick worker would otherwise take the tasks of those that
    are still starting.
    """
    task = delayed(_run_small)(job.family, job.name)
    seen: set[int] = set()
    for _ in range(_MAX_ROUNDS):
        pids = Parallel(batch_size=1, pre_dispatch="all")([task] * n_jobs)
        seen.update(pids)
        if len(seen) >= n_jobs or os.getpid() in seen:
            break
    # And this process does once what it does to give tasks to workers.
    job.run(*job.make(_WARM_BYTES))


def _run_small(family: str, name: str) -> int:
    warnings.simplefilter("ignore")
    job = find_job(family, name)
    job.run(*job.make(_WARM_BYTES))
    time.sleep(_WARM_SECONDS)
    return os.getpid()


def _read_committed() -> int:
    gc.collect()
    return read_committed().committed_bytes


def _count_busy_seconds() -> float:
    """Return for how long all cores together have been busy, since the start."""
    times = psutil.cpu_times()
    # Guests are in "user" and "nice" already.
    idle = ("idle", "iowait", "guest", "guest_nice")
    return sum(seconds for name, seconds in times._asdict().items() if name not in idle)


def _divide_growth(cost: skl_mmap.MemoryReport) -> dict[str, int]:
    """Divide the growth at the peak by who has it; the parts add up to all of it."""
    own_bytes = sum(
        holder.n_bytes - holder.before_bytes
        for holder in cost.holders
        if holder.role == "this process"
    )
    shared_bytes = cost.peak.shared_bytes - cost.timeline[0].shared_bytes
    return {
        "own_bytes": own_bytes,
        "shared_bytes": shared_bytes,
        "worker_bytes": cost.peak_growth_bytes - own_bytes - shared_bytes,
    }
