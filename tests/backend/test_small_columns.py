"""Columns that are small each for itself are shared if their frame is large enough."""

from __future__ import annotations

import pickle
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import BaseEstimator, RegressorMixin
from sklearn.linear_model import SGDRegressor
from sklearn.model_selection import KFold, cross_validate

import skl_mmap
from skl_mmap._compat import placed_blocks
from skl_mmap.backend import Options
from skl_mmap.memory import Placement, Store, can_remap, find_mapping
from tests.backend.common import dump_task, use_mmap

pd = pytest.importorskip("pandas", minversion="2.1")
pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

N_ROWS = 40_000
OPTIONS = Options()


def make_store() -> Store:
    store = Store(Placement.from_parameter("memory"), OPTIONS.settings)
    store.next_call(4)
    return store


def make_blocks(n_columns: int = 24, n_rows: int = N_ROWS) -> Any:
    """Make a frame of small columns, each of which is an array of its own."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(index=pd.RangeIndex(n_rows))
    for place in range(0, n_columns, 4):
        frame[f"f{place}"] = rng.normal(size=n_rows)
        frame[f"i{place}"] = rng.integers(0, 100, n_rows)
        frame[f"c{place}"] = pd.Categorical(rng.choice(["a", "b", "c"], n_rows))
        frame[f"b{place}"] = rng.random(n_rows) > 0.5
    frame["d"] = pd.date_range("2020", periods=n_rows, freq="min")
    frame["n"] = pd.array(rng.integers(0, 9, n_rows), dtype="Int64")
    frame["t"] = pd.Series(["x", "y"] * (n_rows // 2), dtype=object)
    return frame


def as_tasks_have_it(
    X: Any, options: Options = OPTIONS
) -> tuple[Any, bytes, list[Any]]:
    payload, segments = dump_task([X], make_store(), options)
    (received,) = pickle.loads(payload)
    return received, payload, segments


def places_of_blocks(frame: Any) -> list[Any]:
    return [places.tolist() for _, places in placed_blocks(frame) or []]


def test_a_frame_of_small_columns_is_shared_in_one_segment() -> None:
    frame = make_blocks()
    received, _, segments = as_tasks_have_it(frame)
    pd.testing.assert_frame_equal(pd.DataFrame(received), frame, check_exact=True)
    assert places_of_blocks(received) == places_of_blocks(frame)
    assert len(segments) == 1
    _, payload, _ = as_tasks_have_it(frame.drop(columns="t"))
    assert len(payload) < 10_000


@pytest.mark.parametrize("mmap_mode", ["c", "r"])
def test_what_is_written_to_one_column_is_in_no_other(mmap_mode: str) -> None:
    frame = make_blocks()
    frame["copy"] = frame["f0"]  # of the same memory, until somebody writes to it
    received, _, _ = as_tasks_have_it([frame, frame], Options(mmap_mode=mmap_mode))
    ((first, second),) = (received,)
    assert first is second, "as pickle does"
    received = pd.DataFrame(first)
    received.loc[5, "f0"] = 1e9
    expected = frame.copy()
    expected.loc[5, "f0"] = 1e9
    pd.testing.assert_frame_equal(received, expected)


def test_two_frames_of_the_same_columns_have_them_twice() -> None:
    frame = make_blocks().drop(columns="t")
    other = frame.rename(columns=str.upper)
    (first, second), _, _ = as_tasks_have_it([frame, other])
    for received in (first, second):
        array = received.iloc[:, 0].to_numpy(copy=False)
        array.setflags(write=True)
        array[:] += 1
        np.testing.assert_array_equal(array, frame["f0"].to_numpy() + 1)


@pytest.mark.parametrize("n_rows", [1000, N_ROWS])
def test_small_parts_of_sparse_matrices_are_shared_too(n_rows: int) -> None:
    matrix = sparse.random(n_rows, 100, 0.025, format="csr", random_state=0)
    assert matrix.data.nbytes < 1 << 20
    received, payload, segments = as_tasks_have_it(matrix)
    is_large = matrix.data.nbytes + matrix.indices.nbytes >= 1 << 20
    assert len(segments) == is_large
    assert (len(payload) < 10_000) == is_large
    for name in ("data", "indices", "indptr"):
        array = getattr(received, name)
        np.testing.assert_array_equal(array, getattr(matrix, name))
        assert (find_mapping(array) is not None) == is_large
    rows = np.r_[0 : n_rows // 3, n_rows // 2 : n_rows]
    np.testing.assert_array_equal(received[rows].toarray(), matrix[rows].toarray())


class Reader(RegressorMixin, BaseEstimator):
    """Read all of a frame column by column, and copy nothing."""

    def fit(self, X: Any, y: Any) -> Reader:
        self.seen_ = [repr((X.index.tolist()[::999], list(X.dtypes)))]
        for name in X:
            codes = getattr(X[name], "cat", X[name])
            codes = np.asarray(getattr(codes, "codes", codes))
            self.seen_.append(repr(codes.tolist()[::7]))
        return self

    def predict(self, X: Any) -> Any:
        return np.zeros(len(X))


def evaluate(X: Any, estimator: Any, backend: str) -> Any:
    y = np.random.default_rng(1).normal(size=len(X))
    with joblib.parallel_config(backend, n_jobs=2):
        return cross_validate(estimator, X, y, cv=KFold(3), return_estimator=True)


def test_folds_are_those_of_loky_and_what_is_copied_is_said() -> None:
    frame = make_blocks()
    results = {name: evaluate(frame, Reader(), name) for name in ("loky", "mmap")}
    seen = [[m.seen_ for m in results[name]["estimator"]] for name in results]
    assert seen[0] == seen[1]
    numbers = frame.select_dtypes("float64")
    for name in results:
        model = SGDRegressor(max_iter=2, tol=None, random_state=0)
        results[name] = evaluate(numbers, model, name)
    np.testing.assert_array_equal(
        results["loky"]["test_score"], results["mmap"]["test_score"]
    )


def test_a_change_between_two_tasks_of_a_call_is_seen_as_with_loky() -> None:
    frame = make_blocks().drop(columns="t")
    store = make_store()
    column = frame["i0"].array._ndarray
    for value in (7, 8):
        column[N_ROWS // 3] = value  # of which no sample would know
        payload, _segments = dump_task([frame], store, OPTIONS)
        (received,) = pickle.loads(payload)
        assert received["i0"].iloc[N_ROWS // 3] == value


def select(X: Any, rows: Any) -> int:
    return len(X.take(rows))


def test_each_byte_of_a_fold_is_counted() -> None:
    frame = make_blocks()
    rows = np.arange(N_ROWS // 3, N_ROWS)
    with use_mmap(min_bytes="1M"), skl_mmap.measure() as report:
        joblib.Parallel()(joblib.delayed(select)(frame, rows) for _ in range(2))
    n_bytes = sum(frame.take(rows).memory_usage(index=False, deep=False))
    n_counted = report.mapped_bytes + report.copied_bytes
    assert n_counted >= 0.99 * 2 * n_bytes
    assert report.mapped_bytes > 1.5 * (n_bytes - 8 * len(rows)), "all but the text"
    assert any("arrays of one input" in s.description for s in report.segments)
