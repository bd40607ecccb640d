"""Committed memory of a process and all it started, as plain numbers.

::

    /proc/loadavg ............ has anything started since?  If so:
    /proc/PID/task/*/children ........ new processes of the tree
    /proc/PID/statm .................. private memory, every time   (_process.py)
    /proc/PID/status, stat ........... all of it, and CPU time, now and then
    /proc/PID/auxv, smaps_rollup ..... what forks have in common     (_family.py)
    /proc/PID/fd/* ................... shared: tmpfs, memfd inodes  (_process.py)
    /dev/shm/joblib_memmapping_folder_PID_* .... shared too, open or not

The sampler runs this file in an interpreter of its own, without the package around
it: nothing but the standard library and its neighbours may be imported.
"""

from __future__ import annotations

import os
import stat
import time

from skl_mmap._linux.proc import (
    has_children_lists,
    has_swap,
    memory_devices,
    read_last_pid,
    scan_children,
)
from skl_mmap.monitor._family import Families, Late
from skl_mmap.monitor._process import Inode, Process, ProcessNumbers

TreeNumbers = tuple[int, int, int, int, int, float]
"""Committed, private, shared and file bytes, number of processes, CPU seconds."""

_JOBLIB_FOLDER = "joblib_memmapping_folder_"

# How long a change may stay unseen that the cheap signs do not show: a memfd opened
# while another file was closed, a child that the kernel left out of a list.
_FULL_SCAN_SECONDS = 0.05
# The same where the number of open files is known, and so a sign by itself: looking at
# each of them takes most of a reading.
_FILE_SCAN_SECONDS = 0.2


class _JoblibFolders:
    """The folders in memory where joblib keeps arrays for the workers of the tree.

    The files are memory of the tree whether or not a worker has them open just now.
    Nothing else in these places is looked at: it may be anybody's.
    """

    def __init__(self, places: list[str], devices: frozenset[int]) -> None:
        self._changed: dict[str, int] = {}
        for place in places:
            try:
                if os.stat(place).st_dev in devices:
                    self._changed[place] = -1
            except OSError:
                continue
        self._folders: dict[str, list[tuple[int, str]]] = {}

    def add_up(
        self, tree: dict[int, Process], inodes: dict[Inode, int], *, anyway: bool
    ) -> None:
        """Add the files of the folders of the tree's processes to `inodes`."""
        for place, last_change in self._changed.items():
            try:
                change = os.stat(place).st_mtime_ns
                if anyway or change != last_change:
                    self._folders[place] = self._find(place)
                    self._changed[place] = change
            except OSError:
                continue
            for pid, folder in self._folders[place]:
                if pid in tree:
                    self._add_files(folder, tree[pid].start_time, inodes)

    @staticmethod
    def _find(place: str) -> list[tuple[int, str]]:
        found = []
        for name in os.listdir(place):
            if name.startswith(_JOBLIB_FOLDER):
                pid = name[len(_JOBLIB_FOLDER) :].partition("_")[0]
                if pid.isdecimal():
                    found.append((int(pid), os.path.join(place, name)))
        return found

    @staticmethod
    def _add_files(folder: str, start_time: float, inodes: dict[Inode, int]) -> None:
        try:
            # Older than its process: left by a dead one that had the same number.
            if os.stat(folder).st_mtime < start_time - 1.0:
                return
            names = os.listdir(folder)
        except OSError:
            return
        for name in names:
            try:
                found = os.lstat(os.path.join(folder, name))
            except OSError:
                continue
            if stat.S_ISREG(found.st_mode):
                inodes[found.st_dev, found.st_ino] = found.st_blocks * 512


class ProcessTree:
    """The processes under `pid`, itself included, and the memory they have committed.

    A process stays in the tree until it ends, even if its parent ends before it. One
    that lost its parent before the first reading is not found. Holds two file
    descriptors for each process until `close`. OSError if there is no process `pid`.

    Attributes
    ----------
    processes : list of ProcessNumbers
        The processes of the last reading.
    cpu_seconds : dict of int to float
        CPU time of each process, not older than `_FULL_SCAN_SECONDS`.
    notes : set of str
        What the readings could not see.
    late : list of Late
        Bytes that were missing from earlier readings, as the last one has found out.
    """

    method = "committed"

    def __init__(
        self, pid: int, joblib_places: list[str], *, has_last_pid: bool = False
    ) -> None:
        self._devices = memory_devices()
        self._folders = _JoblibFolders(joblib_places, self._devices)
        self._has_last_pid = has_last_pid
        self._last_pid = 0
        self._next_full_scan = self._next_file_scan = 0.0
        self._has_swap = has_swap()
        self._tree = {pid: Process(pid)}
        self._families = Families(self._tree[pid])
        self._is_first = True
        self._has_lists = has_children_lists()
        self.processes: list[ProcessNumbers] = []
        self.cpu_seconds: dict[int, float] = {}
        self._ended_cpu_seconds = 0.0
        self.notes: set[str] = set()
        self.late: list[Late] = []

    def close(self) -> None:
        """Let go of all processes."""
        for process in self._tree.values():
            process.close()
        self._tree.clear()

    def list_pids(self) -> list[int]:
        """Return the processes of the tree, samplers of others included."""
        return list(self._tree)

    def read(self, *, closely: bool = False) -> TreeNumbers:
        """Read the memory of the tree now, and all else too if `closely`.

        The private memory of all processes is read first and in one go, because that
        is what changes fastest.
        """
        now = time.monotonic()
        is_full = closely or now >= self._next_full_scan
        if is_full:
            self._next_full_scan = now + _FULL_SCAN_SECONDS
        processes: list[ProcessNumbers] = []
        quickly = not is_full and not self._has_swap
        for process in list(self._tree.values()):
            self._read_one(process, processes, quickly)
        for process in self._find_new(anyway=is_full):
            self._read_one(process, processes, quickly)
        at_once = closely or self._is_first
        self._is_first = False
        processes = self._families.divide(processes, now, at_once=at_once)
        self.late = self._families.late
        self.notes |= self._families.notes
        shared = self._read_shared(anyway=is_full and now >= self._next_file_scan)
        if is_full:
            self._read_cpu()
            if now >= self._next_file_scan:
                self._next_file_scan = now + _FILE_SCAN_SECONDS
        private = file_bytes = 0
        for _, _, own, resident_shared, resident_file in processes:
            private += own
            file_bytes += resident_file
            # Shared memory without a descriptor: System V, MAP_SHARED | MAP_ANONYMOUS.
            # Each process may show the same pages, so a sum would be too much.
            shared = max(shared, resident_shared)
        self.processes = processes
        cpu_seconds = self._ended_cpu_seconds + sum(self.cpu_seconds.values())
        n_processes = len(processes)
        return private + shared, private, shared, file_bytes, n_processes, cpu_seconds

    def _read_one(
        self, process: Process, processes: list[ProcessNumbers], quickly: bool
    ) -> None:
        try:
            self._families.follow(process)
            numbers = process.read_memory(quickly=quickly)
        except OSError:
            self._families.remove(process)
            self._tree.pop(process.pid).close()
            self._ended_cpu_seconds += self.cpu_seconds.pop(process.pid, 0.0)
            return
        if numbers is not None and process.is_counted:
            processes.append(numbers)

    def _read_cpu(self) -> None:
        for process in self._tree.values():
            if process.is_counted:
                try:
                    self.cpu_seconds[process.pid] = process.read_cpu_seconds()
                except OSError:
                    continue

    def _find_new(self, *, anyway: bool) -> list[Process]:
        """Take up the processes that have started since, and return them."""
        if self._has_last_pid and not anyway:
            last_pid = read_last_pid()
            if last_pid == self._last_pid:
                return []
            self._last_pid = last_pid
        by_parent = None if self._has_lists else scan_children()
        found: list[Process] = []
        queue = list(self._tree.values())
        for parent in queue:
            try:
                if by_parent is None:
                    children = parent.find_children()
                else:
                    children = by_parent.get(parent.pid, [])
            except OSError:
                continue
            for pid in children:
                if pid not in self._tree:
                    try:
                        child = Process(pid, parent)
                    except OSError:
                        continue
                    self._tree[pid] = child
                    if child.is_counted:
                        self._families.add(child, parent)
                    found.append(child)
                    queue.append(child)
        return found

    def _read_shared(self, *, anyway: bool) -> int:
        """Add up the memory files of the tree, each inode once."""
        inodes: dict[Inode, int] = {}
        for process in self._tree.values():
            if not process.is_counted:
                continue
            process.refresh_files(self._devices, anyway=anyway)
            if not self._add_files(process, inodes):
                process.refresh_files(self._devices, anyway=True)
                self._add_files(process, inodes)
            if process.is_hidden:
                self.notes.add("The open files of some processes may not be read.")
        self._folders.add_up(self._tree, inodes, anyway=anyway)
        return sum(inodes.values())

    @staticmethod
    def _add_files(process: Process, inodes: dict[Inode, int]) -> bool:
        """Add the files of one process; False if one of them is open no longer."""
        is_current = True
        for inode in process.files:
            if inode not in inodes:
                blocks = process.count_blocks(inode)
                if blocks is None:
                    is_current = False
                else:
                    inodes[inode] = blocks
        return is_current
