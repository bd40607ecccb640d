"""What arranging costs in memory, in a process of its own."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from tests.memory.sharing import run_python

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="the peak of a process is read from /proc"
)

ALLOWED_BYTES = 64_000_000

SCRIPT = """
import json
import numpy as np
from sklearn.model_selection import GroupKFold, KFold, StratifiedKFold
import skl_mmap
from skl_mmap.orders import arrange
from skl_mmap.memory import trim_heap
from skl_mmap.monitor import own_memory

n_samples, n_columns = {n_samples}, 20
rng = np.random.default_rng(0)
X = np.empty((n_samples, n_columns), order={order!r})
for start in range(0, n_samples, 10_000):
    X[start : start + 10_000] = rng.random((min(10_000, n_samples - start), n_columns))
y = rng.integers(0, 3, n_samples)
groups = rng.integers(0, 50, n_samples)
# What is imported and cached at the first use.
groups = groups if "Group" in {cv!r} else None
few = None if groups is None else groups[:1000]
arrange(X[:1000], y[:1000], cv={cv}, groups=few)
trim_heap()
before = own_memory(reset_peak=True)
with skl_mmap.measure(interval_seconds=0.005) as cost:
    Xs, ys, cv = arrange(X, y, cv={cv}, groups=groups)
    after = own_memory()
assert np.array_equal(Xs[:1000], X[cv.permutation[:1000]])
print(json.dumps(dict(
    result=Xs.nbytes + ys.nbytes,
    own_peak=after.peak_bytes - before.resident_bytes,
    own_growth=after.anonymous_bytes - before.anonymous_bytes,
    tree_peak=cost.peak_growth_bytes,
    shared=cost.peak.shared_bytes,
)))
"""


def measured(**parameters: Any) -> dict[str, int]:
    output = run_python(SCRIPT.format(**parameters))
    result: dict[str, int] = json.loads(output)
    return result


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "cv",
    ["StratifiedKFold(5, shuffle=True, random_state=0)", "GroupKFold(5)"],
)
def test_the_peak_is_the_result_and_64_mb(cv: str, order: str) -> None:
    cost = measured(n_samples=1_000_000, order=order, cv=cv)
    # The result is shared: it is not the process's own until it is read.
    assert cost["own_peak"] < ALLOWED_BYTES
    # Index arrays at least; otherwise nothing was measured.
    assert cost["own_peak"] > 20_000_000
    assert cost["shared"] > 0.9 * cost["result"]
    assert cost["tree_peak"] < cost["result"] + ALLOWED_BYTES
    # The permutation, and a heap that is not quite given back.
    assert cost["own_growth"] < 8_000_000 + 4_000_000
