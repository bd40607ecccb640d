"""Telling the kernel how a file is going to be read.

Only where that is known: in one pass over a file, from front to back, the kernel reads
further ahead (a quarter faster here), and gives pages up sooner that were read. What
tasks do with their folds is not known, so these are left to the kernel's own guess:
advice for random access made each pass through the rows 20 times slower, and advice for
a pass made random access three times slower.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls, proc
from skl_mmap.memory._mapping import find_mapping


@contextlib.contextmanager
def reading_in_order(array: npt.NDArray[Any]) -> Iterator[None]:
    """Read an array from front to back inside of a ``with`` block.

    Parameters
    ----------
    array : ndarray
        Any array. Nothing is done for one that does not lie in a file on disk, or not
        in C order.
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
