"""Data of any size, made without temporaries as large as itself."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["make_friedman"]

_BLOCK_ROWS = 65_536


def make_friedman(
    n_rows: int, n_columns: int = 50, *, dtype: Any = np.float64, order: Any = "C"
) -> tuple[np.ndarray, np.ndarray]:
    """Make Friedman's first regression problem, with features that say nothing.

    The formula is that of ``sklearn.datasets.make_friedman1``; its own temporaries
    would be part of what the allocator holds when a benchmark starts.

    Parameters
    ----------
    n_rows, n_columns : int
        Shape of X; at least five columns.
    dtype, order
        Of X.

    Returns
    -------
    X : ndarray of shape (n_rows, n_columns)
    y : ndarray of shape (n_rows,), dtype=float64
    """
    random = np.random.default_rng(0)
    X = np.empty((n_rows, n_columns), dtype=dtype, order=order)
    y = np.empty(n_rows)
    for start in range(0, n_rows, _BLOCK_ROWS):
        block = random.random((min(_BLOCK_ROWS, n_rows - start), n_columns))
        rows = slice(start, start + len(block))
        X[rows] = block
        y[rows] = (
            10 * np.sin(np.pi * block[:, 0] * block[:, 1])
            + 20 * (block[:, 2] - 0.5) ** 2
            + 10 * block[:, 3]
            + 5 * block[:, 4]
            + random.standard_normal(len(block))
        )
    return X, y
