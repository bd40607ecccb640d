"""Layouts of the table give the bits of loky in jobs, and it is seen if they do not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts_agreement
import pytest
from layouts_agreement import Outcome, compare_estimator, main
from sklearn.linear_model import LinearRegression
from sklearn.tree import DecisionTreeRegressor

from skl_mmap.copies import Layout
from tests.backend.common import use_layouts

pytest.importorskip("pandas")

TREE = "sklearn.tree._classes.DecisionTreeRegressor"
LINEAR = "sklearn.linear_model._base.LinearRegression"
FLOAT32 = Layout("float32", "C")


@pytest.fixture(autouse=True)
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts_agreement, "_GIVEN", ("float64 F", "float64 frame"))
    monkeypatch.setattr(layouts_agreement, "_SHAPES", layouts_agreement._SHAPES[:1])
    monkeypatch.setattr(layouts_agreement, "_tells", lambda class_: True)


def compare(
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    estimator: Any,
    known: dict[str, Layout],
    claimed: dict[str, Layout] | None = None,
) -> Outcome:
    use_layouts(monkeypatch, {name: known})
    return compare_estimator(name, estimator, claimed or known)


def test_layouts_that_are_known_are_taken_and_agree(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known = {"float64 F": FLOAT32, "float64 frame": FLOAT32}
    tree = DecisionTreeRegressor(max_depth=3, random_state=0)
    outcome = compare(monkeypatch, TREE, tree, known)
    assert str(outcome) == f"{TREE}: 7 comparisons, 2 layouts"
    assert outcome.is_fine


def test_a_layout_that_changes_bits_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = compare(
        monkeypatch, LINEAR, LinearRegression(), {"float64 frame": FLOAT32}
    )
    jobs = ("fits", "scores", "predict")
    assert outcome.different == [f"float64 frame: {job}" for job in jobs]
    assert "DIFFERENT float64 frame: fits" in str(outcome)
    assert not outcome.is_fine


def test_a_layout_that_no_job_takes_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = compare(
        monkeypatch,
        LINEAR,
        LinearRegression(),
        known={},
        claimed={"float64 frame": FLOAT32},
    )
    assert outcome.not_taken == ["float64 frame"]
    assert str(outcome).endswith("1 layouts; NOT TAKEN float64 frame")
    assert not outcome.is_fine


def test_what_was_compared_already_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def compare(name: str, *args: Any) -> Outcome:
        ran.append(name)
        return Outcome(name, n_compared=5, n_layouts=2)

    known = {TREE: {"float64 C": FLOAT32}}
    monkeypatch.setattr(layouts_agreement, "known_layouts", lambda: known)
    monkeypatch.setattr(layouts_agreement, "compare_estimator", compare)
    path = tmp_path / "done.jsonl"
    assert [main(["Tree", "--resume", str(path)]) for _ in range(2)] == [0, 0]
    assert ran == [TREE]
    assert "5 comparisons of 1 estimators in 2 layouts" in capsys.readouterr().out
    # What was found in another version is no proof for this one.
    values = json.loads(path.read_text()) | {"version": "0.1", "different": ["x"]}
    path.write_text(json.dumps(values) + "\n")
    assert main(["Tree", "--resume", str(path)]) == 0
    assert ran == [TREE, TREE]
