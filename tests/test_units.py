"""Sizes as text, and text as sizes."""

from __future__ import annotations

import contextlib
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from skl_mmap._units import format_bytes, parse_bytes
from skl_mmap.exceptions import InvalidParameterError


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (12, "12 B"),
        (1023, "1023 B"),
        (1024, "1.0 KiB"),
        (1536, "1.5 KiB"),
        (400_000_000, "381.5 MiB"),
        (2**30, "1.0 GiB"),
        (3 * 2**40, "3.0 TiB"),
        (5000 * 2**40, "5000.0 TiB"),
        (-3 * 2**20, "-3.0 MiB"),
        (-12.0, "-12 B"),
    ],
)
def test_format(n_bytes: float, text: str) -> None:
    assert format_bytes(n_bytes) == text


@given(st.integers(-(2**60), 2**60))
@example(2**60)
def test_text_is_within_a_twentieth_of_the_size(n_bytes: int) -> None:
    number, unit = format_bytes(n_bytes).split()
    power = ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)
    assert float(number) * 1024**power == pytest.approx(n_bytes, rel=0.05)


@pytest.mark.parametrize(
    ("value", "n_bytes"),
    [
        (0, 0),
        (4096, 4096),
        ("00", 0),
        ("100", 100),
        ("100B", 100),
        ("1k", 1024),
        ("1K", 1024),
        ("1M", 2**20),
        ("1 MB", 2**20),
        ("1 MiB", 2**20),
        ("2.5 GiB", 5 * 2**29),
        ("1.g", 2**30),
        (" 1t ", 2**40),
        ("1 tib", 2**40),
    ],
)
def test_parse(value: object, n_bytes: int) -> None:
    parsed = parse_bytes(value, name="min_bytes")
    assert parsed == n_bytes
    assert type(parsed) is int


def test_parse_numpy_integer() -> None:
    np = pytest.importorskip("numpy")
    assert type(parse_bytes(np.int64(5), name="min_bytes")) is int


@given(st.integers(0, 2**60))
def test_parse_accepts_every_size(n_bytes: int) -> None:
    assert parse_bytes(n_bytes, name="min_bytes") == n_bytes


@pytest.mark.parametrize(
    "value",
    [-1, 1.5, True, None, "", "M", "-5", "1 X", "1 MiBB", "1M 2", "one", b"1M", [1]],
)
def test_parse_refuses_what_is_no_size(value: object) -> None:
    message = f"min_bytes={value!r} is not a size"
    with pytest.raises(InvalidParameterError, match=re.escape(message)):
        parse_bytes(value, name="min_bytes")


@given(st.text(max_size=12))
def test_parse_reads_or_refuses_any_text(text: str) -> None:
    with contextlib.suppress(InvalidParameterError):
        assert parse_bytes(text, name="min_bytes") >= 0
