"""Rows of several arrays that are selected together, and arrays that are stored so."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import (
    Conversion,
    PlannedArray,
    Settings,
    Store,
    _together,
    bundle_of,
    can_remap,
    carry_out_together,
    counters,
    find_runs,
    geometry_of,
    map_array,
    plan_one_of_several,
    rebuild_array,
)
from tests.memory.sharing import make_store, take_counted
from tests.strategies import examples

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

AS_BYTES = Conversion(order="F")
SETTINGS = Settings()
N_ROWS = 30_000


def share(store: Store, arrays: list[Any]) -> tuple[Any, Any, list[int]]:
    bundle = bundle_of(arrays)
    shared = store.share(bundle, conversion=AS_BYTES)
    assert shared is not None
    return (*shared, bundle.starts)


def make_columns(dtypes: list[str], n_rows: int = N_ROWS) -> list[Any]:
    rng = np.random.default_rng(len(dtypes))
    return [rng.integers(0, 100, n_rows).astype(dtype) for dtype in dtypes]


def map_columns(columns: list[Any], settings: Settings = SETTINGS) -> list[Any]:
    _, segment, starts = share(make_store(), columns)
    return [
        np.asarray(map_array(segment, c.dtype, c.shape, settings, offset=start))
        for c, start in zip(columns, starts, strict=True)
    ]


def select(columns: list[Any], rows: Any) -> list[Any]:
    """Select rows as frames do: of all columns together, or by numpy."""
    runs = find_runs(rows, len(columns[0]), max_runs=4096)
    assert runs is not None
    n_bytes = sum(len(rows) * column.itemsize for column in columns)
    planned = []
    for column in columns:
        geometry = geometry_of(column)
        plan = plan_one_of_several(geometry, runs, n_bytes)
        planned.append(PlannedArray(column, geometry, plan))
    return carry_out_together(planned, len(rows))


@st.composite
def row_runs(draw: st.DrawFn) -> Any:
    runs = [np.arange(0)]
    for _ in range(draw(st.integers(1, 5))):
        start = draw(st.integers(0, N_ROWS - 1) | st.sampled_from([0, 4096, 8192]))
        length = draw(st.sampled_from([1, 7, 4096, 9000, N_ROWS]))
        runs.append(np.arange(start, min(start + length, N_ROWS)))
    return np.concatenate(runs)


@examples(60)
@given(
    rows=row_runs(),
    dtypes=st.lists(
        st.sampled_from(["f8", "f4", "i1", "?", "M8[s]", "c16"]), min_size=1, max_size=6
    ),
)
def test_rows_of_columns_are_those_of_numpy(rows: Any, dtypes: list[str]) -> None:
    columns = make_columns(dtypes)
    mapped = map_columns(columns)
    counters.take()
    selected = select(mapped, rows)
    n_mapped, copied = take_counted()
    found = [rows_ for rows_ in selected if rows_ is not None]
    # Each byte is counted once, and what is left to numpy only if it was planned.
    found_bytes = sum(rows_.nbytes for rows_ in found)
    assert n_mapped + sum(copied.values()) >= found_bytes
    for column, taken in zip(columns, selected, strict=True):
        if taken is not None:
            np.testing.assert_array_equal(taken, column[rows])
    # Nothing that is written to one of them is seen in another one, nor in the data.
    expected = [taken.copy() for taken in found]
    for place, taken in enumerate(found):
        taken[...] = taken[::-1].copy()
        for later, copy in zip(found[place + 1 :], expected[place + 1 :], strict=True):
            np.testing.assert_array_equal(later, copy)
    for column, original in zip(mapped, columns, strict=True):
        np.testing.assert_array_equal(column, original)


def test_small_columns_are_in_one_mapping_and_rows_of_rows_are_right(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    map_plan = _together.map_plan
    monkeypatch.setattr(
        _together, "map_plan", lambda *args: made.append(args) or map_plan(*args)
    )
    columns = make_columns(["f8", "f4", "i1", "f8"] * 4)
    rows = np.r_[4096:20_000, 24_576:N_ROWS]
    counters.take()
    selected = select(map_columns(columns), rows)
    assert len(made) == 1
    n_mapped, copied = take_counted()
    n_bytes = sum(len(rows) * column.itemsize for column in columns)
    assert n_mapped + sum(copied.values()) == n_bytes
    assert n_mapped > 0.7 * n_bytes
    again = np.r_[100:9000, 12_000:20_000]
    of_selected = select(selected, again)
    assert sum(taken is not None for taken in of_selected) >= 8
    for column, taken in zip(columns, of_selected, strict=True):
        if taken is not None:
            np.testing.assert_array_equal(taken, column[rows][again])


def test_rows_of_few_bytes_in_all_are_left_to_numpy() -> None:
    columns = make_columns(["i1", "i1"])
    assert select(map_columns(columns), np.arange(N_ROWS)) == [None, None]


def test_without_room_for_mappings_all_of_them_are_left_to_numpy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mapped = map_columns(make_columns(["f8", "f8"]))
    monkeypatch.setattr(_together, "map_plan", lambda *_: None)
    counters.take()
    rows = np.arange(20_000)
    assert select(mapped, rows) == [None, None]
    assert take_counted() == (0, {"NO_MAPPINGS": 2 * 20_000 * 8})


@given(
    shapes=st.lists(
        st.tuples(st.integers(1, 60), st.integers(1, 200)), min_size=1, max_size=5
    ),
    has_gaps=st.booleans(),
)
def test_a_bundle_holds_the_bytes_that_pickling_would(
    shapes: list[tuple[int, int]], has_gaps: bool
) -> None:
    arrays = [np.random.default_rng(n).normal(size=(n, m)) for n, m in shapes]
    arrays[0] = np.asfortranarray(arrays[0])
    if has_gaps:
        arrays = [array[::2] for array in arrays]
    handle, _, starts = share(make_store(), arrays)
    found = rebuild_array(handle)
    for array, start in zip(arrays, starts, strict=True):
        order = "F" if array.flags.f_contiguous else "C"
        stored = found[start : start + array.nbytes].tobytes()
        assert start % 4096 == 0
        assert stored == array.tobytes(order="A" if array.flags.forc else order)


def test_a_bundle_is_shared_once_and_its_changes_are_seen() -> None:
    store = make_store()
    arrays = make_columns(["f8", "i1", "f4"])
    _, segment, _ = share(store, arrays)
    assert share(store, arrays)[1] is segment
    store.next_call()
    assert share(store, arrays)[1] is segment
    arrays[1][-1] += 1
    handle, changed, starts = share(store, arrays)
    assert changed is not segment
    assert rebuild_array(handle)[starts[1] + N_ROWS - 1] == arrays[1][-1].view("u1")
    # Another array in the same place of the list is not believed to be the same.
    arrays[1] = arrays[1].copy()
    arrays[1][N_ROWS // 3] += 1
    handle, _, starts = share(store, arrays)
    place = starts[1] + N_ROWS // 3
    assert rebuild_array(handle)[place] == arrays[1][N_ROWS // 3].view("u1")


@pytest.mark.parametrize("place", [0, 1])
def test_a_bundle_goes_with_any_of_its_arrays(place: int) -> None:
    import weakref

    store = make_store()
    arrays = make_columns(["f8", "i1"])
    known = weakref.ref(share(store, arrays)[1])
    gc.collect()
    assert known() is not None
    arrays[place] = arrays[place].copy()
    gc.collect()
    assert known() is None
