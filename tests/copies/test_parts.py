"""The parts that copies are found with, one by one."""

from __future__ import annotations

import ctypes
import sys
import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LinearRegression

from skl_mmap._linux.proc import has_private_pages
from skl_mmap.copies import Layout, NumpyHook, is_hookable
from skl_mmap.copies._contents import Reference
from skl_mmap.copies._job import compare, take_fingerprint
from skl_mmap.copies._measuring import map_layout
from skl_mmap.copies._remedies import list_parameters
from skl_mmap.copies._results import all_layouts, layout_of
from skl_mmap.copies._verdict import find_coefficient, list_shapes
from skl_mmap.exceptions import InvalidParameterError

needs_hook = pytest.mark.skipif(not is_hookable(), reason="another NumPy")


def address_of(array: np.ndarray) -> int:
    return int(array.__array_interface__["data"][0])


@pytest.fixture
def blocks() -> list[tuple[int, int, int, str, int]]:
    return []


@pytest.fixture
def hook(blocks: list[Any]) -> NumpyHook:
    def notice(address: int, n_bytes: int, old: int, frame: Any) -> None:
        name = "" if frame is None else frame.f_code.co_name
        blocks.append((address, n_bytes, old, name, threading.get_ident()))

    return NumpyHook(notice, 50_000)


@needs_hook
def test_hook_sees_large_blocks_of_all_kinds(hook: NumpyHook, blocks: list) -> None:
    with hook:
        empty = np.empty(10_000)
        zeros = np.zeros(20_000)
        small = np.empty(10)
        grown = np.empty(10_000)
        before = address_of(grown)
        grown.resize(30_000, refcheck=False)
    assert [block[1] for block in blocks] == [80_000, 160_000, 80_000, 240_000]
    assert [block[0] for block in blocks[:2]] == [address_of(empty), address_of(zeros)]
    assert blocks[3][2] == before
    assert {block[3] for block in blocks} == {
        "test_hook_sees_large_blocks_of_all_kinds"
    }
    assert len(small) == 10


@needs_hook
def test_hook_sees_other_threads(hook: NumpyHook, blocks: list) -> None:
    def allocate() -> None:
        np.empty(10_000)

    with hook:
        thread = threading.Thread(target=allocate)
        thread.start()
        thread.join()
    assert [(block[1], block[3]) for block in blocks] == [(80_000, "allocate")]
    assert blocks[0][4] != threading.get_ident()


@needs_hook
def test_hook_is_gone_after_the_block(hook: NumpyHook, blocks: list) -> None:
    with hook:
        pass
    np.empty(10_000)
    assert blocks == []


@needs_hook
def test_errors_of_numpy_are_those_without_the_hook(hook: NumpyHook) -> None:
    with hook:
        for _ in range(50):
            with pytest.raises(ValueError, match="could not be broadcast"):
                np.ones(10_000) + np.ones(9_999)
            with pytest.raises(ValueError, match="could not convert"):
                np.array(["x"] * 10_000).astype(float)
            with pytest.raises(MemoryError):
                np.empty(1 << 58)


def test_no_pointer_of_another_numpy_is_called(monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        """NumPy's C module, as it may be one day."""

        def _get_ndarray_c_version(self) -> int:
            return 0x03000000

        @property
        def _ARRAY_API(self) -> Any:  # noqa: N802 - NumPy's name
            pytest.fail("the table of another NumPy was read")

    for name in ("numpy._core._multiarray_umath", "numpy.core._multiarray_umath"):
        monkeypatch.setitem(sys.modules, name, Core())
    assert not is_hookable()


@pytest.fixture(scope="module")
def table() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(500, 30)) + 3


def identify(table: np.ndarray, block: np.ndarray) -> str:
    def read(address: int, n_bytes: int) -> bytes:
        return ctypes.string_at(address, n_bytes)

    content = Reference(table).identify(address_of(block), block.nbytes, read)
    return "" if content is None else str(content)


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_content_of_a_block_is_told(table: np.ndarray, dtype: str, order: Any) -> None:
    def lay(block: np.ndarray) -> np.ndarray:
        return np.array(block, dtype, order=order)

    kind = f"as {dtype} {order}"
    assert identify(table, lay(table)) == f"X {kind}"
    assert identify(table, lay(table - table.mean(axis=0))) == f"centered X {kind}"
    scaled = (table - table.mean(axis=0)) / table.std(axis=0)
    assert identify(table, lay(scaled)) == f"scaled X {kind}"
    assert identify(table, lay(table[::3])) == f"rows of X {kind}"
    shuffled = np.random.default_rng(1).permutation(500)
    assert identify(table, lay(table[shuffled])) == f"rows of X {kind}"


def test_content_that_has_nothing_to_do_with_x_is_none(table: np.ndarray) -> None:
    for block in (table**2, np.zeros_like(table), np.sin(table), np.ones(500)):
        assert identify(table, block) == ""


@settings(max_examples=100)
@given(
    copies=st.floats(0, 5),
    per_row=st.floats(0, 400),
    per_column=st.floats(0, 1e5),
    squared=st.floats(0, 1e3),
    fixed=st.floats(0, 1e8),
    n=st.integers(1000, 10**6),
    d=st.integers(4, 500),
)
def test_coefficient_is_that_of_samples_times_features(
    copies: float,
    per_row: float,
    per_column: float,
    squared: float,
    fixed: float,
    n: int,
    d: int,
) -> None:
    def needed(n: int, d: int) -> float:
        other = per_row * n + per_column * d + squared * d * d + fixed
        return copies * n * d * 8 + other

    first, _ = list_shapes((n, d))
    values = {shape: needed(*shape) for shape in ((n, d), *first)}
    found = find_coefficient(values, 8)
    assert found.is_certain
    assert found.copies == pytest.approx(copies, abs=1e-3)
    assert found.rest >= -1e-3


def test_coefficient_of_few_samples_is_not_certain() -> None:
    values = {(1000, 10): 160_000.0, (250, 10): 40_000.0}
    found = find_coefficient(values, 8)
    assert (found.copies, found.is_certain) == (2.0, False)
    assert not find_coefficient({(1000, 10): 8e4}, 8).is_certain


def test_coefficient_of_another_algorithm_for_few_columns_is_left_out() -> None:
    values = {(1000, 20): 16e4, (250, 20): 4e4, (1000, 15): 12e4, (250, 15): 3e4}
    values |= {(1000, 5): 9e5, (250, 5): 1e4}
    found = find_coefficient(values, 8)
    assert found.is_certain
    assert found.copies == pytest.approx(1.0)


@pytest.mark.parametrize("layout", all_layouts(np.zeros((3, 3))), ids=str)
def test_mapped_layout_is_what_it_says(table: np.ndarray, layout: Layout) -> None:
    mapped = map_layout(table, layout)
    np.testing.assert_array_equal(mapped, table.astype(layout.dtype))
    assert layout_of(mapped, layout.mode) == layout
    assert mapped.flags.writeable == (layout.mode == "c")
    assert not has_private_pages(address_of(mapped), mapped.nbytes)
    assert Layout.parse(str(layout)) == layout
    if layout.mode == "c":
        mapped[0, 0] = 0
        assert has_private_pages(address_of(mapped), mapped.nbytes)


@pytest.mark.parametrize("text", ["", "float64", "float64 K", "number C", "f4 C x"])
def test_text_that_names_no_layout_is_refused(text: str) -> None:
    with pytest.raises(InvalidParameterError, match="names no layout"):
        Layout.parse(text)


def test_layouts_of_integers_keep_their_dtype() -> None:
    dtypes = {layout.dtype for layout in all_layouts(np.zeros((3, 3), "int32"))}
    assert dtypes == {"int32"}


def fit(X: np.ndarray, **parameters: Any) -> LinearRegression:
    return LinearRegression(**parameters).fit(X, X[:, 0])


def test_fingerprints_compare_bits_and_not_layouts(table: np.ndarray) -> None:
    same = take_fingerprint(np.asfortranarray(table))
    assert compare(take_fingerprint(table), same) == ("identical", 0.0)
    verdict, difference = compare(
        take_fingerprint(table), take_fingerprint(table * (1 + 1e-14))
    )
    assert verdict == "rounding"
    assert 0 < (difference or 0) < 1e-13
    assert compare(take_fingerprint(table), take_fingerprint(table + 1))[0] == (
        "different"
    )
    assert compare(None, same) == ("unknown", None)


def test_fingerprint_of_a_model_leaves_parameters_and_times_out(
    table: np.ndarray,
) -> None:
    first, second = fit(table), fit(table.copy(), n_jobs=1)
    second.fit_time_ = 3.0
    assert compare(take_fingerprint(first), take_fingerprint(second))[0] == "identical"
    second.coef_[0] += 1e-3
    assert compare(take_fingerprint(first), take_fingerprint(second))[0] == "different"


def test_parameters_worth_a_try_are_those_an_estimator_has() -> None:
    assert list_parameters(LinearRegression()) == [
        {"copy_X": False},
        {"copy_X": False, "fit_intercept": False},
    ]
    assert list_parameters(LinearRegression(copy_X=False, fit_intercept=False)) == []


def test_module_needs_no_proc_to_be_imported() -> None:
    assert "skl_mmap.copies._server" in sys.modules
