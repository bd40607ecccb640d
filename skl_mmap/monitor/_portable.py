"""The stand-in for systems without /proc: unique set sizes from psutil.

The sampler runs this file too, in an interpreter of its own: nothing but the standard
library, its neighbours and psutil may be imported.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from skl_mmap.monitor._process import SAMPLER_MARK, ProcessNumbers

if TYPE_CHECKING:
    import psutil

    from skl_mmap.monitor._family import Late
    from skl_mmap.monitor._tree import TreeNumbers


class PortableTree:
    """The processes under `pid`, and the memory that each has for itself.

    It has the attributes and the errors of `ProcessTree`, and needs psutil.

    The unique set size leaves out whatever two processes map and counts a mapped file
    as soon as only one does, so it is neither an upper nor a lower bound of what is
    committed. A reading walks all pages: some 12 ms per GB and process.
    """

    method = "uss"

    def __init__(self, pid: int) -> None:
        import psutil

        self._psutil = psutil
        try:
            self._root = psutil.Process(pid)
        except psutil.Error as error:
            raise ProcessLookupError(f"no process {pid}") from error
        self._are_samplers: dict[psutil.Process, bool] = {}
        self.processes: list[ProcessNumbers] = []
        self.cpu_seconds: dict[int, float] = {}
        self.notes: set[str] = {
            "Unique set sizes leave out all memory that two processes share."
        }
        self.late: list[Late] = []  # nothing is remembered that could be late

    def close(self) -> None:
        """Do nothing: nothing is held."""

    def list_pids(self) -> list[int]:
        """Return the processes of the last reading."""
        return [numbers[0] for numbers in self.processes]

    def read(self, *, closely: bool = True) -> TreeNumbers:
        """Read the memory of the tree now, always closely."""
        processes: list[ProcessNumbers] = []
        try:
            tree = [self._root, *self._root.children(recursive=True)]
        except self._psutil.Error:
            tree = []
        for process in tree:
            try:
                if self._is_sampler(process):
                    continue
                own = process.memory_full_info().uss
                processes.append((process.pid, process.name(), own, 0, 0))
                times = process.cpu_times()
                self.cpu_seconds[process.pid] = times.user + times.system
            except self._psutil.AccessDenied:
                self.notes.add("The memory of some processes may not be read.")
            except self._psutil.Error:
                continue
        self.processes = processes
        private = sum(numbers[2] for numbers in processes)
        cpu_seconds = sum(self.cpu_seconds.values())  # of ended ones too
        return private, private, 0, 0, len(processes), cpu_seconds

    def _is_sampler(self, process: psutil.Process) -> bool:
        if process.pid == self._root.pid:
            return False
        # Asked once: what a process is called does not change while it waits to be
        # told what to do, and another one of the same number is not equal to it.
        if process not in self._are_samplers:
            self._are_samplers[process] = process.cmdline()[-1:] == [SAMPLER_MARK]
        return self._are_samplers[process]
