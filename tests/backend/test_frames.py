"""Frames, sparse matrices and Arrow memory in tasks: as with loky, but shared."""

from __future__ import annotations

import datetime
import decimal
import pickle
from collections.abc import Callable
from typing import Any

import joblib
import numpy as np
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.compose import ColumnTransformer, make_column_transformer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    cross_val_predict,
    cross_validate,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

import skl_mmap
from skl_mmap.backend import Options
from skl_mmap.memory import Conversion, find_mapping, rebuild_array
from tests.backend.common import SegmentWatch, call_each, dump_task, recorded, use_mmap
from tests.memory.sharing import make_store, shared_with

pd = pytest.importorskip("pandas", minversion="2.1")

N_ROWS = 20_000


def make_numbers(n_rows: int = N_ROWS) -> Any:
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(n_rows, 9)), columns=list("abcdefghi")).copy()


def make_rows(n_rows: int = N_ROWS) -> Any:
    """Make a frame over a matrix in C order: its block lies row by row."""
    frame = make_numbers(n_rows)
    values = np.ascontiguousarray(frame.to_numpy())
    return pd.DataFrame(values, columns=frame.columns, copy=False)


def make_mixed(n_rows: int = N_ROWS) -> Any:
    frame = make_numbers(n_rows)
    frame["number"] = np.arange(n_rows)
    frame["text"] = np.array(["x", "yy", "zzz"], dtype=object)[np.arange(n_rows) % 3]
    frame["kind"] = pd.Categorical(np.array(list("pqr"))[np.arange(n_rows) % 3])
    return frame


def make_csr(n_rows: int = N_ROWS) -> Any:
    return sparse.random(n_rows, 60, 0.2, format="csr", random_state=0)


def make_unsorted(n_rows: int = N_ROWS) -> Any:
    """Make a matrix whose rows are stored backwards."""
    matrix = make_csr(n_rows)
    flipped = matrix[::-1]
    matrix.indices = flipped.indices[::-1].copy()
    matrix.data = flipped.data[::-1].copy()
    matrix.has_sorted_indices = False
    return matrix


INPUTS: dict[str, Callable[[], Any]] = {
    "column by column": make_numbers,
    "row by row": make_rows,
    "float32": lambda: make_rows().astype(np.float32),
    "csr_matrix": make_csr,
    "csr_array": lambda: sparse.csr_array(make_csr()),
    "csc_matrix": lambda: make_csr().tocsc(),
    "unsorted": make_unsorted,
}


def target_of(X: Any) -> Any:
    column = X.iloc[:, 0] if hasattr(X, "iloc") else X[:, [0]].toarray().ravel()
    return np.asarray(column) > 0.1


def evaluate(X: Any, y: Any, estimator: Any, backend: str, **options: Any) -> Any:
    parameters = {"min_bytes": 1, **options} if backend == "mmap" else options
    with joblib.parallel_config(backend=backend, n_jobs=2, **parameters):
        return cross_validate(
            estimator,
            X,
            y,
            cv=KFold(4),
            return_estimator=True,
            return_train_score=True,
            error_score="raise",
        )


def coefficients(results: Any) -> list[Any]:
    return [model.coef_ for model in results["estimator"]]


@pytest.mark.parametrize("name", INPUTS)
def test_results_are_those_of_loky_bit_for_bit(name: str) -> None:
    X = INPUTS[name]()
    y = target_of(X)
    for estimator in (
        SGDClassifier(max_iter=2, tol=None, random_state=0),
        Ridge(solver="sparse_cg" if sparse.issparse(X) else "cholesky"),
    ):
        ours = evaluate(X, y, estimator, "mmap")
        lokys = evaluate(X, y, estimator, "loky")
        np.testing.assert_array_equal(coefficients(ours), coefficients(lokys))
        for score in ("test_score", "train_score"):
            np.testing.assert_array_equal(ours[score], lokys[score])


def test_pipelines_by_name_give_the_results_of_loky() -> None:
    X = make_mixed(6000)
    y = pd.Series(target_of(X), name="target")
    columns = make_column_transformer(
        (StandardScaler(), list("abcd")),
        (OneHotEncoder(), ["text", "kind"]),
        remainder="drop",
    )
    model = make_pipeline(columns, LogisticRegression(max_iter=200))
    search = GridSearchCV(model, {"logisticregression__C": [0.1, 1.0]}, cv=3)
    predicted = {}
    for backend in ("loky", "mmap"):
        options = {"min_bytes": 1} if backend == "mmap" else {}
        with joblib.parallel_config(backend=backend, n_jobs=2, **options):
            predicted[backend] = cross_val_predict(
                model, X, y, cv=3, method="predict_proba"
            )
            search.fit(X, y)
            predicted[backend, "search"] = search.cv_results_["mean_test_score"]
            assert list(search.feature_names_in_) == list(X)
    np.testing.assert_array_equal(predicted["mmap"], predicted["loky"])
    np.testing.assert_array_equal(
        predicted["mmap", "search"], predicted["loky", "search"]
    )


def describe(value: Any) -> tuple[str, bool]:
    """Say of which class a task's argument is, and whether all of it is mapped."""
    if hasattr(value, "indptr"):
        arrays = [value.data, value.indices]
    elif hasattr(value, "iloc"):
        arrays = [value.to_numpy(copy=False)]
    else:
        arrays = [value]
    return type(value).__qualname__, all(find_mapping(array) for array in arrays)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (make_numbers, "SharedFrame"),
        (lambda: make_numbers()["a"], "SharedSeries"),
        (make_csr, "SharedCSRMatrix"),
        (lambda: sparse.csr_array(make_csr()), "SharedCSRArray"),
        (lambda: make_csr().tocsc(), "csc_matrix"),
    ],
)
def test_tasks_get_what_is_shared(make: Callable[[], Any], name: str) -> None:
    with use_mmap():
        assert call_each(describe, make()) == [(name, True)] * 4


def test_small_ones_are_sent_as_they_are() -> None:
    with use_mmap(min_bytes="100M"):
        for value in (make_numbers(10), make_csr(10), make_numbers(10)["a"]):
            assert call_each(describe, value) == [(type(value).__qualname__, False)] * 4


def give_back(value: Any) -> Any:
    return value, type(value).__qualname__


@pytest.mark.parametrize("make", [make_numbers, make_mixed, make_csr])
def test_what_tasks_return_is_plain(make: Callable[[], Any]) -> None:
    value = make()
    with use_mmap():
        for result, name in call_each(give_back, value, n_tasks=2):
            assert name.startswith("Shared")
            assert type(result) is type(value)
            if sparse.issparse(value):
                assert (result != value).nnz == 0
            else:
                pd.testing.assert_frame_equal(result, value)


def order_of(frame: Any) -> bool:
    return bool(frame.to_numpy(copy=False).flags.c_contiguous)


def test_frames_lie_as_with_loky_unless_any_order_will_do() -> None:
    for row_order, is_by_row in (("exact", False), ("any", True)):
        with use_mmap(row_order=row_order):
            assert call_each(order_of, make_numbers()) == [is_by_row] * 4
            assert call_each(order_of, make_rows()) == [True] * 4


def sum_of(frame: Any) -> float:
    return float(frame.to_numpy().sum())


def test_frames_that_change_between_calls_are_shared_anew() -> None:
    frame = make_numbers()
    with use_mmap(row_order="any"):
        before = call_each(sum_of, frame)
        frame.iloc[-1, -1] += 1000
        after = call_each(sum_of, frame)
    np.testing.assert_allclose(np.subtract(after, before), 1000)


@pytest.mark.parametrize("order", ["C", "F"])
def test_the_store_finds_what_it_stored_in_the_other_order(order: str) -> None:
    array = np.asarray(np.arange(30_000.0).reshape(300, 100), order=order)  # type: ignore[call-overload]
    other = "F" if order == "C" else "C"
    store = make_store()
    handle, segment = shared_with(store, array)
    turned = store.share(array, conversion=Conversion(order=other))
    assert turned is not None
    assert turned[1] is not segment
    rebuilt = rebuild_array(turned[0])
    assert rebuilt.flags[f"{other}_CONTIGUOUS"]
    np.testing.assert_array_equal(rebuilt, array)
    for _ in range(2):
        found = store.share(array, conversion=Conversion(order=other))
        assert found is not None
        assert found[1] is turned[1]
        store.next_call()
    array[7, 9] += 1
    changed = store.share(array, conversion=Conversion(order=other))
    assert changed is not None
    assert changed[1] is not turned[1]
    np.testing.assert_array_equal(rebuild_array(changed[0]), array)
    assert handle.shape == changed[0].shape


def copied_share(X: Any, row_order: str) -> float:
    """Return which part of the folds' bytes was copied."""
    with recorded() as records:
        model = SGDClassifier(max_iter=1, tol=None, random_state=0)
        evaluate(X, target_of(X), model, "mmap", row_order=row_order)
    mapped_bytes = sum(record.mapped_bytes for record in records)
    copied_bytes = sum(record.copied_bytes for record in records)
    return copied_bytes / (mapped_bytes + copied_bytes)


@pytest.mark.parametrize("name", ["column by column", "csr_matrix", "row by row"])
def test_in_any_order_nearly_all_rows_are_mapped(name: str) -> None:
    assert copied_share(INPUTS[name](), "any") < 0.12


def test_train_sets_in_any_order_are_the_same_sets() -> None:
    X = make_csr()
    y = np.asarray(X.sum(axis=1)).ravel()
    ours = evaluate(X, y, Ridge(solver="sparse_cg", tol=1e-12), "mmap", row_order="any")
    lokys = evaluate(X, y, Ridge(solver="sparse_cg", tol=1e-12), "loky")
    np.testing.assert_allclose(coefficients(ours), coefficients(lokys), rtol=1e-6)


def test_shared_ones_are_sent_as_references() -> None:
    frame = skl_mmap.share(make_rows(), store="memory")
    matrix = skl_mmap.share(make_csr(), store="memory")
    with use_mmap():
        assert call_each(describe, frame) == [("SharedFrame", True)] * 4
        assert call_each(describe, matrix) == [("SharedCSRMatrix", True)] * 4


def words(array: Any) -> Any:
    return array, array.flags.f_contiguous


def make_objects() -> Any:
    objects = np.array(
        [None, "a", "bb", 1, 2.5, float("nan"), b"x", True], dtype=object
    )
    return np.tile(objects, (3, 500))


def test_objects_are_pickled_once_unless_they_change(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store = make_store()
    array = make_objects()
    n_dumps = 0
    dumps = pickle.dumps

    def counting_dumps(*args: Any, **parameters: Any) -> bytes:
        nonlocal n_dumps
        n_dumps += 1
        return dumps(*args, **parameters)

    monkeypatch.setattr(pickle, "dumps", counting_dumps)
    for n_expected in (1, 2):
        for _ in range(3):
            payload, segments = dump_task([array, 1], store, Options(min_bytes=1))
            assert len(segments) == 1
            assert len(payload) < array.nbytes
            received, _one = pickle.loads(payload)
            assert repr(received.tolist()) == repr(array.tolist())
            assert type(received) is np.ndarray
            store.next_call()
        assert n_dumps == n_expected
        array[0, 0] = "changed"


@pytest.mark.parametrize(
    "values",
    [
        [pd.NA, "x"],
        [datetime.date(2020, 1, 1), datetime.timedelta(1), decimal.Decimal("1.5")],
        [np.str_("x"), np.float32(1.5), np.datetime64("2020")],
    ],
    ids=["missing", "standard library", "numpy"],
)
def test_what_columns_hold_beside_text_is_pickled_once_too(values: list[Any]) -> None:
    array = np.array(values * 100, dtype=object)
    payload, segments = dump_task([array], make_store(), Options(min_bytes=1))
    assert len(segments) == 1
    (received,) = pickle.loads(payload)
    assert list(map(repr, received)) == list(map(repr, array))
    if values[0] is pd.NA:
        assert received[0] is pd.NA


def test_objects_that_have_an_identity_are_pickled_with_the_task() -> None:
    item: list[Any] = []
    array = np.array([item, "x"] * 100, dtype=object)[::-1].copy()
    payload, segments = dump_task([array, item], make_store(), Options(min_bytes=1))
    received, received_item = pickle.loads(payload)
    assert not segments
    assert received[1] is received_item


def test_text_is_as_with_loky_and_its_segments_are_freed() -> None:
    array = np.asarray(make_objects(), order="F")
    watch = SegmentWatch()
    with use_mmap():
        for result, is_fortran in call_each(words, array):
            assert repr(result.tolist()) == repr(array.tolist())
            assert is_fortran
    assert watch.wait()


def test_scikit_learn_knows_which_library_made_a_shared_frame() -> None:
    # Columns without names are named by the transformer, in a way of each library.
    frame = pd.DataFrame(np.random.default_rng(0).random((4000, 4)))
    transformer = ColumnTransformer(
        [("scale", StandardScaler(), [0, 1])], remainder="passthrough"
    )
    transformer.set_output(transform="pandas")
    expected = transformer.fit_transform(frame)
    with use_mmap():
        results = call_each(clone(transformer).fit_transform, frame, n_tasks=2)
        results.append(clone(transformer).set_params(n_jobs=2).fit_transform(frame))
    for result in results:
        pd.testing.assert_frame_equal(result, expected)
