"""Work for children of the tests: each does what the spec says."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any


def work(spec: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    announce(f"doing {spec['what']}")
    return {"echo": echo, "print": chatter, "fail": fail, "die": die, "orphan": orphan}[
        spec["what"]
    ](spec)


def echo(spec: dict[str, Any]) -> dict[str, Any]:
    return {"spec": spec, "pid": os.getpid(), "variable": os.environ.get("SKL_TEST")}


def chatter(spec: dict[str, Any]) -> dict[str, Any]:
    sys.stdout.write("printed by a library\n")
    os.write(1, b"written to file descriptor 1\n")
    return {"pid": os.getpid()}


def fail(spec: dict[str, Any]) -> dict[str, Any]:
    raise ValueError("this work cannot be done")


def die(spec: dict[str, Any]) -> dict[str, Any]:
    os.abort()


def orphan(spec: dict[str, Any]) -> dict[str, Any]:
    # No pipe of the child, whose end the parent waits for.
    nothing = subprocess.DEVNULL
    code = "import time; time.sleep(600)"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=nothing, stdout=nothing, stderr=nothing
    )
    if "seconds" in spec:
        time.sleep(spec["seconds"])
    return {"pid": process.pid}
