"""Loops of other people over folds, in tasks: rows are mapped, however selected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.inspection import permutation_importance
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold
from threadpoolctl import threadpool_limits

from tests.backend.common import call_each, numbered_rows, recorded, use_mmap

N_ROWS, N_COLUMNS = 20_480, 16
# 32 rows of an array fill a page, and so does each fold.
FOLD = np.arange(4096, 8192)
TRAIN = np.r_[0:4096, 8192:N_ROWS]
MASK = np.isin(np.arange(N_ROWS), FOLD, invert=True)
N_BYTES = len(TRAIN) * N_COLUMNS * 8

ARRAY_WAYS: dict[str, Callable[[Any], Any]] = {
    "X[train]": lambda X: X[TRAIN],
    "X[train, :]": lambda X: X[TRAIN, :],
    "X[mask]": lambda X: X[MASK],
    "X[~mask]": lambda X: X[~np.isin(np.arange(N_ROWS), FOLD)],
    "X[list]": lambda X: X[list(TRAIN)],
    "X.take": lambda X: X.take(TRAIN, axis=0),
    "np.take": lambda X: np.take(X, TRAIN, axis=0),
    "X.compress": lambda X: X.compress(MASK, axis=0),
    "np.delete": lambda X: np.delete(X, FOLD, axis=0),
    "np.concatenate": lambda X: np.concatenate([X[:4096], X[8192:]]),
    "np.vstack": lambda X: np.vstack([X[:4096], X[8192:]]),
    "np.r_": lambda X: np.r_[X[:4096], X[8192:]],
    "np.ix_": lambda X: X[np.ix_(TRAIN, np.arange(X.shape[1]))],
    "columns of rows": lambda X: X[TRAIN][:, :5],
    "a sorted bootstrap of blocks": lambda X: X[np.r_[0:4096, 0:4096, 8192:12_288]],
}


FRAME_WAYS: dict[str, Callable[[Any], Any]] = {
    "iloc": lambda X: X.iloc[TRAIN],
    "loc": lambda X: X.loc[TRAIN],
    "mask": lambda X: X[MASK],
    "loc of a mask": lambda X: X.loc[MASK],
    "take": lambda X: X.take(TRAIN),
    "drop": lambda X: X.drop(index=FOLD),
    "query": lambda X: X.query("index < 4096 or index >= 8192"),
    "concat": lambda X: concatenate(X.iloc[:4096], X.iloc[8192:]),
    "numbered again": lambda X: X.reset_index(drop=True).loc[TRAIN],
}


def concatenate(*parts: Any) -> Any:
    import pandas as pd

    return pd.concat(parts)


def select_from_array(X: Any, name: str) -> bool:
    result = ARRAY_WAYS[name](X)
    expected = ARRAY_WAYS[name](np.array(X))
    return bool(result.flags.writeable) and np.array_equal(result, expected)


def select_from_frame(X: Any, name: str) -> bool:
    import pandas as pd

    return bool(FRAME_WAYS[name](X).equals(FRAME_WAYS[name](pd.DataFrame(X))))


def mapped_by_each(function: Any, X: Any, names: Any, **options: Any) -> dict[str, int]:
    """Call a function in a task for each name, and return how much it has mapped."""
    mapped = {}
    with use_mmap(**options):
        for name in names:
            with recorded() as records:
                assert call_each(function, X, name, n_tasks=1) == [True]
            mapped[name] = sum(record.mapped_bytes for record in records)
    return mapped


def test_rows_of_arrays_are_mapped_however_they_are_selected() -> None:
    X = numbered_rows(N_ROWS, N_COLUMNS)
    mapped = mapped_by_each(select_from_array, X, ARRAY_WAYS)
    assert {
        name for name, n_bytes in mapped.items() if n_bytes < 0.75 * N_BYTES
    } == set()


def test_rows_of_frames_are_mapped_however_they_are_selected() -> None:
    pd = pytest.importorskip("pandas", minversion="2.1")
    X = pd.DataFrame(numbered_rows(N_ROWS, N_COLUMNS)).add_prefix("c")
    mapped = mapped_by_each(select_from_frame, X, FRAME_WAYS, row_order="any")
    assert {name for name, n_bytes in mapped.items() if n_bytes < N_BYTES} == set()


def score_by_hand(X: Any, y: Any) -> list[float]:
    """Cross-validate as people do who need no function for it."""
    scores = []
    for train, test in KFold(5).split(X):
        model = Ridge().fit(X[train], y[train])
        scores.append(model.score(X[test], y[test]))
    folds, targets = np.array_split(X, 5), np.array_split(y, 5)
    for k in range(5):
        rest = [fold for i, fold in enumerate(folds) if i != k]
        others = [target for i, target in enumerate(targets) if i != k]
        model = Ridge().fit(np.vstack(rest), np.concatenate(others))
        scores.append(model.score(folds[k], targets[k]))
    return scores


def test_folds_by_hand_are_mapped_and_scores_stay_the_same() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(N_ROWS, N_COLUMNS))
    y = X @ rng.normal(size=N_COLUMNS)
    with threadpool_limits(1):  # as in a worker
        expected = [score_by_hand(X, y)]
    with use_mmap(), recorded() as records:
        assert call_each(score_by_hand, X, y, n_tasks=1) == expected
    (record,) = records
    # Two train sets and two test sets of each of five folds.
    assert record.mapped_bytes > 0.7 * 10 * X.nbytes


@pytest.mark.parametrize("order", ["C", "F"])
def test_permutation_importance_copies_what_it_shuffles(order: str) -> None:
    rng = np.random.default_rng(0)
    X = np.asarray(rng.normal(size=(N_ROWS, 4)), order=order)  # type: ignore[call-overload]
    y = X @ rng.normal(size=4)
    model = Ridge().fit(X, y)
    with threadpool_limits(1):
        expected = permutation_importance(model, X, y, n_repeats=2, random_state=0)
    with use_mmap(), recorded() as records:
        found = permutation_importance(model, X, y, n_repeats=2, random_state=0)
    np.testing.assert_array_equal(found.importances, expected.importances)
    mapped_bytes = sum(record.mapped_bytes for record in records)
    if order == "C":  # as copy() is, whatever the order of X is
        assert mapped_bytes == 4 * X.nbytes
