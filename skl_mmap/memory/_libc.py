"""The few system calls on memory that Python has no name for.

ctypes over libc: it releases the GIL during a call, and needs no compiler.
See ``man 2 mmap``, ``man 2 madvise`` and ``man 5 proc`` (``/proc/PID/pagemap``).
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys

import numpy as np

__all__ = [
    "HUGE_PAGE_BYTES",
    "PAGE_BYTES",
    "advise",
    "bytes_at",
    "can_remap",
    "compare",
    "has_private_pages",
    "map_file",
    "move",
    "protect",
    "reserve",
    "resident_bytes",
    "touch",
    "trim_heap",
    "unmap",
]

PAGE_BYTES = mmap.PAGESIZE
# Huge pages are 2 MiB on x86-64 and on arm64 with 4 KiB pages. Elsewhere this is
# only a coarser alignment than needed.
HUGE_PAGE_BYTES = 2 << 20

MADV_NORMAL = 0
MADV_SEQUENTIAL = 2
MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25  # Linux 6.1

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MAP_FAILED = ctypes.c_void_p(-1).value
_PORTABLE_VARIABLE = "SKL_MMAP_PORTABLE"

# /proc/PID/pagemap: one 64-bit word per page.
_PAGEMAP_FILE_PAGE = np.uint64(1 << 61)
_PAGEMAP_HAS_PAGE = np.uint64(3 << 62)  # present or swapped
_PAGEMAP_CHUNK_PAGES = 1 << 13


def can_remap() -> bool:
    """Whether pages of one file can be mapped next to each other here.

    True on Linux with /proc, unless the environment variable
    ``SKL_MMAP_PORTABLE`` is set to something other than ``0``: then segments are
    named temporary files and folds are copied, as on other systems.
    """
    if os.environ.get(_PORTABLE_VARIABLE, "0") not in ("", "0"):
        return False
    return _system_can_remap()


@functools.cache
def _system_can_remap() -> bool:
    return (
        sys.platform == "linux"
        and hasattr(os, "memfd_create")
        and os.path.exists("/proc/self/fd")
        and os.access("/proc/self/pagemap", os.R_OK)
    )


@functools.cache
def _libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    pointer, size, number = ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int
    libc.mmap.restype = pointer
    libc.mmap.argtypes = [pointer, size, number, number, number, ctypes.c_int64]
    libc.munmap.argtypes = [pointer, size]
    libc.mprotect.argtypes = [pointer, size, number]
    libc.madvise.argtypes = [pointer, size, number]
    libc.memcmp.argtypes = [pointer, pointer, size]
    libc.memmove.argtypes = [pointer, pointer, size]
    libc.memmove.restype = pointer
    return libc


def _os_error(action: str, n_bytes: int) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{action} of {n_bytes} bytes: {os.strerror(number)}")


def reserve(n_bytes: int) -> int:
    """Reserve addresses that nothing may touch yet, and return the first.

    Costs no memory, and nothing under strict overcommit either, because pages that
    cannot be accessed are not charged.
    """
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_NORESERVE
    address = _libc().mmap(None, n_bytes, 0, flags, -1, 0)
    if address == _MAP_FAILED:
        raise _os_error("reservation", n_bytes)
    return int(address)


def map_file(
    address: int,
    n_bytes: int,
    fd: int,
    file_offset: int,
    *,
    writable: bool,
    shared: bool = False,
) -> None:
    """Map part of a file over addresses reserved before.

    Private unless `shared`: what is written goes to pages of this process alone.
    """
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    flags = _MAP_FIXED | (
        mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | _MAP_NORESERVE
    )
    found = _libc().mmap(address, n_bytes, protection, flags, fd, file_offset)
    if found == _MAP_FAILED:
        raise _os_error("mapping", n_bytes)


def protect(address: int, n_bytes: int, *, writable: bool) -> None:
    """Make pages readable, and writable if asked."""
    protection = mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)
    if _libc().mprotect(address, n_bytes, protection):
        raise _os_error("protection", n_bytes)


def unmap(address: int, n_bytes: int) -> None:
    """Give addresses back."""
    if _libc().munmap(address, n_bytes):  # pragma: no cover - a bug of the caller
        raise _os_error("unmapping", n_bytes)


def advise(address: int, n_bytes: int, advice: int) -> bool:
    """Advise the kernel; False where it does not know or cannot follow the advice."""
    return not _libc().madvise(address, n_bytes, advice)


def compare(first: int, second: int, n_bytes: int) -> bool:
    """Whether two ranges of memory hold the same bytes (about 10 GB/s)."""
    return not _libc().memcmp(first, second, n_bytes)


def move(destination: int, source: int, n_bytes: int) -> None:
    """Copy a range of memory."""
    _libc().memmove(destination, source, n_bytes)


def bytes_at(address: int, n_bytes: int) -> ctypes.Array[ctypes.c_char]:
    """Return a buffer over memory that somebody else keeps alive."""
    return (ctypes.c_char * n_bytes).from_address(address)


def trim_heap() -> None:
    """Give memory that was freed back to the system, where the C library can.

    glibc keeps freed blocks of up to 32 MB: the index arrays of folds, for example,
    long after they were replaced by runs.
    """
    trim = getattr(_libc(), "malloc_trim", None)
    if trim is not None:
        trim(0)


def touch(address: int) -> None:
    """Write one zero byte, so that its page exists."""
    ctypes.memset(address, 0, 1)


def has_private_pages(address: int, n_bytes: int) -> bool:
    """Whether any page of a private file mapping was written to.

    Pages that were only read still belong to the file (bit 61 of the page's word
    in /proc/self/pagemap); a write replaces them by anonymous ones. Not the
    ``Private_Dirty`` of smaps, which counts untouched tmpfs pages as well.

    Where pagemap cannot be read, the answer is True: no promise can be made.
    """
    private_bytes, _ = resident_bytes(address, n_bytes, stop_at_first=True)
    return private_bytes > 0


def resident_bytes(
    address: int, n_bytes: int, *, stop_at_first: bool = False
) -> tuple[int, int]:
    """Count the pages of a private file mapping that are there.

    Parameters
    ----------
    address, n_bytes : int
        The range.
    stop_at_first : bool, default=False
        Whether to count no further than the first private pages.

    Returns
    -------
    private_bytes : int
        Of pages that were written to; all if it cannot be known.
    file_bytes : int
        Of pages that were read, and still are the file's.
    """
    first = address // PAGE_BYTES
    stop = -(-(address + n_bytes) // PAGE_BYTES)
    n_private = n_file = 0
    try:
        with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
            for start in range(first, stop, _PAGEMAP_CHUNK_PAGES):
                n_pages = min(_PAGEMAP_CHUNK_PAGES, stop - start)
                raw = os.pread(pagemap.fileno(), 8 * n_pages, 8 * start)
                words = np.frombuffer(raw, dtype=np.uint64)
                if len(words) < n_pages:
                    return n_bytes, 0
                exists = (words & _PAGEMAP_HAS_PAGE) != 0
                of_file = (words & _PAGEMAP_FILE_PAGE) != 0
                n_private += int(np.count_nonzero(exists & ~of_file))
                n_file += int(np.count_nonzero(exists & of_file))
                if n_private and stop_at_first:
                    break
    except OSError:  # hardened systems, or no file descriptor left
        return n_bytes, 0
    return n_private * PAGE_BYTES, n_file * PAGE_BYTES
