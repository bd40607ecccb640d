"""The kernel is told where files are read from front to back, and only there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import KFold

import skl_mmap
from skl_mmap._linux.proc import areas_between
from skl_mmap.memory import can_remap, reading_in_order

pytestmark = pytest.mark.skipif(not can_remap(), reason="needs madvise")

ROWS = np.arange(600_000.0).reshape(-1, 6)


def is_read_in_order(array: np.ndarray[Any, Any]) -> bool:
    """Whether the kernel was told so of all of an array's memory."""
    start = array.__array_interface__["data"][0]
    areas = areas_between(start, start + array.nbytes, with_flags=True)
    return all("sr" in area.flags for area in areas)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.npy"
    np.save(path, ROWS)
    return path


@pytest.mark.parametrize("make", ["memmap", "load", "spool"])
def test_files_are_read_ahead_inside_of_the_block(make: str, path: Path) -> None:
    array = {
        "memmap": lambda: np.load(path, mmap_mode="r"),
        "load": lambda: skl_mmap.load(path),
        "spool": lambda: skl_mmap.share(ROWS, store="disk"),
    }[make]()
    for view in (array, np.asarray(array), array[1000:5000]):
        with reading_in_order(view):
            assert is_read_in_order(view)
        assert not is_read_in_order(view)


def test_other_memory_is_left_alone(path: Path) -> None:
    columns = np.load(path, mmap_mode="r").T
    for array in (ROWS, skl_mmap.share(ROWS), columns, np.empty(0), np.array(1.0)):
        with reading_in_order(array):
            assert not array.nbytes or not is_read_in_order(array)


@pytest.mark.parametrize("work", ["convert", "arrange", "share"])
def test_passes_through_a_file_are_made_so(
    work: str, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from skl_mmap.memory import SegmentWriter, _filling

    seen = set()
    sources: list[Any] = []
    write, write_memory = SegmentWriter.write, _filling._write_memory

    def looking_write(self: Any, data: Any) -> None:
        seen.update(map(is_read_in_order, sources))
        write(self, data)

    def looking_write_memory(*arguments: Any) -> None:
        seen.update(map(is_read_in_order, sources))
        write_memory(*arguments)

    monkeypatch.setattr(SegmentWriter, "write", looking_write)
    monkeypatch.setattr(_filling, "_write_memory", looking_write_memory)
    if work == "convert":
        from skl_mmap.files import _npy

        convert = _npy.convert
        monkeypatch.setattr(
            _npy,
            "convert",
            lambda values, out: sources.append(values) or convert(values, out),
        )
        result = skl_mmap.load(path, dtype="float32")
    else:
        sources.append(np.load(path, mmap_mode="c"))
        if work == "share":
            result = skl_mmap.share(sources[0])
        else:
            folds = KFold(3, shuffle=True, random_state=0)
            result, _, cv = skl_mmap.arrange(sources[0], cv=folds)
            result = cv.restore(result)
    np.testing.assert_array_equal(result, ROWS)
    assert seen == {True}
    assert not is_read_in_order(sources[0])
