"""scikit-learn's own checks of estimators: no failures but those of what is inside."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sklearn.cluster import KMeans
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils._test_common.instance_generator import _get_expected_failed_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from skl_mmap import Memmapped
from tests.versions import IS_BEFORE_SKLEARN_1_7

INNER = [
    Ridge(),
    # Converged, so that weights are as good as repeated rows: with the default, chance
    # decides, and scikit-learn expects them not to be.
    LogisticRegression(tol=1e-9, max_iter=1000),
    StackingRegressor([("a", Ridge()), ("b", Ridge(alpha=2.0))], cv=3),
    StackingClassifier(
        [("a", LogisticRegression(max_iter=9)), ("b", GaussianNB())],
        final_estimator=LogisticRegression(max_iter=9),
        cv=2,
    ),
    GridSearchCV(Ridge(), {"alpha": [0.1, 1.0]}, cv=2),
    make_pipeline(StandardScaler(), Ridge()),
    KMeans(n_clusters=3, random_state=0),
    StandardScaler(),
]
# A pipeline fails these itself, as it fits its own steps; here, it is a clone's.
PASSED = ("check_dont_overwrite_parameters", "check_estimators_overwrite_params")
PASSED_IF_CONVERGED = (
    "check_sample_weight_equivalence_on_dense_data",
    "check_sample_weight_equivalence_on_sparse_data",
)
# It passes the first itself, where the check sets its cv, which here is estimator__cv.
FAILED_BEFORE_1_7 = {
    StackingClassifier: {PASSED_IF_CONVERGED[0]: "its splits are not equivalent."},
    StandardScaler: {PASSED_IF_CONVERGED[1]: "it cannot center sparse matrices."},
}

# Small inputs are handed to the estimator itself, whatever it is.
SIMPLE = (LogisticRegression, Ridge, KMeans, StandardScaler)
SMALL = [Memmapped(inner) for inner in INNER if isinstance(inner, SIMPLE)]
SHARED = [Memmapped(inner, min_bytes=1, check="off") for inner in INNER]


def failures_inside(estimator: Memmapped) -> Any:
    failures = _get_expected_failed_checks(estimator.estimator)
    passed = PASSED
    if isinstance(estimator.estimator, LogisticRegression):
        passed += PASSED_IF_CONVERGED
    if IS_BEFORE_SKLEARN_1_7:
        failures.update(FAILED_BEFORE_1_7.get(type(estimator.estimator), {}))
    return {name: why for name, why in failures.items() if name not in passed}


@pytest.fixture(autouse=True)
def remove_dumps(temporary_folder: Path) -> Iterator[None]:
    """Remove the arrays that checks of memory maps keep until the process ends."""
    yield
    for folder in temporary_folder.glob("sklearn_testing_*"):
        shutil.rmtree(folder)


CHECKS = parametrize_with_checks(
    [*SMALL, *SHARED], expected_failed_checks=failures_inside
)


def list_checks() -> list[Any]:
    """List the checks, each once: scikit-learn 1.7 has one of them twice."""
    name_of, checks = CHECKS.kwargs["ids"], {}
    for check in CHECKS.args[1]:
        values = getattr(check, "values", check)
        checks.setdefault("-".join(map(name_of, values)), check)
    return list(checks.values())


# scikit-learn 1.6 passes an iterator, which pytest will not take any more.
@pytest.mark.parametrize(CHECKS.args[0], list_checks(), **CHECKS.kwargs)
@pytest.mark.filterwarnings("ignore")
def test_scikit_learn_accepts_it(
    estimator: Memmapped, check: Callable[[Memmapped], None]
) -> None:
    with warnings.catch_warnings():
        # The checks fit on a few rows of noise, of which estimators complain.
        warnings.simplefilter("ignore")
        check(estimator)
