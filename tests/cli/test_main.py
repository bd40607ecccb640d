from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

import skl_mmap
from skl_mmap.cli import _demo, main
from skl_mmap.cli._command import CheckFailedError, CommandError
from tests.waiting import PATIENCE_SECONDS


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"skl-mmap {skl_mmap.__version__}\n"


def test_a_subcommand_is_required(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    assert "SUBCOMMAND" in capsys.readouterr().err


def test_the_package_runs_as_a_module() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "skl_mmap.cli", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("skl-mmap ")


@pytest.mark.parametrize(
    ("error", "exit_code", "text"),
    [
        (CommandError("no room"), 3, "skl-mmap demo: error: no room\n"),
        (CheckFailedError("differs"), 1, "error: differs\n"),
        (KeyboardInterrupt(), 130, "skl-mmap demo: interrupted\n"),
    ],
)
def test_errors_become_exit_codes_and_one_line(
    error: BaseException,
    exit_code: int,
    text: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(_: object) -> int:
        raise error

    monkeypatch.setattr(_demo, "run", fail)
    assert main(["demo"]) == exit_code
    output = capsys.readouterr()
    assert output.err.endswith(text)
    assert output.out == ""


@pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")
@pytest.mark.parametrize("number", ["SIGTERM", "SIGHUP"])
def test_signals_unwind_the_stack(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = []

    def run(_: object) -> int:
        try:
            os.kill(os.getpid(), getattr(signal, number))
            steps.append("goes on")
        finally:
            steps.append("tidied up")
        return 0

    monkeypatch.setattr(_demo, "run", run)
    before = signal.getsignal(getattr(signal, number))
    with pytest.raises(SystemExit) as ended:
        main(["demo"])
    assert ended.value.code == 128 + getattr(signal, number)
    assert steps == ["tidied up"]
    assert signal.getsignal(getattr(signal, number)) is before


def test_a_reader_that_leaves_early_is_no_error() -> None:
    # More than fits into a pipe, and nobody who reads it.
    code = (
        "import sys\n"
        "from skl_mmap.cli import _demo, main\n"
        "_demo.run = lambda _: print('x' * 10_000_000) or 0\n"
        "sys.exit(main(['demo']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.read(10)
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(PATIENCE_SECONDS) == 141
