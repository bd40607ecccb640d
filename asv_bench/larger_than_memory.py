"""Cross-validate a file that is larger than memory, and say what it took.

::

    python asv_bench/larger_than_memory.py --gigabytes 30
    python asv_bench/larger_than_memory.py --gigabytes 4 --limit 0.75

The job is five-fold cross-validation, with two workers, of an SGDRegressor that goes
through the rows once and in order. X is a ``.npy`` file of random numbers, which is
written to a temporary folder first, and deleted in the end. With ``--limit``, job and
workers run in a memory cgroup (version 1, needs root) of so many times the size of the
file, under "mmap" and then under "loky".
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

_N_FEATURES = 1000
_CHUNK_ROWS = 1 << 13
_CGROUP_ROOT = Path("/sys/fs/cgroup/memory")
_GIGABYTE = 10**9


def write_file(path: Path, n_rows: int) -> None:
    """Write X and y a chunk at a time."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=_N_FEATURES)
    header = {"descr": "<f8", "fortran_order": False, "shape": (n_rows, _N_FEATURES)}
    targets = []
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n_rows, _CHUNK_ROWS):
            size = min(_CHUNK_ROWS, n_rows - start), _N_FEATURES
            block = rng.random(size)
            targets.append(block @ weights)
            block.tofile(file)
    np.save(path.with_name("y.npy"), np.concatenate(targets))


def drop_from_memory(path: Path) -> None:
    """Have the kernel forget the pages of a file: the job shall pay for its own."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def run_job(path: Path, backend: str) -> None:
    """Run the job in this process and print what it took as JSON."""
    import joblib
    from sklearn.linear_model import SGDRegressor
    from sklearn.model_selection import cross_val_score

    import skl_mmap

    X = np.load(path, mmap_mode="r")
    y = np.load(path.with_name("y.npy"))
    estimator = SGDRegressor(max_iter=1, tol=None, shuffle=False, eta0=1e-5)
    options = {"row_order": "any"} if backend == "mmap" else {}
    start = time.perf_counter()
    with (
        skl_mmap.measure(interval_seconds=0.05) as report,
        joblib.parallel_config(backend=backend, n_jobs=2, **options),
    ):
        scores = cross_val_score(estimator, X, y, cv=5)
    print(
        json.dumps(
            {
                "seconds": time.perf_counter() - start,
                "scores": scores.tolist(),
                "peak_bytes": report.peak_bytes,
                "private_bytes": max(r.anonymous_bytes for r in report.timeline),
                "mapped_bytes": report.mapped_bytes,
                "copied_bytes": report.copied_bytes,
            }
        )
    )


@contextlib.contextmanager
def memory_limit(n_bytes: int | None) -> Iterator[list[str]]:
    """Make a cgroup; yield the start of a command that runs in it."""
    if n_bytes is None:
        yield []
        return
    group = _CGROUP_ROOT / f"skl_mmap-{os.getpid()}"
    group.mkdir()
    try:
        (group / "memory.limit_in_bytes").write_text(str(n_bytes))
        script = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
        yield ["sh", "-c", script, str(group)]
    finally:
        for _ in range(100):
            if not (group / "cgroup.procs").read_text():
                break
            time.sleep(0.1)
        group.rmdir()


def run_limited(path: Path, backend: str, limit_bytes: int | None) -> None:
    """Run the job in a fresh process, under a limit, and print how it ended."""
    drop_from_memory(path)
    job = [sys.executable, __file__, "--job", str(path), backend]
    with memory_limit(limit_bytes) as prefix:
        done = subprocess.run(
            [*prefix, *job], capture_output=True, text=True, check=False
        )
    limit = "" if limit_bytes is None else f" in {limit_bytes / _GIGABYTE:.2f} GB"
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f"code {done.returncode}"]
        print(f"{backend}{limit}: died: {reason[0][:200]}")
        return
    found = json.loads(done.stdout.splitlines()[-1])
    print(
        f"{backend}{limit}: {found['seconds']:.0f} s, private memory of the tree at "
        f"most {found['private_bytes'] / 1e6:.0f} MB, committed "
        f"{found['peak_bytes'] / 1e6:.0f} MB; folds: "
        f"{found['mapped_bytes'] / _GIGABYTE:.1f} GB mapped, "
        f"{found['copied_bytes'] / 1e6:.1f} MB copied; scores "
        f"{np.round(found['scores'], 4).tolist()}"
    )


def main() -> None:
    """Read the options, write the file, run the job."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gigabytes", type=float, default=30.0)
    parser.add_argument("--limit", type=float, metavar="TIMES")
    parser.add_argument("--folder", type=Path, help="where there is room for the file")
    parser.add_argument("--job", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.job:
        run_job(Path(arguments.job[0]), arguments.job[1])
        return
    n_rows = int(arguments.gigabytes * _GIGABYTE / (8 * _N_FEATURES))
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        free_bytes = shutil.disk_usage(folder).free
        if free_bytes < 1.2 * arguments.gigabytes * _GIGABYTE:
            sys.exit(f"{folder} has only {free_bytes / _GIGABYTE:.0f} GB free.")
        path = Path(folder) / "X.npy"
        start = time.perf_counter()
        write_file(path, n_rows)
        print(
            f"{path.stat().st_size / _GIGABYTE:.1f} GB, {n_rows:,} x {_N_FEATURES}, "
            f"written in {time.perf_counter() - start:.0f} s"
        )
        limit_bytes = arguments.limit and int(arguments.limit * path.stat().st_size)
        run_limited(path, "mmap", limit_bytes)
        if limit_bytes:
            run_limited(path, "loky", limit_bytes)


if __name__ == "__main__":
    main()
