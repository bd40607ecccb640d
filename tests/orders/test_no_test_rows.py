"""No train set that an estimator sees ever holds a row of its test set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)

from skl_mmap.orders import PageFriendly
from skl_mmap.orders import _page_order as page_order_module
from tests.memory.sharing import mapped_bytes, share_one

SPLITTERS = {
    "KFold(2)": KFold(2),
    "KFold(5)": KFold(5),
    "KFold, shuffled": KFold(3, shuffle=True, random_state=0),
    "StratifiedKFold": StratifiedKFold(2),
    "GroupKFold": GroupKFold(2),
    "TimeSeriesSplit": TimeSeriesSplit(3),
    "ShuffleSplit": ShuffleSplit(2, test_size=0.4, random_state=0),
    "RepeatedKFold": RepeatedKFold(n_splits=2, n_repeats=2, random_state=0),
    "LeaveOneGroupOut": LeaveOneGroupOut(),
    "PredefinedSplit": PredefinedSplit,
    "LeaveOneOut": LeaveOneOut(),
}


def numbered(n_rows: int, row_bytes: int) -> np.ndarray[Any, Any]:
    """Make an array whose row i holds the number i in each of its items."""
    dtype = np.dtype("u2")
    numbers = np.arange(n_rows, dtype=dtype)[:, None]
    return np.repeat(numbers, row_bytes // dtype.itemsize, axis=1)


def check_folds(cv: Any, X: np.ndarray[Any, Any], shared: np.ndarray[Any, Any]) -> int:
    n_samples = len(X)
    y = np.arange(n_samples) % 2
    groups = np.arange(n_samples) * 3 // n_samples
    n_mapped = 0
    for train, test in cv.split(X, y, groups):
        seen, tested = shared[train], shared[test]
        np.testing.assert_array_equal(seen[:, 0], train)
        np.testing.assert_array_equal(tested[:, 0], test)
        # All of each row, not its beginning alone.
        assert (seen == seen[:, :1]).all()
        assert (tested == tested[:, :1]).all()
        assert not np.isin(tested[:, 0], seen).any()
        n_mapped += mapped_bytes(seen) if mapped_bytes(seen) < X.nbytes else 0
    return n_mapped


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.filterwarnings("ignore:The least populated class")
@pytest.mark.parametrize("name", SPLITTERS)
@pytest.mark.parametrize("row_bytes", [1000, 2048, 4096, 12288])
def test_small_data_of_every_size(
    name: str, row_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that the order changes for some dozen rows already.
    monkeypatch.setattr(page_order_module, "VECTOR_UNIT", 1)
    n_checked = n_mapped = 0
    for n_samples in range(2, 41):
        X = numbered(n_samples, row_bytes)
        shared = share_one(X)
        splitter = SPLITTERS[name]
        if splitter is PredefinedSplit:
            splitter = PredefinedSplit(np.arange(n_samples) * 4 // n_samples - 1)
        if name == "LeaveOneOut" and n_samples % 7:
            continue  # as many splits as rows
        for cv in (splitter, PageFriendly(splitter)):
            try:
                n_mapped += check_folds(cv, X, shared)
            except ValueError:
                assert n_samples < 6  # too few for so many folds
            else:
                n_checked += 1
        assert (shared == X).all()
    assert n_checked >= 10
    # A page has to lie in one run, and chance makes few runs.
    assert n_mapped > 0 or row_bytes < 4096


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize("name", ["KFold(5)", "GroupKFold", "TimeSeriesSplit"])
@pytest.mark.parametrize("row_bytes", [8, 24, 100, 400])
@pytest.mark.parametrize("n_samples", [4999, 7000])
def test_larger_data_in_page_friendly_order(
    n_samples: int, row_bytes: int, name: str
) -> None:
    X = numbered(n_samples, row_bytes)
    shared = share_one(X)
    for cv in (SPLITTERS[name], PageFriendly(SPLITTERS[name])):
        assert check_folds(cv, X, shared) > 0
