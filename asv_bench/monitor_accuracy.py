"""How far readings of committed memory can be trusted, and what they cost.

Run by hand:

    python asv_bench/monitor_accuracy.py cap         # needs root: control groups
    python asv_bench/monitor_accuracy.py short
    python asv_bench/monitor_accuracy.py overhead

`cap`: the measured peak of a job against the smallest limit of a control group in which
the same job still runs, found by halving. `short`: memory that is there for 30 ms, and
memory of C code that holds the GIL, against what was allocated. `overhead`: the same
work with and without `skl_mmap.measure`, in turns.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import skl_mmap
from skl_mmap._linux.proc import find_group

MIB = 1 << 20

WORKER = "data = bytearray({n}); data[::4096] = b'x' * len(data[::4096]); input()"
N_WORKERS, WORKER_MIB, SHARED_MIB = 4, 40, 240


def run_known_job() -> None:
    """Hold a file in memory while workers hold as much together, for a moment."""
    shared = os.memfd_create("accuracy")
    for _ in range(SHARED_MIB):
        os.write(shared, b"x" * MIB)
    workers = [
        subprocess.Popen(
            [sys.executable, "-S", "-c", WORKER.format(n=WORKER_MIB * MIB)],
            stdin=subprocess.PIPE,
        )
        for _ in range(N_WORKERS)
    ]
    time.sleep(1.5)
    failed = False
    for worker in workers:
        worker.communicate(b"\n")
        failed = failed or worker.returncode != 0
    os.close(shared)
    if failed:
        sys.exit(3)


def run_cross_validation() -> None:
    """Cross-validate with the backend "mmap" and two workers."""
    import numpy as np
    from joblib import parallel_config
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import cross_validate

    X = np.random.default_rng(0).random((500_000, 40))
    with parallel_config(backend="mmap", n_jobs=2, row_order="any"):
        cross_validate(Ridge(), X, X.sum(axis=1), cv=4)


JOBS = {"known": run_known_job, "cross_validate": run_cross_validation}


@contextlib.contextmanager
def child_group() -> Iterator[tuple[Path, int]]:
    """Make a control group below that of this process, and remove it."""
    found = find_group(os.getpid())
    if found is None:
        sys.exit("There is no control group for memory here.")
    folder, version = Path(found[0]), found[1]
    group = folder / f"skl_mmap-accuracy-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        sys.exit(f"No control group can be made below {folder}: {error}.")
    try:
        yield group, version
    finally:
        for _ in range(50):
            try:
                group.rmdir()
                break
            except OSError:  # processes that are ending are still charged to it
                time.sleep(0.1)


def start_in_group(group: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    def enter() -> None:
        (group / "cgroup.procs").write_text("0")

    return subprocess.run(
        [sys.executable, __file__, *arguments],
        preexec_fn=enter,
        capture_output=True,
        text=True,
        check=False,
    )


def count_kills(group: Path, version: int) -> int:
    name = "memory.oom_control" if version == 1 else "memory.events"
    words = (group / name).read_text().split()
    return int(words[words.index("oom_kill") + 1])


def fits(group: Path, version: int, job: str, limit_bytes: int) -> bool:
    """Whether a job runs to its end within a limit."""
    name = "memory.limit_in_bytes" if version == 1 else "memory.max"
    (group / name).write_text("-1" if version == 1 else "max")
    (group / name).write_text(str(limit_bytes))
    kills = count_kills(group, version)
    result = start_in_group(group, "job", job)
    return result.returncode == 0 and count_kills(group, version) == kills


def compare_with_caps(job: str, n_repeats: int) -> None:
    peaks = []
    with child_group() as (group, version):
        for _ in range(n_repeats):
            result = start_in_group(group, "measured-job", job)
            peaks.append(json.loads(result.stdout)["peak_bytes"])
        peak = max(peaks)
        low, high = int(0.8 * peak), int(1.3 * peak)
        if not fits(group, version, job, high) or fits(group, version, job, low):
            sys.exit(f"{job}: the smallest limit is far from {peak / MIB:.0f} MiB.")
        while high - low > 0.005 * peak:
            middle = (low + high) // 2
            if fits(group, version, job, middle):
                high = middle
            else:
                low = middle
    print(
        f"{job}: measured peak {peak / MIB:.1f} MiB (of {n_repeats} runs, lowest "
        f"{min(peaks) / MIB:.1f}); smallest limit {high / MIB:.1f} MiB; measured is "
        f"{100 * (peak / high - 1):+.1f} % of it"
    )


def hold_in_c(n_bytes: int, n_microseconds: int) -> None:
    """Have memory for a time, in C code that does not let go of the GIL."""
    libc = ctypes.PyDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    address = libc.malloc(ctypes.c_size_t(n_bytes))
    libc.memset(ctypes.c_void_p(address), 1, ctypes.c_size_t(n_bytes))
    libc.usleep(n_microseconds)
    libc.free(ctypes.c_void_p(address))


def measure_short_peaks(n_repeats: int) -> None:
    for name, n_bytes, n_microseconds in (
        ("30 ms", 96 * MIB, 30_000),
        ("C code that holds the GIL for 0.5 s", 256 * MIB, 500_000),
    ):
        errors = []
        for _ in range(n_repeats):
            with skl_mmap.measure(interval_seconds=0.01) as report:
                hold_in_c(n_bytes, n_microseconds)
            errors.append(100 * (report.peak_growth_bytes / n_bytes - 1))
            time.sleep(0.05)
        worst = max(errors, key=abs)
        print(
            f"{name}, {n_bytes // MIB} MiB: error {statistics.median(errors):+.2f} % "
            f"(median of {n_repeats}), worst {worst:+.2f} %"
        )


def work(n_steps: int) -> int:
    total = 0
    for i in range(n_steps):
        total += i * i % 7
    return total


def measure_overhead(seconds: float, n_pairs: int, interval_seconds: float) -> None:
    """Run the same work on all cores with and without a measurement, in turns."""
    from joblib import Parallel, delayed, parallel_config

    n_jobs = os.cpu_count() or 1
    begin = time.process_time()
    work(3_000_000)
    n_steps = int(3_000_000 / (time.process_time() - begin) * seconds / 10)

    def run() -> float:
        begin = time.perf_counter()
        Parallel()(delayed(work)(n_steps) for _ in range(10 * n_jobs))
        return time.perf_counter() - begin

    ratios, shares = [], []
    with parallel_config(backend="mmap", n_jobs=n_jobs):
        run()
        for pair in range(n_pairs):
            times = {}
            for is_measured in (True, False) if pair % 2 else (False, True):
                if is_measured:
                    with skl_mmap.measure(interval_seconds=interval_seconds) as report:
                        times[True] = run()
                    shares.append(report.sampler_cpu_seconds / times[True])
                else:
                    times[False] = run()
            ratios.append(times[True] / times[False])
            print(f"  with {times[True]:.2f} s, without {times[False]:.2f} s")
    share = statistics.median(shares)
    print(
        f"overhead at {1000 * interval_seconds:g} ms: wall "
        f"{100 * (statistics.median(ratios) - 1):+.2f} % (median of {n_pairs} pairs, "
        f"{100 * (min(ratios) - 1):+.2f} to {100 * (max(ratios) - 1):+.2f}); sampler "
        f"{100 * share:.2f} % of a core, {100 * share / n_jobs:.2f} % of {n_jobs}; "
        f"{1000 * report.mean_reading_seconds:.2f} ms for each reading of "
        f"{report.peak.n_processes} processes"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["cap", "short", "overhead", *_INTERNAL])
    parser.add_argument("job", nargs="?", choices=list(JOBS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--interval", type=float, default=0.01)
    arguments = parser.parse_args()
    if arguments.what == "job":
        JOBS[arguments.job]()
    elif arguments.what == "measured-job":
        with skl_mmap.measure() as report:
            JOBS[arguments.job]()
        print(json.dumps({"peak_bytes": report.peak_bytes}))
    elif arguments.what == "cap":
        for job in [arguments.job] if arguments.job else JOBS:
            compare_with_caps(job, arguments.repeats)
    elif arguments.what == "short":
        measure_short_peaks(arguments.repeats)
    else:
        measure_overhead(arguments.seconds, arguments.repeats, arguments.interval)


_INTERNAL = ("job", "measured-job")

if __name__ == "__main__":
    main()
