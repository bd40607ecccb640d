"""Data frames that are handed over row by row."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
from sklearn.model_selection import KFold, cross_val_predict, cross_validate

import skl_mmap
from skl_mmap.copies import Layout
from tests.backend.common import use_layouts, use_mmap
from tests.backend.layout_jobs import CASES, find_differences, make_table

N_SAMPLES, N_FEATURES = 900, 7
NAMES = list("abcdefg")


class Witness(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Keeps what the frames looked like that it was given."""

    def fit(self, X: Any, y: Any) -> Witness:
        self.fitted_on_ = describe(X)
        return self

    def predict(self, X: Any) -> Any:
        return np.full((len(X), 1), [repr(describe(X))], dtype=object)


def describe(X: Any) -> tuple[Any, ...]:
    values = np.asarray(X)
    order = "C" if values.flags.c_contiguous else "F"
    names = list(X.columns), X.index[[0, -1]].tolist(), X.index.name
    is_unique = X.flags.allows_duplicate_labels
    total = float(values.astype(float).sum())
    return f"{values.dtype} {order}", *names, X.attrs, is_unique, round(total, 3)


def make_frame(kind: str) -> Any:
    values = np.random.default_rng(0).normal(size=(N_SAMPLES, N_FEATURES))
    index = pd.Index(np.arange(N_SAMPLES)[::-1] * 2, name="row")
    if kind == "several arrays":
        parts = [
            pd.DataFrame(values[:, places], index=index, columns=np.take(NAMES, places))
            for places in ([0, 3], [1], [2, 4, 5, 6])
        ]
        frame = pd.concat(parts, axis=1)[NAMES]
    else:
        frame = pd.DataFrame(
            values, index=index, columns=NAMES, copy=kind != "row by row"
        )
    frame.attrs["made"] = {"by": "a test"}
    return frame.set_flags(allows_duplicate_labels=False)


KINDS = ("column by column", "row by row", "several arrays")


@pytest.fixture
def wanted(monkeypatch: pytest.MonkeyPatch) -> Callable[[Layout], None]:
    """Let the witness want a layout."""

    def want(layout: Layout) -> None:
        own = {"float64 C": layout, "float64 frame": layout}
        use_layouts(monkeypatch, {f"{Witness.__module__}.Witness": own})

    return want


def evaluate(X: Any, cv: Any) -> list[Any]:
    def look(_estimator: Any, X: Any, _y: Any) -> float:
        return describe(X)[-1]  # type: ignore[no-any-return]

    y = np.zeros(len(X))
    found = cross_validate(Witness(), X, y, cv=cv, scoring=look, return_estimator=True)
    seen = cross_val_predict(Witness(), X, y, cv=cv)
    return [
        [estimator.fitted_on_ for estimator in found["estimator"]],
        found["test_score"].tolist(),
        sorted(set(seen[:, 0])),
    ]


def expect(X: Any, cv: Any) -> list[Any]:
    with joblib.parallel_config("loky", n_jobs=2):
        return evaluate(X, cv)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("is_for_fit_only", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("is_shuffled", [False, True])
def test_a_frame_differs_only_in_how_its_numbers_are_stored(
    kind: str,
    is_for_fit_only: bool,
    dtype: str,
    is_shuffled: bool,
    wanted: Callable[[Layout], None],
) -> None:
    X = make_frame(kind)
    cv = KFold(3, shuffle=is_shuffled, random_state=0 if is_shuffled else None)
    given = expect(X, cv)
    wanted(Layout(dtype, "C", is_for_fit_only=is_for_fit_only))
    with use_mmap():
        found = evaluate(X, cv)
    assert {fitted[0] for fitted in found[0]} == {f"{dtype} C"}
    assert [fitted[1:-1] for fitted in found[0]] == [fit[1:-1] for fit in given[0]]
    totals = [[fitted[-1] for fitted in fits[0]] for fits in (found, given)]
    np.testing.assert_allclose(*totals, rtol=1e-3)
    assert found[1] == given[1]  # the scorer has seen what it sees without it
    if is_for_fit_only:
        assert found[2] == given[2]
    else:
        assert all(f"{dtype} C" in text for text in found[2])


def score_zero(_estimator: Any, _X: Any, _y: Any) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("kind", "number"),
    [(KINDS[0], np.nan), (KINDS[1], -np.inf), (KINDS[2], np.nan), (KINDS[0], 1e35)],
)
def test_a_frame_without_a_finite_sum_stays_as_it_is(
    kind: str, number: float, wanted: Callable[[Layout], None]
) -> None:
    X = make_frame(kind)
    X.iloc[500, 3] = number
    given = describe(X.take(np.arange(5)))[0]
    wanted(Layout("float32", "C"))
    with skl_mmap.measure() as report, use_mmap():
        fits = cross_validate(
            *(Witness(), X, np.zeros(len(X))),
            cv=3,
            scoring=score_zero,
            return_estimator=True,
        )
    assert {fit.fitted_on_[0] for fit in fits["estimator"]} == {given}
    assert any("missing or too large" in note for note in report.notes)


@pytest.mark.parametrize(
    "model",
    [
        HistGradientBoostingRegressor(max_iter=2, early_stopping=False),
        RandomForestRegressor(n_estimators=2, random_state=0),
    ],
    ids=lambda model: type(model).__name__,
)
def test_a_frame_with_missing_numbers_is_fitted_as_with_loky(model: Any) -> None:
    X = make_frame("column by column")
    X = X.mask(np.random.default_rng(0).random(X.shape) < 0.1)
    y = X.sum(axis=1)
    expected = cross_validate(model, X, y, cv=3)["test_score"]
    with use_mmap():
        scores = cross_validate(model, X, y, cv=3)["test_score"]
    np.testing.assert_array_equal(scores, expected)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_that_is_changed_is_stored_anew(
    kind: str, wanted: Callable[[Layout], None]
) -> None:
    X = make_frame(kind)
    wanted(Layout("float32", "C"))
    totals = []
    with use_mmap():
        for change in range(4):
            fits = evaluate(X, KFold(3))[0]
            rows = np.setdiff1d(np.arange(N_SAMPLES), np.arange(300))
            totals.append((fits[0][-1], X.iloc[rows].to_numpy().sum()))
            if change == 0:
                X.iloc[700, 4] = 1e4  # in place, of one number
            elif change == 1:
                X["c"] = 5.0
            elif change == 2:
                X.loc[:, "b"] = np.arange(N_SAMPLES, dtype=float)
    found, expected = np.transpose(totals)
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert len(set(found)) == 4


def test_one_copy_of_a_frame_is_shared_and_nothing_else(
    wanted: Callable[[Layout], None],
) -> None:
    X = make_frame("several arrays")
    wanted(Layout("float32", "C"))
    with skl_mmap.measure() as report, use_mmap(min_bytes=X.size * 4):
        for _ in range(2):
            cross_val_predict(Witness(), X, np.zeros(N_SAMPLES), cv=KFold(4))
    assert [s.n_bytes for s in report.segments] == [X.size * 4]
    assert "Witness was given X as float32 C" in report.notes


# Each estimator once; layout_jobs.py as a script tries them all.
@pytest.mark.parametrize("case", CASES[::13], ids=str)
def test_results_are_those_of_loky(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_layouts(monkeypatch, make_table())
    assert find_differences(case) == []
