"""Scripts run as Python runs them, with another default backend and a report."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from skl_mmap import MemoryReport
from skl_mmap.cli import main
from tests.cli.scripts import BUSY, PARALLEL, SEES, run_command, run_python, write
from tests.waiting import PATIENCE_SECONDS, wait_for_end, wait_until

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


def test_a_script_sees_what_it_would_see_under_python(tmp_path: Path) -> None:
    path = write(tmp_path, SEES)
    arguments = [path, "--json", "-x", "--", "a b"]
    for variables in ({}, {"PYTHONPATH": str(tmp_path)}):
        expected = run_python(*arguments, stdin="text", **variables)
        found = run_command("run", *arguments, stdin="text", **variables)
        assert json.loads(found.stdout) == json.loads(expected.stdout)
        assert json.loads(found.stdout)["heavy"] == []
        assert found.returncode == 0


def test_a_module_sees_what_it_would_see_under_python(tmp_path: Path) -> None:
    write(tmp_path, SEES, "some_module.py")
    arguments = ["-m", "some_module", "--n-jobs", "x"]
    variables = {"PYTHONPATH": str(tmp_path)}
    expected = run_python("-W", "error::FutureWarning", *arguments, **variables)
    command = ["-W", "error::FutureWarning", "-m", "skl_mmap.cli", "run", *arguments]
    found = run_python(*command, **variables)
    seen = json.loads(found.stdout)
    assert seen == json.loads(expected.stdout)
    assert seen["spec"] == "some_module"
    assert seen["argv"][1:] == ["--n-jobs", "x"]


def test_the_environment_keeps_its_own_sitecustomize(tmp_path: Path) -> None:
    write(tmp_path, "import sys\nsys.was_customized = True\n", "sitecustomize.py")
    path = write(
        tmp_path,
        "import sitecustomize, sys\nprint(sys.was_customized, sitecustomize.__file__)",
    )
    done = run_command("run", path, PYTHONPATH=str(tmp_path))
    assert done.stdout == f"True {tmp_path / 'sitecustomize.py'}\n"


def test_errors_have_the_traceback_and_the_exit_code_of_python(tmp_path: Path) -> None:
    text = "import joblib\ndef fail():\n    raise ValueError('text')\nfail()\n"
    path = write(tmp_path, text)
    expected, found = run_python(path), run_command("run", path)
    assert expected.stderr
    assert found.stderr.startswith(expected.stderr)
    assert found.returncode == expected.returncode == 1
    assert "the script ended with exit code 1" in found.stderr


@pytest.mark.parametrize(
    ("text", "exit_code"), [("raise SystemExit(7)", 7), ("exit('text')", 1), ("", 0)]
)
def test_exit_codes_are_passed_through(
    text: str, exit_code: int, tmp_path: Path
) -> None:
    assert main(["run", write(tmp_path, text)]) == exit_code


def test_jobs_that_name_no_backend_run_under_mmap(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--n-jobs", "3", write(tmp_path, PARALLEL), "x"]) == 0
    output = capfd.readouterr()
    assert output.out.splitlines() == [
        "[0, 2, 4, 6] False",
        "MmapBackend ThreadingBackend LokyBackend 3",
        "ThreadingBackend",
        "exact auto",
    ]
    assert "script.py x with the backend mmap" in output.err
    # Two workers have told what their tasks have cost.
    assert re.search(r"^  \(no name\) +\d+ ", output.err, re.MULTILINE)


@pytest.mark.parametrize(
    ("options", "backend", "last_line"),
    [
        (["--backend", "loky"], "LokyBackend", "None None"),
        (["--backend", "threading"], "ThreadingBackend", "None None"),
        (["--row-order", "any", "--layouts", "auto"], "MmapBackend", "any auto"),
    ],
)
def test_other_backends_and_options_can_be_the_default(
    options: list[str],
    backend: str,
    last_line: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main(["run", *options, write(tmp_path, PARALLEL)]) == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0] == f"[0, 2, 4, 6] {backend == 'ThreadingBackend'}"
    assert lines[1].split() == [backend, "ThreadingBackend", "LokyBackend", "1"]
    assert lines[-1] == last_line


def test_a_script_without_tasks_is_told_about_n_jobs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", write(tmp_path, "print(1)")]) == 0
    output = capfd.readouterr()
    assert output.out == "1\n"
    assert "--n-jobs 4 sets n_jobs" in output.err


def test_memory_of_the_script_is_measured(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "import time\ndata = b'x' * 64_000_000\ntime.sleep(0.2)\n")
    report_path = tmp_path / "report.json"
    assert main(["run", "-o", str(report_path), "--json", path]) == 0
    result = json.loads(capfd.readouterr().out)
    assert result["exit_code"] == 0
    assert result["signal"] is None
    assert 64_000_000 < result["peak_growth_bytes"] < 90_000_000
    report = MemoryReport.from_json(report_path)
    assert report.peak_growth_bytes == result["peak_growth_bytes"]
    assert json.loads(report.to_json()) == result["report"]


def test_json_has_stdout_for_itself_and_html_is_a_page(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "report.html"
    path = write(tmp_path, "print('of the script')")
    assert main(["run", "-o", str(page), "--json", path]) == 0
    output = capfd.readouterr()
    assert json.loads(output.out)["command"] == path
    assert "of the script" in output.err
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert "script.py with the backend mmap" in text


@needs_posix
@pytest.mark.parametrize("backend", ["loky", "mmap"])
def test_a_killed_script_is_explained_and_leaves_no_workers(
    backend: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    folder, shared = tmp_path / "workers", tmp_path / "joblib"
    folder.mkdir()
    shared.mkdir()
    monkeypatch.setenv("JOBLIB_TEMP_FOLDER", str(shared))
    command = ["run", "--backend", backend, write(tmp_path, BUSY), str(folder), "kill"]
    assert main(command) == 137
    message = capfd.readouterr().err
    assert "ended by SIGKILL (exit code 137), often the kernel's answer" in message
    assert re.search(r"It held [\d.]+ MiB at its peak", message)
    workers = [int(path.name.partition("_")[2]) for path in folder.iterdir()]
    assert len(workers) == 2
    assert wait_for_end(workers)
    assert not list(shared.iterdir())


@needs_posix
@pytest.mark.parametrize(
    ("number", "exit_code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGKILL", -9)]
)
def test_a_signal_reaches_the_script(
    number: str, exit_code: int, tmp_path: Path
) -> None:
    folder = tmp_path / "workers"
    folder.mkdir()
    code = (
        "import signal, sys\n"
        # pytest itself may have been started where it is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from skl_mmap.cli import main\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    script = [write(tmp_path, BUSY), str(folder), "wait"]
    # In a session of its own there is no terminal that would tell both processes.
    process = subprocess.Popen(
        [sys.executable, "-c", code, "run", *script],
        stderr=subprocess.PIPE,
        start_new_session=True,
        cwd=os.getcwd(),
    )
    assert wait_until(lambda: len(list(folder.iterdir())) == 2)
    descendants = psutil.Process(process.pid).children(recursive=True)
    assert len(descendants) >= 4  # sampler, script, two workers
    process.send_signal(getattr(signal, number))
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == exit_code
    assert wait_for_end([descendant.pid for descendant in descendants])


def test_comparison_of_equal_outputs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write(tmp_path, "import joblib, sys\nprint(sys.stdin.read() or 'none')")
    page = tmp_path / "both.html"
    assert main(["run", "--compare", "-o", str(page), path]) == 0
    output = capfd.readouterr()
    heads = [line.split()[0] for line in output.out.splitlines()[:3]]
    assert heads == ["backend", "loky", "mmap"]
    assert "stdout is equal" in output.out
    assert output.err.count("none\n") == 2
    assert page.read_text().count('class="skl-mmap"') >= 2


def test_comparison_of_different_outputs_fails(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    code = "import joblib\nprint('same')\nprint(joblib.parallel.DEFAULT_BACKEND)"
    assert main(["run", "--compare", "--json", write(tmp_path, code)]) == 1
    result = json.loads(capfd.readouterr().out)
    assert result["stdout_equal"] is False
    assert result["difference"] == {"line": 2, "texts": ["loky", "mmap"]}
    assert [run["backend"] for run in result["runs"]] == ["loky", "mmap"]


def test_comparison_of_a_script_that_fails_has_its_exit_code(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--compare", write(tmp_path, "exit(5)")]) == 5
    assert "mmap: the script ended with exit code 5" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ([], 2, "there is nothing to run"),
        (["-m"], 2, "-m was given without a module"),
        (["no_such.py", "--x"], 2, "there is no script 'no_such.py'"),
        (["--n-jobs", "0", "{script}"], 2, "at least 1"),
        (["--backend", "dask", "{script}"], 2, "invalid choice"),
        (["-o", "report.txt", "{script}"], 2, "ends with .html or .json"),
        (["-o", "no/such/folder.json", "{script}"], 2, "there is no folder"),
        (["{broken}"], 1, "is not valid Python, so nothing was run.\n  File"),
    ],
)
def test_what_cannot_be_run_is_said_before_anything_runs(
    arguments: list[str],
    exit_code: int,
    message: str,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    script = write(tmp_path, "print('has run')")
    broken = write(tmp_path, "print('has run')\ndef f(:\n", "broken.py")
    command = [word.format(script=script, broken=broken) for word in arguments]
    assert main(["run", *command]) == exit_code
    output = capfd.readouterr()
    assert message in output.err
    assert "has run" not in output.out
