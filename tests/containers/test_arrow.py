"""Arrow memory in tasks is shared, and what is rebuilt from it is the same."""

from __future__ import annotations

import contextlib
import io
import pickle
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from sklearn.model_selection import KFold, cross_validate

import skl_mmap
from skl_mmap.backend import Options
from skl_mmap.containers import container_of
from skl_mmap.memory import counters, find_mapping
from tests import strategies
from tests.backend.common import call_each, dump_task, use_mmap
from tests.memory.sharing import make_store, share_one, take_counted

pa = pytest.importorskip("pyarrow")
with contextlib.suppress(ImportError):
    # Now, because it sets an environment variable, and starts threads of its own with
    # the first rows that it selects.
    import polars as pl

    pl.DataFrame({"a": range(9000)})[[-1, *range(3000)]]

COLUMNS: dict[str, Any] = {
    "numbers": lambda n: pa.array(np.arange(n) * 0.5),
    "missing": lambda n: pa.array([None if i % 3 else i for i in range(n)], pa.int16()),
    "text": lambda n: pa.array([f"row {i}" for i in range(n)]),
    "large text": lambda n: pa.array([f"{i}" for i in range(n)], pa.large_string()),
    "flags": lambda n: pa.array([i % 2 == 0 for i in range(n)]),
    "lists": lambda n: pa.array([[i] * (i % 3) for i in range(n)]),
    "words": lambda n: pa.array(["a", "b"] * n).dictionary_encode().slice(0, n),
    "times": lambda n: pa.array(np.arange(n).astype("M8[s]")),
    "nothing": lambda n: pa.nulls(n),
}


def send(value: Any) -> Any:
    """Send a value as a task would get it."""
    payload, segments = dump_task(value, make_store(), Options(min_bytes=1))
    assert segments
    return pickle.loads(payload)


@st.composite
def tables(draw: st.DrawFn) -> Any:
    n_rows = draw(st.integers(1, 200))
    kinds = draw(st.lists(st.sampled_from(list(COLUMNS)), min_size=1, max_size=4))
    kinds.append("numbers")
    table = pa.table(
        [COLUMNS[k](n_rows) for k in kinds], [f"{i}" for i in range(len(kinds))]
    )
    if draw(st.booleans()):
        table = pa.concat_tables([table, table])
    start = draw(st.integers(0, table.num_rows - 1))
    return table.slice(start) if draw(st.booleans()) else table


@strategies.examples(60)
@given(table=tables())
def test_tables_are_rebuilt_as_they_were(table: Any) -> None:
    received = send(table)
    received.validate(full=True)
    assert received.equals(table, check_metadata=True)
    assert received.schema == table.schema


def test_buffers_are_rebuilt_without_a_copy() -> None:
    buffer = pa.py_buffer(np.arange(5000, dtype=np.uint8))
    container = container_of(buffer)
    assert container is not None
    rebuild, (array,) = container.take_apart(buffer, 1) or (None, (None,))
    assert array.ctypes.data == buffer.address
    shared = share_one(array)
    rebuilt = rebuild(shared)
    assert rebuilt.address == shared.ctypes.data
    assert rebuilt.equals(buffer)
    assert container.take_apart(buffer, 5001) is None
    assert container.take_apart(pa.py_buffer(b""), 0) is None


def is_mapped(column: Any) -> bool:
    buffers = [buffer for chunk in column.chunks for buffer in chunk.buffers()]
    arrays = [np.frombuffer(buffer, np.uint8) for buffer in buffers if buffer]
    return all(find_mapping(array) is not None for array in arrays)


def test_tasks_get_mapped_tables() -> None:
    table = pa.table({"a": np.arange(5000), "s": [f"row {i}" for i in range(5000)]})
    with use_mmap():
        assert all(call_each(is_mapped, table["a"]))
        assert all(call_each(is_mapped, table["s"]))


def is_text_mapped(frame: Any) -> bool:
    return is_mapped(frame["text"].array.__arrow_array__())


def test_text_of_pandas_is_shared() -> None:
    pd = pytest.importorskip("pandas", minversion="2.1")
    text = pd.array([f"row {i}" for i in range(5000)], dtype="string[pyarrow]")
    frame = pd.DataFrame({"text": text})
    with use_mmap():
        assert all(call_each(is_text_mapped, frame))
    pd.testing.assert_frame_equal(pd.DataFrame(send(frame), copy=False), frame)


def test_polars_frames_are_rebuilt_as_they_were() -> None:
    pytest.importorskip("polars")
    frame = pl.DataFrame(
        {
            "number": np.arange(3000.0),
            "text": [f"a rather long text, number {i}" for i in range(3000)],
            "word": pl.Series(["x", "y", None] * 1000, dtype=pl.Categorical),
            "enum": pl.Series(["x", "y", None] * 1000, dtype=pl.Enum(["y", "x"])),
            "date": pl.Series(np.arange(3000).astype("M8[us]")),
            "list": [[i] for i in range(3000)],
        }
    )
    for value in (frame, frame[1000:], frame["number"], frame["text"]):
        received = send(value)
        assert isinstance(received, type(value))
        assert received.equals(value)
        assert schema_of(received) == schema_of(value)


def schema_of(value: Any) -> Any:
    return value.to_frame().schema if isinstance(value, pl.Series) else value.schema


def test_polars_objects_are_left_to_polars() -> None:
    pytest.importorskip("polars")
    series = pl.Series("o", [object()] * 3, dtype=pl.Object)
    container = container_of(series.to_frame())
    assert container is not None
    assert container.take_apart(series.to_frame(), 0) is None


@pytest.mark.parametrize("library", ["pyarrow", "polars", "pandas"])
def test_results_are_those_of_loky(library: str) -> None:
    pytest.importorskip(library)
    if library == "pyarrow":
        pytest.importorskip("sklearn", "1.7", reason="selects no rows of tables")
    rng = np.random.default_rng(0)
    X: Any = pa.table({name: rng.normal(size=3000) for name in "abc"})
    y = rng.normal(size=3000)
    if library == "polars":
        X = pl.from_arrow(X)
    elif library == "pandas":
        import pandas as pd

        X = X.to_pandas(types_mapper=pd.ArrowDtype)
    coefficients = {}
    for backend, options in (("loky", {}), ("mmap", {"min_bytes": 1})):
        with joblib.parallel_config(backend=backend, n_jobs=2, **options):
            results = cross_validate(
                Ridge(), X, y, cv=KFold(3), return_estimator=True, error_score="raise"
            )
        coefficients[backend] = [model.coef_ for model in results["estimator"]]
    np.testing.assert_array_equal(coefficients["mmap"], coefficients["loky"])


def test_ordinary_pickles_are_by_value() -> None:
    received = send(pa.table({"a": np.arange(5000)}))
    file = io.BytesIO()
    pickle.dump(received, file)
    assert file.tell() > 5000 * 8


@given(table=tables(), is_polars=st.booleans())
def test_tables_are_shared_as_they_are(table: Any, is_polars: bool) -> None:
    if is_polars:
        polars = pytest.importorskip("polars")
        # Older releases of pyarrow refuse the lists that polars makes.
        assume(int(pa.__version__.split(".")[0]) >= 26)
        frame = polars.from_arrow(table)
        shared = skl_mmap.share(frame)
        assert isinstance(shared, polars.DataFrame)
        assert shared.schema == frame.schema
        assert shared.equals(frame)
        return
    shared = skl_mmap.share(table)
    assert shared.schema == table.schema
    assert shared.equals(table)


def find_column(table: Any, place: int) -> Any:
    (chunk,) = table.column(place).chunks
    return find_mapping(np.frombuffer(chunk.buffers()[1], dtype=np.uint8))


def test_shared_table_is_sent_without_another_copy() -> None:
    table = pa.table({"a": np.arange(300_000.0), "b": np.arange(300_000)})
    shared = skl_mmap.share(table)
    mappings = [find_column(shared, place) for place in range(2)]
    assert None not in mappings
    received = send(shared)
    assert received.equals(table)
    for place, (mapping, _, _) in enumerate(mappings):
        found = find_column(received, place)
        assert found[0].segment is mapping.segment


def test_table_of_no_rows_is_shared() -> None:
    table = pa.table({"a": np.arange(0.0)})
    assert skl_mmap.share(table).equals(table)


def find_polars() -> Any:
    polars = pytest.importorskip("polars", minversion="1.17")
    from skl_mmap.containers._polars import SharedPolarsFrame

    return polars, SharedPolarsFrame


FOLD = np.r_[0:3000, 5000:9000]
POLARS_KEYS: dict[str, Any] = {
    "list": FOLD.tolist(),
    "array": FOLD,
    "list and all columns": (FOLD.tolist(), slice(None)),
    "negative": [-1, *range(2000)],
    "shuffled": np.random.default_rng(0).permutation(9000).tolist(),
    "few": [3, 1],
    "out of range": list(range(9990, 12_000)),
    "mask": [True, False] * 5000,
    "one row": 5,
    "one row in an array": np.array(5),
    "slice": slice(3, 5000),
    "column": "a",
    "columns": ["b", "a"],
    "rows and column": (FOLD.tolist(), "a"),
}


@pytest.mark.parametrize("key", POLARS_KEYS.values(), ids=POLARS_KEYS)
def test_rows_of_polars_frames_are_those_of_polars(key: Any) -> None:
    polars, shared_class = find_polars()
    plain = polars.DataFrame(
        {"a": np.arange(10_000.0), "b": [f"row {i}" for i in range(10_000)]}
    )
    shared = shared_class(plain)
    try:
        expected = plain[key]
    except Exception as error:  # noqa: BLE001 - polars' own errors are the oracle
        with pytest.raises(type(error)):
            shared[key]
        return
    result = shared[key]
    if isinstance(expected, polars.DataFrame):
        assert isinstance(result, polars.DataFrame)
        assert result.schema == expected.schema
        assert result.equals(expected)
    else:
        assert polars.Series(result).equals(polars.Series(expected))


def test_folds_of_polars_frames_are_not_copied() -> None:
    polars, shared_class = find_polars()
    shared = skl_mmap.share(polars.DataFrame({"a": np.arange(200_000.0)}))
    assert type(shared) is shared_class
    counters.take()
    selected = shared[np.r_[0:50_000, 90_000:200_000].tolist()]
    mapped_bytes, reasons = take_counted()
    assert mapped_bytes >= 160_000 * 8
    assert not reasons
    for chunk in selected["a"].get_chunks():
        assert find_mapping(chunk.to_numpy(allow_copy=False)) is not None
    again = selected[list(range(2000, 4000))]
    assert again["a"].to_list() == [float(i) for i in range(2000, 4000)]


def test_shared_polars_frames_are_pickled_as_plain_ones() -> None:
    polars, shared_class = find_polars()
    plain = polars.DataFrame({"a": np.arange(5.0)})
    copied = pickle.loads(pickle.dumps(shared_class(plain)))
    assert type(copied) is polars.DataFrame
    assert copied.equals(plain)
