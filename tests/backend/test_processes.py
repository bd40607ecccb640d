"""What whole programs leave behind: processes, files, output, memory."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.backend.common import (
    run_script,
    script_environment,
    write_script,
)
from tests.waiting import is_running, wait_for_end, wait_until

SHARED_MEMORY = Path("/dev/shm")

BOTH_BACKENDS = """
import os, sys
for name in sys.argv[1].split(","):
    __import__(name)
import numpy as np
import joblib
import skl_mmap

def total(X):
    X = X[np.r_[0:1000, 2000:4000]]
    return os.getpid(), float(X.sum())

if __name__ == "__main__":
    X = np.arange(600_000.0).reshape(4000, 150)
    expected = total(X)[1]
    pids = {}
    for backend in sys.argv[2].split(","):
        # A new array each time, so that joblib makes a new file of it.
        results = joblib.Parallel(n_jobs=2, backend=backend, batch_size=1)(
            joblib.delayed(total)(X.copy()) for _ in range(6)
        )
        assert {result[1] for result in results} == {expected}
        pids.setdefault(backend, []).append({result[0] for result in results})
    for found in pids.values():
        assert len(set().union(*found)) <= 2, "workers were restarted"
    print(*set().union(*(pid for found in pids.values() for pid in found)))
"""


def list_shared_memory() -> set[str]:
    return set(os.listdir(SHARED_MEMORY)) if SHARED_MEMORY.is_dir() else set()


def _words(name: str) -> list[str]:
    # A number of a process is a word; hexadecimal digits may contain it by chance.
    return re.split(r"[-_.]", name)


@pytest.mark.parametrize(
    ("imports", "backends"),
    [
        ("joblib", "mmap,loky,mmap,loky"),
        ("loky,joblib", "loky,mmap,loky,mmap"),
        ("skl_mmap.backend,joblib", "loky,mmap,loky"),
        ("loky,skl_mmap", "mmap,loky,mmap"),
    ],
)
def test_both_backends_run_cleanly_in_one_process(
    tmp_path: Path, imports: str, backends: str
) -> None:
    result = run_script(
        tmp_path,
        BOTH_BACKENDS,
        imports,
        backends,
        environment={"TMPDIR": str(tmp_path), "JOBLIB_TEMP_FOLDER": str(tmp_path)},
    )
    assert result.stderr == ""
    pids = [int(pid) for pid in result.stdout.split()]
    assert len(pids) >= 2
    assert wait_for_end(pids)
    # What joblib or loky name contains the number of the process, which has ended.
    assert wait_until(lambda: os.listdir(tmp_path) == ["script.py"])


def test_names_of_both_contexts_stay_those_of_joblib(tmp_path: Path) -> None:
    code = """
import joblib.externals.loky.backend.context as context
import multiprocessing.context as mp
before = {name: mp._concrete_contexts[name] for name in ("loky", "loky_init_main")}
import skl_mmap.backend
import multiprocessing
for name, old in before.items():
    assert multiprocessing.get_context(name) is old
    assert type(old).__module__.startswith("joblib."), old
"""
    assert run_script(tmp_path, code).stderr == ""


ENDLESS = """
import os, sys, time
import numpy as np
import skl_mmap
from joblib import Parallel, delayed

def wait(X, path):
    with open(os.path.join(path, str(os.getpid())), "w"):
        pass
    time.sleep(300)

if __name__ == "__main__":
    X = np.ones((4000, 150))
    Parallel(n_jobs=2, backend="mmap")(delayed(wait)(X, sys.argv[1]) for _ in range(2))
"""


@pytest.fixture
def endless(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], list[int]]]:
    """Start a program whose tasks do not end, in a process group of its own."""
    folder = tmp_path / "pids"
    folder.mkdir()
    process = subprocess.Popen(
        write_script(tmp_path, ENDLESS, str(folder)),
        env=script_environment(),
        start_new_session=True,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert wait_until(lambda: len(os.listdir(folder)) == 2)
        yield process, [int(name) for name in os.listdir(folder)]
    finally:
        for pid in (process.pid, *map(int, os.listdir(folder))):
            if is_running(pid):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def test_workers_end_when_their_parent_is_killed(endless: Any) -> None:
    process, pids = endless
    assert all(map(is_running, pids))
    process.kill()
    process.wait()
    assert wait_for_end(pids)


def test_workers_end_when_their_parent_is_terminated(endless: Any) -> None:
    process, pids = endless
    process.terminate()
    process.wait()
    assert wait_for_end(pids)


def test_nothing_is_left_when_all_are_killed_at_once(
    tmp_path: Path, endless: Any
) -> None:
    process, pids = endless
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert wait_for_end(pids)
    owners = {str(process.pid), *map(str, pids)}
    left = [name for name in list_shared_memory() if owners & set(_words(name))]
    assert left == []
    temporary = os.listdir(os.environ.get("TMPDIR", "/tmp"))
    assert not [name for name in temporary if name.startswith("skl_mmap-")]


STEADY = """
import gc, os, re, threading
import numpy as np
import skl_mmap
from joblib import Parallel, delayed, parallel_config
from skl_mmap.monitor import read_committed

# A dead process may have had the same number.
OF_OTHERS = set(os.listdir("/dev/shm"))

def fold(X, train):
    return X[train], float(X[train].sum())

def count():
    gc.collect()
    with open("/proc/self/maps") as maps:
        n_mappings = sum("memfd" in line for line in maps)
    with open("/proc/self/maps") as maps:
        n_lines = len(maps.readlines())
    return (
        len(os.listdir("/proc/self/fd")), n_mappings, threading.active_count(),
        sum(
            str(os.getpid()) in re.split("[-_.]", name)
            for name in set(os.listdir("/dev/shm")) - OF_OTHERS
        ),
    ), n_lines

def run(X):
    parts = Parallel()(delayed(fold)(X, np.r_[0:500, 700:2000]) for _ in range(3))
    assert parts[0][1] == parts[2][1]

if __name__ == "__main__":
    with parallel_config(backend="mmap", n_jobs=2, min_bytes=1):
        for i in range(3):
            run(np.full((2000, 64), float(i)))
        before, lines_before = count()
        for i in range(100):
            run(np.full((2000, 64), float(i)))
        after, lines_after = count()
    assert before == after, (before, after)
    assert lines_after < lines_before + 50, (lines_before, lines_after)
    assert after[3] == 0, set(os.listdir("/dev/shm")) - OF_OTHERS
"""


def test_a_hundred_calls_leave_no_more_than_one(tmp_path: Path) -> None:
    assert run_script(tmp_path, STEADY).stderr == ""


COMMITTED = """
import gc
import numpy as np
import skl_mmap
from joblib import Parallel, delayed, parallel_config
from skl_mmap.monitor import read_committed

if __name__ == "__main__":
    X = np.ones((16, 1 << 20))
    with parallel_config(backend="mmap", n_jobs=2):
        Parallel()(delayed(np.sum)(X[:1, :9]) for _ in range(4))
        before = read_committed().committed_bytes
        Parallel()(delayed(np.sum)(X) for _ in range(4))
        within = read_committed().committed_bytes - before
    after = read_committed().committed_bytes - before
    print(within / X.nbytes, after / X.nbytes)
"""


def test_leaving_the_block_gives_the_memory_back(tmp_path: Path) -> None:
    within, after = map(float, run_script(tmp_path, COMMITTED).stdout.split())
    # 128 MiB; the noise is what interpreters need for themselves.
    assert 0.9 < within < 1.2
    assert after < 0.1


FORGETFUL = """
import numpy as np
import skl_mmap
from joblib import Parallel, delayed, parallel_config

def fold(X):
    return X[100:]

# Neither the block nor the results ever go away.
X = np.ones((4000, 150))

if __name__ == "__main__":
    parallel_config(backend="mmap", n_jobs=2)
    kept = Parallel()(delayed(fold)(X) for _ in range(3))
    generator = Parallel(return_as="generator")(delayed(fold)(X) for _ in range(30))
    next(generator)
    print("done")
"""


def test_interpreter_ends_while_everything_is_in_use(tmp_path: Path) -> None:
    result = run_script(tmp_path, FORGETFUL, environment={"TMPDIR": str(tmp_path)})
    assert result.stdout == "done\n"
    # joblib itself tells that tasks were abandoned, with either backend.
    assert "resource_tracker" not in result.stderr, result.stderr
    assert wait_until(lambda: os.listdir(tmp_path) == ["script.py"])
