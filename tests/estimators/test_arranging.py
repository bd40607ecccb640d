"""With any order of rows, tasks of Memmapped have theirs in the order of the folds."""

from __future__ import annotations

import functools
import math
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.ensemble import RandomForestClassifier, StackingRegressor
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_selection import RFECV, SequentialFeatureSelector
from sklearn.linear_model import (
    LassoCV,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    RidgeClassifierCV,
    RidgeCV,
)
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    HalvingGridSearchCV,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.neighbors import KNeighborsClassifier, KNeighborsRegressor
from sklearn.utils import Bunch
from sklearn.utils.validation import has_fit_parameter

from skl_mmap import Memmapped
from skl_mmap.estimators._arranging import Arranger
from skl_mmap.memory import Placement

N_SAMPLES, N_FEATURES = 6144, 24
SHUFFLED = KFold(3, shuffle=True, random_state=0)
STRATIFIED = StratifiedKFold(3, shuffle=True, random_state=0)
WRITTEN = "was written once in the order of the folds"
LEFT = "left the rows of X in their order"


def make_data() -> Any:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_SAMPLES, N_FEATURES))
    X[:, 0] = np.arange(N_SAMPLES) / N_SAMPLES
    return X, X[:, 1] + rng.normal(size=N_SAMPLES)


def fit(estimator: Any, X: Any, y: Any, **options: Any) -> Memmapped:
    """Fit with workers, and any order of rows."""
    fit_params = options.pop("fit_params", {})
    options = {"n_jobs": 2, "row_order": "any", "min_bytes": "256K", **options}
    return Memmapped(estimator, **options).fit(X, y, **fit_params)


def notes_of(model: Memmapped) -> str:
    assert model.report_ is not None
    return "\n".join(model.report_.notes)


def assert_arranged(model: Memmapped) -> None:
    assert WRITTEN in notes_of(model)
    assert LEFT not in notes_of(model)
    cost = model.report_
    assert cost.copied_bytes < 0.15 * cost.mapped_bytes


def search_of(**parameters: Any) -> GridSearchCV:
    grid = {"n_neighbors": [1]}
    return GridSearchCV(KNeighborsRegressor(), grid, **{"cv": SHUFFLED, **parameters})


def scores_of(search: Any) -> dict[str, Any]:
    return {
        name: values.tolist()
        for name, values in search.cv_results_.items()
        if name.endswith(("_score",)) and "time" not in name
    }


class Summing(RegressorMixin, BaseEstimator):
    """Takes down which rows it is given, with which targets and weights."""

    def __init__(self, alpha: float = 1.0) -> None:
        self.alpha = alpha

    def fit(self, X: Any, y: Any, sample_weight: Any = None, more: Any = None) -> Any:
        self.sum_ = self._sum(X, y, sample_weight) + self._sum(X, y, more)
        return self

    def predict(self, X: Any) -> Any:
        return np.asarray(X)[:, 0]

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        return self.sum_ + 0.5 * self._sum(X, y, sample_weight)

    def _sum(self, X: Any, y: Any, weights: Any) -> float:
        # Exact, and so the same for the same rows in any order.
        weights = np.ones(len(y)) if weights is None else np.asarray(weights)
        return math.fsum(np.asarray(X)[:, 0] ** 2 * np.asarray(y) * weights)


class TestSearches:
    @pytest.mark.parametrize(
        "cv",
        [
            SHUFFLED,
            StratifiedKFold(3, shuffle=True, random_state=1),
            GroupKFold(3),
            [*SHUFFLED.split(np.zeros(N_SAMPLES))],
        ],
        ids=["shuffled", "stratified", "groups", "list"],
    )
    def test_train_and_test_sets_are_the_same(self, cv: Any) -> None:
        X, y = make_data()
        classes = (y > 0).astype(int)
        params: dict[str, Any] = {"sample_weight": np.linspace(0, 1, N_SAMPLES)}
        params["more"] = list(np.linspace(1, 2, N_SAMPLES))
        if isinstance(cv, GroupKFold):
            params["groups"] = np.random.default_rng(0).integers(0, 50, N_SAMPLES)
        search = GridSearchCV(Summing(), {"alpha": [1, 2]}, cv=cv, refit=False)
        model = fit(search, X, classes, fit_params=params)
        expected = clone(search).fit(X, classes, **params)
        assert scores_of(model) == scores_of(expected)
        assert_arranged(model)

    def test_the_best_estimator_has_the_rows_in_the_order_of_the_caller(self) -> None:
        X, y = make_data()
        model = fit(search_of(), X, y)
        assert_arranged(model)
        assert scores_of(model) == scores_of(search_of().fit(X, y))
        rows = [5, 0, 700]
        found = model.best_estimator_.kneighbors(X[rows], 1, return_distance=False)
        assert found.ravel().tolist() == rows

    @pytest.mark.parametrize("kind", ["F order", "frame", "mixed", "csr", "npy"])
    def test_inputs_of_all_kinds_are_arranged(self, kind: str, tmp_path: Path) -> None:
        X, y = make_data()
        given: Any = X
        estimator: Any = Summing()
        if kind == "F order":
            given = np.asfortranarray(X)
        if kind == "frame":
            given = pd.DataFrame(np.asfortranarray(X)).add_prefix("c")
        if kind == "mixed":
            given = pd.DataFrame(X).add_prefix("c")
            given["n"] = np.arange(N_SAMPLES, dtype=np.int32)
        if kind == "csr":
            given = sparse.csr_matrix(np.where(X > 0, X, 0))
            estimator = Ridge(solver="lsqr")
        if kind == "npy":
            np.save(tmp_path / "X.npy", X)
            given = tmp_path / "X.npy"
        search = GridSearchCV(estimator, {"alpha": [1.0]}, cv=SHUFFLED)
        model = fit(search, given, y, min_bytes="8K")
        assert WRITTEN in notes_of(model)
        expected = clone(search).fit(X if kind == "npy" else given, y)
        for name, scores in scores_of(expected).items():
            np.testing.assert_allclose(model.cv_results_[name], scores, rtol=1e-9)

    def test_a_splitter_without_a_seed_is_run_once(self) -> None:
        X, y = make_data()
        model = fit(search_of(cv=KFold(3, shuffle=True)), X, y)
        assert_arranged(model)

    def test_the_search_keeps_its_own_splitter(self) -> None:
        X, y = make_data()
        model = fit(search_of(), X, y)
        inner = pickle.loads(pickle.dumps(model.estimator_))
        assert inner.cv is not SHUFFLED
        assert [vars(inner.cv), vars(model.cv)] == [vars(SHUFFLED)] * 2
        parts = [getattr(value, "__dict__", {}) for value in vars(inner).values()]
        assert not any("split" in part for part in parts)

    def test_a_fit_in_a_worker_has_the_order_of_the_caller(self) -> None:
        X, y = make_data()
        model = fit(search_of(), X, y, single_fits="worker")
        assert_arranged(model)
        found = model.best_estimator_.kneighbors(X[[9]], 1, return_distance=False)
        assert found.tolist() == [[9]]


class TestOthers:
    def test_a_stack_has_the_order_of_the_caller(self) -> None:
        X, y = make_data()
        members = [("near", KNeighborsRegressor(2)), ("ridge", Ridge())]
        stack = StackingRegressor(members, LinearRegression(), cv=SHUFFLED)
        model = fit(stack, X, y)
        assert_arranged(model)
        assert "in its own way" not in notes_of(model)
        expected = clone(stack).fit(X, y)
        np.testing.assert_allclose(
            model.final_estimator_.coef_, expected.final_estimator_.coef_, rtol=1e-9
        )
        near = model.named_estimators_["near"]
        assert near.kneighbors(X[[9]], 1, return_distance=False).tolist() == [[9]]

    @pytest.mark.parametrize(
        "estimator",
        [
            CalibratedClassifierCV(LogisticRegression(), cv=STRATIFIED),
            CalibratedClassifierCV(LogisticRegression(), cv=STRATIFIED, ensemble=False),
            RFECV(LogisticRegression(), step=40, cv=STRATIFIED),
            LassoCV(alphas=3, cv=SHUFFLED),
            pytest.param(
                LogisticRegressionCV(Cs=[1.0], cv=STRATIFIED),
                # Of its defaults, which are about to change.
                marks=pytest.mark.filterwarnings("ignore::FutureWarning"),
            ),
            RidgeCV([0.1, 1e9], cv=SHUFFLED),
            RidgeClassifierCV([0.1, 1e9], cv=STRATIFIED),
            HalvingGridSearchCV(
                KNeighborsClassifier(),
                {"n_neighbors": [1, 30]},
                resource="leaf_size",
                max_resources=40,
                min_resources=20,
                factor=2,
                cv=STRATIFIED,
            ),
        ],
        ids=[
            *("calibrated", "calibrated together", "rfecv", "lasso"),
            *("logistic", "ridge", "ridge classifier", "halving"),
        ],
    )
    def test_it_is_arranged_for_whoever_sends_folds(self, estimator: Any) -> None:
        X, y = make_data()
        classes = (y > 0).astype(int)
        weights = np.linspace(0, 1, N_SAMPLES)
        has_weights = has_fit_parameter(estimator, "sample_weight")
        params = {"sample_weight": weights} if has_weights else {}
        model = fit(estimator, X, classes, fit_params=params)
        assert_arranged(model)
        expected = clone(estimator).fit(X, classes, **params)
        method = "predict_proba" if hasattr(expected, "predict_proba") else "predict"
        np.testing.assert_allclose(
            getattr(model, method)(X), getattr(expected, method)(X), rtol=1e-5
        )

    def test_tasks_that_wait_in_another_layout_are_arranged_too(self) -> None:
        X, y = make_data()
        forest = RandomForestClassifier(4, max_depth=2, random_state=0)
        search = GridSearchCV(forest, {"max_features": [2, 4, 6, 8]}, cv=STRATIFIED)
        model = fit(search, X, y > 0)
        assert "was given X as float32 C" in notes_of(model)
        assert_arranged(model)

    @pytest.mark.parametrize("cv", [STRATIFIED, 3], ids=["shuffled", "in order"])
    def test_it_is_arranged_for_each_candidate_of_features(self, cv: Any) -> None:
        X, y = make_data()
        # Sorted, the last of three folds of a regressor would have one class only.
        order = np.argsort(y, kind="stable")
        X, classes = X[order, :8], np.arange(N_SAMPLES) >= N_SAMPLES * 2 // 3
        selector = SequentialFeatureSelector(
            LogisticRegression(), n_features_to_select=7, direction="backward", cv=cv
        )
        model = fit(selector, X, classes, min_bytes="64K")
        assert WRITTEN in notes_of(model)
        expected = clone(selector).fit(X, classes)
        np.testing.assert_array_equal(model.support_, expected.support_)

    def test_ridge_without_folds_keeps_its_own_way(self) -> None:
        X, y = make_data()
        model = fit(RidgeCV([0.1, 1.0]), X, y)
        assert model.best_score_ == RidgeCV([0.1, 1.0]).fit(X, y).best_score_


class TestRefusals:
    def test_a_halving_search_draws_its_rows_at_random(self) -> None:
        X, y = make_data()
        search = HalvingGridSearchCV(
            Ridge(), {"alpha": [0.1, 1e9]}, cv=SHUFFLED, random_state=0
        )
        model = fit(search, X, y)
        assert "draws rows of its folds at random" in notes_of(model)
        assert WRITTEN not in notes_of(model)
        assert model.best_params_ == clone(search).fit(X, y).best_params_

    @pytest.mark.parametrize(
        ("cv", "reason"),
        [
            (ShuffleSplit(3, random_state=0), "is not a partition: test sets overlap"),
            (KFold(3), "in the order of the folds already|mapped where they lie"),
            (TimeSeriesSplit(3), "mapped where they lie|needs no arranging"),
        ],
        ids=["overlapping", "in order", "rows before"],
    )
    def test_other_folds_are_left_alone(self, cv: Any, reason: str) -> None:
        X, y = make_data()
        model = fit(search_of(cv=cv), X, y)
        assert WRITTEN not in notes_of(model)
        assert any(map(functools.partial(_has, notes_of(model)), reason.split("|")))
        assert scores_of(model) == scores_of(search_of(cv=cv).fit(X, y))

    def test_one_job_shares_nothing(self) -> None:
        X, y = make_data()
        model = fit(search_of(), X, y, n_jobs=1)
        assert "with one job" in notes_of(model)

    def test_a_matrix_of_pairs_is_left_alone(self) -> None:
        X, y = make_data()
        pairs = np.abs(X[:800, None, 1] - X[None, :800, 1])
        near = KNeighborsRegressor(metric="precomputed")
        search = GridSearchCV(near, {"n_neighbors": [1, 3]}, cv=SHUFFLED)
        model = fit(search, pairs, y[:800])
        assert "it is square" in notes_of(model)
        assert scores_of(model) == scores_of(clone(search).fit(pairs, y[:800]))

    def test_what_is_mapped_already_is_weighed_against_a_copy(
        self, tmp_path: Path
    ) -> None:
        X, y = make_data()
        np.save(tmp_path / "X.npy", X)
        rows = np.arange(N_SAMPLES)
        # Each of two workers would copy less than half of X.
        half = [(rows[rows % 4 == 1], rows[:10])]
        model = fit(search_of(cv=half), tmp_path / "X.npy", y)
        assert "takes more than the copies of folds" in notes_of(model)

    def test_an_exact_order_is_left_alone(self) -> None:
        X, y = make_data()
        model = fit(search_of(), X, y, row_order="exact")
        assert WRITTEN not in notes_of(model)
        assert LEFT not in notes_of(model)

    def test_an_arrangement_without_room_is_not_made(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        X, y = make_data()
        fails = functools.partial(_raise, OSError("no room"))
        monkeypatch.setattr("skl_mmap.estimators._arranging.gather", fails)
        model = fit(search_of(), X, y)
        assert f"{LEFT}: no room" in notes_of(model)
        assert scores_of(model) == scores_of(search_of().fit(X, y))


def _has(text: str, part: str) -> bool:
    return part in text


def _raise(error: Exception, *_: Any) -> None:
    raise error


class TestTasks:
    """What is in a task that was rewritten, without workers."""

    @settings(max_examples=30)
    @given(data=st.data())
    def test_it_selects_the_same_rows_in_the_same_order(self, data: Any) -> None:
        n_rows, n_folds = data.draw(st.integers(300, 800)), data.draw(st.integers(2, 6))
        seed = data.draw(st.integers(0, 5))
        rng = np.random.default_rng(seed)
        folds = rng.integers(0, n_folds, n_rows)
        folds[:n_folds] = range(n_folds)
        splits = [
            (rng.permutation(np.flatnonzero(folds != k)), np.flatnonzero(folds == k))
            for k in range(n_folds)
        ]
        X = rng.normal(size=(n_rows, 128))
        y = rng.integers(0, 9, n_rows).tolist()
        params = {"weights": np.arange(n_rows), "other": np.arange(n_rows + 1), "n": 3}
        routed = Bunch(estimator=Bunch(fit=params))
        arranger = make_arranger()
        arranger.see_folds(X, None, splits)
        for train, test in splits:
            train = data.draw(st.sampled_from([train, train.tolist(), train - n_rows]))
            arguments = {"X": X, "y": y, "train": train, "test": test}
            arguments.update(fit_params=params, routed_params=routed, alpha=[1, 2])
            _, _, kwargs = arranger.rewrite((task_of_sklearn, (), arguments))
            assert kwargs["X"] is not X
            for name in ("train", "test"):
                rows, given = kwargs[name], np.asarray(arguments[name])
                np.testing.assert_array_equal(kwargs["X"][rows], X[given])
                assert [kwargs["y"][i] for i in rows] == [y[i] for i in given]
                weights = kwargs["fit_params"]["weights"][rows]
                np.testing.assert_array_equal(weights, params["weights"][given])
                inner = kwargs["routed_params"].estimator.fit["weights"][rows]
                np.testing.assert_array_equal(inner, weights)
            assert kwargs["fit_params"]["other"] is params["other"]
            assert kwargs["fit_params"]["n"] == 3
            assert type(kwargs["y"]) is list
            # Of the whole test set, one run.
            assert sorted(kwargs["test"]) == list(
                range(min(kwargs["test"]), max(kwargs["test"]) + 1)
            )

    @pytest.mark.parametrize(
        "changes",
        [
            {"train": None},
            {"X": None},
            {"X": np.zeros((301, 128))},
            {"other": np.zeros(300)},
            {"y": np.zeros(301)},
        ],
        ids=["no train", "no X", "another X", "unknown rows", "another y"],
    )
    def test_tasks_that_are_not_known_well_are_left_alone(
        self, changes: dict[str, Any]
    ) -> None:
        X = np.zeros((300, 128))
        splits = [*KFold(2, shuffle=True, random_state=0).split(X)]
        arranger = make_arranger()
        arranger.see_folds(X, None, splits)
        train, test = splits[0]
        arguments = {"X": X, "y": np.zeros(300), "train": train, "test": test}
        item = (task_of_sklearn, (), {**arguments, **changes})
        assert arranger.rewrite(item) is item
        item = (task_of_others, (), arguments)
        assert arranger.rewrite(item) is item
        known = arranger.rewrite((task_of_sklearn, (), arguments))
        assert known[2]["X"] is not X
        assert arranger.rewrite(known) is known


def make_arranger() -> Arranger:
    placement = Placement.from_parameter("memory")
    return Arranger(Ridge(), 2, placement, 1, needs_both=False)


def task_of_others(**_: Any) -> None:
    """Stand for a task of another library."""


def task_of_sklearn(**_: Any) -> None:
    """Stand for a task of scikit-learn."""


task_of_sklearn.__module__ = "sklearn.somewhere"
