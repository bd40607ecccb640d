"""The kernel's own account of memory: the control group that a process is in.

::

    find_group ............. its folder, version 1 or 2
    memory.stat ............ private, shared, page cache      (both versions)
    memory.max_usage_in_bytes, memory.peak .... peak, page cache included
    memory.limit_in_bytes, memory.max ......... where the kernel ends a process

It also sees processes that have left the tree, but cannot tell whose memory is whose,
and others may be in the same group: it is reported beside the tree, not instead of it.

The sampler runs this file too: nothing but the standard library and its neighbours may
be imported.
"""

from __future__ import annotations

import os

from skl_mmap._linux.proc import find_group, read_file

GroupNumbers = tuple[int, int]
"""Committed bytes (private, shared and swapped), and bytes of page cache."""

# What version 1 writes for "no limit" depends on the page size, and is near 2 ** 63.
_UNLIMITED_BYTES = 1 << 60
_PRIVATE = {1: (b"total_rss", b"total_shmem", b"total_swap"), 2: (b"anon", b"shmem")}
_CACHE = {1: (b"total_cache", b"total_shmem"), 2: (b"file", b"shmem")}
_PEAK = {1: "memory.max_usage_in_bytes", 2: "memory.peak"}
_LIMIT = {1: "memory.limit_in_bytes", 2: "memory.max"}
_KILLS = {1: "memory.oom_control", 2: "memory.events"}


class ControlGroup:
    """The memory of one control group and those below it; OSError if out of sight.

    A reading takes 10 microseconds with version 1 of the control groups, and up to 200
    with version 2. Holds one file descriptor until `close`.
    """

    def __init__(self, folder: str, version: int) -> None:
        self.folder = folder
        self.version = version
        self._stat = os.open(os.path.join(folder, "memory.stat"), os.O_RDONLY)

    def close(self) -> None:
        """Let go of the group."""
        os.close(self._stat)

    def read(self) -> GroupNumbers:
        """Read what is charged to the group now; OSError if the group is gone."""
        text = os.pread(self._stat, 1 << 16, 0)
        numbers = dict(line.split(b" ", 1) for line in text.splitlines())
        committed = sum(int(numbers.get(name, 0)) for name in _PRIVATE[self.version])
        if self.version == 2:
            committed += self._read_number("memory.swap.current") or 0
        # Memory files count as page cache too.
        cache, shared = (int(numbers.get(name, 0)) for name in _CACHE[self.version])
        return committed, max(0, cache - shared)

    def read_peak_bytes(self) -> int | None:
        """Return the kernel's own peak since the group was made; None if unknown."""
        return self._read_number(_PEAK[self.version])

    def read_limit_bytes(self) -> int | None:
        """Return the limit of the group itself; None if there is none."""
        n_bytes = self._read_number(_LIMIT[self.version])
        return None if n_bytes is None or n_bytes >= _UNLIMITED_BYTES else n_bytes

    def count_kills(self) -> int:
        """Return how many processes the kernel has ended for want of memory."""
        for line in self._read_text(_KILLS[self.version]).splitlines():
            name, _, number = line.partition(b" ")
            if name == b"oom_kill":
                return int(number)
        return 0

    def list_pids(self) -> list[int]:
        """Return the processes of the group itself."""
        return [int(pid) for pid in self._read_text("cgroup.procs").split()]

    def _read_number(self, name: str) -> int | None:
        text = self._read_text(name).strip()
        return int(text) if text.isdigit() else None

    def _read_text(self, name: str) -> bytes:
        try:
            return read_file(os.path.join(self.folder, name))
        except OSError:
            return b""


def count_own_kills() -> int:
    """Return how many processes the kernel has ended in the group of this process.

    For want of memory, since the group was made; 0 where that is not known.
    """
    found = find_group(os.getpid())
    if found is None:
        return 0
    try:
        group = ControlGroup(*found)
    except OSError:
        return 0
    n_kills = group.count_kills()
    group.close()
    return n_kills
