"""No task sees what another one wrote, and nobody sees data of yesterday."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
from joblib import Parallel, delayed
from scipy import sparse
from sklearn.neighbors import KDTree, KNeighborsRegressor

from tests.backend.common import (
    call_each,
    list_own_mappings,
    numbered_rows,
    use_mmap,
)

Array = npt.NDArray[Any]

N_ROWS = 4000
PAIR = np.dtype([("a", "<f8"), ("b", "<i4", (3,))], align=True)


def make_structured() -> Array:
    array = np.zeros(N_ROWS, dtype=PAIR)
    array["a"] = np.arange(N_ROWS)
    array["b"] = numbered_rows(N_ROWS, 3, "i4")
    return array


# What is sent, and the array in it that a task writes to.
def itself(container: Any) -> Array:
    return container  # type: ignore[no-any-return]


def nested(container: Any) -> Array:
    return container["deep"][0][1]  # type: ignore[no-any-return]


def csr_data(container: Any) -> Array:
    return container.data  # type: ignore[no-any-return]


def csr_indices(container: Any) -> Array:
    return container.indices  # type: ignore[no-any-return]


def fitted(container: Any) -> Array:
    return container._fit_X  # type: ignore[no-any-return]


def make_csr() -> Any:
    return sparse.csr_matrix(np.where(numbered_rows(N_ROWS, 8) % 3 == 0, 2.5, 0.0))


def make_knn() -> Any:
    X = numbered_rows(N_ROWS, 8)
    return KNeighborsRegressor(3, algorithm="brute").fit(X, X[:, 0])


CONTAINERS: dict[str, tuple[Callable[[], Any], Callable[[Any], Array]]] = {
    "matrix": (lambda: numbered_rows(N_ROWS, 8), itself),
    "fortran": (lambda: np.asfortranarray(numbered_rows(N_ROWS, 8)), itself),
    "strided": (lambda: numbered_rows(N_ROWS, 16)[::2, ::2], itself),
    "reversed": (lambda: numbered_rows(N_ROWS, 8)[::-1], itself),
    "transposed": (
        lambda: np.arange(6.0 * N_ROWS).reshape(3, -1, 2).transpose(1, 0, 2),
        itself,
    ),
    "big_endian": (lambda: numbered_rows(N_ROWS, 8, ">f4"), itself),
    "structured": (make_structured, itself),
    "booleans": (lambda: np.arange(N_ROWS) % 3 == 0, itself),
    "dates": (lambda: np.arange(N_ROWS).astype("M8[s]"), itself),
    "texts": (lambda: np.array([f"row {i}" for i in range(N_ROWS)]), itself),
    "objects": (lambda: np.array([None, 1.5, "x"] * 9, dtype=object), itself),
    "scalar": (lambda: np.array(7.5), itself),
    "index": (lambda: np.arange(20_000), itself),
    "index_with_hole": (lambda: np.r_[0:9000, 12_000:30_000], itself),
    "nested": (lambda: {"deep": [("x", numbered_rows(N_ROWS, 8))]}, nested),
    "csr_data": (make_csr, csr_data),
    "csr_indices": (make_csr, csr_indices),
    "estimator": (make_knn, fitted),
}


def digest(array: Array) -> str:
    if array.dtype.hasobject:
        return repr(array.tolist())
    return f"{array.dtype} {array.shape} " + hashlib.sha1(array.tobytes()).hexdigest()


def first_place(array: Array) -> tuple[int, ...]:
    return (0,) * array.ndim


def scribble(container: Any, find: Callable[[Any], Array]) -> tuple[str, bool]:
    """Say what was there, overwrite it, and say whether that worked."""
    array = find(container)
    before = digest(array)
    first, last = first_place(array), tuple(n - 1 for n in array.shape)
    for place in (first, last):
        array[place] = array[last] if place == first else array[tuple([-1] * len(last))]
    if array.dtype.kind in "fiu":
        array[...] = 1 + array // 2
    elif array.dtype.kind == "b":
        array[...] = ~array
    else:
        array[...] = array[last] if array.ndim else array
    return before, digest(array) != before


@pytest.mark.parametrize("kind", CONTAINERS)
def test_what_a_task_writes_is_seen_by_nobody_else(kind: str) -> None:
    make, find = CONTAINERS[kind]
    container = make()
    expected = digest(find(container))
    with use_mmap():
        # More tasks than workers, so that the same worker runs several.
        outcomes = call_each(scribble, container, find, n_tasks=5)
        assert digest(find(container)) == expected
        outcomes += call_each(scribble, container, find, n_tasks=3)
    assert outcomes == [(expected, True)] * 8
    assert digest(find(container)) == expected


def make_copy_on_write_frame() -> pd.DataFrame:
    return pd.DataFrame(numbered_rows(N_ROWS, 4), columns=list("abcd")).assign(
        text="x", whole=np.arange(N_ROWS)
    )


def scribble_on_frame(frame: pd.DataFrame) -> list[float]:
    before = [float(frame["a"].sum()), float(frame["whole"].sum())]
    frame.loc[:, "a"] = -1.0
    frame.iloc[3, 1] = -5.0
    frame["whole"] *= 2
    return before


def test_frame_written_to_by_a_task_stays_as_it_was() -> None:
    frame = make_copy_on_write_frame()
    original = frame.copy(deep=True)
    with use_mmap():
        outcomes = call_each(scribble_on_frame, frame, n_tasks=6)
    expected = [original["a"].sum(), original["whole"].sum()]
    assert outcomes == [expected] * 6
    pd.testing.assert_frame_equal(frame, original)


def scribble_on_folds(X: Array, train: Array) -> list[bool]:
    expected = np.asarray(X).copy()
    first, second, mask = X[train], X[train], np.zeros(len(X), dtype=bool)
    mask[train] = True
    first[...] = -1
    third = X[mask]
    kept = [
        np.array_equal(second, expected[train]),
        np.array_equal(third, expected[mask]),
        np.array_equal(X, expected),
    ]
    X[...] = -2
    kept += [np.array_equal(second, expected[train]), bool((first == -1).all())]
    # What was written to X is what is selected from now on, as with any array.
    return [*kept, bool((X[train] == -2).all())]


@pytest.mark.parametrize("n_columns", [8, 50, 512])
def test_folds_of_one_task_are_independent_copies(n_columns: int) -> None:
    X = numbered_rows(N_ROWS, n_columns)
    original = X.copy()
    train = np.r_[0:1000, 1801:N_ROWS]
    with use_mmap():
        outcomes = call_each(scribble_on_folds, X, train, n_tasks=5)
    assert outcomes == [[True] * 6] * 5
    assert np.array_equal(X, original)


def try_to_write(array: Array) -> str:
    try:
        array[first_place(array)] = array.flat[0]
    except ValueError as error:
        return str(error)
    return "written"


def try_to_write_fold(X: Array, train: Array) -> str:
    return try_to_write(X[train])


def try_to_write_csr(matrix: Any) -> str:
    return try_to_write(matrix.data)


def make_fold(n_columns: int) -> tuple[Array, Array]:
    return numbered_rows(N_ROWS, n_columns), np.r_[0:1000, 1801:N_ROWS]


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (try_to_write, (CONTAINERS["matrix"][0](),)),
        (try_to_write, (CONTAINERS["fortran"][0](),)),
        (try_to_write, (CONTAINERS["structured"][0](),)),
        (try_to_write, (CONTAINERS["scalar"][0](),)),
        (try_to_write, (CONTAINERS["index_with_hole"][0](),)),
        (try_to_write_fold, make_fold(512)),
        (try_to_write_fold, make_fold(50)),
        (try_to_write_csr, (make_csr(),)),
    ],
    ids=[
        "matrix",
        "fortran",
        "structured",
        "scalar",
        "index",
        "fold",
        "fold_with_copied_rows",
        "csr",
    ],
)
def test_read_only_arrays_refuse_writes(function: Any, arguments: Any) -> None:
    with use_mmap(mmap_mode="r"):
        outcomes = call_each(function, *arguments)
    assert set(outcomes) == {"assignment destination is read-only"}
    with use_mmap(mmap_mode="c"):
        assert set(call_each(function, *arguments)) == {"written"}


def digest_of(container: Any, find: Callable[[Any], Array]) -> str:
    return digest(np.asarray(find(container)))


def flip_byte(array: Array, place: float) -> None:
    """Change one byte of an array, at a place between 0 and 1."""
    index = tuple(int(place * (length - 1)) for length in array.shape)
    element = np.array(array[index])
    raw = element.reshape(1).view(np.uint8)
    raw[0] ^= 1
    array[index] = element


CHANGEABLE = sorted(
    CONTAINERS.keys() - {"objects", "texts", "dates", "booleans", "estimator"}
)


def assert_never_stale(run: Callable[..., list[str]], kind: str) -> None:
    make, find = CONTAINERS[kind]
    container = make()
    seen = []
    for place in (None, 0.0, 0.5, 1.0, 0.5):
        if place is not None:
            flip_byte(find(container), place)
        expected = digest(find(container))
        assert run(container, find) == [expected] * 2
        seen.append(expected)
    # Each change was one, and the last undid the one before the last but one.
    assert len(set(seen)) >= (4 if find(container).ndim else 2)


@pytest.mark.parametrize("kind", CHANGEABLE)
def test_array_changed_between_calls_of_a_block_is_sent_anew(kind: str) -> None:
    with use_mmap():
        assert_never_stale(
            lambda *args: call_each(digest_of, *args, n_tasks=2), kind=kind
        )


@pytest.mark.parametrize("kind", CHANGEABLE)
def test_array_changed_between_calls_of_one_parallel_is_sent_anew(kind: str) -> None:
    with Parallel(n_jobs=2, backend="mmap", min_bytes=1, batch_size=1) as parallel:
        assert_never_stale(
            lambda *args: parallel(delayed(digest_of)(*args) for _ in range(2)),
            kind=kind,
        )


def test_array_in_the_place_of_one_that_died_is_not_taken_for_it() -> None:
    with use_mmap():
        for value in range(8):
            X = np.full((N_ROWS, 64), float(value))
            assert call_each(np.max, X, n_tasks=2) == [value] * 2
            del X


def test_array_of_the_same_bytes_but_another_dtype_is_not_taken_for_it() -> None:
    X = np.arange(40_000.0)
    with use_mmap():
        results = [call_each(digest, X.view(d), n_tasks=1) for d in ("f8", "i8", ">f8")]
        expected = [[digest(X.view(d))] for d in ("f8", "i8", ">f8")]
    assert results == expected


def return_rows(X: Array) -> Array:
    return X[: len(X) // 2]


def test_result_changed_by_the_caller_is_sent_anew() -> None:
    with use_mmap():
        [half] = call_each(return_rows, numbered_rows(N_ROWS, 64), n_tasks=1)
        for value in (-1.0, -2.0):
            half[17, 3] = value
            assert call_each(digest, half, n_tasks=2) == [digest(np.array(half))] * 2


def put(output: Array, place: int) -> None:
    output[place] = place + 1
    if isinstance(output, np.memmap):
        output.flush()


@pytest.mark.parametrize("min_bytes", [1, "1M", None])
@pytest.mark.parametrize("mmap_mode", ["c", "r"])
def test_workers_write_to_a_writable_memmap(
    tmp_path: Path, min_bytes: Any, mmap_mode: str
) -> None:
    path = tmp_path / "output"
    output = np.memmap(path, dtype="i8", mode="w+", shape=(6, 500))
    with use_mmap(min_bytes=min_bytes, mmap_mode=mmap_mode):
        Parallel()(delayed(put)(output, i) for i in range(6))
    assert output[:, 0].tolist() == output[:, -1].tolist() == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    "view",
    [
        lambda memmap: memmap[2:8],
        lambda memmap: memmap[::2, 10:90],
        lambda memmap: memmap.T[:6],
        lambda memmap: np.asarray(memmap)[4:],
        lambda memmap: memmap[::-1],
        lambda memmap: memmap[3:][2:],
    ],
    ids=["rows", "strided", "transposed", "plain", "reversed", "view_of_view"],
)
@pytest.mark.parametrize("offset", [0, 128, 5000])
def test_workers_write_to_views_of_a_writable_memmap(
    tmp_path: Path, view: Callable[[Any], Any], offset: int
) -> None:
    path = tmp_path / "output"
    path.write_bytes(bytes(offset + 12 * 100 * 8))
    output = np.memmap(path, dtype="i8", mode="r+", offset=offset, shape=(12, 100))
    part = view(output)
    with use_mmap():
        Parallel()(delayed(put)(part, i) for i in range(5))
    expected = np.zeros((12, 100), dtype="i8")
    for i in range(5):
        view(expected)[i] = i + 1
    np.testing.assert_array_equal(output, expected)


def describe_input(X: Array, path: str) -> tuple[str, bool, int]:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        is_mapped = any(line.rstrip().endswith(path) for line in maps)
    return digest(np.array(X)), is_mapped, len(list_own_mappings())


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize(
    "part",
    [np.s_[:], np.s_[100:3000], np.s_[::2], np.s_[::-1], np.s_[:, 3]],
    ids=["whole", "rows", "strided", "reversed", "column"],
)
def test_file_opened_read_only_is_mapped_where_it_lies(
    tmp_path: Path, part: Any, order: Any
) -> None:
    path = tmp_path / "X.npy"
    np.save(path, np.asarray(numbered_rows(N_ROWS, 50), order=order))
    X = np.load(path, mmap_mode="r")[part]
    with use_mmap():
        outcomes = call_each(describe_input, X, str(path), n_tasks=3)
    assert outcomes == [(digest(np.array(X)), True, 0)] * 3


def test_folds_of_a_file_are_those_of_its_array(tmp_path: Path) -> None:
    path = tmp_path / "X.npy"
    np.save(path, numbered_rows(N_ROWS, 50))
    X = np.load(path, mmap_mode="r")
    train = np.r_[0:1000, 1801:N_ROWS]
    with use_mmap():
        outcomes = call_each(scribble_on_folds, X, train)
    assert outcomes == [[True] * 6] * 4
    assert np.array_equal(np.load(path), numbered_rows(N_ROWS, 50))


def test_copy_on_write_memmap_is_sent_with_what_was_written_to_it(
    tmp_path: Path,
) -> None:
    path = tmp_path / "X.npy"
    np.save(path, numbered_rows(N_ROWS, 50))
    X = np.load(path, mmap_mode="c")
    X[1234, 5] = -1
    with use_mmap():
        assert call_each(digest, X) == [digest(np.array(X))] * 4


def test_broadcast_view_of_a_file_has_rows_of_its_own_in_a_task(tmp_path: Path) -> None:
    path = tmp_path / "row.npy"
    np.save(path, np.arange(512.0).reshape(1, 512))
    X = np.broadcast_to(np.load(path, mmap_mode="r"), (20, 512))
    with use_mmap():
        [rows] = call_each(write_and_read_first_column, X, n_tasks=1)
    assert rows in ([-1.0] + [0.0] * 19, "read-only")


def write_and_read_first_column(X: Array) -> Any:
    try:
        X[0, 0] = -1
    except ValueError:
        return "read-only"
    return X[:, 0].tolist()


def describe_array(array: Array) -> Any:
    return (
        digest(np.asarray(array)),
        array.dtype,
        array.shape,
        array.flags.f_contiguous and array.ndim == 2,
    )


ODD_ARRAYS = {
    **{kind: make for kind, (make, find) in CONTAINERS.items() if find is itself},
    "empty": lambda: np.empty((0, 5)),
    "no_columns": lambda: np.empty((N_ROWS, 0)),
    "no_bytes": lambda: np.empty(9, dtype="S0"),
    "unaligned": lambda: np.frombuffer(bytes(range(256)) * 65, "u1")[1:-7].view("f8"),
    "packed": lambda: np.zeros(N_ROWS, dtype=[("a", "u1"), ("b", "f8")]),
    "structured_objects": lambda: np.zeros(9, dtype=[("a", "f8"), ("b", "O")]),
    "broadcast": lambda: np.broadcast_to(np.arange(50.0), (N_ROWS, 50)),
    "windows": lambda: np.lib.stride_tricks.sliding_window_view(np.arange(5e3), 9),
    "complex": lambda: numbered_rows(N_ROWS, 8).astype(complex),
    "half": lambda: numbered_rows(100, 8, "f2"),
    "four_dimensions": lambda: np.arange(2400.0).reshape(5, 6, 8, 10)[:, ::2],
}


@pytest.mark.parametrize("kind", ODD_ARRAYS)
def test_tasks_see_arrays_as_pickling_makes_them(kind: str) -> None:
    array = ODD_ARRAYS[kind]()
    # Older protocols change the byte order to this machine's.
    expected = describe_array(pickle.loads(pickle.dumps(array, protocol=5)))
    with use_mmap():
        assert call_each(describe_array, array) == [expected] * 4


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.ma.masked_array(numbered_rows(900, 8), numbered_rows(900, 8) % 2),
        lambda: np.rec.array([(1.5, 2)] * 900, dtype=[("a", "f8"), ("b", "i8")]),
        pytest.param(
            lambda: np.array(["a", "bc"] * 900, dtype=np.dtypes.StringDType()),
            marks=pytest.mark.skipif(
                not hasattr(np.dtypes, "StringDType"), reason="new in NumPy 2"
            ),
        ),
    ],
    ids=["masked", "records", "strings"],
)
def test_kinds_of_arrays_that_are_not_shared_arrive_as_they_are(make: Any) -> None:
    array = make()
    with use_mmap():
        [returned] = call_each(itself, array, n_tasks=1)
    assert type(returned) is type(array)
    assert returned.dtype == array.dtype
    assert returned.tolist() == array.tolist()


def query_tree(tree: KDTree, X: Array) -> Array:
    return tree.query(X, k=3)[1]  # type: ignore[no-any-return]


def predict(model: Any, X: Array) -> Array:
    return model.predict(X)  # type: ignore[no-any-return]


def test_tree_with_a_structured_array_inside_gives_the_same_neighbours() -> None:
    X = np.random.default_rng(0).normal(size=(N_ROWS, 3))
    tree = KDTree(X)
    with use_mmap():
        results = call_each(query_tree, tree, X[:100])
    for result in results:
        np.testing.assert_array_equal(result, tree.query(X[:100], k=3)[1])


@pytest.mark.parametrize("algorithm", ["brute", "kd_tree", "ball_tree"])
def test_fitted_neighbours_predict_the_same_in_a_task(algorithm: Any) -> None:
    X = np.random.default_rng(0).normal(size=(N_ROWS, 3))
    model = KNeighborsRegressor(3, algorithm=algorithm).fit(X, X[:, 0])
    with use_mmap():
        results = call_each(predict, model, X[:100])
    for result in results:
        np.testing.assert_array_equal(result, model.predict(X[:100]))


def are_same(first: Array, second: Array) -> bool:
    return first is second


def test_array_that_is_passed_twice_is_one_object_in_the_task() -> None:
    X = numbered_rows(N_ROWS, 8)
    with use_mmap():
        assert call_each(are_same, X, X) == [True] * 4
        # Equal bytes do not make two arrays one.
        assert call_each(are_same, X, X.copy()) == [False] * 4
