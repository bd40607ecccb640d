"""Measure shuffled, stratified folds under "mmap" after arrange(), and under "loky".

    python asv_bench/arranged_folds.py                    # 300,000 x 50, a minute
    python asv_bench/arranged_folds.py --rows 1000000

LogisticRegression in ``cross_validate`` with ``StratifiedKFold(5, shuffle=True)`` and
four workers. Memory is the committed memory of the process tree above "X loaded,
workers started and warm", in multiples of X; the private memory of a worker is what
its tasks said. "copies" is what of their folds they had to copy, X and y, train and
test; the rest of their private memory is the estimator's. Each case runs in a fresh
process.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib import parallel_config
from scenarios.estimators import NullRegressor
from scenarios.pools import warm
from scenarios.rows import call_in_child
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_validate

from skl_mmap import arrange, measure

_COLUMNS = 50
_CHUNK_ROWS = 1 << 14
# Of X, copied by one worker at a time.
_TARGET = 0.05

# Backend, whether the data is arranged, whether X is a pandas frame.
_CASES = {
    "arranged, mmap": ("mmap", True, False),
    "arranged frame": ("mmap", True, True),
    "as it is, mmap": ("mmap", False, False),
    "as it is, loky": ("loky", False, False),
}
_ROW = "{:<12} {:<16} {:>9} {:>9} {:>9} {:>9} {:>8} {:>8}"


def make_data(n_rows: int) -> tuple[Any, Any]:
    """Make two classes that overlap, without a temporary of the size of X."""
    random = np.random.default_rng(0)
    X = np.empty((n_rows, _COLUMNS))
    for start in range(0, n_rows, _CHUNK_ROWS):
        part = X[start : start + _CHUNK_ROWS]
        random.standard_normal(out=part)
    y = (X[:, 0] + random.standard_normal(n_rows) > 0).astype(np.int64)
    return X, y


def run_case(
    model_name: str,
    backend: str,
    is_arranged: bool,
    is_frame: bool,
    n_rows: int,
    n_jobs: int,
) -> dict[str, Any]:
    """Measure one case; runs in a child."""
    X, y = make_data(n_rows)
    x_bytes = X.nbytes
    if is_frame:
        import pandas

        X = pandas.DataFrame(X)
    cv: Any = StratifiedKFold(5, shuffle=True, random_state=0)
    arranging = None
    if is_arranged:
        with measure() as arranging:
            X, y, cv = arrange(X, y, cv=cv, classifier=True)
    model: Any = NullRegressor(min_seconds=1.0)
    if model_name == "logistic":
        model = LogisticRegression(max_iter=30, tol=1e-2)
    with parallel_config(backend=backend, n_jobs=n_jobs):
        warm(n_jobs, model, is_classifier=model_name == "logistic")
        with measure() as cost:
            scores = cross_validate(model, X, y, cv=cv, error_score="raise")
    private = [record.peak_private_bytes or 0 for record in cost.tasks]
    copied = [record.copied_bytes for record in cost.tasks]
    return {
        "growth": cost.peak_growth_bytes / x_bytes,
        "private": max(private, default=0) / x_bytes,
        "copied": max(copied, default=0) / x_bytes,
        "mapped": min((r.mapped_bytes for r in cost.tasks), default=0) / x_bytes,
        "reasons": dict(cost.copy_reasons),
        "wall_seconds": cost.wall_seconds,
        "score": float(np.mean(scores["test_score"])),
        "arrange_growth": arranging and arranging.peak_growth_bytes / x_bytes,
        "arrange_seconds": arranging and arranging.wall_seconds,
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=300_000, metavar="N")
    parser.add_argument("--jobs", type=int, default=4, metavar="N")
    arguments = parser.parse_args(argv)
    print(f"{arguments.rows} x {_COLUMNS} float64, {arguments.jobs} workers")
    print(
        _ROW.format(
            *("estimator", "case", "tree", "private", "copies", "mapped"),
            *("seconds", "score"),
        )
    )
    is_hit = True
    for model_name in ("null", "logistic"):
        results = {}
        for case, (backend, is_arranged, is_frame) in _CASES.items():
            results[case] = found = call_in_child(
                run_case,
                model_name=model_name,
                backend=backend,
                is_arranged=is_arranged,
                is_frame=is_frame,
                n_rows=arguments.rows,
                n_jobs=arguments.jobs,
            )
            figures = [
                f"{found[name]:.3f} X"
                if backend == "mmap" or name == "growth"
                else "unknown"
                for name in ("growth", "private", "copied", "mapped")
            ]
            print(
                _ROW.format(
                    model_name,
                    case,
                    *figures,
                    f"{found['wall_seconds']:.1f}",
                    f"{found['score']:.4f}",
                ),
                flush=True,
            )
        arranged = results["arranged, mmap"]
        ratio = arranged["growth"] / results["as it is, loky"]["growth"]
        print(
            f"  arranging: peak {arranged['arrange_growth']:.2f} X in "
            f"{arranged['arrange_seconds']:.2f} s; tree beside loky's: {ratio:.3f}; "
            f"copies: {arranged['copied']:.4f} X of at most {_TARGET}"
        )
        is_hit &= arranged["copied"] <= _TARGET
    return 0 if is_hit else 1


if __name__ == "__main__":
    # By its name, by which the fresh processes import it too.
    import arranged_folds

    sys.exit(arranged_folds.main())
