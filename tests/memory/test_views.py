"""Views of one array are shared once, and arrive as if they had been pickled."""

from __future__ import annotations

import gc
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

import skl_mmap
from skl_mmap._linux import proc
from skl_mmap.memory import (
    ArrayHandle,
    Placement,
    Segment,
    Settings,
    Store,
    Windows,
    _store,
    _views,
    _windows,
    can_remap,
    live_mappings,
    rebuild_array,
)
from skl_mmap.monitor import SegmentRecord, listen, unlisten
from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    as_stored,
    assert_same,
    assert_same_values,
    make_store,
    own_mapping,
    send,
    shared_with,
)
from tests.memory.test_store import count_files, flip_one_byte

MIB = 1 << 20
Array = npt.NDArray[Any]

pytestmark = pytest.mark.skipif(
    not can_remap(), reason="parts of arrays are only shared in memory files"
)


@pytest.fixture(autouse=True)
def views_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_store, "MIN_VIEW_BYTES", 1)


def pickled(array: Array) -> Array:
    """Return an array as loky would send it."""
    copy: Array = pickle.loads(pickle.dumps(array, protocol=5))
    return copy


def shared_view(store: Store, view: Array) -> tuple[ArrayHandle, Segment]:
    """Share a view that cannot be refused."""
    shared = store.share_view(view)
    assert shared is not None
    return shared


def rebuild_view(handle: ArrayHandle) -> Array:
    """Rebuild a view as a task that gets it alone does."""
    rebuild, arguments = send(Windows().reduce(handle))
    view: Array = rebuild(*arguments)
    return view


def received(store: Store, view: Array) -> Array:
    """Return a view as a task gets it, by handle or by value."""
    shared = store.share_view(view)
    return pickled(view) if shared is None else rebuild_view(shared[0])


def allocated_bytes(segment: Segment) -> int:
    return os.fstat(segment.fd).st_blocks * 512


def make_columns(n_columns: int = 6, n_rows: int = 10_000, order: Any = "C") -> Array:
    X = np.random.default_rng(0).random((n_rows, n_columns))
    return np.asarray(X, order=order)


def read_only(view: Array) -> Array:
    view = view[...]
    view.flags.writeable = False
    return view


# Kinds of views, and of which arrays there are such.
STEPS: dict[str, tuple[Callable[[Array], bool], Callable[[Any, Array], Array]]] = {
    "rows": (
        lambda view: view.ndim > 0,
        lambda draw, view: view[draw(strategies.slices(len(view)))],
    ),
    "column": (
        lambda view: view.ndim > 1 and view.shape[-1] > 0,
        lambda draw, view: view[..., draw(st.integers(0, view.shape[-1] - 1))],
    ),
    "columns": (
        lambda view: view.ndim > 1,
        lambda draw, view: view[..., draw(strategies.slices(view.shape[-1]))],
    ),
    "transposed": (lambda view: True, lambda draw, view: view.T),
    "flat": (
        lambda view: bool(view.flags.c_contiguous),
        lambda draw, view: view.reshape(-1),
    ),
    "bytes": (
        lambda view: view.ndim == 1 and bool(view.flags.c_contiguous),
        lambda draw, view: view.view(np.uint8),
    ),
    "field": (
        lambda view: view.dtype.names is not None,
        lambda draw, view: view[draw(st.sampled_from(view.dtype.names))],
    ),
    "windows": (
        lambda view: view.ndim == 1 and len(view) > 9,
        lambda draw, view: np.lib.stride_tricks.sliding_window_view(view, 9)[::3],
    ),
    "reversed": (lambda view: view.ndim > 0, lambda draw, view: view[::-1]),
    "new axis": (lambda view: True, lambda draw, view: view[..., None]),
    "read-only": (lambda view: True, lambda draw, view: read_only(view)),
    "broadcast": (
        lambda view: view.size < 1000,
        lambda draw, view: np.broadcast_to(view, (2, *view.shape)),
    ),
}


@st.composite
def views_of(draw: st.DrawFn, base: Array) -> Array:
    """Views of an array: slices, columns, windows, fields, other dtypes and shapes."""
    view = base
    for _ in range(draw(st.integers(1, 3))):
        kinds = [step for is_possible, step in STEPS.values() if is_possible(view)]
        view = draw(st.sampled_from(kinds))(draw, view)
    return view


@strategies.examples(300)
@given(base=strategies.arrays(), data=st.data())
def test_views_arrive_as_if_they_were_pickled(base: Array, data: st.DataObject) -> None:
    store = make_store()
    kept = []
    for _ in range(data.draw(st.integers(2, 6))):
        view = data.draw(views_of(base))
        if view.nbytes == 0:
            continue
        for _ in range(2):  # the second time from the file, where there is one
            result = received(store, view)
            assert type(result) is np.ndarray
            assert_same(result, pickled(view))
        kept.append((result, pickled(view)))
        if data.draw(st.booleans()) and base.flags.writeable:
            base[...] = strategies.fill(base.dtype, base.shape, len(kept))
    for result, expected in kept:
        assert_same_values(result, expected)


@strategies.examples(100)
@given(data=st.data())
def test_no_more_is_shared_than_was_sent(data: st.DataObject) -> None:
    """At most the bytes of the views, and the pages that they do not fill."""
    order = data.draw(st.sampled_from(["C", "F"]))
    base = make_columns(data.draw(st.integers(1, 9)), 20_000, order)
    store = make_store()
    segments = {}
    sent_bytes = n_views = 0
    for _ in range(data.draw(st.integers(2, 20))):
        view = data.draw(views_of(base))
        if view.nbytes == 0 or (shared := store.share_view(view)) is None:
            continue
        segments[shared[1].identity] = shared[1]
        sent_bytes += view.nbytes
        n_views += 1
    shared_bytes = sum(map(allocated_bytes, segments.values()))
    assert shared_bytes <= sent_bytes + 2 * n_views * PAGE_BYTES
    assert shared_bytes <= 2 * (base.nbytes + base.shape[1] * PAGE_BYTES)


VIEWS: dict[str, tuple[Any, Callable[[Array, int], Array]]] = {
    "columns of rows": ("C", lambda X, place: X[:, place]),
    "columns with an axis": ("C", lambda X, place: X[:, place : place + 1]),
    "parts of columns": ("C", lambda X, place: X[1000:9000, place]),
    "columns": ("F", lambda X, place: X[:, place]),
    "rows": ("C", lambda X, place: X[place * 1000 : (place + 1) * 1000]),
    "rows of columns": ("F", lambda X, place: X.T[place]),
    "windows": ("C", lambda X, place: X[place * 500 : place * 500 + 2000]),
    "flat windows": ("C", lambda X, place: X.reshape(-1)[place : place + 30_000]),
    "fields": (
        "C",
        lambda X, place: X.view([(name, float) for name in "abcdef"])["abcdef"[place]],
    ),
    "integers": ("C", lambda X, place: X.view("i8")[place * 1000 : 9000]),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views_of_one_array_lie_in_one_file_without_gaps(name: str) -> None:
    order, view_of = VIEWS[name]
    X = make_columns(order=order)
    store = make_store()
    assert store.share_view(view_of(X, 0)) is None  # it may be the only one
    n_files = count_files()
    shared = [shared_view(store, view_of(X, place)) for place in range(6)]
    shared += [shared_view(store, view_of(X, place)) for place in range(6)]
    assert count_files() == n_files + 1
    for (handle, _), place in zip(shared, [*range(6), *range(6)], strict=True):
        assert_same(rebuild_view(handle), pickled(view_of(X, place)))
    assert allocated_bytes(shared[0][1]) <= X.nbytes + 6 * PAGE_BYTES


OTHER_VIEWS: dict[str, Callable[[Array], Array]] = {
    "all of it": lambda X: X[:],
    "transposed": lambda X: X.T,
    "flat": lambda X: X.reshape(-1),
    "some columns": lambda X: X[:, 1:3],
    "reversed": lambda X: X[::-1],
    "every second row": lambda X: X[::2],
    "every second from the end": lambda X: X.reshape(-1)[::-2],
    "reversed column": lambda X: X[:, 1:2][::-1],
    "broadcast": lambda X: np.broadcast_to(X[0], (50, 6)),
    "sliding windows": lambda X: np.lib.stride_tricks.sliding_window_view(X[0], 3),
    "unaligned": lambda X: X.view("u1").reshape(-1)[3:-5].view("f8"),
    "records": lambda X: X.view([("a", "f8"), ("b", "f8")])[:, 0],
    "a copy": lambda X: X.copy(),
}


@pytest.mark.parametrize("name", OTHER_VIEWS)
def test_views_of_other_kinds_are_sent_by_value(name: str) -> None:
    X = make_columns()
    store = make_store()
    n_files = count_files()
    view = OTHER_VIEWS[name](X)
    assert [store.share_view(view) for _ in range(3)] == [None] * 3
    assert count_files() == n_files


def test_parts_of_small_arrays_are_sent_by_value() -> None:
    X = make_columns()
    settings = Settings("c", 0, X.nbytes + 1)
    store = Store(Placement.from_parameter("memory"), settings)
    assert [store.share_view(X[:, place]) for place in range(3)] == [None] * 3
    settings = Settings("c", 0, X.nbytes)
    store = Store(Placement.from_parameter("memory"), settings)
    assert store.share_view(X[:, 0]) is None
    assert store.share_view(X[:, 1]) is not None


def test_small_views_are_sent_by_value(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    X = make_columns()
    store = make_store()
    least = _views.MIN_VIEW_BYTES // 8
    for n_items, is_shared in ((least - 1, False), (least, True)):
        views = [X.reshape(-1)[place : place + n_items] for place in range(3)]
        assert (store.share_view(views[0]) is None) or is_shared
        assert (store.share_view(views[1]) is not None) == is_shared


@strategies.examples(100)
@given(
    name=st.sampled_from(list(VIEWS)),
    item=st.integers(0, 7999),
    byte=st.integers(0, 7),
)
def test_one_byte_changed_in_a_view_is_seen(name: str, item: int, byte: int) -> None:
    order, view_of = VIEWS[name]
    X = make_columns(order=order)
    store = make_store()
    kept = [received(store, view_of(X, place)) for place in (1, 2, 1)]
    before = [pickled(view_of(X, place)) for place in (1, 2, 1)]
    flip_one_byte(view_of(X, 1), item % view_of(X, 1).size, byte)
    for _ in range(2):
        for place in (2, 1):
            assert_same(received(store, view_of(X, place)), pickled(view_of(X, place)))
    for result, expected in zip(kept, before, strict=True):
        assert_same_values(result, expected)


def test_what_changes_beside_a_view_does_not_matter() -> None:
    X = make_columns()
    store = make_store()
    shared = [store.share_view(X[:, place]) for place in (0, 1)]
    X[:, 2:] = 0
    assert shared_view(store, X[:, 1])[1] is shared[1][1]  # type: ignore[index]


def test_what_is_written_to_a_view_is_not_seen_in_another() -> None:
    X = make_columns()
    store = make_store()
    parts = [X[:2000], X[1000:3000], X[1000:3000]]
    store.share_view(X[:5])
    first, second, third = (received(store, part) for part in parts)
    first[...] = -1
    second[1500:] = -2
    assert_same_values(third, X[1000:3000])
    assert_same_values(second[:1500], X[1000:2500])
    assert_same_values(received(store, X[:3000]), X[:3000])


def test_read_only_views_are_as_pickling_makes_them() -> None:
    X = make_columns()
    X.flags.writeable = False
    for mmap_mode in ("c", "r"):
        store = make_store(mmap_mode)
        for view in (X[:100], X[100:200], X[:, 0], X[:, 1], X[:, 2:3]):
            received(store, view)
            assert_same(received(store, view), pickled(view))


def test_a_view_that_may_not_be_written_to_is_copied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from skl_mmap._linux import calls

    X = make_columns()
    store = make_store()
    store.share_view(X[:, 0])
    handle, _segment = shared_view(store, X[:, 1])
    map_file = calls.map_file

    def refuse(*args: Any, writable: bool, **kwargs: Any) -> None:
        if writable:
            raise OSError(12, "strict overcommit")
        map_file(*args, writable=writable, **kwargs)

    monkeypatch.setattr(calls, "map_file", refuse)
    windows = Windows()
    task = send([windows.reduce(handle) for _ in range(5)])
    for rebuild, arguments in task:  # the last ones in windows
        view = rebuild(*arguments)
        view[3] = 1.5
        assert view[3] == 1.5
        assert_same_values(view[4:], X[4:, 1])


@pytest.mark.parametrize("order", ["C", "F"])
def test_views_of_a_shared_array_are_found_in_it(order: str) -> None:
    X = make_columns(order=order)
    rows = X if order == "C" else X.T
    store = make_store()
    _, whole = shared_with(store, X)
    n_files = count_files()
    for place in range(3):
        view = rows[place : place + 2]
        handle, segment = shared_view(store, view)
        assert segment is whole
        assert_same(rebuild_view(handle), pickled(view))
    assert count_files() == n_files
    # It is believed only where it is right.
    rows[1] = 0
    assert store.share_view(rows[:2]) is None
    assert shared_view(store, rows[2:4])[1] is whole


def test_views_of_what_is_mapped_already_are_not_shared_again(tmp_path: Path) -> None:
    shared = skl_mmap.share(make_columns())
    path = tmp_path / "X.npy"
    np.save(path, make_columns())
    n_files = count_files()
    store = make_store()
    for X in (shared, np.asarray(shared), np.load(path, mmap_mode="r")):
        for view in (X[:100], X[50:200]):
            handle, _segment = shared_view(store, view)
            assert_same_values(rebuild_view(handle), view)
    del X, view
    # The file is open here, for as long as its handle is kept.
    assert count_files() <= n_files + 1
    # Without gaps, as pickling does.
    for view in (shared[:, 2], shared.reshape(-1)[::2]):
        for _ in range(2):
            assert_same(received(store, view), pickled(np.asarray(view)))
    shared[60] = -1
    assert_same(received(store, shared[50:200]), pickled(np.asarray(shared[50:200])))
    shared.close()


def test_a_file_goes_with_its_array_and_with_the_call() -> None:
    n_files = count_files()
    store = make_store()
    for end in (store.next_call, store.end_call, store.close, lambda: None):
        X = make_columns()
        for place in (0, 1):
            store.share_view(X[:, place])
        assert count_files() == n_files + 1
        end()
        if end in (store.next_call, store.end_call, store.close):
            assert count_files() == n_files
        del X
        assert count_files() == n_files


def test_a_file_outlives_the_call_while_it_is_used() -> None:
    X = make_columns()
    store = make_store()
    store.share_view(X[:, 0])
    handle, segment = shared_view(store, X[:, 1])
    store.end_call()
    view = rebuild_view(handle)
    del segment
    assert_same_values(view, X[:, 1])


def test_an_array_at_the_place_of_one_that_died_is_not_taken_for_it() -> None:
    store = make_store()
    for value in range(20):
        X = np.full((1000, 8), float(value))
        for place in range(3):
            assert received(store, X[:, place]).max() == value
        del X
    gc.collect()
    assert not store._views._parts


def test_views_that_do_not_come_again_do_not_pile_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_views, "_MAX_SPARE_BYTES", 10 * 8 * 1000)
    X = make_columns(60, 1000)
    store = make_store()
    most = 0
    for place in range(60):
        store.next_task()
        store.share_view(X[:, place])
        open_bytes = [p.segment for p in store._views._parts.values() if p.segment]
        most = max(most, sum(map(allocated_bytes, open_bytes)))
    assert 0 < most <= 10 * (8 * 1000 + 2 * PAGE_BYTES)


def test_views_of_one_task_are_in_one_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_views, "_MAX_SPARE_BYTES", 10 * 8 * 1000)
    X = make_columns(60, 1000)
    store = make_store()
    for _ in range(3):
        store.next_task()
        shared = [store.share_view(column) for column in X.T]
        files = {found[1].identity for found in shared if found is not None}
        assert len(files) == 1


def test_views_that_come_again_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_views, "_MAX_SPARE_BYTES", 10 * 8 * 1000)
    X = make_columns(60, 1000)
    store = make_store()
    files = []
    for _ in range(4):
        for place in range(60):
            store.next_task()
            shared = store.share_view(X[:, place])
            files.append(None if shared is None else shared[1])
    assert len(set(map(id, files[120:]))) <= 2
    assert len(set(map(id, files[180:]))) == 1
    kept = files[-1]
    assert kept is not None
    assert allocated_bytes(kept) >= X.nbytes


def test_large_windows_share_what_they_have_in_common() -> None:
    X = make_columns()
    views = [X[start : start + 8000] for start in range(0, 2000, 500)]
    store = make_store()
    n_files = count_files()
    for _ in range(2):
        shared = [shared_with(store, view) for view in views]
        for found, view in zip(shared, views, strict=True):
            assert_same(rebuild_array(found[0]), as_stored(view))
    assert count_files() == n_files + 2
    rows = (allocated_bytes(shared[0][1]) + allocated_bytes(shared[1][1])) // 48
    assert rows < 8000 + 9000 + 2 * PAGE_BYTES // 48
    # The entries of these views stay as long as the views, as all others do.
    store.next_call()
    assert [shared_with(store, view)[1] for view in views] == [s for _, s in shared]
    del shared, views, view, found
    store.end_call()
    assert count_files() == n_files


def test_large_windows_with_little_in_common_have_segments_of_their_own() -> None:
    X = make_columns()
    views = [X[:6000], X[5000:], X[4000:7000]]
    store = make_store()
    segments = [shared_with(store, view)[1] for view in views]
    assert [segment.n_bytes for segment in segments[:2]] == [6000 * 48, 5000 * 48]
    assert segments[2].n_bytes == X.nbytes


def test_large_windows_are_compared_as_all_large_arrays_are() -> None:
    X = np.random.default_rng(0).random((300_000, 2))
    views = [X[:200_000], X[98_000:], X[50_000:251_000]]
    store = make_store()
    segments = [shared_with(store, view)[1] for view in views]
    with mock.patch.object(Segment, "holds", side_effect=AssertionError):
        assert [shared_with(store, view)[1] for view in views] == segments
    X[199_999] = 0  # the last page of the first one
    assert shared_with(store, views[0])[1] is not segments[0]
    assert_same(rebuild_array(shared_with(store, views[0])[0]), as_stored(views[0]))


def test_large_windows_of_a_shared_array_are_found_in_it() -> None:
    X = make_columns()
    store = make_store()
    _, whole = shared_with(store, X)
    for start in (0, 500, 1000):
        handle, segment = shared_with(store, X[start : start + 8000])
        assert segment is whole
        assert_same(rebuild_array(handle), as_stored(X[start : start + 8000]))


@strategies.examples(150)
@given(data=st.data(), small_bytes=st.sampled_from([0, _store._SMALL_BYTES]))
def test_large_windows_are_never_stale(data: st.DataObject, small_bytes: int) -> None:
    dtype = data.draw(st.sampled_from(strategies.DTYPES))
    X = strategies.fill(dtype, (600, 7))
    flat = X if data.draw(st.booleans()) else X.T
    cuts = st.integers(0, len(flat))
    store = make_store()
    views: list[Array] = []
    kept = []
    with mock.patch.object(_store, "_SMALL_BYTES", small_bytes):
        for step in range(data.draw(st.integers(2, 8))):
            if data.draw(st.booleans()) or not views:
                start, stop = sorted((data.draw(cuts), data.draw(cuts)))
                views.append(flat[start : stop + 1])
            view = data.draw(st.sampled_from(views))
            if view.nbytes == 0:
                continue
            result = rebuild_array(send(shared_with(store, view)[0]))
            assert_same(result, as_stored(view))
            kept.append((result, as_stored(view)))
            if data.draw(st.booleans()):
                X[...] = strategies.fill(dtype, X.shape, step)
            if data.draw(st.booleans()):
                store.next_call()
    for result, expected in kept:
        assert_same_values(result, expected)


def test_of_much_of_an_array_all_is_adopted() -> None:
    X = own_mapping(lambda: np.random.default_rng(0).random((400, 20_000)))
    store = Store(
        Placement.from_parameter("memory"), Settings("c", 0, 1 << 20), can_adopt=True
    )
    segments = {}
    for place in range(400):
        shared = store.share_view(X[place])
        if shared is not None:
            segments[shared[1].identity] = shared[1]
            assert_same(rebuild_view(shared[0]), pickled(X[place]))
    parts, adopted = segments.values()
    assert X.nbytes // 8 <= allocated_bytes(parts) <= X.nbytes // 8 + 3 * X[0].nbytes
    assert allocated_bytes(adopted) >= X.nbytes


def test_what_cannot_be_adopted_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(_store, "note", notes.append)
    X = np.frombuffer(bytearray(8 * 400 * 1000)).reshape(400, 1000)
    settings = Settings("c", 0, 1 << 20)
    store = Store(Placement.from_parameter("memory"), settings, can_adopt=True)
    for place in range(400):
        assert_same(received(store, X[place]), pickled(X[place]))
    assert len(notes) == 1
    assert "not adopted" in notes[0]


def test_the_number_of_files_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(_views, "note", notes.append)
    arrays = [make_columns(3, 1000) for _ in range(_views._MAX_FILES + 5)]
    store = make_store()
    for place in (0, 1):
        for X in arrays:
            assert_same(received(store, X[:, place]), pickled(X[:, place]))
    assert len(notes) == 5
    assert "64 arrays" in notes[0]


def test_without_room_views_are_sent_by_value(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    notes: list[str] = []
    monkeypatch.setattr(_views, "note", notes.append)
    X = make_columns()
    n_files = count_files()
    for store in (make_store(store=str(tmp_path)), make_store()):
        assert store.share_view(X[:, 0]) is None
        monkeypatch.setattr(proc, "available_memory_bytes", lambda: 5 << 10)
        for place in (1, 2):
            assert store.share_view(X[:, place]) is None
    assert count_files() == n_files
    assert len(set(notes)) == 1
    assert "memory" in notes[0]


def test_an_error_of_the_system_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[str] = []
    monkeypatch.setattr(_store, "note", notes.append)

    def fail(*args: Any) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", fail)
    X = make_columns()
    store = make_store()
    assert [store.share_view(X[:, place]) for place in (0, 1)] == [None, None]
    assert "Too many open files" in notes[0]


@pytest.fixture
def records() -> Iterator[list[SegmentRecord]]:
    found: list[SegmentRecord] = []
    listener = listen(found.append, SegmentRecord)
    yield found
    unlisten(listener)


def test_who_measures_is_told_of_a_file_once(records: list[SegmentRecord]) -> None:
    X = make_columns()
    store = make_store()
    for place in range(4):
        store.share_view(X[:, place])
    assert not records
    store.end_call()
    [record] = records
    assert record.description == "parts of float64 (10000, 6)"
    assert record.n_bytes == 3 * X[:, 0].nbytes
    assert (record.place, record.is_copy) == ("memory", True)
    store.close()
    assert len(records) == 1


def test_who_measures_is_told_what_large_windows_take(
    records: list[SegmentRecord],
) -> None:
    X = make_columns()
    views = [X[:4000], X[1000:5000], X[2000:6000]]
    store = make_store()
    segments = [shared_with(store, view)[1] for view in views]
    assert segments[1] is segments[2]
    assert [record.n_bytes for record in records] == [views[0].nbytes]
    store.next_call()
    assert [record.n_bytes for record in records[1:]] == [5000 * 48]
    shared_with(store, views[2])
    assert records[-1].inode == segments[2].identity
    assert 5000 * 48 <= records[-1].n_bytes <= 5000 * 48 + 2 * PAGE_BYTES
    store.close()


@strategies.examples(200)
@given(
    ranges=st.lists(
        st.tuples(st.integers(0, 40), st.integers(1, 10)), min_size=1, max_size=12
    )
)
def test_ranges_are_sets_of_bytes(ranges: list[tuple[int, int]]) -> None:
    known, expected = _views.ByteRanges(), set[int]()
    for start, length in ranges:
        missing = known.missing(start, start + length)
        found = {byte for low, high in missing for byte in range(low, high)}
        assert found == set(range(start, start + length)) - expected
        assert all(low < high for low, high in missing)
        known.add(start, start + length)
        expected |= set(range(start, start + length))
    assert len(known) <= len(ranges)


@strategies.examples(100)
@given(data=st.data())
def test_many_views_of_a_task_share_mappings_and_no_writes(data: st.DataObject) -> None:
    X = make_columns(8, 1000)
    flat = X.reshape(-1)
    cuts = st.integers(0, len(flat))
    ranges = data.draw(st.lists(st.tuples(cuts, cuts), min_size=5, max_size=20))
    views = [flat[min(cut) : max(cut)] for cut in ranges if len(set(cut)) == 2]
    for view in views[::4]:
        view.flags.writeable = False
    store = make_store()
    store.share_view(X[:1])
    windows = Windows()
    shared = [store.share_view(view) for view in views]
    # One pickle for all of them, as a task is: windows are in it once.
    task = send([windows.reduce(found[0]) for found in shared if found is not None])
    arrays = [rebuild(*arguments) for rebuild, arguments in task]
    views = [v for v, found in zip(views, shared, strict=True) if found is not None]
    for result, view in zip(arrays, views, strict=True):
        assert_same(result, pickled(view))
    for place, (result, view) in enumerate(zip(arrays, views, strict=True)):
        assert_same_values(result, view)
        if view.flags.writeable:
            result[...] = -place


def test_disjoint_views_of_a_task_lie_in_one_mapping() -> None:
    X = make_columns(1000, 10)
    store = make_store()
    windows = Windows()
    shared = [store.share_view(row) for row in X]
    handles = [found[0] for found in shared if found is not None]
    before = len(live_mappings())
    task = send([windows.reduce(handle) for handle in handles])
    arrays = [rebuild(*arguments) for rebuild, arguments in task]
    assert len(arrays) == len(X) - 1
    assert len(live_mappings()) <= before + 4
    for array, row in zip(arrays, X[1:], strict=True):
        assert_same(array, pickled(row))


def test_lists_of_the_same_views_have_a_window_each() -> None:
    X = make_columns(1000, 20)
    store = make_store()
    store.share_view(X[0])
    windows = Windows()
    shared = [store.share_view(row) for row in [*X] * 3]
    before = len(live_mappings())
    task = send([windows.reduce(found[0]) for found in shared if found is not None])
    arrays = [rebuild(*arguments) for rebuild, arguments in task]
    assert len(arrays) == 60
    assert len(live_mappings()) <= before + 6
    for place, array in enumerate(arrays):
        assert_same(array, pickled(X[place % 20]))
        array[...] = -1


def test_views_far_apart_lie_in_windows_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_windows, "_WINDOW_BYTES", 3 * PAGE_BYTES)
    X = make_columns(100, 10)
    store = make_store()
    windows = Windows()
    shared = [store.share_view(row) for row in X]
    task = send([windows.reduce(found[0]) for found in shared if found is not None])
    arrays = [rebuild(*arguments) for rebuild, arguments in task]
    for array, row in zip(arrays, X[1:], strict=True):
        assert_same(array, pickled(row))
