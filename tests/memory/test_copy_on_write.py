"""What is written somewhere is seen there, by what is selected there, nowhere else."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests import strategies
from tests.memory.sharing import (
    PAGE_BYTES,
    assert_same,
    assert_same_values,
    mapped_bytes,
    share,
    share_one,
)

BYTES = (np.dtype("u1"), np.dtype("f8"), np.dtype("i2"))


def overwrite(array: np.ndarray, start: int, n_rows: int) -> None:
    """Turn the bits of some rows around: no row stays what it was."""
    rows = np.asarray(array)[start : start + n_rows]
    rows[...] = (~rows.copy().view("u1")).view(rows.dtype).reshape(rows.shape)


@strategies.examples(120)
@given(data=st.data())
def test_writes_are_seen_here_and_nowhere_else(data: st.DataObject) -> None:
    plain = data.draw(strategies.dense_arrays(dtypes=BYTES, max_pages=24, min_rows=3))
    original = plain.copy()
    shared, other = share(plain, n_arrays=2)
    positions = st.integers(0, len(plain) - 1)
    writes = st.lists(st.tuples(positions, st.sampled_from([1, 1, 2, 600])), max_size=2)
    rows = data.draw(strategies.row_runs(len(plain)))
    before = shared[rows]
    for start, n_rows in data.draw(writes):
        overwrite(shared, start, n_rows)
        overwrite(plain, start, n_rows)
    joined, expected = shared[rows], plain[rows]
    assert_same(joined, expected)
    assert_same_values(before, original[rows])
    if len(rows):
        # The same once more, from the joined view on.
        inner = data.draw(strategies.row_runs(len(rows)))
        unwritten = joined[inner]
        start = data.draw(st.integers(0, len(rows) - 1))
        overwrite(joined, start, 5)
        changed = expected.copy()
        overwrite(changed, start, 5)
        assert_same(joined[inner], changed[inner])
        assert_same_values(unwritten, expected[inner])
    assert_same(shared, plain)
    assert_same_values(shared[rows], expected)
    assert_same_values(before, original[rows])
    assert_same(other, original)


def test_every_single_written_byte_is_seen() -> None:
    # Three pages that are mapped, with copied bytes at both ends and at the seam.
    plain = np.zeros(8 * PAGE_BYTES, dtype=np.uint8)
    inner = np.r_[100 : 3 * PAGE_BYTES - 5, 4 * PAGE_BYTES - 9 : 7 * PAGE_BYTES + 1]
    everything = np.arange(len(inner))
    borders = np.flatnonzero(inner % PAGE_BYTES < 2)
    for position in np.r_[0, borders, len(inner) - 1]:
        joined = share_one(plain)[inner]
        assert mapped_bytes(joined) > 0
        joined[position] = 1
        again = joined[everything]
        assert np.flatnonzero(again).tolist() == [position]
        assert np.flatnonzero(joined[everything[::-1]]).tolist() == [
            len(inner) - 1 - position
        ]


def test_a_page_that_was_written_to_is_not_taken_from_the_file() -> None:
    plain = np.zeros((16, PAGE_BYTES), dtype=np.uint8)
    shared = share_one(plain)
    shared[3, 17] = 9
    # Other rows of the same array are mapped still.
    joined = shared[np.r_[0:4, 8:16]]
    assert joined[3, 17] == 9
    assert np.count_nonzero(joined) == 1
    assert mapped_bytes(joined) >= 8 * PAGE_BYTES


def test_writes_through_the_stripped_array_are_seen() -> None:
    plain = np.zeros(16 * PAGE_BYTES, dtype=np.uint8)
    shared = share_one(plain)
    np.asarray(shared)[5000] = 1
    rows = np.r_[0 : 4 * PAGE_BYTES, 8 * PAGE_BYTES : 16 * PAGE_BYTES]
    assert np.flatnonzero(shared[rows]).tolist() == [5000]


def test_repeated_rows_are_separate() -> None:
    plain = np.zeros((4, PAGE_BYTES), dtype=np.uint8)
    joined = share_one(plain)[np.array([1, 1, 1])]
    assert mapped_bytes(joined) == 3 * PAGE_BYTES
    joined[1] = 7
    assert joined[:, 0].tolist() == [0, 7, 0]
