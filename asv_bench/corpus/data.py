"""What the jobs are about: X of so many bytes, and y. Each call makes the same data."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np

__all__ = [
    "count_bytes",
    "make_array",
    "make_classes",
    "make_frame",
    "make_groups",
    "make_imbalanced",
    "make_imbalanced_frame",
    "make_many_classes",
    "make_mixed_frame",
    "make_narrow_array",
    "make_narrow_frame",
    "make_outputs",
    "make_sparse",
    "make_texts",
    "make_with_gaps",
]

_COLUMNS = 100
_FRAME_COLUMNS = 50
_NARROW_COLUMNS = 20
_MIXED_COLUMNS = 60
_CATEGORY_COLUMNS = 10
_TEXT_COLUMNS = 8
# Bytes of a row of the mixed frame: numbers, codes, and texts with their offsets.
_MIXED_ROW_BYTES = 8 * _MIXED_COLUMNS + _CATEGORY_COLUMNS + 26 * _TEXT_COLUMNS
_FLOAT_BYTES = 8
_SPARSE_COLUMNS = 2000
_SPARSE_PER_ROW = 20
_SPARSE_ELEMENT_BYTES = 12  # a number, and its column
_WORDS_PER_TEXT = 100
_WORD_BYTES = 11
_MANY_CLASSES = 200
_MIN_CLASS_ROWS = 10


def _make_numbers(n_bytes: int, n_columns: int) -> tuple[Any, Any]:
    random = np.random.default_rng(0)
    n_rows = n_bytes // (_FLOAT_BYTES * n_columns)
    X = random.standard_normal((n_rows, n_columns))
    y = X[:, :8].sum(axis=1) + 0.5 * X[:, 0] * X[:, 1] + random.standard_normal(n_rows)
    return X, y


def _as_frame(X: Any) -> Any:
    import pandas as pd

    return pd.DataFrame(X, columns=[f"x{column}" for column in range(X.shape[1])])


def make_array(n_bytes: int) -> tuple[Any, Any]:
    """Make 100 columns of float64 in C order, and a number to predict."""
    return _make_numbers(n_bytes, _COLUMNS)


def make_classes(n_bytes: int) -> tuple[Any, Any]:
    """Make the same array with two classes."""
    X, y = make_array(n_bytes)
    return X, (y > 0).astype(int)


def make_many_classes(n_bytes: int) -> tuple[Any, Any]:
    """Make the same array with 200 classes, each of which has as many rows."""
    X, y = make_array(n_bytes)
    return X, np.arange(len(y)) % min(_MANY_CLASSES, len(y) // _MIN_CLASS_ROWS)


def make_groups(n_bytes: int) -> tuple[Any, Any]:
    """Make the same array with five classes."""
    X, y = make_array(n_bytes)
    return X, np.digitize(y, [-3, -1, 1, 3])


def make_outputs(n_bytes: int) -> tuple[Any, Any]:
    """Make the same array with eight numbers to predict."""
    X, y = make_array(n_bytes)
    return X, 2 * X[:, :8] + y[:, None]


def make_with_gaps(n_bytes: int) -> tuple[Any, Any]:
    """Make the same array without one number in fifty."""
    X, y = make_array(n_bytes)
    X[np.random.default_rng(1).random(X.shape) < 0.02] = np.nan
    return X, y


def make_imbalanced(n_bytes: int) -> tuple[Any, Any]:
    """Make the same array with two classes, one of which has a row in twelve."""
    X, y = make_array(n_bytes)
    return X, (y > np.quantile(y, 1 - 1 / 12)).astype(int)


def make_frame(n_bytes: int) -> tuple[Any, Any]:
    """Make a frame of 100 columns of numbers, and two classes."""
    X, y = make_classes(n_bytes)
    return _as_frame(X), y


def make_narrow_array(n_bytes: int) -> tuple[Any, Any]:
    """Make an array of 20 columns, and a number to predict."""
    return _make_numbers(n_bytes, _NARROW_COLUMNS)


def make_narrow_frame(n_bytes: int) -> tuple[Any, Any]:
    """Make a frame of 50 columns of numbers, and a number to predict."""
    X, y = _make_numbers(n_bytes, _FRAME_COLUMNS)
    return _as_frame(X), y


def make_imbalanced_frame(n_bytes: int) -> tuple[Any, Any]:
    """Make a frame of 100 columns of numbers, and a rare class."""
    X, y = make_imbalanced(n_bytes)
    return _as_frame(X), y


def make_mixed_frame(n_bytes: int) -> tuple[Any, Any]:
    """Make a frame of 60 columns of numbers, 10 of categories and 8 of text."""
    import pandas as pd

    n_rows = n_bytes // _MIXED_ROW_BYTES
    X, y = _make_numbers(n_rows * _FLOAT_BYTES * _MIXED_COLUMNS, _MIXED_COLUMNS)
    frame = _as_frame(X)
    random = np.random.default_rng(2)
    labels = [f"label {number}" for number in range(12)]
    for column in range(_CATEGORY_COLUMNS):
        codes = random.integers(0, len(labels), n_rows)
        frame[f"category{column}"] = pd.Categorical.from_codes(codes, labels)
    words = np.array([f"word {number} of a list" for number in range(30)])
    for column in range(_TEXT_COLUMNS):
        texts = words[random.integers(0, len(words), n_rows)]
        frame[f"text{column}"] = pd.Series(texts, dtype="str")
    return frame, (y > 0).astype(int)


def make_sparse(n_bytes: int) -> tuple[Any, Any]:
    """Make a CSR matrix with 20 elements in each row of 2000, and two classes."""
    from scipy import sparse

    random = np.random.default_rng(0)
    n_rows = n_bytes // (_SPARSE_PER_ROW * _SPARSE_ELEMENT_BYTES)
    # One column of each hundred, so that none comes twice.
    width = _SPARSE_COLUMNS // _SPARSE_PER_ROW
    columns = random.integers(0, width, (n_rows, _SPARSE_PER_ROW), dtype=np.int32)
    columns += width * np.arange(_SPARSE_PER_ROW, dtype=np.int32)
    starts = np.arange(0, n_rows * _SPARSE_PER_ROW + 1, _SPARSE_PER_ROW, dtype=np.int32)
    values = random.random(columns.size)
    shape = n_rows, _SPARSE_COLUMNS
    y = values.reshape(columns.shape)[:, :3].sum(axis=1) > 1.5
    X = sparse.csr_matrix((values, columns.ravel(), starts), shape=shape)
    return X, y.astype(int)


def make_texts(n_bytes: int) -> tuple[Any, Any]:
    """Make texts of 100 words, a few of which are frequent, and two classes."""
    random = np.random.default_rng(0)
    n_texts = n_bytes // (_WORDS_PER_TEXT * _WORD_BYTES)
    words = np.array([f"word{number:06d}" for number in range(3000)])
    ranks = random.zipf(1.3, (n_texts, _WORDS_PER_TEXT))
    numbers = np.minimum(ranks - 1, len(words) - 1)
    y = numbers[:, :5].sum(axis=1) % 2
    return [" ".join(words[row]) for row in numbers], y


def count_bytes(X: Any) -> int:
    """Return the size of an array, a frame, a sparse matrix, or a list of texts."""
    if isinstance(X, list):
        return sum(map(sys.getsizeof, X))
    if hasattr(X, "memory_usage"):
        return int(X.memory_usage(index=False, deep=True).sum())
    if hasattr(X, "indptr"):
        return int(X.data.nbytes + X.indices.nbytes + X.indptr.nbytes)
    return int(X.nbytes)
