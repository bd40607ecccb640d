"""Who gets X in another layout, and who does not."""

from __future__ import annotations

from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.metrics import make_scorer, r2_score
from sklearn.model_selection import KFold, PredefinedSplit

import skl_mmap
from skl_mmap import _compat
from skl_mmap.backend import RowIndex
from skl_mmap.backend._layout_choice import LayoutChoice, find_saved_conversion
from skl_mmap.backend._layouts import InLayout, given_of
from skl_mmap.copies import Layout
from tests.backend.common import use_layouts


class Tree(RegressorMixin, BaseEstimator):  # type: ignore[misc]
    """Wants float32."""

    def __init__(self, depth: Any = 1) -> None:
        self.depth = depth

    def fit(self, X: Any, y: Any = None) -> Tree:
        return self


class Line(Tree):
    """Wants float32, for fit only."""


class Other(Tree):
    """Takes X as it is."""


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    float32 = Layout("float32", "C")
    for_fit = Layout("float32", "C", is_for_fit_only=True)
    name = __name__
    use_layouts(
        monkeypatch,
        {
            f"{name}.Tree": {"float64 C": float32, "float64 frame": float32},
            f"{name}.Line": {"float64 C": for_fit, "float64 frame": for_fit},
            f"{name}.Other": {},
        },
    )


X = np.random.default_rng(0).normal(size=(120, 4))
Y = X[:, 0]
TRAIN, TEST = np.arange(80), np.arange(80, 120)


def score_task(estimator: Any, data: Any = X, y: Any = Y, **more: Any) -> Any:
    """Return a task as scikit-learn makes it."""
    from sklearn.model_selection._validation import _fit_and_score

    arguments = {
        "scorer": make_scorer(r2_score),
        "train": TRAIN,
        "test": TEST,
        "parameters": None,
        "fit_params": None,
    }
    return joblib.delayed(_fit_and_score)(estimator, data, y, **(arguments | more))


def fit_task(estimator: Any, data: Any = X, y: Any = Y, **params: Any) -> Any:
    from sklearn.ensemble._base import _fit_single_estimator

    return joblib.delayed(_fit_single_estimator)(estimator, data, y, params)


def batches_of(*tasks: Any) -> list[Any]:
    sequential = joblib.parallel.SequentialBackend(), 1
    return [joblib.parallel.BatchedCalls([task], sequential) for task in tasks]


def chosen(*tasks: Any, n_jobs: int = 4, **parameters: Any) -> list[str]:
    """Return for each task the layout of its X; empty where that is as it was."""
    batches = batches_of(*tasks)
    (parameters.get("choice") or LayoutChoice(n_jobs, 1)).choose(batches)
    found = []
    for batch in batches:
        ((_, args, _),) = _compat.tasks_of(batch) or ()
        layout = args[1]
        is_other = isinstance(layout, InLayout)
        part = " train" if is_other and layout.is_for_train else ""
        found.append(f"{layout.name}{part}" if is_other else "")
    return found


def test_scorers_decide_which_rows_are_in_the_other_layout() -> None:
    assert chosen(score_task(Tree())) == ["float32 C"]
    assert chosen(*[score_task(Line())] * 2) == ["float32 C train"] * 2
    by_others = score_task(Tree(), scorer=r2_score)
    assert chosen(*[by_others] * 2) == ["float32 C train"] * 2
    both = {"return_train_score": True}
    assert chosen(score_task(Tree(), **both)) == ["float32 C"]
    assert chosen(*[score_task(Line(), **both)] * 2) == ["", ""]
    assert chosen(fit_task(Line())) == ["float32 C"]


def test_parameters_are_those_of_the_task() -> None:
    assert chosen(score_task(Tree(), parameters={"depth": 2})) == ["float32 C"]
    assert chosen(score_task(Tree(), parameters={"depth": "all"})) == [""]
    assert chosen(score_task(Tree(), parameters={"width": 2})) == [""]


def test_what_is_looked_at_otherwise_stays() -> None:
    square = np.ones((40, 40))
    tasks = [
        score_task(Tree(), y=X),
        fit_task(Tree(), eval_set=[(X, Y)]),
        score_task(Tree(), train=list(TRAIN)),
        score_task(Tree(), train=np.ones(120, bool)),
        score_task(Tree(), data=square, train=np.arange(20), test=np.arange(20, 40)),
        score_task(Tree(), data=X.astype(">f8")),
        score_task(Tree(), data=X.astype(complex)),
        score_task(Tree(), data=np.ma.masked_array(X)),
        score_task(Tree(), data=X.tolist()),
        score_task(Other()),
        joblib.delayed(len)(X),
    ]
    for task in tasks[:-1]:
        assert chosen(task, task) == ["", ""]
    LayoutChoice(4, 1).choose(batches_of(tasks[-1]))
    choice = LayoutChoice(4, X.nbytes + 1)
    assert chosen(score_task(Tree()), choice=choice) == [""]


@pytest.mark.parametrize(
    ("cv", "expected"), [(3, "float32 C"), (KFold(3), "float32 C"), (None, "float32 C")]
)
def test_splitters_of_scikit_learn_do_not_look(cv: Any, expected: str) -> None:
    from sklearn.model_selection import cross_val_predict

    def task(splitter: Any) -> Any:
        return joblib.delayed(cross_val_predict)(Tree(), X, Y, cv=splitter)

    assert chosen(task(cv)) == [expected]
    assert chosen(task(PredefinedSplit(np.arange(120) % 2))) == [expected]

    class Splitter(KFold):  # type: ignore[misc]
        pass

    assert chosen(task(Splitter(3))) == [""]


def test_watched_estimators_get_what_they_were_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_compat, "has_callbacks", lambda _: True)
    assert chosen(score_task(Tree())) == [""]
    monkeypatch.setattr(_compat, "has_callbacks", lambda _: False)
    monkeypatch.setattr(_compat, "is_watched", lambda caller: caller is not None)
    assert chosen(score_task(Tree())) == ["float32 C"]
    assert chosen(score_task(Tree(), caller=Other())) == [""]


def test_a_copy_is_made_where_it_costs_less_than_it_saves() -> None:
    # Beside X, half of X as float32; each task saves two thirds of that.
    assert chosen(score_task(Line())) == [""]
    assert chosen(*[score_task(Line())] * 2) == ["float32 C train"] * 2
    assert chosen(*[score_task(Line())] * 2, n_jobs=1) == [""] * 2
    # Nobody needs X itself, or somebody does.
    assert chosen(score_task(Tree())) == ["float32 C"]
    assert chosen(score_task(Other()), score_task(Tree())) == ["", ""]
    mixed = [score_task(Other()), *[score_task(Tree())] * 2]
    assert chosen(*mixed) == ["", "float32 C", "float32 C"]
    # One batch has one train set at a time.
    one, two = batches_of(score_task(Line())), batches_of(score_task(Line()))
    one[0].items.append(one[0].items[0])
    LayoutChoice(4, 1).choose(one)
    assert given_of(one[0].items[0][1][1]) is one[0].items[0][1][1] is X
    LayoutChoice(4, 1).choose([*one, *two])
    assert all(type(item[1][1]) is InLayout for item in one[0].items)


def test_workers_are_counted_however_jobs_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 2)
    counted = []
    begin = LayoutChoice.__init__

    def count(self: LayoutChoice, n_jobs: int, min_bytes: int) -> None:
        counted.append(n_jobs)
        begin(self, n_jobs, min_bytes)

    monkeypatch.setattr(LayoutChoice, "__init__", count)
    with joblib.parallel_config("mmap", n_jobs=-1):
        joblib.Parallel()(joblib.delayed(abs)(-i) for i in range(2))
    assert counted == [2]


def test_what_was_made_stays_in_use() -> None:
    choice = LayoutChoice(4, 1)
    assert chosen(score_task(Tree()), choice=choice) == ["float32 C"]
    assert chosen(score_task(Other()), choice=choice) == [""]
    assert chosen(score_task(Tree()), choice=choice) == ["float32 C"]


def test_inputs_that_are_gone_are_forgotten() -> None:
    choice = LayoutChoice(4, 1)
    for _ in range(200):
        chosen(score_task(Tree(), data=X.copy()), choice=choice)
    assert len(choice._known) <= 64


def test_frames_of_one_dtype_are_stored_row_by_row() -> None:
    frame = pd.DataFrame(X, copy=True)
    assert chosen(score_task(Tree(), frame)) == ["float32 C"]
    several = pd.concat([frame[[0, 1]], frame[[2, 3]]], axis=1)
    assert chosen(score_task(Tree(), several)) == ["float32 C"]
    for other in (
        frame.astype({0: "float32"}),
        frame.assign(text="a"),
        frame.astype("Float64"),
        frame.astype(complex),
        frame.iloc[:, :0],
        frame[0],
    ):
        assert chosen(score_task(Tree(), other)) == [""]


def test_a_frame_has_one_stack_in_a_call() -> None:
    frame = pd.DataFrame(X, copy=True)
    several = pd.concat([frame[[0, 1]], frame[[2, 3]]], axis=1)
    choice = LayoutChoice(4, 1)
    wishes = [choice.wish(score_task(Tree(), several)) for _ in range(2)]
    numbers = [wish.layout.numbers for wish in wishes if wish is not None]
    assert numbers[0] is numbers[1]
    several[0] = 5.0
    wish = choice.wish(score_task(Tree(), several))
    assert wish is not None
    assert wish.layout.numbers is not numbers[0]


def test_reports_name_what_would_be_saved() -> None:
    assert find_saved_conversion(score_task(Tree()), 1) == "float32 C"
    assert find_saved_conversion(score_task(Line()), 1) == "float32 C"
    assert find_saved_conversion(score_task(Other()), 1) == ""
    by_column = np.asfortranarray(X)
    assert find_saved_conversion(score_task(Other(), by_column), 1) == ""
    assert find_saved_conversion(joblib.delayed(len)(X), 1) == ""


def test_rows_may_be_runs() -> None:
    runs = RowIndex(np.array([[0, 80]]), 120)
    tests = RowIndex(np.array([[80, 120]]), 120)
    tasks = [score_task(Line(), train=runs, test=tests)] * 2
    assert chosen(*tasks) == ["float32 C train"] * 2
    assert find_saved_conversion(tasks[0], 1) == "float32 C"


def test_what_is_shared_already_costs_nothing_as_it_is() -> None:
    with skl_mmap.share(X) as shared:
        one = score_task(Tree(), shared)
        assert chosen(one) == [""]  # half of X, to save a task two thirds of that
        assert chosen(one, one) == ["float32 C"] * 2
