"""What check= does about copies, and the numbers in the report."""

from __future__ import annotations

import linecache
import os
import signal
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline

from skl_mmap import Memmapped
from skl_mmap.exceptions import CopyError, CopyWarning
from skl_mmap.monitor._sampler_process import SamplerProcess
from skl_mmap.report import MemoryReport
from tests.estimators.common import Array, make_data

N_ROWS, N_COLUMNS = 80_000, 8
SHUFFLED = KFold(2, shuffle=True, random_state=0)
X_BYTES = 64 << 20


class Allocating(RegressorMixin, BaseEstimator):
    """Needs as much private memory as it is told: a share of X, and vectors."""

    def __init__(self, share: float = 0.0) -> None:
        self.share = share

    def fit(self, X: Any, y: Any) -> Allocating:
        self.total_ = float(np.sum(X, axis=1).sum())
        self.kept_ = float(np.ones(int(self.share * X.nbytes), dtype="u1")[-1:].sum())
        return self

    def predict(self, X: Any) -> Any:
        return np.sum(X, axis=1)


def make_matrix(n_rows: int = N_ROWS) -> tuple[Array, Array]:
    X = np.random.default_rng(0).normal(size=(n_rows, N_COLUMNS))
    return X, X.sum(axis=1)


def make_search(cv: Any) -> GridSearchCV:
    return GridSearchCV(Allocating(), {"share": [0.0]}, cv=cv, refit=False)


def wrap(cv: Any, check: str, **parameters: Any) -> Memmapped:
    return Memmapped(make_search(cv), n_jobs=2, check=check, **parameters)


def test_report_says_what_was_copied_and_nothing_else_happens() -> None:
    model = wrap(SHUFFLED, "report").fit(*make_matrix())
    report = model.report_
    assert report is not None
    [sentence] = report.large_copies
    assert "Allocating copied" in sentence
    assert "X, y, cv = skl_mmap.arrange(X, y, cv=cv)" in sentence
    assert sentence in str(report)


def test_warning_points_at_the_line_of_the_user() -> None:
    X, y = make_matrix()
    model = wrap(SHUFFLED, "warn")
    with pytest.warns(CopyWarning, match="Allocating copied") as caught:
        model.fit(X, y)  # the line of the user
    [warning] = caught
    assert warning.filename == __file__
    assert "the line of the user" in linecache.getline(__file__, warning.lineno)
    assert model.report_ is not None, "it is fitted"


def test_warning_points_there_also_from_inside_a_pipeline() -> None:
    X, y = make_matrix()
    pipe = make_pipeline(wrap(SHUFFLED, "warn"))
    with pytest.warns(CopyWarning) as caught:
        pipe.fit(X, y)  # another line of the user
    [warning] = caught
    assert warning.filename == __file__
    assert "another line of" in linecache.getline(__file__, warning.lineno)


def test_error_has_the_same_text_and_leaves_nothing_fitted() -> None:
    X, y = make_matrix()
    with pytest.warns(CopyWarning) as caught:
        wrap(SHUFFLED, "warn").fit(X, y)
    model = wrap(SHUFFLED, "error")
    with pytest.raises(CopyError) as raised:
        model.fit(X, y)
    assert str(raised.value).startswith(str(caught[0].message))
    assert "check='report'" in str(raised.value)
    assert not hasattr(model, "estimator_")
    assert not hasattr(model, "report_")


@pytest.mark.parametrize("check", ["warn", "error"])
def test_nothing_is_said_where_nothing_was_copied(check: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", CopyWarning)
        model = wrap(KFold(2), check, row_order="any").fit(*make_matrix())
    assert model.report_ is not None
    assert model.report_.large_copies == ()


def test_off_does_not_look() -> None:
    X, y = make_matrix()
    assert wrap(SHUFFLED, "off").fit(X, y).report_ is None


@pytest.mark.parametrize("cv", [KFold(4), SHUFFLED], ids=["KFold", "shuffled"])
def test_mapped_and_copied_bytes_are_those_of_the_folds(cv: Any) -> None:
    X, y = make_matrix()
    row_order = "exact" if cv is SHUFFLED else "any"  # else they would be arranged
    report = wrap(cv, "report", row_order=row_order).fit(X, y).report_
    assert isinstance(report, MemoryReport)
    assert report.input_bytes == X.nbytes
    n_splits = cv.get_n_splits()
    folds_bytes = n_splits * X.nbytes
    total = report.mapped_bytes + report.copied_bytes
    # Index arrays and y are selected from what is shared, too.
    assert folds_bytes <= total < 1.3 * folds_bytes
    assert sum(task.mapped_bytes for task in report.tasks) == report.mapped_bytes
    assert sum(task.copied_bytes for task in report.tasks) == report.copied_bytes
    if cv is SHUFFLED:
        assert report.mapped_bytes < 0.1 * folds_bytes
    else:
        assert report.copied_bytes < 0.05 * folds_bytes
    assert report.peak_growth_bytes is not None
    assert report.peak_growth_bytes > 0.7 * X.nbytes, "what is shared is new memory"


def test_private_memory_is_that_of_the_estimator() -> None:
    n_rows = X_BYTES // (8 * N_COLUMNS)
    X, y = make_matrix(n_rows)
    members = [("lean", Allocating(0.0)), ("large", Allocating(0.5))]
    stack = StackingRegressor(members, Ridge(), cv=8)
    model = Memmapped(stack, n_jobs=1).fit(X, y)
    assert model.report_ is not None
    assert model.report_.tasks == (), "nothing of X can be mapped in this process"
    model = Memmapped(stack, n_jobs=2, row_order="any").fit(X, y)
    report = model.report_
    assert report is not None
    costs = {task.label: (task.private_bytes or 0) for task in report.tasks}
    shares = {label: n_bytes / X.nbytes for label, n_bytes in costs.items()}
    assert len(shares) == 18
    assert shares.pop("large, all rows") == pytest.approx(0.5, abs=0.15)
    for label, share in shares.items():
        # Of train sets, also where the heap of the worker has that much to spare. The
        # sums of rows are an eighth of X.
        expected = 0.5 * 7 / 8 if label.startswith("large") else 1 / 8
        assert share == pytest.approx(expected, abs=0.15), label
    [sentence] = report.large_copies
    assert sentence.startswith("large needed up to")


def test_one_job_is_looked_at_where_folds_can_be_mapped(tmp_path: Path) -> None:
    X, y = make_matrix()
    path = tmp_path / "X.npy"
    np.save(path, X)
    with pytest.warns(CopyWarning, match="copied .* of folds"):
        Memmapped(make_search(SHUFFLED), n_jobs=1, check="warn").fit(path, y)
    model = Memmapped(
        make_search(KFold(2)), n_jobs=1, check="error", row_order="any"
    ).fit(path, y)
    assert model.report_ is not None
    assert model.report_.mapped_bytes > 1.9 * X.nbytes
    assert [task.label for task in model.report_.tasks] == [
        f"Allocating, fold {fold} of 2" for fold in (1, 2)
    ]


def test_model_is_not_lost_when_the_process_that_reads_memory_dies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    finish = SamplerProcess.finish

    def die(sampler: Any) -> Any:
        os.kill(sampler.child.pid, signal.SIGKILL)
        sampler.child.wait()
        return finish(sampler)

    monkeypatch.setattr(SamplerProcess, "finish", die)
    X, y = make_matrix()
    model = wrap(SHUFFLED, "report").fit(X, y)
    report = model.report_
    assert report is not None
    assert report.peak_bytes is None
    assert report.peak_growth_bytes is None
    assert "ended early" in report.notes[0]
    assert report.copied_bytes > X.nbytes
    assert "ended early" in str(report)
    with pytest.raises(CopyError):
        wrap(SHUFFLED, "error").fit(X, y)


def test_report_is_that_of_the_last_fit() -> None:
    X, y = make_matrix()
    model = wrap(SHUFFLED, "report").fit(X, y)
    first = model.report_
    small, target, _ = make_data()
    assert model.fit(small, target).report_ is None
    assert model.fit(X, y).report_ is not first
