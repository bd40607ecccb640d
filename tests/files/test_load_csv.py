from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pa = pytest.importorskip("pyarrow", reason="needs the extra tables")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from skl_mmap.exceptions import FileFormatError  # noqa: E402
from skl_mmap.files import _csv, load  # noqa: E402
from tests.files import load_common  # noqa: E402, F401


@pytest.fixture
def small_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut files into slices of a few lines."""
    monkeypatch.setattr(_csv, "_SLICE_BYTES", 64)
    monkeypatch.setattr(_csv, "_FIRST_SLICE_BYTES", 64)


def load_text(tmp_path: Path, text: str | bytes, **options: Any) -> Any:
    path = tmp_path / "x.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load(path, as_frame=False, **options)


@settings(max_examples=30, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.lists(
            st.floats(allow_nan=False) | st.integers(-(2**53), 2**53) | st.just(""),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=60,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    has_last_end=st.booleans(),
    blank=st.sampled_from(["", "\n", "\n\n"]),
)
def test_numbers_are_read_to_the_last_digit(
    rows: list[list[Any]],
    end: str,
    has_last_end: bool,
    blank: str,
    small_slices: None,
    tmp_path: Path,
) -> None:
    lines = [",".join(map(str, row)) for row in rows]
    text = "\ufeffx,y,z" + end + blank + end.join(lines) + end * has_last_end
    X = load_text(tmp_path, text)
    expected = [[np.nan if value == "" else float(value) for value in r] for r in rows]
    np.testing.assert_array_equal(X, expected)


@pytest.mark.parametrize(
    ("values", "expected", "kind"),
    [
        (["1", "2", "3"], [1, 2, 3], "i"),
        (["9007199254740993", "1", "2"], [9007199254740993, 1, 2], "i"),
        (["1", "2.5", "3"], [1.0, 2.5, 3.0], "f"),
        (["1", "", "3"], [1.0, np.nan, 3.0], "f"),
        (["true", "false", "true"], [True, False, True], "b"),
        (["01", "x", "3"], ["01", "x", "3"], "O"),
        (["true", "1.50", "false"], ["true", "1.50", "false"], "O"),
        (["2020-01-01", "2020-01-02", "1"], ["2020-01-01", "2020-01-02", "1"], "O"),
        (['"a,b"', "c", '"a,b"'], ["a,b", "c", "a,b"], "O"),
    ],
)
def test_targets_keep_their_type_whatever_the_slices(
    values: list[str],
    expected: list[Any],
    kind: str,
    small_slices: None,
    tmp_path: Path,
) -> None:
    values = [value for value in values for _ in range(12)]
    text = "x,y\n" + "".join(f"{row},{value}\n" for row, value in enumerate(values))
    X, y = load_text(tmp_path, text, target="y")
    assert X[:, 0].tolist() == list(range(36))
    assert y.dtype.kind == kind
    np.testing.assert_array_equal(y, [e for e in expected for _ in range(12)])


@pytest.mark.parametrize(
    ("line", "options", "message"),
    [
        ("1,two,3", {}, "line 46: column 'b' has 'two' there"),
        ("NA,,nan\n1,two,3", {}, "line 47: column 'b' has 'two' there"),
        ("1,1_0,3", {}, "line 46: column 'b' has '1_0' there"),
        ("1,\u0663,3", {}, "line 46: column 'b' has '\u0663' there"),
        ("1,a\rb,3", {}, "line 46: 2 values, '1,a', and the header names 3"),
        ("1,2", {}, "line 46: 2 values, '1,2', and the header names 3"),
        ("1,2,3,4", {}, "line 46: 4 values"),
        ("1,2.5,3", {"dtype": int}, "line 46: column 'b' has '2.5' there, .* int64"),
        ("1,300,3", {"dtype": "i1"}, "line 46: column 'b' has '300' there"),
        ("1,,3", {"dtype": int}, "line 46: column 'b' has no value there"),
        ("1,,3", {"target": "b", "columns": ["a"]}, None),
        ('1,"2,3', {}, "line 46: a quoted value does not end"),
        ('1,"2,3\n1,2",3', {}, "line 46: a quoted value does not end"),
    ],
)
def test_what_cannot_be_read_is_named_with_its_line(
    line: str,
    options: dict[str, Any],
    message: str | None,
    small_slices: None,
    tmp_path: Path,
) -> None:
    before = "\na,b,c\n\n" + "1,2,3\n\n" * 21
    text = before + line + "\n" + "4,5,6\n" * 20
    if message is None:
        assert np.isnan(load_text(tmp_path, text, **options)[1]).sum() == 1
        return
    with pytest.raises(FileFormatError, match=message) as caught:
        load_text(tmp_path, text, **options)
    assert "x.csv" in str(caught.value)


def test_classes_cannot_be_missing(small_slices: None, tmp_path: Path) -> None:
    text = "a,b\n" + "1,x\n" * 50 + "1,\n" + "1,y\n" * 50
    with pytest.raises(FileFormatError, match="line 52: the target 'b' has no value"):
        load_text(tmp_path, text, target="b")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a;b;c\n1;2;3\n", "has no comma, but ';'"),
        ("0.5,1.5\n2.5,3.5\n", "seems to be the first row"),
        ("a,b,a\n1,2,3\n", "more than one column named 'a'"),
        ('a,"b\n1,2\n', "a quoted value does not end"),
        (b"a,\xff\n1,2\n", "the header is not UTF-8"),
        ("a,b\r1,2\r3,4\r", "line 1: lines end with a carriage return"),
        ("a" * 200_000, "line 1: the header 'aaa.*field larger than field limit"),
    ],
)
def test_bad_headers_are_explained(text: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=message):
        load_text(tmp_path, text)


def test_text_that_is_not_utf8_is_explained(tmp_path: Path) -> None:
    with pytest.raises(FileFormatError, match=r"line 4: .* 'b' is not text in UTF-8"):
        load_text(tmp_path, b"a,b\n1,x\n\n2,caf\xe9\n3,\xff\n", target="b")


def test_lines_longer_than_a_slice(small_slices: None, tmp_path: Path) -> None:
    names = ",".join(f"column{place}" for place in range(100))
    values = np.arange(300.0).reshape(3, 100)
    lines = "\n".join(",".join(map(str, row)) for row in values.tolist())
    np.testing.assert_array_equal(load_text(tmp_path, f"{names}\n{lines}"), values)


def test_lines_without_end_are_an_error(
    small_slices: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_csv, "_MAX_LINE_BYTES", 256)
    with pytest.raises(FileFormatError, match="line 1: it is longer than"):
        load_text(tmp_path, "a,b\r" + "1,2\r" * 1000)
    with pytest.raises(FileFormatError, match="line 2: it is longer than"):
        load_text(tmp_path, "a,b\n" + "1,2\r" * 1000)


@pytest.mark.parametrize("dtype", ["float16", "float32", "int16", "uint8", bool, ">f8"])
def test_every_type_of_numbers(dtype: Any, tmp_path: Path) -> None:
    X = load_text(tmp_path, "a,b\n1,0\n0,1\n", dtype=dtype)
    assert X.dtype == np.dtype(dtype)
    assert X.tolist() == [[1, 0], [0, 1]]
