"""Joined mappings: what is planned is what is mapped."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.memory import Piece, Placement, Plan, Segment, Settings, can_remap
from skl_mmap.memory._mapping import as_array, map_plan
from skl_mmap.memory._plan import plan_pieces
from skl_mmap.memory._segment import create_segment
from tests.memory.sharing import mapped_bytes, share
from tests.strategies import PAGE_BYTES, examples

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

CONTENT = np.random.default_rng(0).integers(0, 256, 40 * PAGE_BYTES, dtype=np.uint8)


def make_segment() -> Segment:
    return create_segment(CONTENT, Placement.from_parameter("memory"))


@st.composite
def ranges(draw: st.DrawFn) -> list[tuple[int, int, bool]]:
    """Byte ranges of the file, many of which agree with pages, and may be shared."""
    place = st.one_of(
        st.integers(0, 39).map(PAGE_BYTES.__mul__), st.integers(0, len(CONTENT) - 1)
    )
    found = []
    for _ in range(draw(st.integers(1, 6))):
        start = draw(place)
        length = draw(st.one_of(st.just(3 * PAGE_BYTES), st.integers(1, 9000)))
        stop = min(start + length, len(CONTENT))
        found.append((start, stop, draw(st.booleans()) or stop - start > 8000))
    return found


def as_pieces(given: list[tuple[int, int, bool]]) -> list[Piece]:
    pieces = []
    place = 0
    for start, stop, _ in given:
        pieces.append(Piece(place, place + stop - start, start))
        place += stop - start
    return pieces


@examples(150)
@given(given_ranges=ranges(), alignment=st.sampled_from([1, 8]))
def test_the_plan_is_what_is_mapped(
    given_ranges: list[tuple[int, int, bool]], alignment: int
) -> None:
    segment = make_segment()
    can_share = [shared for _, _, shared in given_ranges]
    plan = plan_pieces(
        as_pieces(given_ranges), alignment=alignment, can_share=can_share
    )
    mapping = map_plan(segment, plan, Settings())
    assert mapping is not None
    assert mapping.mapped == plan.spans
    assert mapping.mapped_bytes == plan.mapped_bytes
    # Every mapped page is one of the file, at its place, and is not a private one.
    for low, high in plan.spans:
        assert mapping.is_unmodified(low, high)
    assert not plan.parts or mapping.address % PAGE_BYTES == plan.phase % PAGE_BYTES
    joined = as_array(mapping, CONTENT.dtype, (mapping.n_bytes,))
    expected = np.concatenate([CONTENT[start:stop] for start, stop, _ in given_ranges])
    np.testing.assert_array_equal(joined, expected)


@examples(150)
@given(given_ranges=ranges())
def test_mapped_spans_are_whole_pages_of_what_may_be_shared(
    given_ranges: list[tuple[int, int, bool]],
) -> None:
    pieces = as_pieces(given_ranges)
    can_share = [shared for _, _, shared in given_ranges]
    plan = plan_pieces(pieces, can_share=can_share)
    place = 0
    for low, high in plan.spans:
        assert place <= low < high <= plan.n_bytes
        place = high
        inner = [edge for edge in (low, high) if 0 < edge < plan.n_bytes]
        assert all((edge + plan.phase) % PAGE_BYTES == 0 for edge in inner)
        ((_, shared),) = [
            (piece, shared)
            for piece, shared in zip(pieces, can_share, strict=True)
            if piece.start <= low and high <= piece.stop
        ]
        assert shared


def test_planning_needs_no_segment_and_maps_nothing() -> None:
    plan = plan_pieces([Piece(0, 2 * PAGE_BYTES, 100), Piece(2 * PAGE_BYTES, 9000, 0)])
    assert plan.spans == [(0, 8092)]
    assert plan.mapped_bytes == 8092
    assert plan.phase == 100
    # What follows the result in its last page belongs to nobody.
    assert plan_pieces([Piece(0, 5000, 100)]).spans == [(0, 5000)]


def test_nothing_is_mapped_if_no_place_is_aligned() -> None:
    pieces = [Piece(0, 3 * PAGE_BYTES, 4), Piece(3 * PAGE_BYTES, 5 * PAGE_BYTES, 4)]
    plan: Any = plan_pieces(pieces, alignment=8)
    assert isinstance(plan, Plan)
    assert plan.mapped_bytes == 0
    mapping = map_plan(make_segment(), plan, Settings())
    assert mapping is not None
    assert mapping.mapped_bytes == 0


HUGE_PAGE_BYTES = 2 << 20


def test_the_phase_of_most_bytes_is_mapped() -> None:
    # Rows of 8 bytes: many short runs agree with the first one, and one long run not.
    X = np.arange(100_000.0)
    short = [np.arange(k * 1024, k * 1024 + 512) for k in range(1, 5)]
    rows = np.concatenate([*short, np.arange(10_001, 60_000), short[0]])
    (shared,) = share(X)
    joined = shared[rows]
    np.testing.assert_array_equal(joined, X[rows])
    assert 0 <= 49_999 * 8 - mapped_bytes(joined) < 2 * PAGE_BYTES
    # And many of them together are more than one that is longer than each.
    rows = np.concatenate([*(s + 8192 for s in short), np.arange(10_001, 10_601)])
    joined = shared[np.concatenate([rows, *(s + 20_480 for s in short)])]
    assert mapped_bytes(joined) == 8 * 512 * 8 - 4 * 512 * 8


def test_the_longest_run_agrees_with_huge_pages() -> None:
    X = np.arange(1_500_000.0)
    (shared,) = share(X)
    # All runs agree modulo the size of a page, but not of a huge page.
    for start in (512, 102_400, 200_704):
        rows = np.r_[0:5120, start + 5120 : start + 1_000_000, 1_300_480:1_400_000]
        joined = shared[rows]
        place = joined.ctypes.data + 5120 * 8
        assert (place - (start + 5120) * 8) % HUGE_PAGE_BYTES == 0
        np.testing.assert_array_equal(joined, rows)
