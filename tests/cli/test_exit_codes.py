"""Every exit code that is documented is given, and no other: a case for each."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skl_mmap._linux import proc
from skl_mmap.cli import _bench, _check, _demo, _info, _main, _run, main
from skl_mmap.cli._command import MEANINGS
from tests.cli.scripts import write

DOCS = Path(__file__).parents[2] / "docs"
RUN_FUNCTIONS = {
    "demo": (_demo, "run"),
    "bench": (_bench, "run"),
    "info": (_info, "run"),
    "run": (_run, "run"),
    "check": (_check, "run"),
    "completion": (_main, "_complete"),
}
# With every subcommand: Ctrl-C, and a reader that leaves.
EVERYWHERE = {130, 141}

DEMO = "demo --data friedman --size 20000"
BENCH = "bench --rows 20000 --peers loky,mmap"
RIDGE = "check sklearn.linear_model:Ridge"
# Words that begin with a colon change what is there: see `arrange_failures`.
CASES = [
    (0, DEMO),
    (1, f"{DEMO} :scores"),
    (2, "demo --n-jobs 0"),
    (3, f"{DEMO} :memory"),
    (0, BENCH),
    (1, f"{BENCH} :scores"),
    (2, "bench --rows 10"),
    (3, f"{BENCH} :memory"),
    (0, "info X.npy"),
    (2, "info nothing.npy"),
    (2, "info bad.npy"),
    (2, "info x.xlsx"),
    (2, "info X.npy --n-jobs 0"),
    (3, "info table.csv :pyarrow"),
    (0, "run --compare quiet.py"),
    (1, "run --compare loud.py"),
    (1, "run broken.py"),
    (2, "run nothing.py"),
    (2, "run -o report.txt quiet.py"),
    (3, "run -o folder.json quiet.py"),
    (0, f"{RIDGE} X.npy y.npy --methods predict --no-suggestions --rows 50"),
    (1, f"{RIDGE} X.npy --methods fit --no-suggestions --rows 50"),
    (2, f"{RIDGE} nothing.npy"),
    (2, f"{RIDGE} bad.npy"),
    (2, f"{RIDGE} x.xlsx"),
    (2, f"{RIDGE} empty.csv"),
    (2, f"{RIDGE} X.npy bad.npy"),
    (2, f"{RIDGE} X.npy --target nocol"),
    (2, "check no_such_module:Ridge X.npy"),
    (3, f"{RIDGE} table.csv :pyarrow"),
    (0, "completion bash"),
    (2, "completion tcsh"),
    (3, "completion bash :shtab"),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with files that can be used, and others that cannot."""
    np.save(tmp_path / "X.npy", np.random.default_rng(0).random((100, 5)))
    np.save(tmp_path / "y.npy", np.arange(100.0))
    for name, text in (
        ("bad.npy", "something"),
        ("empty.csv", ""),
        ("x.xlsx", "PK\x03\x04"),
        ("table.csv", "a,b\n1,2\n"),
        ("quiet.py", "import joblib"),
        ("loud.py", "import joblib\nprint(joblib.parallel.DEFAULT_BACKEND)"),
        ("broken.py", "def f(:"),
    ):
        write(tmp_path, text, name)
    (tmp_path / "folder.json").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arrange_failures(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace children by results, and hide what a case says that there is not."""

    def run_child(
        module: str, spec: Mapping[str, Any], **_: object
    ) -> tuple[dict[str, Any], str]:
        is_off = ":scores" in words and spec["peer"] == "mmap"
        names = ("wall_seconds", "baseline_bytes", "peak_bytes", "peak_growth_bytes")
        told = dict.fromkeys(("mapped_bytes", "copied_bytes", "copy_reasons"))
        result = {
            "backend": spec["backend"],
            "shape": [10, 5],
            "data_bytes": 400,
            "scores": [0.5 if is_off else 0.25],
        }
        return {**result, **dict.fromkeys(names, 1), **told}, ""

    monkeypatch.setattr(_bench, "run_child", run_child)
    available = 1 if ":memory" in words else None
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: available)
    for package in ("pyarrow", "shtab"):
        if f":{package}" in words:
            monkeypatch.setitem(sys.modules, package, None)


@pytest.mark.parametrize(("code", "line"), CASES, ids=[line for _, line in CASES])
def test_each_case_has_its_exit_code(
    code: int,
    line: str,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    if code == 0 and line.startswith("completion"):
        pytest.importorskip("shtab", reason="needs the extra completion")
    if "empty.csv" in line:
        pytest.importorskip("pyarrow", reason="needs the extra tables")
    words = line.split()
    arrange_failures(words, monkeypatch)
    command = [word for word in words if not word.startswith(":")]
    assert main(command) == code
    assert "Traceback" not in capfd.readouterr().err


def list_documented(text: str) -> dict[int, str]:
    rows = re.findall(r"^ *(\d{1,3}) +(\S.*)$", text, re.MULTILINE)
    return {int(code): meaning for code, meaning in rows}


@pytest.mark.parametrize("name", RUN_FUNCTIONS)
def test_help_documents_exactly_the_codes_that_are_given(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, "--help"]) == 0
    _, _, text = capsys.readouterr().out.partition("exit codes:")
    given = {code for code, line in CASES if line.split()[0] == name}
    assert set(list_documented(text)) == given | EVERYWHERE


def test_help_and_the_how_to_have_the_same_table(
    capsys: pytest.CaptureFixture[str],
) -> None:
    expected = {int(code): meaning for code, meaning in MEANINGS.items()}
    assert main(["--help"]) == 0
    _, _, text = capsys.readouterr().out.partition("exit codes:")
    assert list_documented(text) == expected
    table = re.search(
        r"^==== =+\n(.*?)^====",
        (DOCS / "howto.rst").read_text(),
        re.MULTILINE | re.DOTALL,
    )
    assert table is not None
    assert list_documented(table[1]) == expected


@pytest.mark.parametrize("name", RUN_FUNCTIONS)
def test_ctrl_c_has_its_code(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(_: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(*RUN_FUNCTIONS[name], interrupt)
    words = {"info": ["X.npy"], "completion": ["bash"]}.get(name, [])
    assert main([name, *words]) == 130


def test_a_reader_that_leaves_has_its_code() -> None:
    # In a process of its own, which loses its stdout.
    code = (
        "import sys\n"
        "from skl_mmap.cli import _bench, _check, _demo, _info, _main, _run, main\n"
        "def leave(_): raise BrokenPipeError\n"
        "_main._complete = leave\n"
        "for module in (_bench, _check, _demo, _info, _run): module.run = leave\n"
        "lines = ['bench', 'check', 'demo', 'info X', 'run', 'completion bash']\n"
        "print(*(main(line.split()) for line in lines), file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr.split() == ["141"] * len(RUN_FUNCTIONS)
