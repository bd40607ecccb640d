from __future__ import annotations

import contextlib
import json
from pathlib import Path

import numpy as np
import pytest

from skl_mmap.cli import main

# Before the guards of any test look: it lets pyarrow open what it keeps.
with contextlib.suppress(ImportError):
    from tests.files import load_common


def info(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> str:
    assert main(["info", str(path), *options]) == 0
    return capsys.readouterr().out


def info_json(path: Path, capsys: pytest.CaptureFixture[str], *options: str) -> dict:  # type: ignore[type-arg]
    return json.loads(info(path, capsys, "--json", *options))  # type: ignore[no-any-return]


@pytest.fixture
def npy(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, np.zeros((10_000, 50)))
    return path


def test_npy_files_are_described_from_their_header(
    npy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = info(npy, capsys)
    for part in (
        "x.npy: npy, 3.8 MiB",
        "X: 10,000 x 50, <f8, C order, 3.8 MiB; mapped where it lies",
        "400 bytes each, from byte 128 of a page (byte 128 of a huge page); 256 rows",
        "KFold(5), for each train set:",
        'parallel_config("mmap", n_jobs=4, row_order="any")',
    ):
        assert part in text
    rows = {line.partition("  ")[0]: line.split()[-6:] for line in text.splitlines()}
    assert rows["loky"] == ["0", "B", "3.1", "MiB", "12.2", "MiB"]
    assert rows['mmap, row_order="any"'][:2] == ["2.9", "MiB"]
    report = info_json(npy, capsys, "--n-splits", "2", "--n-jobs", "1")
    assert report["shape"] == [10_000, 50]
    assert report["alignment"]["rows_per_unit"] == 256
    assert report["folds"]["exact"]["mapped_bytes"][0] > 1_990_000
    assert report["loky_copied_at_once_bytes"] == 2_000_000
    exact = info_json(npy, capsys, "--n-splits", "4", "--n-jobs", "1")["folds"]["exact"]
    assert exact["copied_at_once_bytes"] == max(exact["copied_bytes"])
    assert max(exact["copied_bytes"]) < sum(exact["copied_bytes"])


def test_only_the_header_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.npy"
    with open(path, "wb") as file:
        header = {"descr": "<f8", "fortran_order": False, "shape": (10**10, 50)}
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(128 + 4 * 10**12)  # a hole
    assert "3.6 TiB" in info(path, capsys)


@pytest.mark.parametrize(
    ("array", "text"),
    [
        (np.zeros((5, 4), order="F"), "it is in Fortran order"),
        (np.zeros((0, 4)), "it is empty"),
        (np.zeros((3, 4)), "fewer rows than the 5 folds"),
        (np.array(1.0), "A single value has no rows"),
        (np.zeros(3, dtype=[("a", "f8"), ("b", "i4")]), "3, [('a', '<f8'), ('b', '<i4"),
        (np.array([None]), "it holds Python objects"),
    ],
)
def test_what_cannot_be_split_is_said(
    array: np.ndarray,  # type: ignore[type-arg]
    text: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "x.npy"
    np.save(path, array, allow_pickle=True)
    assert text in info(path, capsys)
    assert info_json(path, capsys)["folds"] is None


@pytest.mark.parametrize("name", ["x.parquet", "x.feather", "x.csv", "x.arrow"])
def test_tables_are_described_with_their_columns(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra tables")
    path = load_common.write_table(load_common.make_table(), tmp_path / name)
    report = info_json(path, capsys)
    assert [column["name"] for column in report["columns"]] == ["a", "i", "kind", "f"]
    assert report["columns"][0]["type"] == "double"
    text = info(path, capsys)
    if name == "x.arrow":
        assert "a stream does not say how many rows it has" in text
        return
    assert report["shape"] == [5000, 3]
    assert report["data_bytes"] == 5000 * 3 * 8
    assert "5,000 x 3, float64" in text
    assert (report["row_group_rows"] == [1700, 1700, 1600]) == (name == "x.parquet")


def test_rows_of_a_long_csv_file_are_an_estimate(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra tables")
    path = tmp_path / "x.csv"
    path.write_text("a,b\n" + "1.25,2.5\n" * 400_000)
    report = info_json(path, capsys)
    assert report["is_estimate"]
    assert report["shape"][0] == pytest.approx(400_000, rel=0.01)
    assert "X: about" in info(path, capsys)


def test_a_table_without_numbers_is_described_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pa = pytest.importorskip("pyarrow", reason="needs the extra tables")
    path = load_common.write_table(pa.table({"kind": ["a"]}), tmp_path / "x.parquet")
    assert info(path, capsys).endswith("Encode them as numbers before.\n")


def test_errors_have_an_exit_code_and_name_the_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["info", str(tmp_path / "no.npy")]) == 2
    assert "no.npy cannot be read" in capsys.readouterr().err
    (tmp_path / "x.npy").write_bytes(b"something")
    assert main(["info", str(tmp_path / "x.npy")]) == 2
    assert "x.npy is named like" in capsys.readouterr().err
