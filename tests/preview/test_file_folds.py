"""The predicted cost of folds is what selecting them really maps."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sklearn.model_selection import KFold

from skl_mmap.files import load
from skl_mmap.memory import can_remap, find_mapping, find_runs, select_rows
from skl_mmap.orders import page_order
from skl_mmap.preview import Layout, kfold_costs

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")


def really_mapped(X: np.ndarray, rows: np.ndarray) -> int:  # type: ignore[type-arg]
    joined = select_rows(X, rows, np.ndarray)
    if joined is None:
        return 0
    np.testing.assert_array_equal(joined, np.asarray(X)[rows])
    found = find_mapping(joined)
    assert found is not None
    return found[0].mapped_bytes


def layout_of(X: np.ndarray, offset: int) -> Layout:  # type: ignore[type-arg]
    return Layout(len(X), X.nbytes // len(X), offset, X.dtype.alignment)


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    n_rows=st.integers(30_000, 90_000),
    n_columns=st.integers(1, 9),
    dtype=st.sampled_from(["f8", "f4", "i2", "u1"]),
    n_splits=st.integers(2, 6),
)
def test_train_sets_of_kfold(
    n_rows: int, n_columns: int, dtype: str, n_splits: int, tmp_path: Path
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((n_rows, n_columns), dtype))
    X = load(path)
    layout = layout_of(X, 128)
    exact, any_ = kfold_costs(layout, n_splits)
    for fold, (train, _) in enumerate(KFold(n_splits).split(X)):
        assert exact.mapped_bytes[fold] == really_mapped(X, train)
        ordered = page_order(train, row_bytes=layout.row_bytes)
        assert any_.mapped_bytes[fold] == really_mapped(X, ordered)
        for cost in (exact, any_):
            total = cost.mapped_bytes[fold] + cost.copied_bytes[fold]
            assert total == len(train) * layout.row_bytes


@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    bounds=st.lists(st.integers(0, 50_000), min_size=2, max_size=9, unique=True).map(
        sorted
    )
)
def test_any_runs(bounds: list[int], tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((50_000, 5), np.float32))
    X = load(path)
    starts, stops = bounds[0::2], bounds[1::2]
    rows = np.concatenate(
        [np.arange(a, b) for a, b in zip(starts, stops, strict=False)]
    )
    runs = find_runs(rows, len(X), max_runs=100)
    assert runs is not None
    assert layout_of(X, 128).plan(runs).mapped_bytes == really_mapped(X, rows)


def test_runs_shorter_than_a_page_are_copied(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, np.ones((2000, 128)))
    X = load(path)
    rows = np.r_[0:1003, 1007:1010]
    runs = np.array([[0, 1003], [1007, 1010]])
    assert layout_of(X, 128).plan(runs).mapped_bytes == really_mapped(X, rows)
