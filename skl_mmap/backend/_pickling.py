"""Pickling of tasks and results, with handles in place of large arrays.

Arrays of a task are shared, and what is pickled are their handles. Arrays of a result
that still are what was shared go back in the same way. All other large ones are written
by the worker to files of the parent, as out-of-band buffers of pickle protocol 5: each
class decides by itself what it looks like on the other side, as without files.
"""

from __future__ import annotations

import contextlib
import copyreg
import functools
import io
import pickle
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from loky.backend.reduction import get_loky_pickler

from skl_mmap._compat import count_repeated_splits
from skl_mmap.backend._layouts import InLayout
from skl_mmap.backend._object_arrays import rebuild_objects, share_objects
from skl_mmap.backend._options import Options
from skl_mmap.backend._parts import PartsReader, TaskPickle
from skl_mmap.backend._row_index import RowIndex
from skl_mmap.backend._small_arrays import SmallArrays
from skl_mmap.containers import known_containers
from skl_mmap.exceptions import SklMmapError
from skl_mmap.memory import (
    ArrayHandle,
    Conversion,
    IndexHandle,
    InPlaceArray,
    LossyConversionError,
    OpenFile,
    ResultWriter,
    Runs,
    Segment,
    SegmentHandle,
    SharedArray,
    Store,
    Windows,
    describe,
    index_runs,
    read_file,
    rebuild_array,
    rebuild_index,
    rebuild_plain,
    stored_order,
    writable_memmap_of,
)
from skl_mmap.monitor import note

# Other subclasses (matrices, masked arrays, records) know best how to be pickled.
_ARRAY_TYPES = frozenset({np.ndarray, np.memmap, SharedArray, InPlaceArray})
_OWN_TYPES = _ARRAY_TYPES | {RowIndex, InLayout}

# cloudpickle, with loky's reducers for sockets, locks and bound methods.
_LokyPickler: Any = get_loky_pickler()
# Its base class takes a callback for buffers, which it does not.
_Pickler: Any = _LokyPickler.__base__


def _leave_it(_pickler: object, _obj: object) -> Any:
    return NotImplemented


_reducer_override = getattr(_Pickler, "reducer_override", _leave_it)


class SharingError(Exception):
    """Carries an error of ours through the pickler, apart from the task's own."""


class _ArrayPickler(_Pickler):  # type: ignore[misc]
    """Asks about every array, at whatever depth, before it is pickled."""

    # loky's own makes one for each pickler, which takes 9 microseconds.
    dispatch_table: ClassVar[dict[type, Any]] = {}
    _registered: ClassVar[dict[type, Any]] = {}
    # Kinds of input that `reduce_container` is asked about.
    _containers: Mapping[type, Any] = {}

    def __init__(
        self, file: Any, buffer_callback: Callable[[Any], object] | None = None
    ) -> None:
        if _ArrayPickler._registered != copyreg.dispatch_table:
            registered = dict(copyreg.dispatch_table)
            _ArrayPickler.dispatch_table = _LokyPickler(io.BytesIO()).dispatch_table
            _ArrayPickler._registered = registered
        # The constructor takes the table from the class.
        super().__init__(
            file, protocol=pickle.HIGHEST_PROTOCOL, buffer_callback=buffer_callback
        )

    def reducer_override(self, obj: Any) -> Any:
        # Called for every function, class and instance: most are none of these.
        kind = type(obj)
        if kind in _OWN_TYPES or kind in self._containers:
            reduced = self._reduce(obj, kind)
            if reduced is not None:
                return reduced
        return _reducer_override(self, obj)

    def _reduce(self, obj: Any, kind: type) -> Any:
        if kind in _ARRAY_TYPES and not obj.dtype.hasobject and obj.nbytes:
            return self.reduce_array(obj)
        if kind is RowIndex:
            return self.reduce_index(obj.runs, obj.n_rows)
        if kind is InLayout:
            return self.reduce_in_layout(obj)
        return self.reduce_container(obj)

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

    def __init__(self, file: Any, store: Store, options: Options) -> None:
        super().__init__(file)
        self._store = store
        self._options = options
        self._containers = known_containers() if options.min_bytes is not None else {}
        # Arrays that are to be stored in Fortran order, by id, and kept alive by it.
        self._in_fortran_order: dict[int, npt.NDArray[Any]] = {}
        self._windows = Windows()
        self._small = SmallArrays(store)
        self.segments: list[Segment] = []

    def reduce_container(self, obj: Any) -> Any:
        if type(obj) is np.ndarray:
            return self._reduce_objects(obj)
        container = self._containers.get(type(obj))
        if container is None:
            return None
        min_bytes = self._options.min_bytes or 0
        reduced = container.take_apart(obj, min_bytes)
        if reduced is None:
            return None
        self._small.add(container.arrays(obj), min_bytes, self._keep)
        if self._options.row_order == "any":
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
            handle = self._small.take(array)
            handle = handle or self._keep(self._store.share_view, array)
            return None if handle is None else self.reduce_small(handle)
        order = "F" if id(array) in self._in_fortran_order else None
        handle = self._share(array, Conversion(order=order))
        return None if handle is None else (rebuild_array, (handle,))

    def reduce_small(self, handle: ArrayHandle) -> Any:
        return self._windows.reduce(handle)

    def _share(
        self, array: npt.NDArray[Any], conversion: Conversion
    ) -> ArrayHandle | None:
        share = functools.partial(self._store.share, conversion=conversion)
        return self._keep(share, array)

    def reduce_in_layout(self, obj: InLayout) -> Any:
        """Share a converted copy, or X itself where that cannot be had."""
        handle = None
        try:
            handle = self._share(obj.numbers, obj.conversion)
        except (LossyConversionError, SharingError) as error:
            note(
                f"X of shape {obj.shape} and dtype {obj.numbers.dtype} was shared as "
                f"it is, and not as {obj.name}: {error.args[0]}"
            )
        return obj.reduce(handle) if handle is not None else (_as_it_is, (obj.given,))

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        identity = self._keep(self._store.identity, n_rows)
        handle = IndexHandle(tuple(map(tuple, runs.tolist())), identity)
        return rebuild_index, (handle,)


class _ResultPickler(_ArrayPickler):
    """Sends arrays that still are what was shared back as handles, and writes others.

    Parameters
    ----------
    stream : _ResultStream
        Where the pickle goes.
    buffers : _Buffers
        Where large buffers go.
    """

    def __init__(self, stream: _ResultStream, buffers: _Buffers) -> None:
        super().__init__(stream, buffers.must_be_pickled)
        self._buffers = buffers

    def reduce_array(self, array: npt.NDArray[Any]) -> Any:
        described = describe(array)
        if described is not None:
            return rebuild_plain, (described[0],)
        # Memmaps have their own way, and NumPy swaps bytes when it reads others.
        is_usual = not isinstance(array, np.memmap) and array.dtype.isnative
        if is_usual and self._buffers.are_for(array.nbytes) and not _is_buffer(array):
            return _reduce_to_buffer(np.asarray(array))
        return None


class _Buffers:
    """Writes large buffers of a result to files.

    Apart from the pickler, which would refer to itself otherwise, and so would keep the
    result alive until the garbage collector finds it.

    Attributes
    ----------
    filled : list of SegmentHandle
        The files with the buffers that are not in the pickle, in order.
    """

    def __init__(self, writer: ResultWriter) -> None:
        self._writer = writer
        self.are_for = writer.is_for
        self.filled: list[SegmentHandle] = []

    def must_be_pickled(self, buffer: pickle.PickleBuffer) -> bool:
        """Write a buffer to a file; True if that is not possible.

        Only of arrays and of Arrow memory, which take any kind of buffer when they are
        put together again. Other classes may want the bytes that they have given.
        """
        with memoryview(buffer) as view:
            if type(view.obj).__module__.partition(".")[0] not in ("numpy", "pyarrow"):
                return True
        try:
            data = buffer.raw()
        except BufferError:  # not contiguous, of which pickle makes an error
            return True
        with data:
            is_large = self._writer.is_for(data.nbytes)
            handle = self._writer.write(data) if is_large else None
        if handle is not None:
            self.filled.append(handle)
        return handle is None


def _is_buffer(array: npt.NDArray[Any]) -> bool:
    """Return whether an array pickles itself as a buffer, without a copy.

    Others, with gaps between their elements or of a dtype that the buffer protocol does
    not know, would put a copy of their bytes into the pickle.
    """
    try:
        array.data.release()
    except (ValueError, BufferError):  # dates
        return False
    # From version 2.3 on, NumPy knows more orders than C and Fortran.
    axes = np.argsort([-abs(stride) for stride in array.strides], kind="stable")
    return array.flags.forc or array.transpose(axes).flags.c_contiguous


def _reduce_to_buffer(array: npt.NDArray[Any]) -> Any:
    """Reduce an array to a buffer and its looks, in the order that NumPy chooses."""
    order = stored_order(array)
    flat = np.ravel(array, order=order)  # type: ignore[call-overload]
    if not flat.flags.writeable:
        flat = flat.copy()  # NumPy makes it writable if it pickles its bytes
    buffer = pickle.PickleBuffer(flat.view(np.uint8))
    return _rebuild_from_buffer, (buffer, array.dtype, array.shape, order)


def _rebuild_from_buffer(
    buffer: Any, dtype: np.dtype[Any], shape: tuple[int, ...], order: Any
) -> npt.NDArray[Any]:
    return np.ndarray(shape, dtype, buffer, order=order)


class _ResultStream:
    """Takes the pickle of a result: into memory, or into a file once it is large."""

    def __init__(self, writer: ResultWriter) -> None:
        self._writer = writer
        self._memory = io.BytesIO()
        self._file: OpenFile | None = None
        self._can_move = True

    def write(self, data: Any) -> None:
        """Append data; called by the pickler."""
        if self._file is not None:
            data = memoryview(data)
            if self._writer.reserve(data.nbytes) and self._file.append(data):
                return
            self._move_back()
        self._memory.write(data)
        if self._can_move and self._writer.is_for(self._memory.tell()):
            self._move()

    def _move(self) -> None:
        self._can_move = False
        self._file = self._writer.open(self._memory.tell())
        if self._file is not None:
            with self._memory.getbuffer() as data:
                is_written = self._file.append(data)
            if is_written:
                self._memory = io.BytesIO()
            else:
                self.close()

    def _move_back(self) -> None:
        """Go on in memory, for want of room in the file."""
        assert self._file is not None
        self._memory.write(self._file.take_back())
        self.close()

    def content(self) -> bytes | SegmentHandle:
        """Return what was written, or the file that has it."""
        return self._memory.getvalue() if self._file is None else self._file.handle

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _as_it_is(X: Any) -> Any:
    return X


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
) -> tuple[TaskPickle, list[Segment]]:
    """Pickle a task."""
    store.next_task(count_repeated_splits(task))
    file = TaskPickle()
    pickler = TaskPickler(file, store, options)
    pickler.dump(task)
    return file, pickler.segments


def load_task(payload: bytes | list[bytes]) -> Any:
    """Unpickle a task, and let go of its pickle meanwhile if it has several parts."""
    if isinstance(payload, bytes):
        return pickle.loads(payload)
    return pickle.Unpickler(PartsReader(payload)).load()


# Stands for a result: what it consists of (see `_is_plain`), or its pickle, or the file
# that has its pickle; and the files that have its buffers.
PickledResult = tuple[tuple[Any] | bytes | SegmentHandle, list[SegmentHandle]]

_PLAIN_TYPES = frozenset({bool, int, float, complex, type(None), np.float64, np.int64})
_MOST_PLAIN_ITEMS = 50
_MOST_PLAIN_CHARACTERS = 10_000


def dump_result(result: object, writer: ResultWriter) -> PickledResult:
    """Pickle a result in a worker; small ones are left to loky."""
    if _is_plain(result):
        return (result,), []
    with contextlib.closing(_ResultStream(writer)) as stream:
        buffers = _Buffers(writer)
        _ResultPickler(stream, buffers).dump(result)
        return stream.content(), buffers.filled


def _is_plain(value: object, depth: int = 4) -> bool:
    """Return whether a result needs no pickler of ours."""
    kind = type(value)
    if kind in _PLAIN_TYPES:
        return True
    if kind is str or kind is bytes:
        return len(value) < _MOST_PLAIN_CHARACTERS  # type: ignore[arg-type]
    if kind is dict:
        value = [*value, *value.values()]  # type: ignore[misc, attr-defined]
    elif kind is not list and kind is not tuple:
        return False
    if depth == 0 or len(value) > _MOST_PLAIN_ITEMS:  # type: ignore[arg-type]
        return False
    return all(_is_plain(item, depth - 1) for item in value)  # type: ignore[attr-defined]


def load_result(pickled: PickledResult) -> Any:
    """Unpickle a result in the parent."""
    content, filled = pickled
    if isinstance(content, tuple):
        return content[0]
    if isinstance(content, bytes):
        return pickle.loads(content, buffers=map(read_file, filled))
    with read_file(content, can_keep=False).data as stream:
        return pickle.loads(stream, buffers=map(read_file, filled))
