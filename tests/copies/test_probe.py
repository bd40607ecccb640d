"""What the rest of the package asks: layouts, and what an estimator converts to."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Lasso, SGDRegressor

from skl_mmap.copies import Layout
from skl_mmap.copies._probe import converts_to, probe

Data = tuple[np.ndarray, np.ndarray]


def test_forest_converts_to_float32(data: Data) -> None:
    X, y = data
    forest = RandomForestRegressor(n_estimators=2, max_depth=4)
    layout, reason = converts_to(forest, X, y)
    assert layout == Layout("float32", "C")
    assert "float32" in reason


def test_model_that_needs_c_order_is_given_it(data: Data) -> None:
    X, y = data
    layout, _ = converts_to(SGDRegressor(max_iter=3), np.asfortranarray(X), y)
    assert layout == Layout("float64", "C")


def test_what_is_more_than_a_conversion_is_none(data: Data) -> None:
    layout, reason = converts_to(Lasso(alpha=0.1), *data)
    assert layout is None
    assert reason


def test_no_copy_is_no_conversion(data: Data) -> None:
    layout, reason = converts_to(SGDRegressor(max_iter=3), *data)
    assert (layout, reason) == (None, "fit makes no copy")


def test_probe_measures_the_layouts_asked_for(data: Data) -> None:
    X, y = data
    layouts = (Layout("float64", "C", "r"), Layout("float64", "F"))
    results = probe(
        SGDRegressor(max_iter=3), X, y, layouts=layouts, methods=("fit",), n_rows=20_000
    )
    assert [result.layout for result in results] == list(layouts)
    assert results[0].methods[0].copies == pytest.approx(0.0, abs=0.1)
    assert results[1].methods[0].copies == pytest.approx(1.0, abs=0.1)
    assert results[1].methods[0].reasons == ("order",)
