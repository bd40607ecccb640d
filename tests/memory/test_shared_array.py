"""Whatever is not a selection of rows gives plain arrays, with numpy's values."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given

from skl_mmap.memory import SharedArray
from tests import strategies
from tests.memory.sharing import (
    as_stored,
    assert_same,
    share_one,
)

COMPUTATIONS: dict[str, Callable[[Any], Any]] = {
    "add": lambda X: X + 1,
    "negative": lambda X: -X,
    "less": lambda X: X < 3,
    "matmul": lambda X: X.T @ X,
    "dot": lambda X: X.dot(X.T),
    "divmod": lambda X: np.divmod(X, 7)[1],
    "out": lambda X: np.add(X, 1, out=np.empty(X.shape)),
    "reduce": lambda X: np.add.reduce(X, axis=0),
    "accumulate": lambda X: np.multiply.accumulate(X, axis=1),
    "outer": lambda X: np.subtract.outer(X[0], X[0]),
    "sum": lambda X: X.sum(),
    "sum of columns": lambda X: X.sum(axis=0),
    "kept dimensions": lambda X: X.sum(axis=1, keepdims=True),
    "mean": lambda X: np.mean(X, axis=1),
    "std": lambda X: X.std(),
    "max": lambda X: X.max(axis=0),
    "all": lambda X: X.all(),
    "any": lambda X: np.any(X, axis=0),
    "argmax": lambda X: X.argmax(axis=0),
    "cumsum": lambda X: X.cumsum(axis=0),
    "sort": lambda X: np.sort(X, axis=0),
    "argsort": lambda X: np.asarray(X.argsort(axis=0)),
    "round": lambda X: X.round(1),
    "clip": lambda X: X.clip(1, 5),
    "where": lambda X: np.where(X > 2, X, 0),
    "hstack": lambda X: np.hstack([X, X]),
    "vstack with others": lambda X: np.vstack([X, np.zeros((3, X.shape[1]))]),
    "unique": lambda X: np.unique(X),
    "percentile": lambda X: np.percentile(X, 30, axis=0),
    "columns": lambda X: X[:, [0, 2]],
    "elements": lambda X: X[[0, 1], [1, 2]],
    "larger elements": lambda X: X[X > 4],
    "copy": lambda X: X.copy(),
    "Fortran copy": lambda X: X.copy("F"),
    "np.copy": np.copy,
    "astype": lambda X: X.astype("f4"),
    "take elements": lambda X: X.take([3, 1]),
    "ascontiguousarray": lambda X: np.ascontiguousarray(X.T),
    "copy.copy": copy.copy,
    "copy.deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_computations_give_plain_arrays(name: str) -> None:
    plain = np.arange(3000.0).reshape(-1, 6) % 11
    compute = COMPUTATIONS[name]
    result = compute(share_one(plain))
    assert type(result) is type(compute(plain))
    assert type(result) is not SharedArray
    assert_same(result, compute(plain))


def test_computing_in_place_keeps_the_array() -> None:
    plain = np.arange(3000.0)
    shared = same = share_one(plain)
    shared += 1
    np.multiply(shared, 2, out=shared)
    assert shared is same
    np.testing.assert_array_equal(shared, (plain + 1) * 2)


@pytest.mark.parametrize(
    "view",
    [
        lambda X: X[3:],
        lambda X: X[::-2],
        lambda X: X.T,
        lambda X: X.reshape(-1, 3),
        lambda X: X.ravel(),
        lambda X: X[..., 1],
        lambda X: X[5],
        lambda X: X[None],
        lambda X: X.view("i8"),
    ],
    ids=[
        "X[3:]",
        "X[::-2]",
        "X.T",
        "X.reshape(-1, 3)",
        "X.ravel()",
        "X[..., 1]",
        "X[5]",
        "X[None]",
        'X.view("i8")',
    ],
)
def test_views_stay_shared(view: Callable[[Any], Any]) -> None:
    plain = np.arange(3000.0).reshape(-1, 6)
    shared = share_one(plain)
    result = view(shared)
    assert type(result) is SharedArray
    assert np.shares_memory(result, shared)
    assert_same(result, view(plain))


def test_asarray_is_a_plain_view_of_the_same_memory() -> None:
    shared = share_one(np.arange(3000.0))
    stripped = np.asarray(shared)
    assert type(stripped) is np.ndarray
    assert stripped.ctypes.data == shared.ctypes.data
    stripped[7] = -1.0
    assert shared[7] == -1.0


def test_iteration_gives_the_rows() -> None:
    plain = np.arange(600.0).reshape(-1, 6)
    rows = list(share_one(plain))
    assert len(rows) == len(plain)
    for row, expected in zip(rows, plain, strict=True):
        assert_same(row, expected)
    assert list(share_one(plain[:, 0])) == plain[:, 0].tolist()


def test_zero_dimensional_arrays_compute_like_numpys() -> None:
    plain = np.array(2.5)
    shared = share_one(plain)
    assert shared.shape == ()
    assert shared[()] == 2.5
    assert type(shared[()]) is np.float64
    assert type(shared + 1) is np.float64
    assert type(shared.sum()) is np.float64


def test_fields_of_records_are_views() -> None:
    plain = np.zeros(500, dtype=[("a", "i1"), ("b", "f8"), ("c", "S3")])
    plain["b"] = np.arange(500)
    shared = share_one(plain)
    assert_same(shared["b"], plain["b"])
    assert_same(shared[["a", "c"]], plain[["a", "c"]])
    shared["b"] = 0
    assert not shared["b"].any()


@strategies.examples(60)
@given(array=strategies.arrays())
def test_pickles_are_by_value(array: np.ndarray[Any, Any]) -> None:
    shared, plain = share_one(array), as_stored(array)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        payload = pickle.dumps(shared, protocol)
        assert b"skl_mmap" not in payload
        result = pickle.loads(payload)
        assert type(result) is np.ndarray
        assert_same(result, pickle.loads(pickle.dumps(plain, protocol)))


def test_joined_views_are_pickled_by_value() -> None:
    plain = np.arange(32 * 512.0)
    rows = np.r_[0:5000, 6001:16000]
    joined = share_one(plain)[rows]
    for result in (
        pickle.loads(pickle.dumps(joined)),
        copy.deepcopy(joined),
        copy.deepcopy({"X": [joined]})["X"][0],
    ):
        assert type(result) is np.ndarray
        assert not np.may_share_memory(result, joined)
        assert_same(result, plain[rows])


def test_joblib_dump_is_by_value() -> None:
    plain = np.arange(3000.0)
    file = io.BytesIO()
    joblib.dump({"X": share_one(plain)}, file)
    assert b"skl_mmap" not in file.getvalue()
    file.seek(0)
    result = joblib.load(file)["X"]
    assert type(result) is np.ndarray
    assert_same(result, plain)


def test_np_save_is_by_value() -> None:
    plain = np.arange(3000.0)
    ours, numpys = io.BytesIO(), io.BytesIO()
    np.save(ours, share_one(plain)[np.arange(2000)])
    np.save(numpys, plain[:2000])
    assert ours.getvalue() == numpys.getvalue()
