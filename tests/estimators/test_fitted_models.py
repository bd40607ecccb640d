"""Fitted models are ordinary: pickled by value, and independent after detach()."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.ensemble import StackingClassifier, StackingRegressor
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.linear_model import LinearRegression, Ridge
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from skl_mmap import Memmapped
from skl_mmap.memory import find_mapping, live_mappings
from tests.backend.common import SegmentWatch, run_script
from tests.estimators.common import Array, assert_equal_state, make_data, share_all

READ = """
import pickle
import sys
import joblib
import numpy as np
from skl_mmap.memory import live_mappings

with open("model.pickle", "rb") as file:
    models = [pickle.load(file)]
models += [joblib.load("model.joblib"), joblib.load("model.joblib.gz")]
X, expected = np.load("X.npy"), np.load("y.npy")
for model in models:
    assert model.predict(X).tobytes() == expected.tobytes()
    assert "k, fold 1 of 3" in str(model.report_)
with open("/proc/self/maps") as maps:
    assert "memfd:skl_mmap" not in maps.read()
assert not live_mappings()
"""


def make_neighbors(n_samples: int = 400) -> tuple[Memmapped, Array, Array]:
    """Return a stack that refers to rows of shared memory, and its data."""
    X, y, _ = make_data(n_samples)
    neighbors = KNeighborsRegressor(3, algorithm="brute")
    stack = StackingRegressor(
        [("k", neighbors), ("r", Ridge())], LinearRegression(), cv=3, n_jobs=2
    )
    return share_all(stack, check="report").fit(X, y), X, y


def lies_in_shared_memory(array: Array) -> bool:
    return find_mapping(np.asarray(array)) is not None


def test_models_load_in_a_process_without_any_segment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, X, _ = make_neighbors()
    assert lies_in_shared_memory(model.named_estimators_["k"]._fit_X)
    monkeypatch.chdir(tmp_path)
    Path("model.pickle").write_bytes(pickle.dumps(model))
    joblib.dump(model, "model.joblib")
    joblib.dump(model, "model.joblib.gz", compress=3)
    np.save("X.npy", X)
    np.save("y.npy", model.predict(X))
    del model
    run_script(tmp_path, READ)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_copies_are_independent(copied: Callable[[Any], Any]) -> None:
    watch = SegmentWatch()
    model, X, _ = make_neighbors()
    other = copied(model)
    assert not lies_in_shared_memory(other.named_estimators_["k"]._fit_X)
    expected = model.predict(X)
    assert other.report_ == model.report_
    del model
    assert watch.wait()
    assert_equal_state(other.predict(X), expected)


def test_members_refer_to_one_copy_of_the_rows() -> None:
    X, y, _ = make_data(20_000)
    stack = StackingRegressor(
        [
            ("a", KNeighborsRegressor(3, algorithm="brute")),
            ("b", KNeighborsRegressor(5, algorithm="brute")),
        ],
        LinearRegression(),
        cv=2,
        n_jobs=2,
    )
    model = share_all(stack).fit(X, y)
    mappings = [find_mapping(np.asarray(est._fit_X)) for est in model.estimators_]
    segments = [found[0].segment for found in mappings if found is not None]
    assert len(segments) == 2
    assert len({segment.handle() for segment in segments}) == 1
    # Pages of the file, but for the seams: no second copy in this process.
    for found in mappings:
        assert found is not None
        private, _ = found[0].resident_bytes()
        assert private < 0.05 * X.nbytes
        assert found[0].mapped_bytes > 0.95 * X.nbytes


def make_gaussian_process() -> Any:
    return GaussianProcessRegressor(
        optimizer=None, normalize_y=True, copy_X_train=False
    )


@pytest.mark.parametrize("kind", ["neighbors", "tree of neighbors", "svc", "process"])
def test_detached_models_refer_to_nothing(kind: str) -> None:
    X, y, classes = make_data(400)
    watch = SegmentWatch()
    before = len(live_mappings())
    if kind == "svc":
        final = DecisionTreeClassifier(max_depth=3, random_state=0)
        stack: Any = StackingClassifier([("s", SVC())], final, cv=3, n_jobs=2)
        target = classes
    else:
        base = {
            "neighbors": KNeighborsRegressor(3, algorithm="brute"),
            "tree of neighbors": KNeighborsRegressor(3, algorithm="kd_tree"),
            "process": make_gaussian_process(),
        }[kind]
        stack = StackingRegressor([("b", base)], Ridge(), cv=3, n_jobs=2)
        target = y
    model = share_all(stack).fit(X, target)
    # The support vectors of a machine are an array of its own.
    assert (len(live_mappings()) > before) == (kind != "svc")
    expected = model.predict(X)
    assert model.detach() is model
    assert watch.wait()
    assert len(live_mappings()) == before
    assert_equal_state(model.predict(X), expected)


def test_detaching_copies_what_refers_to_data_of_the_user() -> None:
    X, y, _ = make_data()
    model = Memmapped(KNeighborsRegressor(3, algorithm="brute")).fit(X, y)
    assert np.shares_memory(model.estimator_._fit_X, X)
    expected = model.predict(X)
    model.detach()
    assert not np.shares_memory(model.estimator_._fit_X, X)
    assert_equal_state(model.predict(X), expected)


def test_segments_live_as_long_as_the_model() -> None:
    watch = SegmentWatch()
    model, X, _ = make_neighbors()
    asked = X.copy()
    expected = model.predict(asked)
    X[:] = 0.0  # the array of the user; the model has the shared copy of it
    assert not watch.are_freed()
    assert_equal_state(model.predict(asked), expected)
    del model
    assert watch.wait()
