"""The table of all estimators: one row each, resumable, and what is made of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeRegressor

from skl_mmap.copies import _known_layouts
from skl_mmap.copies._catalogue import Entry, list_estimators, make_data
from skl_mmap.copies._known_layouts import find_layout, known_layouts
from skl_mmap.copies._layout import Layout
from skl_mmap.copies._matrix import (
    LAYOUTS,
    Row,
    measure_entry,
    read_rows,
    write_row,
    write_table,
)
from skl_mmap.copies._matrix_page import write_page
from skl_mmap.exceptions import FileFormatError

ROW = Row(
    "package.module.Model",
    "package",
    "1.2.3",
    n_samples=10,
    n_features=3,
    copies={str(layout): 0.25 * i for i, layout in enumerate(LAYOUTS)},
    best="float64 C copy-on-write",
    why='it is "so", and <so>',
    site="package/module.py:7 fit",
    remedy="estimator.set_params(copy=False)",
    results="identical",
    converts={"float64 C": "float32 C"},
    seconds=0.5,
)
FAILED = Row("package.module.Other", "package", "1.2.3", "timeout", "60 s, or more")


def test_rows_come_back_from_the_file(tmp_path: Path) -> None:
    path = tmp_path / "copies.csv"
    assert read_rows(path) == {}
    for row in (ROW, FAILED):
        write_row(path, row)
    assert read_rows(path) == {row.estimator: row for row in (ROW, FAILED)}


def test_a_file_that_is_no_table_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FileFormatError, match="no table of copies"):
        read_rows(path)


def test_pages_have_a_line_for_each_estimator(tmp_path: Path) -> None:
    path = tmp_path / "table.html"
    write_page(path, [FAILED, ROW])
    text = path.read_text()
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    lines = body.strip().splitlines()
    assert len(lines) == 2
    n_columns = text.count("<th>")
    assert all(line.count("<td") == n_columns for line in lines)
    assert "it is &quot;so&quot;, and &lt;so&gt;" in lines[0]
    assert "60 s, or more" in lines[1]


def test_measuring_an_estimator_fills_a_row() -> None:
    row = measure_entry(Entry("sklearn.Ridge", "scikit-learn", Ridge()))
    assert row.outcome == "ok"
    assert set(row.copies) == set(map(str, LAYOUTS))
    assert row.copies["float64 C read-only"] == pytest.approx(2, abs=0.15)
    assert row.copies["float64 C copy-on-write"] == pytest.approx(1, abs=0.15)
    assert "check_array" in row.site
    assert row.remedy.startswith("estimator.set_params(copy_X=False")
    assert row.converts == {}


class Failing(BaseEstimator):  # type: ignore[misc]
    def fit(self, X: Any, y: Any = None) -> Failing:
        raise RuntimeError("not today")


@pytest.mark.parametrize(
    ("estimator", "word"), [(Failing(), "not today"), (None, "cannot be made")]
)
def test_what_cannot_be_measured_has_a_row_that_says_so(
    estimator: Any, word: str
) -> None:
    row = measure_entry(Entry("a.B", "scikit-learn", estimator, "cannot be made: x"))
    assert row.outcome != "ok"
    assert word in row.message
    assert row.copies == {}


def test_estimators_are_found_with_data_for_them() -> None:
    entries = list_estimators()
    assert len(entries) > 150
    assert sum(entry.estimator is None for entry in entries) < 20
    named = {entry.name.rpartition(".")[2]: entry for entry in entries}
    X, y = make_data(named["MultinomialNB"].estimator)
    assert X.min() >= 0
    assert set(np.unique(y)) == {0, 1}
    X, y = make_data(named["MultiTaskLasso"].estimator)
    assert y.shape == (len(X), 2)


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
    from importlib import metadata

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
