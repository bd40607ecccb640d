"""Small arrays of one input: they are shared together if the input is large enough.

::

    frame of 60 columns,      bundle, one segment         task
    each of its own array     |..a..|..b..|..c..|  --->   windows of it, a view of them
                              pages are not shared        for each array

Each for itself would be sent by value: a mapping takes longer than copying some hundred
KiB, and a segment takes an open file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory import (
    ArrayHandle,
    Conversion,
    Segment,
    Store,
    bundle_of,
    contiguous_strides,
    is_shared_already,
    stored_order,
    writable_memmap_of,
)

# What is less in all is sent sooner than it is mapped.
_MIN_TOGETHER_BYTES = 64 << 10
# The bytes of a bundle, as they are.
_AS_BYTES = Conversion(order="F")

# Shares something, and keeps its segment until the task has its result.
_Keep = Callable[..., ArrayHandle | None]


class SmallArrays:
    """The small arrays of the inputs of one task.

    Parameters
    ----------
    store : Store
        Where they are shared.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        # By id, and kept alive by it.
        self._handles: dict[int, tuple[npt.NDArray[Any], ArrayHandle]] = {}

    def add(
        self, arrays: Sequence[npt.NDArray[Any]], min_bytes: int, keep: _Keep
    ) -> None:
        """Share those arrays of an input that have less than `min_bytes`.

        `keep` calls a function that returns a handle and its segment, or None.
        """
        small = [a for a in arrays if 0 < a.nbytes < min_bytes and _is_private(a)]
        if sum(array.nbytes for array in small) < _MIN_TOGETHER_BYTES:
            return
        bundle = bundle_of(small)
        whole = keep(self._share, bundle)
        if whole is None:
            return
        for array, start in zip(small, bundle.starts, strict=True):
            self._handles[id(array)] = array, _part(whole, array, start)

    def take(self, array: npt.NDArray[Any]) -> ArrayHandle | None:
        """Return the handle of a small array, once: nothing is mapped twice."""
        _, handle = self._handles.pop(id(array), (None, None))
        return handle

    def _share(self, bundle: Any) -> tuple[ArrayHandle, Segment] | None:
        return self._store.share(bundle, conversion=_AS_BYTES)


def _is_private(array: npt.NDArray[Any]) -> bool:
    """Return whether an array is neither shared nor lies in a file of the user."""
    is_plain = type(array) is np.ndarray and not array.dtype.hasobject
    return (
        is_plain and not is_shared_already(array) and writable_memmap_of(array) is None
    )


def _part(whole: ArrayHandle, array: npt.NDArray[Any], start: int) -> ArrayHandle:
    """Return the handle of an array that begins at a place of a bundle."""
    ((first, _),) = whole.pieces
    order = stored_order(array)
    return dataclasses.replace(
        whole,
        pieces=((first + start, array.nbytes),),
        dtype=array.dtype,
        shape=array.shape,
        strides=contiguous_strides(array.shape, array.itemsize, order),
    )
