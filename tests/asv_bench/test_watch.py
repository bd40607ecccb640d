"""The plugin's own way to have a process tree watched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from asv_bench_peaktree import _watch, watch

MIB = 2**20
SLACK_BYTES = 8 * MIB  # an interpreter, and what it has read when it says hello

pytestmark = pytest.mark.skipif(
    not _watch.can_measure(), reason="needs /proc with RssAnon: Linux 4.5 or newer"
)

HOLDER = """\
import os, sys
data = bytearray({n_bytes})
print("ready", flush=True)
sys.stdin.read(1)
"""


def hold_in_child(n_bytes: int, files: tuple[int, ...] = ()) -> None:
    """Have a child allocate memory, and hold it for twenty readings."""
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", HOLDER.format(n_bytes=n_bytes)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=files,
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.1)
    child.communicate(b"x")


def test_memory_of_children_counts() -> None:
    with watch(0.005) as peak:
        hold_in_child(60 * MIB)
    assert 60 * MIB <= peak.growth_bytes < 60 * MIB + SLACK_BYTES
    assert peak.peak_bytes == peak.baseline_bytes + peak.growth_bytes
    assert peak.n_readings >= 2


def test_memory_that_is_there_before_is_in_the_baseline() -> None:
    data = bytearray(60 * MIB)
    with watch() as peak:
        pass
    assert peak.baseline_bytes >= len(data)
    assert peak.growth_bytes < SLACK_BYTES


def test_shared_file_counts_once_however_often_it_is_open() -> None:
    with watch(0.005) as peak:
        first = os.memfd_create("test")
        second = os.dup(first)
        try:
            for _ in range(32):
                os.write(first, bytes(MIB))
            hold_in_child(0, files=(first,))
        finally:
            os.close(first)
            os.close(second)
    assert 32 * MIB <= peak.growth_bytes < 32 * MIB + 2 * SLACK_BYTES


def test_memory_of_forks_counts_once() -> None:
    code = HOLDER.format(n_bytes=60 * MIB).replace("print", "os.fork(); print")
    with watch(0.005) as peak:
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert child.stdout is not None
        for _ in range(2):
            child.stdout.readline()
        time.sleep(0.5)
        child.communicate(b"xx")
    assert 60 * MIB <= peak.growth_bytes < 60 * MIB + 2 * SLACK_BYTES


def test_error_in_the_block_comes_through() -> None:
    with pytest.raises(KeyError, match="mine"), watch():
        raise KeyError("mine")


def kill_sampler() -> None:
    for child in psutil.Process().children():
        if child.cmdline()[-1:] == [_watch._MARK]:
            child.kill()


def test_dead_sampler_is_an_error() -> None:
    message = r"ended early with code -9.*Measure again"
    with pytest.raises(RuntimeError, match=message), watch():
        kill_sampler()


def test_sampler_that_cannot_start_is_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / "_sampler.py"
    program.write_text("raise SystemExit(3)")
    monkeypatch.setattr(_watch, "find_sampler", lambda: program)
    with pytest.raises(RuntimeError, match="code 3 before the first reading"), watch():
        pytest.fail("the block must not run")


@pytest.mark.parametrize("interval", [0, 61, -1, True, "10 ms", None, float("nan")])
def test_interval_out_of_bounds_is_refused(interval: object) -> None:
    with pytest.raises(ValueError, match=r"interval = .* 0\.001 to 60"):
        _watch.check_interval(interval)


def test_sampler_is_the_one_of_the_package() -> None:
    checkout = Path(__file__).parents[2] / "skl_mmap" / "monitor" / "_sampler.py"
    assert _watch.find_sampler() == checkout


def test_sampler_that_came_with_the_wheel_comes_first(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "a" / "b" / "asv_bench_peaktree"
    (package / "_monitor").mkdir(parents=True)
    sampler = package / "_monitor" / "_sampler.py"
    checkout = tmp_path / "skl_mmap" / "monitor" / "_sampler.py"
    checkout.parent.mkdir(parents=True)
    for place in (sampler, checkout):
        shutil.copy(_watch.find_sampler(), place)
    monkeypatch.setattr(_watch, "__file__", str(package / "_watch.py"))
    assert _watch.find_sampler() == sampler
    sampler.unlink()
    assert _watch.find_sampler() == checkout
    checkout.unlink()
    with pytest.raises(RuntimeError, match="pip install --force-reinstall"):
        _watch.find_sampler()


def test_only_the_standard_library_is_imported() -> None:
    program = (
        "import sys; sys.path.append(sys.argv[1]); before = set(sys.modules)\n"
        "from asv_bench_peaktree import watch\n"
        "with watch(): pass\n"
        "new = {name.partition('.')[0] for name in set(sys.modules) - before}\n"
        "print(*sorted(new - set(sys.stdlib_module_names)))"
    )
    plugin = Path(_watch.__file__).parents[1]
    result = subprocess.run(
        [sys.executable, "-c", program, str(plugin)],
        check=True,
        capture_output=True,
        text=True,
    )
    assert result.stdout.split() == ["asv_bench_peaktree"]
