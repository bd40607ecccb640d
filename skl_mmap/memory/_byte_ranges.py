"""Sets of bytes, as ranges of them."""

from __future__ import annotations

import bisect


class ByteRanges:
    """Ranges of bytes that do not touch each other, in order."""

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._stops: list[int] = []

    def add(self, start: int, stop: int) -> None:
        """Add a range, and join it with those that it touches."""
        first = bisect.bisect_left(self._stops, start)
        last = bisect.bisect_right(self._starts, stop)
        if first < last:
            start = min(start, self._starts[first])
            stop = max(stop, self._stops[last - 1])
        self._starts[first:last] = [start]
        self._stops[first:last] = [stop]

    def missing(self, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of a range that are not in any of these."""
        gaps = []
        position = bisect.bisect_right(self._stops, start)
        while start < stop:
            is_last = position == len(self._starts)
            low = stop if is_last else min(self._starts[position], stop)
            if start < low:
                gaps.append((start, low))
            start = stop if is_last else max(low, self._stops[position])
            position += 1
        return gaps

    def __len__(self) -> int:
        """Return how many ranges there are."""
        return len(self._starts)


def count_bytes(ranges: list[tuple[int, int]]) -> int:
    """Return the bytes of ranges that do not overlap."""
    return sum(stop - start for start, stop in ranges)
