"""Ensembles within other estimators are flat lists, with scikit-learn's result."""

from __future__ import annotations

import inspect
import pickle
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn import config_context
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.compose import TransformedTargetRegressor
from sklearn.ensemble import (
    StackingClassifier,
    StackingRegressor,
    VotingClassifier,
    VotingRegressor,
)
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, StratifiedKFold
from sklearn.multioutput import MultiOutputRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skl_mmap.monitor import listen, unlisten
from tests.backend.common import recorded
from tests.estimators.common import (
    N_SAMPLES,
    assert_equal_state,
    make_data,
    share_all,
)
from tests.estimators.stacks import Drawing, Failing, make_tree
from tests.strategies import examples

# Each is followed by the number of tasks that it becomes.
Make = Callable[[], Any]


def make_regressor(**parameters: Any) -> StackingRegressor:
    estimators = [
        ("ridge", Ridge()),
        ("tree", DecisionTreeRegressor(max_depth=3, random_state=0)),
    ]
    return StackingRegressor(
        estimators, **{"final_estimator": LinearRegression(), "cv": 2, **parameters}
    )


def make_classifier(**parameters: Any) -> StackingClassifier:
    estimators = [
        ("logistic", LogisticRegression(tol=1e-2)),
        ("tree", make_tree(max_depth=3)),
    ]
    final = make_tree(max_depth=2)
    return StackingClassifier(
        estimators, **{"final_estimator": final, "cv": 2, **parameters}
    )


def layers(**parameters: Any) -> StackingRegressor:
    """Make an ensemble of ensembles, in both layers."""
    inner = make_regressor(**parameters)
    final = make_regressor(**parameters)
    base = [("stack", inner), ("ridge", Ridge())]
    return StackingRegressor(base, final, cv=KFold(2), **parameters)


def search(estimator: Any, grid: Any, **parameters: Any) -> GridSearchCV:
    return GridSearchCV(estimator, grid, **{"cv": 2, **parameters})


ALPHAS = {"final_estimator": [Ridge(0.1), Ridge(10.0)]}

REGRESSORS: dict[str, tuple[Make, int]] = {
    "pipeline": (lambda: make_pipeline(StandardScaler(), make_regressor()), 6),
    "target": (lambda: TransformedTargetRegressor(make_regressor()), 6),
    "voting": (
        lambda: VotingRegressor([("a", make_regressor()), ("b", Ridge())]),
        6 + 2,
    ),
    # On all rows and in two folds: the fits of the inner one, and itself; and the
    # ridge. The final one has as many as any.
    "layers": (layers, 3 * (6 + 1) + 3 + 6),
    "layers, passthrough": (lambda: layers(passthrough=True), 30),
    # For each fold: six fits that both candidates share, and two of candidates.
    "search": (lambda: search(make_regressor(), ALPHAS), 2 * (6 + 2) + 6),
    "search for a base estimator": (
        lambda: search(make_regressor(), {"ridge__alpha": [0.1, 10.0]}),
        2 * (6 + 3 + 2) + 6,
    ),
    "search over layers": (
        lambda: search(layers(), {"ridge__alpha": [0.1, 10.0]}),
        2 * (3 * 7 + 2 * 3 + 2) + 30,
    ),
    "pipeline of a search": (
        lambda: make_pipeline(StandardScaler(), search(make_regressor(), ALPHAS)),
        22,
    ),
}
CLASSIFIERS: dict[str, tuple[Make, int]] = {
    "voting": (
        lambda: VotingClassifier(
            [("a", make_classifier()), ("b", make_tree())], voting="soft"
        ),
        6 + 2,
    ),
    "search": (
        lambda: search(
            make_classifier(),
            {"final_estimator__max_depth": [1, 2]},
            scoring=["accuracy", "neg_log_loss"],
            refit="accuracy",
            cv=StratifiedKFold(2, shuffle=True, random_state=0),
        ),
        22,
    ),
    "calibration": (lambda: CalibratedClassifierCV(make_classifier(), cv=2), 14),
    "calibration of one": (
        lambda: CalibratedClassifierCV(make_classifier(), cv=2, ensemble=False),
        14 + 6,
    ),
    "layers": (
        lambda: make_classifier(final_estimator=make_classifier()).set_params(
            tree=make_classifier(cv=KFold(2, shuffle=True, random_state=0))
        ),
        30,
    ),
}


def without_times(model: Any) -> Any:
    """Take times out of a fitted search, or one in a pipeline."""
    if hasattr(model, "steps"):
        without_times(model.steps[-1][1])
    if hasattr(model, "cv_results_"):
        results = model.cv_results_
        assert all(
            np.all(results[f"mean_{name}_time"] >= 0) for name in ("fit", "score")
        )
        # Candidates may be estimators, which are equal to nothing but themselves.
        model.cv_results_ = {
            name: values
            for name, values in results.items()
            if not name.endswith("_time") and not name.startswith("param")
        }
        model.best_params_, model.refit_time_ = {}, 0.0
    return model


def fit_with_notes(estimator: Any, *args: Any, **parameters: Any) -> Any:
    """Fit as flat lists, and return the model, the notes and the number of tasks."""
    options = {"n_jobs": 2, **parameters.pop("options", {})}
    notes: list[str] = []
    listener = listen(notes.append, str)
    try:
        with recorded() as records:
            model = share_all(estimator, **options).fit(*args, **parameters)
    finally:
        unlisten(listener)
    return model, notes, len(records)


def without_layouts(notes: list[str]) -> list[str]:
    return [note for note in notes if " was given " not in note]


def assert_as_scikit_learn(estimator: Any, *args: Any, **parameters: Any) -> int:
    """Compare with scikit-learn alone, and return the number of tasks."""
    model, notes, n_tasks = fit_with_notes(estimator, *args, **parameters)
    assert without_layouts(notes) == [], "scikit-learn has fitted it"
    expected = clone(estimator).fit(*args, **parameters)
    assert_equal_state(model.predict(args[0]), expected.predict(args[0]))
    assert_equal_state(without_times(model.estimator_), without_times(expected))
    return int(n_tasks)


@pytest.mark.parametrize("name", REGRESSORS)
def test_regressors_are_the_same(name: str) -> None:
    X, y, _ = make_data()
    make, n_tasks = REGRESSORS[name]
    assert assert_as_scikit_learn(make(), X, y) == n_tasks


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_classifiers_are_the_same(name: str) -> None:
    X, _, y = make_data()
    make, n_tasks = CLASSIFIERS[name]
    labels = np.array(["a", "b", "c"], dtype=object)[y]
    assert assert_as_scikit_learn(make(), X, labels) == n_tasks


def test_several_outputs_are_fitted_flat() -> None:
    X, y, _ = make_data()
    targets = np.stack([y, 2 * y + X[:, 0]], axis=1)
    model = MultiOutputRegressor(make_regressor())
    assert assert_as_scikit_learn(model, X, targets) == 2 * (6 + 1)


SPLITTERS = st.sampled_from(
    [
        2,
        3,
        KFold(2, shuffle=True, random_state=0),
        KFold(3, shuffle=True, random_state=np.random.RandomState(3)),
    ]
)
BASES = st.sampled_from(
    [
        Ridge(),
        KNeighborsRegressor(3),
        DecisionTreeRegressor(max_depth=3, random_state=0),
        DecisionTreeRegressor(splitter="random", random_state=np.random.RandomState(5)),
        make_pipeline(StandardScaler(), Ridge()),
    ]
)


def make_stacks(bases: Any) -> Any:
    return st.builds(
        lambda bases, final, cv, passthrough: StackingRegressor(
            [(f"e{i}", base) for i, base in enumerate(bases)],
            final,
            cv=cv,
            passthrough=passthrough,
        ),
        st.lists(bases, min_size=1, max_size=2),
        bases,
        SPLITTERS,
        st.booleans(),
    )


@examples(6)
@given(
    stack=st.recursive(BASES, make_stacks, max_leaves=3),
    cv=SPLITTERS,
    container=st.sampled_from(["search", "voting", "pipeline"]),
    is_weighted=st.booleans(),
)
def test_anything_in_anything_is_the_same(
    stack: Any, cv: Any, container: str, is_weighted: bool
) -> None:
    X, y, _ = make_data(90)
    weights: dict[str, Any] = {}
    # The estimators of some examples do not take any.
    names = ("Pipeline", "KNeighbors")
    if is_weighted and not any(name in repr(stack) for name in names):
        weights = {"sample_weight": np.linspace(0.1, 1.0, len(X))}
    outer: Any = {
        "search": search(stack, {}, cv=cv),
        "voting": VotingRegressor([("a", stack), ("b", Ridge())]),
        "pipeline": make_pipeline(StandardScaler(), stack),
    }[container]
    if container == "pipeline":
        weights = {}
    assert_as_scikit_learn(outer, X, y, **weights)


@pytest.mark.parametrize("kind", ["pandas", "csr", "fortran", "float32"])
def test_data_of_all_kinds(kind: str) -> None:
    X, y, _ = make_data()
    stack = make_regressor().set_params(ridge=Ridge(solver="lsqr"))
    make: dict[str, Any] = {
        "pandas": lambda: (pd.DataFrame(X).rename(columns=str), pd.Series(y)),
        "csr": lambda: (sparse.csr_matrix(np.where(X > 0, X, 0.0)), y),
        "fortran": lambda: (np.asfortranarray(X), y.tolist()),
        "float32": lambda: (X.astype("f4"), y.astype("f4")),
    }
    assert assert_as_scikit_learn(search(stack, ALPHAS), *make[kind]()) == 22


def test_classes_that_a_fold_does_not_have() -> None:
    X, _, y = make_data()
    model = search(make_classifier(stack_method="predict"), {}, cv=KFold(3))
    assert_as_scikit_learn(model, X, np.sort(y) * 10)


def test_weights_in_a_search() -> None:
    X, y, _ = make_data()
    weights = np.linspace(0.1, 1.0, N_SAMPLES)
    assert_as_scikit_learn(search(layers(), {}), X, y, sample_weight=weights)


def test_base_estimators_without_a_seed_are_fitted_for_each_candidate() -> None:
    X, y, _ = make_data()
    for tree in (DecisionTreeRegressor(random_state=None), Drawing()):
        model = search(make_regressor().set_params(tree=tree), ALPHAS, refit=False)
        _, notes, n_tasks = fit_with_notes(model, X, y)
        assert (without_layouts(notes), n_tasks) == ([], 2 * (6 + 3 + 2))


def test_splits_without_a_seed_are_not_shared() -> None:
    X, y, _ = make_data()
    stack = make_regressor(cv=KFold(2, shuffle=True))
    _, notes, n_tasks = fit_with_notes(search(stack, ALPHAS, refit=False), X, y)
    assert (without_layouts(notes), n_tasks) == ([], 2 * 2 * (6 + 1))


def test_time_of_a_fit_has_that_of_its_base_estimators() -> None:
    X, y, _ = make_data()
    slow = make_regressor().set_params(tree=Sleeping())
    model, _, _ = fit_with_notes(search(slow, ALPHAS, refit=False), X, y)
    # Slept on all rows and in two folds, for each candidate.
    assert model.cv_results_["mean_fit_time"].min() > 3 * Sleeping.SECONDS


class Sleeping(DecisionTreeRegressor):  # type: ignore[misc]
    SECONDS = 0.02

    def fit(self, X: Any, y: Any, **params: Any) -> Any:
        time.sleep(self.SECONDS)
        return super().fit(X, y, **params)


@pytest.mark.parametrize("at", ["fit", "predict"])
def test_scores_of_fits_that_fail(at: str) -> None:
    X, y, _ = make_data()
    failing = Failing(ZeroDivisionError("of this estimator"), at)
    grid = {"tree": [failing, Ridge()]}
    model = search(make_regressor(), grid)
    texts, scores = [], []
    for one in (share_all(model, n_jobs=2), model):
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            one.fit(X, y)
        texts.append(
            next(str(w.message) for w in warned if "fits failed" in str(w.message))
        )
        scores.append(one.cv_results_["mean_test_score"])
    assert_equal_state(*scores)
    assert np.isnan(scores[0][0])
    assert texts[0].partition("Traceback")[0] == texts[1].partition("Traceback")[0]
    strict = model.set_params(error_score="raise")
    with pytest.raises(ZeroDivisionError, match="of this estimator"):
        share_all(strict, n_jobs=2).fit(X, y)


def test_nothing_flat_is_left() -> None:
    X, y, _ = make_data()
    inner = make_regressor()
    model = share_all(search(layers(), {"stack": [inner]}), n_jobs=2).fit(X, y)
    best = model.best_estimator_
    stacks = [
        *(model.estimator_.estimator, best, best.estimators_[0], best.final_estimator_),
        *(best.estimators[0][1], best.named_estimators_["stack"]),
    ]
    assert {type(stack) for stack in stacks} == {StackingRegressor}
    assert type(model.estimator.estimator) is StackingRegressor
    assert b"skl_mmap" not in pickle.dumps(model.estimator_)
    failing = clone(best).set_params(ridge=Failing(ZeroDivisionError("no")))
    broken = share_all(VotingRegressor([("a", failing)]), n_jobs=2)
    made = remember_made(broken)
    with pytest.raises(ZeroDivisionError, match="no"):
        broken.fit(X, y)
    assert type(made[0].estimators[0][1]) is StackingRegressor


def remember_made(model: Any) -> list[Any]:
    """Return a list that will have what is fitted in place of the estimator."""
    made: list[Any] = []
    make = model._make_estimator

    def remember(name: str) -> Any:
        made.append(make(name))
        return made[-1]

    model._make_estimator = remember
    return made


def test_whoever_looks_during_a_fit_sees_the_classes_of_scikit_learn() -> None:
    X, y, _ = make_data()
    seen: list[Any] = []

    class Looking(StandardScaler):  # type: ignore[misc]
        def fit(self, X: Any, y: Any = None) -> Any:
            stack = made[0].steps[-1][1]
            seen.append((type(stack).__qualname__, inspect.signature(stack.fit)))
            seen.append(pickle.loads(pickle.dumps(stack)))
            return super().fit(X, y)

    model = share_all(make_pipeline(Looking(), make_regressor()))
    made = remember_made(model)
    model.fit(X, y)
    assert seen[0] == ("StackingRegressor", inspect.signature(make_regressor().fit))
    assert type(seen[1]) is StackingRegressor


@pytest.mark.parametrize("splitter", [KFold(3), KFold(3, shuffle=True, random_state=0)])
def test_any_order_changes_no_more_than_sums(splitter: Any) -> None:
    X, y, _ = make_data(4000)
    inner = StackingRegressor([("a", Ridge())], LinearRegression(), cv=2)
    stack = StackingRegressor([("s", inner), ("b", Ridge())], Ridge(), cv=2)
    model = search(stack, {}, cv=splitter)
    found, notes, _ = fit_with_notes(model, X, y, options={"row_order": "any"})
    assert not any("own way" in text for text in notes)
    expected = clone(model).fit(X, y)
    # The folds of an ordered train set have other rows than those of a sorted one.
    for name in ("mean_test_score", "split0_test_score"):
        np.testing.assert_allclose(
            found.cv_results_[name], expected.cv_results_[name], rtol=1e-3
        )
    np.testing.assert_allclose(found.predict(X), expected.predict(X), atol=0.01)


def test_base_estimators_are_given_the_layout_that_they_want() -> None:
    X, y, _ = make_data()
    stack = make_regressor().set_params(ridge=DecisionTreeRegressor(random_state=1))
    model = search(stack, ALPHAS)
    options = {"layouts": "auto"}
    found, notes, n_tasks = fit_with_notes(model, X, y, options=options)
    assert n_tasks == 22
    given = [text for text in notes if "was given X" in text]
    assert any(
        "DecisionTreeRegressor was given X as float32 C" in text for text in given
    )
    assert not [text for text in given if "Stacking" in text]
    expected = clone(model).fit(X, y)
    assert_equal_state(found.predict(X), expected.predict(X))
    assert_equal_state(without_times(found.estimator_), without_times(expected))


class Halves:
    """Splits without being a splitter of scikit-learn."""

    def split(self, X: Any, y: Any = None, groups: Any = None) -> Any:
        halves = np.array_split(np.arange(len(X)), 2)
        return [(halves[1], halves[0]), (halves[0], halves[1])]

    def get_n_splits(self, *args: Any, **parameters: Any) -> int:
        return 2


@pytest.mark.parametrize("cv", [Halves(), "prefit"])
def test_what_is_not_safe_is_left_to_scikit_learn(cv: Any) -> None:
    X, y, _ = make_data()
    stack = make_regressor(cv=cv)
    if cv == "prefit":
        stack.estimators = [
            (name, FrozenEstimator(one.fit(X, y))) for name, one in stack.estimators
        ]
    model = search(stack, {}, refit=False)
    found, notes, n_tasks = fit_with_notes(model, X, y)
    assert n_tasks == 2
    [text] = without_layouts(notes)
    assert ("cv='prefit'" if cv == "prefit" else "Halves may look at X") in text
    name = "mean_test_score"
    assert_equal_state(
        found.cv_results_[name], clone(model).fit(X, y).cv_results_[name]
    )


def test_parts_of_what_is_searched_are_left_to_scikit_learn() -> None:
    X, y, _ = make_data()
    model = search(make_pipeline(StandardScaler(), make_regressor()), {})
    found, notes, n_tasks = fit_with_notes(model, X, y)
    assert n_tasks == 2 + 6, "the refit is here, and flat"
    assert ["part of a Pipeline" in text for text in without_layouts(notes)] == [True]
    expected = clone(model).fit(X, y)
    assert_equal_state(without_times(found.estimator_), without_times(expected))


def test_train_scores_are_left_to_scikit_learn() -> None:
    X, y, _ = make_data()
    model = search(make_regressor(), {}, return_train_score=True)
    found, notes, n_tasks = fit_with_notes(model, X, y)
    assert n_tasks == 2 + 6, "the refit is here, and flat"
    assert ["train scores" in text for text in without_layouts(notes)] == [True]
    expected = clone(model).fit(X, y)
    assert_equal_state(without_times(found.estimator_), without_times(expected))


def test_distances_between_rows_fail_as_in_scikit_learn() -> None:
    X, y, _ = make_data()
    distances = np.abs(X @ X.T)
    nearest = KNeighborsRegressor(metric="precomputed")
    model = search(make_regressor().set_params(ridge=nearest), {}, error_score="raise")
    for one in (share_all(model, n_jobs=2), model):
        with pytest.raises(ValueError, match="Precomputed matrix must be square"):
            one.fit(distances, y)


def test_columns_of_sparse_data_are_left_to_scikit_learn() -> None:
    X, y, _ = make_data()
    X = sparse.csc_matrix(np.where(X > 0, X, 0.0))
    stack = make_regressor().set_params(ridge=Ridge(solver="lsqr"))
    # A search makes rows of them; voting has them as they are, and all of them.
    assert assert_as_scikit_learn(search(stack, ALPHAS), X, y) == 22
    assert assert_as_scikit_learn(VotingRegressor([("a", stack)]), X, y) == 7


def test_routed_metadata_is_left_to_scikit_learn() -> None:
    X, y, _ = make_data()
    with config_context(enable_metadata_routing=True):
        model, notes, n_tasks = fit_with_notes(
            VotingRegressor([("a", make_regressor())]), X, y
        )
        expected = VotingRegressor([("a", make_regressor())]).fit(X, y)
    assert n_tasks == 1
    assert "metadata routing" in notes[0]
    assert_equal_state(model.predict(X), expected.predict(X))


def test_one_job_is_no_more_than_one_flat_list_after_the_other() -> None:
    X, y, _ = make_data()
    models = []
    stack = make_regressor().set_params(tree=Drawing())
    model = search(stack, ALPHAS)
    for one in (share_all(model, n_jobs=1), model):
        np.random.seed(0)  # noqa: NPY002 - the one that scikit-learn draws from
        models.append(one.fit(X, y).cv_results_["mean_test_score"])
    assert_equal_state(*models)


def test_final_estimators_are_fitted_in_workers() -> None:
    X, y, _ = make_data()
    model = search(layers(), {})
    options = {"single_fits": "worker"}
    found, notes, n_tasks = fit_with_notes(model, X, y, options=options)
    assert not [note for note in notes if "in its own way" in note]
    # The refit's final estimator is an ensemble, whose own is one more task.
    assert n_tasks == 2 * (3 * 7 + 3 + 1) + 30 + 1
    expected = clone(model).fit(X, y)
    assert_equal_state(found.predict(X), expected.predict(X))
