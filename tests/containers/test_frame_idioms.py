"""Whatever selects rows of a shared frame or copies it: as pandas does, but mapped."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap._compat import block_values
from skl_mmap.containers._pandas import (
    SharedFrame,
    SharedSeries,
    make_frame,
    make_series,
)
from skl_mmap.memory import counters, find_mapping
from tests import strategies
from tests.containers.test_pandas import (
    FOLD,
    assert_same,
    frames,
    make_mixed,
    make_numbers,
    share,
)
from tests.memory.sharing import share_one, take_counted

pd = pytest.importorskip("pandas", minversion="2.1")

REST = np.r_[8192:12_288]
# Before, pandas copies what is a view later.
IS_PANDAS_3 = int(pd.__version__.split(".")[0]) >= 3


def outcome(action: Callable[[Any], Any], frame: Any) -> tuple[Any, Exception | None]:
    try:
        return action(frame), None
    except Exception as error:  # noqa: BLE001 - pandas' own errors are the oracle
        return None, error


def assert_same_outcome(action: Callable[[Any], Any], ours: Any, pandas: Any) -> Any:
    expected, expected_error = outcome(action, pandas)
    result, error = outcome(action, ours)
    assert type(error) is type(expected_error), (error, expected_error)
    # Ours have a name of their own in it.
    message = str(error).replace("SharedFrame", "DataFrame")
    assert message.replace("SharedSeries", "Series") == str(expected_error)
    if expected_error is None:
        if isinstance(expected, pd.DataFrame | pd.Series):
            assert_same(result, expected)
        else:
            assert type(result) is type(expected)
    return result


def long_frames() -> st.SearchStrategy[Any]:
    """Frames and series that have enough rows, most of them."""
    repeated = frames().map(lambda X: X.take(np.arange(2048) % len(X)))
    unique = frames().map(lambda X: X.reset_index(drop=True))
    either = frames() | repeated | unique
    return either | either.map(lambda X: X.iloc[:, 0])


@strategies.examples(40)
@given(data=st.data())
def test_labels_select_what_pandas_selects(data: st.DataObject) -> None:
    plain = data.draw(long_frames())
    shared = share(plain)
    rows = data.draw(strategies.row_runs(len(plain)))[:1500]
    labels = plain.index[rows]
    forms = st.sampled_from(
        [labels, list(labels), labels.to_numpy(), pd.Series(labels), [*labels, "none"]]
    )
    key = data.draw(forms)
    if plain.index.is_unique:
        assert_same_outcome(lambda X: X.loc[key], shared, plain)
        assert_same_outcome(lambda X: X.reindex(key), shared, plain)
    else:
        assert_same_outcome(lambda X: X.loc[labels[:2]], shared, plain)
    mask = np.isin(np.arange(len(plain)), rows)
    assert_same_outcome(lambda X: X.loc[mask], shared, plain)
    if plain.ndim == 2:
        assert_same_outcome(lambda X: X.loc[mask, X.columns[:1]], shared, plain)
    assert_same(shared, plain)


@strategies.examples(40)
@given(data=st.data())
@pytest.mark.filterwarnings("ignore:dropping on a non-lexsorted")
def test_drop_leaves_what_pandas_leaves(data: st.DataObject) -> None:
    plain = data.draw(long_frames())
    shared = share(plain)
    rows = data.draw(strategies.row_runs(len(plain)))[:1500]
    labels = plain.index[rows]
    key = data.draw(
        st.sampled_from([labels, list(labels), labels[:1], [*labels, "none"], "none"])
    )
    errors = data.draw(st.sampled_from(["raise", "raise", "ignore"]))
    some = list(plain.columns[:1]) if plain.ndim == 2 else []
    drops: list[Callable[[Any], Any]] = [
        lambda X: X.drop(index=key, errors=errors),
        lambda X: X.drop(key, axis="index", errors=errors),
        lambda X: X.drop(index=key, columns=some, errors=errors),
        lambda X: X.drop(some, axis=1, errors=errors),
        lambda X: X.drop(columns=some),
        lambda X: X.drop(key, columns=some),
        lambda X: X.drop(key, axis=7),
        lambda X: X.drop(index=key, level=1),
        lambda X: X.drop(),
    ]
    for drop in [*drops[:3], data.draw(st.sampled_from(drops[3:]))]:
        result = assert_same_outcome(drop, shared, plain)
        if result is not None and len(result):
            again = np.arange(len(result) // 2, len(result))
            assert_same(result.take(again), drop(plain).take(again))
    assert_same(shared, plain)


def test_drop_refuses_what_pandas_refuses() -> None:
    shared = share(make_numbers())
    with pytest.raises(ValueError, match="Cannot specify both 'labels'"):
        shared.drop([1], columns=["a"])
    with pytest.raises(ValueError, match="Cannot specify both 'labels'"):
        shared.drop([1], index=[2])
    with pytest.raises(KeyError, match="not found in axis"):
        shared.drop(index=[3, 20_000])
    assert len(shared.drop(index=[3, 20_000], errors="ignore")) == 19_999


@strategies.examples(30)
@given(data=st.data())
def test_copies_and_views_are_pandas_and_independent(data: st.DataObject) -> None:
    plain = data.draw(long_frames())
    shared = share(plain)
    for duplicate in (
        lambda X: X.copy(),
        lambda X: X.copy(deep=False),
        copy.copy,
        copy.deepcopy,
        lambda X: pickle.loads(pickle.dumps(X)),
        lambda X: X.reset_index(drop=True),
        lambda X: X.reset_index(),
        lambda X: X[list(X.columns[::2])] if X.ndim == 2 else X[:5],
    ):
        expected = duplicate(plain)
        result = duplicate(shared)
        assert_same(result, expected)
        result.index.name = "new"
        assert_same(shared, plain)
    for copied, expected in ((shared.copy(), plain.copy()), (shared, plain.copy())):
        before = shared.copy()
        if copied.ndim == 2:
            copied.iloc[len(plain) // 2 :, 0] = copied.iloc[0, 0]
            expected.iloc[len(plain) // 2 :, 0] = expected.iloc[0, 0]
        else:
            copied.iloc[len(plain) // 2 :] = copied.iloc[0]
            expected.iloc[len(plain) // 2 :] = expected.iloc[0]
        assert_same(copied, expected)
        assert_same(before, plain)


WAYS: dict[str, Callable[[Any], Any]] = {
    "take": lambda X: X.take(FOLD),
    "iloc": lambda X: X.iloc[FOLD],
    "iloc of a list": lambda X: X.iloc[list(FOLD)],
    "iloc of a mask": lambda X: X.iloc[~np.isin(np.arange(len(X)), REST)],
    "loc": lambda X: X.loc[FOLD],
    "loc of a list": lambda X: X.loc[list(FOLD)],
    "loc of an index": lambda X: X.loc[X.index.difference(REST)],
    "loc of a mask": lambda X: X.loc[~X.index.isin(REST)],
    "mask": lambda X: X[~X.index.isin(REST)],
    "query": lambda X: X.query("index < 8192 or index >= 12288"),
    "drop": lambda X: X.drop(index=REST),
    "drop by position": lambda X: X.drop(REST),
    "drop along an axis": lambda X: X.drop(list(REST), axis="index"),
    "drop rows and columns": lambda X: X.drop(index=REST, columns=[]),
    "numbered again": lambda X: X.reset_index(drop=True).loc[FOLD],
}


@pytest.mark.parametrize("make", [make_numbers, make_mixed])
@pytest.mark.parametrize("name", WAYS)
def test_long_runs_are_mapped(make: Any, name: str) -> None:
    plain = make()
    shared = share(plain)
    counters.take()
    selected = WAYS[name](shared)
    n_mapped = take_counted()[0]
    n_bytes = plain.select_dtypes("number").to_numpy().nbytes * len(FOLD) / len(plain)
    if IS_PANDAS_3 or name not in ("numbered again", "drop rows and columns"):
        assert n_mapped > 0.9 * n_bytes
        assert type(selected) is SharedFrame
    assert_same(selected, WAYS[name](plain))


def test_columns_stay_shared_where_pandas_does_not_copy_them() -> None:
    plain = make_numbers()
    for select in (
        lambda X: X[["b", "c"]],
        lambda X: X[X.columns[2:]],
        lambda X: X.drop(columns="b"),
        lambda X: X.reset_index(drop=True),
    ):
        selected = select(make_by_column())
        is_mapped = all(find_mapping(values) for values in block_values(selected))
        assert (type(selected) is SharedFrame) == is_mapped
        assert is_mapped or not IS_PANDAS_3
        assert_same(selected, select(plain))
        assert_same(selected.take(FOLD), select(plain).take(FOLD))
        selected.iloc[:, 0] = 1.0
        assert_same(make_by_column(), plain)


def test_series_by_label_are_mapped() -> None:
    plain = make_numbers(40_000)["a"]
    shared = share(plain)
    for select in (
        lambda y: y.loc[FOLD],
        lambda y: y[FOLD],
        lambda y: y.drop(index=np.setdiff1d(np.arange(40_000), FOLD)),
    ):
        counters.take()
        selected = select(shared)
        assert type(selected) is SharedSeries
        assert take_counted()[0] > 0.9 * selected.to_numpy().nbytes
        assert_same(selected, select(plain))


def make_by_column() -> Any:
    """Share a frame of one block that is stored by columns."""
    values = share_one(np.asfortranarray(make_numbers().to_numpy()))
    return make_frame(values, list("abcdefgh"))


def test_copies_cost_what_is_written_to() -> None:
    plain = make_numbers()
    values = share_one(plain["b"].to_numpy())
    for shared in (make_by_column(), make_series(values, name="b")):
        counters.take()
        duplicate = shared.copy()
        n_bytes = duplicate.to_numpy().nbytes
        assert take_counted() == (n_bytes, {})
        assert type(duplicate) is type(shared)._plain_class
        assert_same(duplicate, plain if shared.ndim == 2 else plain["b"])
    found = find_mapping(make_copy := np.asarray(block_values(duplicate)[0]))
    assert found is not None
    assert found[0].resident_bytes()[0] == 0
    duplicate.iloc[5] = 1.0
    assert found[0].resident_bytes()[0] == 4096
    assert make_copy[5] == 1.0


def test_a_column_of_a_copy_is_replaced_alone() -> None:
    shared = make_by_column()
    duplicate = shared.copy()
    duplicate["c"] = duplicate["c"].to_numpy()[::-1]
    expected = make_numbers()
    expected["c"] = expected["c"].to_numpy()[::-1]
    assert_same(duplicate, expected)
    assert_same(shared, make_numbers())
    kept = [
        find_mapping(values) is not None
        for values in block_values(duplicate)
        for _ in range(len(values))
    ]
    assert kept.count(True) >= 7


def test_copies_of_mixed_frames_are_mapped_by_column() -> None:
    plain = make_mixed()
    shared = share(plain)
    counters.take()
    duplicate = shared.copy()
    n_bytes = plain.select_dtypes("number").to_numpy().nbytes
    assert take_counted()[0] >= n_bytes
    assert type(duplicate) is pd.DataFrame
    assert_same(duplicate, plain)
    duplicate.loc[:, "i"] = 0
    assert_same(shared, plain)


def test_copies_have_the_order_of_pandas() -> None:
    by_row = np.ascontiguousarray(make_numbers().to_numpy())
    plain = pd.DataFrame(by_row, copy=False)
    for ours, pandas in (
        (make_frame(share_one(by_row), plain.columns), plain),
        (make_by_column(), pd.DataFrame(np.asfortranarray(by_row), copy=False)),
    ):
        order = ours.copy().to_numpy().flags.c_contiguous
        assert order == pandas.copy().to_numpy().flags.c_contiguous


@pytest.mark.parametrize(
    ("action", "kind"),
    [
        (lambda X: X.copy(), "private mapping"),
        (copy.deepcopy, "private mapping"),
        (copy.copy, "the same memory"),
        (lambda X: X.copy(deep=False), "the same memory"),
        (lambda X: pd.DataFrame(X, copy=True), "a copy"),
        (np.array, "a copy"),
    ],
    ids=["copy", "deepcopy", "copy.copy", "shallow", "constructor", "array"],
)
def test_each_way_to_copy_a_frame_costs_what_is_documented(
    action: Callable[[Any], Any], kind: str
) -> None:
    shared = share(make_numbers())
    copied = action(shared)
    array = copied if isinstance(copied, np.ndarray) else block_values(copied)[0]
    is_same = np.shares_memory(array, block_values(shared)[0])
    is_mapped = find_mapping(array) is not None
    assert is_same == (kind == "the same memory")
    assert is_mapped == (kind != "a copy")
