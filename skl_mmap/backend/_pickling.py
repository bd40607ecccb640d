"""Pickling of tasks and results, with handles in place of large arrays."""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from loky.backend.reduction import get_loky_pickler

from skl_mmap.backend._indices import RowIndex
from skl_mmap.backend._layouts import InLayout, name_conversion
from skl_mmap.backend._object_arrays import rebuild_objects, share_objects
from skl_mmap.backend._options import Options
from skl_mmap.containers import known_containers
from skl_mmap.exceptions import SklMmapError
from skl_mmap.memory import (
    ArrayHandle,
    Conversion,
    IndexHandle,
    LossyConversionError,
    Runs,
    Segment,
    SharedArray,
    Store,
    Windows,
    describe,
    index_runs,
    rebuild_array,
    rebuild_index,
    rebuild_plain,
    writable_memmap_of,
)
from skl_mmap.monitor import note

# Other subclasses (matrices, masked arrays, records) know best how to be pickled.
_ARRAY_TYPES = frozenset({np.ndarray, np.memmap, SharedArray})

# cloudpickle, with loky's reducers for sockets, locks and bound methods.
_LokyPickler: Any = get_loky_pickler()


class SharingError(Exception):
    """Carries an error of ours through the pickler, apart from the task's own."""


class _ArrayPickler(_LokyPickler):  # type: ignore[misc]
    """Asks about every array, at whatever depth, before it is pickled."""

    def reducer_override(self, obj: Any) -> Any:
        if type(obj) in _ARRAY_TYPES and not obj.dtype.hasobject and obj.nbytes:
            reduced = self.reduce_array(obj)
            if reduced is not None:
                return reduced
        elif type(obj) is RowIndex:
            return self.reduce_index(obj.runs, obj.n_rows)
        elif type(obj) is InLayout:
            return self.reduce_in_layout(obj)
        elif (reduced := self.reduce_container(obj)) is not None:
            return reduced
        override = getattr(super(), "reducer_override", None)
        return NotImplemented if override is None else override(obj)

    def reduce_array(self, array: npt.NDArray[Any]) -> Any:
        raise NotImplementedError  # pragma: no cover - abstract

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        raise NotImplementedError  # pragma: no cover - abstract

    def reduce_in_layout(self, obj: InLayout) -> Any:
        raise NotImplementedError  # pragma: no cover - abstract

    def reduce_container(self, obj: Any) -> Any:
        """Return how to pickle a frame or matrix; None as its library does it."""
        return None


class TaskPickler(_ArrayPickler):
    """Shares the arrays of a task, and keeps the segments that it refers to."""

    def __init__(self, file: io.BytesIO, store: Store, options: Options) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._store = store
        self._options = options
        self._containers = known_containers() if options.min_bytes is not None else {}
        # Arrays that are to be stored in Fortran order, by id, and kept alive by it.
        self._in_fortran_order: dict[int, npt.NDArray[Any]] = {}
        self._windows = Windows()
        self.segments: list[Segment] = []

    def reduce_container(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            return self._reduce_objects(obj)
        container = self._containers.get(type(obj))
        if container is None:
            return None
        reduced = container.take_apart(obj, self._options.min_bytes or 0)
        if reduced is not None and self._options.row_order == "any":
            # It changes how columns lie in memory, and with it the order in which some
            # sums are made: not with row_order="exact".
            block = container.block_by_column(obj)
            if block is not None:
                self._in_fortran_order[id(block)] = block
        return reduced

    def _reduce_objects(self, array: npt.NDArray[Any]) -> Any:
        min_bytes = self._options.min_bytes
        if min_bytes is None or array.dtype != object or array.nbytes < min_bytes:
            return None
        handle = self._keep(share_objects, array, self._store)
        return None if handle is None else (rebuild_objects, (handle,))

    def _keep(
        self, share: Callable[..., tuple[ArrayHandle, Segment] | None], *args: Any
    ) -> ArrayHandle | None:
        """Share something, and keep its segment until the task has its result.

        Raises
        ------
        SharingError
            If that is not possible.
        """
        try:
            shared = share(*args)
        except (SklMmapError, OSError, MemoryError) as error:
            raise SharingError(error) from error
        if shared is None:
            return None
        handle, segment = shared
        self.segments.append(segment)
        return handle

    def reduce_array(self, array: npt.NDArray[Any]) -> Any:
        memmap = writable_memmap_of(array)
        if memmap is not None:
            return _reduce_writable(array, memmap)
        min_bytes = self._options.min_bytes
        if min_bytes is None:
            return None
        runs = index_runs(array, min_bytes=self._options.min_index_bytes)
        if runs is not None:
            return self.reduce_index(runs, int(runs[:, 1].max()))
        if array.nbytes < min_bytes:
            handle = self._keep(self._store.share_view, array)
            return None if handle is None else self._windows.reduce(handle)
        order = "F" if id(array) in self._in_fortran_order else None
        handle = self._share(array, Conversion(order=order))
        return None if handle is None else (rebuild_array, (handle,))

    def _share(
        self, array: npt.NDArray[Any], conversion: Conversion
    ) -> ArrayHandle | None:
        share = functools.partial(self._store.share, conversion=conversion)
        return self._keep(share, array)

    def reduce_in_layout(self, obj: InLayout) -> Any:
        """Share a converted copy, or the array itself where that cannot be had."""
        array, conversion, column_runs = obj
        try:
            handle = self._share(array, conversion)
        except (LossyConversionError, SharingError) as error:
            reason = error.args[0]
            note(
                f"an array of shape {array.shape} and dtype {array.dtype} was shared "
                f"as it is, and not as {name_conversion(array, conversion)}: "
                f"{reason}"
            )
            handle = None
        if handle is not None:
            settings = handle.settings._replace(column_runs=column_runs)
            return rebuild_array, (dataclasses.replace(handle, settings=settings),)
        return self.reduce_array(array) or (_as_it_is, (np.asarray(array),))

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        identity = self._keep(self._store.identity, n_rows)
        handle = IndexHandle(tuple(map(tuple, runs.tolist())), identity)
        return rebuild_index, (handle,)


class _ResultPickler(_ArrayPickler):
    """Sends arrays that still are what was shared back as handles."""

    def reduce_array(self, array: npt.NDArray[Any]) -> Any:
        described = describe(array)
        return None if described is None else (rebuild_plain, (described[0],))


def _as_it_is(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array


def _reduce_writable(array: npt.NDArray[Any], memmap: np.memmap[Any, Any]) -> Any:
    """Let workers write to the user's own file, as joblib does."""
    start = array.__array_interface__["data"][0]
    first = memmap.__array_interface__["data"][0]
    if memmap.base is None or start < first:
        return None
    offset = memmap.offset + start - first
    return _open_writable, (
        str(memmap.filename),
        array.dtype,
        offset,
        array.shape,
        array.strides,
    )


def _open_writable(
    path: str,
    dtype: np.dtype[Any],
    offset: int,
    shape: tuple[int, ...],
    strides: tuple[int, ...],
) -> npt.NDArray[Any]:
    data = np.memmap(path, dtype=np.uint8, mode="r+")
    return np.ndarray.__new__(np.memmap, shape, dtype, data, offset, strides)


def dump_task(
    task: object, store: Store, options: Options
) -> tuple[bytes, list[Segment]]:
    """Pickle a task."""
    store.next_task()
    file = io.BytesIO()
    pickler = TaskPickler(file, store, options)
    pickler.dump(task)
    return file.getvalue(), pickler.segments


def dump_result(result: object) -> bytes:
    """Pickle a result in a worker."""
    file = io.BytesIO()
    _ResultPickler(file, protocol=pickle.HIGHEST_PROTOCOL).dump(result)
    return file.getvalue()


def load(payload: bytes) -> Any:
    """Unpickle a task or a result."""
    return pickle.loads(payload)
