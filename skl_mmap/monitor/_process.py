"""One process of the tree: its memory, and whether that is its own.

The sampler runs this file too: nothing but the standard library and its neighbours may
be imported.
"""

from __future__ import annotations

import os
import time

from skl_mmap._linux.proc import PAGE_BYTES, ProcessFolder, find_bytes

Inode = tuple[int, int]
"""Device and number: what a file is, whatever it is called."""

ProcessNumbers = tuple[int, str, int, int, int]
"""Number, name, private bytes, resident shared bytes, resident file bytes."""

SAMPLER_MARK = "skl_mmap-memory-sampler"
"""Last argument of every sampler: none of them is part of what they measure."""

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100

# What may become shared or mapped unseen until `read_memory` looks closely again.
_UNSEEN_BYTES = 256 * PAGE_BYTES

# Between fork and exec a child shows its parent's memory as its own. At 10 ms a
# reading falls into that gap sooner or later and would see all of X twice.
_EXEC_GRACE_SECONDS = 0.25


class Process:
    """One process of the tree; OSError if there is none of this number.

    Holds two file descriptors until `close`. `parent` is None for the root of the tree.

    Attributes
    ----------
    is_counted : bool
        False for samplers, which do not measure themselves.
    is_forked : bool
        Whether it was forked and has not called exec, so that its private pages
        are its parent's until one of them writes.
    is_hidden : bool
        Whether its open files may not be seen.
    start_time : float
        When it was started, in seconds since the epoch.
    files : dict of Inode to str
        Its open tmpfs and memfd files, and where each was seen.
    """

    __slots__ = (
        "_folder",
        "_grace_end",
        "_image",
        "_known",
        "_n_files",
        "_private_at_fork",
        "files",
        "is_counted",
        "is_forked",
        "is_hidden",
        "pid",
        "start_time",
    )

    def __init__(self, pid: int, parent: Process | None = None) -> None:
        self.pid = pid
        self._folder = ProcessFolder(pid)
        self.files: dict[Inode, str] = {}
        self._n_files = -1
        self.is_hidden = False
        self.is_forked = False
        self._image = b""
        self._grace_end = 0.0
        self._private_at_fork = -1
        # What was seen at the last close look.
        self._known: ProcessNumbers | None = None
        try:
            self._identify(parent)
        except BaseException:
            self.close()
            raise

    def _identify(self, parent: Process | None) -> None:
        age_seconds = self._read_age_seconds()
        self.start_time = time.time() - age_seconds
        self._image = self._read_image()
        if parent is not None and self._image and self._image == parent._image:
            self.is_forked = True
            self._grace_end = time.monotonic() + _EXEC_GRACE_SECONDS - age_seconds
        self.is_counted = self.is_forked or not self._is_sampler()

    def close(self) -> None:
        """Let go of the folder."""
        self._folder.close()

    def read_memory(self, *, quickly: bool = False) -> ProcessNumbers | None:
        """Read the memory of the process now; OSError if it is gone.

        None for a process that has ended and not been waited for. If `quickly`, only
        private memory has to be exact, and none of it is swapped: of the rest, 1 MiB
        may have come or gone since the last close look.

        2 microseconds whatever the size, if `quickly`; 15 otherwise; 12 ms per
        resident GB for a process that was forked without exec, where only the kernel's
        page walk tells its pages from its parent's.
        """
        if quickly and not self.is_forked and self._known is not None:
            resident, others = self._folder.read_counts()
            pid, name, _, shared, of_files = self._known
            if others and abs(others - shared - of_files) <= _UNSEEN_BYTES:
                return pid, name, resident - others, shared, of_files
        return self._look_closely()

    def _look_closely(self) -> ProcessNumbers | None:
        """Read everything; see `read_memory`."""
        if self.is_forked:
            # Before the numbers: the other way round, an exec in between would make
            # the parent's memory its own.
            self._notice_exec()
        text = self._folder.read("status")
        if b"\nRssAnon:" not in text:
            return None
        private = find_bytes(text, b"\nRssAnon:") + find_bytes(text, b"\nVmSwap:")
        if self.is_forked:
            private = self._tell_from_parent(private)
        numbers = (
            self.pid,
            text[5 : text.index(b"\n")].strip().decode(errors="replace"),
            private,
            find_bytes(text, b"\nRssShmem:"),
            find_bytes(text, b"\nRssFile:"),
        )
        self._known = numbers
        return numbers

    def read_cpu_seconds(self) -> float:
        """Return the CPU time of all its threads, dead ones too, but of no children.

        OSError if it is gone. The kernel's unit is 10 ms nearly everywhere.
        """
        fields = self._folder.read_stat()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def _notice_exec(self) -> None:
        # Nothing to read means that it is about to end, with its parent's memory.
        if (image := self._read_image()) and image != self._image:
            self._image = image
            self.is_forked = False
            self.is_counted = not self._is_sampler()

    def _tell_from_parent(self, private: int) -> int:
        """Subtract what is still the parent's from a forked process's private bytes."""
        if time.monotonic() < self._grace_end:
            if self._private_at_fork < 0:
                self._private_at_fork = private
            return max(0, private - self._private_at_fork)
        try:
            text = self._folder.read("smaps_rollup")
        except PermissionError:
            return private
        # Both are upper bounds. Pss_Anon has a share of the parent's pages in it,
        # Private_Dirty has shared memory that happens to be mapped here only.
        own = min(
            find_bytes(text, b"\nPss_Anon:"), find_bytes(text, b"\nPrivate_Dirty:")
        )
        return min(private, own + find_bytes(text, b"\nSwapPss:"))

    def find_children(self) -> list[int]:
        """List the processes it started that are still its own; see `ProcessFolder`."""
        return self._folder.find_children()

    def refresh_files(self, devices: frozenset[int], *, anyway: bool) -> None:
        """Look for open files on these devices, which are memory file systems.

        3 microseconds if their number is as before (Linux 6.2 and later), which is
        looked at no further unless `anyway`; 7 for each open file otherwise.
        """
        try:
            n_files = self._folder.count_files()
            if not anyway and n_files == self._n_files and n_files > 0:
                return
            files = self._folder.list_files()
        except PermissionError:
            self.is_hidden = True
            return
        except OSError:
            self.files = {}
            return
        self._n_files = n_files
        self.files = {
            (found.st_dev, found.st_ino): name
            for name, found in files
            if found.st_dev in devices
        }

    def count_blocks(self, inode: Inode) -> int | None:
        """Return the allocated bytes of an open file; None if it is open no longer."""
        try:
            found = self._folder.stat_file(self.files[inode])
        except OSError:
            return None
        if (found.st_dev, found.st_ino) != inode:
            return None
        return found.st_blocks * 512

    def _read_image(self) -> bytes:
        """Return something that every exec changes and every fork keeps.

        The auxiliary vector has the addresses that exec drew at random.
        """
        try:
            return self._folder.read("auxv")
        except PermissionError:
            return b""

    def _read_age_seconds(self) -> float:
        start_seconds = int(self._folder.read_stat()[19]) / _TICKS_PER_SECOND
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start_seconds

    def _is_sampler(self) -> bool:
        try:
            text = self._folder.read("cmdline")
        except OSError:
            return False
        return text.endswith(b"\0" + SAMPLER_MARK.encode() + b"\0")
