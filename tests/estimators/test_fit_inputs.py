"""X, y and weights may be files, and data of any kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from scipy import sparse
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from skl_mmap import Memmapped, SharedArray, share
from skl_mmap.containers import count_bytes
from skl_mmap.estimators._fit_inputs import read_arguments
from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from tests.backend.common import SegmentWatch
from tests.estimators.common import assert_equal_state, make_data, share_all
from tests.files.load_common import write_table

NAMES = ["a", "b", "c", "d", "e", "f"]
KINDS = np.array(["cat", "dog", "emu"])


@pytest.fixture(name="folder", scope="module")
def make_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    X, target, classes = make_data()
    np.save(folder / "X.npy", X)
    np.save(folder / "y.npy", target)
    np.save(folder / "column.npy", target[:, None])
    np.save(folder / "both.npy", np.c_[X, target])
    columns = dict(zip(NAMES, X.T, strict=True))
    weights = np.linspace(0.0, 1.0, len(X))
    extra = {"y": target, "w": weights, "kind": KINDS[classes], "number": classes}
    for name in ("table.csv", "table.parquet"):
        write_table(pa.table(columns | extra), folder / name)
    write_table(pa.table(columns), folder / "X.csv")
    write_table(pa.table({"kind": KINDS[classes]}), folder / "kind.csv")
    write_table(pa.table({"number": classes}), folder / "number.csv")
    return folder


def test_arrays_in_files(folder: Path) -> None:
    X, y, _ = make_data()
    expected = Ridge().fit(X, y)
    for path_type in (str, Path):
        paths = path_type(folder / "X.npy"), path_type(folder / "y.npy")
        model = share_all(Ridge()).fit(*paths)
        assert_equal_state(model.coef_, expected.coef_)
        assert_equal_state(model.predict(paths[0]), expected.predict(X))
        assert model.score(*paths) == expected.score(X, y)
    column = share_all(Ridge()).fit(X, folder / "column.npy")
    assert column.coef_.shape == (X.shape[1],)
    assert_equal_state(
        share_all(StandardScaler()).fit_transform(folder / "X.npy"),
        StandardScaler().fit_transform(X),
    )


def test_columns_of_an_array_in_a_file(folder: Path) -> None:
    X, y, _ = make_data()
    path = folder / "both.npy"
    model = share_all(Ridge()).fit((path, [0, 2]), (path, 6))
    assert_equal_state(model.coef_, Ridge().fit(X[:, [0, 2]].copy(), y).coef_)


@pytest.mark.parametrize("name", ["table.csv", "table.parquet"])
def test_columns_of_a_table(folder: Path, name: str) -> None:
    X, y, classes = make_data()
    path = str(folder / name)
    weights = np.linspace(0.0, 1.0, len(y))
    model = share_all(Ridge())
    model.fit((path, NAMES), (path, "y"), sample_weight=(path, "w"))
    np.testing.assert_allclose(model.coef_, Ridge().fit(X, y, weights).coef_, 1e-9)
    assert model.feature_names_in_.tolist() == NAMES
    model.fit((path, NAMES), (path, "y"), (path, "w"))
    np.testing.assert_allclose(model.coef_, Ridge().fit(X, y, weights).coef_, 1e-9)
    one = share_all(StandardScaler()).fit((path, "b"))
    assert one.feature_names_in_.tolist() == ["b"]
    for column, labels in (("kind", KINDS), ("number", np.arange(3))):
        classifier = share_all(LogisticRegression()).fit((path, NAMES), (path, column))
        assert classifier.classes_.tolist() == labels.tolist()
        assert classifier.predict((path, NAMES)).dtype.kind == "Oi"[column != "kind"]
    assert classifier.score((path, NAMES), (path, "number")) > 0.5
    assert len(classes) == 240


def test_tables_of_one_column_need_no_name(folder: Path) -> None:
    text = share_all(LogisticRegression()).fit(folder / "X.csv", folder / "kind.csv")
    assert text.classes_.tolist() == KINDS.tolist()
    model = share_all(LogisticRegression())
    model.fit(folder / "X.csv", folder / "number.csv")
    assert model.classes_.dtype == np.int64


def test_several_targets(folder: Path) -> None:
    X, y, _ = make_data()
    path = folder / "table.parquet"
    model = share_all(Ridge()).fit((path, NAMES), (path, ["y", "w"]))
    targets = np.c_[y, np.linspace(0.0, 1.0, len(y))]
    np.testing.assert_allclose(model.coef_, Ridge().fit(X, targets).coef_, 1e-9)
    flat = share_all(Ridge()).fit((path, NAMES), (path, ["y"]))
    assert flat.coef_.shape == (X.shape[1],)


def test_store_is_where_tables_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = []
    module = "skl_mmap.estimators._fit_inputs.load"
    monkeypatch.setattr(module, lambda path, **given: stores.append(given["store"]))
    read_arguments(Ridge().fit, (folder / "X.csv", None), {}, "disk")
    assert stores == ["disk"]


@pytest.mark.parametrize(
    ("X", "y", "error", "text"),
    [
        ("missing.npy", "y.npy", FileNotFoundError, "missing.npy"),
        ("X.npy", "missing.csv", FileNotFoundError, "missing.csv"),
        ("table.csv", "y.npy", FileFormatError, "kind"),
        (("X.csv", ["a", "unknown"]), "y.npy", InvalidParameterError, "'unknown'"),
        ("X.npy", ("table.csv", "yy"), InvalidParameterError, "'y'"),
        ("X.npy", ("both.npy", 99), InvalidParameterError, "99"),
        ("X.npy", ("both.npy", "name"), InvalidParameterError, "name"),
    ],
)
def test_files_that_cannot_be_used_are_named(
    folder: Path, X: Any, y: Any, error: type[Exception], text: str
) -> None:
    def absolute(value: Any) -> Any:
        if isinstance(value, tuple):
            return str(folder / value[0]), value[1]
        return str(folder / value)

    model = share_all(Ridge())
    with pytest.raises(error) as caught:
        model.fit(absolute(X), absolute(y))
    assert text in str(caught.value)
    assert not hasattr(model, "estimator_")


def test_only_data_is_taken_for_a_file() -> None:
    def method(X: Any, y: Any = None, groups: Any = None, *more: Any) -> None:
        pass

    args = [[1.0]], None, "a.npy", ("b.npy", "c")
    assert read_arguments(method, args, {"path": "d.npy"}, "auto") == (
        args,
        {"path": "d.npy"},
    )


@pytest.mark.parametrize("kind", ["shared", "pandas", "polars", "csr", "list", "f4"])
def test_data_in_memory(kind: str) -> None:
    X, y, _ = make_data()
    X = np.where(X > 0, X, 0.0).astype("f4")
    data: Any = {
        "shared": lambda: share(X),
        "pandas": lambda: pd.DataFrame(X, columns=NAMES),
        "polars": lambda: pl.DataFrame(X, schema=NAMES),
        "csr": lambda: sparse.csr_array(X),
        "list": lambda: X.tolist(),
        "f4": lambda: X,
    }[kind]()
    model = share_all(Ridge(solver="lsqr")).fit(data, y)
    expected = Ridge(solver="lsqr").fit(data, y)
    assert_equal_state(model.coef_, expected.coef_)
    assert_equal_state(model.predict(data), expected.predict(data))


def test_files_are_let_go_after_the_fit(folder: Path) -> None:
    watch = SegmentWatch()
    path = str(folder / "table.parquet")
    model = share_all(Ridge()).fit((path, NAMES), (path, "y"))
    assert watch.wait()
    assert model.n_features_in_ == len(NAMES)


@pytest.mark.parametrize(
    ("make", "n_bytes"),
    [
        pytest.param(lambda X: X, 4800, id="array"),
        pytest.param(lambda X: X.astype("f4"), 2400, id="float32"),
        pytest.param(lambda X: X.tolist(), 4800, id="list"),
        pytest.param(list, 4800, id="list of rows"),
        pytest.param(lambda X: X[:, 0].tolist(), 800, id="list of numbers"),
        pytest.param(lambda X: [], 0, id="nothing"),
        pytest.param(lambda X: [{"a": 1}] * 10, 80, id="list of dicts"),
        pytest.param(lambda X: [[1], [1, 2]], 16, id="ragged"),
        pytest.param(lambda X: ["a text"] * 100, 600, id="texts"),
        pytest.param(lambda X: ["a text", None, "another"], 13, id="some texts"),
        pytest.param(share, 4800, id="shared"),
        pytest.param(lambda X: pd.DataFrame(X), 4800, id="pandas"),
        pytest.param(lambda X: pl.DataFrame(X), 4800, id="polars"),
        pytest.param(sparse.csr_matrix, 7200, id="csr"),
        pytest.param(lambda X: None, None, id="None"),
        pytest.param(lambda X: object(), None, id="object"),
    ],
)
def test_size_of_the_data(make: Any, n_bytes: int | None) -> None:
    X = np.ones((100, 6))
    found = count_bytes(make(X))
    if make.__class__ is type and make is not list:
        assert found is not None
    if n_bytes is None:
        assert found is None
    else:
        assert found is not None
        assert n_bytes <= found <= 1.1 * n_bytes


def test_shared_arrays_are_used_as_they_are() -> None:
    X, y, _ = make_data()
    shared = share(X)
    seen = read_arguments(Ridge().fit, (shared, y), {}, "auto")[0][0]
    assert seen is shared
    assert isinstance(shared, SharedArray)
    assert Memmapped(Ridge()).fit(shared, y).report_ is None
