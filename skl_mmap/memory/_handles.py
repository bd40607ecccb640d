"""References to shared arrays: what is sent instead of their bytes.

::

    sender: array --> describe() --> ArrayHandle --(pickled)--> rebuild() --> receiver

The same handle serves both directions. A task's arrays refer to segments of the
parent; an array in a result that lies in a mapping refers to the very same segment.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import can_remap
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._mapping import (
    Mapping,
    as_array,
    find_mapping,
    has_overlap,
    map_plan,
)
from skl_mmap.memory._plan import Piece, Plan, pieces_between, plan_pieces
from skl_mmap.memory._runs import Runs, find_runs, index_of_runs
from skl_mmap.memory._segment import Segment, SegmentHandle, attach_segment
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shared_array import SharedArray, join_rows

# A view that leaves out more than half of the bytes it spans is sent by value:
# keeping all of them alive would not be worth it.
_MIN_DENSITY = 0.5
# More runs than this are not worth a handle: each costs a few dozen bytes and one
# mapping, and the rebuilt array would mostly be copied.
_MAX_INDEX_RUNS = 256
# Other numbers that go up by one, as years, seeds or identifiers do: the row numbers up
# to the largest of them would be shared, and need far more memory than they do.
_MAX_SPREAD, _MANY_ROWS = 64, 1_000_000


@dataclass(frozen=True, slots=True)
class ArrayHandle:
    """Where the bytes of an array lie, and how it looks.

    Attributes
    ----------
    segment : SegmentHandle
        The file.
    pieces : tuple of (int, int)
        File offset and length of the byte ranges that follow each other.
    offset : int
        Place of the array's first element in these bytes.
    dtype : dtype
        The object itself: a structured dtype is more than its string.
    shape, strides : tuple of int
        As numpy's.
    settings : Settings
        Copy-on-write or read-only.
    """

    segment: SegmentHandle
    pieces: tuple[tuple[int, int], ...]
    offset: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    settings: Settings


def describe(
    array: npt.NDArray[Any],
    settings: Settings | None = None,
    *,
    min_bytes: int | None = None,
) -> tuple[ArrayHandle, Segment] | None:
    """Describe an array that lies in a mapping of this process.

    Parameters
    ----------
    array : ndarray
        Any array.
    settings : Settings, optional
        For the receiver; by default those of the mapping.
    min_bytes : int, optional
        Smaller arrays are not described; by default as the settings of the mapping say.

    Returns
    -------
    (ArrayHandle, Segment) or None
        None if the array is not shared, or was written to since: then its bytes have
        to be sent. The segment must be kept alive until the handle was rebuilt.
    """
    found = find_mapping(array)
    if found is None:
        return None
    mapping, start, stop = found
    if array.nbytes < _MIN_DENSITY * (stop - start) or has_overlap(array):
        return None
    if array.nbytes < (mapping.settings.min_bytes if min_bytes is None else min_bytes):
        return None
    if not mapping.is_unmodified(start, stop):
        return None
    pieces = tuple(
        (piece.file_offset, piece.stop - piece.start)
        for piece in _merged(mapping, start, stop)
    )
    address = array.__array_interface__["data"][0]
    handle = ArrayHandle(
        mapping.segment.handle(),
        pieces,
        address - mapping.address - start,
        array.dtype,
        array.shape,
        array.strides,
        # Shifted pages do not outlive the call, as results do.
        settings or mapping.settings._replace(shifted=None),
    )
    return handle, mapping.segment


def _merged(mapping: Mapping, start: int, stop: int) -> list[Piece]:
    """Origins of a byte range, with those that follow each other in the file joined."""
    merged: list[Piece] = []
    for piece in pieces_between(mapping.pieces, start, stop):
        if merged:
            last = merged[-1]
            if last.file_offset + last.stop - last.start == piece.file_offset:
                merged[-1] = Piece(last.start, piece.stop, last.file_offset)
                continue
        merged.append(piece)
    return merged


def rebuild_array(handle: ArrayHandle) -> npt.NDArray[Any]:
    """Rebuild an array from its handle, in this process.

    Returns
    -------
    SharedArray or ndarray
        A new mapping for each call: what one task writes, no other task sees. Where
        pages cannot be mapped freely, a plain ``numpy.memmap`` without joined views.

    Raises
    ------
    SegmentLostError
        If the segment cannot be opened.
    """
    segment = attach_segment(handle.segment)
    if not can_remap() or handle.segment.path is not None:
        return _rebuild_portable(handle)
    plan = plan_array(handle)
    mapping = map_plan(segment, plan, handle.settings)
    if mapping is None:  # the kernel has no room for more mappings
        return _read(segment, handle, plan.pieces)
    counters.add_attached(mapping.mapped_bytes)
    return as_array(
        mapping,
        handle.dtype,
        handle.shape,
        handle.strides,
        handle.offset,
        subtype=SharedArray,
    )


def plan_array(handle: ArrayHandle) -> Plan:
    """Find out which pages of an array will be mapped when it is rebuilt."""
    pieces = []
    place = 0
    for file_offset, length in handle.pieces:
        pieces.append(Piece(place, place + length, file_offset))
        place += length
    # One piece is mapped as it lies, even where the sender's array was unaligned.
    alignment = handle.dtype.alignment if len(pieces) > 1 else 1
    can_shift = handle.settings.shifted is not None
    return plan_pieces(pieces, alignment=alignment, can_shift=can_shift)


def map_array(
    segment: Segment,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    settings: Settings,
    *,
    offset: int = 0,
    order: str = "C",
) -> SharedArray:
    """Map an array that lies in a segment of this process.

    Parameters
    ----------
    segment : Segment
        Where its bytes are.
    dtype, shape : dtype, tuple of int
        How it looks; it must not be empty.
    settings : Settings
        Copy-on-write or read-only.
    offset : int
        Place of its first byte in the segment.
    order : {"C", "F"}
        How its elements follow each other.

    Returns
    -------
    SharedArray
        Keeps the segment alive.
    """
    n_bytes = dtype.itemsize * math.prod(shape)
    strides = contiguous_strides(shape, dtype.itemsize, order)
    handle = ArrayHandle(
        segment.handle(), ((offset, n_bytes),), 0, dtype, shape, strides, settings
    )
    return as_shared(rebuild_array(handle))


def as_shared(array: npt.NDArray[Any]) -> SharedArray:
    """Return a rebuilt array as a `SharedArray`, which it is where pages are mapped."""
    # A view of one would have it as its base, so that closing would free nothing.
    return array if isinstance(array, SharedArray) else array.view(SharedArray)


def contiguous_strides(
    shape: tuple[int, ...], item_bytes: int, order: str
) -> tuple[int, ...]:
    """Strides of an array without gaps, in C or in Fortran order."""
    strides = []
    stride = item_bytes
    for length in shape if order == "F" else reversed(shape):
        strides.append(stride)
        stride *= length
    return tuple(strides if order == "F" else reversed(strides))


def rebuild_plain(handle: ArrayHandle) -> npt.NDArray[Any]:
    """Rebuild an array of a result: as a plain ndarray, which is what tasks return."""
    return rebuild_array(handle).view(np.ndarray)


def rebuild_view(handle: ArrayHandle) -> npt.NDArray[Any]:
    """Rebuild an array that would have been sent by value: as it had been then.

    A plain ndarray, and a copy if it should be writable and the kernel refuses that.
    """
    view = rebuild_plain(handle)
    is_refused = handle.settings.is_writable and not view.flags.writeable
    return view.copy(order="A") if is_refused else view


def _read(
    segment: Segment, handle: ArrayHandle, pieces: Sequence[Piece]
) -> npt.NDArray[Any]:
    data = np.empty(pieces[-1].stop, dtype=np.uint8)
    for piece in pieces:
        address = data.ctypes.data + piece.start
        segment.read_into(address, piece.stop - piece.start, piece.file_offset)
    return np.ndarray(handle.shape, handle.dtype, data, handle.offset, handle.strides)


def _rebuild_portable(handle: ArrayHandle) -> npt.NDArray[Any]:
    ((file_offset, length),) = handle.pieces
    assert handle.segment.path is not None
    data = np.memmap(
        handle.segment.path,
        dtype=np.uint8,
        mode="c" if handle.settings.is_writable else "r",
        offset=file_offset,
        shape=(length,),
    )
    return np.ndarray.__new__(
        np.memmap, handle.shape, handle.dtype, data, handle.offset, handle.strides
    )


@dataclass(frozen=True, slots=True)
class IndexHandle:
    """An index array made of few runs.

    Attributes
    ----------
    runs : tuple of (int, int)
        Its runs.
    identity : ArrayHandle or None
        The shared array ``0, 1, 2, ...``; None where nothing is shared.
    """

    runs: tuple[tuple[int, int], ...]
    identity: ArrayHandle | None


def index_runs(array: npt.NDArray[Any], *, min_bytes: int) -> Runs | None:
    """Return the runs of an index array, if it is one and they are few.

    Only arrays of numpy's own index type, so that the rebuilt one is the same.
    """
    if (
        array.dtype != np.intp
        or array.ndim != 1
        or array.nbytes < min_bytes
        or not array.flags.c_contiguous
        or int(array[0]) < 0
        or int(array[-1]) < 0
    ):
        return None
    if len(array) > 1 and int(array[1]) != int(array[0]) + 1:
        return None  # a cheap first look: most arrays of integers are not an index
    if int(array.min()) < 0:
        return None
    n_rows = int(array.max()) + 1
    if n_rows > max(_MANY_ROWS, _MAX_SPREAD * len(array)):
        return None
    return find_runs(array, n_rows, max_runs=_MAX_INDEX_RUNS)


def rebuild_index(handle: IndexHandle) -> npt.NDArray[np.intp]:
    """Rebuild an index array: a joined view of the identity where that pays."""
    runs = np.array(handle.runs, dtype=np.intp).reshape(-1, 2)
    if handle.identity is not None:
        identity = rebuild_array(handle.identity)
        joined = join_rows(identity, runs) if can_remap() else None
        if joined is not None:
            return joined
    return index_of_runs(runs)
