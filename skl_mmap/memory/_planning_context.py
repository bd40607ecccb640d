"""Which thread only plans what a worker would do, and with which mappings.

Other threads select rows at the same time, perhaps of the same arrays: they must
neither find a mapping that is only pretended, nor be counted. So it is a variable of
the context, which every thread has for itself.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from skl_mmap.memory._accounting import Counters
    from skl_mmap.memory._mapping import Mapping

__all__ = ["current_planning", "planning"]


class _Planning(NamedTuple):
    """What takes the place of the mappings and the counters of this process."""

    mappings: Sequence[Mapping]
    counters: Counters


_current: ContextVar[_Planning | None] = ContextVar("skl_mmap_planning", default=None)


def current_planning() -> _Planning | None:
    """Return what this thread plans with; None if it does real work."""
    return _current.get()


@contextlib.contextmanager
def planning(mappings: Sequence[Mapping], counters: Counters) -> Iterator[None]:
    """Let this thread plan: find these mappings only, and count here."""
    token = _current.set(_Planning(mappings, counters))
    try:
        yield
    finally:
        _current.reset(token)
