"""Every line of advice that a report can give, pasted and run: it does what it says."""

from __future__ import annotations

import os
import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_validate,
)
from sklearn.tree import DecisionTreeRegressor

import skl_mmap
from skl_mmap._advice import backend_line
from skl_mmap._units import parse_bytes
from skl_mmap.memory import can_remap
from skl_mmap.report import MemoryReport, Suggestion
from skl_mmap.report._findings import ADVICE, _Job

pytestmark = pytest.mark.skipif(
    not can_remap(), reason="where nothing is mapped, folds are copied for one reason"
)

N_JOBS = 2
# 21 numbers do not fill pages, and 2 ** 16 rows of them are 10.5 MiB.
N_ROWS, N_COLUMNS = 1 << 16, 21
SHUFFLED = KFold(4, shuffle=True, random_state=0)
SCOPE = {
    "KFold": KFold,
    "StratifiedKFold": StratifiedKFold,
    "joblib": joblib,
    "np": np,
    "parallel_config": joblib.parallel_config,
    "skl_mmap": skl_mmap,
}


def make_matrix(n_columns: int = N_COLUMNS) -> Any:
    return np.random.default_rng(0).random((N_ROWS, n_columns))


def make_fortran() -> Any:
    return np.asfortranarray(make_matrix())


def make_frame() -> Any:
    return pd.DataFrame(make_matrix())


def make_large() -> Any:
    return make_matrix(80)


@dataclass(frozen=True)
class Situation:
    """A job that calls for one line of advice, and what following it saves."""

    name: str
    saved: Callable[[MemoryReport, MemoryReport], int]
    make: Callable[[], Any] = make_matrix
    cv: Any = field(default_factory=lambda: KFold(5))
    estimator: Any = field(default_factory=Ridge)
    options: dict[str, Any] = field(default_factory=dict)
    is_classified: bool = False


def saved_folds(before: MemoryReport, after: MemoryReport) -> int:
    return before.copied_bytes - after.copied_bytes


def saved_most_of_the_time(before: MemoryReport, after: MemoryReport) -> int:
    """Leave out workers, and the peak: whether a reading meets it is luck."""

    def held(report: MemoryReport) -> float:
        [own] = [series for series in report.processes if series.pid == report.pid]
        shared = [reading.shared_bytes for reading in report.timeline]
        return statistics.median(own.anonymous_bytes) + statistics.median(shared)

    return int(held(before) - held(after))


def saved_private(before: MemoryReport, after: MemoryReport) -> int:
    def largest(report: MemoryReport) -> int:
        return max(task.private_bytes or 0 for task in report.tasks)

    return largest(before) - largest(after)


def nothing(_before: MemoryReport, _after: MemoryReport) -> int:
    return 0


LOGISTIC = LogisticRegression(max_iter=3, tol=10.0)
SITUATIONS = (
    Situation("arrange", saved_folds, cv=SHUFFLED),
    Situation("arrange", saved_folds, make_frame, SHUFFLED),
    Situation("arrange", saved_folds, make_fortran, SHUFFLED),
    Situation("arrange", saved_folds, cv=4, estimator=LOGISTIC, is_classified=True),
    Situation("arrange other folds", saved_folds, cv=ShuffleSplit(4, random_state=0)),
    Situation(
        *("arrange other folds", saved_folds, make_matrix),
        *(ShuffleSplit(3, random_state=0), LOGISTIC),
        is_classified=True,
    ),
    Situation(
        *("store by row", saved_folds, make_fortran), options={"layouts": "given"}
    ),
    Situation("store by row", saved_folds, make_frame),
    Situation("row_order", saved_folds),
    Situation("row_order", saved_folds, options={"mmap_mode": "r"}),
    Situation(
        "adopt", saved_most_of_the_time, make_large, options={"row_order": "any"}
    ),
    Situation("check_copies", nothing, make_large),
    Situation(
        *("layouts", saved_private, make_large),
        estimator=DecisionTreeRegressor(max_depth=2, max_features=2),
        options={"layouts": "given"},
    ),
)


def name_situation(situation: Situation) -> str:
    made = situation.make.__name__.removeprefix("make_")
    kind = type(situation.estimator).__name__
    options = "".join(f"-{name}" for name in situation.options)
    return f"{situation.name}-{made}-{kind}{options}"


def make_scope(situation: Situation) -> dict[str, Any]:
    X = situation.make()
    y = np.asarray(X).sum(axis=1)
    if situation.is_classified:
        # The later, the more of class 1: folds of both classes begin elsewhere.
        chance = np.linspace(0.0, 1.0, len(y))
        y = (np.random.default_rng(1).random(len(y)) < chance).astype(int)
    return {**SCOPE, "X": X, "y": y, "cv": situation.cv} | {
        "estimator": situation.estimator
    }


def run(scope: dict[str, Any], line: str, *before: str) -> MemoryReport:
    """Run the job below a line that sets the backend, and other lines before."""

    def job() -> None:
        names = ("estimator", "X", "y", "cv")
        estimator, X, y, cv = (scope[name] for name in names)
        cross_validate(estimator, X, y, cv=cv, error_score="raise")

    with skl_mmap.measure() as report:
        exec("\n".join([*before, f"with {line}:", "    job()"]), scope | {"job": job})
    n_bytes = int(np.asarray(scope["X"]).nbytes)
    result: MemoryReport = report.report(input_bytes=n_bytes)
    return result


def find_advice(report: MemoryReport, name: str) -> Suggestion:
    """Return what a rule has said, which is among the suggestions of the report."""
    index = list(ADVICE).index(name)
    given = [give(_Job.of(report)) for give in ADVICE.values()]
    suggestion = given[index]
    assert suggestion is not None, f"no advice: {report}"
    assert suggestion in report.suggestions
    return suggestion


def check_promise(
    suggestion: Suggestion, situation: Situation, *reports: MemoryReport
) -> None:
    before, after = reports
    workers = {record.pid for record in after.records}
    assert workers, "no task ran in a worker"
    assert os.getpid() not in workers
    assert [call.n_jobs for call in after.calls] == [N_JOBS]
    promised = re.search(r"[\d.]+ [KMG]iB", suggestion.reason)
    if promised is not None:
        # Pages at seams, and what was read while the peak was lower than it gets.
        least = 0.75 * parse_bytes(promised[0], name="promise")
        assert situation.saved(before, after) >= least, f"{before}\n{after}"


def test_every_advice_has_a_situation() -> None:
    assert {situation.name for situation in SITUATIONS} == set(ADVICE)


@pytest.mark.parametrize("situation", SITUATIONS, ids=name_situation)
def test_a_pasted_line_does_what_it_says(
    situation: Situation, capsys: pytest.CaptureFixture[str]
) -> None:
    scope = make_scope(situation)
    line = backend_line(N_JOBS, **situation.options)
    run(scope, line)  # workers import what they need
    before = run(scope, line)
    suggestion = find_advice(before, situation.name)
    if suggestion.code.startswith("parallel_config("):
        after = run(scope, suggestion.code)
        kept = {k: v for k, v in situation.options.items() if k != situation.name}
        assert after.calls[-1].options.items() >= kept.items()
    else:
        exec(suggestion.code, scope)
        after = run(scope, line)
    check_promise(suggestion, situation, before, after)
    if situation.name == "layouts":
        assert situation.saved(before, after) > 0.3 * scope["X"].nbytes
    if situation.name == "check_copies":
        assert "CopyReport for Ridge()" in capsys.readouterr().out
    assert suggestion.code not in {again.code for again in after.suggestions} or (
        situation.name == "check_copies"
    ), "what was done is advised again"


OF_MODELS = [
    situation
    for situation in SITUATIONS
    if situation.name in ("row_order", "adopt", "layouts")
    and "mmap_mode" not in situation.options  # Memmapped has no such parameter
]


@pytest.mark.parametrize("situation", OF_MODELS, ids=name_situation)
def test_a_pasted_line_does_so_for_a_model(situation: Situation) -> None:
    scope = make_scope(situation)
    search = GridSearchCV(scope["estimator"], {}, cv=scope["cv"], refit=False)
    scope["model"] = skl_mmap.Memmapped(search, n_jobs=N_JOBS, **situation.options)
    scope["model"].fit(scope["X"], scope["y"])
    before = scope["model"].fit(scope["X"], scope["y"]).report_
    suggestion = find_advice(before, situation.name)
    assert suggestion.code.startswith("model.set_params(")
    exec(suggestion.code, scope)
    after = scope["model"].fit(scope["X"], scope["y"]).report_
    check_promise(suggestion, situation, before, after)


def test_sentences_name_the_line_that_is_suggested() -> None:
    scope = make_scope(Situation("arrange other folds", nothing, cv=ShuffleSplit(2)))
    report = run(scope, backend_line(N_JOBS))
    advice = find_advice(report, "arrange other folds")
    [sentence] = [s for s in report.large_copies if "of folds" in s]
    assert sentence.endswith(f" To avoid it: {advice.code}.")
    assert "random_state=0" in advice.code


def test_nothing_that_would_not_help_is_advised() -> None:
    scope = make_scope(Situation("check_copies", nothing, make_large))
    report = run(scope, backend_line(N_JOBS, row_order="any", adopt=True))
    # Ridge takes X as it is, and copies it: another layout would be as much.
    assert [s.code for s in report.suggestions] == [
        "print(skl_mmap.check_copies(estimator, X, y))"
    ]
