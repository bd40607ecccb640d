"""The process that watches another one's tree.

::

    measure()                            python -I -S _sampler.py PID ...
    ---------                            --------------------------------
    starts it                   ------>  first reading: the baseline
    waits until it is ready    <------
    runs the block                       a reading every interval: peak, time line
    block ends                  ------>  last reading
    fills the Measurement      <------   results; exits

It is a process and not a thread because a thread gets no turn while C code holds the
GIL, which is when the peaks happen. It ends with its parent (`_child`).
"""

from __future__ import annotations

import _thread
import os
import sys
import time

if __name__ == "__main__":
    # Run by path: make the package known without running its __init__, which would
    # load far more than this process may cost.
    _folder = os.path.dirname(os.path.abspath(__file__))
    for _name in ("skl_mmap.monitor", "skl_mmap"):
        _package = type(sys)(_name)
        _package.__path__ = [_folder]
        sys.modules[_name] = _package
        _folder = os.path.dirname(_folder)

from skl_mmap._child import Connection, Peer
from skl_mmap._linux.proc import find_bytes, find_group, read_last_pid, read_own_status
from skl_mmap.monitor._group import ControlGroup
from skl_mmap.monitor._process import ProcessNumbers
from skl_mmap.monitor._tree import ProcessTree, TreeNumbers

TYPE_CHECKING = False  # the module typing is too large to import for this
if TYPE_CHECKING:
    from typing import Any

    from skl_mmap.monitor._portable import PortableTree

__all__ = ["READY", "STOP", "Sampler", "TimeLine"]

READY = "ready"
STOP = "stop"

TimedNumbers = tuple[float, int, int, int, int, int, float]
"""Seconds since the start, then the numbers of the tree."""

ProcessesNumbers = tuple[float, int, list[tuple[int, int, float]]]
"""Seconds and committed bytes; number, private bytes, CPU seconds of each process."""

_MAX_READINGS = 4096
# Of these, each has numbers for every process.
_MAX_PROCESS_READINGS = 512
_MAX_PROCESSES = 32
_OTHERS = 0
# Of all cores: a job should not get slower because it is watched. No reading waits for
# longer than this because of it, and none that was asked for less often.
_MAX_CPU_SHARE = 0.015
_MAX_WAIT_SECONDS = 0.02
# What the kernel says of the control group is for comparison, and costs most there.
_GROUP_SECONDS = 0.05
# Of the peak: what may be missing from it is noted if it is more.
_NOTED_PART = 0.01


class TimeLine:
    """Readings in order of time, thinned out so that there are never too many.

    When it is full, of every two neighbours the larger one stays, and from then on
    of every two, four, eight... new ones: each that is left is the largest of its
    stretch of time, so the peak is always one of them.

    Parameters
    ----------
    max_readings : int
        How many are kept at most, an even number.
    """

    def __init__(self, max_readings: int = _MAX_READINGS) -> None:
        self._max_readings = max_readings
        self._readings: list[Any] = []
        self._stride = 1
        self._n_pending = 0
        self._largest: Any = None

    def add(self, reading: TimedNumbers | ProcessesNumbers) -> None:
        """Add the next reading."""
        if self._largest is None or reading[1] > self._largest[1]:
            self._largest = reading
        self._n_pending += 1
        if self._n_pending < self._stride:
            return
        self._readings.append(self._largest)
        self._largest = None
        self._n_pending = 0
        if len(self._readings) >= self._max_readings:
            pairs = zip(self._readings[::2], self._readings[1::2], strict=True)
            self._readings = [b if b[1] > a[1] else a for a, b in pairs]
            self._stride *= 2

    def get(self) -> list[Any]:
        """Return what is left of the readings."""
        if self._largest is None:
            return self._readings
        return [*self._readings, self._largest]


class GroupWatch:
    """What the kernel says of the control group of the tree, now and then.

    Parameters
    ----------
    pid : int
        Root of the tree.
    """

    def __init__(self, pid: int) -> None:
        self._group: ControlGroup | None = None
        self._next = 0.0
        found = find_group(pid)
        if found is not None:
            try:
                self._group = ControlGroup(*found)
                self._begin = self._peak = self._group.read()
            except (OSError, ValueError):
                self._group = None
            else:
                self._peak_before = self._group.read_peak_bytes()
                self._kills_before = self._group.count_kills()

    def read(self, now: float) -> None:
        """Read the group if it is time."""
        if self._group is None or now < self._next:
            return
        self._next = now + _GROUP_SECONDS
        try:
            self._peak = max(self._peak, self._group.read())
        except (OSError, ValueError):
            self._group = None

    def summarise(self, tree_pids: set[int]) -> dict[str, object] | None:
        """Return the results, in types that marshal knows; None without a group."""
        self.read(float("inf"))
        if self._group is None:
            return None
        kernel_peak = self._group.read_peak_bytes()
        # A peak that was there before says nothing about this block.
        is_new = kernel_peak is not None and kernel_peak != self._peak_before
        others = {*self._group.list_pids()} - tree_pids - {os.getpid()}
        return {
            "path": self._group.folder,
            "version": self._group.version,
            "baseline_bytes": self._begin[0],
            "peak_bytes": self._peak[0],
            "kernel_peak_bytes": kernel_peak if is_new else None,
            "limit_bytes": self._group.read_limit_bytes(),
            "n_others": len(others),
            "n_kills": self._group.count_kills() - self._kills_before,
        }


class Sampler:
    """Reads the memory of a tree again and again, and keeps what matters.

    Parameters
    ----------
    tree : ProcessTree or PortableTree
        What to read.
    group : GroupWatch
        The control group of the tree.
    interval_seconds : float
        Time from the start of a reading to the start of the next one. Readings that
        take longer than half of it, or much of the CPU time of few cores, make it
        longer: at most half of a core is used, and 1.5 % of all cores if that takes no
        more than 20 ms from one reading to the next.
    """

    def __init__(
        self,
        tree: ProcessTree | PortableTree,
        group: GroupWatch,
        interval_seconds: float,
    ) -> None:
        self._tree = tree
        self._group = group
        self._interval_seconds = interval_seconds
        self._time_line = TimeLine()
        self._process_line = TimeLine(_MAX_PROCESS_READINGS)
        self._first_processes: ProcessesNumbers | None = None
        self._names: dict[int, str] = {_OTHERS: "others"}
        self._n_readings = 0
        self._cpu_share = _MAX_CPU_SHARE * _count_cores()
        self._reading_seconds = 0.0
        self._peak: TimedNumbers | None = None
        self._peak_processes: list[ProcessNumbers] = []
        self._missing_bytes = 0  # at the peak, for all that is known
        tree.read()  # the first one costs more, and should not be the baseline
        self._cpu_at_start = time.process_time()
        self._start = self._begin = self._end = time.monotonic()
        self._baseline = self._last = self.read()

    def read(self, *, closely: bool = False) -> TimedNumbers:
        """Take one reading now."""
        self._begin = time.monotonic()
        numbers: TreeNumbers = self._tree.read(closely=closely)
        self._end = time.monotonic()
        self._reading_seconds += self._end - self._begin
        self._n_readings += 1
        reading: TimedNumbers = (self._begin - self._start, *numbers)
        self._last = reading
        self._time_line.add(reading)
        self._add_processes(reading)
        self._group.read(self._begin)
        for since, n_bytes in self._tree.late:
            if self._peak is not None and since - self._start <= self._peak[0]:
                self._missing_bytes += n_bytes
        if self._peak is None or reading[1] > self._peak[1]:
            self._peak = reading
            self._missing_bytes = 0
            self._peak_processes = self._tree.processes
        return reading

    def _add_processes(self, reading: TimedNumbers) -> None:
        cpu_seconds = self._tree.cpu_seconds
        processes = []
        for pid, name, private, _, _ in self._tree.processes:
            processes.append((pid, private, cpu_seconds.get(pid, 0.0)))
            self._names[pid] = name
        if len(processes) > _MAX_PROCESSES:
            processes.sort(key=lambda process: -process[1])
            rest = processes[_MAX_PROCESSES - 1 :]
            del processes[_MAX_PROCESSES - 1 :]
            private = sum(process[1] for process in rest)
            processes.append((_OTHERS, private, sum(p[2] for p in rest)))
        moment = reading[0], reading[1], processes
        self._first_processes = self._first_processes or moment
        self._process_line.add(moment)

    def run(self, bell: _thread.LockType) -> None:
        """Read until the bell rings."""
        while True:
            due = self._find_next_start()
            if bell.acquire(timeout=max(0.0, due - time.monotonic())):
                return
            self.read()

    def _find_next_start(self) -> float:
        """Return when to take the next reading."""
        took = self._end - self._begin
        cpu_seconds = time.process_time() - self._cpu_at_start
        wait = cpu_seconds / self._n_readings / self._cpu_share
        interval = max(self._interval_seconds, min(wait, _MAX_WAIT_SECONDS))
        return max(self._begin + interval, self._end + took)

    def summarise(self) -> dict[str, object]:
        """Return the results, in types that marshal knows."""
        readings = self._time_line.get()
        first = [] if readings[0] == self._baseline else [self._baseline]
        last = [] if readings[-1] == self._last else [self._last]
        # Who was there at the start must be known, however long the job was.
        processes = self._process_line.get()
        if processes[0] != self._first_processes:
            processes = [self._first_processes, *processes]
        return {
            "baseline": self._baseline,
            "peak": self._peak,
            "peak_processes": self._peak_processes,
            "timeline": [*first, *readings, *last],
            "processes": processes,
            "names": self._names,
            "group": self._group.summarise({*self._tree.list_pids()}),
            "n_readings": self._n_readings,
            "mean_reading_seconds": self._reading_seconds / self._n_readings,
            "sampler_cpu_seconds": time.process_time() - self._cpu_at_start,
            "sampler_bytes": _own_bytes(),
            "notes": self._list_notes(),
        }

    def _list_notes(self) -> list[str]:
        """Return what the numbers have to be read with."""
        notes = sorted(self._tree.notes)
        peak_bytes = 0 if self._peak is None else self._peak[1]
        if self._missing_bytes > _NOTED_PART * peak_bytes:
            notes.append(
                f"Up to {self._missing_bytes / 2**20:.0f} MiB that forked processes "
                "had written to, or that others left to them, were seen late: the peak "
                "may have been higher by as much."
            )
        return notes


def _count_cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except (AttributeError, OSError):
        return os.cpu_count() or 1


def _own_bytes() -> int:
    """Private memory of this process; 0 where it cannot be told."""
    try:
        return find_bytes(read_own_status(), b"\nRssAnon:")
    except OSError:
        return 0


def _watch_input(
    connection: Connection, bell: _thread.LockType, heard: list[object]
) -> None:
    # A blocking read in a thread: the one way to wait with a timeout that works for
    # a pipe on every system.
    try:  # noqa: SIM105, contextlib is too large to import for this
        heard.append(connection.receive())
    except EOFError:  # of the parent
        pass
    bell.release()


def _allow_many_files() -> None:
    # One descriptor for each process of the tree; 1024 is the usual limit.
    try:
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (ImportError, OSError, ValueError):
        pass


def main(arguments: list[str]) -> None:
    """Sample the tree of one process until told to stop.

    Parameters
    ----------
    arguments : list of str
        Root of the tree, which has started this process, interval in seconds, method,
        folder of psutil (or empty), places of joblib's folders.
    """
    pid, interval_seconds = int(arguments[0]), float(arguments[1])
    method, psutil_folder, *joblib_places = arguments[2:]
    _allow_many_files()
    bell = _thread.allocate_lock()
    bell.acquire()
    heard: list[object] = []
    connection = Connection(0, 1, Peer(pid))
    last_pid = read_last_pid()
    _thread.start_new_thread(_watch_input, (connection, bell, heard))
    # In some containers the number is computed by somebody else, and stands still.
    has_last_pid = read_last_pid() != last_pid
    tree: ProcessTree | PortableTree
    if method == "uss":
        sys.path.append(psutil_folder)
        from skl_mmap.monitor._portable import PortableTree

        tree = PortableTree(pid)
    else:
        tree = ProcessTree(pid, joblib_places, has_last_pid=has_last_pid)
    sampler = Sampler(tree, GroupWatch(pid), interval_seconds)
    connection.send(READY)
    sampler.run(bell)
    if heard == [STOP]:
        sampler.read(closely=True)
        connection.send(sampler.summarise())


if __name__ == "__main__":
    try:  # noqa: SIM105, contextlib is too large to import for this
        main(sys.argv[1:-1])
    except BrokenPipeError:  # nobody is left to tell
        pass
    # The thread may still wait for input, and nothing here needs a tidy end.
    os._exit(0)
