"""The store: which arrays are shared already, and for how long.

A segment lives while

* the array that it was made from is alive, and the store is; or
* a task in flight or a result uses it: whoever sends a handle keeps the segment too.

Whether an array *is* shared already is decided by its bytes. Users change arrays
between two calls, and stale data is the worst thing that could be handed out, so the
identity of the array alone is believed only within one call.
"""

from __future__ import annotations

import errno
import threading
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory import _libc
from skl_mmap.memory._handles import ArrayHandle, describe
from skl_mmap.memory._mapping import Settings
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import (
    Segment,
    create_range_segment,
    create_segment,
    iterate_stored,
)
from skl_mmap.memory._user_files import describe_memmap

__all__ = ["Store"]

# Read and compared while it is in the cache of the processor.
_COMPARE_CHUNK_BYTES = 256 << 10
# Sharing this much takes longer than giving freed memory back (up to 10 ms).
_TRIM_BYTES = 32 << 20


class _Entry:
    """One array that is shared, and the segment that holds its bytes."""

    def __init__(self, array: npt.NDArray[Any], segment: Segment, epoch: int) -> None:
        self.layout = _layout_of(array)
        self.segment_ref = weakref.ref(segment)
        # Kept as long as the source lives; see adopt().
        self.segment: Segment | None = None
        self.source: weakref.ref[Any] | None = None
        self.place: tuple[Any, ...] = ()
        self.epoch = epoch
        self.adopt(array, segment, epoch)

    def adopt(self, array: npt.NDArray[Any], segment: Segment, epoch: int) -> None:
        """Tie the segment's life to this array's memory."""
        self.place = _place_of(array)
        self.epoch = epoch
        self.segment = segment
        # The callback runs at any moment, so it takes no lock and only lets go.
        entry = weakref.ref(self)

        def let_go(_: object) -> None:
            if (owner := entry()) is not None and owner.source is source:
                owner.segment = None

        source = weakref.ref(_owner_of(array), let_go)
        self.source = source

    def is_of(self, array: npt.NDArray[Any]) -> bool:
        """Whether this was made from the same elements in memory."""
        return (
            self.source is not None
            and self.source() is _owner_of(array)
            and self.place == _place_of(array)
        )


class Store:
    """What has been shared, so that it is not shared twice.

    Parameters
    ----------
    placement : Placement
        Where new segments live.
    settings : Settings
        How their arrays are handed to tasks.

    Notes
    -----
    Safe to be used by several threads.
    """

    def __init__(self, placement: Placement, settings: Settings) -> None:
        self.placement = placement
        self.settings = settings
        self._entries: list[_Entry] = []
        self._identity: tuple[ArrayHandle, Segment] | None = None
        self._epoch = 0
        self._lock = threading.Lock()

    def next_call(self) -> None:
        """Believe nothing any more: the caller may have changed its arrays."""
        with self._lock:
            self._epoch += 1

    def share(self, array: npt.NDArray[Any]) -> tuple[ArrayHandle, Segment] | None:
        """Share an array, or find out that it is shared already.

        Parameters
        ----------
        array : ndarray
            Without objects, and not empty.

        Returns
        -------
        (ArrayHandle, Segment) or None
            The segment must be kept until the handle was rebuilt. None if the array
            has to be sent by value, because this process may not open more files.

        Raises
        ------
        NotEnoughMemoryError, NotEnoughDiskError
            If there is no room.

        Notes
        -----
        O(n) in bytes: one copy at first sight, one comparison (about 10 GB/s) when
        the array is met again in another call, and O(1) within a call.
        """
        described = describe(array, self.settings) or describe_memmap(
            array, self.settings
        )
        if described is not None:
            return described
        with self._lock:
            segment = self._find(array) or self._add(array)
        return None if segment is None else (self._handle(array, segment), segment)

    def identity(self, n_rows: int) -> tuple[ArrayHandle, Segment] | None:
        """Share the array ``0, 1, ..., n_rows - 1`` or a longer one.

        Index arrays are rebuilt from it in the workers; see `IndexHandle`.
        """
        with self._lock:
            if self._identity is None or self._identity[0].shape[0] < n_rows:
                self._identity = None  # let go before making a longer one
                segment = self._unless_out_of_files(
                    create_range_segment, n_rows, self.placement
                )
                if segment is None:
                    return None
                like = np.broadcast_to(np.intp(0), (n_rows,))
                self._identity = self._handle(like, segment), segment
            return self._identity

    def close(self) -> None:
        """Let go of everything; tasks in flight and results keep what they use."""
        with self._lock:
            self._entries.clear()
            self._identity = None

    def _find(self, array: npt.NDArray[Any]) -> Segment | None:
        layout = _layout_of(array)
        alive = []
        found = None
        for entry in self._entries:
            segment = entry.segment_ref()
            if segment is None:
                continue
            alive.append(entry)
            if found is not None or entry.layout != layout:
                continue
            is_of_array = entry.is_of(array)
            if is_of_array and entry.epoch == self._epoch:
                found = segment
            elif _holds(segment, array):
                entry.adopt(array, segment, self._epoch)
                found = segment
            elif is_of_array:
                entry.segment = None  # an old version: only tasks may still need it
        self._entries = alive
        return found

    def _add(self, array: npt.NDArray[Any]) -> Segment | None:
        segment = self._unless_out_of_files(create_segment, array, self.placement)
        if array.nbytes >= _TRIM_BYTES:
            _libc.trim_heap()
        if segment is not None:
            self._entries.append(_Entry(array, segment, self._epoch))
        return segment

    @staticmethod
    def _unless_out_of_files(
        create: Callable[..., Segment], *arguments: Any
    ) -> Segment | None:
        try:
            return create(*arguments)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                return None
            raise

    def _handle(self, array: npt.NDArray[Any], segment: Segment) -> ArrayHandle:
        return ArrayHandle(
            segment.handle(),
            ((0, segment.n_bytes),),
            0,
            array.dtype,
            array.shape,
            _stored_strides(array),
            self.settings,
        )


def _owner_of(array: npt.NDArray[Any]) -> Any:
    """Return the object whose death ends the use of an array's memory.

    Views of all of an array, which input validation makes anew for each call, count
    as the array. A part of one counts for itself: many parts, each for one task, must
    not pile up.
    """
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner if owner.nbytes == array.nbytes else array


def _stored_strides(array: npt.NDArray[Any]) -> tuple[int, ...]:
    """Strides of an array in its segment: Fortran order is kept, gaps are not.

    The same that pickling does, so that workers see what they see with loky.
    """
    order = "F" if array.flags.f_contiguous and not array.flags.c_contiguous else "C"
    shape = array.shape if order == "C" else array.shape[::-1]
    strides = []
    stride = array.itemsize
    for length in reversed(shape):
        strides.append(stride)
        stride *= length
    return tuple(reversed(strides)) if order == "C" else tuple(strides)


def _place_of(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    return array.__array_interface__["data"][0], array.strides


def _layout_of(array: npt.NDArray[Any]) -> tuple[Any, ...]:
    return array.shape, _stored_strides(array), array.dtype


def _holds(segment: Segment, array: npt.NDArray[Any]) -> bool:
    """Whether a segment holds exactly the bytes of an array."""
    buffer = np.empty(min(_COMPARE_CHUNK_BYTES, segment.n_bytes), dtype=np.uint8)
    offset = 0
    for address, n_bytes in iterate_stored(array, _COMPARE_CHUNK_BYTES):
        segment.read_into(buffer.ctypes.data, n_bytes, offset)
        if not _libc.compare(buffer.ctypes.data, address, n_bytes):
            return False
        offset += n_bytes
    return True
