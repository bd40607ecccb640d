from __future__ import annotations

import argparse

import pytest

from skl_mmap.cli._command import choices, number, rows_or_bytes

read_rows = rows_or_bytes(row_bytes=400)


def test_a_plain_number_is_a_number_of_rows() -> None:
    assert read_rows("20000") == 20000
    assert read_rows(" 7 ") == 7


@pytest.mark.parametrize(
    ("text", "n_bytes"), [("400MB", 400 << 20), ("1.5 GiB", 3 << 29), ("2k", 2048)]
)
def test_a_number_with_a_unit_is_a_number_of_bytes(text: str, n_bytes: int) -> None:
    assert read_rows(text) == n_bytes // 400


@pytest.mark.parametrize("text", ["", "many", "-5", "1e6", "4 XB"])
def test_what_is_no_size_is_refused_with_both_forms(text: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=r"rows, such as .* 400MB"):
        read_rows(text)


@pytest.mark.parametrize("text", ["1", "0", "two", "2.0"])
def test_integers_below_the_bound_are_refused(text: str) -> None:
    assert number(int, at_least=2)("2") == 2
    with pytest.raises(argparse.ArgumentTypeError, match="at least 2"):
        number(int, at_least=2)(text)


def test_choices_keep_their_order() -> None:
    assert choices(("a", "b", "c"))("c, a") == ("c", "a")


@pytest.mark.parametrize(
    ("text", "message"), [("a,x", "'x' in 'a,x' is none of a, b"), ("a,a", "twice")]
)
def test_unknown_and_repeated_choices_are_refused(text: str, message: str) -> None:
    with pytest.raises(argparse.ArgumentTypeError, match=message):
        choices(("a", "b"))(text)
