"""Compare the table of estimators with another way to measure it.

    python docs/estimators_table.py --csv copies.csv
    python asv_bench/copies_agreement.py copies.csv [WORD]

The table comes from the kernel's peak and from NumPy's own blocks. Here, memray counts
every malloc, calloc and mmap of all libraries while fit runs, on samples of the same
shapes, in a process of its own for each estimator. Only float64 in C order, read-only.
Prints the rows that differ by more than 0.15 X, and the share of those that do not.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

# The table's builder belongs to the documentation, which is not installed.
sys.path.insert(0, str(Path(__file__).parents[1]))

_LAYOUT = "float64 C read-only"
_NEAR = 0.15
_TIMEOUT_SECONDS = 200
_DIVISOR = 4
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def measure_peak(estimator: Any, X: Any, y: Any, folder: str) -> float:
    """Return the most that was allocated at one moment of fit, in bytes."""
    import memray
    from sklearn.base import clone

    path = os.path.join(folder, "fit.bin")
    # A mapping of a file: memray must not see X, and nobody may write to it.
    X = np.asarray(X, order="C")
    X.tofile(os.path.join(folder, "X"))
    mapped = np.memmap(os.path.join(folder, "X"), X.dtype, "r", 0, X.shape)
    X = np.asarray(mapped)
    estimator = clone(estimator)
    gc.collect()
    gc.disable()
    with memray.Tracker(path):
        estimator.fit(X, y)
    gc.enable()
    reader = memray.FileReader(path)
    records = reader.get_high_watermark_allocation_records(merge_threads=True)
    peak = float(sum(record.size for record in records))
    os.unlink(path)
    return peak


def measure_copies(name: str, n_samples: int) -> float:
    """Return how many copies of X fit makes, from samples of four shapes."""
    import joblib
    from sklearn.base import clone

    from docs.estimators_table import list_estimators, make_data

    warnings.simplefilter("ignore")
    (entry,) = [entry for entry in list_estimators() if entry.name == name]
    X, y = make_data(entry.estimator)
    n, d = n_samples, X.shape[1]
    rows = np.linspace(0, len(X) - 1, n).astype(np.intp)
    X, y = X[rows], None if y is None else y[rows]
    low_n, low_d = max(1, n // _DIVISOR), max(1, d // _DIVISOR)
    peaks = {}
    with tempfile.TemporaryDirectory() as folder, joblib.parallel_config("threading"):
        for shape in ((low_n, d), (n, d), (low_n, low_d), (n, low_d)):
            few = np.linspace(0, n - 1, shape[0]).astype(np.intp)
            part = X[few, : shape[1]]
            target = None if y is None else y[few]
            with contextlib.suppress(ValueError):
                if not peaks:
                    clone(entry.estimator).fit(part.copy(), target)
                peaks[shape] = measure_peak(entry.estimator, part, target, folder)
    if len(peaks) == 4:
        mixed = peaks[n, d] - peaks[low_n, d] - peaks[n, low_d] + peaks[low_n, low_d]
        copies = mixed / ((n - low_n) * (d - low_d) * X.itemsize)
        if copies > -0.1:
            return copies
    growth = peaks[n, d] - peaks.get((low_n, d), 0.0)
    return growth / ((n - low_n * ((low_n, d) in peaks)) * d * X.itemsize)


def main(path: str, word: str = "") -> None:
    """Measure all rows of a table again, and compare."""
    from docs.estimators_table import read_rows

    rows = [
        r for r in read_rows(path).values() if r.outcome == "ok" and word in r.estimator
    ]
    n_near = n_known = 0
    for row in rows:
        command = [sys.executable, __file__, "--one", row.estimator, str(row.n_samples)]
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                env={**os.environ, **_ONE_THREAD},
                check=True,
            )
            copies = float(json.loads(done.stdout.splitlines()[-1]))
        except (subprocess.SubprocessError, ValueError, IndexError) as error:
            print(f"{row.estimator}: cannot be compared ({type(error).__name__})")
            continue
        n_known += 1
        found = row.copies[_LAYOUT]
        is_near = abs(found - copies) <= _NEAR
        n_near += is_near
        if not is_near:
            print(f"{row.estimator}: {found:.2f} X, memray {copies:.2f} X ({row.why})")
        sys.stdout.flush()
    print(f"{n_near} of {n_known} within {_NEAR} X ({n_near / max(n_known, 1):.1%})")


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        print(json.dumps(measure_copies(sys.argv[2], int(sys.argv[3]))))
    else:
        main(*sys.argv[1:])
