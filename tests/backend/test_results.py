"""Results refer to shared rows where they can, and live as long as they are needed."""

from __future__ import annotations

import copy
import gc
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from tests.backend.common import (
    SegmentWatch,
    call_each,
    list_own_mappings,
    list_own_memfds,
    numbered_rows,
    run_script,
    script_environment,
    use_mmap,
)

Array = npt.NDArray[Any]

# Rows are whole pages, so that every run of them can be mapped.
N_ROWS, N_COLUMNS = 1000, 512
TRAIN = np.r_[0:300, 500:N_ROWS]


def make_matrix() -> Array:
    return numbered_rows(N_ROWS, N_COLUMNS)


def itself(X: Any) -> Any:
    return X


def select(X: Array, rows: Array) -> Array:
    return X[rows]


def select_and_change(X: Array, rows: Array) -> Array:
    part = X[rows]
    part[5, 7] = -1.0
    return part


def select_middle(X: Array, rows: Array) -> Array:
    return X[rows][100:400, ::2]


def change_source_first(X: Array, rows: Array) -> Array:
    X[200] = -1.0
    return X[rows]


def is_shared(array: Array) -> bool:
    """Whether an array of this process lies in a file in memory."""
    return inode_of(array) != ""


def inode_of(array: Array) -> str:
    """Return the number of the file in memory that an array lies in; empty if none."""
    address = array.__array_interface__["data"][0]
    for line in list_own_mappings():
        place, _, _, _, inode, *_ = line.split()
        start, stop = (int(number, 16) for number in place.split("-"))
        if start <= address < stop:
            return inode
    return ""


@pytest.fixture(name="segments")
def watch_segments() -> SegmentWatch:
    return SegmentWatch()


@pytest.mark.parametrize("row_order", ["exact", "any"])
def test_rows_come_back_without_a_copy(row_order: str) -> None:
    X = make_matrix()
    with use_mmap(row_order=row_order):
        parts = call_each(select, X, TRAIN)
    for part in parts:
        assert type(part) is np.ndarray, "what a task returns is ordinary"
        assert is_shared(part)
        np.testing.assert_array_equal(part, X[TRAIN])


def test_part_of_a_fold_comes_back_without_a_copy() -> None:
    X = make_matrix()
    with use_mmap():
        [part] = call_each(select_middle, X, TRAIN, n_tasks=1)
    assert is_shared(part)
    np.testing.assert_array_equal(part, X[TRAIN][100:400, ::2])


def select_and_change_last(X: Array, rows: Array) -> Array:
    part = X[rows]
    part[-1, -1] = -1.0
    return part


# Rows of 56 and 400 bytes leave some that cannot be mapped.
@pytest.mark.parametrize("n_columns", [7, 50, N_COLUMNS])
@pytest.mark.parametrize(
    "task", [select_and_change, select_and_change_last, change_source_first]
)
def test_changed_rows_come_back_as_they_are(task: Any, n_columns: int) -> None:
    X = numbered_rows(N_ROWS, n_columns)
    if n_columns == 7:
        X = X.repeat(2, axis=1)
    expected = task(X.copy(), TRAIN)
    with use_mmap():
        parts = call_each(task, X, TRAIN)
    for part in parts:
        np.testing.assert_array_equal(part, expected)


def test_changed_rows_are_memory_of_their_own() -> None:
    with use_mmap():
        X = make_matrix()
        [part] = call_each(select_and_change, X, TRAIN, n_tasks=1)
        [same] = call_each(select, X, TRAIN, n_tasks=1)
        assert inode_of(part) not in {inode_of(same), ""}
    del X
    assert part[5, 7] == -1


def test_results_may_be_written_to_and_stay_apart() -> None:
    X = make_matrix()
    with use_mmap():
        first, second = call_each(select, X, TRAIN, n_tasks=2)
    first[0, 0] = -1
    assert second[0, 0] == X[0, 0] == 0
    assert first[0, 0] == -1


def test_read_only_results_refuse_writes() -> None:
    with use_mmap(mmap_mode="r"):
        [part] = call_each(select, make_matrix(), TRAIN, n_tasks=1)
    with pytest.raises(ValueError, match="read-only"):
        part[0, 0] = 1


def shut_down_pool() -> None:
    import loky

    loky.get_reusable_executor().shutdown(wait=True, kill_workers=True)


def write_to_one(first: npt.NDArray[Any], second: npt.NDArray[Any]) -> Any:
    first[0] = -1
    return first is second, int(second[0])


def test_an_index_array_that_is_given_twice_stays_one() -> None:
    rows = np.arange(100_000)
    with use_mmap():
        assert call_each(write_to_one, rows, rows, n_tasks=1) == [(True, -1)]
        assert call_each(write_to_one, rows, rows + 0, n_tasks=1) == [(False, 0)]


def test_results_outlive_source_block_and_workers() -> None:
    X = make_matrix()
    expected = X[TRAIN]
    with use_mmap():
        [part] = call_each(select, X, TRAIN, n_tasks=1)
    del X
    shut_down_pool()
    gc.collect()
    np.testing.assert_array_equal(part, expected)
    part[3] = 5
    assert (part[3] == 5).all()


def test_results_may_be_sent_to_workers_again() -> None:
    X = make_matrix()
    with use_mmap():
        [part] = call_each(select, X, TRAIN, n_tasks=1)
    n_segments = len(list_own_memfds())
    with use_mmap():
        again = call_each(select, part, np.arange(100, 700), n_tasks=2)
        # Nothing had to be shared for that but, at most, the numbers of the rows.
        assert len(list_own_memfds()) <= n_segments + 1
    for rows in again:
        np.testing.assert_array_equal(rows, X[TRAIN][100:700])


LOAD = """
import pickle, sys
with open(sys.argv[1], "rb") as file:
    array = pickle.load(file)
print(type(array).__name__, array.shape, array.sum(), array.flags.writeable)
"""


def test_results_are_pickled_by_value(tmp_path: Path) -> None:
    X = make_matrix()
    with use_mmap():
        [part] = call_each(select, X, TRAIN, n_tasks=1)
    path = tmp_path / "part.pickle"
    path.write_bytes(pickle.dumps(part))
    assert path.stat().st_size > part.nbytes
    expected = f"ndarray {part.shape} {X[TRAIN].sum()} True\n"
    del part
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(path)],
        check=True,
        capture_output=True,
        text=True,
        env=script_environment(),
    )
    assert result.stdout == expected


def test_copies_of_results_are_memory_of_their_own() -> None:
    with use_mmap():
        [part] = call_each(select, make_matrix(), TRAIN, n_tasks=1)
    for copied in (part.copy(), copy.copy(part), copy.deepcopy(part), part + 0):
        assert not is_shared(copied)
        assert type(copied) is np.ndarray


def test_everything_is_freed_with_the_last_result(segments: SegmentWatch) -> None:
    with use_mmap():
        parts = call_each(select, make_matrix(), TRAIN)
        assert not segments.are_freed()
    assert not segments.are_freed(), "the results need it"
    del parts[1:]
    assert parts[0][0, 1] == 1
    del parts
    assert segments.wait()


def test_block_frees_what_no_result_uses(segments: SegmentWatch) -> None:
    X = make_matrix()
    with use_mmap():
        assert call_each(np.sum, X) == [X.sum()] * 4
    assert segments.wait()


def test_source_that_dies_is_freed_within_the_block(segments: SegmentWatch) -> None:
    with use_mmap():
        X = make_matrix()
        call_each(np.sum, X)
        assert not segments.are_freed()
        del X
        assert segments.wait()


def first_rows(X: Array, n_rows: int) -> Array:
    return X[:n_rows]


def test_small_part_does_not_keep_all_of_the_rows(segments: SegmentWatch) -> None:
    with use_mmap(min_bytes="1M"):
        [part] = call_each(first_rows, make_matrix(), 1, n_tasks=1)
    assert part.tolist() == [list(range(N_COLUMNS))]
    assert segments.wait(), "one row keeps a matrix in memory"


class Owner:
    """Has a method that is a task."""

    def __init__(self, X: Array) -> None:
        self.X = X

    def total(self, train: Any = None) -> float:
        return float(self.X.sum())


@pytest.mark.parametrize("row_order", ["exact", "any"])
def test_methods_that_were_tasks_do_not_keep_their_object(
    row_order: str, segments: SegmentWatch
) -> None:
    with use_mmap(row_order=row_order):
        [part] = call_each(itself, make_matrix(), n_tasks=1)
        owner = Owner(part)
        assert call_each(owner.total, n_tasks=2) == [make_matrix().sum()] * 2
    del part, owner
    assert segments.wait()


VIEWS_SCRIPT = """
import numpy as np
import skl_mmap
from joblib import Parallel, delayed

def count_mappings():
    with open("/proc/self/maps") as maps:
        return sum("memfd:skl_mmap" in line for line in maps)

if __name__ == "__main__":
    X = np.arange(140_000.0).reshape(-1, 2)
    [rows] = Parallel(n_jobs=2, backend="mmap")([delayed(list)(X)])
    assert len(rows) == len(X)
    np.testing.assert_array_equal(rows[::1000], X[::1000])
    print(count_mappings() < 1000)
"""


def test_more_views_than_the_kernel_has_mappings_come_back(tmp_path: Path) -> None:
    # In a process of its own, which has no memory left if this goes wrong.
    assert run_script(tmp_path, VIEWS_SCRIPT).stdout == "True\n"


class Knot:
    """An object that only the garbage collector can free."""

    def __init__(self, X: Array) -> None:
        self.X = X
        self.knot = self


def make_knot(X: Array) -> int:
    Knot(X)
    return os.getpid()


def count_mappings() -> tuple[int, int]:
    return os.getpid(), len(list_own_mappings())


def select_nested(X: Array) -> float:
    return float(sum(part.sum() for part in (X[TRAIN], X[:500], X[TRAIN][:5])))


@pytest.mark.parametrize("task", [select_nested, make_knot])
def test_worker_has_nothing_mapped_after_a_task(task: Any) -> None:
    with use_mmap():
        call_each(task, make_matrix())
        found = call_each(count_mappings, n_tasks=8)
    assert dict(found) == dict.fromkeys(dict(found), 0)


def test_worker_has_nothing_mapped_after_an_error(tmp_path: Path) -> None:
    result = run_script(tmp_path, ERROR_SCRIPT)
    assert result.stdout == "0\n"
    assert result.stderr == ""


# One worker is asked again after its task has failed, which Parallel would not do.
ERROR_SCRIPT = """
import os
import numpy as np
from skl_mmap.backend import Options
from skl_mmap.backend._pool import get_executor
from skl_mmap.backend._task import Task, unpack
from skl_mmap.memory import Store

def fail(X):
    part = X[np.r_[0:300, 500:1000]]
    try:
        raise KeyError(part.sum())
    except KeyError as error:
        raise ValueError("no") from error

def count():
    with open("/proc/self/maps") as maps:
        return sum("memfd:skl_mmap" in line for line in maps)

class Call:
    def __init__(self, function, *args):
        self.function, self.args = function, args
    def __call__(self):
        return self.function(*self.args)

if __name__ == "__main__":
    options = Options(min_bytes=1)
    store = Store(options.placement, options.settings)
    executor = get_executor(1, Options(idle_worker_timeout=60), {})
    def run(call):
        return unpack(executor.submit(Task(call, store, options)).result())
    for _ in range(3):
        try:
            run(Call(fail, np.zeros((1000, 512))))
        except ValueError as error:
            assert "in fail" in str(error.__cause__)
    print(run(Call(count)))
    executor.shutdown(wait=True)
"""


NEIGHBOURS_SCRIPT = """
import joblib, numpy as np
import skl_mmap
from sklearn.model_selection import cross_validate, KFold
from sklearn.neighbors import KNeighborsRegressor

def anonymous_bytes():
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024

def run(X):
    return cross_validate(
        KNeighborsRegressor(3, algorithm="brute"), X, X[:, 0], cv=KFold(3),
        return_estimator=True, scoring=score, error_score="raise",
    )["estimator"]

def score(estimator, X, y):
    return 0.0

if __name__ == "__main__":
    X = np.random.default_rng(0).normal(size=(30_000, 150))
    for backend, parameters in (("mmap", {"row_order": "any"}), ("loky", {})):
        with joblib.parallel_config(backend=backend, n_jobs=2, **parameters):
            run(X[:3000])
            before = anonymous_bytes()
            models = run(X)
            print((anonymous_bytes() - before) / X.nbytes)
        assert all(len(model._fit_X) == 20_000 for model in models)
        del models
"""


@pytest.mark.slow
def test_fitted_neighbours_cost_the_parent_nothing(tmp_path: Path) -> None:
    ratio, loky_ratio = map(
        float, run_script(tmp_path, NEIGHBOURS_SCRIPT).stdout.split()
    )
    # Three models with two thirds of X each.
    assert loky_ratio > 1.5
    assert ratio < 0.1
