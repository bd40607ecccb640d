"""What the kernel tells of memory and processes: all that is read in /proc and /sys.

::

    this machine    is_readable, has_swap, read_last_pid, memory_devices, ...
    this process    read_own_status, areas_between, resident_bytes, ...
    any process     ProcessFolder
    control groups  find_group, available_memory_bytes

See ``man 5 proc`` and ``man 7 cgroups``. The sampler imports this file, and has to
start fast: only the smallest modules of the standard library are imported here.
"""

from __future__ import annotations

import math
import os
import sys

TYPE_CHECKING = False  # the module typing is too large to import for this
if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_BYTES = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096

_PORTABLE_VARIABLE = "SKL_MMAP_PORTABLE"
_MAX_RANGES = 1 << 16  # the kernel's default
_MAX_FILES = 1 << 20  # the kernel's own limit, where there is no other one

# /proc/PID/pagemap: one 64-bit word per page. All that matters is in its highest byte.
_PAGEMAP_CHUNK_PAGES = 1 << 13
_PAGEMAP_TOP_BYTE = 7 if sys.byteorder == "little" else 0
_HAS_PAGE = 3 << 6  # present or swapped
_IS_FILE_PAGE = 1 << 5
_ABSENT, _PRIVATE, _OF_FILE = range(3)
_PAGE_KINDS = bytes(
    _ABSENT if not top & _HAS_PAGE else _OF_FILE if top & _IS_FILE_PAGE else _PRIVATE
    for top in range(256)
)

# Files of a control group that say limit and use, and what of the use can be reclaimed
# at once, by version of the hierarchy.
_LIMITS = {
    1: ("memory.limit_in_bytes", "memory.usage_in_bytes", b"total_inactive_file"),
    2: ("memory.max", "memory.current", b"inactive_file"),
}


def read_file(path: str, *, folder: int | None = None) -> bytes:
    """Read a file of /proc whole; `path` is relative to the open `folder`, if given."""
    descriptor = os.open(path, os.O_RDONLY, dir_fd=folder)
    try:
        chunks = []
        while chunk := os.read(descriptor, 8192):
            chunks.append(chunk)
        return b"".join(chunks)
    finally:
        os.close(descriptor)


def find_bytes(text: bytes, name: bytes) -> int:
    """Find ``name:  123 kB`` in the text and return bytes; 0 where it is missing."""
    start = text.find(name)
    if start < 0:
        return 0
    start += len(name)
    return int(text[start : text.index(b" kB", start)]) * 1024


# -------------------------------------------------------------- this machine


def can_remap() -> bool:
    """Return whether pages of one file can be mapped next to each other here.

    True on Linux with /proc, unless the environment variable
    ``SKL_MMAP_PORTABLE`` is set to something other than ``0``: then segments are
    named temporary files and folds are copied, as on other systems.
    """
    return (
        os.environ.get(_PORTABLE_VARIABLE, "0") in ("", "0")
        and sys.platform == "linux"
        and hasattr(os, "memfd_create")
        and os.path.exists("/proc/self/fd")
        and os.access("/proc/self/pagemap", os.R_OK)
    )


def is_readable() -> bool:
    """Return whether /proc has the numbers that readings of memory are made of."""
    try:
        return b"\nRssAnon:" in read_own_status()
    except OSError:
        return False


def has_swap() -> bool:
    """Return whether private memory may lie on a disk; True if unknown."""
    try:
        return len(read_file("/proc/swaps").splitlines()) > 1
    except OSError:
        return True


def read_last_pid() -> int:
    """Return the number that the newest process or thread was given; 0 if unknown."""
    try:
        return int(read_file("/proc/loadavg").rsplit(None, 1)[-1])
    except (OSError, ValueError, IndexError):
        return 0


def max_ranges() -> int:
    """Return how many ranges of addresses a process may have mapped."""
    try:
        return int(read_file("/proc/sys/vm/max_map_count"))
    except (OSError, ValueError):
        return _MAX_RANGES


def is_overcommit_strict() -> bool:
    """Return whether the kernel commits no more memory than it has, swap included.

    Private pages that may be written to are then charged before they exist.
    """
    try:
        return read_file("/proc/sys/vm/overcommit_memory").strip() == b"2"
    except OSError:
        return False


def max_open_files() -> int:
    """Return how many files this process may have open."""
    return int(_read_limit("RLIMIT_NOFILE", _MAX_FILES))


def max_file_bytes() -> float:
    """Return how large a file may become that this process writes, also in memory."""
    return _read_limit("RLIMIT_FSIZE", math.inf)


def _read_limit(name: str, unlimited: float) -> float:
    """Return a limit of this process; see ``man 2 getrlimit``."""
    try:
        import resource
    except ImportError:  # not on Windows
        return unlimited
    soft, _ = resource.getrlimit(getattr(resource, name))
    return unlimited if soft == resource.RLIM_INFINITY else soft


def memory_devices() -> frozenset[int]:
    """Device numbers of every tmpfs, and of the one inside the kernel behind memfds."""
    devices = set()
    for line in read_file("/proc/self/mountinfo").splitlines():
        before, _, after = line.partition(b" - ")
        if after.startswith(b"tmpfs "):
            major, _, minor = before.split()[2].partition(b":")
            devices.add(os.makedev(int(major), int(minor)))
    try:
        descriptor = os.memfd_create("skl_mmap-probe")
    except OSError:
        return frozenset(devices)
    try:
        devices.add(os.fstat(descriptor).st_dev)
    finally:
        os.close(descriptor)
    return frozenset(devices)


def has_children_lists() -> bool:
    """Return whether the kernel lists the children of each process."""
    pid = os.getpid()
    return os.path.exists(f"/proc/{pid}/task/{pid}/children")


def scan_children() -> dict[int, list[int]]:
    """Children of every process of the system, for kernels that do not list them.

    13 microseconds for each process of the *system*, kernel threads included, where
    the lists cost 15 for each process of the tree.
    """
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                text = read_file(f"/proc/{name}/stat")
            except OSError:
                continue
            parent = int(text[text.rindex(b")") + 2 :].split(None, 2)[1])
            children.setdefault(parent, []).append(int(name))
    return children


# -------------------------------------------------------------- this process


def read_own_status() -> bytes:
    """Read /proc/self/status."""
    return read_file("/proc/self/status")


def count_threads() -> int:
    """Return how many threads this process has; 0 if it cannot be told."""
    try:
        return int(_read_own_field(b"\nThreads:"))
    except (OSError, ValueError):
        return 0


def read_umask() -> int:
    """Return the file mode creation mask, without changing it for a moment."""
    return int(_read_own_field(b"\nUmask:"), 8)


def _read_own_field(name: bytes) -> bytes:
    """Read a line of /proc/self/status; ValueError where it is missing."""
    text = read_own_status()
    start = text.index(name) + len(name)
    return text[start : text.index(b"\n", start)]


# What exec hands on to the new program, as far as the kernel shows it, for the thread
# that calls it (man 2 execve).
_HANDED_ON = (
    *(b"Uid:", b"Gid:", b"Groups:", b"SigBlk:", b"SigIgn:", b"CapInh:", b"CapPrm:"),
    *(b"CapEff:", b"CapBnd:", b"CapAmb:", b"NoNewPrivs:", b"Seccomp:"),
    *(b"Seccomp_filters:", b"Speculation_", b"THP_enabled:", b"Cpus_allowed:"),
    b"Mems_allowed:",
)
_HANDED_ON_FILES = (
    *("limits", "cgroup", "oom_score_adj", "coredump_filter", "personality"),
    *("loginuid", "timerslack_ns"),
)


def read_inherited_state() -> tuple[object, ...]:
    """Return all that a program would inherit if this thread started it now.

    All but what travels with each worker: the environment, the working directory, the
    umask, open files.

    Returns
    -------
    tuple
        Values that are equal as long as nothing has changed.

    Notes
    -----
    About 0.3 ms.
    """
    folder = "/proc/thread-self/"
    status = read_file(folder + "status").splitlines()
    found: list[object] = [line for line in status if line.startswith(_HANDED_ON)]
    for name in _HANDED_ON_FILES:
        try:
            found.append(read_file(folder + name))
        except OSError:  # of a kernel that does not have it
            found.append(None)
    names = sorted(os.listdir(folder + "ns"))
    links = ["root", *(f"ns/{name}" for name in names)]
    found += [os.readlink(folder + link) for link in links]
    found += [os.getpgrp(), os.getsid(0), os.getpriority(os.PRIO_PROCESS, 0)]
    found += [os.sched_getscheduler(0), os.sched_getparam(0).sched_priority]
    return tuple(found)


def mapped_files() -> set[str]:
    """Return the paths of all files that this process has mapped."""
    paths = set()
    for line in read_file("/proc/self/maps").splitlines():
        words = line.split(None, 5)
        if len(words) == 6 and words[5].startswith(b"/"):
            paths.add(os.fsdecode(words[5]))
    return paths


def own_private_bytes() -> int:
    """Return the private memory of this process: one cheap look, without swap."""
    _, resident, shared, *_ = read_file("/proc/self/statm").split()
    return (int(resident) - int(shared)) * PAGE_BYTES


def reset_own_peak() -> bool:
    """Let the peak of resident memory (VmHWM) start anew; False if that may not be."""
    try:
        descriptor = os.open("/proc/self/clear_refs", os.O_WRONLY)
        try:
            os.write(descriptor, b"5")
        finally:
            os.close(descriptor)
    except OSError:
        return False
    return True


def can_reset_own_peak() -> bool:
    """Return whether `reset_own_peak` may work."""
    return os.access("/proc/self/clear_refs", os.W_OK)


def open_own_memory() -> int:
    """Open the memory of this process as a file whose offsets are addresses."""
    return os.open("/proc/self/mem", os.O_RDONLY)


def descriptor_path(fd: int, pid: int | None = None) -> str:
    """Return a path through which an open file can be opened again, by others too."""
    return f"/proc/{'self' if pid is None else pid}/fd/{fd}"


def resident_bytes(
    address: int, n_bytes: int, *, stop_at_first: bool = False
) -> tuple[int, int]:
    """Count the pages of a private file mapping that are there.

    Parameters
    ----------
    address, n_bytes : int
        The range.
    stop_at_first : bool, default=False
        Whether to count no further than the first private pages.

    Returns
    -------
    private_bytes : int
        Of pages that were written to; all if it cannot be known.
    file_bytes : int
        Of pages that were read, and still are the file's.
    """
    first = address // PAGE_BYTES
    stop = -(-(address + n_bytes) // PAGE_BYTES)
    n_private = n_file = 0
    try:
        descriptor = os.open("/proc/self/pagemap", os.O_RDONLY)
        try:
            for start in range(first, stop, _PAGEMAP_CHUNK_PAGES):
                n_pages = min(_PAGEMAP_CHUNK_PAGES, stop - start)
                raw = os.pread(descriptor, 8 * n_pages, 8 * start)
                if len(raw) < 8 * n_pages:
                    return n_bytes, 0
                kinds = raw[_PAGEMAP_TOP_BYTE::8].translate(_PAGE_KINDS)
                n_private += kinds.count(_PRIVATE)
                n_file += kinds.count(_OF_FILE)
                if n_private and stop_at_first:
                    break
        finally:
            os.close(descriptor)
    except OSError:  # hardened systems, or no file descriptor left
        return n_bytes, 0
    return n_private * PAGE_BYTES, n_file * PAGE_BYTES


def has_private_pages(address: int, n_bytes: int) -> bool:
    """Return whether any page of a private file mapping was written to.

    Pages that were only read still belong to the file (bit 61 of the page's word
    in /proc/self/pagemap); a write replaces them by anonymous ones. Not the
    ``Private_Dirty`` of smaps, which counts untouched tmpfs pages as well.

    Where pagemap cannot be read, the answer is True: no promise can be made.
    """
    private_bytes, _ = resident_bytes(address, n_bytes, stop_at_first=True)
    return private_bytes > 0


class Area:
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

    __slots__ = (
        "device",
        "file_offset",
        "flags",
        "inode",
        "permissions",
        "start",
        "stop",
    )

    def __init__(self, words: list[bytes]) -> None:
        place, permissions, offset, device, inode = words[:5]
        self.start, self.stop = (int(number, 16) for number in place.split(b"-"))
        self.permissions = permissions.decode()
        self.file_offset = int(offset, 16)
        major, minor = (int(number, 16) for number in device.split(b":"))
        self.device = major, minor
        self.inode = int(inode)
        self.flags: frozenset[str] = frozenset()

    def is_of(self, identity: tuple[int, int]) -> bool:
        """Return whether it maps the file with that device and inode."""
        device, inode = identity
        return self.inode == inode and self.device == (
            os.major(device),
            os.minor(device),
        )


def areas_between(start: int, stop: int, *, with_flags: bool = False) -> Iterator[Area]:
    """Yield the areas that overlap ``[start, stop)``, in order.

    Reading the flags makes the kernel walk all pages of the process.
    """
    area = None
    with open("/proc/self/smaps" if with_flags else "/proc/self/maps", "rb") as file:
        for line in file:
            words = line.split(None, 5)
            if not words[0].endswith(b":"):
                area = Area(words)
                if area.start >= stop:
                    return
                if not with_flags and area.stop > start:
                    yield area
            elif words[0] == b"VmFlags:" and area is not None and area.stop > start:
                area.flags = frozenset(word.decode() for word in line.split()[1:])
                yield area


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
        if area.is_of(identity):
            return area.file_offset + address - area.start
    return None


def is_mapped_at(
    start: int, stop: int, file_offset: int, identity: tuple[int, int]
) -> bool:
    """Return whether ``[start, stop)`` maps a file from `file_offset` on."""
    place = start
    for area in areas_between(start, stop):
        is_expected = (
            area.start <= place
            and area.is_of(identity)
            and area.file_offset - area.start == file_offset - start
        )
        if not is_expected:
            return False
        place = area.stop
    return place >= stop


# --------------------------------------------------------------- any process


class ProcessFolder:
    """The folder of one process in /proc, held open.

    A process that takes over the number of a dead one is then never mistaken for it,
    and every read is one path lookup shorter. All methods raise OSError if the process
    is gone, PermissionError if it may not be looked at.

    Parameters
    ----------
    pid : int
        The process.

    Notes
    -----
    Holds two file descriptors until `close`.
    """

    __slots__ = ("_counts", "_folder")

    def __init__(self, pid: int) -> None:
        self._folder = os.open(f"/proc/{pid}", os.O_PATH | os.O_DIRECTORY)
        try:
            self._counts = os.open("statm", os.O_RDONLY, dir_fd=self._folder)
        except BaseException:
            os.close(self._folder)
            raise

    def close(self) -> None:
        """Let go of the folder."""
        os.close(self._folder)
        os.close(self._counts)

    def read(self, name: str) -> bytes:
        """Read one of its files whole."""
        return read_file(name, folder=self._folder)

    def read_counts(self) -> tuple[int, int]:
        """Read the bytes that are resident, and those of them that are not private.

        2 microseconds whatever the size.
        """
        _, resident, others, *_ = os.pread(self._counts, 128, 0).split()
        return int(resident) * PAGE_BYTES, int(others) * PAGE_BYTES

    def read_borrowed(self) -> int | None:
        """Read how many of its anonymous bytes others account for, by a walk over all.

        Of a page that n processes have, each accounts for 1/n. 12 ms for each resident
        GB, and a microsecond for each area of addresses.

        Returns
        -------
        int or None
            None where the kernel does not tell, before Linux 5.4.
        """
        try:
            text = self.read("smaps_rollup")
        except FileNotFoundError:
            if os.path.exists("/proc/self/smaps_rollup"):
                raise
            return None
        if b"\nPss_Anon:" not in text:
            return None
        all_bytes = find_bytes(text, b"\nAnonymous:") + find_bytes(text, b"\nSwap:")
        own_bytes = find_bytes(text, b"\nPss_Anon:") + find_bytes(text, b"\nSwapPss:")
        return max(0, all_bytes - own_bytes)

    def read_stat(self) -> list[bytes]:
        """Read the fields of ``stat`` that follow the name, the state being the first.

        Field n of ``man 5 proc_pid_stat`` has the index n - 3.
        """
        text = self.read("stat")
        return text[text.rindex(b")") + 2 :].split()

    def find_children(self) -> list[int]:
        """List the processes it started that are still its own.

        The kernel keeps a list for each thread, and may leave out a child while
        another one ends: ask again from time to time.
        """
        children: list[int] = []
        folder = os.open("task", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._folder)
        try:
            for thread in os.listdir(folder):
                try:
                    text = read_file(f"{thread}/children", folder=folder)
                except OSError:
                    continue
                children.extend(map(int, text.split()))
        finally:
            os.close(folder)
        return children

    def count_files(self) -> int:
        """Return the number of open files; 0 where the kernel does not count them.

        It does from Linux 6.2 on, in 3 microseconds.
        """
        return os.stat("fd", dir_fd=self._folder).st_size

    def list_files(self) -> list[tuple[str, os.stat_result]]:
        """List the open files: a name for `stat_file`, and what each is."""
        found = []
        folder = os.open("fd", os.O_RDONLY | os.O_DIRECTORY, dir_fd=self._folder)
        try:
            for name in os.listdir(folder):
                try:
                    found.append((f"fd/{name}", os.stat(name, dir_fd=folder)))
                except OSError:
                    continue
        finally:
            os.close(folder)
        return found

    def stat_file(self, name: str) -> os.stat_result:
        """Return what a file of `list_files` is now."""
        return os.stat(name, dir_fd=self._folder)


# ------------------------------------------------------------ control groups


def _list_groups(pid: int | str) -> Iterator[tuple[list[str], int, bool]]:
    """Yield the folders of a process's memory group and those above it, by hierarchy.

    With the version of the hierarchy, and whether the first folder is the group itself:
    in some containers only a group above it can be seen.
    """
    try:
        groups = read_file(f"/proc/{pid}/cgroup").decode(errors="surrogateescape")
        mounts = read_file("/proc/self/mountinfo").decode(errors="surrogateescape")
    except OSError:
        return
    by_controller = {}
    for line in groups.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            by_controller[controller] = path
    for line in mounts.splitlines():
        before, _, after = line.partition(" - ")
        root, place = before.split(" ")[3:5]
        kind, _, options = after.split(" ", 2)
        version = {"cgroup": 1, "cgroup2": 2}.get(kind, 0)
        if version == 1 and "memory" not in options.split(","):
            continue
        group = by_controller.get("memory" if version == 1 else "")
        if not version or group is None:
            continue
        root = root.rstrip("/")
        if not f"{group}/".startswith(f"{root}/"):
            yield [place], version, False
            continue
        folders = [place]
        for name in filter(None, group[len(root) :].split("/")):
            folders.append(os.path.join(folders[-1], name))
        yield folders[::-1], version, True


def find_group(pid: int) -> tuple[str, int] | None:
    """Find the folder of a process's control group, and its version.

    Returns
    -------
    (str, int) or None
        None where there is none that accounts for memory, or it is out of sight.
    """
    for folders, version, is_own in _list_groups(pid):
        if is_own and os.path.exists(os.path.join(folders[0], "memory.stat")):
            return folders[0], version
    return None


def available_memory_bytes() -> int | None:
    """Memory that can be allocated before something is killed or swapped.

    The smaller of MemAvailable in /proc/meminfo and what the limits of this process's
    control group and of those above it leave; None where neither is known.
    """
    rooms = [_machine_room()]
    for folders, version, _ in _list_groups("self"):
        rooms += [_group_room(folder, version) for folder in folders]
    return min((room for room in rooms if room is not None), default=None)


def _machine_room() -> int | None:
    try:
        text = read_file("/proc/meminfo")
    except OSError:
        return None
    name = b"\nMemAvailable:"
    return find_bytes(text, name) if name in text else None


def _group_room(folder: str, version: int) -> int | None:
    limit, usage, reclaimable = _LIMITS[version]
    try:
        limit_text = read_file(os.path.join(folder, limit)).strip()
        if limit_text == b"max":
            return None
        used_bytes = int(read_file(os.path.join(folder, usage)))
        text = read_file(os.path.join(folder, "memory.stat"))
        for line in text.splitlines():
            if line.startswith(reclaimable + b" "):
                used_bytes -= int(line.split()[1])
        return max(int(limit_text) - used_bytes, 0)
    except (OSError, ValueError):
        return None
