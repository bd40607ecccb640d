"""Room for results: workers write, the parent reads without a copy."""

from __future__ import annotations

import errno
import os
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from skl_mmap.exceptions import NotEnoughDiskError, SegmentLostError
from skl_mmap.memory import (
    Placement,
    ResultBuffer,
    ResultSlot,
    WrittenArray,
    find_mapping,
)
from tests import strategies
from tests.memory.sharing import send

MEMORY = Placement.from_parameter("memory")


def make_buffer(n_bytes: int = 1 << 16, store: str = "memory") -> ResultBuffer:
    return ResultBuffer(n_bytes, Placement.from_parameter(store), "results")


def written_to(slot: ResultSlot, array: npt.NDArray[Any]) -> WrittenArray:
    """Write as another process would: through pickles."""
    written = send(send(slot).write(array))
    assert isinstance(written, WrittenArray)
    return written


@strategies.examples(50)
@given(
    array=hnp.arrays(
        st.sampled_from(["f8", "f4", "i8", ">i4", "?", "U3", "M8[s]", "i4,f8"]),
        hnp.array_shapes(min_dims=0, max_dims=3, max_side=20),
    ),
    offset=st.integers(0, 9000),
    is_transposed=st.booleans(),
)
def test_what_is_read_is_what_was_written(
    array: npt.NDArray[Any], offset: int, is_transposed: bool
) -> None:
    if is_transposed:
        array = array.T
    buffer = make_buffer(offset + array.nbytes)
    written = written_to(buffer.slot(offset, array.nbytes), array)
    buffer.finish()
    read = buffer.read(written)
    assert type(read) is np.ndarray
    assert read.dtype == array.dtype
    assert read.shape == array.shape
    # As text, in which NaN equals itself.
    assert repr(read.tolist()) == repr(array.tolist())
    if array.dtype.names is None:
        assert read.tobytes() == array.tobytes()


@pytest.mark.parametrize("store", ["memory", "disk"])
def test_reading_maps_the_file(store: str) -> None:
    buffer = make_buffer(store=store)
    array = np.arange(1000.0)
    written = written_to(buffer.slot(4096, 8000), array)
    buffer.finish()
    read = buffer.read(written)
    assert find_mapping(read) is not None
    del buffer
    np.testing.assert_array_equal(read, array)


def test_reading_works_without_remapping(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
    buffer = make_buffer()
    written = written_to(buffer.slot(24, 800), np.arange(100))
    buffer.finish()
    np.testing.assert_array_equal(buffer.read(written), np.arange(100))


def test_what_was_read_may_be_written_to() -> None:
    buffer = make_buffer()
    written = written_to(buffer.slot(0, 800), np.zeros(100))
    buffer.finish()
    first, second = buffer.read(written), buffer.read(written)
    first += 1.0
    assert not second.any()
    assert not buffer.read(written).any()


@pytest.mark.parametrize(
    "value",
    [
        np.zeros(101),
        np.zeros(0),
        np.array(["a", None], dtype=object),
        np.ma.masked_array([1.0, 2.0], [True, False]),
        [1.0, 2.0],
        None,
    ],
    ids=["larger", "empty", "objects", "subclass", "list", "None"],
)
def test_what_is_no_plain_array_that_fits_has_to_be_sent(value: object) -> None:
    buffer = make_buffer()
    before = written_to(buffer.slot(0, 800), np.ones(100))
    assert buffer.slot(0, 800).write(value) is None
    buffer.finish()
    assert buffer.read(before).all(), "nothing was written"


def test_slots_do_not_touch_each_other() -> None:
    buffer = make_buffer(30)
    parts = [
        written_to(buffer.slot(begin, 10), np.full(10, begin, dtype="u1"))
        for begin in (20, 0, 10)
    ]
    buffer.finish()
    assert [set(buffer.read(part).tolist()) for part in parts] == [{20}, {0}, {10}]


def test_parts_that_follow_each_other_are_one_array() -> None:
    buffer = make_buffer()
    whole = np.arange(60.0).reshape(20, 3)
    parts = [
        written_to(buffer.slot(first * 24, (last - first) * 24), whole[first:last])
        for first, last in ((0, 7), (7, 8), (8, 20))
    ]
    buffer.finish()
    joined = buffer.read_joined(parts)
    assert joined is not None
    assert find_mapping(joined) is not None
    np.testing.assert_array_equal(joined, whole)
    assert buffer.read_joined(parts[::-1]) is None
    assert buffer.read_joined(parts[::2]) is None


@pytest.mark.parametrize(
    "other", [np.zeros(4, "f4"), np.zeros((2, 2)), np.zeros(())], ids=str
)
def test_parts_that_differ_are_not_joined(other: npt.NDArray[Any]) -> None:
    buffer = make_buffer()
    first = written_to(buffer.slot(0, 32), np.zeros(4))
    second = written_to(buffer.slot(32, 32), other)
    assert buffer.read_joined([first, second]) is None
    assert buffer.read_joined([written_to(buffer.slot(0, 8), np.zeros(()))]) is None


def test_nobody_writes_after_the_end() -> None:
    buffer = make_buffer()
    slot = buffer.slot(0, 800)
    buffer.finish()
    with pytest.raises(OSError, match="not permitted") as caught:
        slot.write(np.ones(100))
    assert caught.value.errno == errno.EPERM


def test_room_that_is_gone_is_an_error() -> None:
    slot = make_buffer().slot(0, 800)
    with pytest.raises(SegmentLostError):
        slot.write(np.ones(100))


def test_writing_leaves_no_file_open() -> None:
    buffer = make_buffer()
    before = len(os.listdir("/proc/self/fd"))
    buffer.slot(0, 800).write(np.ones(100))
    assert len(os.listdir("/proc/self/fd")) == before


def test_slots_are_small_when_they_are_sent() -> None:
    slot = make_buffer(1 << 24).slot(0, 1 << 24)
    assert len(pickle.dumps(slot)) < 500


def test_room_takes_no_memory_until_it_is_written_to() -> None:
    buffer = make_buffer(1 << 30)
    status = os.fstat(buffer._segment.fd)
    assert status.st_size == 1 << 30
    assert status.st_blocks * 512 < 1 << 20


def test_no_room_is_said_with_what_it_was_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", fail)
    with pytest.raises(NotEnoughDiskError, match="results"):
        make_buffer(store="disk")
