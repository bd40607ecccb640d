"""Jobs whose results are compared with loky's, where X is given in other layouts.

    python -m tests.backend.layout_jobs [PATTERN]

runs all of them, in some minutes, and prints those that differ; the tests run a few.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingClassifier,
    ExtraTreesClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
    VotingClassifier,
)
from sklearn.linear_model import LogisticRegression, RidgeClassifier, SGDClassifier
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.multiclass import OneVsOneClassifier, OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier

from skl_mmap.copies import Layout
from tests.backend.common import known_table, use_layouts, use_mmap

N_SAMPLES, N_FEATURES = 900, 7
NAMES = list("abcdefg")

FLOAT32, BY_ROW = Layout("float32", "C"), Layout("float64", "C")
FOR_FIT = Layout("float64", "C", is_for_fit_only=True)
OF_FRAMES = {
    RandomForestClassifier: FLOAT32,
    ExtraTreesClassifier: FLOAT32,
    DecisionTreeClassifier: FLOAT32,
    HistGradientBoostingClassifier: BY_ROW,
    KNeighborsClassifier: BY_ROW,
    SGDClassifier: FOR_FIT,
    LogisticRegression: FOR_FIT,
    LinearSVC: FOR_FIT,
    GaussianNB: FOR_FIT,
}
ESTIMATORS: tuple[Any, ...] = (
    RandomForestClassifier(3, random_state=0),
    ExtraTreesClassifier(3, random_state=0),
    HistGradientBoostingClassifier(max_iter=2, max_leaf_nodes=4),
    KNeighborsClassifier(),
    SGDClassifier(random_state=0, max_iter=5, tol=None),
    LogisticRegression(max_iter=500),
    LinearSVC(random_state=0),
    GaussianNB(),
    RidgeClassifier(),
    make_pipeline(
        StandardScaler(), SGDClassifier(random_state=0, max_iter=5, tol=None)
    ),
    make_pipeline("passthrough", DecisionTreeClassifier(random_state=0)),
    VotingClassifier(
        [("a", DecisionTreeClassifier(random_state=0)), ("b", GaussianNB())]
    ),
)


INPUTS = ("array C", "array F", "frame", "frame by row")


def make_input(kind: str, dtype: str) -> Any:
    X = np.random.default_rng(0).normal(scale=20, size=(N_SAMPLES, N_FEATURES))
    X = X.astype(dtype)
    if kind.startswith("array"):
        return np.array(X, order=kind[-1])
    return pd.DataFrame(X, columns=NAMES, copy=kind == "frame")


def by_numbers(estimator: Any, X: Any) -> float:
    return float(np.asarray(X).sum() + np.sum(estimator.predict(X)))


def jobs(estimator: Any) -> Iterator[Callable[[Any, Any], Any]]:
    """Yield what is done with an estimator."""
    stratified = StratifiedKFold(3, shuffle=True, random_state=0)

    def validate(X: Any, y: Any) -> Any:
        found = cross_validate(estimator, X, y, cv=KFold(3), error_score="raise")
        return found["test_score"]

    def validate_with_a_function(X: Any, y: Any) -> Any:
        def score(model: Any, X: Any, _y: Any) -> float:
            return by_numbers(model, X)

        found = cross_validate(estimator, X, y, cv=stratified, scoring=score)
        return found["test_score"]

    def search(X: Any, y: Any) -> Any:
        found = GridSearchCV(estimator, {}, cv=KFold(3), return_train_score=True)
        return found.fit(X, y).cv_results_["mean_train_score"]

    def predict(X: Any, y: Any) -> Any:
        return cross_val_predict(estimator, X, y, cv=stratified)

    yield from (validate, validate_with_a_function, search, predict)
    if estimator is ESTIMATORS[0]:
        yield predictions_of(BaggingClassifier(estimator, 2, random_state=0))
        yield predictions_of(MultiOutputClassifier(estimator))
        yield predictions_of(OneVsRestClassifier(estimator))
        yield predictions_of(OneVsOneClassifier(estimator))
        yield predictions_of(CalibratedClassifierCV(estimator, cv=3))


def predictions_of(ensemble: Any) -> Callable[[Any, Any], Any]:
    """Return a job that fits an ensemble and predicts."""

    def fit_and_predict(X: Any, y: Any) -> Any:
        is_several = isinstance(ensemble, MultiOutputClassifier)
        target = np.column_stack([y, y[::-1]]) if is_several else y
        return ensemble.fit(X, target).predict(X)

    fit_and_predict.__name__ = type(ensemble).__name__
    return fit_and_predict


class Case(NamedTuple):
    """An estimator, and what X it gets."""

    estimator: Any
    kind: str
    dtype: str

    def __str__(self) -> str:
        steps = getattr(self.estimator, "steps", [("", self.estimator)])
        names = [s if isinstance(s, str) else type(s).__name__ for _, s in steps]
        return f"{'+'.join(names)}-{self.kind}-{self.dtype}"


DTYPES = ("float64", "float32", "int64")
CASES = [Case(*parts) for parts in itertools.product(ESTIMATORS, INPUTS, DTYPES)]


def make_table() -> dict[str, dict[str, Layout]]:
    """Return the table, with frames whatever versions there are."""
    table = known_table()
    for class_, layout in OF_FRAMES.items():
        row = table.setdefault(f"{class_.__module__}.{class_.__qualname__}", {})
        row["float64 frame"] = layout
        if layout is FLOAT32:
            row |= dict.fromkeys(("float64 C", "int64 C", "int64 frame"), layout)
    return table


def find_differences(case: Case) -> list[str]:
    """Return the jobs whose results are other ones than under loky."""
    X = make_input(case.kind, case.dtype)
    y = np.digitize(np.asarray(X)[:, 0] + np.asarray(X)[:, 1] / 2, [-8, 8])
    different = []
    for job in jobs(case.estimator):
        with joblib.parallel_config("loky", n_jobs=2):
            expected = job(X, y)
        with use_mmap():
            found = job(X, y)
        if not np.array_equal(found, expected):
            different.append(job.__name__)
    return different


def main(pattern: str = "") -> int:
    """Run all jobs, and return how many cases differ."""
    patch = pytest.MonkeyPatch()  # for as long as this process lives
    use_layouts(patch, make_table())
    n_different = 0
    for case in CASES:
        if pattern in str(case):
            different = find_differences(case)
            n_different += bool(different)
            words = "DIFFERENT" if different else "same", str(case), *different
            sys.stdout.write(" ".join(words) + "\n")
            sys.stdout.flush()
    return n_different


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
