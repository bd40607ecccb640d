"""Telling whoever measures what tasks are given in shared memory."""

from __future__ import annotations

import os
from typing import Any

import numpy.typing as npt

from skl_mmap._linux.proc import descriptor_path
from skl_mmap.memory._adoption import find_refusal
from skl_mmap.memory._handles import ArrayHandle
from skl_mmap.memory._segment import Segment
from skl_mmap.monitor._records import SegmentRecord, is_measuring, publish

_MEMFD_PREFIX = "/memfd:"
_DELETED = " (deleted)"


def publish_shared(
    shared: tuple[ArrayHandle, Segment],
    *,
    is_copy: bool,
    source: npt.NDArray[Any] | None = None,
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
        f"{handle.dtype} {handle.shape}",
        # Of a user's file there may be other parts, which nobody was given.
        n_bytes if place == "file" else segment.n_bytes,
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
    return ("disk", "") if target.endswith(_DELETED) else ("file", target)
