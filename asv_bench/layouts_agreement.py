"""Compare results with ``layouts="auto"`` to those of loky, for all known layouts.

    python asv_bench/layouts_agreement.py [WORD ...]

Each estimator of the table (with one of the words in its full name) is cross-validated
on arrays by rows and by columns, and on frames, of float64, float32 and int64, and each
transformer in front of a linear model, too. Scores, predictions and what was fitted
have to be the same, bit by bit; if something is not, the exit code is 1.

``tox -e layouts`` runs it. All estimators take about ten minutes on two idle cores.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline

sys.path.insert(0, str(Path(__file__).parents[1]))

import skl_mmap
from docs.estimators_layouts import (
    Variation,
    digest,
    is_repeatable,
    make_data,
    state_of,
    store,
)
from docs.estimators_table import list_estimators
from skl_mmap.copies._known_layouts import known_layouts

# "rows" is a frame that is stored by rows already, as pandas makes it if told to.
_GIVEN = tuple(
    f"{dtype} {order}"
    for dtype in ("float64", "float32", "int64")
    for order in ("C", "F", "frame", "rows")
)
# With folds of 512 rows, so that they are whole pages in any order.
_SHAPES = (Variation(20, 1459, 8, "normal", 3), Variation(21, 1459, 33, "scaled", 2))
_CV = KFold(3)
_METHODS = ("predict", "predict_proba", "decision_function", "transform")


def run_jobs(estimator: Any, X: Any, y: Any) -> Iterator[tuple[str, str]]:
    """Yield what jobs return for an estimator, as digests; of an error, its name."""
    if hasattr(estimator, "score"):
        yield "scores", _try(_score, estimator, X, y)
    for method in _METHODS:
        if hasattr(estimator, method):
            yield (
                method,
                _try(cross_val_predict, estimator, X, y, cv=_CV, method=method),
            )
    if hasattr(estimator, "transform"):
        is_classes = np.asarray(y).dtype.kind == "i"
        model = LogisticRegression(max_iter=20) if is_classes else Ridge()
        yield "pipeline", _try(_score, make_pipeline(estimator, model), X, y)


def _score(estimator: Any, X: Any, y: Any) -> Any:
    found = cross_validate(
        estimator, X, y, cv=_CV, return_estimator=True, error_score="raise"
    )
    fitted = found["estimator"]
    tells = is_repeatable(estimator)
    return found["test_score"], [state_of(f) for f in fitted] if tells else None


def _try(job: Any, *args: Any, **keywords: Any) -> str:
    try:
        return digest(job(*args, **keywords))
    except Exception as error:  # noqa: BLE001 - it has to be the same with both
        return type(error).__name__


def compare_backends(estimator: Any, given: str, variation: Variation) -> list[str]:
    """Return what differs between loky and "mmap"; nothing, if all is well."""
    values, y, _ = make_data(estimator, variation, given.split()[0], limits=False)
    X = store(values, given)
    with joblib.parallel_config("loky", n_jobs=2):
        expected = dict(run_jobs(estimator, X, y))
    with joblib.parallel_config("mmap", n_jobs=2, layouts="auto", min_bytes=1):
        found = dict(run_jobs(estimator, X, y))
    return [name for name in expected if found[name] != expected[name]]


def main(words: list[str]) -> int:
    """Compare all estimators, print what differs, and return the exit code."""
    known = known_layouts()
    entries = [
        entry
        for entry in list_estimators()
        if entry.name in known and any(word in entry.name for word in words or [""])
    ]
    n_different = 0
    for n_done, entry in enumerate(entries):
        different = []
        with warnings.catch_warnings(), skl_mmap.measure() as report:
            warnings.simplefilter("ignore")
            for given in _GIVEN:
                for variation in _SHAPES:
                    names = compare_backends(entry.estimator, given, variation)
                    different += [f"{given}: {name}" for name in names]
        n_different += bool(different)
        n_used = len({note for note in report.notes if "was given X as f" in note})
        says = f"DIFFERENT {', '.join(different)}" if different else "the same"
        print(f"[{n_done + 1}/{len(entries)}] {entry.name}: {says} ({n_used} layouts)")
    print(f"{n_different} of {len(entries)} estimators differ")
    return 1 if n_different else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
