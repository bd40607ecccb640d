"""Processes whose memory is known."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from skl_mmap._linux.proc import is_readable

MIB = 2**20

# What an interpreter needs for itself while it does what a test tells it to.
TOLERANCE_BYTES = 3 * MIB

ROOT = Path(__file__).parents[2]

needs_proc = pytest.mark.skipif(
    not is_readable(), reason="reads /proc/PID/status, which only Linux has"
)

_SERVER = """
import sys
variables = {}
print("ready", flush=True)
for line in sys.stdin:
    exec(eval(line), variables)
    print(repr(variables.get("answer")), flush=True)
"""


class Child:
    """A small Python process that runs what it is told, one piece of code at a time.

    Parameters
    ----------
    pass_fds : sequence of int
        Open files that it inherits.
    package : bool
        Whether it is a full interpreter that finds skl_mmap.
    """

    def __init__(
        self, pass_fds: tuple[int, ...] = (), *, package: bool = False
    ) -> None:
        options = ["-W", "error"] if package else ["-I", "-S"]
        self._process = subprocess.Popen(
            [sys.executable, *options, "-c", _SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            pass_fds=pass_fds,
            cwd=ROOT,
            text=True,
            start_new_session=package,
        )
        self.pid = self._process.pid
        assert self._receive() == "ready"

    def run(self, code: str) -> Any:
        """Run code and return the value of its variable `answer`."""
        self.send(code)
        return self.wait_for_answer()

    def send(self, code: str) -> None:
        """Start to run code."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{code!r}\n")
        self._process.stdin.flush()

    def wait_for_answer(self) -> Any:
        """Return the value of the variable `answer` once the code has ended."""
        # Names and numbers that this file's own process wrote.
        return eval(self._receive())

    def end(self) -> None:
        """Close its input, at which it ends, and wait for it."""
        with contextlib.suppress(BrokenPipeError):
            self._process.communicate()

    def kill(self) -> None:
        """End it at once, without giving it a chance to tidy up."""
        self._process.kill()
        self._process.communicate()

    def _receive(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"the child has ended with code {self._process.wait()}"
        return line.rstrip("\n")


@pytest.fixture
def make_child() -> Iterator[Callable[..., Child]]:
    """Start children that end with the test."""
    children = []

    def make(*arguments: Any, **keywords: Any) -> Child:
        children.append(Child(*arguments, **keywords))
        return children[-1]

    yield make
    for child in children:
        child.end()


@pytest.fixture
def memory_file() -> Iterator[int]:
    """Make a memfd of 16 MiB, filled by nobody yet."""
    descriptor = os.memfd_create("skl_mmap-test")
    os.ftruncate(descriptor, 16 * MIB)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def shared_memory_folder() -> Iterator[Path]:
    """Make a folder in /dev/shm and remove it after the test."""
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=f"skl_mmap-{os.getpid()}-", dir="/dev/shm"))
    yield folder
    shutil.rmtree(folder)
