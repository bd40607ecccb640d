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


_NOT_A_MEMMAP = (
    "checks that the worker was given a numpy.memmap; with our backend it is given a "
    "SharedArray, which is not a file of joblib's"
)
_CLASS_NAME = 'compares the name of the backend\'s class with "LokyBackend"'

DIFFERENCES = (
    Difference(
        "/test_config.py::test_parallel_config_no_backend", "mmap", _NOT_A_MEMMAP
    ),
    Difference(
        "/test_parallel.py::test_auto_memmap_on_arrays_from_generator[loky]",
        "mmap",
        _NOT_A_MEMMAP,
    ),
    Difference("/test_parallel.py::test_memmapping_leaks[loky]", "mmap", _NOT_A_MEMMAP),
    Difference(
        "/test_parallel.py::test_nested_parallelism_limit[*-loky]", "mmap", _CLASS_NAME
    ),
)
