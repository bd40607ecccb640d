"""What a fitted model costs that came back from the workers."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Any

import numpy as np
from joblib import parallel_config
from sklearn.base import clone
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsRegressor

from scenarios.pools import warm
from scenarios.rows import Row, Settings, call_in_child
from skl_mmap import measure

__all__ = ["knn_stack"]

# Few and long rows: X has the size of the other scenarios, and the distances of all
# pairs of rows are found in seconds.
_ROWS = 2000
_COLUMNS = 25_000


def knn_stack(settings: Settings) -> Iterator[Row]:
    """Two nearest-neighbour models keep all of X, as views or as copies."""
    for backend, target in (("mmap", 0.05), ("loky", None)):
        runs = settings.repeat(
            lambda backend=backend: call_in_child(
                keep_model, backend=backend, n_columns=settings.scale(_COLUMNS)
            )
        )
        yield Row(
            "knn_stack",
            f"{backend}, 4 workers, model kept",
            [run["model_ratio"] for run in runs],
            "x X",
            target,
            note=f"{runs[0]['closed_ratio']:.2f} x X once the backend is closed",
            details=runs,
        )


def keep_model(backend: str, n_columns: int) -> dict[str, Any]:
    """Compare memory with the fitted model alive and without; runs in a child."""
    X = np.random.default_rng(0).random((_ROWS, n_columns))
    y = X[:, 0]
    few, many = (KNeighborsRegressor(n, algorithm="brute") for n in (5, 20))
    stack = StackingRegressor(
        [("few", few), ("many", many)], final_estimator=Ridge(), cv=2
    )
    with parallel_config(backend=backend, n_jobs=4):
        warm(4, few)
        loaded = _read_committed()
        # The first model is thrown away: what stays is what the backend keeps.
        clone(stack).fit(X, y)
        without_model = _read_committed()
        stack.fit(X, y)
        with_model = _read_committed()
    closed = _read_committed()
    prediction = stack.predict(X[:1])
    return {
        "model_ratio": (with_model - without_model) / X.nbytes,
        "backend_ratio": (without_model - loaded) / X.nbytes,
        "closed_ratio": (closed - loaded) / X.nbytes,
        "prediction": float(prediction[0]),
    }


def _read_committed() -> int:
    """Return the committed memory of this process tree, now."""
    gc.collect()
    with measure() as now:
        pass
    return int(now.baseline_bytes)
