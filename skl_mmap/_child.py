"""A child process of our own: one way to start it, to talk to it, and to end it.

::

    parent                                             child
    ------                                             -----
    Child(command)            starts it      ---->     serve(), or a script of its own
    child.send(message)       messages       ---->     connection.receive()
    child.receive()           messages      <----      connection.send(message)
    child.close()             end of input   ---->     EOFError in receive()
                              SIGKILL        ---->     to what is left of its session

A message is its size in 8 bytes, and then plain values as marshal writes them: a child
can send nothing that the parent would execute. Rules for both sides:

* Whoever waits is told with an EOFError that the other side has ended, however it did,
  and also while somebody else holds the pipes open: a pidfd says so where there is one.
* A child has a session of its own: Ctrl-C reaches the parent alone, which ends it.
* A child inherits its two pipes, stderr, and what it is meant to have. What it prints
  goes to stderr, and what it starts has none of the pipes.
* A process forked from the parent has no child: it may close the pipes, no more.

The sampler imports this file, and has to start fast: what is large is imported by those
functions that need it.
"""

from __future__ import annotations

import _thread
import marshal
import os
import select
import sys
import time

TYPE_CHECKING = False  # the module typing is too large to import for this
if TYPE_CHECKING:
    import subprocess
    from collections.abc import Mapping, Sequence
    from typing import IO, Any

    from typing_extensions import Self

_SIZE_BYTES = 8
# Code that is sent is not executed, and from Python 3.13 on not even read.
_NO_CODE = {"allow_code": False} if sys.version_info >= (3, 13) else {}
_CHUNK_BYTES = 1 << 20
# Between two looks at who the parent is, where the kernel does not tell.
_LOOK_SECONDS = 1.0
# The child imports from where the parent does, also from a checkout.
_CODE = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from skl_mmap._child import serve
serve(int(sys.argv[2]), *sys.argv[3:])
"""


# -------------------------------------------------------------- both sides


def _milliseconds_until(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, 1000 * (deadline - time.monotonic()))


class Peer:
    """The process at the other side, which may end at any time.

    Parameters
    ----------
    pid : int
        The parent of this process, or a child of it that has not been waited for.
    is_parent : bool, default=True
        Which of the two.
    fd : int, default=-1
        A pidfd of it, which belongs to this object from now on; else one is opened.
    """

    def __init__(self, pid: int, *, is_parent: bool = True, fd: int = -1) -> None:
        self.pid = pid
        self._is_parent = is_parent
        self._fd = fd
        if fd < 0 and hasattr(os, "pidfd_open"):
            try:  # noqa: SIM105 - contextlib is too large to import for this
                self._fd = os.pidfd_open(pid)
            except OSError:  # an old kernel, or the process has ended
                pass

    @property
    def is_known(self) -> bool:
        """Whether its end is noticed at once, and whoever else waits for it."""
        return self._fd >= 0

    def close(self) -> None:
        """Let go of the process."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def wait(self, *fds: int, seconds: float | None = None) -> list[int]:
        """Wait until one of some files can be read.

        Parameters
        ----------
        *fds : int
            Pipes, or what else can be polled.
        seconds : float, default=None
            How long at most; None for ever.

        Returns
        -------
        list of int
            Those that can be read, or have come to their end.

        Raises
        ------
        EOFError
            If the process has ended, and there is nothing to read.
        TimeoutError
            If nothing has happened in time.
        """
        if not hasattr(select, "poll"):  # Windows, where pipes can only be read
            if not fds and self._is_orphan():
                raise EOFError(f"process {self.pid} has ended")
            return list(fds)
        poll = select.poll()
        for fd in {*fds, self._fd} - {-1}:
            poll.register(fd, select.POLLIN)
        deadline = None if seconds is None else time.monotonic() + seconds
        while True:
            # Without a parent the pidfd may be that of another one of the same number.
            is_orphan = self._is_orphan()
            milliseconds = _milliseconds_until(deadline)
            if self._is_parent and not self.is_known:
                most = 1000 * _LOOK_SECONDS
                milliseconds = most if milliseconds is None else min(milliseconds, most)
            ready = {fd for fd, _ in poll.poll(0 if is_orphan else milliseconds)}
            if found := [fd for fd in fds if fd in ready]:
                return found
            if self._fd in ready or is_orphan or self._is_orphan():
                raise EOFError(f"process {self.pid} has ended")
            if deadline is not None and time.monotonic() >= deadline:
                raise TimeoutError(f"process {self.pid} does not answer")

    def _is_orphan(self) -> bool:
        return self._is_parent and os.getppid() != self.pid


class Connection:
    """Two pipes with messages.

    Parameters
    ----------
    source, sink : int
        Where to read and write; -1 for a connection of one direction.
    peer : Peer, default=None
        Who is at the other side; None relies on the ends of the pipes.
    """

    def __init__(self, source: int, sink: int, peer: Peer | None = None) -> None:
        self.source = source
        self.peer = peer
        self._sink = sink

    def send(self, message: Any, *, seconds: float | None = None) -> None:
        """Send plain values: numbers, text, bytes, None, lists, tuples, dicts of them.

        Raises
        ------
        BrokenPipeError
            If nobody reads any more.
        TimeoutError
            If nobody reads in time.
        """
        data = marshal.dumps(message)
        view = memoryview(len(data).to_bytes(_SIZE_BYTES, "little") + data)
        deadline = None if seconds is None else time.monotonic() + seconds
        if deadline is not None and hasattr(select, "poll"):
            os.set_blocking(self._sink, False)
        while view:
            try:
                view = view[os.write(self._sink, view) :]
            except BlockingIOError:
                poll = select.poll()
                poll.register(self._sink, select.POLLOUT)
                if not poll.poll(_milliseconds_until(deadline)):
                    raise TimeoutError("what is sent is not read") from None

    def receive(self, *, seconds: float | None = None) -> Any:
        """Receive the next message.

        Raises
        ------
        EOFError
            If the other side has ended, or closed its end.
        TimeoutError
            If there is none, or not all of it, in time. The connection is of no more
            use then.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        size = int.from_bytes(self._read(_SIZE_BYTES, deadline), "little")
        return marshal.loads(self._read(size, deadline), **_NO_CODE)

    def _read(self, n_bytes: int, deadline: float | None) -> bytes:
        data = bytearray()
        while len(data) < n_bytes:
            if self.peer is not None:
                left = _milliseconds_until(deadline)
                self.peer.wait(
                    self.source, seconds=None if left is None else left / 1000
                )
            piece = os.read(self.source, min(n_bytes - len(data), _CHUNK_BYTES))
            if not piece:
                raise EOFError("the pipe has been closed")
            data += piece
        return bytes(data)

    def close(self) -> None:
        """Close the pipes, in this process."""
        for fd in (self.source, self._sink):
            if fd >= 0:
                os.close(fd)
        self.source = self._sink = -1


def above_standard(fd: int) -> int:
    """Return a copy of a descriptor that is none of stdin, stdout and stderr.

    They may be closed, and whatever prints would write to a pipe in their place.
    """
    if os.name != "posix":
        return os.dup(fd)
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)


def explain_exit(code: int) -> str:
    """Name the end of a process: "exit code 1", or "killed by" a signal."""
    import signal

    if code >= 0:
        return f"exit code {code}"
    hint = ", often the kernel's answer to too little memory" if code == -9 else ""
    return f"killed by {signal.Signals(-code).name}{hint}"


# --------------------------------------------------------- the parent's side


def function_command(module: str, name: str) -> list[str]:
    """Return the command of a child that calls ``module.name(connection)``."""
    import json

    path = json.dumps(sys.path)
    return [sys.executable or "", "-c", _CODE, path, str(os.getpid()), module, name]


class Child:
    """A child process, as its parent sees it; to be closed, or used in a ``with``.

    Parameters
    ----------
    command : sequence of str
        An interpreter and what it runs; see `function_command`.
    environment : mapping of str to str, default=None
        Variables to set, beside those of this process.
    pass_fds : sequence of int, default=()
        Open files that it inherits.
    keeps_stderr : bool, default=True
        Whether what it writes to stderr is kept for `last_words`, or goes where that
        of this process goes.

    Attributes
    ----------
    owner : int
        The process that has started it.

    Raises
    ------
    OSError
        If it cannot be started.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
        keeps_stderr: bool = True,
    ) -> None:
        import subprocess

        from skl_mmap._scratch import open_scratch_file

        self.owner = os.getpid()
        self._is_closed = False
        self._stderr: IO[bytes] | None = None
        theirs: list[int] = []
        ours: list[int] = []
        try:
            for read_here in (False, True):
                ends = os.pipe()
                theirs.append(ends[read_here])
                ours.append(above_standard(ends[not read_here]))
                os.close(ends[not read_here])
            if keeps_stderr:
                self._stderr = open(open_scratch_file("skl_mmap-stderr"), "w+b")  # noqa: SIM115 - see close()
            self._process: subprocess.Popen[bytes] = subprocess.Popen(
                command,
                stdin=theirs[0],
                stdout=theirs[1],
                stderr=self._stderr,
                env={**os.environ, **(environment or {})},
                pass_fds=pass_fds,
                start_new_session=True,
            )
        except BaseException:
            for fd in ours:
                os.close(fd)
            if self._stderr is not None:
                self._stderr.close()
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        sink, source = ours
        self._peer = Peer(self.pid, is_parent=False)
        self._connection = Connection(source, sink, self._peer)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def return_code(self) -> int | None:
        """Exit code, minus the number of a signal; None before `close`."""
        return self._process.returncode

    @property
    def is_ours(self) -> bool:
        """Whether this process has started it, and was not forked since."""
        return os.getpid() == self.owner

    def send(self, message: Any, *, seconds: float | None = None) -> None:
        """Send a message; that the child has ended is noticed by `receive`."""
        try:  # noqa: SIM105 - contextlib is too large to import for this
            self._connection.send(message, seconds=seconds)
        except BrokenPipeError:
            pass

    def receive(self, *, seconds: float | None = None) -> Any:
        """Receive a message; errors as in `Connection.receive`."""
        return self._connection.receive(seconds=seconds)

    def count_words(self) -> int:
        """Return how many bytes the child has written to stderr so far."""
        assert self._stderr is not None
        return os.fstat(self._stderr.fileno()).st_size

    def last_words(self, start: int = 0, *, n_lines: int | None = None) -> str:
        """Return what it has written to stderr after `start` bytes, or its end."""
        assert self._stderr is not None
        self._stderr.seek(start)
        text = self._stderr.read().decode(errors="replace").strip()
        return text if n_lines is None else "\n".join(text.splitlines()[-n_lines:])

    def interrupt(self, *, seconds: float) -> None:
        """Ask it to end in order, as Ctrl-C would, and wait a little."""
        import signal

        if self.is_ours and not self._is_closed:
            is_posix = os.name == "posix"
            self._process.send_signal(signal.SIGINT if is_posix else signal.SIGTERM)
            self.wait(seconds=seconds)

    def wait(self, *, seconds: float | None = None) -> bool:
        """Wait until it has ended; False if it has not in time.

        With a pidfd it stays a zombie until `close`: nobody else is given its number.
        """
        import subprocess

        try:
            if self._peer.is_known:
                self._peer.wait(seconds=seconds)
            self._process.wait(seconds)
        except EOFError:
            return True
        except (TimeoutError, subprocess.TimeoutExpired):
            return False
        return True

    def close(self, *, seconds: float = 1.0) -> None:
        """Leave no process and no open file behind, whatever has happened.

        Parameters
        ----------
        seconds : float, default=1.0
            How long it may take to end by itself, now that its input has ended. Then it
            is killed, and so are the processes that it has left in its session.
        """
        import signal

        self._connection.close()
        if not self.is_ours:
            self._process.returncode = 0  # another's, for whom nobody waits here
        elif not self._is_closed:
            self.wait(seconds=seconds)
            if os.name == "posix":
                try:  # noqa: SIM105 - as above
                    os.killpg(self.pid, signal.SIGKILL)
                except (ProcessLookupError, PermissionError):
                    pass
            else:
                self._process.kill()
            self._process.wait()
        self._is_closed = True
        self._peer.close()
        if self._stderr is not None:
            self._stderr.close()


# ---------------------------------------------------------- the child's side


def serve(parent_pid: int, module: str, name: str) -> None:
    """Call a function with the connection to the parent; see `function_command`."""
    import importlib
    import signal

    connection = Connection(*_take_pipes(), Peer(parent_pid))
    # Ignored where the parent was started in the background of a shell script.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        getattr(importlib.import_module(module), name)(connection)
    except KeyboardInterrupt:
        # Ended in order: exit handlers stop workers and delete their files.
        sys.exit(130)


def _take_pipes() -> tuple[int, int]:
    """Keep both pipes to the parent from whatever reads and prints."""
    source, sink = above_standard(0), above_standard(1)
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    try:
        os.dup2(2, 1)
    except OSError:  # closed
        os.dup2(nothing, 1)
        os.dup2(nothing, 2)
    if nothing > 2:
        os.close(nothing)
    return source, sink


def end_with_parent(
    parent_pid: int, *, grace_seconds: float = 0.0, parent_fd: int = -1
) -> None:
    """Have this process end with its parent, even if that is killed.

    Not with PR_SET_PDEATHSIG, whose signal comes when the *thread* that has started
    this process ends. A process that leads its group ends all of it.

    Parameters
    ----------
    parent_pid : int
        Who the parent was when it started this process.
    grace_seconds : float, default=0.0
        How long it may take to end in order, after SIGINT.
    parent_fd : int, default=-1
        A pidfd of the parent, for a process that somebody else has started for it.
    """
    arguments = parent_pid, grace_seconds, parent_fd
    _thread.start_new_thread(_follow_parent, arguments)


def _follow_parent(parent_pid: int, grace_seconds: float, parent_fd: int) -> None:
    import signal

    try:
        while True:
            Peer(parent_pid, is_parent=parent_fd < 0, fd=parent_fd).wait(seconds=None)
            time.sleep(_LOOK_SECONDS)  # Windows, where only the number can be looked at
    except EOFError:
        pass
    if grace_seconds:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(grace_seconds)
    if os.name == "posix":
        if os.getpgrp() == os.getpid():
            os.killpg(os.getpid(), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    os._exit(1)
