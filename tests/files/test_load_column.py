"""One column of a table becomes a target, or weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from skl_mmap.files import find_format, load, load_column
from skl_mmap.memory import Placement, find_mapping
from tests.files.load_common import TABLE_NAMES, make_table, write_table


def read(path: Path, name: object, store: str = "memory") -> np.ndarray:
    placement = Placement.from_parameter(store)
    return load_column(str(path), find_format(str(path)), name, placement)


@pytest.mark.parametrize("file_name", TABLE_NAMES)
@pytest.mark.parametrize("column", ["a", "i", "kind"])
def test_it_is_the_target_of_load(tmp_path: Path, file_name: str, column: str) -> None:
    path = write_table(make_table(), tmp_path / file_name)
    column_read = read(path, column)
    _, target = load(path, columns=["f"], target=column)
    assert column_read.dtype == target.dtype
    np.testing.assert_array_equal(column_read, target)


def test_types_are_kept(tmp_path: Path) -> None:
    columns = {
        "whole": np.arange(9, dtype="i4"),
        "small": np.arange(9, dtype="f4"),
        "flag": np.arange(9) % 2 == 0,
        "text": ["x", "y", "z"] * 3,
    }
    path = write_table(pa.table(columns), tmp_path / "x.parquet")
    for name, values in columns.items():
        column = read(path, name)
        assert column.tolist() == list(values)
        expected = object if name == "text" else np.asarray(values).dtype
        assert column.dtype == expected


def test_integers_of_csv_stay_integers(tmp_path: Path) -> None:
    path = tmp_path / "y.csv"
    path.write_text("y,w\n1,0.5\n2,1\n9007199254740993,2\n")
    assert read(path, "y").tolist() == [1, 2, 9007199254740993]
    assert read(path, "w").tolist() == [0.5, 1.0, 2.0]


def test_text_that_begins_like_numbers_is_text_throughout(tmp_path: Path) -> None:
    path = tmp_path / "y.csv"
    rows = ["1"] * 2_000_000 + ["two"]
    path.write_text("\n".join(["y", *rows]) + "\n")
    column = read(path, "y")
    assert column.dtype == object
    assert set(column[:-1]) == {"1"}
    assert column[-1] == "two"


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_numbers_are_shared(tmp_path: Path, store: str) -> None:
    path = write_table(make_table(), tmp_path / "x.parquet")
    assert find_mapping(read(path, "f", store)) is not None


def test_other_columns_need_not_be_usable(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("y,note\n1,what is this\n2,\n")
    assert read(path, "y").tolist() == [1, 2]


def test_unknown_columns_are_named(tmp_path: Path) -> None:
    path = write_table(make_table(20), tmp_path / "x.csv")
    with pytest.raises(InvalidParameterError, match=r"no column 'kinds'.*'kind'"):
        read(path, "kinds")
    with pytest.raises(InvalidParameterError, match=r"3 .int, not a text"):
        read(path, 3)


def test_classes_that_are_missing_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("y\na\nNA\nb\n")
    with pytest.raises(FileFormatError, match="has no value there"):
        read(path, "y")


def test_numbers_that_are_missing_become_nan(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("y,z\n1,1\n,1\n")
    np.testing.assert_array_equal(read(path, "y"), [1.0, np.nan])


def test_columns_of_other_types_are_an_error(tmp_path: Path) -> None:
    table = pa.table({"y": pa.array([[1], [2]])})
    path = write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InvalidParameterError, match="neither numbers nor text"):
        read(path, "y")


def test_tables_without_rows_give_empty_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("y,z\n")
    assert read(path, "y").shape == (0,)
