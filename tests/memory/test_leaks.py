"""Sharing, rebuilding and selecting again and again leaves nothing behind."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import numpy as np

from skl_mmap.memory import describe, live_mappings, rebuild_array
from tests.memory.sharing import make_store, send, share_one, shared_with


def held() -> tuple[int, int]:
    gc.collect()
    n_files = len(os.listdir("/proc/self/fd"))
    return n_files, len(Path("/proc/self/maps").read_text().splitlines())


def test_no_cycle_leaves_files_or_mappings() -> None:
    store = make_store()
    kept = np.arange(3000.0)
    rows = np.r_[0:8000, 9001:15_000]

    def cycle(number: int) -> None:
        store.next_call()
        array = np.full(16_384, float(number))
        for source in (array, kept):
            handle, _segment = shared_with(store, source)
            shared = rebuild_array(send(handle))
            joined = shared[rows[rows < len(shared)]]
            joined[5] = -1.0
            inner = joined[100:][np.arange(1000)]
            found = describe(inner)
            assert found is not None
            rebuild_array(send(found[0]))
            assert inner[0] == source[100]

    for number in range(5):
        cycle(number)
    before = held()
    for number in range(200):
        cycle(number)
    after = held()
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 3  # what the allocator does is not ours
    assert live_mappings() == []


def test_without_a_collection_memory_goes_at_once() -> None:
    gc.disable()
    try:
        shared = share_one(np.arange(16_384.0))
        assert len(live_mappings()) == 1
        joined = shared[np.arange(10_000)]
        view = joined[5:].reshape(-1, 5).T
        del joined
        assert len(live_mappings()) == 2
        del view
        assert len(live_mappings()) == 1
        del shared
        assert live_mappings() == []
    finally:
        gc.enable()


def test_views_keep_their_mapping_alive() -> None:
    view = share_one(np.arange(16_384.0))[np.r_[0:8000, 9000:16_000]][5:9]
    gc.collect()
    assert view.tolist() == [5.0, 6.0, 7.0, 8.0]
