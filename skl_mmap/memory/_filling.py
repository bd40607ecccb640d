"""Copying memory into the file of a segment, as fast as the kernel can take it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls

# Enough for the kernel to work at full speed, little enough to look at the clock.
_FILL_CHUNK_BYTES = 16 << 20
# Making huge pages is given up when it takes longer than writing small ones does. In
# fragmented memory the kernel would spend ten times as long on moving pages about.
_MIN_HUGE_PAGE_RATE = 2e9  # bytes per second
_HUGE_PAGE_PATIENCE_SECONDS = 0.02
_WRITE_CHUNK_BYTES = 8 << 20


def fill_array(fd: int, data: npt.NDArray[Any], *, can_use_huge_pages: bool) -> None:
    """Write the bytes of an array, whatever its strides, to the front of a file."""
    if _is_contiguous(data):
        address = data.__array_interface__["data"][0]
        fill_range(fd, 0, address, data.nbytes, can_use_huge_pages=can_use_huge_pages)
    else:
        write_array(fd, data, 0)


def fill_range(
    fd: int, file_offset: int, address: int, n_bytes: int, *, can_use_huge_pages: bool
) -> None:
    """Write bytes of memory to a place in a file, in huge pages if it is a memfd."""
    done = 0
    if can_use_huge_pages and file_offset % calls.HUGE_PAGE_BYTES == 0:
        done = _fill_huge_pages(fd, file_offset, address, n_bytes)
    for start in range(done, n_bytes, _WRITE_CHUNK_BYTES):
        chunk_bytes = min(_WRITE_CHUNK_BYTES, n_bytes - start)
        _write_memory(fd, address + start, chunk_bytes, file_offset + start)


def write_buffer(fd: int, data: memoryview, file_offset: int) -> None:
    """Write bytes to a place in a file."""
    done = 0
    while done < data.nbytes:
        # In parts, so that signals are heard in between.
        part = data[done : done + _WRITE_CHUNK_BYTES]
        done += os.pwrite(fd, part, file_offset + done)


def _fill_huge_pages(fd: int, file_offset: int, source: int, n_bytes: int) -> int:
    """Fill part of a memfd in huge pages, and return how many bytes that were.

    Ordinary tmpfs pages cost more to allocate than to fill, and make random access
    slower than in numpy's own arrays. MADV_COLLAPSE makes one huge page out of 512
    small ones; as only the first of them exists yet, there is nothing to copy, and
    the data is then written at full speed. Needs Linux 6.1 but no system setting.
    """
    front_bytes = n_bytes - n_bytes % calls.HUGE_PAGE_BYTES
    if not front_bytes:
        return 0
    reserved_bytes = front_bytes + calls.HUGE_PAGE_BYTES
    try:
        reserved = calls.reserve(reserved_bytes)
    except OSError:
        return 0
    try:
        address = -(-reserved // calls.HUGE_PAGE_BYTES) * calls.HUGE_PAGE_BYTES
        calls.map_file(
            address, front_bytes, fd, file_offset, writable=True, shared=True
        )
        return _collapse_and_copy(source, address, front_bytes)
    except OSError:
        return 0  # no room for the mapping: all of it is written in small pages
    finally:
        calls.unmap(reserved, reserved_bytes)


def _collapse_and_copy(source: int, address: int, n_bytes: int) -> int:
    spare_seconds = _HUGE_PAGE_PATIENCE_SECONDS
    begin = 0
    while begin < n_bytes and spare_seconds > 0:
        chunk_bytes = min(_FILL_CHUNK_BYTES, n_bytes - begin)
        started = time.perf_counter()
        for huge_page in range(begin, begin + chunk_bytes, calls.HUGE_PAGE_BYTES):
            calls.write_zero(address + huge_page)
        if not calls.advise(address + begin, chunk_bytes, calls.MADV_COLLAPSE):
            break
        spare_seconds += chunk_bytes / _MIN_HUGE_PAGE_RATE
        spare_seconds -= time.perf_counter() - started
        calls.move(address + begin, source + begin, chunk_bytes)
        begin += chunk_bytes
    return begin


def _is_contiguous(data: npt.NDArray[Any]) -> bool:
    return data.flags.c_contiguous or data.flags.f_contiguous


def stored_order(data: npt.NDArray[Any]) -> str:
    """The order, "C" or "F", in which an array's elements are stored."""
    return "F" if data.flags.f_contiguous and not data.flags.c_contiguous else "C"


def iterate_stored(
    data: npt.NDArray[Any], chunk_bytes: int
) -> Iterator[tuple[int, int]]:
    """Yield address and size of an array's bytes in the order they are stored in.

    Contiguous arrays are walked through where they lie; of others, so many rows are
    made contiguous at a time.
    """
    if _is_contiguous(data):
        address = data.__array_interface__["data"][0]
        for start in range(0, data.nbytes, chunk_bytes):
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


def write_array(fd: int, data: npt.NDArray[Any], file_offset: int) -> None:
    """Write the bytes of an array to a place in a file."""
    for address, n_bytes in iterate_stored(data, _WRITE_CHUNK_BYTES):
        _write_memory(fd, address, n_bytes, file_offset)
        file_offset += n_bytes


def _write_memory(fd: int, address: int, n_bytes: int, file_offset: int) -> None:
    write_buffer(fd, memoryview(calls.bytes_at(address, n_bytes)), file_offset)
