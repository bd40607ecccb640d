"""The plugin as it is installed, and as it is built; `tox -e bench` runs this."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

PLUGIN = Path(__file__).parents[1]
SAMPLER = tuple(
    f"asv_bench_peaktree/{name}" for name in ("_monitor/", "_linux/", "_child.py")
)
MONITOR = PLUGIN.parents[1] / "skl_mmap" / "monitor"
MIB = 2**20

CONFIGURATION = {
    "version": 1,
    "project": "example",
    "repo": ".",
    "branches": ["HEAD"],
    "environment_type": "existing",
    "benchmark_dir": "benchmarks",
    "launch_method": "spawn",
}

SUITE = """\
import subprocess, sys, time

class Tree:
    params = [1, 2]
    param_names = ["n_jobs"]
    relative = True
    rounds = 3

    def peaktree_children(self, n_jobs):
        program = "b = bytearray(40 << 20); print(1, flush=True); input()"
        children = [
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", program],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )
            for _ in range(n_jobs)
        ]
        for child in children:
            child.stdout.readline()
        time.sleep(0.1)
        for child in children:
            child.communicate(b"x")
"""

FAILING = """\
import sys

sys.modules["asv_bench_peaktree._watch"] = None

def peaktree_nothing():
    pass
"""


def run(*command: str, cwd: Path, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "HOME": str(home),
        "GIT_CONFIG_COUNT": "2",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "Test",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "test@example.org",
    }
    return subprocess.run(
        command, cwd=cwd, env=environment, capture_output=True, text=True
    )


def run_asv(folder: Path, suite: str, *arguments: str) -> Any:
    """Make a repository with one suite, and run asv there."""
    pytest.importorskip("asv", reason="runs a suite with asv itself")
    home = folder / "home"
    home.mkdir()
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "trees.py").write_text(suite)
    (folder / "asv.conf.json").write_text(json.dumps(CONFIGURATION))
    for command in (
        ["git", "init", "-q"],
        ["git", "add", "benchmarks", "asv.conf.json"],
        ["git", "commit", "-q", "-m", "suite"],
        [sys.executable, "-m", "asv", "machine", "--yes", "--machine", "test"],
    ):
        assert run(*command, cwd=folder, home=home).returncode == 0
    return run(
        *[sys.executable, "-m", "asv", "run", "--python=same", "--machine=test"],
        *arguments,
        cwd=folder,
        home=home,
    )


def test_distribution_has_the_name_that_asv_looks_for() -> None:
    names = {
        distribution.metadata["Name"]
        for distribution in importlib.metadata.distributions()
    }
    assert "asv_bench_peaktree" in names


def test_asv_records_bytes_of_the_whole_tree(tmp_path: Path) -> None:
    result = run_asv(tmp_path, SUITE, "--set-commit-hash=HEAD", "--record-samples")
    assert result.returncode == 0, result.stdout + result.stderr
    benchmarks = json.loads((tmp_path / "results" / "benchmarks.json").read_text())
    assert benchmarks["trees.Tree.peaktree_children"]["unit"] == "bytes"
    (file,) = (tmp_path / "results" / "test").glob("*-existing-*.json")
    results = json.loads(file.read_text())
    values = dict(
        zip(
            results["result_columns"],
            results["results"]["trees.Tree.peaktree_children"],
            strict=False,
        )
    )
    assert values["params"] == [["1", "2"]]
    one, two = values["result"]
    # A child is 40 MiB and an interpreter.
    assert 40 * MIB < one < 60 * MIB
    assert 80 * MIB < two < 120 * MIB
    assert [len(samples) for samples in values["samples"]] == [3, 3]


def test_broken_installation_fails_and_does_not_vanish(tmp_path: Path) -> None:
    result = run_asv(tmp_path, FAILING, "--show-stderr")
    assert result.returncode == 2, result.stdout
    assert "trees.peaktree_nothing" in result.stdout
    assert "ModuleNotFoundError" in result.stdout + result.stderr


def build(target: str, source: Path, folder: Path) -> Path:
    pytest.importorskip("hatchling", reason="builds with the plugin's build system")
    result = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", target, "-d", str(folder)],
        cwd=source,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = folder.glob("*.whl" if target == "wheel" else "*.tar.gz")
    return path


def read_sampler(wheel: Path) -> dict[str, bytes]:
    """Return the files of the sampler in a wheel."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name.partition("/")[2].removeprefix("_"): archive.read(name)
            for name in archive.namelist()
            if name.startswith(SAMPLER)
        }


@pytest.mark.skipif(not MONITOR.exists(), reason="there is no checkout around it")
def test_wheel_of_sdist_has_the_sampler_of_the_checkout(tmp_path: Path) -> None:
    direct = build("wheel", PLUGIN, tmp_path / "direct")
    sdist = build("sdist", PLUGIN, tmp_path / "sdist")
    with tarfile.open(sdist) as archive:
        if hasattr(tarfile, "data_filter"):
            archive.extractall(tmp_path, filter="data")
        else:
            archive.extractall(tmp_path)
    unpacked = tmp_path / sdist.name.removesuffix(".tar.gz")
    assert (unpacked / "tests" / Path(__file__).name).exists()
    wheel = build("wheel", unpacked, tmp_path / "wheel")
    found = read_sampler(direct)
    assert read_sampler(wheel) == found
    names = [f"monitor/_{name}.py" for name in ("sampler", "tree", "process")]
    assert {"child.py", "linux/proc.py", *names} <= found.keys()
    for name, text in found.items():
        place = name if name.startswith("monitor") else f"_{name}"
        assert text == (MONITOR.parent / place).read_bytes()


@pytest.mark.skipif(not MONITOR.exists(), reason="there is no checkout around it")
def test_wheel_measures_without_the_checkout(tmp_path: Path) -> None:
    with zipfile.ZipFile(build("wheel", PLUGIN, tmp_path)) as archive:
        archive.extractall(tmp_path / "site")
    program = (
        "import sys; sys.path.insert(0, sys.argv[1])\n"
        "from asv_bench_peaktree import watch, _watch\n"
        "assert str(_watch.find_sampler()).startswith(sys.argv[1])\n"
        "with watch() as peak: data = bytearray(40 << 20)\n"
        "print(peak.growth_bytes)"
    )
    result = subprocess.run(
        [sys.executable, "-I", "-c", program, str(tmp_path / "site")],
        capture_output=True,
        text=True,
    )
    assert 40 * MIB <= int(result.stdout or 0) < 60 * MIB, result.stderr


def test_license_is_that_of_the_project() -> None:
    whole = PLUGIN.parents[1] / "LICENSE"
    if not (MONITOR.exists() and whole.exists()):
        pytest.skip("there is no checkout around it")
    assert (PLUGIN / "LICENSE").read_text() == whole.read_text()
