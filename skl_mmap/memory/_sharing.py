"""An array in shared memory, made from any other."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from skl_mmap.memory._conversion import Conversion, create_converted
from skl_mmap.memory._filling import stored_order
from skl_mmap.memory._handles import as_shared, describe, map_array, rebuild_array
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._plan import Settings
from skl_mmap.memory._reading import reading_in_order
from skl_mmap.memory._segment import create_segment
from skl_mmap.memory._shared_array import SharedArray
from skl_mmap.memory._user_files import describe_memmap


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
