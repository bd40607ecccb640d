"""The few calls of the C library that Python has no name for.

ctypes releases the GIL during a call, and needs no compiler. See ``man 2 mmap``,
``man 2 madvise``, ``man 2 prctl`` and ``man 3 mallopt``.

Only the standard library is imported: ``skl-mmap run`` loads this file by its path.
"""

from __future__ import annotations

import ctypes
import functools
import mmap
import os
import sys
from collections.abc import Callable
from typing import Any

# Huge pages are 2 MiB on x86-64 and on arm64 with 4 KiB pages. Elsewhere this is
# only a coarser alignment than needed.
HUGE_PAGE_BYTES = 2 << 20

MADV_NORMAL = 0
MADV_SEQUENTIAL = 2
MADV_HUGEPAGE = 14
MADV_COLLAPSE = 25  # Linux 6.1

_MAP_FIXED = 0x10
_MAP_NORESERVE = 0x4000
_MREMAP_FIXED = 3  # with MREMAP_MAYMOVE, which it needs
_MAP_FAILED = ctypes.c_void_p(-1).value
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_THP_DISABLE = 41
_M_MMAP_THRESHOLD = -3


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


# ---------------------------------------------------------------- mappings


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
    flags = _MAP_FIXED | (
        mmap.MAP_SHARED if shared else mmap.MAP_PRIVATE | _MAP_NORESERVE
    )
    protection = _protection(writable=writable)
    found = _libc().mmap(address, n_bytes, protection, flags, fd, file_offset)
    if found == _MAP_FAILED:
        raise _os_error("mapping", n_bytes)


def private_block(n_bytes: int) -> mmap.mmap:
    """Return private memory that goes back to the system as soon as it is closed.

    What the C library frees may stay in its heap.
    """
    if not hasattr(mmap, "MAP_ANONYMOUS"):  # on Windows
        return mmap.mmap(-1, n_bytes)
    return mmap.mmap(-1, n_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def protect(address: int, n_bytes: int, *, writable: bool) -> None:
    """Make pages readable, and writable if asked."""
    if _libc().mprotect(address, n_bytes, _protection(writable=writable)):
        raise _os_error("protection", n_bytes)


def _protection(*, writable: bool) -> int:
    return mmap.PROT_READ | (mmap.PROT_WRITE if writable else 0)


def unmap(address: int, n_bytes: int) -> None:
    """Give addresses back."""
    if _libc().munmap(address, n_bytes):  # pragma: no cover - a bug of the caller
        raise _os_error("unmapping", n_bytes)


def make_private(address: int, n_bytes: int, *, writable: bool) -> None:
    """Replace pages by anonymous ones with the same contents, all at once."""
    copied = reserve(n_bytes)
    try:
        protect(copied, n_bytes, writable=True)
        move(copied, address, n_bytes)
        protect(copied, n_bytes, writable=writable)
        remap = _libc().mremap
        size, pointer = ctypes.c_size_t, ctypes.c_void_p
        remap.restype, remap.argtypes = pointer, [pointer, size, size, ctypes.c_int]
        arguments = copied, n_bytes, n_bytes, _MREMAP_FIXED
        if remap(*arguments, pointer(address)) == _MAP_FAILED:
            raise _os_error("replacement", n_bytes)
    except OSError:
        unmap(copied, n_bytes)
        raise


def advise(address: int, n_bytes: int, advice: int) -> bool:
    """Advise the kernel; False where it does not know or cannot follow the advice."""
    return not _libc().madvise(address, n_bytes, advice)


# ------------------------------------------------------------------- bytes


def compare(first: int, second: int, n_bytes: int) -> bool:
    """Compare two ranges of memory: True if they hold the same bytes (10 GB/s)."""
    return not _libc().memcmp(first, second, n_bytes)


def move(destination: int, source: int, n_bytes: int) -> None:
    """Copy a range of memory."""
    _libc().memmove(destination, source, n_bytes)


def bytes_at(address: int, n_bytes: int) -> ctypes.Array[ctypes.c_char]:
    """Return a buffer over memory that somebody else keeps alive."""
    return (ctypes.c_char * n_bytes).from_address(address)


def write_zero(address: int) -> None:
    """Overwrite one byte with zero, so that its page exists."""
    ctypes.memset(address, 0, 1)


# -------------------------------------------------------------------- heap


def trim_heap() -> None:
    """Give memory that was freed back to the system, where the C library can.

    glibc keeps freed blocks of up to 32 MB: the index arrays of folds, for example,
    long after they were replaced by runs.
    """
    _call_if_there("malloc_trim", 0)


def use_own_mappings(min_bytes: int) -> bool:
    """Make each block from this size on a mapping of its own; False if that fails."""
    return bool(_call_if_there("mallopt", _M_MMAP_THRESHOLD, min_bytes))


def _call_if_there(name: str, *arguments: int) -> int:
    """Call a function that not every C library has; 0 without it."""
    function = getattr(_libc(), name, None) if os.name == "posix" else None
    return 0 if function is None else int(function(*arguments))


# ---------------------------------------------------------------- processes


def set_parent_death_signal(number: int) -> bool:
    """Have the kernel send a signal to this process when its parent *thread* ends.

    Returns
    -------
    bool
        False where the kernel cannot. A parent that has ended already is not noticed:
        compare ``os.getppid()`` afterwards.
    """
    return _prctl(_PR_SET_PDEATHSIG, number)


def set_child_subreaper(*, is_on: bool) -> bool:
    """Make processes that lose their parent children of this one, where that works."""
    return _prctl(_PR_SET_CHILD_SUBREAPER, int(is_on))


def disable_huge_pages() -> bool:
    """Give this process and its children memory in small pages only."""
    return _prctl(_PR_SET_THP_DISABLE, 1)


def _prctl(option: int, argument: int) -> bool:
    if sys.platform != "linux":
        return False
    return not _libc().prctl(option, argument, 0, 0, 0)


# ------------------------------------------------- memory functions of NumPy

_MALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.PYFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
)
_REALLOC = ctypes.PYFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)
# PYFUNCTYPE: the originals are called with the GIL, which calloc gives up and takes
# again by itself.
_KINDS = {"malloc": _MALLOC, "calloc": _CALLOC, "realloc": _REALLOC}

Functions = tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]
"""malloc(ctx, size), calloc(ctx, n, size) and realloc(ctx, address, size)."""


class MemoryHandler(ctypes.Structure):
    """PyDataMem_Handler of numpy/ndarraytypes.h, its functions as plain addresses."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("ctx", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )

    def replace(self, make: Callable[..., Functions]) -> Callable[[], None]:
        """Replace the three functions that hand out memory.

        Parameters
        ----------
        make : callable
            Takes the present functions, and returns those to be called instead.

        Returns
        -------
        callable
            Puts the present functions back.
        """
        before = {name: getattr(self, name) for name in _KINDS}
        made = make(*(kind(before[name]) for name, kind in _KINDS.items()))
        kinds = zip(_KINDS.values(), made, strict=True)
        callbacks = [kind(function) for kind, function in kinds]
        for name, callback in zip(_KINDS, callbacks, strict=True):
            setattr(self, name, ctypes.cast(callback, ctypes.c_void_p).value)

        # Its default keeps the callbacks alive: another thread may be in one of them.
        def put_back(_: object = callbacks) -> None:
            for name, address in before.items():
                setattr(self, name, address)

        return put_back


def memory_handler(table: object, slot: int) -> MemoryHandler:
    """Call ``PyDataMem_GetHandler``, and return the struct that it is about.

    Parameters
    ----------
    table : capsule
        NumPy's table of C functions.
    slot : int
        Place of the function in it.
    """
    address = ctypes.cast(_pointer_in(table), ctypes.POINTER(ctypes.c_void_p))[slot]
    capsule = ctypes.PYFUNCTYPE(ctypes.py_object)(address)()
    return MemoryHandler.from_address(_pointer_in(capsule))


def _pointer_in(capsule: object) -> int:
    api = ctypes.pythonapi
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
        ("PyCapsule_GetName", api)
    )
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    return int(get_pointer(capsule, get_name(capsule)))
