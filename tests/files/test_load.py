from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="needs the extra tables")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from skl_mmap._linux import proc  # noqa: E402
from skl_mmap.exceptions import (  # noqa: E402
    FileFormatError,
    InvalidParameterError,
    NotEnoughMemoryError,
)
from skl_mmap.files import _columns, _typed, load  # noqa: E402
from skl_mmap.files._load import LoadProgress  # noqa: E402
from skl_mmap.memory import SharedArray, can_remap  # noqa: E402
from tests.files.load_common import (  # noqa: E402
    TABLE_NAMES,
    make_table,
    numbers_of,
    write_table,
)

FEATURES = ["a", "i", "f"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tables")
    for name in TABLE_NAMES:
        write_table(make_table(), folder / name)
    return folder


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_tables_are_as_pandas_reads_them(name: str, folder: Path) -> None:
    table = make_table()
    X, y = load(folder / name, target="kind", as_frame=False)
    assert isinstance(X, SharedArray)
    assert X.flags.c_contiguous
    assert X.dtype == np.float64
    np.testing.assert_array_equal(X, numbers_of(table, FEATURES))
    assert y.dtype == object
    assert y.tolist() == table["kind"].to_pylist()


@pytest.mark.parametrize("name", TABLE_NAMES)
def test_columns_come_in_the_order_asked_for(name: str, folder: Path) -> None:
    X, y = load(
        folder / name,
        columns=["f", "a"],
        target="i",
        dtype=np.float32,
        as_frame=False,
        mmap_mode="r",
    )
    assert X.dtype == np.float32
    assert not X.flags.writeable or not can_remap()
    np.testing.assert_array_equal(
        X, numbers_of(make_table(), ["f", "a"]).astype(np.float32)
    )
    assert y.dtype.kind == "i"
    assert y.tolist() == list(range(5000))


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_integers_stay_integers(name: str, folder: Path) -> None:
    X = load(folder / name, columns=["i"], dtype="uint16", as_frame=False)
    assert X.dtype == np.uint16
    assert X[:, 0].tolist() == list(range(5000))


def test_parquet_columns_may_come_a_few_at_a_time(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_typed, "_MAX_GROUP_BYTES", 1)
    monkeypatch.setattr(_typed, "_MAX_BATCH_ROWS", 700)
    X, y = load(folder / "x.parquet", columns=["f", "a"], target="kind", as_frame=False)
    table = make_table()
    np.testing.assert_array_equal(X, numbers_of(table, ["f", "a"]))
    assert y.tolist() == table["kind"].to_pylist()


@pytest.mark.parametrize("name", ["x.ipc", "x.arrow", "x.parquet", "x.csv"])
def test_large_parts_are_cut(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_typed, "_MAX_BATCH_ROWS", 100)
    monkeypatch.setattr(_columns, "_BLOCK_BYTES", 1000)
    table = make_table()
    flags = pa.array(np.arange(5000) % 3 == 0, mask=np.arange(5000) % 7 == 0)
    as_text = table.append_column("flag", flags.cast("uint8"))
    table = table.append_column("flag", flags)
    path = write_table(as_text if name == "x.csv" else table, tmp_path / name)
    X, y = load(path, target="kind", dtype=float, as_frame=False)
    expected = numbers_of(as_text, [*FEATURES, "flag"])
    np.testing.assert_array_equal(X, expected)
    assert y.tolist() == table["kind"].to_pylist()
    with pytest.raises(FileFormatError, match=r"(row|line) (128|130): column 'i' has"):
        load(path, columns=["i"], dtype="int8", as_frame=False)


def test_rows_in_errors_count_from_the_first_row_group(tmp_path: Path) -> None:
    table = pa.table({"a": [0] * 4000 + [300] + [0] * 999})
    path = write_table(table, tmp_path / "x.parquet")
    with pytest.raises(FileFormatError, match="row 4000: column 'a' has 300 there"):
        load(path, dtype="uint8", as_frame=False)


@pytest.mark.parametrize("name", ["x.parquet", "x.feather"])
def test_the_index_of_a_pandas_frame_is_no_feature(name: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]})
    frame.index = pandas.Index([7, 5])
    table = pa.Table.from_pandas(frame)
    assert table.column_names == ["a", "b", "__index_level_0__"]
    path = write_table(table, tmp_path / name)
    assert list(load(path).columns) == ["a", "b"]
    X = load(path, columns=["__index_level_0__", "a"], as_frame=False)
    assert X.tolist() == [[7.0, 1.0], [5.0, 2.0]]


def test_names_with_dots(tmp_path: Path) -> None:
    table = pa.table({"a": [1.0], "a.b": [2.0], "a.b.c": [3.0]})
    path = write_table(table, tmp_path / "x.parquet")
    assert load(path, columns=["a.b", "a"], as_frame=False).tolist() == [[2.0, 1.0]]


def test_the_common_type_of_the_columns_is_taken(tmp_path: Path) -> None:
    table = pa.table({"u": np.ones(9, np.uint8), "b": np.arange(9) % 2 == 0})
    path = write_table(table, tmp_path / "x.parquet")
    assert load(path, as_frame=False).dtype == np.uint8
    assert load(path, columns=["b"], as_frame=False).dtype == bool
    assert load(path, columns=["b"], as_frame=False)[:, 0].tolist() == [
        bool(row % 2 == 0) for row in range(9)
    ]


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(
    values=st.lists(
        st.tuples(
            st.floats(allow_nan=False, allow_subnormal=False) | st.none(),
            st.integers(-(2**31), 2**31 - 1) | st.none(),
            st.booleans(),
        ),
        min_size=1,
        max_size=40,
    ),
    name=st.sampled_from(["x.parquet", "x.feather", "x.arrow"]),
    start=st.integers(0, 3),
)
def test_typed_tables_make_the_round_trip(
    values: list[Any], name: str, start: int, tmp_path: Path
) -> None:
    columns = list(zip(*values, strict=True))
    types = [pa.float64(), pa.int32(), pa.bool_()]
    table = pa.table(
        [pa.array(c, t) for c, t in zip(columns, types, strict=True)], "xyz"
    )
    table = table.slice(min(start, len(values) - 1))
    X = load(write_table(table, tmp_path / name), as_frame=False, dtype=float)
    expected = [[np.nan if v is None else float(v) for v in row] for row in values]
    np.testing.assert_array_equal(X, expected[min(start, len(values) - 1) :])


@pytest.mark.parametrize("name", ["x.csv", "x.parquet", "x.arrow"])
def test_an_empty_table_is_an_ordinary_empty_array(name: str, tmp_path: Path) -> None:
    path = write_table(make_table(0).drop_columns("kind"), tmp_path / name)
    X, y = load(path, target="i", as_frame=False)
    assert type(X) is np.ndarray
    assert X.shape == (0, 2)
    assert y.shape == (0,)


def test_a_frame_is_made_of_the_shared_array(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("pandas", reason="needs the extra tables")
    module = ModuleType("skl_mmap.containers._pandas")
    module.make_frame = lambda values, names: (values, names)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "skl_mmap.containers._pandas", module)
    (values, names), _y = load(folder / "x.csv", target="kind")
    assert isinstance(values, SharedArray)
    assert names == FEATURES


def test_frames_are_the_default_for_tables(folder: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="needs the extra tables")
    X = load(folder / "x.parquet")
    assert isinstance(X, pandas.DataFrame)
    assert list(X.columns) == FEATURES
    np.testing.assert_array_equal(X.to_numpy(), numbers_of(make_table(), FEATURES))


@pytest.mark.parametrize(
    ("package", "options"), [("pandas", {}), ("pyarrow", {"as_frame": False})]
)
def test_a_missing_package_is_named_with_the_extra(
    package: str,
    options: dict[str, Any],
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name: None if name == package else find_spec(name),
    )
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(InvalidParameterError, match=r"skl-mmap\[tables\]"):
        load(folder / "x.csv", columns=["a"], **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": ["kinds"]}, "no column 'kinds'. Did you mean 'kind'"),
        ({"columns": [3]}, "int, not a text"),
        ({"columns": "a"}, "not a list of names"),
        ({"columns": []}, "names no column"),
        ({"columns": ["a", "a"]}, "one of them twice"),
        ({"columns": ["a"], "target": "a"}, "is one of columns"),
        ({"target": "label"}, "no column 'label'"),
        ({"dtype": "datetime64[s]"}, "not a type"),
        ({"dtype": "complex"}, "not a type"),
        ({"dtype": "no such type"}, "not a type"),
        ({"mmap_mode": "r+"}, "mmap_mode='r\\+'"),
        ({"store": "/no/such/folder"}, "not an existing folder"),
        ({"progress": "yes"}, "progress='yes'"),
        ({"as_frame": "yes"}, "as_frame='yes'"),
    ],
)
@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
def test_bad_parameters_are_explained(
    name: str, options: dict[str, Any], message: str, folder: Path
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        load(folder / name, **{"as_frame": False, **options})


@pytest.mark.parametrize("name", ["x.parquet", "x.feather"])
def test_columns_that_are_no_numbers_are_named_with_those_that_are(
    name: str, folder: Path
) -> None:
    with pytest.raises(
        InvalidParameterError, match=r"'kind' of .*string.*'a', 'i', 'f'"
    ):
        load(folder / name, columns=["a", "kind"], as_frame=False)


def test_decimals_and_dates_are_no_numbers(tmp_path: Path) -> None:
    table = pa.table(
        {
            "d": pa.array([1, 2], pa.decimal128(5, 2)),
            "t": pa.array([1, 2], pa.timestamp("s")),
        }
    )
    path = write_table(table, tmp_path / "x.parquet")
    with pytest.raises(
        InvalidParameterError, match=r"no column of numbers.*decimal128"
    ):
        load(path, as_frame=False)
    with pytest.raises(InvalidParameterError, match=r"'d' of .*decimal128"):
        load(path, columns=["d"], as_frame=False)
    path = write_table(table.append_column("x", pa.array([1.0, 2.0])), path)
    with pytest.raises(InvalidParameterError, match=r"target='t' of .*timestamp"):
        load(path, target="t", as_frame=False)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        ("int64", r"row \d+: column 'a' has no value there"),
        ("int8", "row 128: column 'i' has 128 there"),
    ],
)
def test_values_that_a_type_cannot_hold_are_named(
    dtype: str, message: str, folder: Path
) -> None:
    columns = ["a"] if dtype == "int64" else ["i"]
    with pytest.raises(FileFormatError, match=message):
        load(folder / "x.parquet", columns=columns, dtype=dtype, as_frame=False)


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.arrow", "x.csv.gz"])
def test_a_file_that_was_cut_off_is_an_error(
    name: str, folder: Path, tmp_path: Path
) -> None:
    data = (folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(FileFormatError, match="cut off"):
        load(path, target="kind", as_frame=False)


@pytest.mark.parametrize("name", ["x.ipc", "x.arrow"])
def test_damaged_offsets_of_text_are_an_error(name: str, tmp_path: Path) -> None:
    table = pa.table({"a": np.arange(1000.0), "kind": ["cat", "dog"] * 500})
    path = write_table(table, tmp_path / name)
    data = bytearray(path.read_bytes())
    offsets = np.arange(0, 3003, 3, dtype=np.int32)
    place = data.index(offsets.tobytes()) + 4 * 100
    data[place : place + 4] = (2**31 - 8).to_bytes(4, "little")
    path.write_bytes(data)
    with pytest.raises(FileFormatError, match="It is damaged"):
        load(path, target="kind", as_frame=False)
    assert load(path, columns=["a"], as_frame=False).shape == (1000, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.parquet", b"something", "begins with b'somethin'"),
        ("x.npy", b"", "nothing at all"),
        ("x.txt", b"1 2 3", "no format that can be loaded"),
        ("x.npz", b"PK\x03\x04", "zip archive"),
        ("x.csv", "a,b\n1,2\n".encode("utf-16"), "UTF-16"),
    ],
)
def test_unknown_formats_are_explained(
    name: str, content: bytes, message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises((FileFormatError, InvalidParameterError), match=message):
        load(tmp_path / name, as_frame=None)


def test_what_a_file_holds_counts_more_than_its_name(
    folder: Path, tmp_path: Path
) -> None:
    (tmp_path / "x.csv").write_bytes((folder / "x.parquet").read_bytes())
    assert load(tmp_path / "x.csv", as_frame=False).shape == (5000, 3)


def test_a_missing_file_is_the_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "x.csv")
    with pytest.raises(InvalidParameterError, match="path=3"):
        load(3)  # type: ignore[arg-type]


def test_too_little_memory_is_an_error_before_the_work(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 10_000)
    with pytest.raises(NotEnoughMemoryError, match=r"x\.parquet.*store='disk'"):
        load(folder / "x.parquet", as_frame=False, store="memory")
    assert load(folder / "x.parquet", as_frame=False, store="disk").shape == (5000, 3)


def test_the_bar_comes_when_it_is_wanted(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rich", reason="needs the extra demo")
    load(folder / "x.csv", columns=["a"], as_frame=False)
    load(folder / "x.csv", columns=["a"], as_frame=False, progress=False)
    assert capfd.readouterr().err == ""
    with LoadProgress("loading x.csv", True) as bar:
        bar.update(50, 100)
        assert bar._bar.tasks[0].completed == 50
        bar.update(200, 100)
        assert bar._bar.tasks[0].completed == 100


def test_the_bar_waits_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich", reason="needs the extra demo")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with LoadProgress("loading x.csv", None) as bar:
        bar.update(50, 100)
        assert bar._bar is None
