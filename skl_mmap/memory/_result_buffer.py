"""Room that workers write their results to, instead of sending them.

::

    parent                                        worker
    ResultBuffer --- ResultSlot (pickled) ------> slot.write(array): into the same file
         |       <-- WrittenArray (pickled) -----   where it lies, and how it looks
         v
    finish(), then read(written): an array over the file, without a copy

Only pages that are written to cost memory, so there may be more room than needed.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._filling import write_array
from skl_mmap.memory._handles import map_array
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import Segment, SegmentHandle, new_segment, open_handle
from skl_mmap.memory._settings import Settings


@dataclass(frozen=True, slots=True)
class WrittenArray:
    """An array that a worker has written.

    Attributes
    ----------
    offset : int
        Place of its first byte in the buffer.
    dtype, shape : dtype, tuple of int
        How it looks; it is in C order.
    """

    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Place after its last byte."""
        return self.offset + self.dtype.itemsize * int(np.prod(self.shape))


@dataclass(frozen=True, slots=True)
class ResultSlot:
    """Room for one result, which a worker may write to.

    Attributes
    ----------
    segment : SegmentHandle
        The buffer's file.
    offset, n_bytes : int
        The part of it.
    """

    segment: SegmentHandle
    offset: int
    n_bytes: int

    def write(self, array: object) -> WrittenArray | None:
        """Write a result.

        Returns
        -------
        WrittenArray or None
            None if it is not a plain array, holds objects, is empty, or is larger than
            the room for it: then it has to be sent.

        Raises
        ------
        SegmentLostError
            If the owner is gone.
        """
        if type(array) is not np.ndarray or array.dtype.hasobject:
            return None
        if not 0 < array.nbytes <= self.n_bytes:
            return None
        fd = open_handle(self.segment, os.O_RDWR)
        try:
            write_array(fd, np.ascontiguousarray(array), self.offset)
        finally:
            os.close(fd)
        return WrittenArray(self.offset, array.dtype, array.shape)


class ResultBuffer:
    """Room for the results of all tasks of a call.

    Parameters
    ----------
    n_bytes : int
        Size, more than 0.
    placement : Placement
        Where it lives.
    what : str
        What is written, for error messages.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.
    """

    def __init__(self, n_bytes: int, placement: Placement, what: str) -> None:
        self._segment: Segment = new_segment(n_bytes, placement, what)

    def slot(self, offset: int, n_bytes: int) -> ResultSlot:
        """Return a part of the room, for one task."""
        return ResultSlot(self._segment.handle(), offset, n_bytes)

    def finish(self) -> None:
        """Forbid further writes; every task has ended."""
        self._segment.seal()

    def read(self, written: WrittenArray) -> npt.NDArray[Any]:
        """Return a result, over the buffer's memory; it may be written to."""
        shared = map_array(
            self._segment,
            written.dtype,
            written.shape,
            Settings(),
            offset=written.offset,
        )
        return np.asarray(shared)

    def read_joined(self, parts: Sequence[WrittenArray]) -> npt.NDArray[Any] | None:
        """Return results that follow each other as one array, without a copy.

        Returns
        -------
        ndarray of shape (n_rows, ...) or None
            None if they do not follow each other, or differ in more than their length.
        """
        first = parts[0]
        kinds = {(part.dtype, len(part.shape), part.shape[1:]) for part in parts}
        is_joined = all(
            before.stop == after.offset for before, after in itertools.pairwise(parts)
        )
        if len(kinds) > 1 or not is_joined or not first.shape:
            return None
        n_rows = sum(part.shape[0] for part in parts)
        shape = (n_rows, *first.shape[1:])
        return self.read(WrittenArray(first.offset, first.dtype, shape))
