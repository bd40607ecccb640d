"""Scripts of users, for the tests of ``skl-mmap run``."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.waiting import PATIENCE_SECONDS

# What a script can see of how it was started.
SEES = """
import importlib.util, json, os, sys

print(json.dumps({
    "argv": sys.argv,
    "path": sys.path,
    "name": __name__,
    "file": __file__,
    "globals": sorted(globals()),
    "spec": None if __spec__ is None else __spec__.name,
    "is_main": sys.modules["__main__"].__dict__ is globals(),
    "python_path": os.environ.get("PYTHONPATH"),
    "own": sorted(name for name in os.environ if "SKL_MMAP" in name),
    "heavy": sorted({"joblib", "numpy", "skl_mmap"} & set(sys.modules)),
    "flags": [sys.flags.optimize, sys.warnoptions],
    "has_joblib": importlib.util.find_spec("joblib") is not None,
    "input": sys.stdin.read(),
}))
"""

# Which backends it gets, and where its functions run. importlib.util finds joblib
# before it is imported, as libraries do that can do without it.
PARALLEL = """
import importlib.util, os, sys

assert importlib.util.find_spec("joblib")
from joblib import Parallel, delayed, parallel_config


class Number:
    def __init__(self, value):
        self.value = value


def double(number):
    return Number(2 * number.value), os.getpid()


def name(**options):
    return type(Parallel(**options)._backend).__name__


if __name__ == "__main__":
    results = Parallel(n_jobs=2)(delayed(double)(Number(i)) for i in range(4))
    assert all(type(number) is Number for number, _ in results)
    is_here = os.getpid() in dict(results).values()
    print([number.value for number, _ in results], is_here)
    print(name(), name(prefer="threads"), name(backend="loky"), Parallel().n_jobs)
    with parallel_config(backend="threading"):
        print(name())
    options = getattr(Parallel()._backend, "options", None)
    print(options and options.row_order, options and options.layouts)
"""

# Workers that are busy for long when the script is killed, or waits.
BUSY = """
import os, signal, sys, time
from pathlib import Path
import numpy as np
from joblib import Parallel, delayed


def work(folder, i, data):
    Path(folder, f"worker_{os.getpid()}").touch()
    time.sleep(600 if i < 2 else 0)


def end():
    while len(list(Path(sys.argv[1]).iterdir())) < 2:
        time.sleep(0.01)
    os.kill(os.getpid(), signal.SIGKILL)


DATA = np.zeros(1_000_000)
if sys.argv[2] == "kill":
    import threading
    threading.Thread(target=end, daemon=True).start()
Parallel(n_jobs=2)(delayed(work)(sys.argv[1], i, DATA) for i in range(2))
"""


def write(folder: Path, text: str, name: str = "script.py") -> str:
    path = folder / name
    path.write_text(text)
    return str(path)


def run_python(
    *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run Python, or ``skl-mmap`` with ``-m skl_mmap.cli`` as first arguments."""
    return subprocess.run(
        [sys.executable, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
        timeout=PATIENCE_SECONDS,
    )


def run_command(
    *arguments: str, stdin: str = "", **variables: str
) -> subprocess.CompletedProcess[str]:
    return run_python("-m", "skl_mmap.cli", *arguments, stdin=stdin, **variables)
