"""What is left behind: after many calls, and after SIGKILL."""

from __future__ import annotations

import gc
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from joblib import Parallel, delayed, parallel_config

from scenarios import trees
from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child

__all__ = ["leaks", "sigkill"]

_CALLS = 1000
_FIRST_CALLS = 50
_SMALL_BYTES = 8_000
_LARGE_BYTES = 2_000_000
_VICTIM_BYTES = 160_000_000
_WAIT_SECONDS = 5.0
_START_SECONDS = 60.0
_MARKER = "SKL_MMAP_SIGKILL_SCENARIO"

_VICTIM = """\
import sys
sys.path[:] = {path!r}
from scenarios.endings import run_victim
run_victim({backend!r}, {folder!r}, {n_bytes})
"""


def leaks(settings: Settings) -> Iterator[Row]:
    """Many calls in one process, each with fresh arrays."""
    n_calls = settings.scale(_CALLS)
    counts = call_in_child(count_calls, n_calls=n_calls)
    for name, early in counts["early"].items():
        late = counts["late"][name]
        yield Row(
            "leaks",
            f"{name}, call {_FIRST_CALLS} to {n_calls}",
            [late - early],
            "more",
            target=0,
            note=f"{early} to {late}",
            details=counts,
        )


def count_calls(n_calls: int) -> dict[str, Any]:
    """Count what the tree holds after some calls and after all; runs in a child."""
    random = np.random.default_rng(0)
    early: dict[str, int] = {}
    with parallel_config(backend="mmap", n_jobs=2):
        warm(2)
        for call in range(1, n_calls + 1):
            arrays = [
                random.random(n_bytes // 8)
                for n_bytes in (_SMALL_BYTES, _LARGE_BYTES, _LARGE_BYTES)
            ]
            Parallel()(delayed(np.sum)(array) for array in arrays)
            del arrays
            if call in (_FIRST_CALLS, n_calls):
                # Workers let go of their last task's arrays with the next one.
                Parallel()(delayed(gc.collect)() for _ in range(4))
                gc.collect()
                early, late = early or {}, trees.count_held(trees.list_tree())
                early = early or late
    return {"early": early, "late": late}


def sigkill(settings: Settings) -> Iterator[Row]:
    """SIGKILL in the middle of a job: of the whole group, and of the parent alone."""
    n_bytes = settings.scale(_VICTIM_BYTES)
    for backend in ("mmap", "loky"):
        for whom in ("group", "parent"):
            left = _kill_victim(backend, whom, n_bytes)
            target = 0 if backend == "mmap" else None
            case = f"{backend}, {whom} killed"
            yield Row(
                "sigkill",
                f"{case}: memory left",
                [left["bytes"] / 2**20],
                "MiB",
                target,
                note=", ".join(f"{n} {name}" for name, n in left["names"].items()),
                details=left,
            )
            yield Row(
                "sigkill",
                f"{case}: processes left",
                [left["processes"]],
                "",
                target,
                details=left,
            )


def _kill_victim(backend: str, whom: str, n_bytes: int) -> dict[str, Any]:
    """Kill a busy process and look at what is left; clean up after it."""
    marker = uuid.uuid4().hex
    with tempfile.TemporaryDirectory() as folder:
        code = _VICTIM.format(
            path=sys.path, backend=backend, folder=folder, n_bytes=n_bytes
        )
        victim = subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, _MARKER: marker, "TMPDIR": folder},
            stdin=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            _wait_until_busy(victim, Path(folder))
            if whom == "group":
                os.killpg(victim.pid, signal.SIGKILL)
            else:
                victim.kill()
            victim.wait()
            time.sleep(_WAIT_SECONDS)
            return _count_left(victim.pid, marker, Path(folder))
        finally:
            if victim.poll() is None:
                victim.kill()
                victim.wait()
            trees.kill(trees.find_marked(marker))
            trees.remove_named(trees.shm_files_of(victim.pid))


def _wait_until_busy(victim: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until two tasks have begun: each makes a file."""
    deadline = time.monotonic() + _START_SECONDS
    while len(list(folder.glob("busy-*"))) < 2:
        if victim.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(
                f"the process to be killed was not busy after {_START_SECONDS:g} s "
                f"(exit code {victim.poll()}), so there is nothing to measure."
            )
        time.sleep(0.05)


def _count_left(pid: int, marker: str, folder: Path) -> dict[str, Any]:
    survivors = trees.find_marked(marker)
    files = trees.shm_files_of(pid)
    # The files by which tasks say that they have begun are empty.
    spooled = list(folder.iterdir())
    return {
        "bytes": trees.measure_memory_files(survivors, [*files, *spooled]),
        "processes": len(survivors),
        # Names up to the process id, and how many there are of each.
        "names": dict(Counter(path.name.split(str(pid))[0] + "*" for path in files)),
    }


def run_victim(backend: str, folder: str, n_bytes: int) -> None:
    """Be busy with a large array for longer than anybody waits."""
    X = np.ones(n_bytes // 8)
    with parallel_config(backend=backend, n_jobs=2):
        Parallel()(delayed(_be_busy)(X, folder) for _ in range(4))


def _be_busy(X: Any, folder: str) -> None:
    float(np.sum(X))
    Path(folder, f"busy-{os.getpid()}").touch()
    time.sleep(10 * _START_SECONDS)
