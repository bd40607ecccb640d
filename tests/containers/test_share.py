"""share(): data in shared memory for longer than a block, and in place."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from scipy import sparse
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_validate

import skl_mmap
from skl_mmap.exceptions import FallbackWarning, InvalidParameterError
from skl_mmap.memory import SharedArray, can_remap, counters, describe, live_mappings
from tests import strategies
from tests.memory.sharing import assert_same_values, own_mapping, take_counted

LARGE_BYTES = 40 << 20

needs_pages = pytest.mark.skipif(not can_remap(), reason="needs pages of a memfd")

ROWS = np.random.default_rng(0).random((6000, 50))


def make_data(n_rows: int = 20_000, n_columns: int = 50) -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).random((n_rows, n_columns))


@given(array=strategies.arrays())
def test_equals_what_was_given(array: np.ndarray[Any, Any]) -> None:
    if array.dtype.hasobject or not array.nbytes:
        with pytest.raises(InvalidParameterError, match="no bytes to share"):
            skl_mmap.share(array)
        return
    for order in ("K", "C"):
        shared = skl_mmap.share(array, order=order)
        assert type(shared) is SharedArray
        assert_same_values(np.asarray(shared), array)
    assert shared.flags.c_contiguous


def test_outlives_what_it_was_made_from() -> None:
    array = make_data()
    expected = array.sum()
    shared = skl_mmap.share(array)
    array[:] = 0.0
    del array
    gc.collect()
    assert shared.sum() == expected


def test_sharing_again_makes_no_second_copy() -> None:
    shared = skl_mmap.share(make_data())
    again = skl_mmap.share(shared)
    first, second = describe(shared), describe(again)
    assert first is not None
    assert second is not None
    assert first[1] is second[1]
    again[0] = -1.0
    assert shared[0, 0] != -1.0


def test_file_of_the_users_is_used_where_it_lies(tmp_path: Path) -> None:
    X = make_data()
    np.save(tmp_path / "X.npy", X)
    shared = skl_mmap.share(np.load(tmp_path / "X.npy", mmap_mode="r"))
    described = describe(shared)
    assert described is not None
    assert described[0].segment.inode == (tmp_path / "X.npy").stat().st_ino
    np.testing.assert_array_equal(shared, X)


@needs_pages
@pytest.mark.parametrize("n_jobs", [1, 2])
@pytest.mark.parametrize("backend", ["sequential", "threading", "mmap"])
@pytest.mark.parametrize("inplace", [False, True])
def test_folds_are_mapped_by_every_backend(
    backend: str, n_jobs: int, inplace: bool
) -> None:
    X = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1))
    y = X @ np.arange(50.0)
    expected = cross_validate(Ridge(), X, y, cv=KFold(3))["test_score"]
    with skl_mmap.share(X, inplace=inplace) as Xs:
        counters.take()
        with skl_mmap.measure() as report, joblib.parallel_config(backend=backend):
            found = cross_validate(Ridge(), Xs, y, cv=KFold(3), n_jobs=n_jobs)
        mapped_bytes = take_counted()[0] + report.mapped_bytes
    np.testing.assert_array_equal(found["test_score"], expected)
    assert mapped_bytes > 1.5 * X.nbytes


@needs_pages
def test_nothing_more_is_shared_when_it_is_sent_to_workers() -> None:
    X = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1))
    for inplace in (False, True):
        Xs = skl_mmap.share(X, inplace=inplace)
        with joblib.parallel_config(backend="mmap", n_jobs=2):
            sums = joblib.Parallel()(joblib.delayed(np.sum)(Xs) for _ in range(3))
            with skl_mmap.measure() as report:
                joblib.Parallel()(joblib.delayed(np.sum)(Xs) for _ in range(3))
        assert sums == [X.sum()] * 3
        assert report.peak_growth_bytes < X.nbytes / 4
        Xs.close()


@needs_pages
def test_in_place_the_array_is_the_shared_one_until_it_is_closed() -> None:
    X = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1))
    address = X.ctypes.data
    expected = X.copy()
    with skl_mmap.share(X, inplace=True) as Xs:
        assert Xs.ctypes.data == X.ctypes.data == address
        assert describe(X) is not None
    assert describe(X) is None
    assert live_mappings() == []
    np.testing.assert_array_equal(X, expected)
    X.resize((len(X) + 5, 50))


@needs_pages
def test_in_place_nothing_is_done_for_what_is_shared_already() -> None:
    X = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1))
    Xs = skl_mmap.share(X, inplace=True)
    for again in (skl_mmap.share(X, inplace=True), skl_mmap.share(Xs, inplace=True)):
        assert again.ctypes.data == X.ctypes.data
    copied = skl_mmap.share(make_data())
    assert skl_mmap.share(copied, inplace=True).ctypes.data == copied.ctypes.data
    X[0] = -1.0  # private to X: not what is shared any more
    with pytest.warns(FallbackWarning, match="mapped from a file"):
        changed = skl_mmap.share(X, inplace=True)
    np.testing.assert_array_equal(changed, X)


@needs_pages
def test_in_place_falls_back_to_a_copy_and_says_why() -> None:
    X = make_data()
    with pytest.warns(FallbackWarning, match=r"shared as a copy.*it is a view"):
        shared = skl_mmap.share(X[1:], inplace=True)
    np.testing.assert_array_equal(shared, X[1:])
    with pytest.warns(FallbackWarning, match="another order") as caught:
        shared = skl_mmap.share(np.asfortranarray(X), inplace=True, order="C")
    assert caught[0].filename == __file__
    np.testing.assert_array_equal(shared, X)


@needs_pages
@pytest.mark.parametrize("row_order", ["exact", "any"])
def test_adopted_by_the_backend(row_order: str) -> None:
    X = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1))
    y = X @ np.arange(50.0)
    expected = cross_validate(Ridge(), X, y, cv=KFold(3))["test_score"]
    foreign = np.frombuffer(bytearray(3 << 20), dtype=np.uint8)
    with joblib.parallel_config(
        backend="mmap", n_jobs=2, adopt=True, row_order=row_order
    ):
        with skl_mmap.measure() as report:
            found = cross_validate(Ridge(), X, y, cv=KFold(3))["test_score"]
            joblib.Parallel()(joblib.delayed(np.sum)(foreign) for _ in range(2))
        assert describe(X) is not None
        (note,) = report.notes
        assert "shape (3145728,) and dtype uint8" in note
        assert "copied and not adopted: it is a view" in note
        assert note in str(report)
        X[0] += 1.0
        sums = joblib.Parallel()(joblib.delayed(np.sum)(X) for _ in range(2))
        assert sums == [X.sum()] * 2
    assert live_mappings() == []
    if row_order == "exact":
        np.testing.assert_array_equal(found, expected)
    else:
        np.testing.assert_allclose(found, expected)


@needs_pages
def test_adopted_array_may_go_or_change_between_calls() -> None:
    X = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1))
    with joblib.parallel_config(backend="mmap", n_jobs=2, adopt=True):
        joblib.Parallel()(joblib.delayed(np.sum)(X) for _ in range(2))
        X.resize((1000, 50))
        del X
        Y = own_mapping(lambda: make_data(LARGE_BYTES // 400 + 1) + 1.0)
        sums = joblib.Parallel()(joblib.delayed(np.sum)(Y) for _ in range(2))
        assert sums == [Y.sum()] * 2
        assert describe(Y) is not None


@pytest.mark.parametrize(
    ("X", "parameters", "message"),
    [
        ("X.npy", {}, r"Paths are for skl_mmap.load\(\)"),
        ([[1.0]], {}, "of type list cannot be shared"),
        ([[1.0]], {"inplace": True}, "inplace=True needs an ndarray"),
        (np.ones(3), {"order": "F"}, "order='F' is not known"),
        (np.ones(3), {"mmap_mode": "r+"}, r"mmap_mode='r\+' is not known"),
        (np.ones(3), {"store": "tape"}, "not an existing folder"),
        (np.array([None]), {}, "holds Python objects"),
        (np.ones((0, 3)), {}, "is empty"),
        (np.ma.array([1.0, 2.0], mask=[False, True]), {}, "is a masked array"),
    ],
)
def test_bad_input_is_explained(
    X: Any, parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        skl_mmap.share(X, **parameters)


def test_read_only_if_asked_for() -> None:
    shared = skl_mmap.share(make_data(), mmap_mode="r")
    with pytest.raises(ValueError, match="read-only"):
        shared[0] = 1.0


def test_without_pages_it_is_shared_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
    X = make_data()
    with skl_mmap.share(X) as Xs:
        np.testing.assert_array_equal(Xs[np.arange(0, 20_000, 3)], X[::3])
    with pytest.warns(FallbackWarning, match="cannot map pages"):
        skl_mmap.share(X, inplace=True)


MIXED = pd.DataFrame({"a": ROWS[:, 0], "b": np.arange(len(ROWS))})
MATRIX = sparse.csr_array(ROWS * (ROWS > 0.5))


@pytest.mark.parametrize(
    "X",
    [ROWS, np.asfortranarray(ROWS), ROWS[:, 0].copy(), MIXED, MATRIX],
    ids=["C", "F", "vector", "frame", "matrix"],
)
def test_hashes_are_those_of_what_was_given(X: Any) -> None:
    shared = skl_mmap.share(X)
    assert type(shared) is not type(X)
    assert joblib.hash(shared) == joblib.hash(X)
    # The second one is hashed as a reference to the first.
    assert joblib.hash([shared, shared]) == joblib.hash([X, X])
    assert joblib.hash([shared, 1]) != joblib.hash([shared, 2])
    if isinstance(X, np.ndarray):
        rows = np.r_[0:2000, 3000:5000]
        for key in (slice(100, 3000), rows, rows[::-1]):
            assert joblib.hash(shared[key]) == joblib.hash(X[key])


def test_what_was_computed_for_an_array_is_known_for_its_shared_form(
    tmp_path: Path,
) -> None:
    memory = joblib.Memory(tmp_path, verbose=0)
    mean = memory.cache(np.mean)
    shared = skl_mmap.share(ROWS)
    assert mean(ROWS) == mean(shared)
    assert mean.check_call_in_cache(shared)
    rows = np.r_[0:2000, 3000:5000]
    mean(shared[rows])
    assert mean.check_call_in_cache(ROWS[rows])
    assert not mean.check_call_in_cache(ROWS[rows + 1])
