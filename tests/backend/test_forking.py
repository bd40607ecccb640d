"""Workers that are forked from a server: nobody notices, and nothing is left."""

from __future__ import annotations

import contextlib
import gzip
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import psutil
import pytest

from skl_mmap import measure
from skl_mmap.backend import _forking
from skl_mmap.backend._forking import PRELOADED
from skl_mmap.exceptions import InvalidParameterError
from tests.backend.common import run_script, script_environment, use_mmap, write_script
from tests.conftest import shut_down_pools
from tests.waiting import is_running, wait_for_end, wait_until

pytestmark = pytest.mark.skipif(
    bool(_forking.find_obstacle()), reason=f"{_forking.find_obstacle()} here"
)


@pytest.fixture(autouse=True)
def new_pool() -> Any:
    """Begin and end without workers, as their number and kind are what is tested."""
    shut_down_pools()
    yield
    shut_down_pools()


def find_self(_: object = None) -> tuple[int, int]:
    # Long enough for each worker to get a task.
    time.sleep(0.3)
    return os.getpid(), os.getppid()


def find_workers(n_jobs: int = 2, **parameters: Any) -> dict[int, int]:
    """Return the numbers of workers and of those who have started them."""
    with use_mmap(n_jobs=n_jobs, **parameters):
        parallel = joblib.Parallel(batch_size=1, pre_dispatch="all")
        return dict(parallel(joblib.delayed(find_self)(i) for i in range(2 * n_jobs)))


def test_workers_are_forked_from_one_server() -> None:
    workers = find_workers(3)
    assert len(workers) == 3
    assert set(workers.values()) == {_forking.server_pid()}
    parent = psutil.Process(_forking.server_pid()).ppid()
    assert parent == os.getpid()


def test_workers_that_are_spawned_have_no_server() -> None:
    assert set(find_workers(workers="spawn").values()) == {os.getpid()}


def test_both_kinds_do_not_share_a_pool() -> None:
    forked, spawned = find_workers(), find_workers(workers="spawn")
    assert not forked.keys() & spawned.keys()
    assert wait_for_end(forked)


# ------------------------------------------------------- what a worker sees

SEE = """
import gc, json, logging, multiprocessing as mp, os, resource, signal, sys, time
import threading, warnings, faulthandler, locale, decimal, socket

import numpy as np
import skl_mmap
import sklearn.linear_model, sklearn.model_selection
from joblib import Parallel, delayed, parallel_config

PARENT = os.getpid()

class OfMain:
    def see(self):
        return see()

def see():
    import sklearn.linear_model, sklearn.model_selection, scipy.linalg
    from threadpoolctl import threadpool_info
    time.sleep(0.3)
    text = open("/proc/self/status").read()
    status = dict(line.split(":\\t", 1) for line in text.splitlines())
    kept = ("SigB", "SigI", "SigC", "Shd", "Cap", "Umask", "Seccomp", "Cpus", "Mems",
            "Uid", "Gid", "Groups", "NoNew", "Name")
    files = [os.path.realpath(f"/proc/self/fd/{fd}") for fd in range(3)]
    return {
        **{name: value for name, value in status.items() if name.startswith(kept)},
        "limits": open("/proc/self/limits").read(),
        "oom": open("/proc/self/oom_score_adj").read(),
        "group": (os.getpgrp(), os.getsid(0), os.nice(0)),
        "folder": os.getcwd(), "path": sys.path, "argv": sys.argv[2:],
        "environment": dict(os.environ), "flags": repr(sys.flags),
        "executable": sys.executable,
        "standard files": [file for file in files if not file.startswith("/proc")],
        "inheritable": [fd for fd in map(int, os.listdir("/proc/self/fd"))
                        if fd > 2 and os.path.lexists(f"/proc/self/fd/{fd}")
                        and os.get_inheritable(fd)],
        "streams": [(s.encoding, s.errors, s.line_buffering, s.isatty(), s.name)
                    for s in (sys.stdout, sys.stderr)],
        "filters": [(action, str(message), kind.__name__, str(module))
                    for action, message, kind, module, _ in warnings.filters],
        "handlers": {s.name: str(signal.getsignal(s)).split(" at ")[0]
                     for s in signal.Signals},
        "main": sys.modules["__main__"].__name__,
        "daemon": mp.current_process().daemon,
        "name": mp.current_process().name.rstrip("0123456789"),
        "method": mp.get_start_method(allow_none=True),
        "parent": mp.parent_process().pid == PARENT,
        "faults": faulthandler.is_enabled(),
        "threads": [t.name for t in threading.enumerate()],
        "gc": (gc.get_threshold(), gc.isenabled(), gc.callbacks),
        "recursion": sys.getrecursionlimit(),
        "byte code": sys.dont_write_bytecode,
        "depth": sys.modules["loky"].process_executor._CURRENT_DEPTH,
        "log": (logging.root.level, str(logging.root.handlers),
                mp.util.get_logger().level),
        "libraries": sorted(
            (info["user_api"], info["num_threads"]) for info in threadpool_info()
        ),
        "hooks": [str(sys.excepthook), str(sys.displayhook), len(sys.meta_path)],
        "state": (np.geterr(), locale.setlocale(0), decimal.getcontext().prec,
                  socket.getdefaulttimeout()),
        "trace": (sys.gettrace(), sys.getprofile()),
    }

def look(kind, n_threads):
    options = {} if n_threads is None else {"inner_max_num_threads": n_threads}
    with parallel_config(
        backend="mmap", n_jobs=2, workers=kind, idle_worker_timeout=0.5, **options
    ):
        return Parallel()(delayed(OfMain().see)() for _ in range(2))[0]

if __name__ == "__main__":
    kind = sys.argv[1]
    leak = open(os.devnull)
    os.set_inheritable(leak.fileno(), True)
    found = [look(kind, None), look(kind, 3)]
    # All that a process can change, and a new interpreter takes over.
    os.makedirs("elsewhere", exist_ok=True)
    os.chdir("elsewhere")
    sys.path.insert(0, os.path.abspath("modules"))
    os.environ["SKL_MMAP_TEST"] = "here"
    os.environ.pop("LANG", None)
    os.umask(0o027)
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    os.nice(3)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    sys.setrecursionlimit(5000)
    sys.argv.append("one more")
    deadline = time.monotonic() + 60
    from loky import get_reusable_executor
    pool = get_reusable_executor(reuse=True)
    while pool._processes and time.monotonic() < deadline:
        time.sleep(0.05)
    output = os.dup(1)
    file = os.open("output.txt", os.O_CREAT | os.O_WRONLY, 0o600)
    os.dup2(file, 1)
    found.append(look(kind, None))
    os.dup2(output, 1)
    from skl_mmap.backend import _forking
    print(json.dumps([found, _forking.server_pid()]))
"""


@pytest.mark.slow
def test_a_forked_worker_sees_what_a_spawned_one_sees(tmp_path: Path) -> None:
    outputs = {}
    for kind in ("auto", "spawn"):
        result = run_script(tmp_path, SEE, kind, environment={"LANG": "C.UTF-8"})
        found, server = json.loads(result.stdout)
        assert (server is None) == (kind == "spawn")
        outputs[kind] = found
    for forked, spawned in zip(outputs["auto"], outputs["spawn"], strict=True):
        # loky leaves its own to programs that workers start.
        assert forked.pop("inheritable") == []
        del spawned["inheritable"]
        assert forked == spawned
    first, threaded, last = outputs["auto"]
    assert threaded["libraries"] != first["libraries"]
    assert last["folder"].endswith("elsewhere")
    assert last["Umask"] == "0027"
    assert last["environment"]["SKL_MMAP_TEST"] == "here"
    assert last["standard files"][1].endswith("output.txt")
    assert last["group"][2] == first["group"][2] + 3


POLARS = """
import polars, skl_mmap
from joblib import Parallel, delayed, parallel_config
from skl_mmap.backend import _forking
if __name__ == "__main__":
    frame = polars.DataFrame({"a": range(1_000_000)})
    for _ in range(2):
        with parallel_config(backend="mmap", n_jobs=2):
            print(Parallel()(delayed(polars.DataFrame.sum)(frame) for _ in range(2))[0])
        from loky import get_reusable_executor
        get_reusable_executor().shutdown(wait=True)
    assert _forking.server_pid() is not None
"""


def test_polars_is_left_to_the_workers(tmp_path: Path) -> None:
    """It starts threads when it is imported, here by our own module for its frames."""
    if importlib.util.find_spec("polars") is None:
        pytest.skip("polars is not installed")
    assert run_script(tmp_path, POLARS).stdout.count("499999500000") == 2


DRAW = """
import random, tempfile, uuid
import numpy as np
import skl_mmap, sklearn.utils
from joblib import Parallel, delayed, parallel_config

def draw(_):
    import os, time
    time.sleep(0.3)
    return os.getpid(), (
        random.random(), float(np.random.random()), float(np.random.standard_normal()),
        float(sklearn.utils.check_random_state(None).random_sample()),
        float(np.random.default_rng().random()), uuid.uuid4().hex, uuid.uuid1().hex,
        next(tempfile._get_candidate_names()), os.urandom(4).hex(),
    )

if __name__ == "__main__":
    np.random.seed(0)
    with parallel_config(backend="mmap", n_jobs=3):
        found = dict(Parallel(batch_size=1)(delayed(draw)(i) for i in range(9)))
    assert len(found) == 3, found
    for drawn in zip(*found.values()):
        assert len(set(drawn)) == 3, drawn
"""


def test_workers_draw_random_numbers_of_their_own(tmp_path: Path) -> None:
    run_script(tmp_path, DRAW)


# A module of the user's that is not found again, code from -c and from stdin, and no
# guard around what starts the workers.
UNGUARDED = """
import skl_mmap
from joblib import Parallel, delayed, parallel_config
class Local:
    def __init__(self, value): self.value = value
def double(item):
    return Local(2 * item.value)
with parallel_config(backend="mmap", n_jobs=2):
    found = Parallel()(delayed(double)(Local(i)) for i in range(4))
from skl_mmap.backend import _forking
print([item.value for item in found], _forking.server_pid() is not None)
"""


@pytest.mark.parametrize("way", ["-c", "stdin", "script"])
def test_the_main_module_is_not_imported_by_workers(tmp_path: Path, way: str) -> None:
    commands = {
        "-c": [sys.executable, "-c", UNGUARDED],
        "stdin": [sys.executable, "-"],
        "script": write_script(tmp_path, UNGUARDED),
    }
    result = subprocess.run(
        commands[way],
        input=UNGUARDED if way == "stdin" else "",
        capture_output=True,
        text=True,
        env=script_environment(),
        check=False,
    )
    assert (result.stdout, result.stderr) == ("[0, 2, 4, 6] True\n", "")


def raise_or_set(value: str) -> None:
    if value == "bad":
        raise RuntimeError(value)
    os.environ["SKL_MMAP_TEST_INITIALIZED"] = value


def read_initialized(_: object) -> str | None:
    return os.environ.get("SKL_MMAP_TEST_INITIALIZED")


def test_initializer_runs_in_each_worker() -> None:
    with use_mmap(initializer=raise_or_set, initargs=("good",)):
        found = joblib.Parallel()(joblib.delayed(read_initialized)(i) for i in range(4))
    assert found == ["good"] * 4


def test_an_initializer_that_fails_breaks_the_pool(
    capfd: pytest.CaptureFixture[str],
) -> None:
    from loky.process_executor import TerminatedWorkerError

    with (
        use_mmap(initializer=raise_or_set, initargs=("bad",)),
        pytest.raises(TerminatedWorkerError),
    ):
        joblib.Parallel()(joblib.delayed(read_initialized)(i) for i in range(4))
    assert "RuntimeError: bad" in capfd.readouterr().err
    assert len(find_workers()) == 2


def test_more_and_fewer_workers() -> None:
    two, four = find_workers(2), find_workers(4)
    assert two.keys() < four.keys()
    assert len(four) == 4
    assert find_workers(2).keys() < four.keys()


def call_nested(_: object) -> tuple[int, ...]:
    with joblib.parallel_config(backend="mmap", n_jobs=2):
        return tuple(joblib.Parallel()(joblib.delayed(os.getppid)() for _ in range(2)))


def test_workers_of_workers() -> None:
    """joblib itself nests no pools below a process; asked for by name, it does."""
    with use_mmap():
        found = joblib.Parallel()(joblib.delayed(call_nested)(i) for i in range(2))
    assert len(found) == 2


def test_workers_start_while_others_that_have_ended_are_known() -> None:
    """Numbers of descriptors are used anew: the server has closed those of the dead."""
    from loky.reusable_executor import get_reusable_executor

    with contextlib.ExitStack() as stack:
        for i in range(4):
            name = str(i)
            with use_mmap(n_jobs=2, initializer=raise_or_set, initargs=(name,)):
                parallel = joblib.Parallel()
                found = parallel(joblib.delayed(read_initialized)(i) for i in range(4))
            assert found == [name] * 4
            # As in a process that was forked from this one, and has inherited them: the
            # server does not know that nobody will ask.
            for process in get_reusable_executor(reuse=True)._processes.values():
                stack.callback(os.close, os.dup(process._popen._status_fd))


def test_a_worker_may_be_asked_how_it_ended() -> None:
    from loky.process_executor import TerminatedWorkerError

    with use_mmap(), pytest.raises(TerminatedWorkerError, match=r"SIGKILL\(-9\)"):
        joblib.Parallel()(
            joblib.delayed(os.kill)(pid, signal.SIGKILL) for pid in find_workers()
        )


def test_a_worker_that_was_let_go_of_is_asked_no_more() -> None:
    """The numbers of its descriptors may be those of other files by then."""
    from loky.reusable_executor import get_reusable_executor

    find_workers()
    process = next(iter(get_reusable_executor(reuse=True)._processes.values()))
    popen = process._popen
    shut_down_pools()
    popen.returncode = None
    popen.close()
    with open(os.devnull, "rb"), open(os.devnull, "rb"):
        assert popen.poll() == popen.wait() == 255


def test_threads_that_ask_at_the_same_time_are_told_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """None of them reads what another one has closed, and others have opened anew."""
    from loky.reusable_executor import get_reusable_executor

    find_workers()
    process = next(iter(get_reusable_executor(reuse=True)._processes.values()))
    popen = process._popen
    shut_down_pools()
    assert popen.wait() is not None
    popen.returncode = None
    both = threading.Barrier(2)

    def can_be_read(_fd: int, _seconds: float | None) -> bool:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(1.0)
        return True

    read_fd, write_fd = os.pipe()
    with open(write_fd, "wb") as file:
        file.write((7).to_bytes(4, "little"))
    popen._status_fd = read_fd
    popen._close_status = weakref.finalize(popen, os.close, read_fd)
    monkeypatch.setattr(_forking, "can_be_read", can_be_read)
    with ThreadPoolExecutor(2) as threads:
        asked = [threads.submit(popen.wait) for _ in range(2)]
        assert [future.result(timeout=20) for future in asked] == [7, 7]


# ------------------------------------------------------------- the server


def test_what_a_new_interpreter_would_see_decides_for_a_new_server(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = find_workers()
    server = _forking.server_pid()
    # Not for workers that are there: these would not know of it in loky either.
    monkeypatch.setenv("SKL_MMAP_TEST", "1")
    assert find_workers() == old
    assert set(find_workers(3).values()) == {server, _forking.server_pid()}
    assert server != _forking.server_pid()
    shut_down_pools()
    # The old one has had its last worker.
    assert server is not None
    assert wait_for_end([server])
    assert set(find_workers().values()) == {_forking.server_pid()}


@pytest.mark.slow
def test_the_server_stays_for_a_while_and_not_for_ever() -> None:
    first = find_workers(idle_worker_timeout=1.5)
    server = _forking.server_pid()
    assert server is not None
    shut_down_pools()
    assert wait_for_end(first)
    assert is_running(server)
    assert set(find_workers(idle_worker_timeout=1.5).values()) == {server}
    shut_down_pools()
    # Nobody has to ask: no zombie is left either.
    assert wait_until(lambda: not psutil.pid_exists(server))
    assert len(find_workers()) == 2


def find_modules(_: object) -> bool:
    return "this" in sys.modules


def test_preload(capfd: pytest.CaptureFixture[str]) -> None:
    for preload, expected in (["this"], True), ([], False):
        with use_mmap(preload=preload):
            found = joblib.Parallel()(joblib.delayed(find_modules)(i) for i in range(2))
        assert found == [expected] * 2
    assert "Beautiful is better than ugly." in capfd.readouterr().out


@pytest.mark.parametrize("value", ["numpy", [1], [""], 3, None])
def test_preload_that_names_no_modules(value: Any) -> None:
    with pytest.raises(InvalidParameterError, match="does not name modules"):
        use_mmap(preload=value)


def test_preload_without_a_server() -> None:
    with pytest.raises(InvalidParameterError, match="has no effect"):
        use_mmap(preload=["this"], workers="spawn")


CHECK_PACKAGE = """
import sys
import numpy as np, random, tempfile
from skl_mmap._linux import proc
from skl_mmap.backend import _fork_server
import importlib
KINDS = (np.random.RandomState, np.random.Generator, np.random.BitGenerator,
         random.Random)
importlib.import_module(sys.argv[1])
_fork_server._end_threads_of_libraries()
print(_fork_server._find_refusal())
state = np.random.mtrand._rand
known = {id(random._inst), id(state), id(state._bit_generator)}
for name, module in list(sys.modules.items()):
    for key, value in list(vars(module).items()) if hasattr(module, "__dict__") else ():
        if isinstance(value, KINDS) and id(value) not in known:
            if not isinstance(value, random.SystemRandom):
                print(name, key, value)
"""


@pytest.mark.slow
@pytest.mark.parametrize("package", PRELOADED)
def test_packages_that_are_preloaded(package: str, tmp_path: Path) -> None:
    """No thread after the import, and no random state that two workers would share."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")
    result = run_script(
        tmp_path, CHECK_PACKAGE, package, environment=_forking._FOR_IMPORTS
    )
    assert result.stdout == "\n"


# ------------------------------------------------- where there is a doubt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (
            "import _thread, time; _thread.start_new_thread(time.sleep, (1e6,))",
            "thread",
        ),
        ("import sys; sys.settrace(lambda *a: None)", "debugger"),
        ("import sys; sys.exit(3)", ""),
        ("raise ValueError('no')", ""),
    ],
)
def test_modules_that_are_not_made_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, reason: str
) -> None:
    (tmp_path / "skl_mmap_unfit.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    with measure() as report:
        workers = find_workers(preload=["skl_mmap_unfit"])
    assert set(workers.values()) == {os.getpid() if reason else _forking.server_pid()}
    noted = [note for note in report.notes if "spawned" in note]
    assert len(noted) == bool(reason)
    assert all(reason in note for note in noted)


@pytest.mark.slow
def test_refused_once_is_not_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = tmp_path / "count"
    (tmp_path / "skl_mmap_counted.py").write_text(
        f"open({str(count)!r}, 'a').write('.')\nimport sys; sys.settrace(print)"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    find_workers(3, preload=["skl_mmap_counted"])
    assert count.read_text() == "."


def refuse(*_: object, **__: object) -> Any:
    raise OSError(38, "Function not implemented")


@pytest.mark.parametrize("call", ["memfd_create", "pidfd_open"])
def test_calls_that_the_kernel_refuses(
    call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _forking.find_obstacle() == ""
    workers = find_workers()
    shut_down_pools()
    assert wait_for_end(workers)
    with monkeypatch.context() as patch:
        patch.setattr(_forking.os, call, refuse)
        with use_mmap():
            spawned = dict(
                joblib.Parallel(batch_size=1)(
                    joblib.delayed(find_self)(i) for i in range(4)
                )
            )
    assert len(spawned) == 2


def test_a_server_that_cannot_be_started_leaves_no_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = psutil.Process().num_fds()
    monkeypatch.setattr(_forking.os, "pidfd_open", refuse)
    for _ in range(3):
        with pytest.raises(OSError, match="not implemented"):
            _forking.ForkServer({}, [], 1.0)
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize("number", [signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_stopped_or_killed(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_forking, "_FORK_SECONDS", 1.0)
    old = find_workers()
    server = _forking.server_pid()
    assert server is not None
    os.kill(server, number)
    assert number == signal.SIGSTOP or wait_for_end([server])
    # Workers do not need it, ...
    assert find_workers().keys() == old.keys()
    # ... and new ones have another one.
    workers = find_workers(4)
    assert len(workers) == 4
    assert old.keys() < workers.keys()
    assert _forking.server_pid() in workers.values()
    assert wait_until(lambda: not psutil.pid_exists(server))
    shut_down_pools()
    assert wait_for_end(workers)


@pytest.mark.slow
def test_a_worker_that_ends_while_the_server_is_stopped() -> None:
    from loky.process_executor import TerminatedWorkerError

    workers = find_workers()
    server = _forking.server_pid()
    assert server is not None
    os.kill(server, signal.SIGSTOP)
    try:
        with use_mmap(), pytest.raises(TerminatedWorkerError, match="UNKNOWN"):
            joblib.Parallel()(
                joblib.delayed(os.kill)(pid, signal.SIGKILL) for pid in workers
            )
    finally:
        os.kill(server, signal.SIGCONT)
    assert len(find_workers()) == 2


@pytest.mark.slow
def test_what_was_edited_is_imported_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "skl_mmap_edited"
    package.mkdir()
    (package / "__init__.py").touch()
    for version in ("'old'", "'a new one'"):
        (package / "model.py").write_text(f"def tell(_): return {version}")
        module = importlib.reload(importlib.import_module("skl_mmap_edited.model"))
        with use_mmap(preload=["skl_mmap_edited.model"]):
            told = joblib.Parallel()(joblib.delayed(module.tell)(i) for i in range(2))
        assert told == [module.tell(0)] * 2
        shut_down_pools()


UNCLOSED = """
import builtins, gzip, os, sys
import skl_mmap
from joblib import Parallel, delayed, parallel_config

def log(i):
    if not hasattr(builtins, "kept"):
        name = os.path.join(sys.argv[1], str(os.getpid()))
        builtins.kept = open(name + ".txt", "w"), gzip.open(name + ".gz", "wt")
    for file in builtins.kept:
        file.write(f"{i} ")

if __name__ == "__main__":
    with parallel_config(backend="mmap", n_jobs=2):
        Parallel()(delayed(log)(i) for i in range(8))
"""


def test_files_that_tasks_leave_open_are_written(tmp_path: Path) -> None:
    run_script(tmp_path, UNCLOSED, str(tmp_path))
    texts = [path.read_text() for path in tmp_path.glob("*.txt")]
    packed = [
        gzip.decompress(path.read_bytes()).decode() for path in tmp_path.glob("*.gz")
    ]
    for found in (texts, packed):
        assert sorted("".join(found).split()) == list("01234567")


INTERRUPTED = """
import os, signal, sys, threading, time
import skl_mmap
from joblib import Parallel, delayed, parallel_config
from loky import get_reusable_executor
from skl_mmap.backend import _forking

def find(_):
    time.sleep(0.3)
    return os.getpid()

def run(n_jobs):
    with parallel_config(backend="mmap", n_jobs=n_jobs):
        return set(Parallel(batch_size=1)(delayed(find)(i) for i in range(2 * n_jobs)))

if __name__ == "__main__":
    run(2)
    server = _forking.server_pid()
    os.kill(server, signal.SIGSTOP)
    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        run(3)
    except KeyboardInterrupt:
        pass
    else:
        sys.exit("it was not interrupted")
    os.kill(server, signal.SIGCONT)
    for n_jobs in (3, 2):
        answered = run(n_jobs)
        known = set(get_reusable_executor(reuse=True)._processes)
        assert answered <= known, (answered, known)
    get_reusable_executor(reuse=True).shutdown(wait=True)
"""


def test_an_interrupt_while_a_worker_is_started(tmp_path: Path) -> None:
    run_script(tmp_path, INTERRUPTED)


IGNORED = """
import signal
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
import skl_mmap
from joblib import Parallel, delayed, parallel_config
from skl_mmap.backend import _forking

def ignores(_):
    return signal.getsignal(signal.SIGCHLD) == signal.SIG_IGN

if __name__ == "__main__":
    with parallel_config(backend="mmap", n_jobs=2):
        assert all(Parallel()(delayed(ignores)(i) for i in range(4)))
    assert _forking.server_pid() is not None
"""


def test_a_parent_that_does_not_wait_for_children(tmp_path: Path) -> None:
    assert run_script(tmp_path, IGNORED).stderr == ""


FORKED_PARENT = """
import os, sys
import skl_mmap
from joblib import Parallel, delayed, parallel_config

def run():
    with parallel_config(backend="mmap", n_jobs=2):
        return sum(Parallel()(delayed(abs)(-i) for i in range(4)))

if __name__ == "__main__":
    from skl_mmap.backend import _forking
    assert run() == 6
    server = _forking.server_pid()
    pid = os.fork()
    if pid == 0:
        # loky's own pool does not live on in a fork, and no more does the server.
        from loky import reusable_executor
        if hasattr(reusable_executor, "_executor_storage"):
            reusable_executor._executor_storage.executor = None
        else:  # of loky 3.5 and 3.6
            reusable_executor._executor = None
        assert _forking.server_pid() is None
        is_right = run() == 6 and _forking.server_pid() not in (None, server)
        sys.exit(0 if is_right else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert _forking.server_pid() == server and run() == 6
"""


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_parent_that_forks(tmp_path: Path) -> None:
    run_script(tmp_path, FORKED_PARENT)


@pytest.mark.slow
def test_descriptors_are_bounded() -> None:
    find_workers(3)
    shut_down_pools()
    before = psutil.Process().num_fds()
    for _ in range(5):
        find_workers(3)
        shut_down_pools()
    assert wait_until(lambda: psutil.Process().num_fds() <= before + 1)
    server = _forking.server_pid()
    assert server is not None
    assert wait_until(lambda: psutil.Process(server).num_fds() < 12)
    assert wait_until(lambda: not psutil.Process(server).children())


@pytest.mark.slow
def test_results_are_those_of_other_workers() -> None:
    from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor
    from sklearn.linear_model import LinearRegression, Ridge
    from sklearn.model_selection import cross_val_predict

    X = np.random.default_rng(0).normal(size=(600, 12))
    y = X @ np.arange(12) + X[:, 0] ** 2
    models = [
        *(LinearRegression(), Ridge()),
        HistGradientBoostingRegressor(max_iter=10),
        RandomForestRegressor(n_estimators=5, random_state=0),
    ]
    results = []
    for parameters in (
        {"backend": "loky"},
        {"backend": "mmap"},
        {"backend": "mmap", "workers": "spawn"},
    ):
        with joblib.parallel_config(n_jobs=2, **parameters):
            found = [cross_val_predict(model, X, y, cv=4) for model in models]
        results.append([predicted.tobytes() for predicted in found])
    assert results[0] == results[1] == results[2]
