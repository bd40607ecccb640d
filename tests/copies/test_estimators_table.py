"""The table of all estimators: one row each, resumable, and what is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge

from docs import estimators_table
from docs.estimators_layouts import Found, merge_table, write_table
from docs.estimators_table import (
    LAYOUTS,
    Entry,
    Row,
    list_estimators,
    main,
    make_data,
    measure_entry,
    read_layouts,
    read_rows,
    write_page,
    write_row,
)
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
    layouts = {ROW.estimator: {"float64 C": "float32 C fit only"}}
    write_page(path, [FAILED, ROW], layouts)
    text = path.read_text()
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    lines = body.strip().splitlines()
    assert len(lines) == 2
    n_columns = text.count("<th>")
    assert all(line.count("<td") == n_columns for line in lines)
    assert "it is &quot;so&quot;, and &lt;so&gt;" in lines[0]
    assert "<td>float32 C fit only</td>" in lines[0]
    assert "60 s, or more" in lines[1]


def test_measuring_an_estimator_fills_a_row() -> None:
    row = measure_entry(Entry("sklearn.Ridge", "scikit-learn", Ridge()))
    assert row.outcome == "ok"
    assert set(row.copies) == set(map(str, LAYOUTS))
    assert row.copies["float64 C read-only"] == pytest.approx(2, abs=0.15)
    assert row.copies["float64 C copy-on-write"] == pytest.approx(1, abs=0.15)
    assert "check_array" in row.site
    assert row.remedy.startswith("estimator.set_params(copy_X=False")


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


def test_what_was_interrupted_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {
        "--csv": tmp_path / "copies.csv",
        "--html": tmp_path / "copies.html",
    }
    options = [str(word) for pair in paths.items() for word in pair]
    main(["--only", "DummyRegressor", *options])
    assert "1 of 1 estimators measured" in capsys.readouterr().out
    assert "DummyRegressor" in paths["--html"].read_text()
    before = paths["--csv"].read_text()
    main(["--only", "DummyRegressor", *options])
    output = capsys.readouterr()
    assert "DummyRegressor" not in output.err  # nothing left to measure
    (row,) = read_rows(paths["--csv"]).values()
    assert row.copies["float64 C read-only"] == pytest.approx(0, abs=0.05)
    assert paths["--csv"].read_text() == before


def test_a_word_that_no_estimator_has_is_refused(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "NoSuchModel"])
    assert "no estimator has 'NoSuchModel'" in capsys.readouterr().err


def test_the_page_shows_layouts_of_the_newest_version(tmp_path: Path) -> None:
    old, new = {"float64 C": "float32 C"}, {"float64 C": "float32 F"}
    table: dict[str, Any] = {}
    for version, layouts in (("1.8", new), ("1.9", old), ("1.10", new)):
        found = [Found("a.Model", layouts)]
        if version != "1.10":
            found.append(Found("a.Gone", old))
        table = merge_table(table, found, {"a": version})
    write_table(tmp_path / "layouts.json", table)
    found = read_layouts(tmp_path / "layouts.json")
    assert {name: row["float64 C"] for name, row in found.items()} == {
        "a.Model": "float32 F"
    }


class Tagless(BaseEstimator):  # type: ignore[misc]
    """As a chain of estimators is in scikit-learn 1.8 until it is given one."""

    def __sklearn_tags__(self) -> Any:
        raise AttributeError("no tags")


def test_an_estimator_without_tags_is_listed_with_its_problem() -> None:
    entry = estimators_table._make_entry(Tagless, "package")
    assert entry.estimator is None
    assert entry.problem == "cannot be made: no tags"
