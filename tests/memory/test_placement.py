"""Where segments live is checked before anything is shared."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import pytest

from skl_mmap._linux import proc
from skl_mmap.exceptions import InvalidParameterError, NotEnoughMemoryError
from skl_mmap.memory import Placement


@pytest.mark.parametrize("word", ["auto", "memory", "disk"])
def test_words_use_the_temp_folder(word: str, tmp_path: Path) -> None:
    assert Placement.from_parameter(word) == Placement(word, tempfile.gettempdir())
    assert Placement.from_parameter(word, tmp_path) == Placement(word, str(tmp_path))


def test_a_folder_means_the_disk(tmp_path: Path) -> None:
    expected = Placement("disk", str(tmp_path))
    assert Placement.from_parameter(tmp_path) == expected
    assert Placement.from_parameter(str(tmp_path)) == expected


@pytest.mark.parametrize("store", [None, 3, b"disk", ["disk"], True])
def test_what_is_no_place_is_refused(store: object) -> None:
    with pytest.raises(InvalidParameterError) as caught:
        Placement.from_parameter(store)
    assert repr(store) in str(caught.value)
    assert "'auto', 'memory', 'disk'" in str(caught.value)


def test_a_folder_has_to_exist(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    with pytest.raises(
        InvalidParameterError, match=r"store=.*missing.*not an existing"
    ):
        Placement.from_parameter(missing)
    with pytest.raises(InvalidParameterError, match=r"temp_folder=.*not an existing"):
        Placement.from_parameter("disk", missing)
    file = tmp_path / "file"
    file.touch()
    with pytest.raises(InvalidParameterError, match="not an existing folder"):
        Placement.from_parameter(file)


def test_the_temp_folder_has_to_be_a_path() -> None:
    with pytest.raises(InvalidParameterError, match="temp_folder=3 is not the path"):
        Placement.from_parameter("disk", 3)


def test_a_folder_has_to_be_writable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    with pytest.raises(InvalidParameterError, match="cannot be written to"):
        Placement.from_parameter(tmp_path)


@pytest.mark.parametrize(
    ("kind", "n_bytes", "chosen"),
    [
        ("auto", 800, "memory"),
        ("auto", 801, "disk"),
        ("memory", 1000, "memory"),
        ("disk", 1, "disk"),
    ],
)
def test_what_fits_goes_to_memory(
    kind: str, n_bytes: int, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 1000)
    assert Placement(kind, "/tmp").choose(n_bytes, "X") == chosen


def test_what_does_not_fit_in_memory_is_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 1000)
    with pytest.raises(NotEnoughMemoryError, match=r"2\.0 KiB for X, and 1000 B are"):
        Placement("memory", "/tmp").choose(2048, "X")


def test_where_the_room_is_unknown_memory_is_tried(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: None)
    assert Placement("auto", "/tmp").choose(1 << 60, "X") == "memory"
