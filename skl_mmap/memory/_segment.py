"""Segments: files of bytes that several processes map.

::

    owner                                      worker
    Segment(fd 7) ---- SegmentHandle --------> attach(): open /proc/<owner>/fd/7,
    memfd, spool file or the user's file       check the inode
                                               Segment(fd of its own)

The kernel frees a memfd or an unlinked file when the last process lets go, so nothing
is left behind, not even by SIGKILL, and no resource tracker has to know of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls, proc
from skl_mmap._units import format_bytes
from skl_mmap.exceptions import (
    NotEnoughDiskError,
    NotEnoughMemoryError,
    SegmentLostError,
)
from skl_mmap.memory._filling import fill_array, write_array
from skl_mmap.memory._placement import Placement
from skl_mmap.monitor import note

if sys.platform == "linux":
    from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

    _SIZE_SEALS = F_SEAL_SHRINK | F_SEAL_GROW
    _F_SEAL_FUTURE_WRITE = 0x10  # Linux 5.1; fcntl has the name from Python 3.13 on
    # The best that the kernel takes. F_SEAL_WRITE is refused (EBUSY) while anything
    # looks at one of the pages (compaction, say), or a child that was forked while the
    # file was filled has inherited the mapping.
    _SEALS = (
        _SIZE_SEALS | _F_SEAL_FUTURE_WRITE,
        _SIZE_SEALS | F_SEAL_WRITE,
        _SIZE_SEALS,
    )

_RANGE_CHUNK_ROWS = 1 << 16
_BLOCK_BYTES = 512  # the unit of st_blocks
_NAME_PREFIX = "skl_mmap-"
MEMORY_FOLDER = "/dev/shm"
"""Where files in memory can be made that are no memfds, if it has room."""
# What a filter of system calls answers, and a kernel without them.
_REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS)


@dataclass(frozen=True, slots=True)
class SegmentHandle:
    """The small picklable reference to a segment.

    Attributes
    ----------
    pid, fd : int
        Its owner, and the file descriptor there.
    device, inode : int
        What the file must be, in case the owner's descriptor was used anew.
    n_bytes : int
        Size.
    path : str or None
        Set where segments are named files: on systems that have no /proc.
    """

    pid: int
    fd: int
    device: int
    inode: int
    n_bytes: int
    path: str | None = None


class Segment:
    """An open file of bytes, closed with the last reference to it.

    Parameters
    ----------
    fd : int
        File descriptor; belongs to the segment from now on.
    n_bytes : int
        Size.
    path : str or None
        The file's name where it has one; see `SegmentHandle`.
    is_temporary : bool
        Whether the file at `path` has to be deleted with the segment.
    is_memfd : bool
        Whether the file was made here, in memory, and can be sealed.
    origin : SegmentHandle or None
        The reference that it was opened from, if another process owns it.
    """

    def __init__(
        self,
        fd: int,
        n_bytes: int,
        *,
        path: str | None = None,
        is_temporary: bool = False,
        is_memfd: bool = False,
        origin: SegmentHandle | None = None,
    ) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.n_bytes = n_bytes
        self.path = path
        self.is_memfd = is_memfd
        self.identity = (status.st_dev, status.st_ino)
        self._origin = origin
        # finalize() also runs at exit, so that a named file goes away as well.
        owned = path if is_temporary else None
        self._finalizer = weakref.finalize(self, _release, fd, owned, os.getpid())
        with _open_lock:
            _open_segments[self.identity] = self

    def handle(self) -> SegmentHandle:
        """Return the reference that another process can open: always the owner's."""
        return self._origin or SegmentHandle(
            os.getpid(), self.fd, *self.identity, self.n_bytes, self.path
        )

    def used_bytes(self) -> int:
        """Return its size, without the holes that a file in memory may have."""
        if not self.is_memfd:
            return self.n_bytes
        return min(self.n_bytes, os.fstat(self.fd).st_blocks * _BLOCK_BYTES)

    def discard(self) -> None:
        """Close the file of a segment that nobody was given, at once.

        The traceback of an error would keep it open.
        """
        self._finalizer()

    def seal(self) -> None:
        """Forbid everybody to alter or truncate the data under a reader.

        Whoever filled it has unmapped it: nothing can be written to it from now on.
        """
        if not self.is_memfd:
            return
        for seals in _SEALS:
            try:
                fcntl(self.fd, F_ADD_SEALS, seals)
                return
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.EBUSY):
                    raise

    def read_into(self, address: int, n_bytes: int, file_offset: int) -> None:
        """Copy bytes of the file to an address, whatever the alignment."""
        target = memoryview(calls.bytes_at(address, n_bytes))
        done = 0
        while done < n_bytes:
            n_read = os.preadv(self.fd, [target[done:]], file_offset + done)
            if not n_read:
                raise SegmentLostError(
                    f"a shared file of {self.n_bytes} bytes ended at "
                    f"{file_offset + done} bytes: it was truncated while in use. "
                    "Keep files that are being worked on unchanged."
                )
            done += n_read

    def holds(self, parts: Iterable[tuple[int, int]], file_offset: int = 0) -> bool:
        """Return whether the file has, from a place on, the bytes at some addresses.

        Parameters
        ----------
        parts : iterable of (int, int)
            Address and size of bytes that follow each other in the file.
        file_offset : int, default=0
            Place of the first one.
        """
        buffer = np.empty(0, dtype=np.uint8)
        for address, n_bytes in parts:
            if len(buffer) < n_bytes:
                buffer = np.empty(n_bytes, dtype=np.uint8)
            self.read_into(buffer.ctypes.data, n_bytes, file_offset)
            if not calls.compare(buffer.ctypes.data, address, n_bytes):
                return False
            file_offset += n_bytes
        return True


# The open segments of this process, by device and inode: an inode cannot be used anew
# while it is open here.
_open_segments: weakref.WeakValueDictionary[tuple[int, int], Segment] = (
    weakref.WeakValueDictionary()
)
_open_lock = threading.Lock()


def _release(fd: int, path: str | None, pid: int) -> None:
    with contextlib.suppress(OSError):
        os.close(fd)
    if path is not None and os.getpid() == pid:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def attach_segment(handle: SegmentHandle) -> Segment:
    """Open a segment in this process."""
    with _open_lock:
        known = _open_segments.get((handle.device, handle.inode))
    if known is not None:
        return known
    fd = open_handle(handle, os.O_RDONLY)
    return Segment(fd, handle.n_bytes, path=handle.path, origin=handle)


def open_handle(handle: SegmentHandle, flags: int) -> int:
    """Open the file of a segment, and return a descriptor that is the caller's."""
    path = handle.path or proc.descriptor_path(handle.fd, handle.pid)
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
    except OSError as error:
        raise SegmentLostError(
            f"the shared data at {path} cannot be opened ({error.strerror}), so the "
            "task cannot run. The process that shared it must be alive, of the same "
            "user, and visible in /proc from here (same PID namespace, no hidepid)."
        ) from error
    status = os.fstat(fd)
    if (status.st_dev, status.st_ino) != (handle.device, handle.inode):
        os.close(fd)
        raise SegmentLostError(
            f"{path} is not the shared data any more: its owner has freed it. Keep "
            "the array, or the `with` block that shared it, alive while tasks run."
        )
    return fd


def open_file_segment(path: str) -> Segment | None:
    """Open a file of the user's for reading; None if that is not possible."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    status = os.fstat(fd)
    with _open_lock:
        known = _open_segments.get((status.st_dev, status.st_ino))
    if known is not None and known.n_bytes == status.st_size:
        os.close(fd)
        return known
    return Segment(fd, status.st_size)


def create_segment(
    data: npt.NDArray[Any], placement: Placement, what: str | None = None
) -> Segment:
    """Copy the bytes of an array without objects into a new segment, and seal it.

    In Fortran order if the array has that order, else in C order. If there is no room,
    the error says so, and nothing is left behind.

    Notes
    -----
    One pass over the data, at about the speed of ``numpy.copyto`` into fresh memory.
    """
    what = what or f"an array of shape {data.shape} and dtype {data.dtype}"
    segment = new_segment(data.nbytes, placement, what)
    fill_array(segment.fd, data, can_use_huge_pages=segment.is_memfd)
    segment.seal()
    return segment


def create_range_segment(n_rows: int, placement: Placement) -> Segment:
    """Write the numbers 0, 1, ..., ``n_rows - 1`` into a new segment.

    Like ``create_segment(np.arange(n_rows))``, without that array.
    """
    item_bytes = np.dtype(np.intp).itemsize
    what = f"the row indices of {n_rows} rows"
    segment = new_segment(n_rows * item_bytes, placement, what)
    for start in range(0, n_rows, _RANGE_CHUNK_ROWS):
        stop = min(start + _RANGE_CHUNK_ROWS, n_rows)
        rows = np.arange(start, stop, dtype=np.intp)
        write_array(segment.fd, rows, start * item_bytes)
    segment.seal()
    return segment


def new_segment(
    n_bytes: int, placement: Placement, what: str, *, more_bytes: int | None = None
) -> Segment:
    """Make an empty segment; see `create_segment`.

    `more_bytes` says how much more memory will be in use, if not `n_bytes`.
    """
    needed_bytes = n_bytes if more_bytes is None else more_bytes
    on_disk = placement.choose(needed_bytes, what) == "disk"
    _check_file_size(n_bytes, what)
    if not proc.can_remap():
        return _create_named(n_bytes, placement.disk_folder(), what)
    if on_disk:
        return _create_on_disk(n_bytes, placement.disk_folder(), what)
    try:
        return create_in_memory(n_bytes)
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        return _create_without_memfd(n_bytes, placement, what, error)


def create_in_memory(n_bytes: int) -> Segment:
    """Make an empty segment in memory.

    Raises
    ------
    OSError
        If no more files may be opened, none may be as large, or the system refuses it.
    """
    fd = os.memfd_create("skl_mmap", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    segment = Segment(fd, n_bytes, is_memfd=True)
    os.ftruncate(fd, n_bytes)
    return segment


def _create_without_memfd(
    n_bytes: int, placement: Placement, what: str, error: OSError
) -> Segment:
    """Make a segment where a filter of system calls, say, refuses files in memory."""
    reason = f"this system refuses memfd_create ({error.strerror})"
    try:
        segment = _create_on_disk(n_bytes, MEMORY_FOLDER, what)
    except OSError as no_room:
        if placement.kind == "memory":
            raise NotEnoughMemoryError(
                f"store='memory' has no place for {what}: {reason}, and "
                f"{MEMORY_FOLDER} cannot be used instead ({no_room}). Use "
                "store='disk', or let the container make memfds."
            ) from no_room
        segment = _create_on_disk(n_bytes, placement.disk_folder(), what)
        note(f"shared arrays lie on a disk: {reason}")
    else:
        note(f"shared arrays lie in {MEMORY_FOLDER}: {reason}")
    return segment


def _check_file_size(n_bytes: int, what: str) -> None:
    if n_bytes > (limit := proc.max_file_bytes()):
        error = NotEnoughDiskError(
            f"{what} needs a file of {format_bytes(n_bytes)}, in memory or on a disk, "
            f"and this process may write none of more than {format_bytes(limit)} "
            "(ulimit -f). Raise that limit."
        )
        error.errno = errno.EFBIG
        raise error


def _create_on_disk(n_bytes: int, folder: str, what: str) -> Segment:
    with _full_disk_explained(n_bytes, folder, what):
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # a file system without O_TMPFILE
            fd, path = tempfile.mkstemp(prefix=_NAME_PREFIX, dir=folder)
            os.unlink(path)
        segment = Segment(fd, n_bytes)
        _allocate(segment, n_bytes)
    return segment


def _create_named(n_bytes: int, folder: str, what: str) -> Segment:
    with _full_disk_explained(n_bytes, folder, what):
        fd, path = tempfile.mkstemp(prefix=_NAME_PREFIX, dir=folder)
        segment = Segment(fd, n_bytes, path=path, is_temporary=True)
        _allocate(segment, n_bytes)
    return segment


def allocate(segment: Segment, n_bytes: int, folder: str | None, what: str) -> None:
    """Make a segment larger."""
    _check_file_size(n_bytes, what)
    if segment.is_memfd:
        os.ftruncate(segment.fd, n_bytes)
        return
    with _full_disk_explained(n_bytes, folder or MEMORY_FOLDER, what):
        _allocate(segment, n_bytes)


def _allocate(segment: Segment, n_bytes: int) -> None:
    """Take the room first: a full disk must be an error here, not a SIGBUS later."""
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(segment.fd, 0, n_bytes)
        else:  # pragma: no cover - macOS, Windows
            os.truncate(segment.fd, n_bytes)
    except OSError:
        segment.discard()
        raise


@contextlib.contextmanager
def _full_disk_explained(n_bytes: int, folder: str, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise NotEnoughDiskError(
            f"{folder!r} has no room for {format_bytes(n_bytes)} for {what} "
            f"({error.strerror}). Pass store= a folder with that much room."
        ) from error
