"""Sharing in place: the memory of an ndarray becomes pages of a segment.

A large array lies in a chunk that glibc took from the kernel for it alone::

    page 0                      page 1 ...                        last page
    |16 bytes of glibc| data ... data ... data ... data ...| unused |
                                |<- these pages: copied to a memfd, a few MiB at ->|
                                    a time, and replaced by a mapping of it

The array keeps its address and is written to as before: its own writes are private to
it (copy-on-write). Page 0 stays what it was, because glibc keeps its notes there, and
because the kernel then refuses to grow the chunk, half of which is a file, in place
(``mremap``): glibc's ``realloc`` copies instead. ``free`` unmaps the chunk as ever.

The layout of a chunk is described in glibc's malloc/malloc.c ("mmapped chunks").
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap import _compat
from skl_mmap._linux import calls, proc
from skl_mmap._linux.proc import areas_between, is_mapped_at
from skl_mmap.memory._filling import fill_range
from skl_mmap.memory._mapping import Mapping
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._plan import Piece
from skl_mmap.memory._segment import Segment, new_segment
from skl_mmap.memory._settings import Settings

_HEADER_BYTES = 16  # previous size and size of a chunk, on 64-bit systems
_IS_MMAPPED = 2
_SIZE_FLAGS = 7
# Freed pages and filled pages are both there for so much of the array at a time.
_CHUNK_BYTES = 4 << 20
_MIN_BYTES = 1 << 20
_DEFAULT_ALLOCATOR = "default_allocator"
# Locked, not inherited by fork, emptied by fork, watched by userfaultfd, huge TLB,
# or of a device: see "VmFlags" in man 5 proc.
_UNUSUAL_FLAGS = frozenset({"lo", "dc", "wf", "um", "uw", "ht", "io", "pf"})


class _AdoptedMapping(Mapping):
    """The memory of an array that belongs to glibc as before."""

    def is_at(self, start: int, stop: int) -> bool:
        """Look whether the array still is there: it may be freed, moved or cut.

        A weak reference to the array would tell, but forbid ``ndarray.resize``.
        """
        place, end = max(start, self.mapped[0][0]), min(stop, self.mapped[0][1])
        return place < end and is_mapped_at(
            self.address + place,
            self.address + end,
            self.pieces[0].file_offset + place,
            self.segment.identity,
        )


def adopt(
    array: npt.NDArray[Any], placement: Placement, settings: Settings
) -> Mapping | str:
    """Put the memory of an array into a segment, without a second copy of it.

    Nobody else may write to it meanwhile.

    Parameters
    ----------
    array : ndarray
        Any array.
    placement : Placement
        Where the segment lives.
    settings : Settings
        How the array is handed to tasks.

    Returns
    -------
    Mapping or str
        What keeps the array findable: `describe` needs it to be alive. Or why it was
        not done, and the array is as it was.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room. Nothing was changed.

    Notes
    -----
    O(n) in bytes, at about the speed of a copy. At most 4 MiB more than the array
    itself is in use at any moment.
    """
    refusal = find_refusal(array)
    if refusal is not None:
        return refusal
    address = array.__array_interface__["data"][0]
    chunk = address - _HEADER_BYTES
    # Huge pages need the same place in the file and in memory, modulo their size.
    shift = chunk % calls.HUGE_PAGE_BYTES
    end = -(-(address + array.nbytes) // proc.PAGE_BYTES) * proc.PAGE_BYTES
    what = f"an array of shape {array.shape} and dtype {array.dtype}"
    segment = new_segment(shift + end - chunk, placement, what, more_bytes=_CHUNK_BYTES)
    head = min(proc.PAGE_BYTES, end - chunk)
    _fill(segment, shift, chunk, head)
    try:
        for begin, n_bytes in _parts(chunk + head, end):
            offset = begin - chunk + shift
            _fill(segment, offset, begin, n_bytes)
            calls.map_file(begin, n_bytes, segment.fd, offset, writable=True)
    except OSError as error:
        # Every part is whole, either as before or in the file: the array is intact.
        return f"the kernel stopped it ({error.strerror})"
    segment.seal()
    piece = Piece(0, array.nbytes, shift + _HEADER_BYTES)
    mapping = _AdoptedMapping((0, 0), address, [piece], segment, settings)
    mapping.is_writable = True
    mapping.mapped = [(head - _HEADER_BYTES, array.nbytes)]
    return mapping


def _fill(segment: Segment, offset: int, address: int, n_bytes: int) -> None:
    fill_range(
        segment.fd, offset, address, n_bytes, can_use_huge_pages=segment.is_memfd
    )


def _parts(begin: int, end: int) -> Iterator[tuple[int, int]]:
    """Cut a range of addresses at whole multiples of the chunk size."""
    while begin < end:
        stop = min((begin // _CHUNK_BYTES + 1) * _CHUNK_BYTES, end)
        yield begin, stop - begin
        begin = stop


def find_refusal(array: npt.NDArray[Any]) -> str | None:
    """Say why an array's memory cannot be replaced safely; None if it can."""
    if not proc.can_remap() or sys.maxsize < 1 << 32:
        return "this system cannot map pages of a file over it"
    if type(array) is not np.ndarray or array.base is not None:
        return "it is a view, or of a class of its own"
    if not array.flags.owndata:
        return "its memory belongs to something else"
    if array.dtype.hasobject:
        return "it holds Python objects"
    if array.nbytes < _MIN_BYTES:
        return "it is small"
    if _compat.allocator_of(array) != _compat.DEFAULT_ALLOCATOR:
        return "its memory does not come from NumPy's default allocator"
    return _find_foreign_memory(array)


def _find_foreign_memory(array: npt.NDArray[Any]) -> str | None:
    """Check that an array fills a chunk that glibc has mapped for it alone."""
    address = array.__array_interface__["data"][0]
    not_glibc = "it does not lie in a mapping of its own, as large arrays of glibc do"
    if address % proc.PAGE_BYTES != _HEADER_BYTES:
        return not_glibc
    chunk = address - _HEADER_BYTES
    header = bytes(calls.bytes_at(chunk, _HEADER_BYTES))
    chunk_bytes = _compat.mapped_chunk_bytes(header)
    if chunk_bytes is None:
        return not_glibc
    if not 0 <= chunk_bytes - _HEADER_BYTES - array.nbytes < 2 * proc.PAGE_BYTES:
        return not_glibc
    place = chunk
    for area in areas_between(chunk, chunk + chunk_bytes, with_flags=True):
        if area.start > place:
            return not_glibc
        if area.permissions != "rw-p" or area.inode:
            return "its memory is mapped from a file, shared or protected already"
        if unusual := area.flags & _UNUSUAL_FLAGS:
            return f"its memory is locked or special ({', '.join(sorted(unusual))})"
        place = area.stop
    return None if place >= chunk + chunk_bytes else not_glibc
