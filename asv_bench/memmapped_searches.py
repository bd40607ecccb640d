"""Measure options of Memmapped around grid searches, beside "loky".

    python asv_bench/memmapped_searches.py                    # 80,000 rows, minutes
    python asv_bench/memmapped_searches.py --rows 400000

"scattered": SGDClassifier, an array of 100 columns and stratified, shuffled folds that
``row_order="any"`` puts in order. "pipeline": a forest behind a
ColumnTransformer, a frame of 60 columns of numbers and 10 of categories, of which
``share_prefix=True`` transforms each fold once. Memory is the committed memory of the
process tree above "X loaded, workers started and warm", in multiples of X. Each case
runs in a fresh process; "equal" says whether scores are those of loky, bit for bit.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

import numpy as np
from joblib import parallel_config
from scenarios.pools import warm
from scenarios.rows import call_in_child
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from skl_mmap import Memmapped, measure

# Options of Memmapped; None for loky.
_CASES: dict[str, dict[str, dict[str, Any] | None]] = {
    "scattered": {"loky": None, "exact": {}, "any": {"row_order": "any"}},
    "pipeline": {"loky": None, "exact": {}, "share": {"share_prefix": True}},
}


def make_job(name: str, n_rows: int) -> tuple[GridSearchCV, Any, Any]:
    """Make a search and its data."""
    random = np.random.default_rng(0)
    X: Any = random.standard_normal((n_rows, 100 if name == "scattered" else 60))
    y = (X[:, 0] + random.standard_normal(n_rows) > 0).astype(np.int64)
    if name == "scattered":
        sgd = SGDClassifier(max_iter=2, tol=None, random_state=0)
        cv = StratifiedKFold(5, shuffle=True, random_state=0)
        return GridSearchCV(sgd, {"alpha": [1e-4, 1e-3, 1e-2, 1e-1]}, cv=cv), X, y
    import pandas

    frame = pandas.DataFrame(X).add_prefix("c")
    for place in range(10):
        codes = random.integers(0, 12, n_rows)
        values = pandas.Categorical.from_codes(codes, [*"abcdefghijkl"])
        frame[f"kind{place}"] = values
    numbers = make_column_selector(dtype_include="float64")
    others = make_column_selector(dtype_exclude="float64")
    transformer = ColumnTransformer(
        [("numbers", StandardScaler(), numbers), ("others", OrdinalEncoder(), others)]
    )
    forest = RandomForestClassifier(3, max_depth=4, max_samples=0.2, random_state=0)
    pipeline = Pipeline([("columns", transformer), ("forest", forest)])
    grid = {"forest__min_samples_leaf": [1, 2, 5, 9]}
    return GridSearchCV(pipeline, grid, cv=3), frame, y


def run_case(
    name: str, options: dict[str, Any] | None, n_rows: int, n_jobs: int
) -> dict[str, Any]:
    """Measure one case; runs in a child."""
    search, X, y = make_job(name, n_rows)
    with parallel_config("loky" if options is None else "mmap", n_jobs=n_jobs):
        warm(n_jobs, SGDClassifier(), is_classifier=True)
        model: Any = search
        if options is not None:
            model = Memmapped(search, n_jobs=n_jobs, check="off", **options)
        with measure() as cost:
            model.fit(X, y)
    x_bytes = X.nbytes if isinstance(X, np.ndarray) else int(X.memory_usage().sum())
    return {
        "growth": cost.peak_growth_bytes / x_bytes,
        "wall_seconds": cost.wall_seconds,
        "scores": model.cv_results_["mean_test_score"].tolist(),
    }


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=80_000, metavar="N")
    parser.add_argument("--jobs", type=int, default=4, metavar="N")
    arguments = parser.parse_args(argv)
    print(f"{arguments.rows} rows, {arguments.jobs} workers")
    for name, cases in _CASES.items():
        expected = None
        for case, options in cases.items():
            found = call_in_child(
                run_case,
                name=name,
                options=options,
                n_rows=arguments.rows,
                n_jobs=arguments.jobs,
            )
            expected = expected or found["scores"]
            print(
                f"{name:<10} {case:<6} {found['growth']:6.2f} X "
                f"{found['wall_seconds']:6.1f} s  equal: {found['scores'] == expected}",
                flush=True,
            )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
