"""Load a large CSV file: peak memory and time, against pyarrow alone.

::

    python asv_bench/load_csv.py --megabytes 2000

Each reader runs in a fresh process. Peak memory is private (RssAnon, read every 5 ms
by a thread); the array of skl_mmap is in a memfd, and is
given apart. Needs pyarrow.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

N_COLUMNS = 50
_BLOCK_ROWS = 20_000


def write_file(path: Path, n_bytes: int) -> None:
    """Write normally distributed numbers with all their digits."""
    block = np.random.default_rng(0).normal(size=(_BLOCK_ROWS, N_COLUMNS))
    text = "".join(",".join(map(repr, row)) + "\n" for row in block.tolist())
    with path.open("w") as file:
        file.write(",".join(f"x{place}" for place in range(N_COLUMNS)) + "\n")
        for _ in range(max(n_bytes // len(text), 1)):
            file.write(text)


def private_bytes() -> int:
    """Private memory of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise OSError("no RssAnon in /proc/self/status")


def read(path: str, reader: str) -> dict[str, float]:
    """Read the file in this process, and say what that cost."""
    import pyarrow.csv

    from skl_mmap.files import load

    pyarrow.csv.read_csv(pyarrow.BufferReader(b"a\n1\n"))  # starts the threads
    peak = before = private_bytes()
    is_done = threading.Event()

    def sample() -> None:
        nonlocal peak
        while not is_done.wait(0.005):
            peak = max(peak, private_bytes())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    if reader == "pyarrow":
        result = pyarrow.csv.read_csv(path)
        n_bytes = result.nbytes
    else:
        result = load(path, as_frame=False, progress=False)
        n_bytes = result.nbytes
    seconds = time.perf_counter() - start
    is_done.set()
    sampler.join()
    return {
        "seconds": seconds,
        "peak_private_bytes": peak,
        "growth_bytes": peak - before,
        "result_bytes": n_bytes,
    }


def compare(megabytes: int, n_repeats: int) -> None:
    """Run both readers by turns and print what they cost."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "data.csv"
        write_file(path, megabytes * 1_000_000)
        print(f"{path.stat().st_size / 1e6:.0f} MB, load average {os.getloadavg()}")
        best: dict[str, float] = {}
        for _ in range(n_repeats):
            for reader in ("pyarrow", "skl_mmap"):
                command = [sys.executable, __file__, "--read", str(path), reader]
                output = subprocess.run(
                    command, check=True, capture_output=True, text=True
                ).stdout
                cost = json.loads(output)
                seconds = cost["seconds"]
                best[reader] = min(best.get(reader, seconds), seconds)
                print(
                    f"{reader:9} {seconds:6.2f} s, peak private "
                    f"{cost['peak_private_bytes'] / 1e6:6.0f} MB (grew by "
                    f"{cost['growth_bytes'] / 1e6:.0f}), result "
                    f"{cost['result_bytes'] / 1e6:.0f} MB"
                )
        print(
            f"best times, skl_mmap / pyarrow: {best['skl_mmap'] / best['pyarrow']:.2f}"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megabytes", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--read", nargs=2, metavar=("PATH", "READER"))
    arguments = parser.parse_args()
    if arguments.read:
        print(json.dumps(read(*arguments.read)))
    else:
        compare(arguments.megabytes, arguments.repeats)
