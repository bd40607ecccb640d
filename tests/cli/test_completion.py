"""What shells offer after they have read the script, asked of the shells."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from skl_mmap.cli import main

Complete = Callable[..., list[str]]


@pytest.fixture
def make_script(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], Path]:
    pytest.importorskip("shtab", reason="needs the extra completion")

    def make(shell: str) -> Path:
        if shutil.which(shell) is None:
            pytest.skip(f"{shell} is not installed")
        assert main(["completion", shell]) == 0
        script = tmp_path / f"script.{shell}"
        script.write_text(capsys.readouterr().out)
        return script

    return make


@pytest.fixture
def complete_in_bash(make_script: Callable[[str], Path], tmp_path: Path) -> Complete:
    script = make_script("bash")
    # The function that `complete` has registered fills COMPREPLY, as when TAB is hit.
    code = (
        f"source {script}\n"
        'words=(skl-mmap "$@")\n'
        'COMP_WORDS=("${words[@]}"); COMP_CWORD=$(( ${#words[@]} - 1 ))\n'
        'COMP_LINE="${words[*]}"; COMP_POINT=${#COMP_LINE}\n'
        "registered=($(complete -p skl-mmap))\n"
        'for i in "${!registered[@]}"; do\n'
        '  [ "${registered[$i]}" = -F ] && function=${registered[$((i + 1))]}\n'
        "done\n"
        "$function\n"
        "printf '%s\\n' \"${COMPREPLY[@]}\"\n"
    )

    def complete(*words: str) -> list[str]:
        done = subprocess.run(
            ["bash", "--norc", "-c", code, "bash", *words],
            capture_output=True,
            text=True,
            check=True,
            cwd=tmp_path,
        )
        assert done.stderr == ""
        return done.stdout.split()

    return complete


def test_bash_completes_subcommands_options_values_and_files(
    complete_in_bash: Complete, tmp_path: Path
) -> None:
    (tmp_path / "train.py").touch()
    assert {"demo", "info", "run", "bench", "completion"} <= set(complete_in_bash(""))
    assert complete_in_bash("dem") == ["demo"]
    assert complete_in_bash("run", "--row") == ["--row-order"]
    assert complete_in_bash("run", "--backend", "") == ["mmap", "loky", "threading"]
    assert complete_in_bash("run", "--backend", "l") == ["loky"]
    assert complete_in_bash("completion", "") == ["bash", "zsh", "fish"]
    for words in (("run", "tr"), ("run", "-o", "tr"), ("info", "tr")):
        assert complete_in_bash(*words) == ["train.py"]


def test_fish_completes_subcommands_and_values(
    make_script: Callable[[str], Path],
) -> None:
    script = make_script("fish")

    def complete(line: str) -> list[str]:
        done = subprocess.run(
            ["fish", "--no-config", "-c", f"source {script}; complete -C '{line}'"],
            capture_output=True,
            text=True,
            check=True,
        )
        return [offer.split("\t")[0] for offer in done.stdout.splitlines()]

    assert complete("skl-mmap dem") == ["demo"]
    assert complete("skl-mmap run --backend ") == ["mmap", "loky", "threading"]


def test_zsh_can_read_the_script(make_script: Callable[[str], Path]) -> None:
    script = make_script("zsh")
    subprocess.run(["zsh", "-f", "-n", str(script)], check=True)
    assert script.read_text().startswith("#compdef skl-mmap\n")


def test_a_missing_package_is_named_with_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 3
    assert "pip install 'skl-mmap[completion]'" in capsys.readouterr().err


def test_other_shells_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "tcsh"]) == 2
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
