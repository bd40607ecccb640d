"""The splitter of arranged data goes wherever a splitter goes, workers included."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest
import sklearn
from joblib import parallel_backend
from sklearn.base import clone
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
)

from skl_mmap import PageFriendly, measure
from skl_mmap.orders import ArrangedSplits, arrange
from tests.memory.sharing import mapped_bytes

N_SAMPLES = 20_000
RNG = np.random.default_rng(0)
X = RNG.random((N_SAMPLES, 50))
LABELS = RNG.integers(0, 3, N_SAMPLES)
Y = X @ np.arange(50.0) + LABELS
SPLITTER = StratifiedKFold(5, shuffle=True, random_state=0)
SPLITS = list(SPLITTER.split(X, LABELS))


class PlainRidge(Ridge):
    """Says how much of what it was given is mapped."""

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> PlainRidge:
        self.not_mapped_ = X.nbytes - mapped_bytes(X)
        super().fit(X, y, sample_weight)
        return self


def arranged() -> tuple[Any, Any, ArrangedSplits]:
    Xs, ys, cv = arrange(X, Y, cv=SPLITS)
    return Xs, ys, cv


def test_it_is_a_scikit_learn_object() -> None:
    _, _, cv = arranged()
    assert repr(cv) == "ArrangedSplits(n_splits=5, n_samples=20000)"
    assert clone(cv) is cv
    search = clone(GridSearchCV(Ridge(), {"alpha": [1, 10]}, cv=cv))
    assert search.get_params()["cv"] is cv
    assert not cv.permutation.flags.writeable
    assert not cv.boundaries.flags.writeable


def test_it_is_pickled_as_a_permutation_and_boundaries() -> None:
    Xs, _, cv = arranged()
    data = pickle.dumps(cv)
    assert len(data) < 8 * N_SAMPLES + 1000
    copy = pickle.loads(data)
    assert repr(copy) == repr(cv)
    assert not copy.permutation.flags.writeable
    for one, other in zip(copy.split(Xs), cv.split(Xs), strict=True):
        np.testing.assert_array_equal(one[0], other[0])
        np.testing.assert_array_equal(one[1], other[1])


def test_groups_are_not_needed_any_more() -> None:
    groups = RNG.integers(0, 12, N_SAMPLES)
    Xs, ys, groups_s, cv = arrange(X, Y, groups, cv=GroupKFold(4), groups=groups)
    with sklearn.config_context(enable_metadata_routing=True):
        routed = cross_validate(Ridge(), Xs, ys, cv=cv)
        expected = cross_validate(
            Ridge(), X, Y, cv=GroupKFold(4), params={"groups": groups}
        )
    np.testing.assert_allclose(routed["test_score"], expected["test_score"])
    for train, test in cv.split(Xs, ys, groups):
        assert not np.isin(groups_s[test], groups_s[train]).any()


def test_sample_weights_stay_with_their_rows() -> None:
    weights = RNG.random(N_SAMPLES)
    Xs, ys, weights_s, cv = arrange(X, Y, weights, cv=SPLITS)
    found, expected = (
        cross_validate(
            Ridge(), *data[:2], cv=data[3], params={"sample_weight": data[2]}
        )
        for data in ((Xs, ys, weights_s, cv), (X, Y, weights, SPLITS))
    )
    np.testing.assert_allclose(found["test_score"], expected["test_score"])


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_folds_are_mapped_in_the_order_of_the_splitter(n_jobs: int) -> None:
    Xs, ys, cv = arranged()
    with parallel_backend("mmap", n_jobs=n_jobs, row_order="exact"), measure() as cost:
        found = cross_validate(PlainRidge(), Xs, ys, cv=cv, return_estimator=True)
        predicted = cross_val_predict(Ridge(), Xs, ys, cv=cv)
    # With the folds of the splitter nothing at all is mapped.
    for estimator in found["estimator"]:
        assert estimator.not_mapped_ < 4 * 512 * 400
    expected = cross_validate(Ridge(), X, Y, cv=SPLITS)
    np.testing.assert_allclose(found["test_score"], expected["test_score"])
    expected = cross_val_predict(Ridge(), X, Y, cv=SPLITS)
    np.testing.assert_allclose(cv.restore(predicted), expected)
    assert len(cost.tasks) == 10
    assert cost.copied_bytes < 0.1 * cost.mapped_bytes or n_jobs == 1


@pytest.mark.parametrize("row_order", ["exact", "any"])
def test_searches_in_workers(row_order: str) -> None:
    Xs, ys, cv = arranged()
    grid = {"alpha": [1.0, 1e4]}
    search = GridSearchCV(Ridge(), grid, cv=cv)
    with parallel_backend("mmap", n_jobs=2, row_order=row_order):
        search.fit(Xs, ys)
    expected = GridSearchCV(Ridge(), grid, cv=SPLITS).fit(X, Y)
    assert search.n_splits_ == 5
    for key in ("mean_test_score", "std_test_score"):
        np.testing.assert_allclose(search.cv_results_[key], expected.cv_results_[key])


def test_it_can_be_wrapped() -> None:
    Xs, _, cv = arranged()
    for (train, test), (inner_train, inner_test) in zip(
        PageFriendly(cv).split(Xs), cv.split(Xs), strict=True
    ):
        # The order is page-friendly already.
        np.testing.assert_array_equal(train, inner_train)
        np.testing.assert_array_equal(test, inner_test)


def test_search_within_a_train_set_says_what_is_wrong() -> None:
    Xs, ys, cv = arranged()
    search = GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=cv)
    with pytest.raises(ValueError, match="needs a splitter of its own"):
        cross_validate(search, Xs, ys, cv=KFold(2), error_score="raise")
