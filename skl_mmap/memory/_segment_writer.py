"""Writing a segment whose size is not known before."""

from __future__ import annotations

import os
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._filling import write_array
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import Segment, allocate, new_segment

if TYPE_CHECKING:
    from typing_extensions import Self

# How far ahead a file is made larger: often enough to notice that memory runs out,
# seldom enough to cost nothing.
_GROWTH_BYTES = 64 << 20


class SegmentWriter:
    """Write a segment from front to back; a context manager.

    Parameters
    ----------
    placement : Placement
        Where the segment lives.
    what : str
        What is written, for error messages.
    n_bytes : int, optional
        The final size where it is known, or an estimate. Room for it is looked for at
        once, so that there is an error before the work and not in the middle of it.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room, also from `write`. Nothing is left behind.

    Examples
    --------
    >>> from skl_mmap.memory import Placement
    >>> with SegmentWriter(Placement.from_parameter("auto"), "two blocks") as writer:
    ...     writer.write(np.arange(3.0))
    ...     writer.write(np.ones(2))
    ...     segment = writer.finish()
    >>> segment.n_bytes
    40
    """

    def __init__(self, placement: Placement, what: str, n_bytes: int = 0) -> None:
        self._placement = placement
        self._what = what
        self._room_bytes = max(n_bytes, 1)
        self._segment: Segment | None = new_segment(self._room_bytes, placement, what)
        self.n_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give up what was not finished."""
        segment, self._segment = self._segment, None
        if segment is not None:
            segment.discard()

    def write(self, data: npt.NDArray[Any]) -> None:
        """Append the elements of an array in C order."""
        segment = self._open_segment()
        if not data.nbytes:
            return
        self._make_room(segment, self.n_bytes + data.nbytes)
        write_array(segment.fd, np.ascontiguousarray(data), self.n_bytes)
        self.n_bytes += data.nbytes

    def finish(self) -> Segment:
        """Cut the segment to what was written, seal it and return it."""
        segment = self._open_segment()
        os.ftruncate(segment.fd, self.n_bytes)
        segment.n_bytes = self.n_bytes
        segment.seal()
        self._segment = None
        return segment

    def _open_segment(self) -> Segment:
        if self._segment is None:
            raise ValueError("the segment is finished, so nothing can be added to it.")
        return self._segment

    def _make_room(self, segment: Segment, n_bytes: int) -> None:
        if n_bytes <= self._room_bytes:
            return
        n_more = max(n_bytes - self._room_bytes, _GROWTH_BYTES)
        self._placement.check_growth(n_more, self._what, is_memory=segment.is_memfd)
        allocate(segment, self._room_bytes + n_more, self._placement.folder, self._what)
        self._room_bytes += n_more
