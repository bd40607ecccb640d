"""Run one suite over one backend, in a process of its own.

By hand, from the root of the checkout, for instance one module of a suite::

    python -m tests.peers.run_suite model_selection mmap --only 'test_split.py*'

The suite runs with pytest's defaults and its own conftest, not with the configuration
of this project. A test that hangs is stopped by pytest-timeout; if that does not help,
or if a test takes the process down, the process is killed, the test counts as failed,
and the rest of the suite runs in a new process.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from tests.peers.outcomes import BAD, Log, Outcome, Run, read_log
from tests.peers.suites import SUITES, Suite

__all__ = ["run_suite"]

TEST_SECONDS = 120
# Without any news from the process: a test that pytest-timeout could not stop.
SILENT_SECONDS = TEST_SECONDS + 60
# A process that cannot be interrupted in one test will not be in the next.
MAX_PROCESSES = 5
EXIT_SECONDS = 60
# pytest's own: all passed, some failed, none were left to run.
EXIT_STATUSES = (0, 1, 5)
ROOT = Path(__file__).parents[2]


def run_suite(
    suite: Suite, backend: str, only: Iterable[str] = (), *, echo: bool = False
) -> Run:
    """Run a suite over a backend.

    Parameters
    ----------
    suite : Suite
        What to run.
    backend : str
        Name of a joblib backend.
    only : iterable of str
        Patterns of test ids; all tests if there are none.
    echo : bool
        Whether to show what pytest prints.

    Returns
    -------
    Run
        Its outcomes.

    Raises
    ------
    RuntimeError
        If the suite cannot even be collected.
    """
    run = Run(suite.name, backend)
    only = list(only)
    began = time.monotonic()
    for number in range(MAX_PROCESSES):
        with tempfile.TemporaryDirectory(
            prefix="peers-", ignore_cleanup_errors=True
        ) as folder:
            log = _run_process(run, suite, only, Path(folder), echo)
        run.outcomes |= log.finished
        run.submits += log.submits
        run.tasks += log.tasks
        run.shared += log.shared
        if log.has_ended:
            break
        if log.running is None:
            run.troubles.append("ended between two tests, the rest did not run")
            break
        run.outcomes[log.running] = Outcome("killed", run.troubles[-1])
    else:
        run.troubles.append(f"{number + 1} processes died, the rest did not run")
    run.seconds = round(time.monotonic() - began, 1)
    return run


def _run_process(
    run: Run, suite: Suite, only: list[str], folder: Path, echo: bool
) -> Log:
    """Run what is left of a suite in one process."""
    log_path, output_path = folder / "log", folder / "output"
    log_path.touch()
    settings = {
        "backend": run.backend,
        "mode": suite.mode,
        "log": str(log_path),
        "left_out": [left_out.pattern for left_out in suite.left_out],
        "done": sorted(run.outcomes),
        "only": only,
    }
    (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "tmp").mkdir()
    with output_path.open("wb") as output:
        process = subprocess.Popen(
            _command(suite),
            cwd=folder,
            env=_environment(folder),
            stdin=subprocess.DEVNULL,
            stdout=None if echo else output,
            stderr=None if echo else subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            trouble = _wait(process, log_path)
        finally:
            left = _end_session(process)
    log = read_log(log_path)
    if log.collected is None:
        text = output_path.read_text(encoding="utf-8", errors="replace")
        raise RuntimeError(f"cannot collect the suite {suite.name!r}:\n{text[-5000:]}")
    is_exit_clean = log.has_ended and process.returncode in EXIT_STATUSES
    if not trouble and not is_exit_clean:
        trouble = f"the process ended with exit status {process.returncode}"
    if trouble:
        run.troubles.append(trouble)
    # loky's workers outlive a process that dies, for as long as they wait for tasks.
    if left and log.has_ended:
        run.troubles.append(f"left processes behind: {', '.join(left)}")
    return log


def _command(suite: Suite) -> list[str]:
    package = suite.modules[0].partition(".")[0]
    spec = importlib.util.find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return [
        *(sys.executable, "-m", "pytest", "--quiet", "--tb=short"),
        # Neither our configuration nor a cache, and ids that begin with the package.
        *("-c", os.devnull, "--rootdir", str(Path(spec.origin).parents[1])),
        *("-p", "no:cacheprovider", "-p", "tests.peers.plugin"),
        *("--timeout", str(TEST_SECONDS), "--timeout-method", "signal"),
        *("--pyargs", *suite.modules),
    ]


def _environment(folder: Path) -> dict[str, str]:
    """Return this environment without what would change how a suite runs."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTEST_", "COVERAGE_", "COV_", "JOBLIB_", "SKLEARN_"))
    }
    # The working directory of the suite is its own, and workers import ours too.
    paths = [str(ROOT), environment.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    environment["PEERS_CONFIG"] = str(folder / "config.json")
    environment["TMPDIR"] = str(folder / "tmp")
    return environment


def _wait(process: subprocess.Popen[bytes], log_path: Path) -> str:
    """Wait until a process has ended or does nothing any more; say what went wrong."""
    while True:
        log_seconds = time.time() - log_path.stat().st_mtime
        has_ended = log_seconds > EXIT_SECONDS and read_log(log_path).has_ended
        if has_ended:
            return f"did not exit within {EXIT_SECONDS} seconds after its last test"
        if log_seconds > SILENT_SECONDS:
            return f"no sign of life for {SILENT_SECONDS} seconds"
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=1)
            return ""


def _end_session(process: subprocess.Popen[bytes]) -> list[str]:
    """Kill what is left of a process and its workers; return what outlived it."""
    was_running = process.poll() is None
    if was_running:
        process.kill()
        process.wait()
    deadline = time.monotonic() + 10
    while (left := _list_session(process.pid)) and time.monotonic() < deadline:
        time.sleep(0.1)
    for other in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            other.send_signal(signal.SIGKILL)
    return [] if was_running else [str(other) for other in left]


def _list_session(session: int) -> list[psutil.Process]:
    members = []
    for pid in psutil.pids():
        with contextlib.suppress(ProcessLookupError, psutil.NoSuchProcess):
            if os.getsid(pid) == session and pid != session:
                members.append(psutil.Process(pid))
    return members


def _main() -> None:
    """Run one suite from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("backend")
    parser.add_argument("--only", default="", help="end of test ids, '*' for anything")
    parser.add_argument("--save", type=Path, help="JSON file for the outcomes")
    arguments = parser.parse_args()
    suite = SUITES[arguments.suite]
    run = run_suite(suite, arguments.backend, filter(None, [arguments.only]), echo=True)
    if arguments.save:
        run.save(arguments.save)
    for name, test in sorted(run.outcomes.items()):
        if test.outcome in BAD:
            print(f"{test.outcome} {name}\n    {test.message[:200]!r}")
    print(dict(run.counts), f"{run.submits} submits, {run.tasks} tasks", end=", ")
    print(f"{run.shared} shared, {run.seconds} s", *run.troubles, sep="\n")


if __name__ == "__main__":
    _main()
