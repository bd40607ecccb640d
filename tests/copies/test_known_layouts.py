"""The table of what estimators convert X to, and what is done where it ends."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from docs.estimators_table import Row, write_table
from skl_mmap.copies import Layout, _known_layouts
from skl_mmap.copies._known_layouts import (
    find_layout,
    known_layouts,
)

FAILED = Row("package.module.Other", "package", "1.2.3", "timeout", "60 s, or more")


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


def test_what_was_not_measured_has_no_layout(table: Any) -> None:
    table([tree_row()])
    for estimator, word in (
        (Ridge(), "nothing is known"),
        (make_pipeline(StandardScaler(), DecisionTreeRegressor()), "nothing is known"),
        (DecisionTreeRegressor(monotonic_cst=[1, 0, 0]), "these parameters"),
        (make_pipeline("passthrough"), "what takes X first"),
    ):
        layout, reason = find_layout(estimator, X, X[:, 0], order="C")
        assert layout is None
        assert word in reason
    harmless = DecisionTreeRegressor(criterion="poisson")
    assert find_layout(harmless, X, X[:, 0], order="C")[0] is not None


def test_a_frame_is_looked_up_by_the_dtype_of_its_columns(table: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table([replace(tree_row(), converts={"float64 frame": "float64 C"})])
    frame = pandas.DataFrame(X)
    layout, _ = find_layout(DecisionTreeRegressor(), frame, None, order="frame")
    assert layout == Layout("float64", "C")
    other = frame.astype("float32")
    assert find_layout(DecisionTreeRegressor(), other, None, order="frame")[0] is None


@pytest.mark.skipif(not known_layouts(), reason="measured with other versions")
def test_what_ends_the_iterations_is_harmless() -> None:
    layout, _ = find_layout(SGDRegressor(tol=None), X, X[:, 0], order="F")
    assert layout == Layout("float64", "C")
