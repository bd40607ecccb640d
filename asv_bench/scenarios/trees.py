"""What processes hold that could leak: descriptors, mappings, threads, memory."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

import psutil

__all__ = [
    "count_held",
    "find_marked",
    "kill",
    "list_tree",
    "measure_memory_files",
    "remove_named",
    "shm_files_of",
]

_SHM = Path("/dev/shm")
_BLOCK_BYTES = 512


def list_tree() -> list[int]:
    """Return the ids of this process and of all that it started."""
    return [os.getpid(), *(p.pid for p in psutil.Process().children(recursive=True))]


def count_held(pids: Iterable[int]) -> dict[str, int]:
    """Add up what processes hold.

    Returns
    -------
    dict of str to int
        ``descriptors``, ``mappings`` (lines of /proc/PID/maps), ``threads``,
        ``shared_bytes`` and ``processes``.
    """
    alive = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    return {
        "descriptors": sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in alive),
        "mappings": sum(
            Path(f"/proc/{pid}/maps").read_bytes().count(b"\n") for pid in alive
        ),
        "threads": sum(len(os.listdir(f"/proc/{pid}/task")) for pid in alive),
        "shared_bytes": measure_memory_files(
            alive, [path for pid in alive for path in shm_files_of(pid)]
        ),
        "processes": len(alive),
    }


def measure_memory_files(pids: Iterable[int], paths: Iterable[Path]) -> int:
    """Return the bytes of files, each once, however many ways lead to it.

    Parameters
    ----------
    pids : iterable of int
        Processes whose open files count, if these are in memory.
    paths : iterable of Path
        Files and folders that count, open or not.
    """
    blocks: dict[tuple[int, int], int] = {}
    files = [file for path in paths for file in (path, *path.rglob("*"))]
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith(("/memfd:", f"{_SHM}/")):
                    files.append(link)
    for file in files:
        with contextlib.suppress(OSError):
            status = file.stat()
            if not stat.S_ISDIR(status.st_mode):
                blocks[status.st_dev, status.st_ino] = status.st_blocks
    return sum(blocks.values()) * _BLOCK_BYTES


def shm_files_of(pid: int) -> list[Path]:
    """Find what a process made in /dev/shm: joblib's folders and loky's semaphores."""
    return [
        *_SHM.glob(f"joblib_memmapping_folder_{pid}_*"),
        *_SHM.glob(f"sem.loky-{pid}-*"),
    ]


def find_marked(marker: str) -> list[int]:
    """Find living processes with a marker in their environment.

    They may have been adopted by another process, so the tree does not lead to them.
    """
    return [pid for pid in _list_pids() if _is_marked(pid, marker.encode())]


def _list_pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _is_marked(pid: int, marker: bytes) -> bool:
    folder = Path(f"/proc/{pid}")
    try:
        # A zombie has an environment no more, and holds nothing.
        return marker in (folder / "environ").read_bytes()
    except OSError:
        return False


def kill(pids: Iterable[int]) -> None:
    """End processes that a scenario started."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def remove_named(paths: Iterable[Path]) -> None:
    """Remove files and folders that a scenario made."""
    for path in paths:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
