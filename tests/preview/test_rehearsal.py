"""A rehearsal is exact, costs next to nothing, and nobody else notices it."""

from __future__ import annotations

import json
import threading
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import skl_mmap
from skl_mmap.backend import Options
from skl_mmap.memory import (
    Cause,
    Cost,
    IndexHandle,
    Placement,
    Reason,
    Store,
    can_remap,
    counters,
    find_mapping,
    find_runs,
    plan_rows,
    rebuild_array,
    rebuild_index,
    select_rows,
)
from skl_mmap.preview._rehearsal import Rehearsal
from tests.memory.sharing import (
    mapped_bytes,
    run_python,
    send,
    shared_with,
    take_counted,
)
from tests.strategies import examples

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

N_ROWS = 40_000
OPTIONS = Options(min_bytes=64 << 10)


def make_store() -> Store:
    """Make a store as it is in a call with four workers."""
    store = Store(Placement.from_parameter("memory"), OPTIONS.settings)
    store.next_call(4)
    return store


@st.composite
def row_patterns(draw: st.DrawFn) -> np.ndarray[Any, Any]:
    """Runs of any length and in any order, some of which continue pages."""
    runs = []
    for _ in range(draw(st.integers(1, 8))):
        unit = draw(st.sampled_from([1, 512]))
        start = draw(st.integers(0, N_ROWS // unit - 1)) * unit
        length = draw(st.sampled_from([1, 7, 1024, 9000])) + draw(st.integers(0, 3))
        runs.append(np.arange(start, min(start + length, N_ROWS)))
    rows = np.concatenate(runs)
    if draw(st.booleans()):
        return rows
    mask = np.zeros(N_ROWS, dtype=bool)
    mask[rows] = True
    return mask


@examples(120)
@given(
    rows=row_patterns(),
    n_columns=st.sampled_from([1, 3, 5, 16]),
    dtype=st.sampled_from(["f8", "f4", "i2", "u1"]),
)
def test_any_runs_of_any_rows(
    rows: np.ndarray[Any, Any], n_columns: int, dtype: str
) -> None:
    X = np.ones((N_ROWS, n_columns), dtype)
    store = make_store()
    cost = Rehearsal(X, None, OPTIONS).plan(rows)
    if X.nbytes < 64 << 10:
        assert cost.mapped_bytes == 0
        return
    handle, _segment = shared_with(store, X)
    shared = rebuild_array(send(handle))
    counters.take()
    selected = shared[rows]
    assert counters.take() == Cost(cost.mapped_bytes, cost.counted)
    shifted_bytes = cost.copied.get(Cause(Reason.SHIFTED), 0)
    assert cost.mapped_bytes + shifted_bytes == mapped_bytes(selected)
    assert cost.n_bytes == selected.nbytes


def test_labels_made_of_runs() -> None:
    index = np.r_[7:70_007, 90_001:150_001]
    runs = find_runs(index, 150_001, max_runs=9)
    assert runs is not None
    rows = np.r_[0:65_536, 70_000:130_000]
    store = make_store()
    shared = store.identity(150_001)
    assert shared is not None
    rebuilt = rebuild_index(IndexHandle(tuple(map(tuple, runs.tolist())), shared[0]))
    counters.take()
    assert select_rows(rebuilt, rows, np.ndarray) is not None
    really = counters.take()
    rehearsal = Rehearsal(None, None, OPTIONS)
    planned = rehearsal.rebuild_index(index, runs)
    cost = plan_rows(rehearsal.geometry_of(planned), rows).cost
    assert Cost(cost.mapped_bytes, cost.counted) == really
    assert 0 < really.mapped_bytes < rows.nbytes


def _sum_rows(X: Any, rows: Any) -> tuple[float, int]:
    selected = X[rows]
    return float(selected.sum()), mapped_bytes(selected)


@pytest.mark.parametrize("is_shared", [True, False])
def test_what_is_rehearsed_is_an_ordinary_array_to_all_others(is_shared: bool) -> None:
    X: Any = np.arange(N_ROWS * 8.0).reshape(N_ROWS, 8)
    X = skl_mmap.share(X) if is_shared else X
    rows = np.r_[0:16_384, 20_480:N_ROWS]
    expected = np.array(np.asarray(X)[rows])
    rehearsal = Rehearsal(X, None, OPTIONS)
    assert rehearsal.plan(rows).mapped_bytes == expected.nbytes
    assert (find_mapping(X) is not None) == is_shared
    assert isinstance(rehearsal.X, skl_mmap.SharedArray)
    counters.take()
    np.testing.assert_array_equal(rehearsal.X[rows], expected)
    np.testing.assert_array_equal(X[rows], expected)
    n_mapped, _ = take_counted()
    # If X is shared, both are joined views of its mapping.
    assert n_mapped == (2 * expected.nbytes if is_shared else 0)
    with joblib.parallel_config(backend="mmap", n_jobs=2):
        sums = joblib.Parallel()(joblib.delayed(_sum_rows)(X, rows) for _ in "ab")
    assert sums == [(expected.sum(), expected.nbytes)] * 2


def test_reports_made_at_the_same_time_are_equal() -> None:
    X = skl_mmap.share(np.ones((N_ROWS, 8)))
    rows = np.arange(N_ROWS)
    expected = skl_mmap.check_folds(7, X)
    wrong: list[Any] = []

    def check() -> None:
        reports = [skl_mmap.check_folds(7, X) for _ in range(5)]
        wrong.extend(report for report in reports if report != expected)

    threads = [threading.Thread(target=check) for _ in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if not (X[rows] == 1.0).all():
            wrong.append(X)
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_counters_of_this_process_do_not_move() -> None:
    X = skl_mmap.share(np.ones((N_ROWS, 8)))
    counters.take()
    counters.add(Cost(3))
    skl_mmap.check_folds(3, X)
    assert take_counted() == (3, {})


# Each is 64 MB, and folds of it are copied.
MEMORY_SCRIPT = """
import json
import numpy as np, pandas as pd
from sklearn.model_selection import KFold
from scipy import sparse
import skl_mmap

def peak_bytes():
    with open("/proc/self/status") as file:
        lines = dict(line.split(":", 1) for line in file)
    return int(lines["VmHWM"].split()[0]) << 10

n = 80_000
def matrix(n):
    return np.ones((n, 100))
def frame(n):
    return pd.DataFrame(np.asfortranarray(matrix(n)))
def text(n):
    frame = pd.DataFrame(matrix(n)[:, :80])
    for i in range(20):
        frame[f"text{i}"] = pd.Series(["some text"] * n, dtype=object)
    return frame
def fortran(n):
    return np.asfortranarray(matrix(n))
def csr(n):
    indptr = np.arange(n + 1) * 66
    indices = np.tile(np.arange(66), n).astype("i4")
    return sparse.csr_array((np.ones(66 * n), indices, indptr), shape=(n, 70))
def by_value(n):
    return matrix(n).astype(object)

halves = [(np.r_[0:n // 2, n // 2 + 1:n], np.arange(n // 3))]
shuffled = KFold(3, shuffle=True, random_state=0)
ratios = {}
for make, row_order in [
    (matrix, "exact"), (frame, "any"), (text, "exact"), (fortran, "exact"),
    (csr, "any"), (by_value, "exact"),
]:
    skl_mmap.check_folds(3, make(20_000), row_order=row_order)
    X = make(n)
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    before = peak_bytes()
    for cv in halves, shuffled, 3:
        report = skl_mmap.check_folds(cv, X, row_order=row_order)
        assert report.copied_bytes + report.mapped_bytes > 60e6
    ratios[make.__name__] = (peak_bytes() - before) / 64e6
    del X
print(json.dumps(ratios))
"""


def test_it_needs_less_than_a_tenth_of_the_data() -> None:
    ratios = json.loads(run_python(MEMORY_SCRIPT))
    assert len(ratios) == 6
    assert max(ratios.values()) < 0.1, ratios
