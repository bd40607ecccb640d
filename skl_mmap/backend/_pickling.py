"""Pickling of tasks and results, with handles in place of large arrays."""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import numpy.typing as npt
from loky.backend.reduction import get_loky_pickler

from skl_mmap.backend._options import Options
from skl_mmap.backend._row_arguments import RowIndex
from skl_mmap.exceptions import SklMmapError
from skl_mmap.memory import (
    IndexHandle,
    Runs,
    Segment,
    SharedArray,
    Store,
    describe,
    index_runs,
    rebuild_array,
    rebuild_index,
    rebuild_plain,
    writable_memmap_of,
)

__all__ = ["SharingError", "dump_result", "dump_task", "load"]

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
        override = getattr(super(), "reducer_override", None)
        return NotImplemented if override is None else override(obj)

    def reduce_array(self, array: npt.NDArray[Any]) -> Any:
        raise NotImplementedError  # pragma: no cover - abstract

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        raise NotImplementedError  # pragma: no cover - abstract


class _TaskPickler(_ArrayPickler):
    """Shares the arrays of a task, and keeps the segments that it refers to."""

    def __init__(self, file: io.BytesIO, store: Store, options: Options) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._store = store
        self._options = options
        self.segments: list[Segment] = []

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
            return None
        try:
            shared = self._store.share(array)
        except (SklMmapError, OSError, MemoryError) as error:
            raise SharingError(error) from error
        if shared is None:
            return None
        handle, segment = shared
        self.segments.append(segment)
        return rebuild_array, (handle,)

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        try:
            shared = self._store.identity(n_rows)
        except (SklMmapError, OSError, MemoryError) as error:
            raise SharingError(error) from error
        identity = None
        if shared is not None:
            identity, segment = shared
            self.segments.append(segment)
        handle = IndexHandle(tuple(map(tuple, runs.tolist())), identity)
        return rebuild_index, (handle,)


class _ResultPickler(_ArrayPickler):
    """Sends arrays that still are what was shared back as handles."""

    def reduce_array(self, array: npt.NDArray[Any]) -> Any:
        described = describe(array)
        return None if described is None else (rebuild_plain, (described[0],))


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
    """Pickle a task.

    Returns
    -------
    (bytes, list of Segment)
        The segments must be kept until the task's result has been unpickled.

    Raises
    ------
    SharingError
        If an array could not be shared; its argument is the reason.
    """
    file = io.BytesIO()
    pickler = _TaskPickler(file, store, options)
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
