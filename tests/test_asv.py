"""The decorator for asv's track_ benchmarks."""

from __future__ import annotations

import inspect
import math
import subprocess
import sys
import time
from typing import Any

import pytest

from skl_mmap import asv
from skl_mmap._linux import proc
from skl_mmap.asv import peak_memory
from skl_mmap.exceptions import InvalidParameterError

MIB = 2**20

needs_proc = pytest.mark.skipif(
    not proc.is_readable(), reason="needs /proc with RssAnon: Linux 4.5 or newer"
)


def allocate_in_child(mib: int) -> None:
    program = f"b = bytearray({mib} << 20); print(1, flush=True); input()"
    child = subprocess.Popen(
        [sys.executable, "-I", "-S", "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert child.stdout is not None
    child.stdout.readline()
    time.sleep(0.1)  # some readings
    child.communicate(b"x")


class Suite:
    """As it would be written in a benchmark module."""

    @peak_memory
    def track_plain(self, mib: int) -> None:
        allocate_in_child(mib)

    @peak_memory(relative=True, rounds=3, interval_seconds=0.005)
    def track_relative(self, mib: int) -> None:
        """What setup holds is left out."""
        allocate_in_child(mib)


@needs_proc
def test_peak_of_the_tree_is_returned_as_a_sample() -> None:
    result: Any = Suite().track_plain(40)
    assert result["number"] == 1
    assert result["samples"][0] > 40 * MIB


@needs_proc
def test_relative_leaves_out_what_setup_holds() -> None:
    held = bytearray(40 * MIB)
    result: Any = Suite().track_relative(40)
    assert 40 * MIB <= result["samples"][0] < 40 * MIB + len(held) // 2


def test_asv_finds_its_attributes_on_the_bound_method() -> None:
    method: Any = Suite().track_relative
    assert method.unit == "bytes"
    assert method.rounds == 3
    assert method.__name__ == "track_relative"
    # The version of a benchmark is a hash of its source.
    assert "What setup holds is left out" in inspect.getsource(method)


def test_asv_takes_it_for_a_benchmark() -> None:
    pytest.importorskip("asv_runner", reason="looks at it with asv's own eyes")
    from asv_runner.benchmarks.track import TrackBenchmark

    instance = Suite()
    method = instance.track_relative
    benchmark = TrackBenchmark("name", method, [method, instance])
    assert (benchmark.unit, benchmark.rounds) == ("bytes", 3)


def test_system_without_proc_skips_with_a_reason(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(asv, "is_readable", lambda: False)
    result: Any = peak_memory(Suite.__dict__["track_plain"])(Suite(), 1)
    assert math.isnan(result)
    assert "asv: skipped: this system has no /proc" in capsys.readouterr().out


def test_name_that_asv_would_pass_over_is_refused() -> None:
    def fit() -> None: ...

    with pytest.raises(InvalidParameterError, match="Rename it to 'track_fit'"):
        peak_memory(fit)


@pytest.mark.parametrize("rounds", [0, -1, True, 1.5, "3"])
def test_rounds_must_be_a_positive_number(rounds: Any) -> None:
    with pytest.raises(InvalidParameterError, match="at least 3"):
        peak_memory(rounds=rounds)


def test_error_of_the_benchmark_comes_through() -> None:
    @peak_memory
    def track_error() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        track_error()
