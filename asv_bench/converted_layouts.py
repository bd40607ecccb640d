"""What estimators that convert X cost with ``layouts="auto"``, and with "given".

    python asv_bench/converted_layouts.py [MEGABYTES] [N_JOBS]

Cross-validates trees, which want float32, and coordinate descent, which wants Fortran
order, with KFold(5) over float64 numbers in C order. The number of rows is a multiple
of 512 for each fold, so that columns can be joined. Prints for each the peak of the
process tree above its start, the largest private memory of any task, and what was
shared, all in units of X; and whether the scores are those of loky, bit for bit.
"""

from __future__ import annotations

import sys
from typing import Any

import joblib
import numpy as np
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import Lasso
from sklearn.model_selection import KFold, cross_validate

import skl_mmap

_COLUMNS = 50
_N_SPLITS = 5
_ROW_UNIT = 512 * _N_SPLITS
_MODELS = {
    "RandomForest": RandomForestRegressor(
        n_estimators=2, max_depth=5, max_features=0.2, n_jobs=1, random_state=0
    ),
    "GradientBoosting": GradientBoostingRegressor(
        n_estimators=2, max_features=0.2, random_state=0
    ),
    "Lasso": Lasso(),
    "Lasso in place": Lasso(copy_X=False, fit_intercept=False),
}
_OPTIONS: tuple[dict[str, Any], ...] = (
    {"row_order": "any", "layouts": "given"},
    {"row_order": "any"},
    {"row_order": "exact"},
)


def evaluate(model: Any, X: Any, y: Any, **options: Any) -> tuple[Any, Any]:
    """Cross-validate once, and return the scores and what it cost."""
    with joblib.parallel_config(**options):
        cross_validate(model, X[:_ROW_UNIT], y[:_ROW_UNIT], cv=KFold(_N_SPLITS))
        with skl_mmap.measure() as cost:
            found = cross_validate(
                model, X, y, cv=KFold(_N_SPLITS), error_score="raise"
            )
    return found["test_score"], cost


def main(megabytes: int = 100, n_jobs: int = 4) -> None:
    """Measure all models, and print some lines for each."""
    n_rows = megabytes * 10**6 // (8 * _COLUMNS) // _ROW_UNIT * _ROW_UNIT
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_rows, _COLUMNS))
    y = X[:, :5].sum(axis=1) + rng.normal(size=n_rows)
    print(f"X {X.shape}, {X.nbytes / 1e6:.0f} MB, n_jobs={n_jobs}")
    for name, model in _MODELS.items():
        expected, cost = evaluate(model, X, y, backend="loky", n_jobs=n_jobs)
        print(f"{name}: loky {cost.peak_growth_bytes / X.nbytes:.2f} X")
        for options in _OPTIONS:
            scores, cost = evaluate(
                model, X, y, backend="mmap", n_jobs=n_jobs, **options
            )
            private = [
                task.peak_private_bytes - task.copied_bytes for task in cost.tasks
            ]
            shared = [
                f"{segment.n_bytes / X.nbytes:.2f} ({segment.description})"
                for segment in cost.report().segments
                if segment.n_bytes > 0.1 * X.nbytes
            ]
            words = " ".join(options.values())
            equal = "equal" if np.array_equal(scores, expected) else "different"
            print(
                f"  {words:10} tree {cost.peak_growth_bytes / X.nbytes:.2f} X, private "
                f"{max(private) / X.nbytes:.3f} X, shared {', '.join(shared)}, "
                f"copied {cost.copied_bytes / len(private) / X.nbytes:.3f} X a fold, "
                f"scores {equal}, {cost.wall_seconds:.1f} s"
            )
            for note in dict.fromkeys(cost.notes):
                print(f"    {note}")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
