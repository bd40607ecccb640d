"""Rows of a shared frame are pandas'; only its numbers are not copied."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from skl_mmap.containers import container_of
from skl_mmap.containers._pandas import make_frame, make_series
from skl_mmap.memory import (
    Placement,
    SegmentWriter,
    Settings,
    counters,
    find_mapping,
)
from tests import strategies
from tests.memory.sharing import share_one, take_counted

pd = pytest.importorskip("pandas", minversion="2.1")
with contextlib.suppress(ImportError):
    import pyarrow as pa

PLACEMENT = Placement.from_parameter("memory")
SETTINGS = Settings(min_mapped_bytes=0, min_bytes=0)

COLUMNS: dict[str, Callable[[int], Any]] = {
    "f8": lambda n: np.random.default_rng(n).normal(size=n),
    "f4": lambda n: np.arange(n, dtype=np.float32),
    "i1": lambda n: (np.arange(n) % 100).astype(np.int8),
    "bool": lambda n: np.arange(n) % 3 == 0,
    "c16": lambda n: np.arange(n) * 1j,
    "object": lambda n: np.array([None, "a", 1.5], dtype=object)[np.arange(n) % 3],
    "object text": lambda n: pd.Series(["x"] * n, dtype=object).array,
    "object dates": lambda n: pd.Series([pd.Timestamp(0)] * n, dtype=object).array,
    "str": lambda n: pd.Series(np.array(["x", "yy"])[np.arange(n) % 2]).array,
    "category": lambda n: pd.Categorical.from_codes(
        np.arange(n) % 4 - 1, ["p", "q", "r"], ordered=True
    ),
    "Int64": lambda n: pd.array([None, 1, 2] * (n // 3 + 1), dtype="Int64")[:n],
    "boolean": lambda n: pd.array([None, True, False] * n, dtype="boolean")[:n],
    "Float32": lambda n: pd.array(np.arange(n) / 7, dtype="Float32"),
    "dates": lambda n: pd.date_range("2020", periods=n, freq="h"),
    "durations": lambda n: pd.to_timedelta(np.arange(n), unit="s"),
    "periods": lambda n: pd.period_range("2020", periods=n, freq="h"),
    "zoned": lambda n: pd.date_range("2020", periods=n, freq="h", tz="UTC"),
}

if importlib.util.find_spec("pyarrow") is not None:
    COLUMNS["arrow double"] = lambda n: pd.array(
        [None, 1.5, 2.5] * n, dtype="double[pyarrow]"
    )[:n]
    COLUMNS["arrow text"] = lambda n: pd.array(
        np.array(["x", None, "yy"], dtype=object)[np.arange(n) % 3],
        dtype="string[pyarrow]",
    )
    COLUMNS["arrow categories"] = lambda n: pd.array(
        np.array(["p", "q"])[np.arange(n) % 2], dtype="string[pyarrow]"
    ).astype(pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())))


@st.composite
def frames(draw: st.DrawFn) -> Any:
    n_rows = draw(st.integers(1, 3000))
    kinds = draw(
        st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=5)
        | st.sampled_from(list(COLUMNS)).flatmap(lambda k: st.just([k] * 4))
    )
    frame = pd.DataFrame(
        {
            i: pd.Series(COLUMNS[kind](n_rows), dtype=object if "obj" in kind else None)
            for i, kind in enumerate(kinds)
        }
    )
    if draw(st.booleans()):
        frame = frame.copy()  # one block for all columns of a dtype
    frame.columns = draw(
        st.sampled_from(
            [
                [f"column {i}" for i in range(len(kinds))],
                ["same"] * len(kinds),
                pd.MultiIndex.from_product([["a"], range(len(kinds))], names=["x", 1]),
                range(10, 10 + len(kinds)),
            ]
        )
    )
    index = draw(st.sampled_from(["default", "named", "shifted", "numbers", "dates"]))
    frame.index = {
        "default": lambda: frame.index,
        "named": lambda: frame.index.rename("row"),
        "shifted": lambda: pd.RangeIndex(5, 5 + 2 * n_rows, 2),
        "numbers": lambda: pd.Index(np.arange(n_rows) % 7),
        "dates": lambda: pd.date_range("2020", periods=n_rows, freq="D"),
    }[index]()
    if draw(st.booleans()):
        frame.attrs["source"] = "test"
    return frame


def share(frame: Any) -> Any:
    container = container_of(frame)
    assert container is not None
    return container.share(frame, PLACEMENT, SETTINGS)


def take(frame: Any, rows: Any, axis: Any) -> tuple[Any, Exception | None]:
    try:
        return frame.take(rows, axis=axis), None
    except Exception as error:  # noqa: BLE001 - pandas' own errors are the oracle
        return None, error


def assert_same(result: Any, expected: Any) -> None:
    assert isinstance(result, type(expected))
    plain = type(expected)(result, copy=False)
    if isinstance(expected, pd.DataFrame):
        pd.testing.assert_frame_equal(plain, expected, check_exact=True)
        assert list(map(type, plain.columns)) == list(map(type, expected.columns))
    else:
        pd.testing.assert_series_equal(plain, expected, check_exact=True)
    assert type(result.index) is type(expected.index)
    assert result.index.equals(expected.index)
    assert result.attrs == expected.attrs
    assert result.flags == expected.flags


def test_byte_order_of_indices_does_not_matter() -> None:
    text = pd.array(["x", "y", "z"], dtype=pd.ArrowDtype(pa.string()))
    plain = pd.DataFrame({"a": [1.0, 2.0, 3.0], "b": text})
    for dtype in (">i4", "<i4", ">u8"):
        rows = np.array([2, 0], dtype=dtype)
        assert_same(share(plain).take(rows), plain.take(rows))
    # Rows that are mapped, and labels that pandas selects.
    for labels in (None, list("xy") * 500, pd.date_range("2000", periods=1000)):
        plain = pd.DataFrame(np.ones((1000, 200)), index=labels)
        rows = np.r_[0:400, 500:1000].astype(">i8")
        assert_same(share(plain).take(rows), plain.take(rows))


def test_negative_indices_of_few_bits_count_from_the_end_of_many_rows() -> None:
    rows = np.r_[0:100, -100:0].astype("int8")
    for labels in (None, np.arange(1000.0), pd.date_range("2000", periods=1000)):
        plain = pd.DataFrame(np.ones((1000, 1000)), index=labels)
        assert_same(share(plain).take(rows), plain.take(rows))


@strategies.examples(150)
@given(data=st.data())
def test_rows_are_those_that_pandas_takes(data: st.DataObject) -> None:
    plain = data.draw(frames())
    if data.draw(st.integers(0, 3)) == 0:
        plain = plain.iloc[:, 0]
    shared = share(plain)
    assert_same(shared, plain)
    for _ in range(2):
        rows = data.draw(
            strategies.row_runs(len(plain)) | strategies.row_indices(len(plain))
        )
        if data.draw(st.booleans()) and isinstance(rows, np.ndarray) and rows.ndim == 1:
            rows = share_one(rows) if rows.nbytes else rows
        axis = data.draw(st.sampled_from([0, 0, 0, "index", 5]))
        expected, expected_error = take(plain, rows, axis)
        result, error = take(shared, rows, axis)
        assert type(error) is type(expected_error), (error, expected_error)
        if error is not None or not len(expected):
            return
        assert_same(result, expected)
        assert_same(shared, plain)
        shared, plain = result, expected


@strategies.examples(50)
@given(frame=frames())
def test_columns_and_masks_are_those_that_pandas_selects(frame: Any) -> None:
    shared = share(frame)
    mask = np.arange(len(frame)) % 5 > 2
    for select in (
        lambda X: X.take([0], axis=1),
        lambda X: X.iloc[mask],
        lambda X: X.loc[mask],
        lambda X: X.iloc[:, 0],
        lambda X: X.iloc[len(X) // 2 :],
        lambda X: X.head(2).T,
    ):
        assert_same(select(shared), select(frame))


def make_numbers(n_rows: int = 20_000) -> Any:
    rng = np.random.default_rng(0)
    return pd.DataFrame(rng.normal(size=(n_rows, 8)), columns=list("abcdefgh"))


def make_mixed(n_rows: int = 20_000) -> Any:
    frame = make_numbers(n_rows)
    frame["i"] = np.arange(n_rows)
    frame["s"] = "x"
    frame["k"] = pd.Categorical(np.array(list("pqr"))[np.arange(n_rows) % 3])
    return frame


FOLD = np.r_[0:8192, 12_288:20_000]


@pytest.mark.parametrize("make", [make_numbers, make_mixed])
def test_numbers_are_mapped_and_can_be_selected_from_again(make: Any) -> None:
    plain = make()
    shared = share(plain)
    counters.take()
    selected = shared.take(FOLD)
    n_bytes = plain.select_dtypes("number").to_numpy().nbytes * len(FOLD) / len(plain)
    assert take_counted()[0] > 0.9 * n_bytes
    again = selected.take(np.arange(4096, 15_000))
    assert take_counted()[0] > 0.4 * n_bytes
    assert_same(again, plain.take(FOLD).take(np.arange(4096, 15_000)))


def test_rows_counted_from_the_end_keep_the_frequency_of_dates() -> None:
    plain = make_numbers().set_axis(
        pd.date_range("2020", periods=20_000, freq="h"), axis=0
    )
    rows = np.arange(-9000, 0)
    assert plain.take(rows).index.freq is not None
    assert share(plain).take(rows).index.freq == plain.take(rows).index.freq


def test_numbers_of_one_dtype_lie_row_by_row() -> None:
    shared = share(make_numbers())
    values = shared.take(FOLD).to_numpy()
    assert values.flags.c_contiguous
    assert find_mapping(values) is not None


def test_columns_begin_on_pages_and_are_aligned() -> None:
    n_rows = 1001
    plain = pd.DataFrame({"flag": COLUMNS["bool"](n_rows), "x": COLUMNS["f8"](n_rows)})
    for name in plain:
        values = share(plain)[name].to_numpy(copy=False)
        assert values.flags.aligned
        assert values.ctypes.data % 4096 == 0


def test_default_labels_of_a_mapped_fold_are_not_copied() -> None:
    fold = share_one(FOLD)
    selected = share(make_numbers()).take(fold)
    assert np.shares_memory(selected.index.to_numpy(), fold)
    one_run = share_one(np.arange(3000, 15_000))
    assert_same(share(make_numbers()).take(one_run), make_numbers().take(one_run))
    of_plain_index = share(make_numbers()).take(FOLD)
    assert not np.shares_memory(of_plain_index.index.to_numpy(), FOLD)


def test_labels_that_are_shared_numbers_are_mapped_too() -> None:
    plain = make_numbers(40_000)
    labels = share_one(np.random.default_rng(0).permutation(40_000))
    shared = share(plain)
    shared.index = plain.index = pd.Index(labels, name="row", copy=False)
    rows = np.r_[0:10_240, 20_480:40_000]
    selected = shared.take(rows)
    assert_same(selected, plain.take(rows))
    assert find_mapping(selected.index.to_numpy()) is not None


def test_columns_that_are_copied_are_named() -> None:
    frame = make_numbers()
    frame = frame.assign(
        **{f"text {i}": pd.Series(["a"] * len(frame), dtype=object) for i in range(7)}
    )
    counters.take()
    share(frame).take(FOLD)
    (reason,) = (key for key in take_counted()[1] if key.startswith("COLUMNS"))
    assert str(frame["text 0"].dtype) in reason
    assert "'text 0', 'text 1'" in reason
    assert reason.endswith("'text 4' and 2 more")


@pytest.mark.parametrize("make", [make_numbers, make_mixed])
def test_frames_that_were_changed_are_selected_from_as_they_are(make: Any) -> None:
    plain = make()
    shared = share(plain)
    changes: list[Callable[[Any], Any]] = [
        lambda X: X.__setitem__("a", 1.0),
        lambda X: X.__setitem__("new", np.arange(len(X))),
        lambda X: X.iloc.__setitem__((slice(5, 5000), 1), 7.5),
        lambda X: X.pop("c"),
        lambda X: X.__setitem__("d", X["d"].astype(np.float32)),
        lambda X: X.insert(0, "first", "text"),
        lambda X: setattr(X, "index", X.index[::-1]),
    ]
    for change in changes:
        change(plain)
        change(shared)
        assert_same(shared.take(FOLD), plain.take(FOLD))
    selected = shared.take(FOLD)
    selected.iloc[:, :] = selected.iloc[::-1].to_numpy()
    assert_same(shared, plain)


@pytest.mark.parametrize(
    "make", [make_numbers, make_mixed, lambda: make_numbers()["a"]]
)
def test_copies_and_pickles_are_plain_and_by_value(make: Any) -> None:
    plain = make()
    plain.attrs["k"] = 1
    shared = share(plain)
    for duplicate in (
        lambda X: X.copy(),
        copy.copy,
        copy.deepcopy,
        lambda X: pickle.loads(pickle.dumps(X)),
        lambda X: pickle.loads(pickle.dumps(X, protocol=2)),
    ):
        result = duplicate(shared)
        assert type(result) is type(plain)
        assert_same(result, plain)
    part = share(plain).take(np.arange(100))
    assert len(pickle.dumps(part)) < 2 * len(pickle.dumps(plain.take(range(100))))


def test_frames_and_series_are_made_without_a_copy() -> None:
    values = share_one(np.arange(6.0).reshape(3, 2))
    frame = make_frame(values, ["a", "b"], index=[5, 6, 7])
    assert np.shares_memory(frame.to_numpy(copy=False), values)
    assert_same(frame, pd.DataFrame(values[:], [5, 6, 7], ["a", "b"]))
    series = make_series(values[:, 0], name="y")
    assert np.shares_memory(series.to_numpy(copy=False), values)
    assert_same(series, pd.Series([0.0, 2.0, 4.0], name="y"))


def test_sharing_needs_little_more_than_the_shared_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from skl_mmap.containers import _pandas

    sizes: list[int] = []

    class Writer(SegmentWriter):
        def write(self, data: Any) -> None:
            sizes.append(data.nbytes)
            super().write(data)

    monkeypatch.setattr(_pandas, "CHUNK_BYTES", 1 << 16)
    monkeypatch.setattr(_pandas, "SegmentWriter", Writer)
    share(make_numbers())
    assert len(sizes) > 10
    assert max(sizes) <= 1 << 16


@pytest.mark.parametrize("make", [make_numbers, make_mixed])
def test_scikit_learn_sees_a_frame(make: Any) -> None:
    X = make(600)
    X.iloc[:300, 0] += 2
    if make is make_mixed:
        # Column by column, as it is shared: rounding depends on the layout.
        X = pd.DataFrame({name: X[name] for name in X})
    y = pd.Series((X["a"] > 1).astype(int), name="y")
    encoder = OneHotEncoder(sparse_output=False, handle_unknown="ignore")
    text = [name for name in X if name in ("s", "k")]
    model = make_pipeline(
        make_column_transformer(
            (StandardScaler(), list("abc")), (encoder, text), remainder="passthrough"
        ),
        LogisticRegression(max_iter=500),
    ).set_output(transform="pandas")
    folds = StratifiedKFold(3, shuffle=True, random_state=0)
    shared, shared_y = share(X), share(y)
    predicted = cross_val_predict(model, shared, shared_y, cv=folds)
    np.testing.assert_array_equal(predicted, cross_val_predict(model, X, y, cv=folds))
    fitted = model.fit(
        shared.take(np.arange(50, 500)), shared_y.take(np.arange(50, 500))
    )
    assert list(fitted.feature_names_in_) == list(X)


def test_narwhals_accepts_a_shared_frame() -> None:
    narwhals = pytest.importorskip("narwhals")
    frame = narwhals.from_native(share(make_mixed(100)))
    assert frame[[3, 1]].to_native()["i"].tolist() == [3, 1]
