"""A fit in a worker is the fit in this process, bit for bit."""

from __future__ import annotations

import os
import random
import warnings
from typing import Any

import numpy as np
import pandas as pd
import pytest
from joblib import Parallel, delayed, parallel_config
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    BaggingRegressor,
    HistGradientBoostingClassifier,
    HistGradientBoostingRegressor,
    RandomForestClassifier,
    StackingClassifier,
    StackingRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.experimental import enable_halving_search_cv  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    HalvingGridSearchCV,
    HalvingRandomSearchCV,
    RandomizedSearchCV,
)
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from threadpoolctl import threadpool_info, threadpool_limits

from skl_mmap import Memmapped, measure
from skl_mmap.estimators import _single_fits
from skl_mmap.estimators._single_fits import (
    CaughtWarning,
    Surroundings,
    _limit_libraries_beside,
    refitting_in_worker,
)
from skl_mmap.exceptions import InvalidParameterError
from tests.backend.common import recorded
from tests.estimators.common import make_data, share_all
from tests.estimators.single_fits import (
    Changing,
    Closed,
    Counting,
    Frozen,
    Inner,
    Own,
    Unsupervised,
    Watching,
    assert_same_model,
    fit_both,
    notes_of,
)
from tests.estimators.stacks import make_classifier, make_regressor

N_SAMPLES = 4000
ALPHAS = {"alpha": [0.1, 1.0]}


def make_search(estimator: Any, grid: Any = None, **parameters: Any) -> GridSearchCV:
    return GridSearchCV(estimator, grid or {}, **{"cv": 3, **parameters})


def make_large() -> Any:
    """Make enough rows for several threads to share the work."""
    return make_data(N_SAMPLES, 20)


REGRESSORS = {
    "Ridge": (Ridge(), ALPHAS),
    "least squares": (LinearRegression(), {}),
    "HistGradientBoosting": (
        HistGradientBoostingRegressor(max_iter=5, random_state=0),
        {"max_leaf_nodes": [5, 9]},
    ),
    "pipeline": (
        make_pipeline(StandardScaler(), PCA(5, svd_solver="full"), Ridge()),
        {"ridge__alpha": [0.1, 1.0]},
    ),
    "network": (
        MLPRegressor(hidden_layer_sizes=(8,), max_iter=3, random_state=0, tol=10.0),
        {},
    ),
    "bagging": (BaggingRegressor(Ridge(), 4, random_state=0), {}),
    "stack": (make_regressor(n_jobs=None), {}),
}
CLASSIFIERS = {
    "LogisticRegression": (LogisticRegression(), {"C": [0.1, 1.0]}),
    "HistGradientBoosting": (
        HistGradientBoostingClassifier(max_iter=3, early_stopping=True, random_state=0),
        {},
    ),
    "forest": (
        RandomForestClassifier(5, max_depth=4, random_state=0, n_jobs=None),
        {"max_features": [0.5, 1.0]},
    ),
    "SVC": (SVC(max_iter=200, tol=1.0), {"C": [0.1, 1.0]}),
    "neighbours": (KNeighborsClassifier(), {"n_neighbors": [1, 5]}),
}


class TestSearches:
    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    @pytest.mark.parametrize("name", REGRESSORS)
    def test_regressors_are_the_same(self, name: str) -> None:
        X, y, _ = make_large()
        here, there = fit_both(make_search(*REGRESSORS[name]), X, y)
        assert_same_model(there.best_estimator_, here.best_estimator_)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    @pytest.mark.parametrize("name", CLASSIFIERS)
    def test_classifiers_are_the_same(self, name: str) -> None:
        X, _, y = make_large()
        here, there = fit_both(make_search(*CLASSIFIERS[name]), X, y)
        assert_same_model(there.best_estimator_, here.best_estimator_)

    @pytest.mark.parametrize("kind", ["pandas", "csr", "F order", "strided", "text"])
    def test_inputs_are_the_same(self, kind: str) -> None:
        X, y, _ = make_large()
        estimator: Any = Ridge(solver="cholesky")
        if kind == "csr":
            X = sparse.csr_matrix(np.where(X > 0, X, 0.0))
            estimator = Ridge(solver="lsqr")
        if kind == "pandas":
            X = pd.DataFrame(X, columns=[f"column {i}" for i in range(X.shape[1])])
        if kind == "F order":
            X = np.asfortranarray(X)
        if kind == "strided":
            X = X[::2, ::3]
            y = y[::2]
        if kind == "text":
            X = [f"{a:.1f} {b:.1f} {c:.1f}" for a, b, c in X[:600, :3]]
            y = y[:600]
            estimator = make_pipeline(TfidfVectorizer(analyzer="char"), Ridge())
        here, there = fit_both(make_search(estimator), X, y)
        assert_same_model(there.best_estimator_, here.best_estimator_)
        assert hasattr(there, "feature_names_in_") == hasattr(here, "feature_names_in_")
        if kind == "pandas":
            assert list(there.feature_names_in_) == list(X.columns)

    @pytest.mark.parametrize(
        "make",
        [
            lambda: make_search(Ridge(), ALPHAS),
            lambda: make_search(Ridge(), ALPHAS, refit=lambda results: 1),
            lambda: make_search(
                Ridge(),
                ALPHAS,
                scoring=["r2", "neg_mean_absolute_error"],
                refit="neg_mean_absolute_error",
            ),
            lambda: RandomizedSearchCV(Ridge(), ALPHAS, n_iter=2, random_state=0),
            lambda: HalvingGridSearchCV(Ridge(), ALPHAS, random_state=0),
            lambda: HalvingRandomSearchCV(
                Ridge(), ALPHAS, n_candidates=2, random_state=0
            ),
        ],
        ids=["grid", "callable", "named", "random", "halving", "halving random"],
    )
    def test_attributes_are_those_of_scikit_learn(self, make: Any) -> None:
        X, y, _ = make_data()
        here, there = fit_both(make(), X, y)
        assert vars(there).keys() == vars(here).keys()
        for name in ("best_index_", "best_params_", "best_score_", "n_splits_"):
            assert getattr(there, name, None) == getattr(here, name, None)
        assert type(there.best_estimator_) is Ridge
        assert_same_model(there.best_estimator_, here.best_estimator_)
        assert there.refit is here.refit or callable(there.refit)
        assert there.refit_time_ > 0
        assert "__sklearn_clone__" not in vars(there.estimator)
        assert_same_model(clone(there).fit(X, y).best_estimator_, here.best_estimator_)

    def test_the_estimator_of_the_user_is_left_alone(self) -> None:
        X, y, _ = make_data()
        search = make_search(Ridge())
        before = dict(vars(search.estimator))
        fit_both(search, X, y)
        assert vars(search.estimator) == before

    @pytest.mark.parametrize("as_list", [False, True])
    def test_weights_arrive(self, as_list: bool) -> None:
        X, y, _ = make_large()
        weights: Any = np.linspace(0.1, 1.0, len(X))
        if as_list:
            weights = weights.tolist()
        search = make_search(Ridge(), scoring="r2")
        here, there = fit_both(search, X, y, sample_weight=weights)
        assert_same_model(there.best_estimator_, here.best_estimator_)
        plain = fit_both(search, X, y)[0]
        assert plain.best_estimator_.coef_[0] != here.best_estimator_.coef_[0]

    def test_metadata_is_routed(self) -> None:
        X, y, _ = make_large()
        with config_context(enable_metadata_routing=True):
            ridge = Ridge().set_fit_request(sample_weight=True)
            ridge.set_score_request(sample_weight=False)
            search = make_search(ridge)
            weights = np.linspace(0.1, 1.0, len(X))
            here, there = fit_both(search, X, y, sample_weight=weights)
        assert_same_model(there.best_estimator_, here.best_estimator_)

    @pytest.mark.parametrize("estimator", [PCA(2, svd_solver="full"), Unsupervised()])
    def test_without_a_target(self, estimator: Any) -> None:
        X, _, _ = make_large()
        here, there = fit_both(make_search(estimator), X, None)
        assert_same_model(there.best_estimator_, here.best_estimator_)

    def test_nothing_is_left_of_a_search_that_fails(self) -> None:
        X, y, _ = make_data()
        search = make_search(Ridge(), scoring="nothing of the kind")
        with pytest.raises(ValueError, match="nothing"), refitting_in_worker(search):
            search.fit(X, y)
        assert vars(search.estimator) == vars(Ridge())

    def test_layouts_are_shared_with_the_refit_too(self) -> None:
        X, y, _ = make_large()
        search = make_search(HistGradientBoostingRegressor(max_iter=3, random_state=0))
        options: Any = {"n_jobs": 2, "min_bytes": 1, "layouts": "auto"}
        here = Memmapped(search, **options).fit(X, y)
        there = Memmapped(search, **options, single_fits="worker").fit(X, y)
        assert_same_model(there.best_estimator_, here.best_estimator_)


class TestStacks:
    @pytest.mark.parametrize("passthrough", [False, True])
    @pytest.mark.parametrize(
        "final",
        [None, Ridge(), HistGradientBoostingRegressor(max_iter=5, random_state=0)],
    )
    def test_regressor_is_the_same(self, final: Any, passthrough: bool) -> None:
        X, y, _ = make_large()
        stack = make_regressor(n_jobs=None, passthrough=passthrough)
        stack.final_estimator = final
        here, there = fit_both(stack, X, y)
        assert vars(there).keys() == vars(here).keys()
        assert there.final_estimator is None or type(there.final_estimator) is type(
            final
        )
        assert_same_model(there, here)

    @pytest.mark.filterwarnings("ignore::sklearn.exceptions.ConvergenceWarning")
    @pytest.mark.parametrize("final", [None, LogisticRegression(C=0.1)])
    def test_classifier_is_the_same(self, final: Any) -> None:
        X, _, y = make_large()
        stack = make_classifier(n_jobs=None, final_estimator=final)
        stack.estimators = stack.estimators[:2]
        weights = np.linspace(0.1, 1.0, len(X))
        here, there = fit_both(stack, X, y, sample_weight=weights)
        assert_same_model(there, here)

    def test_fit_transform(self) -> None:
        X, y, _ = make_data()
        stack = make_regressor(n_jobs=None)
        with recorded() as records:
            there = share_all(stack, n_jobs=2, single_fits="worker").fit_transform(X, y)
        assert len(records) == 2 + 2 * 3 + 1
        np.testing.assert_array_equal(there, stack.fit_transform(X, y))

    @pytest.mark.parametrize(
        "final", [LogisticRegression(), TfidfVectorizer, KNeighborsClassifier()]
    )
    def test_errors_about_the_final_estimator_are_the_same(self, final: Any) -> None:
        X, y, classes = make_data()
        stack: Any = StackingRegressor([("a", Ridge())], final)
        params = {}
        if isinstance(final, KNeighborsClassifier):
            stack = StackingClassifier([("a", LogisticRegression())], final)
            y, params = classes, {"sample_weight": np.ones(len(X))}
        texts = []
        for where in ("here", "worker"):
            model = share_all(stack, n_jobs=2, single_fits=where)
            with pytest.raises((TypeError, ValueError)) as caught:
                model.fit(X, y, **params)
            texts.append((type(caught.value), str(caught.value)))
        assert texts[0] == texts[1]


class TestSurroundings:
    def test_it_is_another_process_with_as_many_threads(self) -> None:
        X, y, _ = make_data()
        with threadpool_limits(3, user_api="openmp"):
            here, there = fit_both(make_search(Watching(len(X))), X, y)
        here, there = here.best_estimator_, there.best_estimator_
        assert here.pid_ == os.getpid() != there.pid_
        assert there.thread_, "OpenMP counts the threads of each thread by itself"
        common = here.threads_.keys() & there.threads_.keys()
        assert common
        assert {p: there.threads_[p] for p in common} == {
            p: here.threads_[p] for p in common
        }
        assert 3 in there.threads_.values()
        assert there.environment_ == here.environment_

    def test_worker_is_as_before_afterwards(self) -> None:
        X, y, _ = make_data()

        def look() -> list[Any]:
            return Parallel(n_jobs=2, batch_size=1, pre_dispatch="all")(
                delayed(read_surroundings)() for _ in range(6)
            )

        with parallel_config("mmap", n_jobs=2):
            limits = {str(found) for found in look()}
        fit_both(make_search(Watching(len(X))), X, y)
        with parallel_config("mmap", n_jobs=2):
            assert {str(found) for found in look()} == limits

    def test_tasks_of_the_fit_have_the_threads_that_workers_have(self) -> None:
        X, y, _ = make_data()
        here, there = fit_both(make_search(Inner(len(X))), X, y)
        assert there.best_estimator_.blas_ == here.best_estimator_.blas_
        info = threadpool_info()
        assert max(f["num_threads"] for f in info) >= max(
            map(max, there.best_estimator_.blas_)
        )

    def test_global_random_states_go_there_and_come_back(self) -> None:
        X, y, _ = make_data()
        drawn = []
        for where in ("here", "worker"):
            np.random.seed(0)  # noqa: NPY002 - what users without a seed do
            random.seed(0)
            model = share_all(make_search(Watching(len(X))), single_fits=where)
            model.set_params(n_jobs=2).fit(X, y)
            after = np.random.rand(), random.random()  # noqa: NPY002
            drawn.append((model.best_estimator_.drawn_, after))
        assert drawn[0] == drawn[1]
        assert drawn[0][0] != drawn[0][1]

    def test_warnings_are_repeated(self) -> None:
        X, y, _ = make_data()
        search = make_search(Watching(len(X), warns=ConvergenceWarning("slow")))
        found = []
        for where in ("here", "worker"):
            model = share_all(search, n_jobs=2, single_fits=where)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("default")
                model.fit(X, y)
            found.append(
                [(str(w.message), w.category, w.filename, w.lineno) for w in caught]
            )
        assert found[0] == found[1]
        assert len(found[0]) == 1, "the same line, once"

    def test_warnings_of_a_line_are_counted_here(self) -> None:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            for lineno in (3, 3, 4):
                CaughtWarning(UserWarning("again"), __file__, lineno).repeat()
        assert [found.lineno for found in caught] == [3, 4]

    def test_libraries_that_a_fit_has_loaded_are_limited_afterwards(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
        with threadpool_limits(2):
            new, *known = [found["filepath"] for found in threadpool_info()]
            _limit_libraries_beside(set(known))
            limits = {f["filepath"]: f["num_threads"] for f in threadpool_info()}
        assert limits == {new: 1, **dict.fromkeys(known, 2)}

    def test_warnings_may_be_errors(self) -> None:
        X, y, _ = make_data()
        search = make_search(Watching(len(X), warns="careful"))
        with pytest.raises(UserWarning, match="careful"):
            share_all(search, n_jobs=2, single_fits="worker").fit(X, y)

    @pytest.mark.parametrize("error", [ValueError("no"), TypeError("no"), KeyError(3)])
    def test_errors_are_raised(self, error: Exception) -> None:
        X, y, _ = make_data()
        search = make_search(Watching(len(X), raises=error))
        with pytest.raises(type(error)) as caught:
            share_all(search, n_jobs=2, single_fits="worker").fit(X, y)
        assert caught.value.args == error.args

    def test_libraries_are_looked_for_when_the_environment_is_the_workers_again(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []
        surroundings = Surroundings.here()
        monkeypatch.setenv("OPENBLAS_NUM_THREADS", "7")
        monkeypatch.setattr(
            _single_fits,
            "_limit_libraries_beside",
            lambda known: seen.append((known, os.environ["OPENBLAS_NUM_THREADS"])),
        )
        with surroundings.around():
            assert os.environ.get("OPENBLAS_NUM_THREADS") != "7"
        assert seen == [(set(surroundings.n_threads), "7")]


def read_surroundings() -> Any:
    info = threadpool_info()
    threads = {f["num_threads"] for f in info if f["user_api"] == "blas"}
    return threads, os.environ.get("OMP_NUM_THREADS")


class TestRefusals:
    """Each is noted, and the model is that of scikit-learn."""

    @pytest.mark.parametrize("n_jobs", [None, 1])
    def test_one_job_has_no_worker(self, n_jobs: int | None) -> None:
        X, y, _ = make_data()
        [note] = notes_of(make_search(Ridge()), X, y, n_jobs=n_jobs)
        assert "there is no worker" in note

    def test_no_refit(self) -> None:
        X, y, _ = make_data()
        [note] = notes_of(make_search(Ridge(), refit=False), X, y)
        assert "refit=False" in note

    def test_other_estimators_have_no_single_fit(self) -> None:
        X, y, _ = make_data()
        [note] = notes_of(Ridge(), X, y)
        assert "only searches" in note

    def test_objects_that_the_fit_may_change_are_changed(self) -> None:
        X, y, _ = make_data()
        history = History()
        search = make_search(Changing(len(X)))
        [note] = notes_of(search, X, y, fit_params={"history": history})
        assert "may change: history" in note
        assert history.lengths[-1:] == [len(X)]

    def test_models_that_cannot_be_sent_are_fitted_here(self) -> None:
        X, y, _ = make_data()
        [note] = notes_of(make_search(Closed(len(X))), X, y)
        assert "could not be sent" in note
        assert "lock" in note

    @pytest.mark.parametrize("estimator", [Own(), Frozen()])
    def test_estimators_with_clones_of_their_own(self, estimator: Any) -> None:
        X, y, _ = make_data()
        [note] = notes_of(make_search(estimator), X, y)
        assert "clone" in note
        assert "__sklearn_clone__" not in vars(estimator)

    @pytest.mark.parametrize("is_inside", [False, True])
    def test_callbacks_are_called_here(self, is_inside: bool) -> None:
        pytest.importorskip("sklearn.callback")
        X, y, _ = make_data()
        numbers = []
        for where in ("here", "worker"):
            counting = Counting()
            search = make_search(make_pipeline(StandardScaler(), Ridge()))
            (search.estimator if is_inside else search).set_callbacks(counting)
            notes = notes_of(search, X, y, single_fits=where)
            assert len(notes) == (where == "worker")
            assert all("callbacks" in note for note in notes)
            numbers.append(counting.n_calls)
        assert numbers[0] == numbers[1] > 0

    def test_tasks_of_other_calls(self) -> None:
        X, y, _ = make_data()
        model = share_all(make_search(Watching(len(X))), n_jobs=2, single_fits="worker")
        with parallel_config("mmap", n_jobs=2):
            pids = Parallel()(delayed(fit_and_tell)(model, X, y) for _ in range(2))
        assert all(inner == outer for inner, outer in pids)

    @pytest.mark.parametrize("value", ["there", None, True])
    def test_parameter_is_checked(self, value: Any) -> None:
        X, y, _ = make_data()
        with pytest.raises(InvalidParameterError, match="single_fits="):
            Memmapped(Ridge(), single_fits=value).fit(X, y)


class History:
    def __init__(self) -> None:
        self.lengths: list[int] = []

    def append(self, length: int) -> None:
        self.lengths.append(length)


def fit_and_tell(model: Any, X: Any, y: Any) -> tuple[int, int]:
    return model.fit(X, y).best_estimator_.pid_, os.getpid()


def test_private_memory_of_the_fit_does_not_stay_here() -> None:
    """What the heap keeps depends on the fit; that there is a task with it does not."""
    X, y, _ = make_large()
    search = make_search(Ridge())
    with measure() as report:
        share_all(search, n_jobs=2, single_fits="worker").fit(X, y)
    assert [task.label for task in report.tasks].count("Ridge, refit") == 1
