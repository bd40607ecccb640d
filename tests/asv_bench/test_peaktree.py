"""The type of asv benchmarks that measures a whole process tree."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import asv_bench_peaktree
import pytest
from asv_bench_peaktree import _watch

pytest.importorskip("asv_runner", reason="the type of benchmarks is one of asv_runner")
from asv_bench_peaktree.benchmarks import peaktree

MIB = 2**20
PLUGIN = Path(asv_bench_peaktree.__file__).parents[1]

needs_proc = pytest.mark.skipif(
    not _watch.can_measure(), reason="needs /proc with RssAnon: Linux 4.5 or newer"
)

SUITE = """\
import subprocess, sys, time

class Tree:
    params = [20, 40]
    param_names = ["mib"]
    rounds = 3
    interval = 0.005

    def peaktree_child(self, mib):
        program = f"b = bytearray({mib} << 20); print(1, flush=True); input()"
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", program],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )
        child.stdout.readline()
        time.sleep(0.1)  # some readings
        child.communicate(b"x")

    def peakmem_child(self, mib):
        self.peaktree_child(mib)

def time_nothing():
    pass
"""


def allocate() -> bytearray:
    data = bytearray(40 * MIB)
    time.sleep(0.1)  # for some readings, also on a busy machine
    return data


def make(func: Any = allocate, *sources: Any) -> peaktree.PeakTreeBenchmark:
    return peaktree.PeakTreeBenchmark("suite.name", func, [func, *sources])


@pytest.mark.parametrize("name", ["peaktree_fit", "Peaktree_fit", "PeaktreeFit"])
def test_name_is_of_this_type(name: str) -> None:
    assert peaktree.PeakTreeBenchmark.name_regex.match(name)


@pytest.mark.parametrize(
    "name", ["peaktree", "peaktree_", "peakmem_fit", "my_peaktree_fit", "Peaktreefit"]
)
def test_name_is_not_of_this_type(name: str) -> None:
    assert not peaktree.PeakTreeBenchmark.name_regex.match(name)


def test_no_type_of_asv_takes_the_name() -> None:
    from asv_runner.benchmarks import benchmark_types

    others = [cls for cls in benchmark_types if cls.__module__ != peaktree.__name__]
    assert others
    assert not [cls for cls in others if cls.name_regex.match("peaktree_fit")]


@needs_proc
def test_result_is_one_sample_in_bytes() -> None:
    benchmark = make()
    result = benchmark.run()
    assert result["number"] == 1
    (value,) = result["samples"]
    assert value > 40 * MIB
    assert (benchmark.unit, benchmark.type) == ("bytes", "peaktree")
    json.dumps(result)


@needs_proc
def test_relative_leaves_out_what_setup_holds() -> None:
    held = bytearray(80 * MIB)
    absolute = make().run()["samples"][0]
    relative = make(allocate, SimpleNamespace(relative=True)).run()["samples"][0]
    assert 40 * MIB <= relative < 60 * MIB
    assert absolute >= len(held) + 40 * MIB


def test_attributes_of_the_suite_are_found() -> None:
    benchmark = make(allocate, SimpleNamespace(rounds=3, interval=0.5, relative=True))
    assert (benchmark.rounds, benchmark.interval, benchmark.relative) == (3, 0.5, True)
    # asv reads them from here, before anything runs.
    assert {"rounds", "interval", "relative"} <= vars(benchmark).keys()


def test_attributes_have_defaults() -> None:
    benchmark = make()
    assert (benchmark.rounds, benchmark.interval, benchmark.relative) == (
        1,
        0.01,
        False,
    )


def test_attribute_of_the_command_line_is_found_late() -> None:
    benchmark = make()
    benchmark._attr_sources.insert(0, SimpleNamespace(interval=99))
    with pytest.raises(ValueError, match="interval = 99"):
        benchmark.run()


def test_system_without_proc_skips_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[str] = []
    steps = SimpleNamespace(
        setup=lambda: calls.append("setup"), teardown=lambda: calls.append("teardown")
    )
    monkeypatch.setattr(_watch, "can_measure", lambda: False)
    benchmark = make(allocate, steps)
    assert benchmark.do_setup() is True
    benchmark.do_teardown()
    assert "asv: skipped: this system has no /proc" in capsys.readouterr().out
    assert calls == []


@needs_proc
def test_setup_and_teardown_run() -> None:
    calls: list[str] = []
    steps = SimpleNamespace(
        setup=lambda: calls.append("setup"), teardown=lambda: calls.append("teardown")
    )
    benchmark = make(allocate, steps)
    assert benchmark.do_setup() is False
    benchmark.do_teardown()
    assert calls == ["setup", "teardown"]


def test_missing_module_fails_the_benchmark_and_not_the_type(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "asv_bench_peaktree._watch", None)
    monkeypatch.delattr(asv_bench_peaktree, "_watch")
    for module in (asv_bench_peaktree, peaktree):
        importlib.reload(module)
    try:
        with pytest.raises(ImportError, match="_watch"):
            make().run()
    finally:
        monkeypatch.undo()
        importlib.reload(peaktree)


def test_unknown_asv_runner_is_no_import_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "asv_runner.benchmarks._base", None)
    with pytest.raises(RuntimeError, match="does not fit this version of asv_runner"):
        importlib.reload(peaktree)
    monkeypatch.undo()
    importlib.reload(peaktree)


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A suite, beside the metadata by which asv finds the plugin."""
    folder = tmp_path_factory.mktemp("suite")
    metadata = folder / "site" / "asv_bench_peaktree-0.1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: asv_bench_peaktree\nVersion: 0.1.0\n"
    )
    (folder / "benchmarks").mkdir()
    (folder / "benchmarks" / "__init__.py").touch()
    (folder / "benchmarks" / "trees.py").write_text(SUITE)
    return folder


def run_asv_runner(suite: Path, program: str, *arguments: str) -> Any:
    """Run a program in a new interpreter that finds the plugin; read its result."""
    result = suite / "result.json"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *arguments, str(result)],
        check=True,
        cwd=suite,
        env={**os.environ, "PYTHONPATH": f"{suite / 'site'}{os.pathsep}{PLUGIN}"},
    )
    return json.loads(result.read_text())


DISCOVER = """\
import sys
from asv_runner.discovery import _discover
_discover(sys.argv[1:])
"""

RUN = """\
import sys
from asv_runner.run import _run
folder, name, result = sys.argv[1:]
_run((folder, name, "{}", "None", result))
"""


@needs_proc
def test_asv_finds_the_type_in_an_installed_distribution(suite: Path) -> None:
    found = run_asv_runner(suite, DISCOVER, str(suite / "benchmarks"))
    by_name = {benchmark["name"]: benchmark for benchmark in found}
    tree = by_name["trees.Tree.peaktree_child"]
    assert tree["type"] == "peaktree"
    assert tree["unit"] == "bytes"
    assert (tree["rounds"], tree["interval"]) == (3, 0.005)
    assert tree["params"] == [["20", "40"]]
    assert tree["param_names"] == ["mib"]
    assert by_name["trees.Tree.peakmem_child"]["type"] == "peakmemory"
    assert by_name["trees.time_nothing"]["type"] == "time"


@needs_proc
def test_asv_runs_it_for_each_parameter(suite: Path) -> None:
    values = []
    for index in range(2):
        name = f"trees.Tree.peaktree_child-{index}"
        result = run_asv_runner(suite, RUN, str(suite / "benchmarks"), name)
        values.append(result["samples"][0])
    # Two runs of one interpreter differ by less than a MiB.
    assert abs(values[1] - values[0] - 20 * MIB) < 4 * MIB
