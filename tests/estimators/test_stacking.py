"""An ensemble fitted as one flat list of tasks is scikit-learn's, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge
from sklearn.model_selection import KFold, PredefinedSplit, StratifiedKFold
from sklearn.tree import DecisionTreeRegressor

from skl_mmap import Memmapped, share
from tests.backend.common import SegmentWatch, recorded
from tests.estimators.common import (
    N_SAMPLES,
    assert_equal_state,
    make_data,
    share_all,
)
from tests.estimators.stacks import (
    Drawing,
    assert_as_scikit_learn,
    make_classifier,
    make_regressor,
    make_tree,
)

NAMES = np.array(["low", "mid", "top"])

# The tests of shuffled folds need a partition in which no test set is one run.
ROWS = np.random.default_rng(1).permutation(N_SAMPLES)
LISTED = [(np.sort(ROWS[80:]), ROWS[:80]), (ROWS[:80], ROWS[80:])]


def make_splitters() -> dict[str, Any]:
    return {
        "default": None,
        "int": 4,
        "KFold": KFold(3),
        "shuffled": KFold(3, shuffle=True, random_state=0),
        "RandomState": KFold(3, shuffle=True, random_state=np.random.RandomState(3)),
        "StratifiedKFold": StratifiedKFold(3, shuffle=True, random_state=1),
        "list": LISTED,
        "list of lists": [(train.tolist(), test.tolist()) for train, test in LISTED],
        "PredefinedSplit": PredefinedSplit(np.arange(N_SAMPLES) % 3),
        "unequal": PredefinedSplit(np.repeat([0, 1, 2], [20, 100, 120])),
        "backwards": PredefinedSplit(np.repeat([2, 1, 0], [20, 100, 120])),
    }


@pytest.mark.parametrize("name", [n for n in make_splitters() if n[0] != "S"])
def test_regressor_is_the_same_with_every_splitter(name: str) -> None:
    X, y, _ = make_data()
    assert_as_scikit_learn(make_regressor(cv=make_splitters()[name]), X, y)


@pytest.mark.parametrize("name", ["int", "shuffled", "list", "StratifiedKFold"])
def test_classifier_is_the_same_with_every_splitter(name: str) -> None:
    X, _, y = make_data()
    assert_as_scikit_learn(make_classifier(cv=make_splitters()[name]), X, y)


def test_splitter_without_a_seed_gives_all_estimators_the_same_folds() -> None:
    X, y, _ = make_data()
    cv = KFold(3, shuffle=True)
    stack = StackingRegressor(
        [("a", Ridge()), ("b", Ridge())], DecisionTreeRegressor(), cv=cv, n_jobs=2
    )
    seen: list[Any] = []
    stack.final_estimator = Ridge()
    model = share_all(stack).fit(X, y)
    # Both columns of what the final estimator has learned from are equal.
    seen += model.final_estimator_.coef_.tolist()
    assert seen[0] == pytest.approx(seen[1])
    assert cv.random_state is None, "the clone's splitter is seeded, not the user's"


@pytest.mark.parametrize("labels", ["int", "text", "binary", "binary text", "bool"])
@pytest.mark.parametrize(
    "stack_method", ["auto", "predict_proba", "decision_function", "predict"]
)
def test_classes_of_all_kinds(labels: str, stack_method: str) -> None:
    X, _, classes = make_data()
    y = {
        "int": classes * 10 - 5,
        "text": NAMES[classes].astype(object),
        "binary": (classes > 0).astype(int),
        "binary text": NAMES[(classes > 0).astype(int)],
        "bool": classes > 0,
    }[labels]
    stack = make_classifier(stack_method=stack_method)
    if stack_method == "predict_proba":
        stack.estimators = [("a", stack.estimators[0][1]), ("b", make_tree())]
    if stack_method == "decision_function":
        stack.estimators = stack.estimators[:2]
    assert_as_scikit_learn(stack, X, y)


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize("dropped", [0, 1, 2])
def test_passthrough_and_dropped_estimators(passthrough: bool, dropped: int) -> None:
    X, _, y = make_data()
    stack = make_classifier(passthrough=passthrough)
    name = stack.estimators[dropped][0]
    stack.set_params(**{name: "drop"})
    model = assert_as_scikit_learn(stack, X, y)
    assert model.named_estimators_[name] == "drop"
    assert len(model.estimators_) == 2


def test_classifiers_may_have_regressors_inside() -> None:
    X, _, y = make_data()
    estimators = [("ridge", Ridge()), ("tree", make_tree())]
    assert_as_scikit_learn(
        StackingClassifier(estimators, LogisticRegression(), cv=3, n_jobs=2), X, y
    )


@pytest.mark.parametrize("as_list", [False, True])
def test_weights(as_list: bool) -> None:
    X, target, classes = make_data()
    weights: Any = np.linspace(0.0, 1.0, N_SAMPLES)
    if as_list:
        weights = weights.tolist()
    forest = make_classifier(cv=KFold(3, shuffle=True, random_state=0))
    assert_as_scikit_learn(forest, X, classes, {"sample_weight": weights})
    estimators = [("a", Ridge()), ("b", DecisionTreeRegressor(random_state=0))]
    stack = StackingRegressor(estimators, Ridge(), cv=3, n_jobs=2)
    assert_as_scikit_learn(stack, X, target, {"sample_weight": weights})


@pytest.mark.parametrize("kind", ["pandas", "polars", "csr", "csc", "list", "shared"])
def test_inputs_of_all_kinds(kind: str) -> None:
    X, y, _ = make_data()
    names = [f"column {i}" for i in range(X.shape[1])]
    sparse_X = np.where(X > 0, X, 0.0)
    stack = make_regressor(passthrough=kind == "csr")
    if kind in ("csr", "csc"):
        stack.set_params(ridge=Ridge(solver="lsqr"))
    make: dict[str, Any] = {
        "pandas": lambda: (pd.DataFrame(X, columns=names), pd.Series(y)),
        "polars": lambda: (pl.DataFrame(X, schema=names), y),
        "csr": lambda: (sparse.csr_matrix(sparse_X), y),
        "csc": lambda: (sparse.csc_array(sparse_X), y),
        "list": lambda: (X.tolist(), y.tolist()),
        "shared": lambda: (share(X), share(y)),
    }
    data, target = make[kind]()
    model = assert_as_scikit_learn(stack, data, target)
    # Of polars frames, not every version of scikit-learn knows the names.
    if kind == "pandas":
        assert model.feature_names_in_.tolist() == names
        assert hasattr(model.estimator_, "feature_names_in_")


def test_column_of_targets_is_flattened_with_the_same_warning() -> None:
    X, y, _ = make_data()
    with pytest.warns(UserWarning, match="1d array was expected") as warned:
        assert_as_scikit_learn(make_regressor(), X, y[:, None])
    flat, plain = (str(w.message) for w in warned)
    assert flat == plain


def test_class_that_is_missing_in_a_fold() -> None:
    X, _, y = make_data()
    y = np.sort(y)
    stack = StackingClassifier(
        [("a", make_tree()), ("b", make_tree(max_depth=2))],
        LogisticRegression(),
        stack_method="predict_proba",
        cv=KFold(3),
        n_jobs=None,
    )
    with pytest.warns(RuntimeWarning, match="Number of classes in training fold"):
        assert_as_scikit_learn(stack, X, y)


def test_random_states_of_estimators_are_not_shared() -> None:
    X, y, _ = make_data()
    generator = np.random.RandomState(5)
    tree = DecisionTreeRegressor(splitter="random", random_state=generator)
    stack = StackingRegressor([("a", tree), ("b", tree)], Ridge(), cv=3, n_jobs=2)
    assert_as_scikit_learn(stack, X, y)


def test_one_job_draws_from_the_global_random_state_in_the_same_order() -> None:
    X, y, _ = make_data()
    stack = StackingRegressor([("a", Drawing()), ("b", Drawing())], cv=3)
    models = []
    for model in (share_all(stack, n_jobs=1), stack):
        np.random.seed(0)  # noqa: NPY002 - the one that scikit-learn draws from
        models.append(model.fit(X, y))
    assert_equal_state(models[0].estimator_, models[1])


@pytest.mark.parametrize("n_jobs", [None, 1, 2])
@pytest.mark.parametrize("store", ["memory", "disk"])
def test_wherever_it_runs_and_lives(n_jobs: int | None, store: str) -> None:
    X, _, y = make_data()
    stack = make_classifier(n_jobs=None)
    assert_as_scikit_learn(stack, X, y, n_jobs=n_jobs, store=store)


def test_without_remapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
    X, y, _ = make_data()
    cv = KFold(3, shuffle=True, random_state=0)
    assert_as_scikit_learn(make_regressor(cv=cv), X, y)


def test_fit_transform_is_one_flat_list_too() -> None:
    X, y, _ = make_data()
    with recorded() as records:
        transformed = share_all(make_regressor()).fit_transform(X, y)
    assert len(records) == 2 + 2 * 3
    expected = make_regressor().set_params(n_jobs=None).fit_transform(X, y)
    assert_equal_state(transformed, expected)


def test_output_is_set_as_in_scikit_learn() -> None:
    X, y, _ = make_data()
    model = share_all(make_regressor()).set_output(transform="pandas")
    expected = make_regressor(n_jobs=None).set_output(transform="pandas")
    frame = model.fit_transform(X, y)
    pd.testing.assert_frame_equal(frame, expected.fit_transform(X, y))
    pd.testing.assert_frame_equal(model.transform(X), frame)


@pytest.mark.parametrize("splitter", ["int", "shuffled", "StratifiedKFold"])
def test_any_order_changes_no_more_than_sums(splitter: str) -> None:
    X, y, classes = make_data(20_000)
    estimators = [("a", Ridge()), ("b", LinearRegression())]
    stack = StackingRegressor(
        estimators, Ridge(), cv=make_splitters()[splitter], n_jobs=2
    )
    target = classes if splitter == "StratifiedKFold" else y
    model = Memmapped(stack, row_order="any", min_bytes=1, check="off")
    model.fit(X, target)
    expected = stack.set_params(n_jobs=None).fit(X, target)
    np.testing.assert_allclose(model.predict(X), expected.predict(X), rtol=1e-9)
    np.testing.assert_allclose(model.transform(X), expected.transform(X), rtol=1e-9)


def test_every_fit_is_a_task_with_its_name() -> None:
    X, y, _ = make_data()
    with recorded() as records:
        share_all(make_regressor()).fit(X, y)
    assert sorted(record.label for record in records) == [
        *("ridge, all rows", "ridge, fold 1 of 3"),
        *("ridge, fold 2 of 3", "ridge, fold 3 of 3"),
        *("tree, all rows", "tree, fold 1 of 3"),
        *("tree, fold 2 of 3", "tree, fold 3 of 3"),
    ]


def test_nothing_of_the_fit_stays_in_memory() -> None:
    X, y, _ = make_data()
    watch = SegmentWatch()
    # What the model itself consists of is smaller.
    model = share_all(make_regressor(), min_bytes=2000).fit(X, y)
    assert watch.wait()
    assert model.predict(X).shape == y.shape
