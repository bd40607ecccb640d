"""Splitters order the rows of sparse matrices by the pages of their elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import sparse
from sklearn.model_selection import KFold, StratifiedKFold

import skl_mmap
from skl_mmap.memory import can_remap, counters
from skl_mmap.orders import PageFriendly
from tests.memory.sharing import take_counted

N_ROWS = 60_000


def make_matrix() -> Any:
    # 10 to 30 elements in a row; `sparse.random` would permute all 24 million places.
    rng = np.random.default_rng(0)
    lengths = rng.integers(10, 31, N_ROWS)
    ends = lengths.cumsum()
    columns = 13 * (np.arange(ends[-1]) - np.repeat(ends - lengths, lengths))
    columns += np.repeat(rng.integers(0, 10, N_ROWS), lengths)
    parts = rng.random(len(columns)), columns, np.r_[0, ends]
    return sparse.csr_matrix(parts, shape=(N_ROWS, 400))


def count_copied(matrix: Any, rows: Any) -> float:
    """Share of the selected elements' bytes that had to be copied."""
    counters.take()
    selected = matrix[rows]
    mapped_bytes, reasons = take_counted()
    assert mapped_bytes or reasons
    return sum(reasons.values()) / (selected.data.nbytes + selected.indices.nbytes)


@pytest.mark.skipif(not can_remap(), reason="needs pages of a memfd")
@pytest.mark.parametrize("kind", ["PageFriendly", "arrange"])
def test_nearly_all_elements_of_a_train_set_are_mapped(kind: str) -> None:
    X = make_matrix()
    y = np.arange(N_ROWS) % 3
    if kind == "arrange":
        cv: Any = StratifiedKFold(5, shuffle=True, random_state=0)
        Xs, ys, cv = skl_mmap.arrange(X, y, cv=cv, classifier=True)
        X = X[cv.permutation]
    else:
        Xs, ys, cv = skl_mmap.share(X), y, skl_mmap.PageFriendly(KFold(5))
    for train, test in cv.split(Xs, ys):
        assert len(np.unique(np.r_[train, test])) == N_ROWS == len(train) + len(test)
        assert count_copied(Xs, train) < 0.15
        assert (Xs[train] != X[train]).nnz == 0


def test_masks_and_short_train_sets_are_ordered_too() -> None:
    X = make_matrix()
    mask = np.zeros(N_ROWS, dtype=bool)
    mask[5_000:] = True
    few = np.array([3, 1, 2])
    (ordered, _), (unchanged, _) = PageFriendly([(mask, few), (few, few)]).split(X)
    np.testing.assert_array_equal(np.sort(ordered), np.flatnonzero(mask))
    np.testing.assert_array_equal(unchanged, few)
