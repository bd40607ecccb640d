"""Many small arrays of a task that lie in one segment: they are mapped together.

::

    segment     |..a..|.b.|......|...c...|...........
                |<-------- window ------>|
    task        a, b, c: views of one mapping, if no two of them have a byte in common

A mapping takes some 50 us. Arrays of a task that overlap are in different windows, or
have mappings of their own: what is written to one may not be seen in the other. A batch
of tasks, each with a list of the same arrays, has a window for each list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._byte_ranges import ByteRanges
from skl_mmap.memory._handles import ArrayHandle, rebuild_plain, rebuild_view

# So few arrays of a segment have mappings of their own, which are no larger than they.
_N_ALONE = 3
# There is one more window of the same bytes if others were of use to so many arrays.
_MIN_ARRAYS = 8
_MAX_WINDOWS = 16
_WINDOW_BYTES = 32 << 20

_Reduced = tuple[Callable[..., npt.NDArray[Any]], tuple[Any, ...]]


class _Window:
    """A range of a segment; pickled as the bytes in it, once for each task."""

    def __init__(self, handle: ArrayHandle) -> None:
        self._handle = handle
        self._used = ByteRanges()
        self.n_arrays = 0

    def take(self, start: int, stop: int) -> bool:
        """Take bytes for one array, if no other one has any of them."""
        if self._used.missing(start, stop) != [(start, stop)]:
            return False
        self._used.add(start, stop)
        self.n_arrays += 1
        return True

    def __reduce__(self) -> _Reduced:
        return rebuild_plain, (self._handle,)


class Windows:
    """The windows of one task."""

    def __init__(self) -> None:
        self._windows: dict[tuple[int, int, str, int], list[_Window]] = {}
        self._n_arrays: Counter[tuple[int, int]] = Counter()

    def reduce(self, handle: ArrayHandle) -> _Reduced:
        """Return how to pickle an array that would have been sent by value."""
        alone = rebuild_view, (handle,)
        identity = handle.segment.device, handle.segment.inode
        self._n_arrays[identity] += 1
        if self._n_arrays[identity] <= _N_ALONE or len(handle.pieces) > 1:
            return alone
        ((start, n_bytes),) = handle.pieces
        number = start // _WINDOW_BYTES
        place = start - number * _WINDOW_BYTES
        if place + n_bytes > _WINDOW_BYTES:
            return alone
        key = (*identity, handle.settings.mmap_mode, number)
        windows = self._windows.setdefault(key, [])
        window = next((w for w in windows if w.take(place, place + n_bytes)), None)
        if window is None:
            has_enough = windows and windows[-1].n_arrays < _MIN_ARRAYS
            if has_enough or len(windows) == _MAX_WINDOWS:
                return alone
            window = _Window(_handle_of_window(handle, number))
            window.take(place, place + n_bytes)
            windows.append(window)
        return rebuild_in_window, (
            window,
            place + handle.offset,
            handle.dtype,
            handle.shape,
            handle.strides,
            handle.settings.is_writable,
        )


def _handle_of_window(handle: ArrayHandle, number: int) -> ArrayHandle:
    start = number * _WINDOW_BYTES
    n_bytes = min(_WINDOW_BYTES, handle.segment.n_bytes - start)
    return ArrayHandle(
        handle.segment,
        ((start, n_bytes),),
        0,
        np.dtype(np.uint8),
        (n_bytes,),
        (1,),
        handle.settings,
    )


def rebuild_in_window(
    memory: npt.NDArray[Any],
    offset: int,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    strides: tuple[int, ...],
    is_writable: bool,
) -> npt.NDArray[Any]:
    """Rebuild an array over the memory of a window; as `rebuild_view` does."""
    view: npt.NDArray[Any] = np.ndarray(shape, dtype, memory, offset, strides)
    is_refused = is_writable and not view.flags.writeable
    return view.copy(order="A") if is_refused else view
