"""Rows of a shared sparse matrix are scipy's; only their elements are not copied."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from skl_mmap.containers import container_of
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, Settings, counters, expand_runs, find_mapping
from skl_mmap.orders import ordered_runs, size_of_rows
from tests import strategies
from tests.memory.sharing import take_counted

PLACEMENT = Placement.from_parameter("memory")
SETTINGS = Settings(min_mapped_bytes=0, min_bytes=0)
FORMATS = {
    "csr_matrix": sparse.csr_matrix,
    "csr_array": sparse.csr_array,
    "csc_matrix": sparse.csc_matrix,
    "csc_array": sparse.csc_array,
}


def make_csr(
    n_rows: int, n_columns: int = 40, kind: str = "csr_matrix", seed: int = 0
) -> Any:
    """Make a matrix with rows of every length, some of them empty."""
    rng = np.random.default_rng(seed)
    mask = rng.random((n_rows, n_columns)) < rng.random((n_rows, 1)) * 0.3
    dense = np.where(mask, rng.normal(size=mask.shape), 0.0)
    dense[::7] = 0
    return FORMATS[kind](dense)


def share(matrix: Any) -> Any:
    container = container_of(matrix)
    assert container is not None
    return container.share(matrix, PLACEMENT, SETTINGS)


def share_as_it_is(matrix: Any) -> Any:
    """Share a matrix as a task would get it: neither sorted nor summed up."""
    container = container_of(matrix)
    assert container is not None
    rebuild, (plain_class, state) = container.take_apart(matrix, 0) or (None, ())
    for name in ("data", "indices", "indptr"):
        # Through a dense matrix of one column, which is the same vector.
        state[name] = share_vector(state[name])
    return rebuild(plain_class, state)


def share_vector(vector: np.ndarray) -> np.ndarray:
    from tests.memory.sharing import share_one

    return share_one(vector) if vector.nbytes else vector


def assert_same(result: Any, expected: Any) -> None:
    if not sparse.issparse(expected):
        np.testing.assert_array_equal(result, expected)
        return
    assert isinstance(result, type(expected))
    assert result.shape == expected.shape
    assert result.dtype == expected.dtype
    for name in ("data", "indices", "indptr"):
        ours, scipys = getattr(result, name), getattr(expected, name)
        assert ours.dtype == scipys.dtype, name
        assert ours.tobytes() == scipys.tobytes(), name
    assert result.has_sorted_indices == expected.has_sorted_indices
    assert result.has_canonical_format == expected.has_canonical_format


def select(matrix: Any, key: Any) -> tuple[Any, Exception | None]:
    try:
        return matrix[key], None
    except Exception as error:  # noqa: BLE001 - scipy's own errors are the oracle
        return None, error


@strategies.examples(150)
@given(data=st.data())
def test_brackets_do_what_scipy_does(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["csr_matrix", "csr_array"]))
    plain = make_csr(data.draw(st.integers(1, 3000)), kind=kind)
    is_wide = data.draw(st.booleans())
    if is_wide:
        plain.indices = plain.indices.astype(np.int64)
        plain.indptr = plain.indptr.astype(np.int64)
    if data.draw(st.booleans()):
        plain.has_canonical_format  # noqa: B018 - scipy remembers the answer
    shared = share_as_it_is(plain)
    for _ in range(2):
        n_rows = plain.shape[0]
        rows = strategies.row_indices(n_rows) | strategies.row_masks(n_rows)
        key = data.draw(
            rows
            | strategies.slices(n_rows)
            | st.builds(lambda rows: (rows, ...), rows)
            | st.builds(lambda rows: (rows, slice(None)), rows)
            | st.builds(lambda rows: (rows, slice(1, 3)), rows)
        )
        expected, expected_error = select(plain, key)
        result, error = select(shared, key)
        assert type(error) is type(expected_error), (error, expected_error)
        if error is not None:
            return
        assert_same(result, expected)
        if result.ndim != 2 or not result.shape[0]:
            return
        shared, plain = result, expected


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array"])
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_long_and_many_short_runs_are_joined(kind: str, dtype: Any) -> None:
    plain = make_csr(40_000, kind=kind)
    plain.indices = plain.indices.astype(dtype)
    plain.indptr = plain.indptr.astype(dtype)
    short = np.arange(20_000, 40_000).reshape(-1, 5)[::2].ravel()
    rows = np.r_[0:8000, short]
    counters.take()
    assert_same(share_as_it_is(plain)[rows], plain[rows])
    assert take_counted()[0] > 0


@pytest.mark.skipif(
    tuple(map(int, scipy.__version__.split(".")[:2])) < (1, 13),
    reason="older releases crash: they add the number of rows as an int8",
)
def test_small_indices_from_the_end_are_left_to_scipy() -> None:
    plain = make_csr(200)
    rows = np.array([-3, -2], dtype=np.int8)
    expected, expected_error = select(plain, rows)
    result, error = select(share(plain), rows)
    assert type(error) is type(expected_error)
    if error is None:
        assert_same(result, expected)


@pytest.mark.parametrize("kind", ["csr_matrix", "csr_array"])
def test_rows_are_mapped_and_can_be_selected_from_again(kind: str) -> None:
    plain = make_csr(20_000, kind=kind)
    shared = share(plain)
    counters.take()
    rows = np.r_[0:5000, 8000:20_000]
    selected = shared[rows, ...]
    n_bytes = selected.data.nbytes + selected.indices.nbytes
    assert take_counted()[0] > 0.5 * n_bytes
    assert type(selected) is type(shared) is not type(plain)
    assert find_mapping(selected.data)
    assert find_mapping(selected.indices)
    again = selected[np.arange(2000, 16_000)]
    assert take_counted()[0] > 0.5 * (again.data.nbytes + again.indices.nbytes)
    assert_same(again, plain[rows][2000:16_000])


def test_rows_that_cannot_be_mapped_are_counted_as_copied() -> None:
    shared = share(make_csr(5000))
    rows = np.random.default_rng(0).permutation(5000)
    counters.take()
    selected = shared[rows]
    n_mapped, copied = take_counted()
    assert n_mapped == 0
    ((reason, n_bytes),) = copied.items()
    assert reason == "SCATTERED"
    assert n_bytes == pytest.approx(selected.data.nbytes + selected.indices.nbytes)


def test_rows_that_were_written_to_are_as_they_are_now() -> None:
    plain = make_csr(5000)
    shared = share(plain)
    for matrix in (plain, shared):
        matrix.data[1000:3000] *= 2
    rows = np.arange(1, 5000)
    assert_same(shared[rows], plain[rows])
    selected = shared[rows]
    selected.data[:] = 0
    assert_same(shared, plain)


def test_other_operations_give_plain_matrices() -> None:
    plain = make_csr(2000)
    shared = share(plain)
    operations: list[Callable[[Any], Any]] = [
        lambda X: X.copy(),
        lambda X: X * 2,
        lambda X: X + X,
        lambda X: abs(X),
        lambda X: X.T,
        lambda X: X[:, :5],
        lambda X: X[3:900],
        lambda X: X.astype(np.float32),
        lambda X: X.tocsc(),
        lambda X: sparse.vstack([X, X], format="csr"),
        lambda X: X @ X.T,
        lambda X: X.multiply(X),
        lambda X: copy.copy(X),
        lambda X: copy.deepcopy(X),
        lambda X: pickle.loads(pickle.dumps(X)),
        lambda X: pickle.loads(pickle.dumps(X, protocol=0)),
    ]
    for operation in operations:
        result, expected = operation(shared), operation(plain)
        assert type(result) is type(expected)
        assert_same(result, expected)
    assert len(pickle.dumps(shared)) < 1.1 * len(pickle.dumps(plain)) + 1000


@pytest.mark.parametrize("operation", ["T", "tocoo", "asformat"])
def test_views_of_a_selection_do_not_copy_its_elements(operation: str) -> None:
    selected = share(make_csr(20_000))[np.r_[0:9000, 12_000:20_000]]
    view = {
        "T": lambda: selected.T,
        "tocoo": lambda: selected.tocoo(copy=False),
        "asformat": lambda: selected.asformat("csr"),
    }[operation]()
    assert np.shares_memory(view.data, selected.data)


@pytest.mark.parametrize("kind", FORMATS)
def test_sharing_sorts_and_sums_once_and_leaves_the_original(kind: str) -> None:
    data = np.array([1.0, 2.0, 3.0, 4.0])
    indices = np.array([2, 0, 0, 1], dtype=np.int32)
    indptr = np.array([0, 3, 4, 4], dtype=np.int32)
    plain = FORMATS[kind]((data, indices, indptr), shape=(3, 3))
    before = plain.copy()
    shared = share(plain)
    assert_same(plain, before)
    expected = plain.copy()
    expected.sum_duplicates()
    assert_same(shared, expected)
    assert shared.has_canonical_format


def test_sharing_makes_indices_as_small_as_they_can_be() -> None:
    plain = make_csr(100, kind="csr_array")
    expected = plain.copy()
    plain.indices = plain.indices.astype(np.int64)
    plain.indptr = plain.indptr.astype(np.int64)
    assert_same(share(plain), expected)


def test_sharing_wants_compressed_rows_or_columns() -> None:
    with pytest.raises(InvalidParameterError, match=r"coo_matrix.*X\.tocsr\(\)"):
        share(make_csr(3).tocoo())


@strategies.examples(100)
@given(data=st.data())
def test_ordered_runs_hold_the_same_rows_and_begin_in_step(data: st.DataObject) -> None:
    n_rows = data.draw(st.integers(1, 4000))
    matrix = make_csr(n_rows, seed=data.draw(st.integers(0, 3)))
    mask = np.zeros(n_rows, dtype=bool)
    mask[data.draw(strategies.row_runs(n_rows))] = True
    train = np.flatnonzero(mask)
    runs = ordered_runs(train, size_of_rows(matrix))
    if runs is None:
        return
    assert sorted(np.concatenate(list(expand_runs(runs)))) == train.tolist()
    begins = matrix.indptr[runs[:, 0]] % 1024
    ends = matrix.indptr[runs[:, 1]] % 1024
    n_placed = int(np.argmin(np.append((begins == begins[0]) & (ends == begins[0]), 0)))
    sizes = matrix.indptr[runs[:, 1]] - matrix.indptr[runs[:, 0]]
    left_over = runs[n_placed:]
    assert n_placed >= 1
    # What is left over is short: the next row to cut at was not far.
    assert len(left_over) <= 2 * n_placed + 20
    assert sizes[0] == sizes[:n_placed].max()


def test_ordered_runs_of_folds_leave_little_over() -> None:
    matrix = make_csr(60_000)
    for fold in range(5):
        test = slice(12_000 * fold, 12_000 * (fold + 1))
        train = np.delete(np.arange(60_000), test)
        runs = ordered_runs(train, size_of_rows(matrix))
        assert runs is not None
        counters.take()
        share(matrix)[np.concatenate(list(expand_runs(runs)))]
        mapped_bytes, copied = take_counted()
        assert sum(copied.values()) < 0.15 * mapped_bytes
