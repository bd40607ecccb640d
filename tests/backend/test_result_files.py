"""Large results reach the parent through files, and are what loky would give."""

from __future__ import annotations

import copy
import gc
import io
import os
import pickle
import weakref
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loky.backend.reduction import dumps as loky_dumps
from scipy import sparse
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.model_selection import cross_val_predict, cross_validate
from sklearn.naive_bayes import GaussianNB
from sklearn.neighbors import KNeighborsRegressor

from skl_mmap._linux import proc
from skl_mmap.backend._pickling import dump_result, load_result
from skl_mmap.memory import FilePool, ResultWriter
from tests import strategies
from tests.backend.common import (
    SegmentWatch,
    bytes_of_memfds,
    call_each,
    list_own_mappings,
    list_own_memfds,
    numbered_rows,
    run_script,
    use_mmap,
)

Array = npt.NDArray[Any]

N_ROWS = 1000


@pytest.fixture(name="segments")
def watch_segments() -> SegmentWatch:
    return SegmentWatch()


def is_mapped(array: Array) -> bool:
    """Whether an array of this process lies in a file in memory."""
    address = array.__array_interface__["data"][0]
    for line in list_own_mappings():
        start, stop = (int(number, 16) for number in line.split()[0].split("-"))
        if start <= address < stop:
            return True
    return False


def through_loky(value: object) -> Any:
    """Send a result as loky does."""
    return pickle.loads(loky_dumps(value))


def through_files(value: object, min_bytes: int = 1) -> Any:
    """Send a result as a worker does, within this process."""
    pool = FilePool.for_call(min_bytes)
    assert pool is not None
    files = pool.take()
    pickled = dump_result(value, ResultWriter(files.ticket))
    return load_result(through_loky(pickled))


def bits_of(array: Array) -> Any:
    """Return what an array holds, without what pads records."""
    if array.dtype.names is None:
        return array.tobytes()
    return [bits_of(np.asarray(array[name])) for name in array.dtype.names]


def check_array(found: Array, expected: Array) -> None:
    assert found.dtype == expected.dtype
    assert found.shape == expected.shape
    for flag in ("WRITEABLE", "C_CONTIGUOUS", "F_CONTIGUOUS"):
        assert found.flags[flag] == expected.flags[flag], flag
    steps = zip(found.shape, found.strides, expected.strides, strict=True)
    assert all(step == other for length, step, other in steps if length > 1)
    if found.dtype == object:
        check_same(found.tolist(), expected.tolist())
    else:
        assert found.flags.aligned
        assert bits_of(np.asarray(found)) == bits_of(np.asarray(expected))


def check_same(found: Any, expected: Any) -> None:
    """Compare two results, and all that they consist of."""
    assert type(found) is type(expected)
    if isinstance(found, np.ndarray):
        check_array(found, expected)
        if isinstance(found, np.ma.MaskedArray):
            check_same(np.asarray(found.data), np.asarray(expected.data))
            check_same(found.mask, expected.mask)
    elif isinstance(found, list | tuple):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            check_same(one, other)
    elif isinstance(found, dict):
        check_same(list(found.items()), list(expected.items()))
    elif isinstance(found, Holder) or sparse.issparse(found):
        check_same(vars(found), vars(expected))
    elif hasattr(found, "iloc"):
        assert found.equals(expected)
        assert found.dtypes.equals(expected.dtypes)
        for name in found:
            check_array(found[name].to_numpy(), expected[name].to_numpy())
    else:
        assert found == expected


def list_arrays(value: Any) -> list[Any]:
    """List the arrays of a result as often as they occur, in order."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, Holder):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    is_several = isinstance(value, list | tuple)
    return [a for part in value for a in list_arrays(part)] if is_several else []


class Holder:
    """An object that holds arrays, as fitted estimators do."""

    def __init__(self, **parts: Any) -> None:
        vars(self).update(parts)


def as_kind(array: Array, kind: str) -> Any:
    """Wrap an array, if that is possible."""
    if kind == "matrix" and array.ndim == 2:
        return array.view(np.matrix)
    if kind == "masked" and array.dtype.names is None and array.ndim:
        return np.ma.masked_array(array, np.arange(array.size).reshape(array.shape) % 2)
    if kind == "records" and array.dtype.names is not None:
        return array.view(np.recarray)
    if kind == "objects":
        wrapped = np.empty(2, object)
        wrapped[:] = [array, None]
        return wrapped
    if kind == "holder":
        return Holder(fitted_=array, name="a")
    return array


@st.composite
def results(draw: st.DrawFn) -> Any:
    """Results of all kinds: arrays, views of them, several times, and what has them."""
    kinds = st.sampled_from(
        ["array", "array", "matrix", "masked", "records", "objects", "holder"]
    )
    arrays = draw(st.lists(strategies.arrays(max_pages=3), min_size=1, max_size=4))
    values = [as_kind(array, draw(kinds)) for array in arrays]
    parts = [array[1:] if array.ndim else array for array in arrays]
    permuted = np.empty((3, 2, 4)).transpose(draw(st.permutations(range(3))))
    permuted[...] = 1
    return [values, parts, {"again": values[::-1], "permuted": permuted}, "end", None]


@strategies.examples(60)
@given(value=results(), min_bytes=st.sampled_from([1, 4096, 9000]))
def test_results_are_those_of_loky(value: Any, min_bytes: int) -> None:
    found, expected = through_files(value, min_bytes), through_loky(value)
    check_same(found, expected)
    arrays, others = list_arrays(found[:3]), list_arrays(expected[:3])
    for index, (array, other) in enumerate(zip(arrays, others, strict=True)):
        first = [a is array for a in arrays].index(True)
        assert first == [a is other for a in others].index(True), index


@strategies.examples(30)
@given(value=results())
def test_results_do_not_share_memory_more_than_those_of_loky(value: Any) -> None:
    found, expected = (
        list_arrays(through_files(value)),
        list_arrays(through_loky(value)),
    )
    for array, other in zip(found, expected, strict=True):
        if array.dtype == object or not array.flags.writeable or not array.size:
            continue
        np.asarray(array).reshape(-1)[:1].view()[...] = np.zeros(1, array.dtype)
        np.asarray(other).reshape(-1)[:1].view()[...] = np.zeros(1, array.dtype)
    for array, other in zip(found, expected, strict=True):
        if array.dtype != object:
            assert bits_of(np.asarray(array)) == bits_of(np.asarray(other))


def make_frame(X: Array) -> Any:
    pd = pytest.importorskip("pandas")
    dates = pd.date_range("2020", periods=len(X), freq="h")
    columns = {"a": X[:, 0], "b": X[:, 1], "n": np.arange(len(X)), "d": dates}
    return pd.DataFrame({**columns, "c": pd.Categorical(["x", "y"] * (len(X) // 2))})


def make_sparse(X: Array) -> Any:
    return sparse.csr_matrix(X)


def fit_neighbours(X: Array) -> Any:
    return KNeighborsRegressor().fit(X + 0, X[:, 0] + 0)


def make_views(X: Array) -> Any:
    base = X + 1
    return [base, base[:10], base[:, :2], base.T, base]


def make_dates(X: Array) -> Any:
    dates = np.arange(len(X) * 4).reshape(4, -1).astype("M8[s]")
    fixed = dates.copy()
    fixed.flags.writeable = False
    return [dates, dates.T, dates[::2], fixed]


def make_text(X: Array) -> Any:
    return {"text": ["a line of text"] * 10 + [str(i) for i in range(len(X))]}


def make_all_kinds(X: Array) -> Any:
    part = X[::2] + 1
    fixed = part.copy()
    fixed.flags.writeable = False
    return [
        *(part, part, np.asfortranarray(part), part[::3], part[:, ::-1], fixed),
        *(part.view(np.matrix), np.ma.masked_less(part, 100), part.astype(object)),
        *(part[:0], part[0, 0], part.astype("f4"), b"a" * 10_000, [], None),
        *(np.ones((3, 500, 2)).transpose(1, 0, 2), np.ones(()), part > 3),
    ]


MAKERS = [
    *(make_frame, make_sparse, fit_neighbours, make_views, make_dates, make_text),
    make_all_kinds,
]


@pytest.mark.parametrize("backend", ["mmap", "portable mmap"])
@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__)
def test_workers_return_what_those_of_loky_return(
    make: Any, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if backend == "portable mmap":
        monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
    X = numbered_rows(N_ROWS, 4)
    with joblib.parallel_config(backend="loky", n_jobs=2):
        expected = call_each(make, X, n_tasks=2)
    with use_mmap():
        found = call_each(make, X, n_tasks=2)
    if make is fit_neighbours:
        found, expected = ([vars(m) for m in models] for models in (found, expected))
        for model in (*found, *expected):
            model["_tree"] = [np.asarray(part) for part in model["_tree"].get_arrays()]
    check_same(found, expected)


def add_one(X: Array) -> Array:
    return X + 1


def test_large_results_are_mapped_and_ordinary() -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        parts = call_each(add_one, X)
    for part in parts:
        assert type(part) is np.ndarray
        assert is_mapped(part)
        assert part.flags.writeable
        np.testing.assert_array_equal(part, X + 1)


@pytest.mark.parametrize("min_bytes", [8 * 4 * N_ROWS, 8 * 4 * N_ROWS + 1, None])
def test_small_results_are_pickled(min_bytes: int | None) -> None:
    with use_mmap(min_bytes=min_bytes):
        [part] = call_each(add_one, numbered_rows(N_ROWS, 4), n_tasks=1)
    assert is_mapped(part) is (min_bytes == 8 * 4 * N_ROWS)


def test_writes_to_results_are_seen_nowhere_else() -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        first, second = call_each(add_one, X, n_tasks=2)
        first[...] = -1
        assert call_each(np.sum, first, n_tasks=1) == [-first.size]
    np.testing.assert_array_equal(second, X + 1)


@pytest.mark.parametrize("n_columns", [4, 2000])
def test_results_may_be_the_next_input(n_columns: int) -> None:
    X = numbered_rows(N_ROWS, n_columns)
    with use_mmap():
        [part] = call_each(add_one, X, n_tasks=1)
        [again] = call_each(add_one, part, n_tasks=1)
        part[0] = -5
        [changed] = call_each(add_one, part, n_tasks=1)
    np.testing.assert_array_equal(again, X + 2)
    assert (changed[0] == -4).all()
    np.testing.assert_array_equal(changed[1:], again[1:])


def test_large_result_is_shared_again_without_a_copy() -> None:
    with use_mmap():
        [part] = call_each(add_one, numbered_rows(N_ROWS, 2000), n_tasks=1)
        n_bytes = sum(bytes_of_memfds())
        call_each(np.sum, part, n_tasks=2)
        assert sum(bytes_of_memfds()) - n_bytes < part.nbytes / 2


def make_two(X: Array) -> tuple[Array, Array]:
    return X + 1, X + 2


def test_worker_lets_go_of_a_result_at_once() -> None:
    gc.disable()
    try:
        holder = Holder(array=np.ones(10_000))
        reference = weakref.ref(holder)
        dump_result([holder], ResultWriter(None))
        del holder
        assert reference() is None
    finally:
        gc.enable()


def test_array_that_is_kept_keeps_no_other(segments: SegmentWatch) -> None:
    with use_mmap():
        pairs = call_each(make_two, numbered_rows(N_ROWS, 4), n_tasks=4)
    kept = [first for first, _ in pairs]
    del pairs
    gc.collect()
    assert len(list_own_mappings()) == len(kept)
    del kept
    assert segments.wait()


def test_tasks_of_one_batch_keep_only_their_own(segments: SegmentWatch) -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        parts = joblib.Parallel(batch_size=4)(
            joblib.delayed(add_one)(X) for _ in range(8)
        )
    del parts[1:]
    gc.collect()
    assert len(list_own_mappings()) == 1
    np.testing.assert_array_equal(parts[0], X + 1)
    del parts
    assert segments.wait()


def test_nothing_is_open_after_a_call(segments: SegmentWatch) -> None:
    with use_mmap():
        X = numbered_rows(N_ROWS, 4)
        parts = call_each(add_one, X)
        del X, parts
        assert segments.wait()


def make_many(X: Array) -> list[Array]:
    return [X + number for number in range(40)]


def test_more_arrays_than_files_come_back() -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        [parts] = call_each(make_many, X, n_tasks=1)
    assert 10 <= sum(map(is_mapped, parts)) < 40
    for number, part in enumerate(parts):
        np.testing.assert_array_equal(part, X + number)
        assert part.flags.writeable


def make_long_text(n_lines: int) -> list[str]:
    return [f"this is line {number}" for number in range(n_lines)]


def test_long_pickles_travel_in_a_file(segments: SegmentWatch) -> None:
    pool = FilePool.for_call(1 << 16)
    assert pool is not None
    files = pool.take()
    writer = ResultWriter(files.ticket)
    pickled = dump_result(make_long_text(20_000), writer)
    assert not isinstance(pickled[0], bytes)
    assert load_result(pickled) == make_long_text(20_000)
    del files, pickled
    pool.close()
    assert segments.are_freed()


@pytest.mark.parametrize("n_before", [0, 3])
def test_long_pickles_for_which_memory_runs_out_stay_where_they_are(
    n_before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = FilePool.for_call(1 << 16)
    assert pool is not None
    files = pool.take()
    real, calls = os.pwrite, iter(range(1000))

    def fail(*args: Any) -> int:
        if next(calls) >= n_before:
            raise OSError(28, "No space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", fail)
        pickled = dump_result(make_long_text(40_000), ResultWriter(files.ticket))
    assert isinstance(pickled[0], bytes)
    assert load_result(pickled) == make_long_text(40_000)


def fail_after_writing(X: Array) -> Any:
    return [X + 1, lambda: io.BytesIO(), Unpicklable()]


PLAIN_RESULTS = [
    *(None, 1, 1.5, 2 + 1j, True, "text", b"bytes", np.float64(3), np.int64(4)),
    *([], [1.0, [2.0, (3, {"a": [1]})]], {"test_score": 0.5, "fit_time": 1.0}),
    *(["x" * 20_000], [0] * 1000, [[[[[[1]]]]]], {1: np.float32(2)}, {"s": {1, 2}}),
]


@pytest.mark.parametrize("value", PLAIN_RESULTS, ids=lambda value: repr(value)[:20])
def test_small_results_of_all_kinds_come_back(value: Any) -> None:
    writer = ResultWriter(None)
    found = load_result(through_loky(dump_result(value, writer)))
    check_same(found, through_loky(value))


def test_lists_that_hold_themselves_come_back() -> None:
    knot: list[Any] = [1]
    knot.append(knot)
    found = load_result(through_loky(dump_result(knot, ResultWriter(None))))
    assert found[1] is found


class Unpicklable:
    def __reduce__(self) -> Any:
        raise ZeroDivisionError("not to be sent")


def fail_with_array(X: Array) -> Any:
    raise ValueError(X + 1)


@pytest.mark.parametrize("task", [fail_after_writing, fail_with_array])
def test_errors_leave_nothing_behind(task: Any, segments: SegmentWatch) -> None:
    with use_mmap():
        X = numbered_rows(N_ROWS, 4)
        with pytest.raises((ValueError, ZeroDivisionError)) as caught:
            call_each(task, X)
        if task is fail_with_array:
            np.testing.assert_array_equal(caught.value.args[0], X + 1)
        del X, caught
        np.testing.assert_array_equal(
            call_each(add_one, np.ones(10))[0], np.ones(10) + 1
        )
    assert segments.wait()


def die(X: Array) -> Any:
    import signal

    os.kill(os.getpid(), signal.SIGKILL)


def test_killed_workers_leave_nothing_behind(segments: SegmentWatch) -> None:
    from loky.process_executor import TerminatedWorkerError

    with use_mmap(), pytest.raises(TerminatedWorkerError):
        call_each(die, numbered_rows(N_ROWS, 4))
    assert segments.wait()


@pytest.mark.parametrize("return_as", ["generator", "generator_unordered"])
def test_generators_that_are_not_read_hold_no_descriptors(
    return_as: str, segments: SegmentWatch
) -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        results = joblib.Parallel(return_as=return_as, batch_size=1)(
            joblib.delayed(add_one)(X) for _ in range(300)
        )
        first = next(results)
        # Results pile up meanwhile; files in flight are those of a few batches.
        assert len(list_own_memfds()) < 200
        parts = [first, *results]
        del results
    assert len(parts) == 300
    for part in parts[::50]:
        np.testing.assert_array_equal(part, X + 1)
    assert len(list_own_memfds()) < 5
    del parts, part, first
    assert segments.wait()


def test_generators_that_are_given_up_leave_nothing(segments: SegmentWatch) -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        results = joblib.Parallel(return_as="generator", batch_size=1)(
            joblib.delayed(add_one)(X) for _ in range(20)
        )
        next(results)
        with pytest.warns(UserWarning, match="have been cancelled"):
            results.close()
        del results
    assert segments.wait()


def test_strict_overcommit_gives_ordinary_results(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "is_overcommit_strict", lambda: True)
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        [part] = call_each(add_one, X, n_tasks=1)
    assert not is_mapped(part)
    part += 1
    np.testing.assert_array_equal(part, X + 2)


def test_models_are_as_good_as_those_of_loky() -> None:
    X = numbered_rows(N_ROWS, 4)
    found = {}
    for backend, parameters in (("mmap", {"min_bytes": 1}), ("loky", {})):
        with joblib.parallel_config(backend=backend, n_jobs=2, **parameters):
            found[backend] = [
                cross_validate(model, X, X[:, 0], cv=3, return_estimator=True)[
                    "estimator"
                ]
                for model in (
                    KNeighborsRegressor(),
                    HistGradientBoostingRegressor(max_iter=5),
                )
            ]
    for models, others in zip(found["mmap"], found["loky"], strict=True):
        for model, other in zip(models, others, strict=True):
            for one in (model, copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
                np.testing.assert_array_equal(one.predict(X), other.predict(X))
            again = clone(model).fit(X, X[:, 0])
            np.testing.assert_array_equal(
                again.predict(X), clone(other).fit(X, X[:, 0]).predict(X)
            )


def test_models_can_be_stored(tmp_path: Path) -> None:
    X = numbered_rows(N_ROWS, 4)
    with use_mmap():
        [model] = call_each(fit_neighbours, X, n_tasks=1)
    assert is_mapped(model._fit_X)
    path = tmp_path / "model.joblib"
    joblib.dump(model, path)
    loaded = joblib.load(path)
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    assert not is_mapped(loaded._fit_X)
    assert not is_mapped(copy.deepcopy(model)._fit_X)


PEAK_SCRIPT = """
import gc, sys
import joblib, numpy as np
import skl_mmap

def make(number):
    return np.full(2_000_000, float(number))

if __name__ == "__main__":
    for backend in ("mmap", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            run = joblib.Parallel(batch_size=1)
            run(joblib.delayed(make)(number) for number in range(4))
            gc.collect()
            with skl_mmap.measure() as report:
                results = run(joblib.delayed(make)(number) for number in range(10))
            assert [part[-1] for part in results] == list(range(10))
            print(report.peak_growth_bytes / sum(part.nbytes for part in results))
            del results
"""


def test_results_are_there_once(tmp_path: Path) -> None:
    ratio, loky_ratio = map(float, run_script(tmp_path, PEAK_SCRIPT).stdout.split())
    # Beside the ten results, those that two workers are making.
    assert ratio < 1.3
    # loky's own is between 1.09 and 1.25.
    assert ratio < max(loky_ratio, 1.2)


FEW_FILES_SCRIPT = """
import resource
import joblib, numpy as np
import skl_mmap

def make(number):
    return [np.full(1000, number + part) for part in range(10)]

if __name__ == "__main__":
    with joblib.parallel_config("mmap", n_jobs=2, min_bytes=1):
        joblib.Parallel(batch_size=1)(joblib.delayed(abs)(i) for i in range(8))
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (56, hard))
        with skl_mmap.measure() as report:
            results = joblib.Parallel(batch_size=1)(
                joblib.delayed(make)(number) for number in range(60)
            )
    for number, parts in enumerate(results):
        assert [part[7] for part in parts] == list(range(number, number + 10))
        parts[0] += 1
    print(sum("files" in note for note in report.notes))
"""


def test_few_descriptors_are_enough(tmp_path: Path) -> None:
    assert run_script(tmp_path, FEW_FILES_SCRIPT).stdout == "1\n"


FORK_SCRIPT = """
import os
import joblib, numpy as np
import skl_mmap

def make(size):
    return np.zeros(size)

if __name__ == "__main__":
    with joblib.parallel_config("mmap", n_jobs=2, min_bytes=1):
        results = joblib.Parallel()(joblib.delayed(make)(n) for n in (1000, 1 << 20))
    child = os.fork()
    for result in results:
        result += 1 if child else 5
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    print([float(result.max()) for result in results])
"""


def test_children_that_are_forked_write_to_their_own(tmp_path: Path) -> None:
    assert run_script(tmp_path, FORK_SCRIPT).stdout == "[1.0, 1.0]\n"


@pytest.mark.parametrize("n_columns", [4, 2000])
def test_results_that_cannot_be_adopted_are_shared_nevertheless(n_columns: int) -> None:
    with use_mmap(adopt=True):
        [part] = call_each(add_one, numbered_rows(N_ROWS, n_columns), n_tasks=1)
        expected = part.sum()
        assert call_each(np.sum, part, n_tasks=2) == [expected] * 2
        part[...] = 0
        assert call_each(np.sum, part, n_tasks=2) == [0, 0]


def test_read_only_inputs_give_results_that_may_be_written_to() -> None:
    with use_mmap(mmap_mode="r"):
        [part] = call_each(add_one, numbered_rows(N_ROWS, 4), n_tasks=1)
    part += 1


def test_predictions_are_those_of_loky() -> None:
    X = np.random.default_rng(0).normal(size=(N_ROWS, 4))
    y = np.arange(N_ROWS) % 5
    found = {}
    for backend, parameters in (("mmap", {"min_bytes": 1}), ("loky", {})):
        with joblib.parallel_config(backend=backend, n_jobs=2, **parameters):
            found[backend] = cross_val_predict(
                GaussianNB(), X, y, method="predict_proba"
            )
    np.testing.assert_array_equal(found["mmap"], found["loky"])


class HasBuffer:
    """Pickles its bytes as a buffer, and wants them back as they were."""

    def __init__(self, data: Any) -> None:
        self.data = data

    def __reduce_ex__(self, protocol: int) -> Any:  # type: ignore[override]
        return HasBuffer, (pickle.PickleBuffer(self.data),)


@pytest.mark.parametrize("kind", [bytes, bytearray])
def test_buffers_of_other_classes_come_back_as_they_were(kind: Any) -> None:
    sent = HasBuffer(kind(b"abc" * 1000))
    received = through_files(sent)
    assert type(received.data) is kind
    assert received.data == sent.data
