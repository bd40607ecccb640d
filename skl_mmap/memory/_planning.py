"""Planning: what a worker would map and copy, without a segment and without a worker.

::

    array --> Planner.share() --> ArrayHandle --> Planner.rebuild() --> SharedArray
              (as a store does)                    over the array's own memory, in
                                                   a mapping that is only pretended

Where that mapping is found, rows are selected by the same code as ever, up to the
moment when pages would be mapped; see `planning_context`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import can_remap
from skl_mmap.memory._accounting import Counters
from skl_mmap.memory._handles import ArrayHandle, plan_array
from skl_mmap.memory._mapping import Mapping, Piece, Settings
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._planning_context import planning
from skl_mmap.memory._row_selection import plan_rows
from skl_mmap.memory._runs import Runs
from skl_mmap.memory._segment import Segment, SegmentHandle
from skl_mmap.memory._shared_array import SharedArray
from skl_mmap.memory._store import Store

__all__ = ["PlannedMapping", "Planner"]


class PlannedMapping(Mapping):
    """What a mapping of a worker would be; over memory that is there, or over none.

    It is not registered: only a thread that plans finds it.
    """

    is_planned = True

    def __init__(
        self, address: int, pieces: Sequence[Piece], settings: Settings
    ) -> None:
        self._region = (0, 0)
        self.address = address
        self.n_bytes = pieces[-1].stop
        self.pieces = pieces
        self.mapped = [(0, self.n_bytes)]
        self.settings = settings
        self.is_writable = settings.is_writable

    def is_unmodified(self, start: int, stop: int) -> bool:
        """Whether the bytes are those of the segment: the worker has just mapped it."""
        return True


class _PlannedSegment:
    """A segment that is not made."""

    def __init__(self, n_bytes: int) -> None:
        self.n_bytes = n_bytes

    def handle(self) -> SegmentHandle:
        """Return a reference that nobody can open."""
        return SegmentHandle(os.getpid(), -1, 0, 0, self.n_bytes)


class Planner(Store):
    """A store that shares nothing, and says how arrays would be shared.

    Parameters
    ----------
    settings : Settings
        How arrays would be handed to tasks.

    Notes
    -----
    It keeps the arrays that it has been given alive. O(1) in time and memory for each.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(Placement.from_parameter("memory"), settings)
        self.counters = Counters()
        self._mappings: list[PlannedMapping] = []

    def _find(self, *_: Any) -> Segment | None:
        return None

    def _add(self, array: npt.NDArray[Any], conversion: Any = None) -> Segment | None:
        dtype = array.dtype if conversion is None else conversion.dtype_of(array)
        return cast("Segment", _PlannedSegment(array.size * dtype.itemsize))

    def rebuild(self, array: npt.NDArray[Any], handle: ArrayHandle) -> npt.NDArray[Any]:
        """Rebuild an array as a worker would, from its own memory.

        Parameters
        ----------
        array : ndarray
            What `handle` was made for.
        handle : ArrayHandle
            What `share` has returned.

        Returns
        -------
        SharedArray
            Where the array would be stored in another order or dtype, its elements
            are not defined, and it lies in memory that has never been touched.
        """
        if not can_remap():
            return array
        plan = plan_array(handle)
        planned = _with_layout(array, handle)
        address = planned.__array_interface__["data"][0] - handle.offset
        mapping = PlannedMapping(address, plan.pieces, handle.settings)
        mapping.mapped = plan.spans
        self._mappings.append(mapping)
        return planned

    def rebuild_index(
        self, array: npt.NDArray[np.intp], runs: Runs
    ) -> npt.NDArray[np.intp]:
        """Rebuild an index array as a worker would; see `IndexHandle`."""
        n_bytes = (int(runs[:, 1].max()) + 1) * array.itemsize
        identity = PlannedMapping(0, [Piece(0, n_bytes, 0)], self.settings)
        plan = plan_rows(identity, 0, array.itemsize, runs, array.itemsize)
        if plan is None or not can_remap():
            return np.asarray(array)
        address = array.__array_interface__["data"][0]
        mapping = PlannedMapping(address, plan.pieces, self.settings)
        mapping.mapped = plan.spans
        self._mappings.append(mapping)
        return np.asarray(array)

    @contextlib.contextmanager
    def selecting(self) -> Iterator[Counters]:
        """Let this thread select rows of rebuilt arrays; their costs are counted anew.

        What comes out of it looks like the rows, but is not.
        """
        self.counters.take()
        with planning(self._mappings, self.counters):
            yield self.counters

    @property
    def has_arrays(self) -> bool:
        """Whether any array would be shared."""
        return bool(self._mappings)


def _with_layout(array: npt.NDArray[Any], handle: ArrayHandle) -> npt.NDArray[Any]:
    if array.dtype == handle.dtype and array.strides == handle.strides:
        return np.asarray(array).view(SharedArray)
    if array.dtype == handle.dtype and array.ndim == 1:
        # Not too large, and the rows of a sparse matrix are looked up in it.
        return np.ascontiguousarray(array).view(SharedArray)
    n_bytes = math.prod(handle.shape) * handle.dtype.itemsize
    memory = np.empty(n_bytes, dtype=np.uint8)
    return np.ndarray.__new__(
        SharedArray, handle.shape, handle.dtype, memory, 0, handle.strides
    )
