"""Closing an array: what is forbidden then, and when its memory goes."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from skl_mmap.exceptions import ClosedArrayError
from skl_mmap.memory import SharedArray, live_mappings
from tests.memory.sharing import share_one

PLAIN = np.arange(200_000.0).reshape(-1, 50)


def count_mappings() -> int:
    gc.collect()
    return len(live_mappings())


USES: dict[str, Callable[[Any], Any]] = {
    "row": lambda X: X[0],
    "rows": lambda X: X[np.arange(5)],
    "assignment": lambda X: X.__setitem__(0, 1.0),
    "attribute": lambda X: X.shape,
    "method": lambda X: X.sum(),
    "ufunc": lambda X: X + 1,
    "reflected ufunc": lambda X: 1 + X,
    "in place": lambda X: X.__iadd__(1),
    "function": np.mean,
    "length": len,
    "loop": list,
    "pickle": pickle.dumps,
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "format": lambda X: f"{X:}",
    "target of copyto": lambda X: np.copyto(X, 0.0),
    "truth": bool,
}


@pytest.mark.parametrize("use", USES.values(), ids=USES)
def test_every_use_of_a_closed_array_is_an_error(use: Callable[[Any], Any]) -> None:
    X = share_one(PLAIN)
    X.close()
    with pytest.raises(ClosedArrayError, match="this SharedArray was closed"):
        use(X)


def test_closed_array_says_so() -> None:
    X = share_one(PLAIN)
    X.close()
    assert repr(X) == str(X) == "<closed SharedArray>"
    X.close()


def test_memory_goes_with_the_last_name_or_at_once() -> None:
    X = share_one(PLAIN)
    assert count_mappings() == 1
    X.close()
    assert count_mappings() == 0
    assert np.asarray(X).size == 0


def test_memory_goes_at_the_end_of_the_block() -> None:
    with share_one(PLAIN) as X:
        total = X.sum()
        assert count_mappings() == 1
    assert count_mappings() == 0
    assert total == PLAIN.sum()
    with pytest.raises(ClosedArrayError):
        X.sum()


def test_memory_goes_at_the_end_of_a_block_that_raises() -> None:
    with pytest.raises(KeyError), share_one(PLAIN) as X:
        raise KeyError(len(X))
    assert count_mappings() == 0


class Holder:
    X: SharedArray | None


def test_memory_of_an_attribute_goes_with_the_attribute() -> None:
    holder = Holder()
    holder.X = share_one(PLAIN)
    holder.X.close()
    holder.X = None
    assert count_mappings() == 0


def test_memory_goes_when_the_array_is_a_variable_of_a_module() -> None:
    scope = {"X": share_one(PLAIN)}
    exec("X.close()", scope)
    assert count_mappings() == 0
    assert "closed" in repr(scope["X"])


# What may hold the memory of an array, and how its elements are read.
HOLDERS: dict[str, Callable[[Any], Any]] = {
    "slice": lambda X: X[10:],
    "rows": lambda X: X[np.arange(2000)],
    "plain view": np.asarray,
    "plain part": lambda X: np.asarray(X)[10:],
    "memoryview": memoryview,
    "subclass": lambda X: X.view(np.recarray),
    "transpose": lambda X: X.T,
    "view of a view": lambda X: np.asarray(X[10:])[5:],
}


@pytest.mark.parametrize("hold", HOLDERS.values(), ids=HOLDERS)
def test_what_holds_the_memory_stays_valid(hold: Callable[[Any], Any]) -> None:
    X = share_one(PLAIN)
    held = hold(X)
    expected = np.array(np.asarray(held))
    X.close()
    # New mappings would take the place of one that was given up too early.
    others = [share_one(np.zeros_like(PLAIN)) for _ in range(3)]
    np.testing.assert_array_equal(np.asarray(held), expected)
    others.clear()
    del held
    del X
    assert count_mappings() == 0


def test_second_name_is_closed_too() -> None:
    X = share_one(PLAIN)
    other = X
    X.close()
    with pytest.raises(ClosedArrayError):
        other.sum()
    assert count_mappings() == 0


def close_argument(array: SharedArray) -> None:
    array.close()


def test_name_of_another_function_keeps_the_memory() -> None:
    X = share_one(PLAIN)
    close_argument(X)
    with pytest.raises(ClosedArrayError):
        X.sum()
    assert count_mappings() == 1
    del X
    assert count_mappings() == 0


def test_closing_from_elsewhere_is_safe() -> None:
    X = share_one(PLAIN)
    view = memoryview(X)  # type: ignore[arg-type]
    close = X.close
    del X
    close()
    assert view[0, 1] == 1.0
    X = share_one(PLAIN)
    view = memoryview(X)  # type: ignore[arg-type]
    functools.partial(X.__exit__, None, None)(None)
    assert view[0, 1] == 1.0


def test_closing_through_what_holds_the_array_is_safe() -> None:
    view = memoryview(share_one(PLAIN))  # type: ignore[arg-type]
    view.obj.close()
    assert view[0, 1] == 1.0
    records = share_one(PLAIN).view(np.recarray)
    assert isinstance(records.base, SharedArray)
    records.base.close()
    assert records[0, 1] == 1.0


def test_block_that_deletes_its_name_is_safe() -> None:
    with share_one(PLAIN) as X:
        view = memoryview(X)  # type: ignore[arg-type]
        del X
    assert view[0, 1] == 1.0


def test_folds_of_a_closed_array_are_closed_by_themselves() -> None:
    X = share_one(PLAIN)
    fold = X[np.arange(2000)]
    fold.close()
    assert X.sum() == PLAIN.sum()
