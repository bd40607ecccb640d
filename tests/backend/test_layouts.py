"""Estimators that would convert X get one shared converted copy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import GradientBoostingRegressor, RandomForestRegressor
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_val_score,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

import skl_mmap
from skl_mmap.copies import Layout
from tests.backend.common import recorded, use_layouts, use_mmap

N_SAMPLES, N_FEATURES = 3000, 12


@pytest.fixture
def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_SAMPLES, N_FEATURES))
    return X, X @ rng.normal(size=N_FEATURES) + rng.normal(size=N_SAMPLES)


class Witness(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Says what X it was given, as its score."""

    def fit(self, X: Any, y: Any) -> Witness:
        self.fitted_on_ = X.dtype.itemsize + (0.5 if X.flags.f_contiguous else 0)
        return self

    def predict(self, X: Any) -> Any:
        return np.full(len(X), self.fitted_on_)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, Layout]]:
    """Let the table be one of this test's own."""
    table: dict[str, dict[str, Layout]] = {}
    use_layouts(monkeypatch, table)
    return table


@pytest.fixture
def witness_wants_float32(known: dict[str, dict[str, Layout]]) -> None:
    known[f"{Witness.__module__}.Witness"] = {
        "float64 C": Layout("float32", "C"),
    }


def witnessed(estimator: Any, X: Any, **parameters: Any) -> list[float]:
    """Return what each of three folds was given."""
    y = np.zeros(len(X))
    with use_mmap(**parameters):
        found = cross_validate(estimator, X, y, cv=KFold(3), return_estimator=True)
    return [
        getattr(e, "fitted_on_", None) or e[-1].fitted_on_ for e in found["estimator"]
    ]


@pytest.mark.usefixtures("witness_wants_float32")
def test_an_estimator_gets_the_layout_that_it_would_convert_to(data: Any) -> None:
    X, _ = data
    assert witnessed(Witness(), X) == [4.0] * 3
    assert witnessed(make_pipeline("passthrough", Witness()), X) == [4.0] * 3
    assert witnessed(Witness(), X.astype(np.float32)) == [4.0] * 3
    assert witnessed(Witness(), X, min_bytes=X.nbytes + 1) == [8.0] * 3
    with use_mmap(layouts="given"):
        found = cross_validate(
            Witness(), X, np.zeros(len(X)), cv=3, return_estimator=True
        )
    assert [e.fitted_on_ for e in found["estimator"]] == [8.0] * 3


@pytest.mark.usefixtures("witness_wants_float32")
def test_one_converted_copy_is_shared_and_nothing_else(data: Any) -> None:
    X, _ = data
    with skl_mmap.measure() as report:
        witnessed(Witness(), X)
        witnessed(Witness(), X)
    # A backend for each block, and so a copy.
    large = [s.n_bytes for s in report.segments if s.n_bytes > X.nbytes // 4]
    assert large == [X.nbytes // 2] * 2
    assert sum(task.mapped_bytes for task in report.tasks) > 0.8 * 3 * X.nbytes
    (note,) = (note for note in report.notes if "Witness" in note)
    assert "Witness was given X as float32 C" in note


@pytest.mark.usefixtures("witness_wants_float32")
def test_numbers_too_large_for_it_are_left_to_the_estimator(data: Any) -> None:
    X, _ = data
    X[5, 5] = 1e300
    with skl_mmap.measure() as report:
        assert witnessed(Witness(), X) == [8.0] * 3
    assert any("too large for float32" in note for note in report.notes)


def test_rows_of_fortran_order_are_selected_from_a_shared_c_copy(
    known: dict[str, dict[str, Layout]], data: Any
) -> None:
    X = np.asfortranarray(data[0])
    known[f"{Witness.__module__}.Witness"] = {}
    with recorded() as records:
        # numpy's own rows of it have C order, too.
        assert witnessed(Witness(), X) == [8.0] * 3
    assert sum(r.mapped_bytes for r in records) > 0.8 * 3 * X.nbytes
    assert not any("NOT_BY_ROW" in record.copy_reasons for record in records)


@pytest.mark.parametrize(
    ("n_rows", "parameters", "expected", "reason"),
    [
        (6 * 512, {}, 8.5, None),
        (3000, {}, 8.0, "is not a multiple of 512"),
        (6 * 512, {"cv": KFold(4)}, 8.0, "do not begin and end at multiples of 512"),
        (6 * 512, {"cv": KFold(3, shuffle=True, random_state=0)}, 8.5, None),
        (6 * 512, {"return_train_score": True}, 8.0, "train scores are computed"),
    ],
)
def test_train_sets_are_joined_by_column_for_who_wants_fortran_order(
    known: dict[str, dict[str, Layout]],
    n_rows: int,
    parameters: dict[str, Any],
    expected: float,
    reason: str | None,
) -> None:
    known[f"{Witness.__module__}.Witness"] = {"float64 C": Layout("float64", "F")}
    X = np.random.default_rng(0).normal(size=(n_rows, N_FEATURES))
    arguments = {"cv": KFold(3), "return_estimator": True, **parameters}
    with skl_mmap.measure() as report, use_mmap():
        found = cross_validate(Witness(), X, np.zeros(n_rows), **arguments)
    fitted_on = [estimator.fitted_on_ for estimator in found["estimator"]]
    assert fitted_on[1] == expected, fitted_on
    given = "Witness was given train sets of X as float64 F"
    notes = [note for note in report.notes if not note.startswith(given)]
    assert [reason in note for note in notes] == ([True] if reason else [])


def sum_of_first(estimator: Any, X: Any, y: Any) -> float:
    fitted_on: float = getattr(estimator, "fitted_on_", 0.0)
    return X.dtype.itemsize + fitted_on / 10


@pytest.mark.usefixtures("witness_wants_float32")
def test_scorers_and_functions_that_look_get_the_array_as_it_is(data: Any) -> None:
    X, y = data
    with use_mmap():
        scores = cross_val_score(Witness(), X, y, scoring=sum_of_first)
        sizes = joblib.Parallel()(
            joblib.delayed(sum_of_first)(Witness(), X, y) for _ in range(2)
        )
        both = cross_validate(
            *(Witness(), X, y),
            scoring=sum_of_first,
            return_train_score=True,
        )
    assert list(scores) == [8.4] * 5  # fit was given train sets as float32
    assert list(both["test_score"]) == list(both["train_score"]) == [8.8] * 5
    assert list(sizes) == [8.0] * 2
    assert witnessed(Witness(), X) == [4.0] * 3


def jobs() -> Iterator[tuple[str, Any]]:
    trees = DecisionTreeRegressor(max_depth=4, random_state=0)
    yield "cross_validate", lambda X, y: cross_val_score(trees, X, y)
    forest = RandomForestRegressor(n_estimators=5, random_state=0, max_depth=4)
    yield "forest", lambda X, y: cross_val_score(forest, X, y, scoring="r2")
    boosting = GradientBoostingRegressor(n_estimators=5, random_state=0)
    yield "predict", lambda X, y: cross_val_predict(boosting, X, y)
    grid = {"max_depth": [2, 3], "splitter": ["best", "random"]}
    yield (
        "search",
        lambda X, y: GridSearchCV(trees, grid).fit(X, y).cv_results_["mean_test_score"],
    )
    logistic = LogisticRegression(max_iter=20)
    yield "logistic", lambda X, y: cross_val_score(logistic, X, y > 0)
    scaled = make_pipeline(StandardScaler(), Ridge())
    yield "pipeline", lambda X, y: cross_val_score(scaled, X, y)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("job", [pytest.param(job, id=name) for name, job in jobs()])
def test_results_are_those_of_loky(job: Any, order: Any, data: Any) -> None:
    X, y = data
    X = np.asarray(X, order=order)
    with joblib.parallel_config("loky", n_jobs=2):
        expected = job(X, y)
    with use_mmap():
        found = job(X, y)
    np.testing.assert_array_equal(found, expected)
