"""What a worker says about its own memory."""

from __future__ import annotations

import mmap
from collections.abc import Callable

import pytest

from skl_mmap._linux import proc
from skl_mmap.monitor import _measure, own_memory

from .conftest import MIB, TOLERANCE_BYTES, Child, needs_proc


@needs_proc
def test_private_memory_of_this_process(make_child: Callable[..., Child]) -> None:
    child = make_child(package=True)
    before, with_data, after, reset = child.run(
        "from skl_mmap.monitor import own_memory\n"
        "before = own_memory(reset_peak=True)\n"
        f"data = bytearray({32 * MIB}); with_data = own_memory()\n"
        "del data; after = own_memory(); reset = own_memory(reset_peak=True)\n"
        "answer = [(m.anonymous_bytes, m.resident_bytes, m.peak_bytes)"
        " for m in (before, with_data, after, reset)]"
    )
    grown = pytest.approx(32 * MIB, abs=TOLERANCE_BYTES)
    same = pytest.approx(0, abs=TOLERANCE_BYTES)
    assert with_data[0] - before[0] == grown
    assert with_data[1] - before[1] == grown
    assert after[0] - before[0] == same
    assert after[2] - before[2] == grown
    assert reset[2] - before[2] == same
    assert before[1] > before[0]


FORK = """
import os
from skl_mmap.monitor import own_memory
data = bytearray(b"1") * {n_bytes}
receive, send = os.pipe()
forked = os.fork()
if not forked:
    before = own_memory(reset_peak=True)
    {action}
    after = own_memory()
    memory = [(m.anonymous_bytes, m.peak_bytes) for m in (before, after)]
    os.write(send, repr(memory).encode())
    os._exit(0)
answer = eval(os.read(receive, 10000))
os.waitpid(forked, 0), os.close(receive), os.close(send)
"""


@needs_proc
@pytest.mark.parametrize(
    ("action", "grown_bytes", "peak_bytes"),
    [
        ("more = bytearray(b'1') * (16 << 20)", 16 * MIB, 16 * MIB),
        ("more = bytearray(b'1') * (16 << 20); del more", 0, 16 * MIB),
        # Copies of pages that it has inherited: to the kernel they were there before.
        ("for place in range(0, len(data), 4096): data[place] = 2", 0, 0),
    ],
)
def test_private_memory_of_a_fork(
    make_child: Callable[..., Child], action: str, grown_bytes: int, peak_bytes: int
) -> None:
    child = make_child(package=True)
    before, after = child.run(FORK.format(n_bytes=32 * MIB, action=action))
    assert before[0] > 32 * MIB
    for grown, expected in zip(
        (after[0] - before[0], after[1] - before[1]),
        (grown_bytes, peak_bytes),
        strict=True,
    ):
        assert grown == pytest.approx(expected, abs=TOLERANCE_BYTES)


@needs_proc
def test_a_peak_that_cannot_be_reset_is_not_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = bytearray(64 * MIB)
    del data
    monkeypatch.setattr(_measure, "_peak", _measure._Peak())
    assert own_memory().peak_bytes > own_memory().resident_bytes + 16 * MIB
    monkeypatch.setattr(proc, "reset_own_peak", lambda: False)
    memory = own_memory(reset_peak=True)
    assert memory.peak_bytes == memory.resident_bytes
    memory = own_memory()
    assert memory.peak_bytes == memory.resident_bytes
    monkeypatch.undo()
    assert own_memory(reset_peak=True).peak_bytes > 0


def test_without_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proc, "is_readable", lambda: False)
    before = own_memory(reset_peak=True)
    # Not from the heap, which may have that much to spare.
    data = mmap.mmap(-1, 32 * MIB, flags=mmap.MAP_PRIVATE)
    for place in range(0, 32 * MIB, mmap.PAGESIZE):
        data[place] = 1
    after = own_memory()
    assert len(data) == 32 * MIB
    grown = after.anonymous_bytes - before.anonymous_bytes
    assert grown == pytest.approx(32 * MIB, abs=TOLERANCE_BYTES)
    assert after.peak_bytes == after.resident_bytes > before.resident_bytes
