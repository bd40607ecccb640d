"""The user's own files: a read-only ``numpy.memmap`` is mapped where it lies.

Only read-only ones. A copy-on-write memmap may hold pages that the file does not, and
a writable one is how joblib's users let workers write their output: both are left as
they are.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls, proc
from skl_mmap._linux.proc import offset_in_file
from skl_mmap.memory._handles import ArrayHandle, describe
from skl_mmap.memory._mapping import find_mapping, has_overlap
from skl_mmap.memory._segment import Segment, open_file_segment
from skl_mmap.memory._settings import Settings


def _memmap_of(array: npt.NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Return the memmap that owns an array's memory, if one does."""
    found = None
    owner: Any = array
    while isinstance(owner, np.ndarray):
        if isinstance(owner, np.memmap) and getattr(owner, "filename", None):
            found = owner
        owner = owner.base
    return found


def writable_memmap_of(array: npt.NDArray[Any]) -> np.memmap[Any, Any] | None:
    """Return the memmap behind an array through which a file can be changed."""
    memmap = _memmap_of(array)
    return memmap if memmap is not None and memmap.mode in ("r+", "w+") else None


def describe_memmap(
    array: npt.NDArray[Any], settings: Settings
) -> tuple[ArrayHandle, Segment] | None:
    """Describe an array that lies in a read-only file mapping made by numpy.

    Returns
    -------
    (ArrayHandle, Segment) or None
        None if it does not, or if another file has this name by now.

    Notes
    -----
    The file stays the user's: changing it while tasks run changes what they read.
    """
    memmap = _memmap_of(array)
    if memmap is None or memmap.mode != "r" or has_overlap(array):
        return None
    if not proc.can_remap():
        return None
    segment = open_file_segment(str(memmap.filename))
    if segment is None:
        return None
    address = array.__array_interface__["data"][0]
    # The kernel's table is believed rather than the name of the file: the name may
    # belong to another file by now.
    file_offset = offset_in_file(address, segment.identity)
    if file_offset is None:
        return None
    low, high = _extent(array)
    if file_offset + low < 0 or file_offset + high > segment.n_bytes:
        return None
    handle = ArrayHandle(
        segment.handle(),
        ((file_offset + low, high - low),),
        -low,
        array.dtype,
        array.shape,
        array.strides,
        settings,
    )
    return handle, segment


def _extent(array: npt.NDArray[Any]) -> tuple[int, int]:
    """Bytes that the elements span, relative to the first element."""
    low = high = 0
    for length, stride in zip(array.shape, array.strides, strict=True):
        low += min((length - 1) * stride, 0)
        high += max((length - 1) * stride, 0)
    return low, high + array.itemsize


@contextlib.contextmanager
def reading_in_order(array: npt.NDArray[Any]) -> Iterator[None]:
    """Read an array from front to back inside of a ``with`` block.

    Nothing is done for one that does not lie in a file on disk, or not in C order.

    Notes
    -----
    In one pass over a file, the kernel reads further ahead when it is told (a quarter
    faster here), and gives pages up sooner that were read. What tasks do with their
    folds is not known, so these are left to its own guess: advice for random access
    made each pass through the rows 20 times slower, and advice for a pass made random
    access three times slower.
    """
    if not array.flags.c_contiguous or not array.nbytes or not _is_of_file(array):
        yield
        return
    start = array.__array_interface__["data"][0]
    low = start // proc.PAGE_BYTES * proc.PAGE_BYTES
    n_bytes = start + array.nbytes - low
    calls.advise(low, n_bytes, calls.MADV_SEQUENTIAL)
    try:
        yield
    finally:
        calls.advise(low, n_bytes, calls.MADV_NORMAL)


def _is_of_file(array: npt.NDArray[Any]) -> bool:
    if not proc.can_remap():
        return False
    found = find_mapping(array)
    if found is not None:
        return not found[0].segment.is_memfd
    owner: Any = array
    while isinstance(owner, np.ndarray):
        owner = owner.base
    return isinstance(owner, mmap.mmap)


def is_shared_already(array: Any) -> bool:
    """Return whether an array is in shared memory, or in a file of the user."""
    if not isinstance(array, np.ndarray):
        return False
    described = describe(array, min_bytes=0) or describe_memmap(array, Settings())
    return described is not None
