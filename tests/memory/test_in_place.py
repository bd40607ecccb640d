"""Arrays of the caller from which rows are selected in the same process."""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from skl_mmap._linux import calls
from skl_mmap.memory import InPlace, InPlaceArray, Placement, Settings, find_mapping
from skl_mmap.monitor import listen, unlisten

N_ROWS = 4096
ROWS = np.r_[0:1024, 2048:N_ROWS]
PLACEMENT = Placement.from_parameter("auto")


@pytest.fixture
def notes() -> Iterator[list[str]]:
    found: list[str] = []
    listener = listen(found.append, str)
    yield found
    unlisten(listener)


def open_file(tmp_path: Path) -> Any:
    np.save(tmp_path / "X.npy", np.arange(N_ROWS * 16.0).reshape(N_ROWS, 16))
    return np.load(tmp_path / "X.npy", mmap_mode="r")


def view(in_place: InPlace, array: npt.NDArray[Any]) -> Any:
    return in_place.view(
        array, PLACEMENT, Settings(min_mapped_bytes=1), can_adopt=False
    )


@contextlib.contextmanager
def seeing(X: npt.NDArray[Any]) -> Iterator[Any]:
    """See an array as a task does, while a call lasts."""
    in_place = InPlace()
    in_place.begin_call()
    yield view(in_place, X)
    in_place.end_call()


def test_it_is_the_same_memory(tmp_path: Path) -> None:
    X = open_file(tmp_path)
    with seeing(X) as seen:
        assert type(seen) is InPlaceArray
        assert np.shares_memory(seen, X)
        assert not seen.flags.writeable


SELECTIONS: dict[str, Callable[[Any], Any]] = {
    "rows": lambda X: X[ROWS],
    "rows and dots": lambda X: X[ROWS, ...],
    "take": lambda X: X.take(ROWS, axis=0),
    "numpy.take": lambda X: np.take(X, ROWS, axis=0),
    "slice": lambda X: X[10:2000],
    "columns": lambda X: X[:, 1:3],
    "some columns": lambda X: X[:, [2, 1]],
    "sum": lambda X: X + 1,
    "copy": lambda X: X.copy(),
    "zeros_like": np.zeros_like,
    "pickle": lambda X: pickle.loads(pickle.dumps(X)),
    "asarray": np.asarray,
}


@pytest.mark.parametrize("name", SELECTIONS)
def test_what_is_made_of_it_is_what_numpy_makes(tmp_path: Path, name: str) -> None:
    X = open_file(tmp_path)
    with seeing(X) as seen:
        made, expected = SELECTIONS[name](seen), SELECTIONS[name](np.asarray(X))
    assert type(made) is np.ndarray
    np.testing.assert_array_equal(made, expected)


def test_files_are_let_go_of_with_the_last_call(tmp_path: Path) -> None:
    X = open_file(tmp_path)
    in_place = InPlace()
    in_place.begin_call()
    in_place.begin_call()
    view(in_place, X)
    in_place.end_call()
    assert find_mapping(X) is not None
    in_place.end_call()
    assert find_mapping(X) is None


def test_without_room_for_a_copy_the_report_says_so(
    tmp_path: Path, notes: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    X = open_file(tmp_path)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(calls, "make_private", refuse)
    in_place = InPlace()
    in_place.begin_call()
    given = view(in_place, X)
    with in_place.running():
        fold = given[ROWS]
    in_place.end_call()
    np.testing.assert_array_equal(fold, X[ROWS])
    (note,) = notes
    assert "would change with it" in note


def test_pages_that_cannot_be_replaced_stay(tmp_path: Path) -> None:
    X = open_file(tmp_path)
    address = X.__array_interface__["data"][0] // 4096 * 4096
    with pytest.raises(OSError, match="of 3 bytes"):
        calls.make_private(address + 1, 3, writable=True)
    assert X[1, 0] == 16.0
