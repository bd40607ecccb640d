"""Layouts of the table are compared in jobs: what is told of them, without workers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import layouts_agreement
import pytest
from joblib.parallel import get_active_backend
from layouts_agreement import Outcome, compare_estimator, main
from sklearn.tree import DecisionTreeRegressor

from skl_mmap.copies import Layout
from skl_mmap.monitor import note

pytest.importorskip("pandas")

TREE = "sklearn.tree._classes.DecisionTreeRegressor"
FLOAT32 = Layout("float32", "C")
GIVEN = ("float64 F", "float64 frame", "int64 C")


def run(estimator: Any, X: Any, y: Any) -> str:
    """Do as a job does that hands X over as float32."""
    note("DecisionTreeRegressor was given train sets of X as float32 C")
    return "scores"


def run_alone(estimator: Any, X: Any, y: Any) -> str:
    """Do as a job does that hands X over as it is."""
    return "scores"


def run_otherwise(estimator: Any, X: Any, y: Any) -> str:
    """Have other bits with each backend."""
    return type(get_active_backend()[0]).__name__


def run_without_luck(estimator: Any, X: Any, y: Any) -> str:
    """Fail, but not where it is tried first."""
    backend = type(get_active_backend()[0]).__name__
    if backend != "SequentialBackend":
        raise RuntimeError(backend)
    return "scores"


def compare(
    monkeypatch: pytest.MonkeyPatch, *, is_quick: bool = False, **jobs: Any
) -> Outcome:
    monkeypatch.setattr(layouts_agreement, "_GIVEN", GIVEN)
    monkeypatch.setattr(layouts_agreement, "_SHAPES", layouts_agreement._SHAPES[:1])
    monkeypatch.setattr(layouts_agreement, "list_jobs", lambda *_, **__: jobs)
    layouts_agreement._find_possible.cache_clear()
    known = dict.fromkeys(GIVEN[:2], FLOAT32)
    tree = DecisionTreeRegressor()
    outcome = compare_estimator(TREE, tree, known, is_quick=is_quick)
    layouts_agreement._find_possible.cache_clear()
    return outcome


def test_layouts_that_are_taken_and_agree_are_fine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcome = compare(monkeypatch, fits=run, scores=run_alone)
    assert str(outcome) == f"{TREE}: 6 comparisons, 2 layouts"
    assert outcome.is_fine


def test_what_has_no_layout_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = compare(monkeypatch, is_quick=True, fits=run, scores=run_otherwise)
    assert outcome.different == [f"{given}: scores" for given in GIVEN[:2]]


def test_other_bits_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = compare(monkeypatch, fits=run, scores=run_otherwise)
    assert outcome.different == [f"{given}: scores" for given in GIVEN]
    assert "DIFFERENT float64 F: scores" in str(outcome)
    assert not outcome.is_fine


def test_a_layout_that_no_job_takes_proves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Folds of an array have the order of C, so that they do not tell of F.
    outcome = compare(monkeypatch, fits=run_alone, scores=run)
    assert outcome.not_taken == ["float64 F"]
    assert str(outcome).endswith("2 layouts; NOT TAKEN float64 F")
    assert not outcome.is_fine


def test_errors_are_no_comparisons(monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = compare(monkeypatch, fits=run, scores=run_without_luck)
    assert (outcome.n_compared, outcome.n_errors) == (3, 3)
    assert "3 jobs with the same error" in str(outcome)


def test_what_was_compared_already_is_in_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = []

    def remember(name: str, *args: Any, is_quick: bool) -> Outcome:
        ran.append(name)
        return Outcome(name, n_compared=5, n_layouts=2)

    known = {TREE: {"float64 C": FLOAT32}}
    monkeypatch.setattr(layouts_agreement, "known_layouts", lambda: known)
    monkeypatch.setattr(layouts_agreement, "compare_estimator", remember)
    path = tmp_path / "done.jsonl"
    assert [main(["Tree", "--resume", str(path)]) for _ in range(2)] == [0, 0]
    assert ran == [TREE]
    assert "5 comparisons of 1 estimators in 2 layouts" in capsys.readouterr().out
    # What was found in another version is no proof for this one.
    values = json.loads(path.read_text()) | {"version": "0.1", "different": ["x"]}
    path.write_text(json.dumps(values) + "\n")
    assert main(["Tree", "--resume", str(path)]) == 0
    assert ran == [TREE, TREE]
