"""What a batch of tasks is called in a report."""

from __future__ import annotations

from typing import Any

import pytest
from joblib import Parallel, delayed
from joblib.parallel import BatchedCalls
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from skl_mmap.backend import label_fold
from skl_mmap.backend._observation import label_batch
from tests.backend.common import numbered_rows, recorded, use_mmap


def work(*args: object, **kwargs: object) -> None:
    pass


def label_of(*calls: Any) -> str:
    return label_batch(BatchedCalls(list(calls), (None, 1)))


class Hostile:
    """Fails whatever it is asked for, unlike most objects with ``__getattr__``."""

    def __getattr__(self, name: str) -> Any:
        # Before Python 3.11, pickle asks for a method that objects do not have.
        raise (AttributeError if name.startswith("__") else ZeroDivisionError)(name)


class HostileEstimator(Hostile):
    def get_params(self) -> Any:
        raise ZeroDivisionError


class Sham:
    """Says that it has everything."""

    def __getattr__(self, name: str) -> Any:
        return 1


def test_folds_are_counted_from_one() -> None:
    assert label_fold("Ridge", 0, 5) == "Ridge, fold 1 of 5"


def test_estimators_are_called_by_their_class_wherever_they_are() -> None:
    assert label_of(delayed(work)(Ridge(), 3)) == "Ridge"
    assert label_of(delayed(work)(3, estimator=Ridge())) == "Ridge"
    assert label_of(delayed(work)(3, "text")) == ""
    assert label_of(delayed(work)(Ridge, 3)) == "", "a class is no estimator"


def test_pipelines_are_called_by_their_last_step() -> None:
    pipe = make_pipeline(StandardScaler(), make_pipeline(Ridge()))
    assert label_of(delayed(work)(pipe)) == "Ridge"
    pipe.steps[-1] = ("nothing", "passthrough")
    assert label_of(delayed(work)(pipe)) == "Pipeline"


def test_tasks_may_have_a_label_of_their_own() -> None:
    assert label_of(delayed(work)(Ridge(), label="mine")) == "mine"
    assert label_of(delayed(work)(Ridge(), label=3)) == "Ridge"


def test_progress_of_searches_is_the_fold() -> None:
    call = delayed(work)(Ridge(), split_progress=(1, 3))
    assert label_of(call) == "Ridge, fold 2 of 3"
    assert label_of(delayed(work)(split_progress=(1, 3))) == ""
    assert label_of(delayed(work)(Ridge(), split_progress=None)) == "Ridge"


def test_labels_of_a_batch_come_once_each() -> None:
    calls = [delayed(work)(label=text) for text in ("b", "a", "b")]
    assert label_of(*calls, delayed(work)()) == "b, a"


def test_nothing_is_known_of_other_callables() -> None:
    assert label_batch(work) == ""


@pytest.mark.parametrize("kind", [Hostile, HostileEstimator, Sham])
def test_no_task_fails_because_of_its_name(kind: type[Any]) -> None:
    value = kind()
    assert label_of(delayed(work)(value)) in ("", kind.__name__)
    assert label_of(delayed(work)(value), delayed(work)(label="a")) in ("", "a")


def test_tasks_run_with_hostile_arguments() -> None:
    with use_mmap():
        assert Parallel()(delayed(work)(Hostile()) for _ in range(2)) == [None] * 2


def test_records_of_searches_say_who_and_which_fold() -> None:
    X = numbered_rows(60, 2)
    search = GridSearchCV(Ridge(), {"alpha": [1.0]}, cv=3)
    with use_mmap(), recorded() as records:
        search.fit(X, X[:, 0])
        cross_validate(Ridge(), X, X[:, 0], cv=2)
    labels = ", ".join(sorted(record.label for record in records))
    for fold in range(3):
        assert label_fold("Ridge", fold, 3) in labels
    assert len(records) <= 5
