"""Tasks with much that is sent by value: it is there no more often than needed."""

from __future__ import annotations

import copyreg
import functools
import gc
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from loky.backend.reduction import dumps as loky_dumps

from skl_mmap.backend import Options, TaskPickler
from skl_mmap.backend._parts import TaskPickle
from skl_mmap.backend._pickling import dump_task, load_task
from skl_mmap.memory import Store
from tests import strategies
from tests.backend.common import call_each, run_script, use_mmap

LINE = "a line of text that is not short, number "


def make_lines(n_lines: int) -> list[str]:
    return [f"{LINE}{number}" for number in range(n_lines)]


def make_store(options: Options) -> Store:
    return Store(options.placement, options.settings)


def send_task(task: object) -> Any:
    """Send a task to a worker, within this process."""
    options = Options()
    payload, _segments = dump_task(task, make_store(options), options)
    return load_task(pickle.loads(loky_dumps(payload)))


@pytest.mark.parametrize("n_lines", [0, 10, 20_000, 22_000, 100_000])
def test_text_arrives(n_lines: int) -> None:
    lines = make_lines(n_lines)
    assert send_task([lines, "end"]) == [lines, "end"]


@strategies.examples(30)
@given(
    sizes=st.lists(
        st.sampled_from([0, 1, 1000, 70_000, 1 << 20, (1 << 20) + 1, 3 << 20]),
        max_size=6,
    ),
    seed=st.integers(0, 100),
)
def test_pickles_of_all_sizes_arrive(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    value = [rng.bytes(size) for size in sizes]
    value += [bytearray(part) for part in value[:2]]
    assert send_task(value) == value


def test_large_pickles_are_in_parts() -> None:
    options = Options()
    payload, _ = dump_task(make_lines(100_000), make_store(options), options)
    parts = pickle.loads(loky_dumps(payload))
    assert [type(part) for part in parts] == [bytes] * len(parts)
    assert {len(part) for part in parts[:-1]} == {1 << 20}
    assert load_task(parts) == make_lines(100_000)
    assert parts == [], "nothing refers to the pickle"


def test_small_pickles_are_bytes() -> None:
    options = Options()
    payload, _ = dump_task(make_lines(100), make_store(options), options)
    assert type(pickle.loads(loky_dumps(payload))) is bytes


def test_parts_go_away_while_they_are_sent() -> None:
    payload = TaskPickle()
    payload.write(bytes(5 << 20))
    _, _, _, items = payload.__reduce__()
    buffers = list(zip(range(4), items, strict=False))
    released = []
    for _, buffer in buffers:
        try:
            buffer.raw().release()
            released.append(False)
        except ValueError:
            released.append(True)
    assert released == [True, True, False, False], "one more than is pickled"
    items.close()


def test_old_protocols_can_be_read() -> None:
    parts = [bytes([byte]) for byte in pickle.dumps(["text", 1, 2.5], protocol=0)]
    assert load_task(parts) == ["text", 1, 2.5]


class Registered:
    """Pickled by what somebody has registered."""

    def __reduce__(self) -> Any:
        raise ZeroDivisionError


def reduce_registered(_obj: Registered) -> Any:
    return str, ("registered",)


def test_what_is_registered_later_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ZeroDivisionError):
        send_task(Registered())
    monkeypatch.setitem(copyreg.dispatch_table, Registered, reduce_registered)
    assert send_task(Registered()) == "registered"
    monkeypatch.undo()
    with pytest.raises(ZeroDivisionError):
        send_task(Registered())


def test_picklers_know_what_loky_knows() -> None:
    class Class:
        def method(self) -> int:
            return 5

    method, partial, function = send_task(
        [Class().method, functools.partial(max, 3), lambda: 7]
    )
    assert (method(), partial(4), function()) == (5, 4, 7)


def test_picklers_do_not_wait_for_the_garbage_collector() -> None:
    gc.collect()
    gc.disable()
    try:
        options = Options()
        before = sum(isinstance(o, TaskPickler) for o in gc.get_objects())
        for _ in range(3):
            dump_task([1, 2], make_store(options), options)
        assert sum(isinstance(o, TaskPickler) for o in gc.get_objects()) == before
    finally:
        gc.enable()


HELD_SCRIPT = """
import gc, joblib, sys
import skl_mmap
from pathlib import Path

def held(lines):
    gc.collect()
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024

if __name__ == "__main__":
    lines = [("%06d" % number) * 17 for number in range(200_000)]
    n_bytes = sum(map(sys.getsizeof, lines)) + sys.getsizeof(lines)
    for backend in ("mmap", "loky"):
        with joblib.parallel_config(backend=backend, n_jobs=2):
            def run(value):
                parallel = joblib.Parallel(batch_size=1, pre_dispatch=1)
                return parallel([joblib.delayed(held)(value)])[0]
            before = min(run([]) for _ in range(6))
            during = run(lines)
            print((during - before) / n_bytes)
"""


def test_worker_holds_what_it_was_sent_once(tmp_path: Path) -> None:
    ratio, loky_ratio = map(float, run_script(tmp_path, HELD_SCRIPT).stdout.split())
    assert ratio < 1.2
    assert ratio < loky_ratio + 0.1


def test_text_reaches_workers() -> None:
    lines = make_lines(50_000)
    with use_mmap():
        assert call_each(len, lines, n_tasks=3) == [50_000] * 3
        assert call_each(" ".join, lines, n_tasks=1) == [" ".join(lines)]
