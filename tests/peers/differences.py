"""The tests that may fail on one backend and pass on the other, and why."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.peers.plugin import pattern_of

__all__ = ["DIFFERENCES", "Difference"]


@dataclass(frozen=True, slots=True)
class Difference:
    """Tests that are known to differ.

    Attributes
    ----------
    pattern : str
        The end of the tests' ids; "*" stands for anything.
    fails_on : {"mmap", "loky"}
        The backend on which they fail.
    reason : str
        Why, in a sentence for the reader of the table.
    """

    pattern: str
    fails_on: Literal["mmap", "loky"]
    reason: str

    def matches(self, test_id: str) -> bool:
        """Whether this is about a test."""
        return pattern_of(self.pattern).fullmatch(test_id) is not None


DIFFERENCES: tuple[Difference, ...] = ()
