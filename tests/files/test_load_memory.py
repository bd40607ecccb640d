"""What loading costs beside the array, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="needs the extra tables")

from pyarrow import parquet  # noqa: E402

from tests.files.load_common import write_table  # noqa: E402

pytestmark = [
    pytest.mark.skipif(
        not Path("/proc/self/status").exists(), reason="reads peaks from /proc"
    ),
    pytest.mark.skipif(
        int(pa.__version__.split(".")[0]) < 26,
        reason="older releases import pandas by themselves, which costs 33 MB",
    ),
]

MAX_GROWTH_BYTES = 64 << 20
# Private memory (RssAnon) is read by a thread; pages of files and of the array are
# left out. What imports take is there before.
CODE = """
import sys, threading
import pyarrow.csv, pyarrow.parquet, pyarrow.ipc, pyarrow.compute
from skl_mmap.files import load

def private_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024

before = peak = private_bytes()
is_done = threading.Event()

def watch():
    global peak
    while not is_done.wait(0.002):
        peak = max(peak, private_bytes())

watcher = threading.Thread(target=watch)
watcher.start()
X = load(sys.argv[1], as_frame=False, progress=False)
is_done.set()
watcher.join()
print(X.nbytes, peak - before, "pandas" in sys.modules)
"""
# Short texts take more memory as numbers than in the file: the hardest case.
N_COLUMNS = 20


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("large")
    row = ",".join("123456789"[place % 9] for place in range(N_COLUMNS)) + "\n"
    header = ",".join(f"x{place}" for place in range(N_COLUMNS)) + "\n"
    (folder / "x.csv").write_text(header + row * 940_000)
    values = np.random.default_rng(0).normal(size=190_000)
    table = pa.table({f"x{place}": values for place in range(100)})
    write_table(table, folder / "x.ipc")
    # One row group, whose columns have large dictionaries.
    parquet.write_table(table, folder / "x.parquet")
    return folder


@pytest.mark.parametrize("name", ["x.csv", "x.ipc", "x.parquet"])
def test_the_memory_beside_the_array_is_bounded(name: str, folder: Path) -> None:
    output = subprocess.run(
        [sys.executable, "-c", CODE, str(folder / name)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert int(output[0]) >= 150_000_000
    assert int(output[1]) <= MAX_GROWTH_BYTES
    assert output[2] == "False"  # pandas alone would take half of that
