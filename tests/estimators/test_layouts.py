"""Memmapped hands estimators the layout that they would convert X to."""

from __future__ import annotations

import joblib
import numpy as np
import pytest
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge
from sklearn.tree import DecisionTreeRegressor

from skl_mmap import Memmapped
from skl_mmap.copies import Layout
from skl_mmap.exceptions import InvalidParameterError
from tests.backend.common import use_layouts


@pytest.mark.parametrize("order", ["C", "F"])
def test_a_stack_is_the_same_with_converted_layouts(
    order: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "sklearn.tree._classes.DecisionTreeRegressor"
    table = {
        name: {
            "float64 C": Layout("float32", "C"),
            "float64 F": Layout("float32", "F"),
        },
        "sklearn.linear_model._ridge.Ridge": {},
    }
    use_layouts(monkeypatch, table)
    rng = np.random.default_rng(0)
    X = np.array(rng.normal(size=(20_000, 10)), order=order)  # type: ignore[call-overload]
    y = X[:, 0] + rng.normal(size=len(X))
    tree = DecisionTreeRegressor(max_depth=5, random_state=0)
    stack = StackingRegressor([("tree", tree), ("ridge", Ridge())], cv=3)
    # In workers, linear algebra has fewer threads, and adds up in another order.
    with joblib.parallel_backend("loky", n_jobs=2):
        expected = stack.fit(X, y).predict(X)
    model = Memmapped(stack, n_jobs=2, layouts="auto").fit(X, y)
    np.testing.assert_array_equal(model.predict(X), expected)
    notes = "\n".join(model.report_.notes)
    assert "DecisionTreeRegressor was given X as float32" in notes


def test_other_words_are_an_error() -> None:
    X = np.zeros((20_000, 10))
    with pytest.raises(InvalidParameterError, match="layouts='all' is not known"):
        Memmapped(Ridge(), layouts="all").fit(X, X[:, 0])
