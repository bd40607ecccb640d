"""X as a worker would have it, without a worker and without sharing anything.

::

    X --pickled as in a task--> handles of its arrays --> arrays of the same layout over
                                (of segments that         the memory of X, and where
                                 are not made)            their bytes would come from

Containers then plan the selection of rows of it as they do in a worker; nothing is
carried out. Nobody may look at its elements: those of an array that would be stored in
another order are not defined.
"""

from __future__ import annotations

import io
import math
import pickle
from dataclasses import replace
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from skl_mmap.backend import Options, RowIndex, TaskPickler, compact_item
from skl_mmap.containers import container_of
from skl_mmap.memory import (
    ArrayHandle,
    Conversion,
    Cost,
    Geometry,
    Origin,
    Piece,
    Reason,
    Runs,
    Segment,
    SegmentHandle,
    Settings,
    SharedArray,
    Store,
    byte_bounds,
    can_remap,
    can_shift_pages,
    count_selected,
    describe,
    describe_memmap,
    describe_view,
    index_of_runs,
    is_constant,
    plan_array,
    plan_runs,
    planned_file,
    rebuild_array,
    stored_layout,
)


class Rehearsal:
    """Plan what tasks would do with the rows of X.

    Attributes
    ----------
    X : array-like
        What a worker would have, over the memory of the given one.

    Notes
    -----
    O(1) memory in the size of X, if it is made of arrays; what is not (lists) is not
    looked at.
    """

    def __init__(self, X: Any, y: Any, options: Options) -> None:
        self._options = options
        self._given = X
        self._y = y
        # Arrays are kept: only as long as they live, nothing else has their addresses.
        self._origins: list[tuple[npt.NDArray[Any], Origin]] = []
        self.X = X
        if hasattr(X, "shape") and options.min_bytes is not None:
            self.X = self._rebuild(X)

    def _rebuild(self, X: Any) -> Any:
        file = io.BytesIO()
        pickler = _RehearsingPickler(file, self, self._options)
        pickler.dump(X)
        file.seek(0)
        return _RehearsingUnpickler(file, pickler.rebuilt).load()

    @property
    def is_shared(self) -> bool:
        """Whether any array of X would be shared."""
        return bool(self._origins)

    @property
    def total_bytes(self) -> int:
        """Bytes of X; if it is not known, those of the references to its rows."""
        container = container_of(self.X)
        if container is not None:
            return container.n_bytes(self.X)
        n_bytes = getattr(self.X, "nbytes", None)
        if isinstance(n_bytes, int):
            return n_bytes
        return self.n_rows * np.dtype(object).itemsize

    @property
    def n_rows(self) -> int:
        """Rows of X."""
        return int(self.X.shape[0]) if hasattr(self.X, "shape") else len(self.X)

    def geometry_of(self, array: npt.NDArray[Any]) -> Geometry:
        """Return how an array of `X` would lie in a worker."""
        low, high = byte_bounds(array)
        for known, origin in self._origins:
            start, stop = byte_bounds(known)
            if start <= low and high <= stop:
                place = origin.start + low - start
                return Geometry.of(array, origin._replace(start=place))
        return Geometry.of(array, None)

    def order(self, train: Any, test: Any) -> tuple[Any, Any]:
        """Return train and test indices in the order in which a worker gets them."""
        arguments = {"X": self._given, "y": self._y, "train": train, "test": test}
        _, _, ordered = compact_item((_task, (), arguments), self._options)
        return _as_index(ordered["train"]), _as_index(ordered["test"])

    def plan(self, rows: Any) -> Cost:
        """Say what selecting rows would map and copy."""
        container = container_of(self.X)
        index = np.asarray(rows)
        if container is None:
            n_bytes = self.total_bytes * count_selected(index) // max(self.n_rows, 1)
            return Cost.of_copy(Reason.NOT_SHARED, n_bytes)
        return container.plan(self.X, index, self.geometry_of)

    def rebuild(self, array: npt.NDArray[Any], handle: ArrayHandle) -> npt.NDArray[Any]:
        """Return what a worker would make of a handle, over the array's own memory."""
        plan = plan_array(handle)
        rebuilt = _with_layout(array, handle)
        # The lowest address of the elements is the first byte of the pieces.
        origin = Origin(0, plan.pieces, plan.spans, handle.settings)
        self._origins.append((rebuilt, origin))
        return rebuilt

    def rebuild_index(
        self, index: npt.NDArray[np.intp], runs: Runs
    ) -> npt.NDArray[np.intp]:
        """Do the same with an index array, which a worker joins from all numbers."""
        n_bytes = (int(runs[:, 1].max()) + 1) * index.itemsize
        settings = _shifting(self._options.settings, n_bytes)
        identity = Origin(0, [Piece(0, n_bytes, 0)], [(0, n_bytes)], settings)
        geometry = Geometry.of(index, identity)
        plan = plan_runs(geometry, runs)
        rebuilt = np.asarray(index)
        if plan.is_mapped:
            origin = Origin(0, plan.pieces, plan.spans, settings)
            self._origins.append((rebuilt, origin))
        return rebuilt

    # What the pickler needs of a store.

    def share(
        self, array: npt.NDArray[Any], *, conversion: Conversion
    ) -> tuple[ArrayHandle, None]:
        """Return the handle that a store would return."""
        settings = self._options.settings
        found = None
        if not conversion.is_needed_for(array):
            found = describe(array, settings) or describe_memmap(array, settings)
        if found is not None:
            return _known(*found), None
        shape, strides, dtype = stored_layout(array, conversion)
        n_bytes = math.prod(shape) * dtype.itemsize
        segment = SegmentHandle(0, -1, 0, 0, n_bytes)
        pieces = ((0, n_bytes),)
        settings = _shifting(settings, n_bytes)
        return ArrayHandle(segment, pieces, 0, dtype, shape, strides, settings), None

    def share_view(self, view: npt.NDArray[Any]) -> tuple[ArrayHandle, None] | None:
        """Return the handle of a small part of what is shared already.

        All others are sent by value, so that rows of them are not mapped.
        """
        found = describe_view(view, self._options.settings)
        return None if found is None else (_known(*found), None)


def _known(handle: ArrayHandle, segment: Segment) -> ArrayHandle:
    """Return the handle of what is shared already, with what would be known of it."""
    if not is_constant(segment):
        return handle
    settings = _shifting(handle.settings, segment.n_bytes)
    return replace(handle, settings=settings)


def _shifting(settings: Settings, n_bytes: int) -> Settings:
    """Return how arrays in a segment that nobody writes to are handed to tasks."""
    shifted = planned_file(n_bytes) if can_shift_pages() else None
    return settings._replace(shifted=shifted)


def _task(X: Any, y: Any, train: Any, test: Any) -> None:
    """Stand for a function of scikit-learn that fits one split."""


def _as_index(rows: Any) -> Any:
    return index_of_runs(rows.runs) if isinstance(rows, RowIndex) else rows


def _with_layout(array: npt.NDArray[Any], handle: ArrayHandle) -> npt.NDArray[Any]:
    if array.dtype == handle.dtype and array.strides == handle.strides:
        return np.asarray(array).view(SharedArray)
    if array.dtype == handle.dtype and array.ndim == 1:
        # Not too large, and the rows of a sparse matrix are looked up in it.
        return np.ascontiguousarray(array).view(SharedArray)
    n_bytes = math.prod(handle.shape) * handle.dtype.itemsize
    memory = np.empty(n_bytes, dtype=np.uint8)  # never touched
    return np.ndarray.__new__(
        SharedArray, handle.shape, handle.dtype, memory, 0, handle.strides
    )


class _Index(NamedTuple):
    """Stands for an index array made of few runs."""

    runs: Runs


class _RehearsingPickler(TaskPickler):
    """Pickles references to arrays, and rebuilds each as a worker would."""

    def __init__(
        self, file: io.BytesIO, rehearsal: Rehearsal, options: Options
    ) -> None:
        super().__init__(file, cast("Store", rehearsal), options)
        self._rehearsal = rehearsal
        self.rebuilt: list[npt.NDArray[Any]] = []
        # Given arrays are kept, because only then an id belongs to one of them.
        self._places: dict[int, tuple[int, npt.NDArray[Any]]] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the place of an array among the rebuilt ones."""
        if not isinstance(obj, np.ndarray):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self.rebuilt), obj
            self.rebuilt.append(self._rebuild(obj))
        return self._places[id(obj)][0]

    def _rebuild(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        if array.dtype.hasobject or not can_remap():
            return array
        reduced = self.reducer_override(array)
        if isinstance(reduced, _Index):
            return self._rehearsal.rebuild_index(array, reduced.runs)
        if isinstance(reduced, tuple) and reduced[0] is rebuild_array:
            return self._rehearsal.rebuild(array, reduced[1][0])
        return array  # by value, or as a part of a file that may be written to

    def reduce_small(self, handle: ArrayHandle) -> Any:
        return rebuild_array, (handle,)

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        return _Index(runs)


class _RehearsingUnpickler(pickle.Unpickler):
    """Puts the rebuilt arrays in the places of the given ones."""

    def __init__(self, file: io.BytesIO, rebuilt: list[npt.NDArray[Any]]) -> None:
        super().__init__(file)
        self._rebuilt = rebuilt

    def persistent_load(self, place: Any) -> npt.NDArray[Any]:
        """Return the array that was pickled as a reference."""
        array: npt.NDArray[Any] = self._rebuilt[place]
        return array
