"""What a parallel call tells those who measure it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config
from sklearn.base import clone
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import Lasso, LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RepeatedKFold,
    ShuffleSplit,
    TimeSeriesSplit,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeRegressor

import skl_mmap
from skl_mmap.copies import Layout
from skl_mmap.monitor import CallRecord
from tests.backend.common import use_layouts

from .common import use_mmap

X = np.random.default_rng(0).random((4096, 8))
y = X.sum(axis=1)
GIVEN = {"layouts": "given"}


def watch(estimator: Any, cv: Any, **parameters: Any) -> CallRecord:
    """Cross-validate under the backend, and return what its call has told."""
    with skl_mmap.measure() as report, use_mmap(**parameters):
        cross_validate(estimator, X, y, cv=cv)
    [call] = report.calls
    return call


def test_options_are_those_that_are_no_defaults() -> None:
    call = watch(Ridge(), 2, row_order="any", inner_max_num_threads=1)
    assert (call.backend, call.n_jobs, call.owner) == ("mmap", 2, "")
    assert call.options == {
        "min_bytes": 1,
        "row_order": "any",
        "inner_max_num_threads": 1,
    }
    with skl_mmap.measure() as report, parallel_config("mmap", n_jobs=-1):
        if skl_mmap.backend.MmapBackend().effective_n_jobs(-1) > 1:
            cross_validate(Ridge(), X, y, cv=2)
            [call] = report.calls
            assert (call.n_jobs, call.options) == (-1, {})


@pytest.mark.parametrize(
    ("cv", "n_splits", "is_partition"),
    [
        (KFold(3), 3, True),
        (KFold(3, shuffle=True), 3, True),
        (ShuffleSplit(3), 3, False),
        (RepeatedKFold(n_splits=2, n_repeats=2), 4, False),
        (TimeSeriesSplit(2), 2, False),
    ],
    ids=["KFold", "shuffled", "ShuffleSplit", "RepeatedKFold", "TimeSeriesSplit"],
)
def test_folds_that_can_be_arranged(cv: Any, n_splits: int, is_partition: bool) -> None:
    call = watch(Ridge(), cv)
    assert (call.n_splits, call.is_partition) == (n_splits, is_partition)
    if is_partition:
        skl_mmap.arrange(X, y, cv=cv)
    else:
        with pytest.raises(skl_mmap.exceptions.InvalidParameterError):
            skl_mmap.arrange(X, y, cv=cv)


def test_rows_in_runs_and_classifiers_are_told() -> None:
    call = watch(Ridge(), KFold(3))
    assert (call.n_runs, call.is_classifier, call.can_reorder) == (2, False, True)
    target = np.arange(len(X)) % 2
    with skl_mmap.measure() as report, use_mmap():
        cross_validate(LogisticRegression(), X, target, cv=KFold(3, shuffle=True))
    [call] = report.calls
    assert call.n_runs > 500
    assert call.is_classifier


def test_each_split_of_a_search_counts_once() -> None:
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0, 3.0]}, cv=KFold(4))
    with skl_mmap.measure() as report, use_mmap():
        clone(search).fit(X, y)
    [call] = report.calls
    assert (call.n_splits, call.is_partition) == (4, True)


@pytest.mark.parametrize(
    ("estimator", "parameters", "conversions"),
    [
        (DecisionTreeRegressor(), GIVEN, {"DecisionTreeRegressor": "float32 C"}),
        (DecisionTreeRegressor(), {}, {}),
        (DecisionTreeRegressor(), {**GIVEN, "min_bytes": None}, {}),
        (Ridge(), GIVEN, {}),
    ],
)
def test_estimators_that_are_known_to_convert(
    estimator: Any, parameters: dict[str, Any], conversions: dict[str, str]
) -> None:
    assert watch(estimator, 3, **parameters).conversions == conversions


def test_columns_are_worth_a_conversion_if_they_can_be_mapped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    name = f"{Lasso.__module__}.Lasso"
    table = {name: {"float64 C": Layout("float64", "F")}}
    use_layouts(monkeypatch, table)
    assert watch(Lasso(), 2, **GIVEN).conversions == {"Lasso": "float64 F"}
    # Folds of 1365 rows do not fill whole pages: Lasso would convert each of them.
    assert watch(Lasso(), 3, **GIVEN).conversions == {}


def total(values: Any) -> float:
    return float(np.sum(values))


def test_tasks_of_others_tell_nothing_about_folds() -> None:
    with skl_mmap.measure() as report, use_mmap():
        Parallel()(delayed(total)(X) for _ in range(3))
        Parallel()(delayed(total)(X) for _ in range(3))
    [call] = report.calls
    assert (call.n_splits, call.is_partition, call.can_reorder) == (0, None, False)


def test_nothing_is_told_while_nobody_measures() -> None:
    with use_mmap():
        cross_validate(Ridge(), X, y, cv=2)
        with skl_mmap.measure() as report:
            pass
    assert report.calls == []


def test_estimators_that_set_the_backend_are_named() -> None:
    model = skl_mmap.Memmapped(
        GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=2), n_jobs=2, min_bytes=1
    )
    report = model.fit(X, y).report_
    assert report is not None
    assert [call.owner for call in report.calls] == ["Memmapped"]


def test_multiples_are_those_of_x_and_not_of_what_is_shared() -> None:
    texts = [f"text number {number:05}" for number in range(6000)]
    model = make_pipeline(HashingVectorizer(n_features=16), Ridge())
    with skl_mmap.measure() as report, use_mmap():
        cross_validate(model, texts, np.arange(6000.0), cv=2)
    [call] = report.calls
    assert call.input_bytes == 17 * 6000
    assert report.unit_bytes == 17 * 6000
    assert report.segments, "y is shared"
    assert watch(Ridge(), 2).input_bytes == X.nbytes


def test_calls_without_x_have_no_size() -> None:
    with skl_mmap.measure() as report, use_mmap():
        Parallel()(delayed(total)(part) for part in (X, y))
    assert [call.input_bytes for call in report.calls] == [None]
    assert report.unit_bytes == X.nbytes
