"""Each guard of conftest.py finds what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest

CONFTEST = Path(__file__).with_name("conftest.py")

LEAKS = """
import mmap, os, subprocess, sys, tempfile, threading, time
import loky
import pytest

kept = []

def sum_in(executor):
    assert sum(executor.map(abs, range(4))) == 6

def test_clean(tmp_path, monkeypatch, capfd):
    monkeypatch.setenv("SOME_VARIABLE", str(tmp_path))
    (tmp_path / "file").touch()

def test_reusable_pool():
    sum_in(loky.get_reusable_executor(max_workers=2))

def test_reusable_pool_of_another_size():
    sum_in(loky.get_reusable_executor(max_workers=1))

def test_own_pool_shut_down():
    with loky.ProcessPoolExecutor(1) as executor:
        sum_in(executor)

def test_child_process():
    kept.append(subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1))

def test_file_descriptor():
    kept.append(os.open(os.devnull, os.O_RDONLY))

def test_mapping():
    descriptor = os.memfd_create("segment")
    os.ftruncate(descriptor, 4096)
    kept.append(mmap.mmap(descriptor, 4096))
    os.close(descriptor)

def test_shared_memory_file():
    kept.append(f"/dev/shm/guards_{os.getpid()}")
    open(kept[-1], "w").close()

def test_temporary_file():
    kept.append(tempfile.mkdtemp())

def test_environment_added():
    os.environ["SOME_VARIABLE"] = "1"

def test_environment_removed():
    del os.environ["SOME_VARIABLE"]

stop = threading.Event()

def test_thread():
    threading.Thread(target=stop.wait, name="forgotten").start()

def test_failure_is_reported_once():
    kept.append(os.open(os.devnull, os.O_RDONLY))
    assert False

@pytest.fixture(scope="module", autouse=True)
def clean_up(guard_module):
    yield
    stop.set()
    process, *_ = (item for item in kept if isinstance(item, subprocess.Popen))
    process.kill()
    process.communicate()
    for path in kept:
        if isinstance(path, str) and path.startswith("/dev/shm"):
            os.unlink(path)
"""

# While a pool is there, its pipes cannot be told from others.
LEAKS_BESIDE_A_POOL = """
import os
import loky

def test_pipe():
    loky.get_reusable_executor(max_workers=1).submit(abs, 1).result()
    os.pipe()

def test_that_is_last():
    pass
"""


@pytest.mark.skipif(
    not Path("/proc/self/maps").exists(), reason="reads /proc, makes a memfd"
)
def test_each_leak_is_found(pytester: pytest.Pytester) -> None:
    patient = CONFTEST.read_text(encoding="utf-8")
    hasty = patient.replace("SETTLE_SECONDS = 30.0", "SETTLE_SECONDS = 0.2")
    assert hasty != patient
    pytester.makeconftest(hasty)
    pytester.makepyfile(test_1=LEAKS, test_2=LEAKS_BESIDE_A_POOL)
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider", "-rE")
    result.assert_outcomes(passed=14, failed=1, errors=9)
    leaks = {
        "test_child_process": "children: * *input()*",
        "test_file_descriptor": "file descriptors: * -> /dev/null",
        "test_mapping": "mappings: *memfd:segment*",
        "test_shared_memory_file": "shared memory files: guards_*",
        "test_temporary_file": "temporary files: tmp*",
        "test_environment_added": "environment: SOME_VARIABLE=1",
        "test_environment_removed": "environment, before: SOME_VARIABLE=1",
        "test_thread": "threads: forgotten *",
    }
    for test, leak in leaks.items():
        result.stdout.fnmatch_lines(
            [f"*ERROR at teardown of {test} *", "this test left behind:", leak]
        )
    result.stdout.fnmatch_lines(
        [
            "*ERROR at teardown of test_that_is_last *",
            "this module left behind:",
            "file descriptors: *",
        ]
    )
