"""Files in memory that workers write large results to, instead of sending them.

::

    parent                                         worker
    FilePool.take(): ResultFiles, empty
      |----- ticket: bytes, sent with the task --> ResultWriter
      |                                              write(data): opens the next file
      |<---- handle of each file that was filled --    through /proc, and fills it
      v
    read_file(handle): mapped copy-on-write
    FilePool.give_back(): what is still empty serves the next batch

A file is the parent's from first to last: nobody waits for anybody, and a worker that
is killed leaves none behind. It holds the data of one array, so that whoever keeps this
array keeps no other one in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import math
import os
import pickle
import threading
import weakref

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import proc
from skl_mmap.exceptions import SegmentLostError
from skl_mmap.memory._filling import write_buffer
from skl_mmap.memory._mapping import Mapping, map_plan
from skl_mmap.memory._placement import spare_memory_bytes
from skl_mmap.memory._plan import Piece, plan_pieces
from skl_mmap.memory._segment import (
    Segment,
    SegmentHandle,
    attach_segment,
    create_in_memory,
    open_handle,
)
from skl_mmap.memory._settings import Settings
from skl_mmap.monitor import note

# For one batch. What a result has beyond this is pickled.
_MOST_FILES = 16
# A batch takes no more than this part of what is left, so that others get some.
_SHARE_OF_LEFT = 8
# Of the descriptors of this process, and of its ranges of addresses, the rest is left
# to all others.
_SHARE_OF_DESCRIPTORS = 4
_SHARE_OF_RANGES = 8
# A result of this size keeps its descriptor, so that it can be shared again without a
# copy, and is seen by whoever measures. Not many: each array that is about to be
# shared is looked for in all of them.
_MIN_KEPT_BYTES = 4 << 20
_MOST_KEPT = 64

# Files whose descriptor is open here, those among them that hold results, and mappings
# of results.
_open_files: weakref.WeakSet[Segment] = weakref.WeakSet()
_kept_files: weakref.WeakSet[Segment] = weakref.WeakSet()
_mappings: weakref.WeakSet[Mapping] = weakref.WeakSet()


# What a worker has to know: the size from which on arrays are written, and the handles
# of the files, pickled. Most tasks have no use for them.
Ticket = tuple[int, bytes] | None


class Hindrance(enum.Enum):
    """Why large arrays of results were pickled, as the report says it."""

    NO_FILES = (
        f"there are files for {_MOST_FILES} of a batch, and fewer where this process "
        "may not open many"
    )
    NO_MEMORY = "less memory was available than a file for them needs"
    STRICT = (
        "the kernel is strict about memory that is asked for (vm.overcommit_memory is "
        "2), and would charge them twice"
    )

    def tell(self) -> None:
        """Tell whoever measures."""
        note(f"large arrays of results are pickled and sent: {self.value}")


class ResultFiles:
    """Files for one batch, each of them empty until a worker writes to it.

    Attributes
    ----------
    ticket : Ticket
        For `ResultWriter`; None if there are no files.
    """

    def __init__(self) -> None:
        self._segments: list[Segment] = []
        self.ticket: Ticket = None

    def fill_up(self, n_files: int, min_bytes: int) -> None:
        """Make files until there are so many, or no more can be opened."""
        if len(self._segments) >= n_files and self.ticket is not None:
            return
        with contextlib.suppress(OSError):  # no descriptors left
            while len(self._segments) < n_files:
                segment = create_in_memory(0)
                _open_files.add(segment)
                self._segments.append(segment)
        handles = [segment.handle() for segment in self._segments]
        self.ticket = (min_bytes, pickle.dumps(handles)) if handles else None

    def drop(self, n_files: int) -> None:
        """Let go of the first files, which were written to."""
        if n_files:
            del self._segments[:n_files]
            self.ticket = None


class FilePool:
    """Makes the files for the results of a call, and hands them on while empty.

    Parameters
    ----------
    min_bytes : int
        Arrays of at least this size get a file.
    """

    def __init__(self, min_bytes: int) -> None:
        self._min_bytes = min_bytes
        self._most = proc.max_open_files() // _SHARE_OF_DESCRIPTORS
        self._free: list[ResultFiles] = []
        self._is_closed = False
        self._lock = threading.Lock()

    @classmethod
    def for_call(cls, min_bytes: int | None) -> FilePool | None:
        """Return a new pool; None where results have to be pickled."""
        if min_bytes is None or not proc.can_remap():
            return None
        if proc.is_overcommit_strict():
            # A file and its writable mapping would be charged twice, and a write to
            # the mapping could fail long after the call.
            Hindrance.STRICT.tell()
            return None
        return cls(min_bytes)

    def take(self) -> ResultFiles:
        """Return files for one batch."""
        with self._lock:
            files = self._free.pop() if self._free else ResultFiles()
            n_left = self._most - len(_open_files)
            n_files = min(_MOST_FILES, -(-n_left // _SHARE_OF_LEFT))
            files.fill_up(n_files, self._min_bytes)
        if files.ticket is None:
            Hindrance.NO_FILES.tell()
        return files

    def give_back(self, files: ResultFiles, n_used: int) -> None:
        """Take files back, of which the first were written to."""
        files.drop(n_used)
        with self._lock:
            if not self._is_closed:
                self._free.append(files)

    def close(self) -> None:
        """Let go of all files that no batch has."""
        with self._lock:
            self._is_closed = True
            self._free.clear()


class ResultWriter:
    """Writes the large buffers of a result, in a worker.

    Parameters
    ----------
    ticket : Ticket
        From the parent.

    Attributes
    ----------
    n_used : int
        How many files may have been written to: the first ones.
    n_bytes : int
        How much that was, at least.
    hindrance : Hindrance or None
        Why something had to be pickled.
    """

    def __init__(self, ticket: Ticket) -> None:
        self._min_bytes: float = math.inf
        self._packed_handles = b""
        if ticket is not None:
            self._min_bytes, self._packed_handles = ticket
        self._left_bytes: float | None = None
        self.n_used = self.n_bytes = 0
        self.hindrance: Hindrance | None = None

    def is_for(self, n_bytes: int) -> bool:
        """Return whether data of this size should be written rather than pickled."""
        return n_bytes >= self._min_bytes

    @functools.cached_property
    def _handles(self) -> list[SegmentHandle]:
        if not self._packed_handles:
            return []
        handles: list[SegmentHandle] = pickle.loads(self._packed_handles)
        return handles

    def open(self, n_bytes: int, *, n_spare: int = 0) -> OpenFile | None:
        """Open the next file.

        Parameters
        ----------
        n_bytes : int
            How much is going to be written at least.
        n_spare : int, default=0
            How many files must be left then, unless this is the only one.

        Returns
        -------
        OpenFile or None
            None if there is no file or no memory left.
        """
        n_left = len(self._handles) - self.n_used
        if n_left == 0 or (n_left <= n_spare and self.n_used):
            self.hindrance = Hindrance.NO_FILES
            return None
        if not self.reserve(n_bytes):
            return None
        handle = self._handles[self.n_used]
        self.n_used += 1
        try:
            return OpenFile(handle)
        except SegmentLostError:  # or no descriptor left in this process
            self.hindrance = Hindrance.NO_FILES
            return None

    def reserve(self, n_bytes: int) -> bool:
        """Count on so much memory; False if there is less."""
        if self._left_bytes is None:
            self._left_bytes = spare_memory_bytes()
        if n_bytes > self._left_bytes:
            self.hindrance = Hindrance.NO_MEMORY
            return False
        self._left_bytes -= n_bytes
        self.n_bytes += n_bytes
        return True

    def write(self, data: memoryview) -> SegmentHandle | None:
        """Write data to a file of its own; None if it has to be pickled."""
        file = self.open(data.nbytes, n_spare=1)
        if file is None:
            return None
        with contextlib.closing(file):
            if file.append(data):
                return file.handle
            file.take_back()
        self.hindrance = Hindrance.NO_MEMORY
        return None


class OpenFile:
    """A file of the parent that is being filled."""

    def __init__(self, handle: SegmentHandle) -> None:
        self._fd = open_handle(handle, os.O_RDWR)
        self._handle = handle
        self._n_bytes = 0

    @property
    def handle(self) -> SegmentHandle:
        """What the parent reads it with."""
        return dataclasses.replace(self._handle, n_bytes=self._n_bytes)

    def append(self, data: memoryview) -> bool:
        """Write more data; False if there is no room for it."""
        try:
            write_buffer(self._fd, data, self._n_bytes)
        except OSError:
            return False
        self._n_bytes += data.nbytes
        return True

    def take_back(self) -> bytes:
        """Empty the file, and return what it had."""
        parts = []
        place = 0
        while place < self._n_bytes:
            parts.append(os.pread(self._fd, self._n_bytes - place, place))
            place += len(parts[-1])
        os.ftruncate(self._fd, 0)
        return b"".join(parts)

    def close(self) -> None:
        """Close it; what was written stays."""
        os.close(self._fd)


def read_file(handle: SegmentHandle, *, can_keep: bool = True) -> npt.NDArray[np.uint8]:
    """Return what a worker has written, in the parent.

    Parameters
    ----------
    handle : SegmentHandle
        From the worker.
    can_keep : bool, default=True
        Whether the data may be shared again.

    Returns
    -------
    ndarray of shape (n_bytes,), dtype=uint8
        Mapped copy-on-write; a copy if that is not possible. The descriptor is closed,
        unless the data is large and few others have theirs.
    """
    segment = attach_segment(handle)
    segment.n_bytes = handle.n_bytes
    mapping = _map(segment)
    if mapping is None:
        data = np.empty(handle.n_bytes, dtype=np.uint8)
        segment.read_into(data.ctypes.data, handle.n_bytes, 0)
        _close(segment)
        return data
    is_large = can_keep and handle.n_bytes >= _MIN_KEPT_BYTES
    if is_large and len(_kept_files) < _MOST_KEPT:
        segment.seal()
        _kept_files.add(segment)
    else:
        mapping.forget()
        _close(segment)
    return np.asarray(mapping)


def _map(segment: Segment) -> Mapping | None:
    if len(_mappings) >= _most_mappings():
        return None
    plan = plan_pieces([Piece(0, segment.n_bytes, 0)])
    mapping = map_plan(segment, plan, Settings())
    if mapping is None or not mapping.is_writable:
        return None
    _mappings.add(mapping)
    return mapping


@functools.cache
def _most_mappings() -> int:
    # Each of them may need three ranges: what is beside it is reserved.
    return proc.max_ranges() // _SHARE_OF_RANGES // 3


def _close(segment: Segment) -> None:
    segment.discard()
    _open_files.discard(segment)
