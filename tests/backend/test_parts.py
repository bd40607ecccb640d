"""Tasks that get parts of one array each see what they see with loky."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest

import skl_mmap
from skl_mmap.backend import Options
from skl_mmap.memory import Placement, Settings, Store, can_remap
from tests.backend.common import SegmentWatch, dump_task, list_own_memfds, use_mmap

pd = pytest.importorskip("pandas", minversion="2.1")

Array = npt.NDArray[Any]

N_ROWS, N_COLUMNS = 20_000, 12

only_mapped = pytest.mark.skipif(
    not can_remap(), reason="parts of arrays are only shared in memory files"
)


def make_rows(order: Any = "C") -> Array:
    X = np.random.default_rng(0).normal(size=(N_ROWS, N_COLUMNS))
    return np.asarray(X, order=order)


class Holder:
    """An object of the user, with parts of X in it."""

    def __init__(self, X: Array, place: int) -> None:
        self.X = X
        self.column = X[:, place]
        self.more = {"rows": X[place * 100 : 9000], "again": self.column}


def list_arrays(value: Any) -> Iterator[Any]:
    if isinstance(value, Holder):
        value = vars(value)
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        for part in value:
            yield from list_arrays(part)
    elif hasattr(value, "iloc"):
        yield value.to_numpy(copy=False)
    else:
        yield value


def describe(value: Any) -> list[Any]:
    """Return all that a task can see of arrays, with sums to the last bit."""
    is_array = isinstance(value, np.ndarray)
    seen: list[Any] = ["ndarray" if is_array else type(value).__name__]
    arrays = list(list_arrays(value))
    for array in arrays:
        flags = array.flags
        seen += [
            hashlib.sha256(array.tobytes()).hexdigest(),
            (array.dtype.str, array.shape, array.strides, flags.aligned),
            (flags.c_contiguous, flags.f_contiguous),
            [id(array) == id(other) for other in arrays],
        ]
        if array.dtype.kind == "f":
            flat = array.reshape(-1)
            sums = array.sum(), array.mean(), array.std(), flat @ flat, array.T.dot(1.5)
            seen.append([np.asarray(number).tobytes() for number in sums])
    return seen


def columns(X: Array) -> Iterator[Any]:
    yield from (X[:, place] for place in range(N_COLUMNS))


def columns_of_frame(X: Array) -> Iterator[Any]:
    frame = pd.DataFrame(X)
    yield from (frame[name] for name in frame)


def parts_of_columns_of_frame(X: Array) -> Iterator[Any]:
    frame = pd.DataFrame(X)
    yield from (frame[name].iloc[100:15_000] for name in frame)


def frames_of_columns(X: Array) -> Iterator[Any]:
    frame = pd.DataFrame(X)
    yield from (frame.iloc[:, place : place + 1] for place in range(N_COLUMNS))


def pairs_of_columns(X: Array) -> Iterator[Any]:
    for place in range(N_COLUMNS):
        yield X[:, 0], X[:, place], X[:, place]


def slices(X: Array) -> Iterator[Any]:
    yield from (X[start : start + 2000] for start in range(0, N_ROWS, 1000))


def windows(X: Array) -> Iterator[Any]:
    yield from (X[start : start + 15_000] for start in range(0, 5000, 500))


def lists_of_rows(X: Array) -> Iterator[Any]:
    parts = np.array_split(X, 20)
    yield from (parts for _ in range(4))
    yield from (np.array_split(X, 20) for _ in range(4))


def holders(X: Array) -> Iterator[Any]:
    yield from (Holder(X, place) for place in range(N_COLUMNS))


def other_views(X: Array) -> Iterator[Any]:
    yield from (X[::-1][:9000], X[::2], X[:, 2:4], X.T[3], X.T[1:3], X[:, ::5])
    yield from (X.view("i8")[:9000], X.reshape(-1)[7:90_001], X[:, 1:2], X[None, 9:99])
    yield from (X.astype("f4")[:, 1], X.astype(">f8")[5:9000], X[:, 4].reshape(100, -1))
    yield np.lib.stride_tricks.sliding_window_view(X[:, 0], 500)[::50]


JOBS = {
    function.__name__: function
    for function in (
        columns,
        columns_of_frame,
        parts_of_columns_of_frame,
        frames_of_columns,
        pairs_of_columns,
        slices,
        windows,
        lists_of_rows,
        holders,
        other_views,
    )
}


def results_of(function: Callable[[Any], Any], arguments: Iterator[Any]) -> list[Any]:
    return list(joblib.Parallel()(joblib.delayed(function)(a) for a in arguments))


@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("order", ["C", "F"])
def test_tasks_see_parts_as_with_loky(job: str, order: str) -> None:
    X = make_rows(order)
    results = {}
    for backend in ("loky", "mmap"):
        with joblib.parallel_config(backend, n_jobs=2):
            results[backend] = results_of(describe, JOBS[job](X))
    for ours, lokys in zip(results["mmap"], results["loky"], strict=True):
        assert ours == lokys


def scribble(parts: Any) -> list[list[float]]:
    """Write to each array, and say what all of them hold afterwards."""
    seen = []
    for number, array in enumerate(list_arrays(parts)):
        if array.flags.writeable:
            array[...] = -1 - number
        seen.append([float(other.sum()) for other in list_arrays(parts)])
    return seen


def overlapping(X: Array) -> Iterator[Any]:
    for start in range(0, 5000, 1000):
        part = X[start : start + 1000]
        yield [part, X[start + 500 : start + 1500], part, part[:], X[:, 3], X[:, 3]]
        yield [X[start + n : start + n + 900] for n in range(0, 3000, 300)]


@pytest.mark.parametrize("min_bytes", ["1M", "50K"])
def test_what_is_written_to_one_part_is_not_seen_in_others(min_bytes: str) -> None:
    X = make_rows()
    before = X.copy()
    with joblib.parallel_config("loky", n_jobs=2, max_nbytes=None):
        expected = results_of(scribble, overlapping(X))
    with use_mmap(min_bytes=min_bytes):
        for _ in range(2):
            assert results_of(scribble, overlapping(X)) == expected
    assert np.array_equal(X, before)


def is_writable(array: Array) -> bool:
    return bool(array.flags.writeable)


@pytest.mark.parametrize("mmap_mode", ["c", "r"])
def test_small_parts_are_writable_as_with_loky(mmap_mode: str) -> None:
    X = make_rows()
    constant = X.copy()
    constant.flags.writeable = False
    arguments = [*columns(X), *columns(constant), *constant.reshape(12, -1)]
    with joblib.parallel_config("loky", n_jobs=2):
        expected = results_of(is_writable, iter(arguments))
    with use_mmap(min_bytes="1M", mmap_mode=mmap_mode):
        assert results_of(is_writable, iter(arguments)) == expected


def itself(value: Any) -> Any:
    return value


@pytest.mark.parametrize("job", ["columns", "windows", "columns_of_frame"])
def test_parts_come_back_as_they_were(job: str) -> None:
    X = make_rows()
    watch = SegmentWatch()
    with use_mmap(min_bytes="1M"):
        found = results_of(itself, JOBS[job](X))
    for array, expected in zip(found, JOBS[job](X), strict=True):
        assert isinstance(array, type(expected))
        assert np.array_equal(np.asarray(array), np.asarray(expected))
    del found, array
    assert watch.wait()


def payload_bytes(arguments: Iterator[Any], **options: Any) -> int:
    """Return the bytes that are sent with the tasks of a call."""
    store = Store(Placement.from_parameter("auto"), Settings())
    payloads = [dump_task(a, store, Options(**options))[0] for a in arguments]
    store.close()
    return sum(map(len, payloads))


@only_mapped
@pytest.mark.parametrize(
    ("job", "order"),
    [
        ("columns", "C"),
        ("columns", "F"),
        ("columns_of_frame", "C"),
        ("columns_of_frame", "F"),
        ("parts_of_columns_of_frame", "C"),
        ("lists_of_rows", "C"),
    ],
)
def test_only_the_first_part_is_pickled(job: str, order: str) -> None:
    X = make_rows(order)
    first_bytes = N_ROWS * 8
    assert payload_bytes(JOBS[job](X)) < first_bytes + 100_000
    nothing_shared = payload_bytes(JOBS[job](X), min_bytes=None)
    assert nothing_shared > 0.7 * X.nbytes


@only_mapped
def test_a_report_has_the_parts_as_one_segment() -> None:
    X = make_rows()
    with skl_mmap.measure() as report, use_mmap(min_bytes="1M"):
        results_of(np.sum, columns(X))
    [segment] = report.segments
    assert segment.description == f"parts of float64 {X.shape}"
    assert segment.n_bytes == X.nbytes - X[:, 0].nbytes
    assert not report.notes


@only_mapped
def test_a_report_says_which_views_were_sent_by_value() -> None:
    X = make_rows()
    with skl_mmap.measure() as report, use_mmap(min_bytes="1M"):
        results_of(np.sum, (X[:5000, place : place + 2] for place in range(10)))
        results_of(np.sum, iter([X[0], np.ones(20_000)[None], X.copy()[::2, :3]]))
    first, second = report.notes
    assert first == (
        f"views of float64 {X.shape} were sent by value (10, of 781.2 KiB in all): "
        "their elements are neither one after another nor one in each row"
    )
    assert "(1, of 234.4 KiB in all)" in second
    assert not report.segments


@only_mapped
def test_a_call_keeps_no_parts() -> None:
    X = make_rows()
    with use_mmap(min_bytes="1M"):
        results_of(np.sum, columns(X))
        assert not list_own_memfds()
