"""What children of the tests do; they import this file."""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import time
from pathlib import Path

from skl_mmap._child import Child, Connection, end_with_parent, function_command

NAME = __name__


def echo(connection: Connection) -> None:
    """Send back whatever comes, until nothing does any more."""
    try:
        while True:
            connection.send(connection.receive())
    except EOFError:
        pass


def chatter(connection: Connection) -> None:
    """Print in all ways before the answer."""
    sys.stdout.write("printed\n")
    sys.stdout.flush()
    os.write(1, b"written to 1\n")
    subprocess.run(["echo", "by a program"], check=True)
    connection.send([sys.stdin.read(), "answer"])


def die(connection: Connection) -> None:
    connection.receive()
    os.abort()


def die_with_open_pipes(connection: Connection) -> None:
    """End while a fork holds both pipes open, and tell its number before."""
    pid = os.fork()
    if not pid:
        time.sleep(600)
    connection.send(pid)
    connection.receive()
    os._exit(7)


def hang(connection: Connection) -> None:
    """Begin a message, and never end it."""
    os.write(connection._sink, (1000).to_bytes(8, "little") + b"begun")
    time.sleep(600)


def leave_program(connection: Connection) -> None:
    nothing = subprocess.DEVNULL
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing)
    connection.send(process.pid)
    connection.receive()


def list_files(connection: Connection) -> None:
    """Tell what is open here, and in a program that inherits all it can."""
    code = "import os; print(*(os.readlink(f'/proc/self/fd/{n}') for n in (0, 1, 2)))"
    code += "; print(len(os.listdir('/proc/self/fd')))"
    command = [sys.executable, "-I", "-S", "-c", code]
    program = subprocess.run(command, close_fds=False, stdout=-1, check=True, text=True)
    here = {int(name): "" for name in os.listdir("/proc/self/fd")}
    for number in here:
        try:
            here[number] = os.readlink(f"/proc/self/fd/{number}")
        except OSError:  # of the listing itself
            continue
    connection.send([here, program.stdout.splitlines()])


def wait_for_interrupt(connection: Connection) -> None:
    path = Path(connection.receive())
    atexit.register(path.write_text, "in order")
    connection.send([os.getpid(), os.getsid(0)])
    time.sleep(600)


def follow_parent(connection: Connection) -> None:
    """End with the parent while doing something else than reading."""
    path = Path(connection.receive())
    atexit.register(path.write_text, "in order")
    assert connection.peer is not None
    end_with_parent(connection.peer.pid, grace_seconds=10.0)
    connection.send(os.getpid())
    time.sleep(600)


def be_parent(connection: Connection) -> None:
    """Start a child of this child, and tell its number; then wait to be killed."""
    name, message, forks = connection.receive()
    child = Child(function_command(NAME, name))
    child.send(message)
    pid = child.receive() if name == "follow_parent" else child.pid
    if name != "follow_parent":
        child.receive()
    fork = os.fork() if forks else -1
    if fork:
        connection.send([pid, fork])
    time.sleep(600)
