"""What is not safe as a flat list is left to scikit-learn, and the report says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.model_selection import ShuffleSplit, TimeSeriesSplit, _validation
from sklearn.multioutput import MultiOutputClassifier
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from skl_mmap import Memmapped
from skl_mmap.memory import ResultBuffer, ResultSlot, WrittenArray
from tests.backend.common import recorded
from tests.estimators.common import assert_equal_state, make_data, share_all
from tests.estimators.stacks import (
    Failing,
    Predicting,
    assert_as_scikit_learn,
    make_classifier,
    make_regressor,
    make_tree,
)
from tests.versions import IS_BEFORE_SKLEARN_1_7


def fit_with_notes(stack: Any, X: Any, y: Any, **params: Any) -> Any:
    """Fit, and return the model and the notes of its report."""
    model = Memmapped(stack, min_bytes=1).fit(X, y, **params)
    assert model.report_ is not None
    return model, model.report_.notes


def find_error(estimator: Any, X: Any, y: Any, **params: Any) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011 - whatever it raises
        estimator.fit(X, y, **params)
    return caught.value


def assert_same_error(stack: Any, X: Any, y: Any, **params: Any) -> Exception:
    actual = find_error(share_all(stack), X, y, **params)
    alone = clone(stack)
    if isinstance(alone.n_jobs, int):
        alone.n_jobs = None
    expected = find_error(alone, X, y, **params)
    assert type(actual) is type(expected)
    assert str(actual) == str(expected)
    return actual


def assert_fitted_by_scikit_learn(stack: Any, X: Any, y: Any, reason: str) -> None:
    model, notes = fit_with_notes(stack, X, y)
    [note] = [note for note in notes if " was given " not in note]
    assert reason in note
    expected = clone(stack).fit(X, y)
    assert_equal_state(model.predict(X), expected.predict(X))
    assert_equal_state(model.transform(X), expected.transform(X))


def test_fitted_estimators() -> None:
    X, y, _ = make_data()
    fitted = [
        ("a", FrozenEstimator(Ridge().fit(X, y))),
        ("b", FrozenEstimator(Ridge().fit(X, 2 * y))),
    ]
    stack = StackingRegressor(fitted, Ridge(), cv="prefit")
    assert_fitted_by_scikit_learn(stack, X, y, "cv='prefit'")


def test_metadata_routing() -> None:
    X, y, _ = make_data()
    weights = np.linspace(0.0, 1.0, len(y))
    with config_context(enable_metadata_routing=True):
        inner = Ridge().set_fit_request(sample_weight=True)
        plain = LinearRegression().set_fit_request(sample_weight=False)
        stack = StackingRegressor([("a", inner), ("b", plain)], Ridge(), cv=3)
        model, notes = fit_with_notes(stack, X, y, sample_weight=weights)
        expected = clone(stack).fit(X, y, sample_weight=weights)
    assert "metadata routing" in notes[0]
    assert_equal_state(model.predict(X), expected.predict(X))


def test_several_targets() -> None:
    X, _, classes = make_data()
    y = np.stack([classes > 0, classes > 1], axis=1).astype(int)
    estimator = MultiOutputClassifier(make_tree(max_depth=3))
    stack = StackingClassifier([("a", estimator)], make_tree(max_depth=3), cv=3)
    assert_fitted_by_scikit_learn(stack, X, y, "several columns")


def test_unknown_version_of_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    fit_and_predict = _validation._fit_and_predict

    def changed(*args: Any, **parameters: Any) -> Any:
        return fit_and_predict(*args, **parameters)

    monkeypatch.setattr(_validation, "_fit_and_predict", changed)
    X, y, _ = make_data()
    model, notes = fit_with_notes(make_regressor(n_jobs=None), X, y)
    # Others say what else is lost without it.
    assert any("not known well enough" in note for note in notes)
    expected = make_regressor(n_jobs=None).fit(X, y)
    assert_equal_state(model.transform(X), expected.transform(X))


@pytest.mark.parametrize("splitter", [ShuffleSplit(2), TimeSeriesSplit(2)])
def test_test_sets_that_are_no_partition(splitter: Any) -> None:
    X, y, _ = make_data()
    error = assert_same_error(make_regressor(cv=splitter, n_jobs=None), X, y)
    assert "only works for partitions" in str(error)


def test_splits_are_kept_for_scikit_learn_after_a_refusal() -> None:
    X, y, _ = make_data()
    splits = iter([(np.arange(100), np.arange(100, 240))] * 2)
    stack = make_regressor(cv=splits, n_jobs=None)
    error = find_error(share_all(stack), X, y)
    assert "only works for partitions" in str(error)


def test_masks_are_refused_as_scikit_learn_does() -> None:
    X, y, _ = make_data()
    is_test = np.arange(len(y)) < 100
    splits = [(~is_test, is_test), (is_test, ~is_test)]
    assert_same_error(make_regressor(cv=splits, n_jobs=None), X, y)


@pytest.mark.parametrize("cv", [1, 0, -2, 2.5, "no", object])
def test_splitters_that_are_none(cv: Any) -> None:
    X, y, _ = make_data()
    assert_same_error(make_regressor(cv=cv), X, y)


@pytest.mark.parametrize(
    "estimators",
    [
        [],
        [("a", "drop")],
        [("a", Ridge()), ("a", Ridge())],
        [("a__b", Ridge())],
        [("cv", Ridge())],
        [("a", DecisionTreeClassifier())],
        [("a", 3)],
    ],
)
def test_estimators_that_are_none(estimators: Any) -> None:
    X, y, _ = make_data()
    assert_same_error(StackingRegressor(estimators, Ridge(), cv=3), X, y)


@pytest.mark.parametrize(
    "parameters",
    [
        {"final_estimator": Ridge()},
        {"stack_method": "predict_proba"},  # SGDClassifier has none
        {"stack_method": "unknown"},
        {"passthrough": 3},
        {"verbose": -1},
    ],
)
def test_parameters_that_are_wrong(parameters: Any) -> None:
    X, _, y = make_data()
    assert_same_error(make_classifier(**{"n_jobs": None, **parameters}), X, y)


def test_targets_that_are_wrong() -> None:
    X, y, _ = make_data()
    assert_same_error(make_classifier(n_jobs=None), X, y)  # continuous
    assert_same_error(make_regressor(n_jobs=None), X, y[:-1])
    assert_same_error(make_regressor(n_jobs=None), X, np.full(len(y), np.nan))
    assert_same_error(make_regressor(n_jobs=None), X, None)


def test_arguments_that_are_missing_or_too_many() -> None:
    X, y, _ = make_data()
    too_many = FutureWarning if IS_BEFORE_SKLEARN_1_7 else TypeError
    for args, error in (((X,), TypeError), ((X, y, np.ones(len(y))), too_many)):
        with pytest.raises(error, match="positional argument"):
            share_all(make_regressor()).fit(*args)
    stack = make_classifier(n_jobs=None)
    assert_same_error(stack, X, np.round(y) > 0, unknown=3)


@pytest.mark.parametrize("at", ["fit", "predict"])
@pytest.mark.parametrize("n_jobs", [None, 2])
def test_errors_of_estimators_come_out(at: str, n_jobs: int | None) -> None:
    X, y, _ = make_data()
    failing = Failing(ZeroDivisionError("of this estimator"), at)
    stack = StackingRegressor([("a", Ridge()), ("b", failing)], cv=3, n_jobs=n_jobs)
    error = assert_same_error(stack, X, y)
    assert str(error) == "of this estimator"


def test_weights_that_an_estimator_does_not_take() -> None:
    X, y, _ = make_data()
    stack = StackingRegressor([("a", Failing(at="no"))], cv=3)
    error = assert_same_error(stack, X, y, sample_weight=np.ones(len(y)))
    assert "does not support sample weights" in str(error)


def watch_writes(monkeypatch: pytest.MonkeyPatch) -> list[WrittenArray | None]:
    written: list[WrittenArray | None] = []
    write = ResultSlot.write

    def watched(slot: ResultSlot, array: object) -> WrittenArray | None:
        written.append(write(slot, array))
        return written[-1]

    monkeypatch.setattr(ResultSlot, "write", watched)
    return written


def test_predictions_are_written_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    X, y, _ = make_data()
    joined: list[list[Any]] = []
    join = ResultBuffer.read_joined

    def watched(buffer: ResultBuffer, parts: list[Any]) -> Any:
        joined.append(parts)
        return join(buffer, parts)

    monkeypatch.setattr(ResultBuffer, "read_joined", watched)
    with recorded() as records:
        share_all(make_regressor()).fit(X, y)
    assert len(records) == 8, "workers ran it"
    assert len(joined) == 2
    for parts in joined:
        assert {type(part) for part in parts} == {WrittenArray}
        begins, stops = zip(*((part.offset, part.stop) for part in parts), strict=True)
        assert begins == (0, *stops[:-1])


@pytest.mark.parametrize(
    ("kind", "is_written"),
    [
        ("wide", False),
        ("narrow", True),
        ("objects", False),
        ("sparse", False),
    ],
)
def test_predictions_of_other_kinds(
    kind: str, is_written: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, _, y = make_data()
    written = watch_writes(monkeypatch)
    stack = StackingClassifier(
        [("a", Predicting(kind)), ("b", make_tree())], make_tree(), cv=3
    )
    if kind == "sparse":
        # scikit-learn cannot use it either.
        assert_same_error(stack, X, y)
    else:
        assert_as_scikit_learn(stack, X, y)
    assert [part is not None for part in written[:3]] == [is_written] * 3


def test_user_splitter_and_estimators_are_left_alone() -> None:
    X, y, _ = make_data()
    stack = make_regressor(n_jobs=None)
    estimators = list(stack.estimators)
    share_all(stack).fit(X, y)
    assert stack.estimators == estimators
    assert stack.cv == 3
    assert not any(hasattr(est, "n_features_in_") for _, est in estimators)
    failing = StackingRegressor([("a", Failing(ZeroDivisionError()))], cv=3)
    model = share_all(failing)
    with pytest.raises(ZeroDivisionError):
        model.fit(X, y)
    assert not hasattr(model, "estimator_")


def test_ensembles_of_other_classes_are_not_taken_apart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class MyStack(StackingRegressor):  # type: ignore[misc]
        pass

    X, y, _ = make_data()
    written = watch_writes(monkeypatch)
    share_all(MyStack([("a", DecisionTreeRegressor())])).fit(X, y)
    assert written == []
    share_all(StackingRegressor([("a", DecisionTreeRegressor())])).fit(X, y)
    assert len(written) == 5
