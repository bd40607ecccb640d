"""Data frames and sparse matrices are arranged as arrays are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib import parallel_backend
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_val_predict

from skl_mmap.containers import _pandas as pandas_module
from skl_mmap.containers import _sparse as sparse_module
from skl_mmap.orders import arrange
from tests.memory.sharing import mapped_bytes
from tests.strategies import examples

pd = pytest.importorskip("pandas")
try:  # here, because the import sets an environment variable
    import polars
except ImportError:
    polars = None

SPLITTER = KFold(4, shuffle=True, random_state=0)
N_SAMPLES = 12_000
RNG = np.random.default_rng(0)
VALUES = RNG.random((N_SAMPLES, 20))
Y = VALUES @ np.arange(20.0)


def frame_of(values: Any) -> Any:
    names = [f"x{i}" for i in range(values.shape[1])]
    df = pd.DataFrame(values, columns=names)
    df.index = pd.Index([f"row {i}" for i in range(len(df))], name="row")
    df.attrs["source"] = "here"
    return df


def several_blocks() -> Any:
    df = frame_of(VALUES)
    df["x20"] = VALUES[:, 0] * 2
    return df


@pytest.mark.parametrize("kind", ["one block", "several blocks", "arranged before"])
def test_frames_of_numbers_are_mapped(kind: str, monkeypatch: Any) -> None:
    monkeypatch.setattr(pandas_module, "CHUNK_BYTES", 100_000)
    df = several_blocks() if kind == "several blocks" else frame_of(VALUES)
    if kind == "arranged before":
        df = arrange(df, cv=SPLITTER)[0]
    Xs, ys, cv = arrange(df, pd.Series(Y, index=df.index, name="y"), cv=SPLITTER)
    pd.testing.assert_frame_equal(
        pd.DataFrame(Xs), pd.DataFrame(df.iloc[cv.permutation])
    )
    assert Xs.attrs == {"source": "here"}
    expected = pd.Series(Y, index=df.index, name="y").iloc[cv.permutation]
    pd.testing.assert_series_equal(pd.Series(ys), expected)
    pd.testing.assert_frame_equal(pd.DataFrame(cv.restore(Xs)), pd.DataFrame(df))
    for train, _test in cv.split(Xs):
        seen = Xs.iloc[train].to_numpy()
        np.testing.assert_array_equal(seen, df.to_numpy()[cv.permutation[train]])
        seen = Xs.take(train).to_numpy()
        assert mapped_bytes(seen) > 0.7 * seen.nbytes


def test_other_frames_and_series_stay_plain() -> None:
    df = frame_of(VALUES[:30])
    df["text"] = [f"text {i}" for i in range(30)]
    texts = df["text"].astype("category")
    nullable = pd.Series(range(30), dtype="Int64", index=df.index)
    empty = df.iloc[:, :0]
    Xs, *more, cv = arrange(df, texts, nullable, empty, cv=SPLITTER)
    assert type(Xs) is pd.DataFrame
    pd.testing.assert_frame_equal(Xs, df.iloc[cv.permutation])
    for found, plain in zip(more[:2], (texts, nullable), strict=True):
        assert type(found) is pd.Series
        pd.testing.assert_series_equal(found, plain.iloc[cv.permutation])
    assert more[2].shape == (30, 0)
    pd.testing.assert_frame_equal(cv.restore(Xs), df)


@pytest.mark.skipif(polars is None, reason="polars is not installed")
def test_polars_frames_are_indexed_by_scikit_learn() -> None:
    df = polars.DataFrame(VALUES[:30], schema=[f"x{i}" for i in range(20)])
    Xs, _, cv = arrange(df, cv=SPLITTER)
    assert type(Xs) is polars.DataFrame
    np.testing.assert_array_equal(Xs.to_numpy(), VALUES[:30][cv.permutation])


@st.composite
def sparse_matrices(draw: st.DrawFn) -> Any:
    """Matrices with empty rows, full rows, and elements that are there twice."""
    n_rows, n_columns = draw(st.integers(4, 60)), draw(st.integers(1, 8))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 20)))
    n_elements = draw(st.integers(0, 80))
    rows = rng.integers(draw(st.integers(0, n_rows - 1)), n_rows, n_elements)
    columns = rng.integers(0, n_columns, n_elements)
    order = np.argsort(rows, kind="stable")
    indptr = np.searchsorted(rows[order], np.arange(n_rows + 1))
    data = rng.integers(1, 9, n_elements).astype(draw(st.sampled_from(["f8", "i4"])))
    make = draw(st.sampled_from([sparse.csr_array, sparse.csr_matrix]))
    matrix = make((data, columns[order], indptr), shape=(n_rows, n_columns))
    return matrix.asformat(draw(st.sampled_from(["csr", "csr", "csc", "coo"])))


@examples(60)
@given(matrix=sparse_matrices(), chunk_bytes=st.sampled_from([1, 100, 1 << 20]))
def test_any_sparse_matrix(matrix: Any, chunk_bytes: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sparse_module, "CHUNK_BYTES", chunk_bytes)
        Xs, _, cv = arrange(matrix, cv=SPLITTER)
    assert Xs.format == "csr"
    assert isinstance(Xs, sparse.sparray) == isinstance(matrix, sparse.sparray)
    assert Xs.dtype == matrix.dtype
    assert Xs.shape == matrix.shape
    if Xs.nnz:
        assert mapped_bytes(Xs.data) == Xs.data.nbytes
    np.testing.assert_array_equal(Xs.toarray(), matrix.toarray()[cv.permutation])
    np.testing.assert_array_equal(cv.restore(Xs).toarray(), matrix.toarray())
    canonical = sparse.csr_array((Xs.data, Xs.indices, Xs.indptr), shape=Xs.shape)
    assert canonical.has_canonical_format
    for rows in cv.split(Xs):
        for part in rows:
            expected = matrix.toarray()[cv.permutation[part]]
            np.testing.assert_array_equal(Xs[part].toarray(), expected)


@pytest.mark.parametrize("row_order", ["exact", "any"])
@pytest.mark.parametrize("kind", ["frame", "csr"])
def test_predictions_in_workers_are_put_back(kind: str, row_order: str) -> None:
    X: Any = frame_of(VALUES)
    if kind == "csr":
        X = sparse.csr_array(np.where(VALUES > 0.7, VALUES, 0))
    expected = cross_val_predict(Ridge(), X, Y, cv=SPLITTER)
    Xs, ys, cv = arrange(X, Y, cv=SPLITTER)
    with parallel_backend("mmap", n_jobs=2, row_order=row_order):
        found = cross_val_predict(Ridge(), Xs, ys, cv=cv)
    np.testing.assert_allclose(cv.restore(found), expected, rtol=1e-3, atol=1e-3)
