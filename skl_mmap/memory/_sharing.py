"""Arrays that are shared for longer than a call, and who is told of shared arrays."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from skl_mmap._linux.proc import descriptor_path
from skl_mmap.memory._adoption import find_refusal
from skl_mmap.memory._conversion import Conversion, create_converted
from skl_mmap.memory._filling import stored_order
from skl_mmap.memory._handles import (
    ArrayHandle,
    as_shared,
    describe,
    map_array,
    rebuild_array,
)
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import MEMORY_FOLDER, Segment, create_segment
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shared_array import SharedArray
from skl_mmap.memory._user_files import describe_memmap, reading_in_order
from skl_mmap.monitor import SegmentRecord, is_measuring, publish

_MEMFD_PREFIX = "/memfd:"
_DELETED = " (deleted)"


def publish_shared(
    shared: tuple[ArrayHandle, Segment],
    *,
    is_copy: bool,
    source: npt.NDArray[Any] | None = None,
    name: str = "",
) -> None:
    """Tell whoever measures of a shared array.

    Notes
    -----
    Does nothing, in no time, if nobody measures.
    """
    if not is_measuring():
        return
    handle, segment = shared
    place, path = _find_place(segment)
    itemsize = handle.dtype.itemsize
    n_bytes = itemsize
    for length in handle.shape:
        n_bytes *= length
    record = SegmentRecord(
        name or f"{handle.dtype} {handle.shape}",
        # Of a user's file there may be other parts, which nobody was given.
        n_bytes if place == "file" else segment.used_bytes(),
        place,
        is_copy,
        path,
        segment.identity,
        is_adoptable=(
            place == "memory" and source is not None and find_refusal(source) is None
        ),
    )
    publish(record)


def _find_place(segment: Segment) -> tuple[str, str]:
    """Say where a segment lies, and the path if it is a file of the user."""
    if segment.is_memfd:
        return "memory", ""
    if segment.path is not None:  # made here, under a name, for want of anything else
        return "disk", ""
    try:
        target = os.readlink(descriptor_path(segment.fd))
    except OSError:
        return "file", ""
    if target.startswith(_MEMFD_PREFIX):
        return "memory", ""
    if not target.endswith(_DELETED):
        return "file", target
    return ("memory" if target.startswith(MEMORY_FOLDER + "/") else "disk"), ""


def is_user_file(segment: Segment) -> bool:
    """Return whether a segment is a file of the user, which others may change."""
    return _find_place(segment)[0] == "file"


def share_array(
    array: npt.NDArray[Any],
    placement: Placement,
    settings: Settings,
    *,
    order: str = "K",
) -> SharedArray:
    """Return an array with the same elements in shared memory.

    Parameters
    ----------
    array : ndarray
        Without objects, and not empty.
    placement : Placement
        Where a new segment lives.
    settings : Settings
        Whether the result may be written to.
    order : {"K", "C"}
        Keep the order of the elements, or store them row by row.

    Returns
    -------
    SharedArray
        Over a new segment; or over the one, or the file of the user's, that the array
        lies in already.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.
    """
    if order == "C" and stored_order(array) == "F":
        segment = create_converted(array, Conversion(order="C"), placement)
        return map_array(segment, array.dtype, array.shape, settings)
    described = describe(array, settings) or describe_memmap(array, settings)
    if described is not None and (order == "K" or array.flags.c_contiguous):
        # The segment is kept by `described` until it is mapped.
        return as_shared(rebuild_array(described[0]))
    with reading_in_order(array):
        segment = create_segment(array, placement)
    return map_array(
        segment, array.dtype, array.shape, settings, order=stored_order(array)
    )
