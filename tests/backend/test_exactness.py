"""Results are those of joblib's own "loky" backend."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import (
    BaggingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFECV, SequentialFeatureSelector
from sklearn.inspection import permutation_importance
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
    cross_val_predict,
    cross_validate,
    learning_curve,
    permutation_test_score,
    validation_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from tests.backend.common import call_each, recorded, use_mmap

Array = npt.NDArray[Any]

N_SAMPLES = 3000
N_FEATURES = 12


def make_data(n_samples: int = N_SAMPLES, n_features: int = N_FEATURES) -> Any:
    """Make features, targets and three classes that depend on them."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(n_samples, n_features))
    target = X[:, 0] + 0.5 * X[:, 1] ** 2 + 0.1 * rng.normal(size=n_samples)
    classes = np.digitize(target, [0.0, 1.0])
    return X, target, classes


def assert_identical(actual: Any, expected: Any) -> None:
    """Compare bit for bit: NaN equals NaN, and 0.0 does not equal -0.0."""
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            if not key.endswith("_time"):
                assert_identical(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_identical(one, other)
    elif isinstance(expected, np.ma.MaskedArray) or (
        isinstance(expected, np.ndarray) and expected.dtype.hasobject
    ):
        assert_identical(actual.tolist(), expected.tolist())
    elif isinstance(expected, np.ndarray):
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, float | np.floating):
        assert float(actual).hex() == float(expected).hex()
    else:
        assert actual == expected


def search_result(search: Any) -> Any:
    names = ("best_index_", "best_score_", "best_params_", "n_splits_")
    keys = [key for key in search.cv_results_ if "_time" not in key]
    return [
        [getattr(search, name) for name in names],
        {key: search.cv_results_[key] for key in keys},
        search.best_estimator_.coef_,
    ]


def run_cross_validate() -> Any:
    X, _, y = make_data()
    results = cross_validate(
        make_pipeline(StandardScaler(copy=False), LogisticRegression(max_iter=30)),
        X,
        y,
        cv=KFold(3),
        scoring=["accuracy", "neg_log_loss"],
        return_train_score=True,
        return_estimator=True,
        return_indices=True,
    )
    results["estimator"] = [pipe[-1].coef_ for pipe in results["estimator"]]
    return results


def run_cross_validate_with_weights() -> Any:
    X, y, _ = make_data()
    weights = np.linspace(0.1, 1.0, len(y))
    return cross_validate(Ridge(), X, y, cv=KFold(4), params={"sample_weight": weights})


def run_cross_validate_with_groups() -> Any:
    X, y, _ = make_data()
    groups = np.repeat(np.arange(10), len(y) // 10)
    return cross_validate(SGDlike(), X, y, groups=groups, cv=GroupKFold(3))


def run_cross_validate_shuffled() -> Any:
    X, y, _ = make_data()
    cv = KFold(3, shuffle=True, random_state=0)
    return cross_validate(DecisionTreeRegressor(random_state=0), X, y, cv=cv)


def run_cross_val_predict() -> Any:
    X, _, y = make_data()
    return cross_val_predict(GaussianNB(), X, y, cv=4, method="predict_proba")


def run_grid_search() -> Any:
    X, y, _ = make_data()
    return search_result(GridSearchCV(Ridge(), {"alpha": [0.1, 10]}, cv=3).fit(X, y))


def run_randomized_search() -> Any:
    X, _, y = make_data()
    search = RandomizedSearchCV(
        SGDClassifier(random_state=0, max_iter=5, tol=None),
        {"alpha": np.logspace(-5, -1, 9).tolist()},
        n_iter=3,
        cv=StratifiedKFold(3),
        random_state=0,
    )
    return search_result(search.fit(X, y))


def run_halving_search() -> Any:
    X, y, _ = make_data()
    search = HalvingGridSearchCV(
        Ridge(), {"alpha": [0.1, 1, 10]}, cv=KFold(3), random_state=0
    )
    return search_result(search.fit(X, y))


def run_learning_curve() -> Any:
    X, y, _ = make_data()
    return learning_curve(Ridge(), X, y, cv=KFold(3), train_sizes=[0.3, 1.0])


def run_incremental_learning_curve() -> Any:
    X, _, y = make_data()
    return learning_curve(
        SGDClassifier(random_state=0),
        X,
        y,
        cv=KFold(3),
        train_sizes=[0.3, 1.0],
        exploit_incremental_learning=True,
    )


def run_validation_curve() -> Any:
    X, y, _ = make_data()
    return validation_curve(
        Ridge(), X, y, param_name="alpha", param_range=[0.1, 10], cv=KFold(3)
    )


def run_permutation_test() -> Any:
    X, y, _ = make_data()
    return permutation_test_score(
        Ridge(), X, y, cv=KFold(3), n_permutations=4, random_state=0
    )


def run_stacking_regressor() -> Any:
    X, y, _ = make_data()
    parts = [("ridge", Ridge()), ("knn", KNeighborsRegressor(3))]
    return StackingRegressor(parts, cv=KFold(3)).fit(X, y).predict(X[:500])


def run_stacking_classifier() -> Any:
    X, _, y = make_data()
    parts = [
        ("bayes", GaussianNB()),
        ("tree", DecisionTreeClassifier(max_depth=4, random_state=0)),
    ]
    return StackingClassifier(parts, cv=3).fit(X, y).predict_proba(X[:500])


def run_voting() -> Any:
    X, _, y = make_data()
    parts = [("bayes", GaussianNB()), ("knn", KNeighborsClassifier(3))]
    return VotingClassifier(parts, voting="soft").fit(X, y).predict_proba(X[:500])


def run_bagging() -> Any:
    X, y, _ = make_data()
    return BaggingRegressor(n_estimators=4, random_state=0).fit(X, y).predict(X[:500])


def trees_of(forest: Any, X: Array) -> Any:
    # Forests add up what their trees say in threads, in whatever order.
    return [tree.predict(X.astype("float32")) for tree in forest.estimators_]


def run_forest_classifier() -> Any:
    X, _, y = make_data()
    return trees_of(RandomForestClassifier(6, max_depth=6, random_state=0).fit(X, y), X)


def run_forest_regressor() -> Any:
    X, y, _ = make_data()
    return trees_of(RandomForestRegressor(6, max_depth=6, random_state=0).fit(X, y), X)


def run_multi_output() -> Any:
    X, y, _ = make_data()
    Y = np.column_stack((y, -y, y**2))
    return MultiOutputRegressor(Ridge()).fit(X, Y).predict(X[:500])


def run_one_vs_rest() -> Any:
    X, _, y = make_data()
    return OneVsRestClassifier(GaussianNB()).fit(X, y).predict_proba(X[:500])


def run_rfecv() -> Any:
    X, y, _ = make_data()
    selector = RFECV(Ridge(), step=3, cv=KFold(3)).fit(X, y)
    return [selector.ranking_, dict(selector.cv_results_)]


def run_sequential_selection() -> Any:
    X, y, _ = make_data(n_features=4)
    selector = SequentialFeatureSelector(Ridge(), n_features_to_select=2, cv=KFold(3))
    return selector.fit(X, y).get_support()


def run_calibration() -> Any:
    X, _, y = make_data()
    return CalibratedClassifierCV(GaussianNB(), cv=3).fit(X, y).predict_proba(X[:500])


def run_permutation_importance() -> Any:
    X, y, _ = make_data(n_features=4)
    model = Ridge().fit(X, y)
    found = permutation_importance(model, X, y, n_repeats=3, random_state=0)
    return dict(found)


class SGDlike(BaseEstimator):  # type: ignore[misc]
    """A score that depends on the order of the rows and on every bit of them."""

    def fit(self, X: Array, y: Array) -> SGDlike:
        self.state_ = 0.0
        for row, target in zip(X[::7], y[::7], strict=True):
            self.state_ = np.tanh(self.state_ + float(row @ row) * target)
        return self

    def score(self, X: Array, y: Array) -> float:
        return self.state_ + float(np.sum(X[:, 0] * y))


MAPPING_CASES = [
    run_cross_validate,
    run_cross_validate_with_weights,
    run_cross_validate_with_groups,
    run_cross_val_predict,
    run_grid_search,
    run_randomized_search,
    run_learning_curve,
    run_incremental_learning_curve,
    run_validation_curve,
    run_permutation_test,
    run_stacking_regressor,
    run_stacking_classifier,
    run_rfecv,
    run_sequential_selection,
    run_calibration,
]
# No rows are selected, or not in runs.
OTHER_CASES = [
    run_cross_validate_shuffled,
    run_halving_search,
    run_voting,
    run_bagging,
    run_forest_classifier,
    run_forest_regressor,
    run_multi_output,
    run_one_vs_rest,
    run_permutation_importance,
]


def run_on_loky(run: Callable[[], Any]) -> Any:
    with joblib.parallel_config(backend="loky", n_jobs=2):
        return run()


@pytest.mark.parametrize("run", MAPPING_CASES, ids=lambda run: run.__name__[4:])
def test_folds_are_mapped_and_results_identical_to_loky(run: Callable[[], Any]) -> None:
    expected = run_on_loky(run)
    with use_mmap(), recorded() as records:
        actual = run()
    assert sum(record.mapped_bytes for record in records) > 0
    assert_identical(actual, expected)


@pytest.mark.parametrize("run", OTHER_CASES, ids=lambda run: run.__name__[4:])
def test_results_identical_to_loky(run: Callable[[], Any]) -> None:
    expected = run_on_loky(run)
    with use_mmap(), recorded() as records:
        actual = run()
    assert records, "nothing ran in a worker"
    assert_identical(actual, expected)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_identical_to_loky_with_default_min_bytes(order: Any, dtype: str) -> None:
    X, y, _ = make_data(n_samples=40_000, n_features=30)
    X = X.astype(dtype, order=order)

    def run() -> Any:
        results = cross_validate(SGDlike(), X, y, cv=KFold(3), return_estimator=True)
        return [results["test_score"], [e.state_ for e in results["estimator"]]]

    expected = run_on_loky(run)
    with joblib.parallel_config(backend="mmap", n_jobs=2), recorded() as records:
        actual = run()
    mapped_bytes = sum(record.mapped_bytes for record in records)
    assert mapped_bytes > 0.5 * X.nbytes
    assert_identical(actual, expected)


def as_frame(X: Array) -> pd.DataFrame:
    frame = pd.DataFrame(X, columns=[f"x{i}" for i in range(X.shape[1])])
    return frame.assign(whole=np.arange(len(X)), flag=np.arange(len(X)) % 2 == 0)


@pytest.mark.parametrize(
    "convert", [as_frame, sparse.csr_matrix, sparse.csr_array, np.ndarray.tolist]
)
@pytest.mark.parametrize("row_order", ["exact", "any"])
def test_other_containers_give_the_results_of_loky(
    convert: Callable[[Array], Any], row_order: str
) -> None:
    X, y, _ = make_data()
    X[X < 0.2] = 0
    container = convert(X)
    target = pd.Series(y) if convert is as_frame else y

    def run() -> Any:
        results = cross_validate(
            Ridge(solver="lsqr" if sparse.issparse(container) else "auto"),
            container,
            target,
            cv=KFold(3),
            return_train_score=True,
        )
        return [results["test_score"], results["train_score"]]

    expected = run_on_loky(run)
    with use_mmap(row_order=row_order), recorded() as records:
        actual = run()
    assert records
    if row_order == "exact":
        assert_identical(actual, expected)
    else:
        np.testing.assert_allclose(actual, expected, rtol=1e-6)


class RowRecorder(BaseEstimator):  # type: ignore[misc]
    """Remember which rows were seen, in their order; column 0 holds their numbers."""

    def fit(self, X: Array, y: Array, sample_weight: Array | None = None) -> Any:
        self.rows_ = X[:, 0].astype(int).tolist()
        assert np.array_equal(X[:, 0], y), "X and y do not belong together"
        if sample_weight is not None:
            assert np.array_equal(sample_weight, 2 * y), "nor do the weights"
        return self

    def partial_fit(self, X: Array, y: Array, classes: Any = None) -> Any:
        self.rows_ = [*getattr(self, "rows_", []), *X[:, 0].astype(int).tolist()]
        return self

    def score(self, X: Array, y: Array) -> float:
        self.tested_rows_ = X[:, 0].astype(int).tolist()
        assert np.array_equal(X[:, 0], y)
        # Distinguishes sets of rows, but not their order.
        return float(sum(row * row for row in self.rows_))


def make_numbered(n_samples: int = 12_000) -> tuple[Array, Array]:
    X = np.zeros((n_samples, 10))
    X[:, 0] = np.arange(n_samples)
    return X, X[:, 0].copy()


SPLITTERS = [
    KFold(3),
    KFold(4, shuffle=True, random_state=0),
    StratifiedKFold(3),
    GroupKFold(3),
]


@pytest.mark.parametrize("cv", SPLITTERS, ids=repr)
def test_any_order_keeps_the_members_of_every_fold(cv: Any) -> None:
    X, numbers = make_numbered()
    groups = np.sort(np.arange(len(X)) % 9)
    labels = np.sort(np.arange(len(X)) % 2)
    # The labels decide the folds, the numbers are what is fitted.
    folds = list(cv.split(X, labels, groups if isinstance(cv, GroupKFold) else None))
    with use_mmap(row_order="any"):
        results = cross_validate(
            RowRecorder(),
            X,
            numbers,
            cv=folds,
            return_estimator=True,
            params={"sample_weight": 2 * numbers},
            error_score="raise",
        )
    for estimator, (train, test) in zip(results["estimator"], folds, strict=True):
        assert sorted(estimator.rows_) == sorted(train.tolist())
        assert estimator.tested_rows_ == test.tolist()


def test_any_order_does_change_the_order_of_rows() -> None:
    X, y = make_numbered()
    with use_mmap(row_order="any"):
        results = cross_validate(
            RowRecorder(), X, y, cv=KFold(3), return_estimator=True
        )
    changed = [
        estimator.rows_ != sorted(estimator.rows_) for estimator in results["estimator"]
    ]
    assert any(changed)


def test_any_order_keeps_repeated_rows_as_they_are() -> None:
    X, y = make_numbered()
    train = np.concatenate((np.arange(8000, 12_000), np.arange(5000), np.arange(100)))
    folds = [(train, np.arange(5000, 8000))] * 2
    with use_mmap(row_order="any"):
        results = cross_validate(RowRecorder(), X, y, cv=folds, return_estimator=True)
    assert [e.rows_ for e in results["estimator"]] == [train.tolist()] * 2


def test_any_order_keeps_the_parts_of_incremental_learning() -> None:
    X, y = make_numbered()

    def run() -> Any:
        return learning_curve(
            RowRecorder(),
            X,
            y,
            cv=KFold(3),
            train_sizes=[0.3, 0.6],
            exploit_incremental_learning=True,
        )[1]

    with use_mmap(row_order="exact"):
        expected = run()
    with use_mmap(row_order="any"):
        actual = run()
    # Each size stands for the first rows of the train set, not for others.
    np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize(
    "estimator",
    [
        LinearRegression(),
        Ridge(),
        GaussianNB(),
        KNeighborsClassifier(5),
        KNeighborsRegressor(5),
    ],
    ids=lambda estimator: type(estimator).__name__,
)
def test_any_order_gives_the_scores_of_loky(estimator: Any) -> None:
    X, target, classes = make_data(n_samples=6000, n_features=5)
    y = classes if hasattr(estimator, "predict_proba") else target

    def run() -> Any:
        return cross_validate(estimator, X, y, cv=KFold(3))["test_score"]

    expected = run_on_loky(run)
    with use_mmap(row_order="any"), recorded() as records:
        actual = run()
    assert sum(record.mapped_bytes for record in records) > 0
    np.testing.assert_allclose(actual, expected, rtol=1e-9, atol=1e-9)


# Gradient descent takes the rows one by one.
DEPENDING_ON_ORDER = (run_cross_validate_with_groups, run_randomized_search)
ANY_ORDER_CASES = [
    *(run for run in MAPPING_CASES if run not in DEPENDING_ON_ORDER),
    *OTHER_CASES,
]


@pytest.mark.parametrize("run", ANY_ORDER_CASES, ids=lambda run: run.__name__[4:])
def test_any_order_gives_the_results_of_loky_but_for_rounding(
    run: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # With fewer rows, their runs are too short to be put into another order.
    monkeypatch.setattr(make_data, "__defaults__", (9000, N_FEATURES))
    expected = run_on_loky(run)
    with use_mmap(row_order="any"), recorded() as records:
        actual = run()
    assert records, "nothing ran in a worker"
    # The sigmoid of a calibration is fitted until it changes by less than this.
    tolerance = 1e-6 if run is run_calibration else 1e-9
    assert_close(actual, expected, tolerance)


def assert_close(actual: Any, expected: Any, tolerance: float) -> None:
    if isinstance(expected, dict):
        assert actual.keys() == expected.keys()
        for key in expected:
            if not key.endswith("_time"):
                assert_close(actual[key], expected[key], tolerance)
    elif isinstance(expected, list | tuple):
        for one, other in zip(actual, expected, strict=True):
            assert_close(one, other, tolerance)
    elif isinstance(expected, float | np.floating) or (
        isinstance(expected, np.ndarray) and expected.dtype.kind == "f"
    ):
        np.testing.assert_allclose(actual, expected, rtol=tolerance, atol=tolerance)
    else:
        assert_identical(actual, expected)


def return_argument(cv: Any = None, train: Any = None) -> Any:
    return cv, train


@pytest.mark.parametrize("value", ["prefit", "a b", 5, None, ["x"]])
def test_any_order_leaves_other_arguments_of_these_names_alone(value: Any) -> None:
    with use_mmap(row_order="any"):
        [found] = joblib.Parallel()([joblib.delayed(return_argument)(value, value)])
    assert found == (value, value)


@pytest.mark.parametrize(
    "rows",
    [
        np.r_[0:5000, -4000:0, 9000:20_000],
        np.r_[0:5000, -1, 9000:20_000],
        np.r_[5:10_000, -3, 0:4],
        np.r_[0:10_000, -10_000:0],
        np.r_[-10_000:0],
    ],
    ids=["a run", "one", "near the end", "at the end", "all"],
)
def test_negative_indices_select_the_rows_of_loky(rows: Any) -> None:
    X = np.arange(25_000.0)
    with use_mmap():
        for index, selected in call_each(select, X, rows, n_tasks=2):
            np.testing.assert_array_equal(index, rows)
            np.testing.assert_array_equal(selected, X[rows])


def select(X: Any, rows: Any) -> Any:
    return np.array(rows), np.array(X[rows])
