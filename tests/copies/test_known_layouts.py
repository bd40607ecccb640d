"""The table of what estimators convert X to, and what is done where it ends."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Lasso, Ridge, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from docs.estimators_table import Row, write_table
from skl_mmap.copies import Layout, _known_layouts
from skl_mmap.copies._known_layouts import (
    converts_to,
    find_layout,
    known_layouts,
)

Data = tuple[np.ndarray, np.ndarray]
FAILED = Row("package.module.Other", "package", "1.2.3", "timeout", "60 s, or more")


class Failing(BaseEstimator):  # type: ignore[misc]
    def fit(self, X: Any, y: Any = None) -> Failing:
        raise RuntimeError("not today")


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a table of this test's own be the one that ships."""

    def install(rows: list[Row], **changes: str) -> None:
        path = tmp_path / "layouts.json"
        write_table(path, rows)
        content = json.loads(path.read_text())
        content["versions"].update(changes)
        path.write_text(json.dumps(content))
        monkeypatch.setattr(_known_layouts.resources, "files", lambda _: tmp_path)
        known_layouts.cache_clear()

    yield install
    monkeypatch.undo()
    known_layouts.cache_clear()


def tree_row() -> Row:
    version = metadata.version("scikit-learn")
    name = "sklearn.tree._classes.DecisionTreeRegressor"
    converts = {"float64 C": "float32 C"}
    return Row(name, "scikit-learn", version, converts=converts)


X = np.random.default_rng(0).normal(size=(100, 3))


def test_known_layouts_are_those_of_the_table(table: Any) -> None:
    table([tree_row(), FAILED])
    assert list(known_layouts()) == [tree_row().estimator]
    tree = DecisionTreeRegressor(max_depth=3, random_state=1)
    for estimator in (tree, make_pipeline("passthrough", tree)):
        layout, _ = find_layout(estimator, X, X[:, 0], order="C")
        assert layout == Layout("float32", "C")
    layout, reason = find_layout(tree, X.astype(np.float32), X[:, 0], order="C")
    assert layout is None
    assert "takes X as it is" in reason


@pytest.mark.parametrize("version", ["0.1.2", "99.1"])
def test_other_versions_are_not_believed(table: Any, version: str) -> None:
    table([tree_row()], **{"scikit-learn": version})
    assert known_layouts() == {}


def test_what_is_not_in_the_table_is_probed_once(
    table: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    table([tree_row()])
    probed: list[Any] = []

    def probe(estimator: Any, X: Any, y: Any, order: str) -> Any:
        probed.append(estimator)
        return Layout("float64", "F"), "so it is"

    monkeypatch.setattr(_known_layouts, "_probe", probe)
    monkeypatch.setattr(_known_layouts, "_probed", {})
    for estimator in (
        Ridge(alpha=1.0),
        Ridge(alpha=2.0),  # numbers do not matter
        make_pipeline(Ridge()),
        Ridge(copy_X=False),
        DecisionTreeRegressor(criterion="poisson"),  # harmless
        make_pipeline(StandardScaler(), DecisionTreeRegressor()),
    ):
        find_layout(estimator, X, X[:, 0], order="C")
    assert [type(e).__name__ for e in probed] == ["Ridge", "Ridge", "StandardScaler"]


@pytest.mark.skipif(not known_layouts(), reason="measured with other versions")
def test_what_ends_the_iterations_is_harmless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_known_layouts, "_probe", lambda *args: pytest.fail("probed"))
    layout, _ = find_layout(SGDRegressor(tol=None), X, X[:, 0], order="F")
    assert layout == Layout("float64", "C")


def test_a_probe_that_fails_leaves_the_array_as_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_known_layouts, "_probed", {})
    layout, reason = find_layout(Failing(), X, None, order="C")
    assert layout is None
    assert "not today" in reason


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
