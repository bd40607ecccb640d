"""Candidates of a search share what first steps make of a fold, and nothing changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from sklearn import config_context
from sklearn.base import BaseEstimator, TransformerMixin, clone
from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.ensemble import RandomForestClassifier
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.feature_selection import SelectKBest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MinMaxScaler,
    OrdinalEncoder,
    QuantileTransformer,
    StandardScaler,
)

from skl_mmap import Memmapped
from skl_mmap.estimators import _shared_prefix
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.monitor import listen, unlisten
from tests.backend.common import SegmentWatch, recorded
from tests.estimators.common import share_all
from tests.estimators.single_fits import assert_same_model

N_SAMPLES = 900
SHARED = "were fitted once for each of"
NO_EFFECT = "share_prefix=True has no effect"
FOLDS = StratifiedKFold(3, shuffle=True, random_state=0)
GRID = {"last__C": [0.1, 1.0, 10.0]}


def make_data() -> Any:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_SAMPLES, 12)) * np.arange(1, 13)
    return X, (X[:, 0] + rng.normal(size=N_SAMPLES) > 0).astype(int)


def make_pipeline(*first: Any, last: Any = None) -> Pipeline:
    names = ["first", "second", "third"]
    last = LogisticRegression(tol=1e-2) if last is None else last
    return Pipeline([*zip(names, first, strict=False), ("last", last)])


def make_search(*first: Any, grid: Any = None, **parameters: Any) -> GridSearchCV:
    pipeline = make_pipeline(*(first or (StandardScaler(), PCA(6, svd_solver="full"))))
    return GridSearchCV(pipeline, grid or GRID, **{"cv": FOLDS, **parameters})


def fit(search: Any, X: Any, y: Any, **options: Any) -> tuple[Memmapped, str]:
    """Fit with shared first steps, and return the model and what the report says."""
    notes: list[str] = []
    params = options.pop("params", {})
    listener = listen(notes.append, str)
    try:
        model = share_all(search, **{"n_jobs": 2, "share_prefix": True, **options})
        model.fit(X, y, **params)
    finally:
        unlisten(listener)
    return model, "\n".join(notes)


def results_of(search: Any) -> dict[str, Any]:
    """Return what is in the table of a search, estimators as text."""
    return {
        name: [v if isinstance(v, float) else repr(v) for v in values]
        for name, values in search.cv_results_.items()
        if "_time" not in name
    }


def assert_same_search(actual: Any, expected: Any) -> None:
    # NaN equals NaN.
    np.testing.assert_equal(results_of(actual), results_of(expected))
    assert repr(actual.best_params_) == repr(expected.best_params_)
    assert_same_model(actual.best_estimator_, expected.best_estimator_)


def assert_shared(search: Any, X: Any, y: Any, **options: Any) -> str:
    """Fit with shared first steps and without, and compare."""
    model, notes = fit(search, X, y, **options)
    assert SHARED in notes
    assert NO_EFFECT not in notes
    options.pop("single_fits", None)
    expected, _ = fit(search, X, y, **{**options, "share_prefix": False})
    assert_same_search(model.estimator_, expected.estimator_)
    return notes


class TestResults:
    def test_they_are_those_of_loky(self) -> None:
        X, y = make_data()
        search = make_search()
        model, notes = fit(search, X, y)
        assert "(first, second) were fitted once for each of 3 folds" in notes
        with parallel_config("loky", n_jobs=2):
            expected = clone(search).fit(X, y)
        assert_same_search(model.estimator_, expected)

    def test_first_steps_run_once_for_each_fold(self) -> None:
        X, y = make_data()
        with recorded() as records:
            fit(make_search(), X, y)
        labels = [record.label for record in records]
        for fold in (1, 2, 3):
            assert labels.count(f"PCA, fold {fold} of 3") == 1
            assert f"LogisticRegression, fold {fold} of 3" in labels

    def test_train_scores_and_several_metrics(self) -> None:
        X, y = make_data()
        scoring = ["accuracy", "roc_auc", "neg_log_loss"]
        search = make_search(scoring=scoring, refit="roc_auc", return_train_score=True)
        assert_shared(search, X, y)

    def test_frames_of_several_dtypes(self) -> None:
        X, y = make_data()
        frame = pd.DataFrame(X).add_prefix("c")
        kinds = np.arange(N_SAMPLES) % 4
        frame["kind"] = pd.Categorical.from_codes(kinds, [*"abcd"])
        frame["text"] = np.array(["x", "yy", "zzz"])[np.arange(N_SAMPLES) % 3]
        numbers = make_column_selector(dtype_include="float64")
        others = make_column_selector(dtype_exclude="float64")
        transformer = ColumnTransformer(
            [("n", StandardScaler(), numbers), ("o", OrdinalEncoder(), others)]
        )
        forest = RandomForestClassifier(3, max_depth=4, random_state=0)
        pipeline = make_pipeline(transformer, last=forest)
        search = GridSearchCV(pipeline, {"last__min_samples_leaf": [1, 5]}, cv=FOLDS)
        names = (y + 5).astype(str)
        assert_shared(search, frame, names)

    def test_any_order_of_rows_keeps_rows_and_targets_together(self) -> None:
        # Folds would be mapped in another order.
        rng = np.random.default_rng(1)
        X, y = rng.normal(size=(4096, 64)), np.arange(4096) % 2
        X[:, 0] += 9 * y
        model, notes = fit(
            make_search(StandardScaler(), cv=KFold(4)), X, y, row_order="any"
        )
        assert SHARED in notes
        assert model.cv_results_["mean_test_score"].min() > 0.99

    def test_text_becomes_a_sparse_matrix(self) -> None:
        X, y = make_data()
        words = np.array(["a", "bb", "cc", "d"])[(np.abs(X) % 4).astype(int)]
        texts = [" ".join(row) for row in words]
        vectorizer = TfidfVectorizer(token_pattern=r"\w+")
        assert_shared(make_search(vectorizer, return_train_score=True), texts, y)

    @pytest.mark.parametrize(
        "first",
        [
            (StandardScaler().set_output(transform="pandas"),),
            (SelectKBest(k=5),),
            ("passthrough", MinMaxScaler(), None),
            (FunctionTransformer(),),
            (QuantileTransformer(subsample=99, n_quantiles=9, random_state=0),),
            (TruncatedSVD(3, random_state=np.random.RandomState(3)),),
        ],
        ids=["frames", "by column", "passed", "nothing", "seed", "random state"],
    )
    def test_first_steps_of_all_kinds(self, first: Any) -> None:
        X, y = make_data()
        assert_shared(make_search(*first, return_train_score=True), X, y)

    def test_later_steps_may_be_exchanged(self) -> None:
        X, y = make_data()
        grid = [
            {"second": ["passthrough", PCA(3, svd_solver="full")], "last__C": [1.0]},
            {"last": [Ridge(), Ridge(2.0)], "second__n_components": [2]},
        ]
        notes = assert_shared(make_search(grid=grid, scoring="r2"), X, y)
        assert "(first) were fitted once" in notes

    def test_random_candidates_are_the_same(self) -> None:
        X, y = make_data()
        pipeline = make_search().estimator
        search = RandomizedSearchCV(pipeline, GRID, n_iter=2, random_state=0, cv=2)
        assert_shared(search, X, y, single_fits="worker")

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
    @pytest.mark.filterwarnings("ignore:One or more of the test scores")
    def test_a_candidate_that_fails_has_the_score_of_errors(self) -> None:
        X, y = make_data()
        search = make_search(grid={"last__C": [1.0, -1.0]}, error_score=-7.0)
        assert_shared(search, X, y)
        with pytest.raises(ValueError, match="'C'"):
            fit(search.set_params(error_score="raise"), X, y)

    def test_weights_reach_the_last_step(self) -> None:
        X, y = make_data()
        params = {"last__sample_weight": np.linspace(0, 1, N_SAMPLES)}
        assert_shared(make_search(), X, y, params=params)

    def test_a_splitter_without_a_seed_is_run_once(self) -> None:
        X, y = make_data()
        _, notes = fit(make_search(cv=KFold(2, shuffle=True)), X, y)
        assert SHARED in notes

    def test_folds_are_freed(self) -> None:
        X, y = make_data()
        watch = SegmentWatch()
        model, notes = fit(make_search(), X, y)
        assert SHARED in notes
        assert watch.wait()
        assert model.predict(X).shape == y.shape


FIRST = 99.0


class Failing(TransformerMixin, BaseEstimator):
    """Fails on folds that do not begin with the first row."""

    def fit(self, X: Any, y: Any = None) -> Failing:
        if X[0, 0] != FIRST:
            raise ValueError("not these rows")
        return self

    def transform(self, X: Any) -> Any:
        return X


def every_other(X: Any) -> Any:
    return X[:, ::2]


def draw(X: Any) -> Any:
    return X + np.random.rand()  # noqa: NPY002


def as_rows(X: Any) -> Any:
    return list(X)


def score_all(estimator: Any, X: Any, y: Any) -> float:
    return float(accuracy_score(y, estimator.predict(X)))


SCALED = make_pipeline(StandardScaler())


class TestRefusals:
    @pytest.mark.parametrize(
        ("search", "options", "reason"),
        [
            (Ridge(), {}, "only GridSearchCV and RandomizedSearchCV"),
            (HalvingGridSearchCV(SCALED, GRID), {}, "only GridSearchCV and Randomized"),
            (
                GridSearchCV(Ridge(), {"alpha": [1.0]}),
                {},
                "is not scikit-learn",
            ),
            (make_search(), {"n_jobs": 1}, "with one job"),
            (
                make_search(grid={"first__with_mean": [True]}),
                {},
                "no step comes before",
            ),
            (make_search("passthrough"), {}, "no step comes before"),
            (make_search(grid={"verbose": [False], **GRID}), {}, "change verbose"),
            (make_search(StandardScaler(copy=False)), {}, "change its input in place"),
            (
                make_search(grid={"second__copy": [True, False]}),
                {},
                "change its input in place",
            ),
            (make_search(scoring=score_all), {}, "a function computes scores"),
            (
                make_search(),
                {"params": {"first__sample_weight": np.ones(N_SAMPLES)}},
                "first steps have parameters of fit: first__sample_weight",
            ),
            (make_search(FunctionTransformer(every_other)), {}, "gaps between"),
            (make_search(FunctionTransformer(as_rows)), {}, "make a list"),
        ],
    )
    def test_the_report_says_why_not(
        self, search: Any, options: dict[str, Any], reason: str
    ) -> None:
        X, y = make_data()
        # A step may change X itself.
        model, notes = fit(search, X.copy(), y, **options)
        assert NO_EFFECT in notes
        assert reason in notes
        assert SHARED not in notes
        if isinstance(search, GridSearchCV):
            expected, _ = fit(search, X, y, share_prefix=False, **options)
            assert_same_search(model.estimator_, expected.estimator_)

    def test_a_memory_of_the_pipeline_is_left_alone(self, tmp_path: Any) -> None:
        X, y = make_data()
        search = make_search()
        search.estimator.memory = str(tmp_path)
        assert "a memory of its own" in fit(search, X, y)[1]

    def test_random_numbers_without_a_seed_are_drawn_by_each_candidate(self) -> None:
        X, y = make_data()
        with recorded() as records:
            _, notes = fit(make_search(FunctionTransformer(draw)), X, y)
        assert "random_state=None" in notes
        assert SHARED not in notes
        # One fold was tried.
        labels = [record.label for record in records]
        assert sum(label.startswith("FunctionTransformer") for label in labels) == 1

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.FitFailedWarning")
    @pytest.mark.filterwarnings("ignore:One or more of the test scores")
    def test_errors_of_first_steps_are_those_of_all_candidates(self) -> None:
        X, y = make_data()
        X[0, 0] = FIRST
        search = make_search(Failing(), cv=KFold(4), refit=False)
        model, notes = fit(search, X, y)
        assert "first steps have raised ValueError: not these rows" in notes
        expected, _ = fit(search, X, y, share_prefix=False)
        np.testing.assert_equal(results_of(model), results_of(expected))

    def test_folds_without_room_are_not_kept(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        X, y = make_data()
        has_room = "skl_mmap.memory.Placement.has_room"
        monkeypatch.setattr(has_room, lambda *_: False)
        _, notes = fit(make_search(), X, y)
        assert "there is no room for all transformed folds" in notes

    def test_tasks_that_are_not_known_fit_all_steps(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        X, y = make_data()
        monkeypatch.setattr(_shared_prefix, "is_fit_on_rows", lambda _: False)
        model, notes = fit(make_search(), X, y)
        assert "not as they are known" in notes
        assert SHARED not in notes
        expected, _ = fit(make_search(), X, y, share_prefix=False)
        assert_same_search(model.estimator_, expected.estimator_)

    def test_metadata_routing_is_left_alone(self) -> None:
        X, y = make_data()
        with config_context(enable_metadata_routing=True):
            _, notes = fit(make_search(), X, y)
        assert "metadata routing" in notes

    def test_other_values_are_an_error(self) -> None:
        X, y = make_data()
        with pytest.raises(InvalidParameterError, match="share_prefix='yes'"):
            fit(make_search(), X, y, share_prefix="yes")
