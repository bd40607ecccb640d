"""Columns of every kind: which are shared and mapped, and how the others are named."""

from __future__ import annotations

import pickle
from typing import Any

import numpy as np
import pytest

from skl_mmap.containers import container_of
from skl_mmap.memory import counters
from tests.containers.test_pandas import COLUMNS, FOLD, assert_same, make_numbers, share
from tests.memory.sharing import take_counted

pd = pytest.importorskip("pandas", minversion="2.1")


@pytest.mark.parametrize(
    "kind",
    [
        *("category", "dates", "durations", "Int64", "Float32", "boolean"),
        *("arrow double", "arrow text", "arrow categories"),
    ],
)
def test_columns_of_every_kind_are_not_copied(kind: str) -> None:
    if kind not in COLUMNS:
        pytest.skip("pyarrow is not installed")
    n_rows = 20_000
    plain = pd.DataFrame({"x": COLUMNS[kind](n_rows), "y": COLUMNS[kind](n_rows)})
    for column, expected in ((share(plain), plain), (share(plain["x"]), plain["x"])):
        counters.take()
        selected = column.take(FOLD)
        n_mapped, copied = take_counted()
        n_bytes = np.sum(selected.memory_usage(index=False))
        assert n_mapped > 0.7 * n_bytes
        assert set(copied) <= {
            "runs and seams that do not agree with the pages of the file",
            "no run of rows is long enough to be mapped",
        }
        again = selected.take(np.arange(4096, 15_000))
        assert_same(again, expected.take(FOLD).take(np.arange(4096, 15_000)))


@pytest.mark.parametrize("kind", ["f8", "arrow text", "Int64"])
def test_a_few_rows_are_pickled_alone(kind: str) -> None:
    if kind not in COLUMNS:
        pytest.skip("pyarrow is not installed")
    frame = share(pd.DataFrame({"x": COLUMNS[kind](50_000), "y": 1}))
    few = np.arange(2000)
    for whole in (frame, frame["x"], share(frame["x"])):
        plain = pickle.loads(pickle.dumps(whole))
        n_bytes = len(pickle.dumps(plain.take(few)))
        assert len(pickle.dumps(whole.take(few))) < 2 * n_bytes


def as_task_has_it(frame: Any) -> Any:
    """Return a frame in its own blocks, as if they were shared."""
    container = container_of(frame)
    assert container is not None
    make, arguments, state = container.take_apart(frame, 0) or (None, (), None)
    received = make(*arguments)
    received.__setstate__(state)
    return received


def test_many_columns_of_several_types_are_copied_and_that_is_said() -> None:
    frame = pd.DataFrame(np.zeros((2000, 101)))
    frame = pd.concat([frame, pd.Series(1, index=frame.index, name="i")], axis=1)
    counters.take()
    rows = np.arange(100, 1500)
    assert_same(as_task_has_it(frame).take(rows), frame.take(rows))
    n_mapped, copied = take_counted()
    assert n_mapped == 0
    ((reason, n_bytes),) = copied.items()
    assert reason == "MANY_COLUMNS"
    assert n_bytes == 1400 * 102 * 8


def test_many_columns_that_are_as_many_arrays_are_mapped() -> None:
    numbers = np.random.default_rng(0).normal(size=(120, 20_000))
    frame = pd.DataFrame({f"x{i}": column for i, column in enumerate(numbers)})
    frame["i"] = 1
    counters.take()
    assert_same(share(frame).take(FOLD), frame.take(FOLD))
    n_mapped, copied = take_counted()
    assert n_mapped > 0.8 * len(FOLD) * 121 * 8
    assert "MANY_COLUMNS" not in copied


@pytest.mark.parametrize("kind", ["object", "object text", "object dates"])
def test_objects_stay_objects(kind: str) -> None:
    series = pd.Series(COLUMNS[kind](20_000), dtype=object)
    plain = make_numbers().assign(o=series, i=1)
    assert share(plain).dtypes["o"] == share(series).dtype == object
    assert_same(share(plain).take(FOLD), plain.take(FOLD))
    assert_same(share(series).take(FOLD), series.take(FOLD))
