"""The table of what estimators convert X to, and what is done where it ends."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler
from sklearn.tree import DecisionTreeRegressor

from docs.estimators_layouts import (
    Found,
    is_measured,
    merge_table,
    read_table,
    write_table,
)
from docs.estimators_table import list_estimators
from skl_mmap.copies import Layout, _known_layouts
from skl_mmap.copies._known_layouts import find_layout, known_layouts

TREE = "sklearn.tree._classes.DecisionTreeRegressor"


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let a table of this test's own be the one that ships."""

    def install(*rows: Found, version: str = "") -> None:
        installed = ".".join(metadata.version("scikit-learn").split(".")[:2])
        content = merge_table({}, list(rows), {"sklearn": version or installed})
        write_table(tmp_path / "layouts.json", content)
        monkeypatch.setattr(_known_layouts.resources, "files", lambda _: tmp_path)
        _known_layouts._read_table.cache_clear()

    yield install
    monkeypatch.undo()
    _known_layouts._read_table.cache_clear()


def tree_row(**parameters: list[Any]) -> Found:
    return Found(TREE, {"float64 C": "float32 C"}, parameters)


X = np.random.default_rng(0).normal(size=(100, 3))


def test_known_layouts_are_those_of_the_table(table: Any) -> None:
    table(tree_row(), Found("sklearn.other.Model", message="60 s, or more"))
    assert list(known_layouts()) == [TREE]
    tree = DecisionTreeRegressor(max_depth=3, random_state=1)
    for estimator in (tree, make_pipeline("passthrough", tree)):
        layout, _ = find_layout(estimator, X, order="C")
        assert layout == Layout("float32", "C")
    layout, reason = find_layout(tree, X.astype(np.float32), order="C")
    assert layout is None
    assert "takes X as it is" in reason


@pytest.mark.parametrize("version", ["0.1.2", "99.1"])
def test_other_versions_are_not_believed(table: Any, version: str) -> None:
    table(tree_row(), version=version)
    assert known_layouts() == {}


def test_what_was_not_measured_has_no_layout(table: Any) -> None:
    table(tree_row())
    for estimator, word in (
        (Ridge(), "no other layout is known"),
        (make_pipeline(StandardScaler(), DecisionTreeRegressor()), "is known to help"),
        (
            DecisionTreeRegressor(monotonic_cst=[1, 0, 0]),
            "with monotonic_cst=[1, 0, 0]",
        ),
        (make_pipeline("passthrough"), "what takes X first"),
    ):
        layout, reason = find_layout(estimator, X, order="C")
        assert layout is None
        assert word in reason
    harmless = DecisionTreeRegressor(criterion="poisson")
    assert find_layout(harmless, X, order="C")[0] is not None


def test_a_frame_is_looked_up_by_the_dtype_of_its_columns(table: Any) -> None:
    pandas = pytest.importorskip("pandas")
    table(Found(TREE, {"float64 frame": "float64 C"}))
    frame = pandas.DataFrame(X)
    layout, _ = find_layout(DecisionTreeRegressor(), frame, order="frame")
    assert layout == Layout("float64", "C")
    other = frame.astype("float32")
    assert find_layout(DecisionTreeRegressor(), other, order="frame")[0] is None


def test_layouts_for_fit_alone_say_so(table: Any) -> None:
    table(Found(TREE, {"float64 C": "float32 F fit only"}))
    layout, _ = find_layout(DecisionTreeRegressor(), X, order="C")
    assert layout == Layout("float32", "F", is_for_fit_only=True)


@pytest.mark.parametrize(
    ("parameters", "is_known"),
    [
        ({"algorithm": "brute"}, True),  # measured
        ({"algorithm": "brute", "weights": "distance"}, False),
        ({"algorithm": "ball_tree"}, False),
        ({"n_neighbors": 7, "n_jobs": 1}, True),  # numbers, and what is harmless
        ({"metric_params": {"p": 3}}, False),
        ({"metric": max}, False),
    ],
)
def test_values_of_parameters_have_to_be_measured(
    table: Any, parameters: dict[str, Any], is_known: bool
) -> None:
    name = "sklearn.neighbors._regression.KNeighborsRegressor"
    table(Found(name, {"float64 C": "float32 C"}, {"algorithm": ["brute"]}))
    found, _ = find_layout(KNeighborsRegressor(**parameters), X, order="C")
    assert (found is not None) is is_known


@pytest.mark.parametrize(("missing", "is_known"), [(np.nan, True), (0.1, False)])
def test_numbers_that_x_is_compared_with_have_to_be_the_default(
    table: Any, missing: float, is_known: bool
) -> None:
    name = "sklearn.impute._base.SimpleImputer"
    table(Found(name, {"float64 C": "float32 C"}))
    imputer = SimpleImputer(missing_values=missing)
    found, _ = find_layout(imputer, X, order="C")
    assert (found is not None) is is_known


def test_a_clone_has_the_layout_of_what_it_is_a_clone_of(table: Any) -> None:
    table(Found("sklearn.preprocessing._data.MinMaxScaler", {"float64 C": "float32 C"}))
    scaler = clone(MinMaxScaler())
    assert find_layout(scaler, X, order="C")[0] is not None
    other = MinMaxScaler(feature_range=(0, 2))
    assert find_layout(other, X, order="C")[0] is None


class OfBase(BaseEstimator):  # type: ignore[misc]
    def __init__(self, base_score: float | None = None) -> None:
        self.base_score = base_score


class HandingOn(OfBase):
    """Takes parameters of its base class, as the classes of XGBoost do."""

    def __init__(self, depth: int = 3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.depth = depth

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        return {"depth": self.depth, "base_score": self.base_score}


def test_defaults_of_a_base_class_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"{HandingOn.__module__}.HandingOn"
    row = {name: {"float64 C": Layout("float32", "C")}}
    monkeypatch.setattr(_known_layouts, "known_layouts", lambda: row)
    assert find_layout(HandingOn(), X, order="C")[0] == Layout("float32", "C")
    other = HandingOn(base_score=[0.5])  # type: ignore[arg-type]
    assert find_layout(other, X, order="C")[0] is None


SHIPPED = read_table(Path(_known_layouts.__file__).with_name("layouts.json"))


def test_the_table_that_ships_can_be_read() -> None:
    for name, rows in SHIPPED["estimators"].items():
        versions = SHIPPED["versions"][name.partition(".")[0]]
        listed = [version for row in rows for version in row.get("in", versions)]
        assert sorted(listed) == sorted(set(listed))
        assert set(listed) <= set(versions)
        for row in rows:
            layouts = {k: v for k, v in row.items() if k not in ("in", "with")}
            assert layouts
            for given, wanted in layouts.items():
                dtype, order = given.split()
                assert order in ("C", "F", "frame")
                layout = _known_layouts._parse(wanted)
                assert (layout.dtype, layout.order) != (dtype, order)


def test_what_has_a_layout_is_what_is_measured() -> None:
    measured = {e.name for e in list_estimators() if is_measured(e)}
    known = {name for name in known_layouts() if name.startswith("sklearn.")}
    assert known <= measured


@pytest.mark.skipif(not known_layouts(), reason="measured with other versions")
@pytest.mark.parametrize(
    ("estimator", "order", "expected"),
    [
        (SGDRegressor(tol=None, max_iter=5, random_state=0), "F", "float64"),
        (RandomForestRegressor(max_depth=3, max_features=0.5), "C", "float32"),
        (
            DecisionTreeRegressor(min_samples_leaf=2, criterion="poisson"),
            "C",
            "float32",
        ),
    ],
)
def test_what_grids_set_does_not_lose_the_layout(
    estimator: Any, order: str, expected: str
) -> None:
    layout, _ = find_layout(estimator, X, order=order)
    assert layout is not None
    assert (layout.dtype, layout.order) == (expected, "C")
