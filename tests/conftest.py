"""Settings of all tests, and the guards around each of them.

A test must leave the process as it found it. What it may leave is the pool of workers
that the next test will reuse: its processes, its pipes and semaphores, its daemon
threads. After each module the pools are shut down, and then nothing may be left.
"""

from __future__ import annotations

import contextlib
import gc
import os
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
import pytest
from hypothesis import Phase, settings

settings.register_profile("ci", deadline=None, derandomize=True)
settings.register_profile("dev", deadline=None)
# Whether a test fails is all that counts there, and not with which small example.
settings.register_profile(
    "mutants",
    deadline=None,
    derandomize=True,
    phases=(Phase.explicit, Phase.generate),
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

# Processes end, and threads let go of what they hold, a little after the call that
# ended them.
SETTLE_SECONDS = 30.0

# Changed by pytest for each phase of each test, and by the import of scikit-learn.
VOLATILE_VARIABLES = ("PYTEST_CURRENT_TEST", "KMP_")

# Of joblib's own backends, which some tests compare ours with, and of multiprocessing:
# kept until the interpreter ends.
FOREIGN_FILES = ("joblib_memmapping_folder_", "pymp-")

# What a pool talks to its workers with: pipes, and the locks around them.
NAMELESS_FILES = ("pipe:", "anon_inode:[eventfd]", "anon_inode:[pidfd]")

# joblib brings a copy of loky, and both may run in this process.
TRACKERS = (
    "multiprocessing.resource_tracker",
    "loky.backend.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)

_has_failed = pytest.StashKey[bool]()


@dataclass(frozen=True)
class State:
    """What one process holds at one moment, as far as the guards look at it."""

    children: frozenset[str] = frozenset()
    file_descriptors: frozenset[str] = frozenset()
    mappings: frozenset[str] = frozenset()
    shared_memory_files: frozenset[str] = frozenset()
    temporary_files: frozenset[str] = frozenset()
    threads: frozenset[str] = frozenset()
    environment: frozenset[str] = frozenset()

    def list_leaks(self, since: State) -> list[str]:
        """Describe what is here and was not there, one line each."""
        leaks = []
        for kind in fields(self):
            before, now = getattr(since, kind.name), getattr(self, kind.name)
            label = kind.name.replace("_", " ")
            leaks += [f"{label}: {item}" for item in sorted(now - before)]
            if kind.name == "environment":
                leaks += [f"{label}, before: {item}" for item in sorted(before - now)]
        return leaks


def _find_pools() -> list[Any]:
    """Return the reusable executors that run, of either copy of loky.

    Since loky 3.7 each thread has its own, so that they are found by the threads that
    manage them. An executor that is not for reuse belongs to the test that made it.
    """
    managers = [
        thread
        for thread in threading.enumerate()
        if type(thread).__name__ == "_ExecutorManagerThread"
    ]
    pools = [manager.executor_reference() for manager in managers]  # type: ignore[attr-defined]
    return [pool for pool in pools if hasattr(pool, "executor_id")]


def _find_trackers() -> list[Any]:
    """Return the resource trackers that run; they live as long as this process."""
    modules: list[ModuleType | None] = [sys.modules.get(name) for name in TRACKERS]
    trackers = [getattr(module, "_resource_tracker", None) for module in modules]
    return [tracker for tracker in trackers if getattr(tracker, "_pid", None)]


def _find_fork_server() -> int | None:
    """Return the number of the server that forks workers, which outlives pools."""
    module = sys.modules.get("skl_mmap.backend._forking")
    return None if module is None else module.server_pid()


def _list_children() -> frozenset[str]:
    """List child processes other than the workers of a pool and resource trackers."""
    expected = {tracker._pid for tracker in _find_trackers()}
    for pool in _find_pools():
        expected.update(tuple(pool._processes or ()))
    expected.add(_find_fork_server())
    children = []
    for pid in _list_child_pids() - expected:
        try:
            child = psutil.Process(pid)
            children.append(f"{pid} {child.status()} {child.cmdline()}")
        except psutil.ZombieProcess:
            children.append(f"{pid} ended, and nobody has waited for it")
        except psutil.NoSuchProcess:
            pass
    return frozenset(children)


def _list_child_pids() -> set[int]:
    """Return the numbers of the children, from the kernel's lists if it has them."""
    if not os.path.exists("/proc/self/task"):
        return {child.pid for child in psutil.Process().children()}
    pids: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(OSError):
            text = Path(f"/proc/self/task/{thread}/children").read_bytes()
            pids.update(map(int, text.split()))
    return pids


def _list_file_descriptors() -> frozenset[str]:
    """List open files. Those of a pool or a tracker cannot be told from ours."""
    expected = NAMELESS_FILES if _find_pools() or _find_trackers() else ()
    if _find_fork_server() is not None:
        expected = (*expected, "socket:")
    files = []
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if not target.startswith(expected):
                files.append(f"{name} -> {target}")
    return frozenset(files)


def _count_file_descriptors() -> int:
    """Count open files of all kinds, but those to resource trackers and the server."""
    if sys.platform != "linux":
        return 0
    n_lasting = len(_find_trackers()) + (_find_fork_server() is not None)
    return psutil.Process().num_fds() - n_lasting


def _list_nameless_files() -> frozenset[str]:
    """List pipes and eventfds, whoever they belong to."""
    files = []
    for name in os.listdir("/proc/self/fd") if sys.platform == "linux" else ():
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if target.startswith(NAMELESS_FILES):
                files.append(f"{name} -> {target}")
    return frozenset(files)


def _list_mappings(temporary_folder: str) -> frozenset[str]:
    """List files that are mapped and that only a test can have made."""
    if sys.platform != "linux":
        return frozenset()
    prefixes = ("/memfd:", temporary_folder)
    text = Path("/proc/self/maps").read_text()
    mappings = set()
    if not any(prefix in text for prefix in prefixes):
        return frozenset()
    for line in text.splitlines():
        _, _, _, device, inode, *path = line.split(maxsplit=5)
        if path and path[0].startswith(prefixes):
            mappings.add(f"{device} inode {inode} {path[0]}")
    return frozenset(mappings)


def _list_shared_memory_files() -> frozenset[str]:
    """List what is in /dev/shm with the number of this process in its name."""
    expected = (*FOREIGN_FILES, "sem.") if _find_pools() else FOREIGN_FILES
    pid = str(os.getpid())
    names = os.listdir("/dev/shm") if os.path.isdir("/dev/shm") else []
    return frozenset(
        name
        for name in names
        # A word of the name: digits of other numbers may contain it by chance.
        if pid in name
        and pid in re.split("[-_.]", name)
        and not name.startswith(expected)
    )


def _list_threads() -> frozenset[str]:
    """List the threads that would keep the interpreter from ending."""
    return frozenset(
        f"{thread.name} {thread.ident}"
        for thread in threading.enumerate()
        if not thread.daemon and type(thread).__name__ != "_ExecutorManagerThread"
    )


def _list_environment() -> frozenset[str]:
    return frozenset(
        f"{name}={value}"
        for name, value in os.environ.items()
        if not name.startswith(VOLATILE_VARIABLES)
    )


def _read_state(temporary_folder: Path) -> State:
    return State(
        children=_list_children(),
        file_descriptors=_list_file_descriptors(),
        mappings=_list_mappings(str(temporary_folder)),
        shared_memory_files=_list_shared_memory_files(),
        temporary_files=frozenset(
            path.name
            for path in temporary_folder.iterdir()
            if not path.name.startswith(FOREIGN_FILES)
        ),
        threads=_list_threads(),
        environment=_list_environment(),
    )


def _wait_for_leaks(read_leaks: Callable[[], list[str]]) -> list[str]:
    """Return the leaks that are still there after a while, if any."""
    deadline = time.monotonic() + SETTLE_SECONDS
    while leaks := read_leaks():
        if time.monotonic() > deadline:
            break
        gc.collect()
        time.sleep(0.02)
    return leaks


def shut_down_pools() -> None:
    """Shut the reusable executors down, with their workers."""
    for pool in _find_pools():
        if hasattr(pool, "terminate"):
            # joblib's pool, which also removes its temporary folders.
            pool.terminate(kill_workers=True)
        pool.shutdown(wait=True, kill_workers=True)


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(
    tmp_path_factory: pytest.TempPathFactory,
) -> Generator[Path, None, None]:
    """Give this process and its workers an empty temp folder of their own.

    So that what is left there is ours, whatever else runs on the machine.
    """
    folder = tmp_path_factory.mktemp("temporary")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", None)
        yield folder


@pytest.fixture(scope="session", autouse=True)
def lasting_fork_server() -> Generator[None, None, None]:
    """Let no server end for want of workers while something is measured."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("skl_mmap.backend._pool._SERVER_SECONDS", 1e5)
        yield


@pytest.fixture(scope="module", autouse=True)
def guard_module(
    request: pytest.FixtureRequest, temporary_folder: Path
) -> Iterator[None]:
    """Shut down the pools, and fail the last test of a module that left anything."""
    before = _read_state(temporary_folder)
    n_descriptors = _count_file_descriptors()
    nameless = _list_nameless_files()
    yield
    lasting = {tracker._pid for tracker in _find_trackers()} | {_find_fork_server()}
    descendants = psutil.Process().children(recursive=True)
    descendants = [process for process in descendants if process.pid not in lasting]
    shut_down_pools()
    if request.node.stash.get(_has_failed, False):
        return

    def read_leaks() -> list[str]:
        leaks = _read_state(temporary_folder).list_leaks(before)
        leaks += [f"process: {child}" for child in descendants if child.is_running()]
        # With the pools gone, nameless files count too, but one for each tracker.
        if _count_file_descriptors() > n_descriptors:
            new = ", ".join(sorted(_list_nameless_files() - nameless))
            leaks.append(
                f"file descriptors: {_count_file_descriptors()} in all, "
                f"{n_descriptors} before; since then: {new}"
            )
        return leaks

    if leaks := _wait_for_leaks(read_leaks):
        pytest.fail("this module left behind:\n" + "\n".join(leaks), pytrace=False)


@pytest.fixture(autouse=True)
def guard_test(
    request: pytest.FixtureRequest, temporary_folder: Path
) -> Iterator[None]:
    """Fail a test that passed but left something behind."""
    before = _read_state(temporary_folder)
    yield
    if request.node.stash.get(_has_failed, False):
        # The traceback keeps everything alive; one failure is enough.
        return
    leaks = _wait_for_leaks(lambda: _read_state(temporary_folder).list_leaks(before))
    if leaks:
        pytest.fail("this test left behind:\n" + "\n".join(leaks), pytrace=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Tell the guards of a test and of its module that something else has failed."""
    report = yield
    if report.failed:
        for node in item.listchain():
            node.stash[_has_failed] = True
    return report
