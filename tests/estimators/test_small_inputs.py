"""Small inputs are left alone: no process, no sampler, no segment."""

from __future__ import annotations

import os
from typing import Any

import joblib
import numpy as np
import psutil
import pytest
from joblib.parallel import get_active_backend
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV

from skl_mmap import Memmapped
from skl_mmap._child import Child
from skl_mmap.exceptions import InvalidParameterError
from tests.backend.common import SegmentWatch
from tests.estimators.common import make_data


class Spying(BaseEstimator):
    """Remembers what runs beside it when it is fitted."""

    def fit(self, X: Any, y: Any = None) -> Spying:
        self.n_children_ = len(psutil.Process().children(recursive=True))
        backend, self.n_jobs_ = get_active_backend()
        self.backend_ = type(backend).__name__
        self.pids_ = joblib.Parallel()(joblib.delayed(os.getpid)() for _ in range(4))
        return self


def count_children() -> int:
    return len(psutil.Process().children(recursive=True))


def test_nothing_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise AssertionError("a process is started, which measures")

    monkeypatch.setattr(Child, "__init__", fail)
    X = np.random.default_rng(0).normal(size=(1000, 10))
    watch = SegmentWatch()
    n_children = count_children()
    model = Memmapped(Ridge()).fit(X, X[:, 0])
    assert model.report_ is None
    assert watch.are_freed()
    assert count_children() == n_children
    spy = Memmapped(Spying()).fit(X)
    assert spy.n_children_ == n_children
    assert spy.pids_ == [os.getpid()] * 4
    assert spy.backend_ != "RewritingBackend"


def test_large_inputs_are_measured_and_run_under_the_backend() -> None:
    X, _, _ = make_data()
    n_children = count_children()
    model = Memmapped(Spying(), min_bytes=X.nbytes).fit(X)
    assert model.backend_ == "RewritingBackend"
    assert model.n_children_ == n_children + 1, "the sampler"
    assert model.report_ is not None
    model = Memmapped(Spying(), min_bytes=X.nbytes + 1).fit(X)
    assert model.backend_ != "RewritingBackend"
    assert model.report_ is None


@pytest.mark.parametrize("min_bytes", ["1M", None])
def test_jobs_that_were_asked_for_are_used_all_the_same(min_bytes: Any) -> None:
    X, _, _ = make_data()
    model = Memmapped(Spying(), n_jobs=2, min_bytes=min_bytes).fit(X)
    assert model.backend_ == "RewritingBackend"
    assert model.n_jobs_ == 2
    assert os.getpid() not in model.pids_
    assert model.report_ is None


def test_none_shares_nothing_however_large_it_is() -> None:
    X = np.zeros((300_000, 2))
    model = Memmapped(Spying(), min_bytes=None).fit(X)
    assert model.report_ is None
    assert model.backend_ != "RewritingBackend"


def test_jobs_set_outside_are_used() -> None:
    X, _, _ = make_data()
    with joblib.parallel_config(n_jobs=2):
        model = Memmapped(Spying(), min_bytes=1, check="off").fit(X)
    assert model.n_jobs_ == 2
    assert model.backend_ == "RewritingBackend"
    assert os.getpid() not in model.pids_


@pytest.mark.parametrize("min_bytes", [1, "1M"], ids=["shared", "small"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("row_order", "sorted"),
        ("row_order", None),
        ("store", "/no/such/folder"),
        ("adopt", 1),
        ("min_bytes", "many"),
        ("min_bytes", -1),
        ("check", "no"),
        ("check", None),
        ("check", ["off"]),
    ],
)
def test_parameters_that_cannot_be_used(name: str, value: Any, min_bytes: Any) -> None:
    X, y, _ = make_data()
    model = Memmapped(Ridge(), **{"min_bytes": min_bytes, name: value})
    with pytest.raises(InvalidParameterError, match=name):
        model.fit(X, y)
    assert not hasattr(model, "estimator_")


def test_options_reach_the_workers_tasks() -> None:
    X, y, _ = make_data()
    search = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=3)
    model = Memmapped(search, n_jobs=2, min_bytes=1, row_order="any", adopt=True)
    model.fit(X, y)
    assert model.report_ is not None
    assert sum(task.n_tasks for task in model.report_.tasks) >= 1
    assert any("adopt" in note for note in model.report_.notes)
