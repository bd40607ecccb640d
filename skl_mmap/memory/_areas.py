"""What the kernel says about the memory areas of this process: /proc/self/maps.

See ``man 5 proc``; the flags come from the lines "VmFlags" of /proc/self/smaps.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

__all__ = ["Area", "areas_between", "is_mapped_at", "offset_in_file"]


class Area(NamedTuple):
    """A range of addresses that the kernel treats alike.

    Attributes
    ----------
    start, stop : int
        Its addresses.
    permissions : str
        For example ``"rw-p"``; the last letter is ``"s"`` for shared memory.
    file_offset : int
        Place of its first byte in the file.
    device : tuple of (int, int)
        Major and minor number of the file's device.
    inode : int
        Of the file; 0 for anonymous memory.
    flags : frozenset of str
        Two letters each; empty if they were not asked for.
    """

    start: int
    stop: int
    permissions: str
    file_offset: int
    device: tuple[int, int]
    inode: int
    flags: frozenset[str] = frozenset()


def areas_between(start: int, stop: int, *, with_flags: bool = False) -> Iterator[Area]:
    """Yield the areas that overlap ``[start, stop)``, in order."""
    area = None
    # Reading the flags makes the kernel walk all pages of the process.
    with open("/proc/self/smaps" if with_flags else "/proc/self/maps", "rb") as file:
        for line in file:
            words = line.split(None, 5)
            if not words[0].endswith(b":"):
                area = _read_area(words)
                if area.start >= stop:
                    return
                if not with_flags and area.stop > start:
                    yield area
            elif words[0] == b"VmFlags:" and area is not None and area.stop > start:
                flags = (word.decode() for word in line.split()[1:])
                yield area._replace(flags=frozenset(flags))


def _read_area(words: list[bytes]) -> Area:
    place, permissions, offset, device, inode = words[:5]
    start, stop = (int(number, 16) for number in place.split(b"-"))
    major, minor = (int(number, 16) for number in device.split(b":"))
    return Area(
        start, stop, permissions.decode(), int(offset, 16), (major, minor), int(inode)
    )


def offset_in_file(address: int, identity: tuple[int, int]) -> int | None:
    """Return the place in a file of a mapped address, as the kernel sees it.

    Parameters
    ----------
    address : int
        Any address.
    identity : tuple of (int, int)
        Device and inode of the file.

    Returns
    -------
    int or None
        None if something else lies there.
    """
    for area in areas_between(address, address + 1):
        if _is_of(area, identity):
            return area.file_offset + address - area.start
    return None


def is_mapped_at(
    start: int, stop: int, file_offset: int, identity: tuple[int, int]
) -> bool:
    """Whether ``[start, stop)`` is a mapping of a file from `file_offset` on."""
    place = start
    for area in areas_between(start, stop):
        is_expected = (
            area.start <= place
            and _is_of(area, identity)
            and area.file_offset - area.start == file_offset - start
        )
        if not is_expected:
            return False
        place = area.stop
    return place >= stop


def _is_of(area: Area, identity: tuple[int, int]) -> bool:
    device, inode = identity
    return area.inode == inode and area.device == (os.major(device), os.minor(device))
