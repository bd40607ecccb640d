from __future__ import annotations

import subprocess
import sys

import pytest

import skl_mmap
from skl_mmap.cli import _demo, main
from skl_mmap.cli._errors import CommandError, ExitCode


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"skl-mmap {skl_mmap.__version__}\n"


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"]])
def test_help_documents_the_exit_codes(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "exit codes:" in text
    assert all(f"\n  {code.value} " in text for code in ExitCode)


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
        (CommandError("differs", ExitCode.CHECK_FAILED), 1, "error: differs\n"),
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
