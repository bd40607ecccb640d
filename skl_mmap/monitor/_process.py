"""One process of the tree: its memory, and what it is.

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


class Process:
    """One process of the tree; OSError if there is none of this number.

    Holds two file descriptors until `close`. `parent` is None for the root of the tree.

    Attributes
    ----------
    image : bytes or None
        What every exec changes and every fork keeps; None if it may not be seen, empty
        if there is none now.
    is_counted : bool
        False for samplers, which do not measure themselves.
    n_faults : int
        How many page faults it has had, as of the last `read_cpu_seconds`.
    is_hidden : bool
        Whether its open files may not be seen.
    start_time : float
        When it was started, in seconds since the epoch.
    files : dict of Inode to str
        Its open tmpfs and memfd files, and where each was seen.
    """

    __slots__ = (
        "_folder",
        "_known",
        "_n_files",
        "files",
        "image",
        "is_counted",
        "is_hidden",
        "n_faults",
        "pid",
        "start_time",
    )

    def __init__(self, pid: int, parent: Process | None = None) -> None:
        self.pid = pid
        self._folder = ProcessFolder(pid)
        self.files: dict[Inode, str] = {}
        self._n_files = -1
        self.is_hidden = False
        self.n_faults = 0
        # What was seen at the last close look.
        self._known: ProcessNumbers | None = None
        try:
            self._identify(parent)
        except BaseException:
            self.close()
            raise

    def _identify(self, parent: Process | None) -> None:
        self.start_time = time.time() - self._read_age_seconds()
        self.image = self._read_image()
        is_fork = parent is not None and self.image == parent.image
        # Before its exec, a sampler-to-be looks like its parent, and so does any child.
        self.is_counted = (is_fork and bool(self.image)) or not self._is_sampler()

    def close(self) -> None:
        """Let go of the folder."""
        self._folder.close()

    def read_memory(self, *, quickly: bool = False) -> ProcessNumbers | None:
        """Read the memory of the process now; OSError if it is gone.

        None for a process that has ended and not been waited for. If `quickly`, only
        private memory has to be exact, and none of it is swapped: of the rest, 1 MiB
        may have come or gone since the last close look.

        Pages that it shares with processes it was forked from, or has forked, are
        private pages of each: `_family` tells them apart.

        2 microseconds whatever the size, if `quickly`; 15 otherwise.
        """
        if quickly and self._known is not None:
            resident, others = self._folder.read_counts()
            pid, name, _, shared, of_files = self._known
            if others and abs(others - shared - of_files) <= _UNSEEN_BYTES:
                return pid, name, resident - others, shared, of_files
        return self._look_closely()

    def _look_closely(self) -> ProcessNumbers | None:
        """Read everything; see `read_memory`."""
        text = self._folder.read("status")
        if b"\nRssAnon:" not in text:
            return None
        numbers = (
            self.pid,
            text[5 : text.index(b"\n")].strip().decode(errors="replace"),
            find_bytes(text, b"\nRssAnon:") + find_bytes(text, b"\nVmSwap:"),
            find_bytes(text, b"\nRssShmem:"),
            find_bytes(text, b"\nRssFile:"),
        )
        self._known = numbers
        return numbers

    def read_borrowed(self) -> int | None:
        """Read the part of its private pages that is others'; None if it is not told.

        See `ProcessFolder.read_borrowed`. OSError if it is gone.
        """
        try:
            return self._folder.read_borrowed()
        except PermissionError:
            return None

    def read_cpu_seconds(self) -> float:
        """Return the CPU time of all its threads, dead ones too, but of no children.

        OSError if it is gone. The kernel's unit is 10 ms nearly everywhere.
        """
        fields = self._folder.read_stat()
        self.n_faults = int(fields[7]) + int(fields[9])
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_SECOND

    def notice_exec(self) -> bool:
        """Return whether it has called exec, or has ended, since it was last asked."""
        image = self._read_image()
        if image == self.image:
            return False
        self.image = image
        self.is_counted = not self._is_sampler()
        return True

    def is_fork_of_parent(self) -> bool:
        """Return whether it was forked from its present parent without an exec."""
        try:
            folder = ProcessFolder(int(self._folder.read_stat()[1]))
        except OSError:
            return False
        try:
            return bool(self.image) and folder.read("auxv") == self.image
        except OSError:
            return False
        finally:
            folder.close()

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

    def _read_image(self) -> bytes | None:
        """Return something that every exec changes and every fork keeps.

        The auxiliary vector has the addresses that exec drew at random. None if it may
        not be seen; empty in the middle of an exec, and when the process ends.
        """
        try:
            image = self._folder.read("auxv")
        except PermissionError:
            return None
        return image if image.strip(b"\0") else b""

    def _read_age_seconds(self) -> float:
        start_seconds = int(self._folder.read_stat()[19]) / _TICKS_PER_SECOND
        return time.clock_gettime(time.CLOCK_BOOTTIME) - start_seconds

    def _is_sampler(self) -> bool:
        try:
            text = self._folder.read("cmdline")
        except OSError:
            return False
        return text.endswith(b"\0" + SAMPLER_MARK.encode() + b"\0")
