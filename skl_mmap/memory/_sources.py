"""What tells the memory of an array that was shared from that of others."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from skl_mmap.memory._mapping import find_mapping
from skl_mmap.memory._stack import Stack
from skl_mmap.memory._views import owner_of_memory


def is_mapped(array: npt.NDArray[Any] | Stack) -> bool:
    """Return whether an array, or a part of a stack, lies in a mapping of ours."""
    parts = array.parts if isinstance(array, Stack) else (array,)
    return any(find_mapping(part) is not None for part in parts)


def owner_of(array: npt.NDArray[Any] | Stack) -> Any:
    """Return the object whose death ends the use of an array's memory.

    Views of all of an array, which input validation makes anew for each call, count
    as the array. A part of one counts for itself: many parts, each for one task, must
    not pile up.
    """
    if isinstance(array, Stack):
        return array.parts[0]
    owner = owner_of_memory(array)
    return owner if owner.nbytes == array.nbytes else array


def place_of(array: npt.NDArray[Any] | Stack) -> tuple[Any, ...]:
    """Return where the elements of an array lie in memory."""
    if isinstance(array, Stack):
        return tuple(map(place_of, array.parts))
    return array.__array_interface__["data"][0], array.strides
