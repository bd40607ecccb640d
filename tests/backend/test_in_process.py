"""Calls that stay in one process: the same results, without copies of folds."""

from __future__ import annotations

import functools
import gc
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from joblib import Parallel, delayed, parallel_config
from sklearn.base import BaseEstimator
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.neighbors import KNeighborsRegressor

import skl_mmap
from skl_mmap.monitor import CallRecord, listen, unlisten
from tests.backend.common import (
    SegmentWatch,
    call_each,
    numbered_rows,
    recorded,
    use_mmap,
)
from tests.strategies import arrays, examples, row_keys

N_ROWS, N_COLUMNS = 4096, 16
TRAIN = np.r_[0:1024, 2048:N_ROWS]

Array = npt.NDArray[Any]


def use_one_job(**parameters: Any) -> Any:
    return use_mmap(**{"n_jobs": 1, **parameters})


def make_plain(folder: Path) -> Array:
    return numbered_rows(N_ROWS, N_COLUMNS)


def open_file(folder: Path, mode: Any = "r") -> Any:
    X = numbered_rows(N_ROWS, N_COLUMNS)
    np.save(folder / "X.npy", np.sin(X, out=X, where=X > 0))
    return np.load(folder / "X.npy", mmap_mode=mode)


def view_file(folder: Path) -> Array:
    return np.asarray(open_file(folder))


def view_shared(folder: Path) -> Array:
    return np.asarray(skl_mmap.share(np.sin(numbered_rows(N_ROWS, N_COLUMNS))))


def view_loaded(folder: Path) -> Array:
    open_file(folder)
    return np.asarray(skl_mmap.load(folder / "X.npy"))


def make_large(folder: Path) -> Array:
    """Return an array that has a mapping of its own, and so can be adopted."""
    return np.arange(35_000 * 128, dtype=float).reshape(35_000, 128).copy()


MAPPED: dict[str, Callable[[Path], Array]] = {
    "file": open_file,
    "view of a file": view_file,
    "shared": view_shared,
    "loaded": view_loaded,
    "adopted": make_large,
}
OPTIONS: dict[str, dict[str, Any]] = {"adopted": {"adopt": True}}
UNMAPPED: dict[str, Callable[[Path], Array]] = {
    "plain": make_plain,
    "file to write to": functools.partial(open_file, mode="r+"),
    "private file": functools.partial(open_file, mode="c"),
}


def select(X: Any, rows: Any) -> Any:
    return X[rows]


def is_mapped(fold: Array) -> bool:
    """Return whether the memory of an array is a file's, or no array's at all."""
    owner: Any = fold
    while isinstance(owner, np.ndarray) and owner.base is not None:
        owner = owner.base
    return not isinstance(owner, np.ndarray)


def run_one(function: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Call a function as a task of a call with one job."""
    with use_one_job(**options):
        return call_each(function, *args, n_tasks=1)[0]


def outcome(function: Callable[..., Any], *args: Any) -> Any:
    """Return what a function returns, or its error as a text."""
    try:
        return function(*args)
    except Exception as error:  # noqa: BLE001 - whatever NumPy raises
        return repr(error)


class TestResults:
    @pytest.mark.parametrize("kind", [*MAPPED, *UNMAPPED])
    def test_folds_are_those_of_numpy(self, kind: str, tmp_path: Path) -> None:
        X = {**MAPPED, **UNMAPPED}[kind](tmp_path)
        expected = X[TRAIN]
        fold = run_one(select, X, TRAIN, **OPTIONS.get(kind, {}))
        assert type(fold) is np.ndarray
        assert fold.flags.writeable
        np.testing.assert_array_equal(fold, expected)
        assert is_mapped(fold) is (kind in MAPPED)

    @given(data=st.data())
    @examples(25)
    def test_any_rows_of_any_file(
        self, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
    ) -> None:
        array = data.draw(arrays())
        if array.dtype.hasobject or not array.ndim or not array.nbytes:
            return
        path = tmp_path_factory.mktemp("file") / "X.npy"
        np.save(path, array)
        X = np.load(path, mmap_mode="r")
        key = data.draw(row_keys(len(array)))
        expected, fold = outcome(select, X, key), outcome(run_one, select, X, key)
        if isinstance(expected, str):
            assert fold == expected
            return
        assert fold.dtype == expected.dtype
        assert fold.shape == expected.shape
        assert fold.strides == expected.strides
        assert fold.tobytes() == expected.tobytes()

    @pytest.mark.parametrize("kind", ["file", "shared"])
    @pytest.mark.parametrize("model", [Ridge(), KNeighborsRegressor()])
    def test_scores_and_models_are_those_of_loky(
        self, kind: str, model: Any, tmp_path: Path
    ) -> None:
        X = MAPPED[kind](tmp_path)
        # Numbers that all count: sums of them depend on the order.
        y = np.sin(X[:, 0])
        found = []
        for block in (parallel_config("loky", n_jobs=1), use_one_job()):
            with block:
                result = cross_validate(model, X, y, cv=3, return_estimator=True)
            predicted = [fit.predict(X[:20]) for fit in result["estimator"]]
            found.append([result["test_score"], *predicted])
        for expected, actual in zip(*found, strict=True):
            np.testing.assert_array_equal(actual, expected)

    @pytest.mark.parametrize("kind", UNMAPPED)
    def test_what_cannot_be_mapped_is_left_alone(
        self, kind: str, tmp_path: Path
    ) -> None:
        X = UNMAPPED[kind](tmp_path)
        given: list[Any] = []
        run_one(given.append, X)
        assert given[0] is X

    def test_small_arrays_and_all_with_nothing_shared_are_left_alone(
        self, tmp_path: Path
    ) -> None:
        X = open_file(tmp_path)
        for min_bytes in (X.nbytes + 1, None):
            given: list[Any] = []
            run_one(given.append, X, min_bytes=min_bytes)
            assert given[0] is X

    def test_arrays_in_results_are_those_of_the_caller(self, tmp_path: Path) -> None:
        X = open_file(tmp_path)

        def give_back(X: Any) -> Any:
            return X, [X, {"X": X}], X.T, (1, 2)

        own, [inner, innermost], transposed, rest = run_one(give_back, X)
        assert own is X
        assert inner is X
        assert innermost["X"] is X
        assert type(transposed) is np.ndarray
        assert rest == (1, 2)

    def test_an_array_given_twice_stays_one(self, tmp_path: Path) -> None:
        X = open_file(tmp_path)
        assert run_one(lambda a, b: a is b, X, X)

    def test_frames_in_shared_memory(self) -> None:
        pd = pytest.importorskip("pandas")
        frame = pd.DataFrame(numbered_rows(N_ROWS, N_COLUMNS))
        X = skl_mmap.share(frame)
        y = np.arange(N_ROWS, dtype=float)
        expected = cross_validate(Ridge(), frame, y, cv=3)["test_score"]
        with recorded() as records, use_one_job():
            scores = cross_validate(Ridge(), X, y, cv=3)["test_score"]
        np.testing.assert_allclose(scores, expected)
        assert sum(record.mapped_bytes for record in records) > X.size * 8


class TestWrites:
    def test_of_tasks_to_the_array_are_seen_by_the_caller(self, tmp_path: Path) -> None:
        def write(X: Any) -> None:
            X[0] = -1.0

        for kind in ("shared", "adopted"):
            X = MAPPED[kind](tmp_path)
            with use_one_job(**OPTIONS.get(kind, {})):
                call_each(write, X, n_tasks=1)
                assert X[0, 0] == -1.0
                assert call_each(select, X, TRAIN)[0][0, 0] == -1.0

    def test_to_a_fold_are_private(self, tmp_path: Path) -> None:
        def write(X: Any) -> Any:
            fold = X[TRAIN]
            fold[:] = -1.0
            return X[TRAIN]

        for kind, make in MAPPED.items():
            X = make(tmp_path)
            expected = X[TRAIN]
            fold = run_one(write, X, **OPTIONS.get(kind, {}))
            np.testing.assert_array_equal(fold, expected)

    def test_to_a_read_only_file_are_refused(self, tmp_path: Path) -> None:
        def write(X: Any) -> None:
            X[0] = -1.0

        with pytest.raises(ValueError, match="read-only"):
            run_one(write, open_file(tmp_path))

    def test_are_refused_with_read_only_folds(self, tmp_path: Path) -> None:
        fold = run_one(select, open_file(tmp_path), TRAIN, mmap_mode="r")
        assert not fold.flags.writeable


class TestWhatOutlivesATask:
    @pytest.mark.parametrize("mmap_mode", ["c", "r"])
    @pytest.mark.parametrize("make", [open_file, view_loaded])
    def test_does_not_change_with_the_file(
        self, make: Callable[[Path], Array], mmap_mode: str, tmp_path: Path
    ) -> None:
        X = make(tmp_path)
        fold = run_one(select, X, TRAIN, mmap_mode=mmap_mode)
        expected = fold.copy()
        writer = np.load(tmp_path / "X.npy", mmap_mode="r+")
        writer[:] = -1.0
        writer.flush()
        np.testing.assert_array_equal(fold, expected)
        os.truncate(tmp_path / "X.npy", 0)
        np.testing.assert_array_equal(fold, expected)
        del X, writer
        gc.collect()
        assert str(tmp_path) not in Path("/proc/self/maps").read_text()

    def test_does_not_lose_what_was_written_to_it(self, tmp_path: Path) -> None:
        def write(X: Any) -> Any:
            fold = X[TRAIN]
            fold[5] = -1.0
            return fold

        X = open_file(tmp_path)
        expected = X[TRAIN]
        expected[5] = -1.0
        np.testing.assert_array_equal(run_one(write, X), expected)

    def test_what_was_there_before_stays_mapped(self, tmp_path: Path) -> None:
        X = view_loaded(tmp_path)
        run_one(select, X, TRAIN)
        assert count_mapped_bytes(tmp_path / "X.npy") >= X.nbytes

    def test_folds_of_an_outer_task_stay_mapped(self, tmp_path: Path) -> None:
        X = open_file(tmp_path)

        def select_and_nest(X: Any) -> list[int]:
            fold = X[TRAIN]
            # A plain array, as input validation makes one.
            call_each(select, np.asarray(X), TRAIN[:2000], n_tasks=2)
            return [fold.nbytes, count_mapped_bytes(tmp_path / "X.npy")]

        n_bytes, mapped_bytes = run_one(select_and_nest, X)
        assert mapped_bytes > 0.9 * (X.nbytes + n_bytes)

    def test_keeps_shared_memory_and_lets_go_of_it(self, tmp_path: Path) -> None:
        watch = SegmentWatch()
        X = view_shared(tmp_path)
        expected = X[TRAIN]
        fold = run_one(select, X, TRAIN)
        del X
        np.testing.assert_array_equal(fold, expected)
        assert not watch.are_freed()
        del fold
        assert watch.are_freed()


def count_mapped_bytes(path: Path) -> int:
    """Return how many bytes of a file are mapped in this process."""
    total = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        if line.endswith(str(path)):
            start, stop = (int(n, 16) for n in line.split()[0].split("-"))
            total += stop - start
    return total


class TestErrors:
    @pytest.mark.parametrize("kind", [*MAPPED, *UNMAPPED])
    def test_come_as_they_are(self, kind: str, tmp_path: Path) -> None:
        X = {**MAPPED, **UNMAPPED}[kind](tmp_path)

        def fail(X: Any) -> None:
            raise KeyError(float(X[:1][0, 0]))

        with pytest.raises(KeyError) as raised:
            run_one(fail, X, **OPTIONS.get(kind, {}))
        assert raised.value.args == (0.0,)
        assert raised.value.__cause__ is None
        assert traceback.extract_tb(raised.value.__traceback__)[-1].name == "fail"

    def test_leave_nothing_behind_while_they_are_kept(self, tmp_path: Path) -> None:
        X = open_file(tmp_path)
        n_files = len(os.listdir("/proc/self/fd"))
        kept = []
        for _ in range(3):
            try:
                run_one(lambda X: 1 / 0, X)
            except ZeroDivisionError as error:
                kept.append(error)
        assert len(kept) == 3
        assert len(os.listdir("/proc/self/fd")) == n_files

    def test_no_jobs_at_all(self) -> None:
        with use_mmap(n_jobs=0), pytest.raises(ValueError, match="n_jobs == 0"):
            call_each(abs, 1)


class TestCalls:
    def test_generators_run_a_task_when_its_result_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        X = open_file(tmp_path)
        n_files = len(os.listdir("/proc/self/fd"))
        done: list[int] = []

        def take(X: Any, number: int) -> Any:
            done.append(number)
            return X[TRAIN[number:]]

        with use_one_job():
            tasks = (delayed(take)(X, i) for i in range(4))
            results = Parallel(return_as="generator")(tasks)
        assert done == []
        np.testing.assert_array_equal(next(results), X[TRAIN])
        assert done == [0]
        np.testing.assert_array_equal(next(results), X[TRAIN[1:]])
        del results, tasks
        assert len(os.listdir("/proc/self/fd")) == n_files

    def test_one_object_for_several_calls(self, tmp_path: Path) -> None:
        X = open_file(tmp_path)
        with use_one_job(), Parallel(n_jobs=1) as parallel:
            for _ in range(2):
                (fold,) = parallel([delayed(select)(X, TRAIN)])
                assert is_mapped(fold)
        with use_one_job():
            parallel = Parallel()
            for _ in range(2):
                assert is_mapped(*parallel([delayed(select)(X, TRAIN)]))

    def test_objects_go_without_the_garbage_collector(self, tmp_path: Path) -> None:
        X = view_shared(tmp_path)
        watch = SegmentWatch()
        gc.disable()
        try:
            with use_one_job():
                call_each(select, X, TRAIN)
            del X
            assert not any("memfd" in line for line in list_new(watch))
        finally:
            gc.enable()

    def test_tasks_of_nested_calls_get_the_backend_of_the_user(
        self, tmp_path: Path
    ) -> None:
        X = open_file(tmp_path)

        def nest(X: Any) -> Any:
            # In processes: the outer call counts for nothing.
            return Parallel(n_jobs=2)(delayed(where)(X, i) for i in range(2))

        for _, pid, kind in run_one(nest, X):
            assert pid != os.getpid()
            assert kind == "SharedArray"


def list_new(watch: SegmentWatch) -> list[str]:
    from tests.backend.common import list_own_memfds

    return [line for line in list_own_memfds() if line not in watch._before]


def where(X: Any, number: int) -> tuple[int, int, str]:
    return number, os.getpid(), type(X).__name__


class Null(BaseEstimator):  # type: ignore[misc]
    """An estimator that needs no memory."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any = None) -> Null:
        self.first_ = float(X[0, 0])
        return self

    def score(self, X: Any, y: Any = None) -> float:
        return self.first_


class TestRowOrder:
    def test_any_reorders_what_is_mapped_and_only_that(self, tmp_path: Path) -> None:
        # The first run is too short for a page.
        train = np.r_[3:5, 2048:N_ROWS]

        def take(X: Any, train: Any) -> Any:
            return X[train]

        plain, X = make_plain(tmp_path), open_file(tmp_path)
        np.testing.assert_array_equal(
            run_one(take, plain, train, row_order="any"), plain[train]
        )
        fold = run_one(take, X, train, row_order="any")
        assert fold[0, 0] == X[2048, 0]
        np.testing.assert_array_equal(np.sort(fold[:, 0]), np.sort(X[train][:, 0]))

    def test_of_nested_tasks_too(self, tmp_path: Path) -> None:
        X, y = open_file(tmp_path), np.arange(N_ROWS, dtype=float)
        with recorded() as records, use_one_job(row_order="any"):
            inner = GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=KFold(4))
            cross_validate(inner, X, y, cv=KFold(4))
        assert len(records) == 4, "nested tasks are a part of the outer ones"
        for record in records:
            assert record.mapped_bytes > 2 * X.nbytes
            assert record.copied_bytes < 0.1 * record.mapped_bytes


class TestAdopting:
    def test_happens_in_place_once_for_a_block(self, tmp_path: Path) -> None:
        X = make_large(tmp_path)
        address = X.ctypes.data
        with use_one_job(adopt=True):
            for _ in range(2):
                (fold,) = call_each(select, X, np.r_[0:1024, 2048 : len(X)], n_tasks=1)
                assert is_mapped(fold)
        assert X.ctypes.data == address
        X[0, 0] = -1.0
        assert fold[0, 0] == 0.0

    def test_is_refused_with_a_note(self, tmp_path: Path) -> None:
        X = make_plain(tmp_path)
        with skl_mmap.measure() as report, use_one_job(adopt=True):
            fold = call_each(select, X, TRAIN)[0]
        assert not is_mapped(fold)
        assert [note for note in report.notes if "was not adopted" in note]

    def test_is_not_done_for_what_tasks_make(self, tmp_path: Path) -> None:
        def nest() -> Any:
            made = make_large(tmp_path)
            return is_mapped(call_each(select, made, TRAIN, n_tasks=1)[0])

        assert not run_one(nest, adopt=True)


class TestReport:
    def test_says_what_could_not_be_mapped(self, tmp_path: Path) -> None:
        for make, n_notes in ((make_plain, 1), (open_file, 0)):
            with skl_mmap.measure() as report, use_one_job():
                call_each(select, make(tmp_path), TRAIN)
            assert len([n for n in report.notes if "as it is" in n]) == n_notes

    def test_names_tasks_and_what_they_mapped(self, tmp_path: Path) -> None:
        X, y = open_file(tmp_path), np.arange(N_ROWS, dtype=float)
        with skl_mmap.measure() as report, use_one_job(row_order="any"):
            search = GridSearchCV(Null(), {"number": [1, 2]}, cv=KFold(4), refit=False)
            search.fit(X, y)
        tasks = report.report().tasks
        assert [task.label for task in tasks] == [
            f"Null, fold {fold} of 4" for fold in range(1, 5)
        ]
        for task in tasks:
            # y is a plain array, of which nothing is mapped.
            assert task.selected_bytes == 2 * X.nbytes
            assert task.mapped_bytes > 1.8 * X.nbytes
        (call,) = report.calls
        assert (call.n_jobs, call.n_splits) == (1, 4)
        assert call.options == {"min_bytes": 1, "row_order": "any"}
        (segment,) = report.segments
        assert (segment.place, segment.is_copy) == ("file", False)
        assert segment.path == str(tmp_path / "X.npy")

    def test_of_a_task_that_fails_is_there(self, tmp_path: Path) -> None:
        X = open_file(tmp_path)
        with recorded() as records, pytest.raises(ZeroDivisionError):
            run_one(lambda X: X[TRAIN].sum() / 0 if len(X) < 0 else 1 / 0, X)
        assert len(records) == 1
        with recorded() as records:
            run_one(select, X, TRAIN)
        assert len(records) == 1, "the next task is observed too"

    def test_calls_are_told_once(self, tmp_path: Path) -> None:
        calls: list[CallRecord] = []
        listener = listen(calls.append, CallRecord)
        try:
            run_one(lambda X: call_each(select, X, TRAIN), open_file(tmp_path))
        finally:
            unlisten(listener)
        assert len(calls) == 1


def nest_in_threads(X: Any, n_jobs: int) -> tuple[str, list[bool]]:
    """Select rows of a plain array in nested tasks, and say how they were run."""
    plain = np.asarray(X)
    parallel = Parallel(n_jobs=n_jobs)
    folds = parallel(delayed(select)(plain, TRAIN[i:]) for i in range(3))
    for i, fold in enumerate(folds):
        np.testing.assert_array_equal(fold, plain[TRAIN[i:]])
    return type(parallel._backend).__name__, [is_mapped(fold) for fold in folds]


class TestNestedInWorkers:
    @pytest.mark.parametrize("n_jobs", [1, 2])
    def test_folds_are_mapped(self, n_jobs: int, tmp_path: Path) -> None:
        X = make_plain(tmp_path)
        with use_mmap():
            results = call_each(nest_in_threads, X, n_jobs, n_tasks=2)
        # The names of joblib's own, which others may look at.
        name = "SequentialBackend" if n_jobs == 1 else "ThreadingBackend"
        assert results == [(name, [True] * 3)] * 2

    def test_options_reach_them(self, tmp_path: Path) -> None:
        X = make_plain(tmp_path)
        with use_mmap(min_bytes=X.nbytes):
            results = call_each(nest_in_threads, X[: len(X)], 2, n_tasks=2)
            assert results == [("ThreadingBackend", [True] * 3)] * 2
        with use_mmap(min_bytes=None):
            results = call_each(nest_in_threads, X, 2, n_tasks=2)
        assert results == [("ThreadingBackend", [False] * 3)] * 2

    def test_threads_of_the_user_map_what_is_shared(self, tmp_path: Path) -> None:
        X = skl_mmap.share(make_plain(tmp_path))
        with use_mmap():
            folds = Parallel(n_jobs=2, require="sharedmem")(
                delayed(select)(X, TRAIN[i:]) for i in range(3)
            )
        assert all(map(is_mapped, folds))


@pytest.mark.parametrize("kind", ["file", "adopted"])
def test_a_search_with_one_job_needs_no_memory_for_folds(
    kind: str, tmp_path: Path
) -> None:
    shape = (1 << 16, 128)  # 64 MiB
    np.save(tmp_path / "X.npy", numbered_rows(*shape))
    y = np.arange(len(numbered_rows(shape[0], 1)), dtype=float)
    growths = {}
    for backend in ("loky", "mmap"):
        mode = "r" if kind == "file" else None
        X = np.load(tmp_path / "X.npy", mmap_mode=mode)
        options: dict[str, Any] = {}
        if backend == "mmap":
            options = {"row_order": "any", "adopt": kind == "adopted"}
        search = GridSearchCV(Null(), {"number": [1, 2]}, cv=KFold(5), refit=False)
        with parallel_config(backend, n_jobs=1, **options):
            # A reading while X is being adopted may count some of it twice.
            call_each(len, X, n_tasks=1)
            with skl_mmap.measure(interval_seconds=0.005) as report:
                search.fit(X, y)
        assert report.peak_growth_bytes is not None
        growths[backend] = report.peak_growth_bytes / X.nbytes
    assert growths["loky"] > 0.6, "what is compared with"
    # Index arrays of all splits are 0.04 of it, and a reading may be 2 MiB wrong.
    assert growths["mmap"] < 0.1
