"""The server that workers are forked from: what runs in its process, and in theirs.

::

    parent (_forking.py)            server                        worker
    exec, with a socket --------->  main(): imports what
                                    workers would import
    "ready", or why not <---------
    request: descriptors -------->  os.fork() ------------------> be_worker(): what
    number, pidfd <---------------                                loky's workers do
    status pipe <-----------------  its exit code, once it ended
    closes the status pipe ------>  waits for it: from now on its
                                    number may be another's; or
                                    kills it, if nobody wants it

A request is nothing but descriptors: a file with the pickled process, the status pipe,
stdin, stdout, stderr, and those that the pickle refers to by their place.

The server has one thread whenever it forks, or refuses to. It takes no signal from the
terminal, ends with its parent, and otherwise when nobody wants workers from it any more
and the last one has ended. Its workers do not need it.
"""

from __future__ import annotations

import array
import contextlib
import gc
import importlib
import importlib.util
import io
import marshal
import os
import select
import signal
import socket
import sys
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, NoReturn

from skl_mmap import _compat
from skl_mmap._linux import calls, proc

# The kernel's limit for one message is 253 (man 7 unix, SCM_RIGHTS).
_MAX_FDS = 250
EXIT_CODE_BYTES = 4

# Threads that these keep between parallel regions do not survive a fork, or have not
# been tried: Intel's and LLVM's OpenMP, MKL, TBB, BLIS.
_UNTRIED_LIBRARIES = ("libiomp", "libomp", "libmkl_", "libtbb", "libblis")

received_fds: list[int] = []
"""In a worker: the descriptors that its pickle refers to by their place."""

parent_fd = -1
"""In a worker: a pidfd of its parent, who has not forked it itself; else -1."""


class Setup(NamedTuple):
    """What the parent says to a new server, as plain values.

    Attributes
    ----------
    path : list of str
        Where to look for modules.
    modules : list of (str, str or None)
        What to import, and the file that it has to be from.
    removed : list of str
        Environment variables that are for the imports only.
    blocked : list of int
        Signals that workers have blocked.
    idle_seconds : float
        Time without workers after which the server ends.
    """

    path: list[str]
    modules: list[tuple[str, str | None]]
    removed: list[str]
    blocked: list[int]
    idle_seconds: float


def receive(
    connection: socket.socket, max_bytes: int, max_fds: int
) -> tuple[bytes, list[int], int]:
    """Receive a message with descriptors that no other program inherits.

    ``socket.recv_fds`` does not hand its flags on.

    Returns
    -------
    data : bytes
        Empty if the other side has ended.
    fds : list of int
        The caller's from now on.
    flags : int
        Has ``MSG_CTRUNC`` if there was no room for all descriptors.
    """
    fds = array.array("i")
    size = socket.CMSG_LEN(max_fds * fds.itemsize)
    flag = socket.MSG_CMSG_CLOEXEC
    data, messages, flags, _ = connection.recvmsg(max_bytes, size, flag)
    for level, kind, content in messages:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            fds.frombytes(content[: len(content) // fds.itemsize * fds.itemsize])
    return data, list(fds), flags


class _Worker(NamedTuple):
    pid: int
    pidfd: int
    status_fd: int


def main(socket_fd: int, owner_fd: int, setup: Setup, interrupt: Any) -> NoReturn:
    """Be the server until nobody needs one.

    Parameters
    ----------
    socket_fd : int
        Where requests come from.
    owner_fd : int
        A pidfd of the parent.
    setup : Setup
        What to do.
    interrupt : callable or signal.Handlers
        What workers do about SIGINT, which the server ignores.
    """
    global parent_fd
    parent_fd = owner_fd
    # Where it is ignored, the kernel does not tell how a child has ended.
    child = signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, setup.blocked)
    _open_standard_files()
    for fd in (socket_fd, owner_fd):
        os.set_inheritable(fd, False)
    connection = socket.socket(fileno=socket_fd)
    _import_all(setup.modules)
    for name in setup.removed:
        os.environ.pop(name, None)
    _end_threads_of_libraries()
    gc.collect()
    calls.trim_heap()
    # A collection in a worker would otherwise write to every object, and so copy it.
    gc.freeze()
    refusal = _find_refusal()
    connection.send(marshal.dumps(refusal))
    if not refusal:
        handlers = {signal.SIGINT: interrupt, signal.SIGCHLD: child}
        _Server(connection, setup.idle_seconds, handlers).run()
    os._exit(0)


def _open_standard_files() -> None:
    """Open 0, 1 and 2, so that no descriptor which is received gets their number."""
    while (fd := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(fd)


def _import_all(modules: Iterable[tuple[str, str | None]]) -> None:
    """Import modules from the files that they have in the parent, or leave them out."""
    for name, origin in modules:
        if name in sys.modules:
            continue
        # What cannot be imported here is imported, or not, by the task that needs it.
        try:
            spec = importlib.util.find_spec(name)
            if spec is not None and origin in (None, spec.origin):
                importlib.import_module(name)
        except BaseException:  # noqa: BLE001 - modules may raise anything
            continue


def _end_threads_of_libraries() -> None:
    """Fork once: OpenBLAS ends its threads before a fork, and starts them when needed.

    https://github.com/OpenMathLib/OpenBLAS/blob/develop/driver/others/blas_server.c
    """
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def _find_refusal() -> str:
    """Return why nothing may be forked from this process; empty if it may."""
    if is_traced():
        return "a debugger or profiler watches new interpreters"
    n_threads = proc.count_threads()
    if n_threads != 1:
        return f"a library that workers import starts threads ({n_threads - 1})"
    names = {os.path.basename(path) for path in proc.mapped_files()}
    for name in sorted(names):
        if name.startswith(_UNTRIED_LIBRARIES):
            return f"{name} has not been tried in processes that are forked"
    return ""


def is_traced() -> bool:
    """Return whether a debugger, a profiler or coverage has begun with this process."""
    monitoring = getattr(sys, "monitoring", None)  # from Python 3.12 on
    tools = () if monitoring is None else map(monitoring.get_tool, range(6))
    return bool(sys.gettrace() or sys.getprofile() or any(tools))


class _Server:
    """Forks workers, and says how they ended."""

    def __init__(
        self,
        connection: socket.socket,
        idle_seconds: float,
        handlers: dict[signal.Signals, Any],
    ) -> None:
        self._connection = connection
        self._handlers = handlers  # of its workers
        self._idle_seconds = idle_seconds
        self._is_wanted = True
        self._poll = select.poll()
        self._poll.register(connection, select.POLLIN)
        self._poll.register(parent_fd, select.POLLIN)
        # By their pidfds while they run, and by their status pipes until the parent
        # has closed the other end.
        self._running: dict[int, _Worker] = {}
        self._known: dict[int, _Worker] = {}

    def run(self) -> None:
        """Serve until the parent has ended, or there is nothing left to do."""
        while self._running or self._is_wanted:
            # A call that ends its workers often starts new ones soon.
            limit = None if self._running else 1000 * self._idle_seconds
            ready = [fd for fd, _ in self._poll.poll(limit)]
            if parent_fd in ready or not ready:
                return
            for fd in ready:
                if fd in self._running:
                    self._tell_end(self._running.pop(fd))
                elif fd in self._known:
                    self._forget(self._known.pop(fd))
            if self._connection.fileno() in ready:
                self._answer()

    def _answer(self) -> None:
        try:
            _, fds, flags = receive(self._connection, 1, _MAX_FDS)
        except OSError:  # reset by the parent
            fds, flags = [], 0
        if not fds and not flags & socket.MSG_CTRUNC:
            self._poll.unregister(self._connection)
            self._is_wanted = False
            return
        try:
            refusal = _find_refusal_of_fork(flags)
            if refusal:
                self._reply(0, refusal, [])
            else:
                self._fork(fds)
        except OSError as error:
            self._reply(0, f"the server cannot fork ({error.strerror})", [])
        finally:
            for fd in fds:
                os.close(fd)

    def _reply(self, pid: int, refusal: str, fds: list[int]) -> None:
        with contextlib.suppress(OSError):  # nobody waits for it any more
            socket.send_fds(self._connection, [marshal.dumps((pid, refusal))], fds)

    def _fork(self, fds: list[int]) -> None:
        pid = os.fork()
        if pid == 0:
            self._be_worker(fds)
        status_fd = -1
        try:
            status_fd = os.dup(fds[1])
            pidfd = os.pidfd_open(pid)
        except OSError:  # no more open files: nobody would know of the worker
            if status_fd >= 0:
                os.close(status_fd)
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise
        worker = _Worker(pid, pidfd, status_fd)
        self._running[pidfd] = self._known[status_fd] = worker
        self._poll.register(pidfd, select.POLLIN)
        self._poll.register(status_fd, 0)  # an error, once nobody can read it
        self._reply(pid, "", [pidfd])

    def _be_worker(self, fds: list[int]) -> NoReturn:
        code = 1
        try:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)
            self._connection.close()
            for fd in (*self._running, *self._known):
                os.close(fd)
            code = be_worker(fds)
        finally:
            # Not sys.exit: taking modules down would write to, and so copy, each page.
            # Objects of modules are not deleted; what has to be done at exit was done.
            os._exit(code)

    def _tell_end(self, worker: _Worker) -> None:
        """Send the exit code, and leave the dead process its number."""
        self._poll.unregister(worker.pidfd)
        os.close(worker.pidfd)
        how = os.WEXITED | os.WNOHANG | os.WNOWAIT
        found = os.waitid(os.P_PID, worker.pid, how)
        if found is None:
            code = _compat.UNKNOWN_EXIT_CODE
        else:
            is_exit = found.si_code == os.CLD_EXITED
            code = found.si_status if is_exit else -found.si_status
        data = code.to_bytes(EXIT_CODE_BYTES, "little", signed=True)
        with contextlib.suppress(OSError):  # closed by the parent
            os.write(worker.status_fd, data)
        if worker.status_fd not in self._known:  # killed, for want of a reader
            self._bury(worker)

    def _forget(self, worker: _Worker) -> None:
        """Nobody asks about a worker: it has ended, or its start was interrupted."""
        self._poll.unregister(worker.status_fd)
        if worker.pidfd in self._running and self._running[worker.pidfd] is worker:
            os.kill(worker.pid, signal.SIGKILL)
        else:
            self._bury(worker)

    @staticmethod
    def _bury(worker: _Worker) -> None:
        os.close(worker.status_fd)
        os.waitpid(worker.pid, 0)


def _find_refusal_of_fork(flags: int) -> str:
    if flags & socket.MSG_CTRUNC:
        return "the server can have no more open files"
    n_threads = proc.count_threads()
    return "" if n_threads == 1 else f"the server has {n_threads} threads"


def be_worker(fds: list[int]) -> int:
    """Run loky's process, as a new interpreter would, and return its exit code.

    Parameters
    ----------
    fds : list of int
        Of the request; see the top of this module.
    """
    payload_fd, status_fd, *standard = fds[:5]
    received_fds[:] = fds[5:]
    if _is_unwanted(status_fd):
        return 1
    os.close(status_fd)
    for number, fd in enumerate(standard):
        os.dup2(fd, number)
        os.close(fd)
    if sys.stderr is None:  # closed: loky's workers tell their crashes there
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
    _draw_random_state()
    code = _compat.run_process(payload_fd, received_fds, _set_state)
    _close_files()
    return code


def _is_unwanted(status_fd: int) -> bool:
    """Return whether the parent was interrupted while it started this worker."""
    poll = select.poll()
    poll.register(status_fd, 0)
    return bool(poll.poll(0))


def _close_files() -> None:
    """Close what tasks have left open, as the end of an interpreter does.

    What is written to a file may still be in its buffer. Text goes first, then what
    compresses it, for example, and then the plain files of the standard library.
    """
    standard = {sys.stdin, sys.stdout, sys.stderr}
    files = [
        item
        for item in gc.get_objects()
        if issubclass(type(item), io.IOBase) and item not in standard
    ]
    plain = io.BufferedWriter, io.BufferedRandom, io.FileIO
    places: dict[type, int] = {kind: place for place, kind in enumerate(plain)}
    places[io.TextIOWrapper] = -2
    for file in sorted(files, key=lambda file: places.get(type(file), -1)):
        with contextlib.suppress(Exception):
            file.close()


def _draw_random_state() -> None:
    """Give this process random states of its own, as a new interpreter has.

    The module random sees to itself; other generators are made when they are needed.
    """
    state: Any = sys.modules.get("numpy.random")
    if state is not None:
        state.seed()


def _set_state(state: tuple[dict[str, str | None], int]) -> None:
    """Take over what the parent has changed since the server was started."""
    environment, umask = state
    set_variables(environment)
    os.umask(umask)


def set_variables(variables: Mapping[str, str | None]) -> None:
    """Set environment variables; None removes one."""
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
