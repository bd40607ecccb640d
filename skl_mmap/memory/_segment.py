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
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._units import format_bytes
from skl_mmap.exceptions import NotEnoughDiskError, SegmentLostError
from skl_mmap.memory import _libc
from skl_mmap.memory._placement import Placement

__all__ = [
    "Segment",
    "SegmentHandle",
    "attach_segment",
    "create_range_segment",
    "create_segment",
    "iterate_stored",
    "open_file_segment",
]

if sys.platform == "linux":
    from fcntl import F_ADD_SEALS, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE, fcntl

# Enough for the kernel to work at full speed, little enough to look at the clock.
_FILL_CHUNK_BYTES = 16 << 20
# Making huge pages is given up when it takes longer than writing small ones does. In
# fragmented memory the kernel would spend ten times as long on moving pages about.
_MIN_HUGE_PAGE_RATE = 2e9  # bytes per second
_HUGE_PAGE_PATIENCE_SECONDS = 0.02
_WRITE_CHUNK_BYTES = 8 << 20
_RANGE_CHUNK_ROWS = 1 << 16
_NAME_PREFIX = "skl_mmap-"


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

    def seal(self) -> None:
        """Forbid everybody to alter or truncate the data under a reader."""
        if self.is_memfd:
            fcntl(self.fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

    def read_into(self, address: int, n_bytes: int, file_offset: int) -> None:
        """Copy bytes of the file to an address, whatever the alignment."""
        target = memoryview(_libc.bytes_at(address, n_bytes))
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
    """Open a segment in this process.

    Raises
    ------
    SegmentLostError
        If the owner is gone, or this process may not open its files.
    """
    with _open_lock:
        known = _open_segments.get((handle.device, handle.inode))
    if known is not None:
        return known
    path = handle.path or f"/proc/{handle.pid}/fd/{handle.fd}"
    flags = os.O_RDONLY | os.O_CLOEXEC
    try:
        fd = os.open(path, flags)
    except OSError as error:
        raise SegmentLostError(
            f"the shared data at {path} cannot be opened ({error.strerror}), so the "
            "task cannot run. The process that shared it must be alive, of the same "
            "user, and visible in /proc from here (same PID namespace, no hidepid)."
        ) from error
    segment = Segment(fd, handle.n_bytes, path=handle.path, origin=handle)
    if segment.identity != (handle.device, handle.inode):
        raise SegmentLostError(
            f"{path} is not the shared data any more: its owner has freed it. Keep "
            "the array, or the `with` block that shared it, alive while tasks run."
        )
    return segment


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
    """Copy the bytes of an array into a new segment.

    Parameters
    ----------
    data : ndarray
        Any array without objects. Stored in C order if it is C-contiguous or not
        contiguous at all, in Fortran order if it is Fortran-contiguous.
    placement : Placement
        Where.
    what : str, optional
        The array's description for error messages.

    Returns
    -------
    Segment
        Filled and, if it is a memfd, sealed: nobody can alter or truncate it.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room. Nothing is left behind.

    Notes
    -----
    One pass over the data, at about the speed of ``numpy.copyto`` into fresh memory.
    """
    what = what or f"an array of shape {data.shape} and dtype {data.dtype}"
    segment = _new_segment(data.nbytes, placement, what)
    begin = _fill_huge_pages(segment.fd, data) if segment.is_memfd else 0
    _write(segment.fd, data, begin)
    segment.seal()
    return segment


def create_range_segment(n_rows: int, placement: Placement) -> Segment:
    """Write the numbers 0, 1, ..., ``n_rows - 1`` into a new segment.

    Like ``create_segment(np.arange(n_rows))``, without that array.
    """
    item_bytes = np.dtype(np.intp).itemsize
    what = f"the row indices of {n_rows} rows"
    segment = _new_segment(n_rows * item_bytes, placement, what)
    for start in range(0, n_rows, _RANGE_CHUNK_ROWS):
        stop = min(start + _RANGE_CHUNK_ROWS, n_rows)
        _write(segment.fd, np.arange(start, stop, dtype=np.intp), 0, start * item_bytes)
    segment.seal()
    return segment


def _new_segment(n_bytes: int, placement: Placement, what: str) -> Segment:
    on_disk = placement.choose(n_bytes, what) == "disk"
    if not _libc.can_remap():
        return _create_named(n_bytes, placement.folder, what)
    if on_disk:
        return _create_on_disk(n_bytes, placement.folder, what)
    return _create_in_memory(n_bytes)


def _create_in_memory(n_bytes: int) -> Segment:
    fd = os.memfd_create("skl_mmap", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    segment = Segment(fd, n_bytes, is_memfd=True)
    os.ftruncate(fd, n_bytes)
    return segment


def _create_on_disk(n_bytes: int, folder: str, what: str) -> Segment:
    with _full_disk_explained(n_bytes, folder, what):
        try:
            fd = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        except OSError:  # a file system without O_TMPFILE
            fd, path = tempfile.mkstemp(prefix=_NAME_PREFIX, dir=folder)
            os.unlink(path)
        segment = Segment(fd, n_bytes)
        _allocate(fd, n_bytes)
    return segment


def _create_named(n_bytes: int, folder: str, what: str) -> Segment:
    with _full_disk_explained(n_bytes, folder, what):
        fd, path = tempfile.mkstemp(prefix=_NAME_PREFIX, dir=folder)
        segment = Segment(fd, n_bytes, path=path, is_temporary=True)
        _allocate(fd, n_bytes)
    return segment


def _allocate(fd: int, n_bytes: int) -> None:
    """Take the room first: a full disk must be an error here, not a SIGBUS later."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(fd, 0, n_bytes)
    else:  # pragma: no cover - macOS, Windows
        os.truncate(fd, n_bytes)


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


def _fill_huge_pages(fd: int, data: npt.NDArray[Any]) -> int:
    """Fill the front of a memfd in huge pages, and return how many bytes that were.

    Ordinary tmpfs pages cost more to allocate than to fill, and make random access
    slower than in numpy's own arrays. MADV_COLLAPSE makes one huge page out of 512
    small ones; as only the first of them exists yet, there is nothing to copy, and
    the data is then written at full speed. Needs Linux 6.1 but no system setting.
    """
    front_bytes = data.nbytes - data.nbytes % _libc.HUGE_PAGE_BYTES
    if not front_bytes or not _is_contiguous(data):
        return 0
    reserved_bytes = front_bytes + _libc.HUGE_PAGE_BYTES
    try:
        reserved = _libc.reserve(reserved_bytes)
    except OSError:
        return 0
    try:
        address = -(-reserved // _libc.HUGE_PAGE_BYTES) * _libc.HUGE_PAGE_BYTES
        _libc.map_file(address, front_bytes, fd, 0, writable=True, shared=True)
        return _collapse_and_copy(data, address, front_bytes)
    except OSError:
        return 0  # no room for the mapping: all of it is written in small pages
    finally:
        _libc.unmap(reserved, reserved_bytes)


def _collapse_and_copy(data: npt.NDArray[Any], address: int, n_bytes: int) -> int:
    source = data.__array_interface__["data"][0]
    spare_seconds = _HUGE_PAGE_PATIENCE_SECONDS
    begin = 0
    while begin < n_bytes and spare_seconds > 0:
        chunk_bytes = min(_FILL_CHUNK_BYTES, n_bytes - begin)
        started = time.perf_counter()
        for huge_page in range(begin, begin + chunk_bytes, _libc.HUGE_PAGE_BYTES):
            _libc.touch(address + huge_page)
        if not _libc.advise(address + begin, chunk_bytes, _libc.MADV_COLLAPSE):
            break
        spare_seconds += chunk_bytes / _MIN_HUGE_PAGE_RATE
        spare_seconds -= time.perf_counter() - started
        _libc.move(address + begin, source + begin, chunk_bytes)
        begin += chunk_bytes
    return begin


def _is_contiguous(data: npt.NDArray[Any]) -> bool:
    return data.flags.c_contiguous or data.flags.f_contiguous


def iterate_stored(
    data: npt.NDArray[Any], chunk_bytes: int, begin: int = 0
) -> Iterator[tuple[int, int]]:
    """Yield address and size of an array's bytes in the order they are stored in.

    Contiguous arrays are walked through where they lie; of others, so many rows are
    made contiguous at a time. `begin` skips bytes of a contiguous array.
    """
    if _is_contiguous(data):
        address = data.__array_interface__["data"][0]
        for start in range(begin, data.nbytes, chunk_bytes):
            yield address + start, min(chunk_bytes, data.nbytes - start)
        return
    n_rows = chunk_bytes // (data.nbytes // len(data))
    if n_rows == 0:  # rows larger than a chunk
        for row in data:
            yield from iterate_stored(np.ascontiguousarray(row), chunk_bytes)
        return
    for start in range(0, len(data), n_rows):
        block = np.ascontiguousarray(data[start : start + n_rows])
        yield block.__array_interface__["data"][0], block.nbytes


def _write(fd: int, data: npt.NDArray[Any], begin: int, file_offset: int = 0) -> None:
    """Write the bytes of `data` from `begin` on."""
    place = file_offset + begin
    for address, n_bytes in iterate_stored(data, _WRITE_CHUNK_BYTES, begin):
        _write_all(fd, memoryview(_libc.bytes_at(address, n_bytes)), place)
        place += n_bytes


def _write_all(fd: int, view: memoryview, offset: int) -> None:
    done = 0
    while done < len(view):
        done += os.pwrite(fd, view[done:], offset + done)
