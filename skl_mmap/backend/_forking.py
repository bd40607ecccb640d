"""Workers that are forked from a server: the parent's side.

The libraries that workers need are imported once, by the server (`_fork_server.py`),
and their memory is shared by all workers until one of them writes to it. loky's pool
does not notice: its queues, locks and restarts are as they are, only the way a process
starts is another one.

A forked worker must see what a new interpreter would see. What cannot be handed to it
afterwards is the *fingerprint* of a server: when it changes, there is a new server, and
the old one ends with its last worker. Where there is a doubt, a worker is a new
interpreter, as in loky, and `ForkedProcess.refusal` says why.
"""

from __future__ import annotations

import atexit
import contextlib
import marshal
import multiprocessing.process
import os
import signal
import socket
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from loky.backend.popen_loky_posix import Popen as SpawningPopen
from loky.backend.process import LokyProcess

from skl_mmap import _compat
from skl_mmap._child import above_standard
from skl_mmap._linux import proc
from skl_mmap._scratch import open_scratch_file
from skl_mmap.backend import _fork_server
from skl_mmap.backend._fork_server import EXIT_CODE_BYTES, Setup
from skl_mmap.backend._semaphore import can_be_read

PRELOADED = (
    *("catboost", "cloudpickle", "imblearn", "joblib", "lightgbm", "loky", "numpy"),
    *("pandas", "psutil", "pyarrow", "scipy", "skl_mmap", "sklearn", "threadpoolctl"),
    "xgboost",
)
"""Packages that a server imports if the parent has: their import starts no thread, and
leaves no random state that two workers would share. Checked in the tests."""

# A module for each library, and some start threads when they are imported: polars.
_FOR_LIBRARIES = "skl_mmap.containers._"
# Handed to each worker, so that a change needs no new server: nobody reads them when a
# library is imported.
_TRAVELLING = ("COLUMNS", "LINES", "OLDPWD", "PWD", "PYTEST_CURRENT_TEST", "_")
# pyarrow's jemalloc starts a thread when it is imported, unless it is told not to.
_FOR_IMPORTS = {"JE_ARROW_MALLOC_CONF": "background_thread:false"}
# On a machine that is busy with other work, imports take long; a fork does not.
_READY_SECONDS = 300.0
_FORK_SECONDS = 10.0
# An exit code follows the end of a worker at once, if there is somebody to send it.
_CODE_SECONDS = 1.0
_REPLY_BYTES = 1 << 12

# Its arguments are the descriptors that `main` takes, the last of them the setup's.
_CODE = """\
import marshal, signal, sys
interrupt = signal.signal(signal.SIGINT, signal.SIG_IGN)
*fds, setup_fd = map(int, sys.argv[1:])
with open(setup_fd, "rb") as file:
    setup = marshal.load(file)
sys.path[:] = setup[0]
from skl_mmap.backend._fork_server import Setup, main
main(*fds, Setup(*setup), interrupt)
"""


class RefusedError(OSError):
    """No worker can be forked now; the message says why."""


def find_obstacle() -> str:
    """Return why workers cannot be forked in this process at all; empty if they can."""
    if not proc.can_remap() or not hasattr(os, "pidfd_open"):
        return "this system cannot fork workers"
    if not _compat.is_glibc():
        return "the C library is not glibc"
    if not _compat.can_pack_processes():
        return "loky is not known well enough"
    return ""


def _write_scratch_file(data: bytes) -> int:
    """Return a descriptor of a new file without a name, to be read from its start."""
    fd = open_scratch_file("skl_mmap-worker")
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(data)
        os.lseek(fd, 0, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _find_modules(packages: frozenset[str]) -> list[tuple[str, str | None]]:
    """List the modules of some packages that this process has, and their files."""
    found = []
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        is_wanted = name.partition(".")[0] in packages
        if ".tests" in name or name.startswith(_FOR_LIBRARIES):
            is_wanted = name.removeprefix(_FOR_LIBRARIES) in packages
        if is_wanted and spec is not None and spec.name == name:
            found.append((name, spec.origin if spec.has_location else None))
    return found


def _find_packages(preload: Sequence[str]) -> dict[str, object]:
    """Return the packages to preload, and what tells when one has changed.

    One of the list changes when it is installed anew, one of the user's when any of
    the modules is edited that this process has imported.
    """
    named = {name.partition(".")[0] for name in preload}
    found: dict[str, object] = {}
    for name, module in list(sys.modules.items()):
        package = name.partition(".")[0]
        if package in named or (package == name and name in PRELOADED):
            origin = getattr(getattr(module, "__spec__", None), "origin", None)
            with contextlib.suppress(OSError, TypeError):
                status = os.stat(origin)  # type: ignore[arg-type]
                found[name] = origin, status.st_mtime_ns, status.st_size
    return found


def _search_path() -> list[str]:
    """Return where loky's workers look for modules."""
    start = getattr(multiprocessing.process, "ORIGINAL_DIR", None) or ""
    return [path or start for path in sys.path]


def _take_fingerprint(environment: Mapping[str, str]) -> tuple[object, ...]:
    """Return what a new interpreter would take over, and a forked process does not."""
    kept = {k: v for k, v in environment.items() if k not in _TRAVELLING}
    standard = tuple(map(_describe_standard_file, range(3)))
    return (kept, sys.executable, sys.path[:], standard, proc.read_inherited_state())


def _describe_standard_file(fd: int) -> str:
    """Return what Python makes of stdin, stdout or stderr depends on."""
    try:
        os.fstat(fd)
    except OSError:
        return "closed"
    return "terminal" if os.isatty(fd) else "file"


@contextlib.contextmanager
def _without_interrupts() -> Iterator[list[int]]:
    """Block SIGINT while a process is started, and yield what was blocked before."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        yield list(map(int, before))
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class ForkServer:
    """A process that has imported what workers need, and forks them.

    Parameters
    ----------
    environment : mapping of str to str
        All variables of its workers.
    modules : list of (str, str or None)
        What to import, and from which files.
    idle_seconds : float
        Time without workers after which it ends by itself.

    Attributes
    ----------
    pid : int
        Its number.

    Raises
    ------
    RefusedError
        If nothing may be forked from it. It is gone then.
    OSError
        If it cannot be started.
    """

    def __init__(
        self,
        environment: Mapping[str, str],
        modules: list[tuple[str, str | None]],
        idle_seconds: float,
    ) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        try:
            with theirs:
                self._start(environment, modules, idle_seconds, theirs.fileno())
        except BaseException:
            ours.close()
            raise
        self.pid = self._process.pid
        self._lock = threading.Lock()
        threading.Thread(
            target=self._bury, name="skl_mmap fork server", daemon=True
        ).start()
        self._wait_until_ready()

    def _start(
        self,
        environment: Mapping[str, str],
        modules: list[tuple[str, str | None]],
        idle_seconds: float,
        socket_fd: int,
    ) -> None:
        removed = [name for name in _FOR_IMPORTS if name not in environment]
        with contextlib.ExitStack() as stack, _without_interrupts() as blocked:
            setup = Setup(_search_path(), modules, removed, blocked, idle_seconds)
            owner_fd = os.pidfd_open(os.getpid())
            stack.callback(os.close, owner_fd)
            setup_fd = _write_scratch_file(marshal.dumps(tuple(setup)))
            stack.callback(os.close, setup_fd)
            passed = []
            for fd in (socket_fd, owner_fd, setup_fd):
                passed.append(above_standard(fd))
                stack.callback(os.close, passed[-1])
            self._process = subprocess.Popen(
                [sys.executable, "-c", _CODE, *map(str, passed)],
                env={**_FOR_IMPORTS, **environment},
                pass_fds=passed,
                restore_signals=False,
            )

    def _bury(self) -> None:
        """Leave nothing of it once it has ended, by itself or otherwise."""
        self._process.wait()
        with self._lock:
            self._socket.close()

    def _wait_until_ready(self) -> None:
        try:
            with self._lock:
                refusal = marshal.loads(self._receive(_READY_SECONDS)[0])
        except BaseException:
            self.kill()
            raise
        if refusal:
            self.retire()
            raise RefusedError(refusal)

    def _receive(self, seconds: float) -> tuple[bytes, list[int]]:
        self._socket.settimeout(seconds)
        try:
            data, fds, _ = _fork_server.receive(self._socket, _REPLY_BYTES, 1)
        except TimeoutError:
            raise OSError("the server does not answer") from None
        if not data:
            raise OSError("the server has ended")
        return data, fds

    @property
    def is_running(self) -> bool:
        """Whether the process is there; it may have been stopped."""
        return self._process.returncode is None

    def fork(self, fds: Sequence[int]) -> tuple[int, int]:
        """Start a worker.

        Parameters
        ----------
        fds : sequence of int
            The request, as at the top of ``_fork_server.py``.

        Returns
        -------
        pid, pidfd : int
            Number of the worker, and a descriptor of it that is the caller's.

        Raises
        ------
        RefusedError
            If the server cannot do it now.
        OSError
            If it has ended, or does not answer.
        """
        with self._lock:
            self._socket.settimeout(_FORK_SECONDS)
            socket.send_fds(self._socket, [b"!"], fds)
            data, received = self._receive(_FORK_SECONDS)
        pid, refusal = marshal.loads(data)
        if refusal or not received:
            raise RefusedError(refusal or "this process can have no more open files")
        return pid, received[0]

    def retire(self) -> None:
        """Ask for no more workers: it ends with the last one."""
        with self._lock:
            self._socket.close()

    def kill(self) -> None:
        """End it at once; its workers stay."""
        self.retire()
        self._process.kill()

    def wait(self, seconds: float) -> None:
        """Wait for its end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(seconds)

    def disown(self) -> None:
        """Let go of it in a process forked from its parent."""
        self._socket.close()
        self._process.returncode = 0


class _Servers:
    """The server of this process, if there is one."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.current: ForkServer | None = None
        self._fingerprint: object = None
        self._packages: dict[str, object] = {}
        # For the last fingerprints with which a server has refused.
        self._refusals: list[tuple[object, str]] = []

    def get(
        self,
        environment: Mapping[str, str],
        preload: Sequence[str],
        idle_seconds: float,
    ) -> ForkServer:
        """Return the server for workers that start now, the last one or a new one."""
        packages = _find_packages(preload)
        fingerprint = _take_fingerprint(environment), tuple(preload)
        if self.current is not None:
            is_same = fingerprint == self._fingerprint and self.current.is_running
            # Packages that it has and this process has not imported do no harm.
            if is_same and packages.items() <= self._packages.items():
                return self.current
            self.retire()
        for refused, refusal in self._refusals:
            if refused == (fingerprint, packages):
                raise RefusedError(refusal)
        modules = _find_modules(frozenset(name.partition(".")[0] for name in packages))
        named = [(name, None) for name in preload]
        try:
            self.current = ForkServer(environment, [*modules, *named], idle_seconds)
        except RefusedError as error:
            known = (fingerprint, packages), str(error)
            self._refusals = [*self._refusals[-9:], known]
            raise
        self._fingerprint, self._packages = fingerprint, packages
        return self.current

    def retire(self) -> None:
        """Start no more workers from the server that there is."""
        server, self.current = self.current, None
        if server is not None:
            server.retire()

    def discard(self, server: ForkServer) -> None:
        """Give up a server that does not answer."""
        server.kill()
        if self.current is server:
            self.current = None


_servers = _Servers()


def _leave_server_to_parent() -> None:
    """Begin anew in a process forked from this one."""
    global _servers
    if _servers.current is not None:
        _servers.current.disown()
    _servers = _Servers()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_leave_server_to_parent)


@atexit.register
def end_server() -> None:
    """Start no more workers from the server that there is, and wait for its end."""
    server = _servers.current
    _servers.retire()
    if server is not None:
        # It ends at once, or else when this process has.
        server.wait(1.0)


def server_pid() -> int | None:
    """Return the number of this process's server; None if there is none."""
    server = _servers.current
    return server.pid if server is not None and server.is_running else None


class _Place:
    """A descriptor on its way to a worker: its place in the list that is sent."""

    def __init__(self, place: int) -> None:
        self._place = place

    def detach(self) -> int:
        return _fork_server.received_fds[self._place]


class ForkedPopen:
    """A running worker, with the methods that multiprocessing and loky ask for.

    Parameters
    ----------
    process : ForkedProcess
        What to run.

    Raises
    ------
    OSError
        If it cannot be forked.

    Notes
    -----
    The worker is a child of the server. That it ends is known from its pidfd, whatever
    happens to the server; its exit code is told by the server, if that is there.
    """

    method = "loky"
    DupFd = _Place

    def __init__(self, process: ForkedProcess) -> None:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        self.returncode: int | None = None
        self._fds: list[int] = []
        environment = {**os.environ, **process.env}
        travelling = {name: environment.get(name) for name in _TRAVELLING}
        state = travelling, proc.read_umask()
        payload = _compat.pack_process(process, self, state)
        with contextlib.ExitStack() as stack:
            payload_fd = _write_scratch_file(payload)
            stack.callback(os.close, payload_fd)
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            stack.callback(os.close, nothing)
            standard = [
                nothing if _describe_standard_file(fd) == "closed" else fd
                for fd in range(3)
            ]
            self._status_fd, status_fd = os.pipe()
            self._close_status = weakref.finalize(self, os.close, self._status_fd)
            stack.callback(os.close, status_fd)
            fds = [payload_fd, status_fd, *standard, *self._fds]
            try:
                self.pid, self.sentinel = _fork(fds, environment, process)
            except BaseException:
                self._close_status()
                raise
        # While somebody may wait for it, its number must not become another file's.
        close_sentinel = weakref.finalize(self, os.close, self.sentinel)
        # At exit, multiprocessing asks its children once more, after finalizers.
        self._close_status.atexit = close_sentinel.atexit = False
        self._lock = threading.Lock()

    def duplicate_for_child(self, fd: int) -> int:
        """Send a descriptor too, and return its place."""
        self._fds.append(fd)
        return len(self._fds) - 1

    def poll(self, flag: int = os.WNOHANG) -> int | None:
        """Return the exit code; None if it runs."""
        return self.wait(0.0 if flag == os.WNOHANG else None)

    def wait(self, timeout: float | None = None) -> int | None:
        """Wait for its end, and return the exit code; None if it still runs."""
        if self.returncode is None and can_be_read(self.sentinel, timeout):
            # Two threads of loky's ask at the same time, and whoever comes second must
            # not read from a number that is another file's by then.
            with self._lock:
                if self.returncode is None:
                    self.returncode = self._read_exit_code()
        return self.returncode

    def _read_exit_code(self) -> int:
        code = b""
        if self._close_status.alive and can_be_read(self._status_fd, _CODE_SECONDS):
            code = os.read(self._status_fd, EXIT_CODE_BYTES)
        self._close_status()
        if len(code) != EXIT_CODE_BYTES:
            return _compat.UNKNOWN_EXIT_CODE
        return int.from_bytes(code, "little", signed=True)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self._send(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self._send(signal.SIGKILL)

    def _send(self, number: signal.Signals) -> None:
        if self.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.sentinel, number)

    def close(self) -> None:
        """Let go of it."""
        with self._lock:
            self._close_status()


def _fork(
    fds: Sequence[int], environment: Mapping[str, str], process: ForkedProcess
) -> tuple[int, int]:
    """Fork a worker from the server, or from a new one if that has just ended."""
    with _servers.lock:
        for is_last in (False, True):
            server = _servers.get(environment, process.preload, process.idle_seconds)
            try:
                return server.fork(fds)
            except RefusedError:
                _servers.retire()
                raise
            except OSError:
                _servers.discard(server)
                if is_last:
                    raise
            except BaseException:
                # By a signal: an answer may be under way, and would be taken for that
                # to the next request. The server kills a worker that nobody knows.
                _servers.retire()
                raise
        raise AssertionError  # pragma: no cover


class ForkedProcess(LokyProcess):  # type: ignore[misc]
    """A process of loky's that is forked from a server, or spawned if it cannot be.

    Attributes
    ----------
    preload : tuple of str
        Modules that the server imports, beside those of the parent.
    idle_seconds : float
        Time without workers after which the server ends.
    refusal : str
        Why it was spawned; empty if it was not.
    """

    preload: tuple[str, ...] = ()
    idle_seconds = 60.0
    refusal = ""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # What logs, and users of multiprocessing, know workers by.
        own, known = type(self).__name__, LokyProcess.__name__
        self.name = str(super().name).replace(own, known)

    @staticmethod
    def _Popen(process: ForkedProcess) -> Any:  # noqa: N802 - multiprocessing's name
        refusal = find_obstacle()
        if not refusal:
            try:
                return ForkedPopen(process)
            except (OSError, LookupError) as error:
                refusal = str(error)
        popen = SpawningPopen(process)
        process.refusal = refusal
        return popen
