"""What the folds of a sparse matrix cost a worker, and what they cost with loky.

    python asv_bench/sparse_folds.py [MEGABYTES] [N_JOBS]

Cross-validates SGDClassifier with KFold(5) over a CSR matrix that is 5 % dense, and
prints for each backend the largest private memory that any task needed above what its
worker had before, in matrices.
"""

from __future__ import annotations

import sys
from typing import Any

import joblib
import numpy as np
from scipy import sparse
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import KFold, cross_validate

from skl_mmap import measure

_COLUMNS = 1000
_DENSITY = 0.05
_BACKENDS: tuple[tuple[str, dict[str, Any]], ...] = (
    ("loky", {}),
    ("mmap", {"row_order": "exact"}),
    ("mmap", {"row_order": "any"}),
)


def make_matrix(n_bytes: int, seed: int = 0) -> Any:
    """Make a CSR matrix of about so many bytes, with rows of different lengths."""
    rng = np.random.default_rng(seed)
    mean_row = int(_COLUMNS * _DENSITY)
    n_rows = n_bytes // (12 * mean_row)
    lengths = rng.binomial(_COLUMNS, _DENSITY, n_rows)
    indptr = np.zeros(n_rows + 1, dtype=np.int32)
    np.cumsum(lengths, out=indptr[1:])
    indices = np.empty(int(indptr[-1]), dtype=np.int32)
    # Steps between the columns of a row, cut off at its end: sorted and distinct.
    for start in range(0, n_rows, 1000):
        keys = rng.random((min(1000, n_rows - start), _COLUMNS), dtype=np.float32)
        order = np.argsort(keys, axis=1)
        for row, columns in enumerate(order, start):
            part = indices[indptr[row] : indptr[row + 1]]
            part[:] = np.sort(columns[: len(part)])
    data = rng.standard_normal(len(indices))
    return sparse.csr_matrix((data, indices, indptr), shape=(n_rows, _COLUMNS))


def evaluate(X: Any, y: Any, backend: str, n_jobs: int, options: Any) -> Any:
    """Cross-validate once, and return what it cost."""
    model = SGDClassifier(max_iter=2, tol=None, random_state=0)
    with joblib.parallel_config(backend=backend, n_jobs=n_jobs, **options):
        cross_validate(model, X[:1000], y[:1000], cv=KFold(5))  # workers are warm
        with measure() as cost:
            cross_validate(model, X, y, cv=KFold(5), error_score="raise")
    return cost


def main(megabytes: int = 100, n_jobs: int = 2) -> None:
    """Measure all backends, and print one line for each."""
    X = make_matrix(megabytes * 10**6)
    y = np.arange(X.shape[0]) % 2
    matrix_bytes = X.data.nbytes + X.indices.nbytes + X.indptr.nbytes
    print(f"CSR {X.shape}, {matrix_bytes / 1e6:.0f} MB, n_jobs={n_jobs}")
    growth: dict[str, float] = {}
    for backend, options in _BACKENDS:
        cost = evaluate(X, y, backend, n_jobs, options)
        name = " ".join([backend, *options.values()])
        growth[name] = cost.peak_growth_bytes / matrix_bytes
        private = [r.peak_private_bytes for r in getattr(cost, "tasks", ())]
        worst = max((p for p in private if p is not None), default=None)
        print(
            f"{name:12} tree {growth[name]:.3f} matrices "
            f"({growth[name] / growth['loky']:.2f} of loky), worst task "
            f"{'unknown' if worst is None else f'{worst / matrix_bytes:.3f}'}, copied "
            f"{cost.copied_bytes / 5 / matrix_bytes:.3f} per fold, "
            f"{cost.wall_seconds:.1f} s"
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
