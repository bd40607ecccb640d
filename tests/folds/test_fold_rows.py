"""Row indices of splits: runs of them."""

from __future__ import annotations

import numpy as np
import pytest

from skl_mmap.folds._fold_rows import count_runs


@pytest.mark.parametrize("n_rows", [1, 2, 65_536, 65_537, 140_000])
def test_runs_are_counted_across_chunks(n_rows: int) -> None:
    rows = np.arange(n_rows)
    assert count_runs(rows) == 1
    assert count_runs(np.ones(n_rows, dtype=bool)) == 1
    assert count_runs(np.zeros(n_rows, dtype=bool)) == 0
    every_second = rows % 2 == 0
    assert count_runs(every_second) == count_runs(rows[every_second]) == -(-n_rows // 2)
    assert count_runs(rows[::-1]) == n_rows
    assert count_runs(rows[:0]) == 0
