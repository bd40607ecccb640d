"""What tells the memory of an array that was shared from that of others."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from skl_mmap.memory._mapping import find_mapping
from skl_mmap.memory._stack import Bundle, Composite
from skl_mmap.memory._views import owner_of_memory


def is_never_stale(array: npt.NDArray[Any] | Composite) -> bool:
    """Return whether loky would pickle an array, or one of several, with each task.

    Small ones, and what lies in a mapping of ours.
    """
    if isinstance(array, Bundle):
        return True
    parts = array.parts if isinstance(array, Composite) else (array,)
    return any(find_mapping(part) is not None for part in parts)


def owner_of(array: npt.NDArray[Any] | Composite) -> Any:
    """Return the object whose death ends the use of an array's memory.

    Views of all of an array, which input validation makes anew for each call, count
    as the array. A part of one counts for itself: many parts, each for one task, must
    not pile up.
    """
    if isinstance(array, Composite):
        return array.source
    owner = owner_of_memory(array)
    return owner if owner.nbytes == array.nbytes else array


def name_of(array: npt.NDArray[Any] | Composite) -> str:
    """Return what to call an array in a report; "" if by its dtype and shape."""
    return array.name if isinstance(array, Composite) else ""


def place_of(array: npt.NDArray[Any] | Composite) -> tuple[Any, ...]:
    """Return where the elements of an array lie in memory."""
    if isinstance(array, Composite):
        return tuple(map(place_of, array.parts))
    return array.__array_interface__["data"][0], array.strides
