"""The same jobs with several backends, in fresh processes."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from skl_mmap._linux import proc
from skl_mmap.cli import _bench, main
from skl_mmap.cli._bench import PEERS, Run
from skl_mmap.cli._command import CommandError
from skl_mmap.cli._work import work

SMALL = ("bench", "--rows", "20000", "--n-jobs", "2", "--n-splits", "3")


class Children:
    """Stands for the children: what they return, and what they were asked for."""

    def __init__(self) -> None:
        self.specs: list[Mapping[str, Any]] = []
        self.scores = dict.fromkeys(PEERS, (0.5, 0.25))
        self.failing: set[str] = set()

    def __call__(
        self,
        module: str,
        spec: Mapping[str, Any],
        *,
        on_step: Callable[[str], None],
        environment: Mapping[str, str],
    ) -> tuple[dict[str, Any], str]:
        self.specs.append(spec)
        on_step("running")
        peer = spec["peer"]
        if peer in self.failing:
            raise CommandError("no workers")
        growth = 8_000_000 * (len(self.specs) % 3 + 1)
        result = {
            "backend": peer,
            "shape": [spec["n_rows"], spec["n_features"]],
            "data_bytes": 8_000_000,
            "scores": list(self.scores[peer]),
            "wall_seconds": 1.0,
            "baseline_bytes": 10,
            "peak_bytes": growth + 10,
            "peak_growth_bytes": growth,
            "mapped_bytes": None,
            "copied_bytes": None,
            "copy_reasons": None,
        }
        return result, ""


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Children:
    children = Children()
    monkeypatch.setattr(_bench, "run_child", children)
    return children


def test_the_job_gives_equal_scores_and_measures_them() -> None:
    # In this process: that children do what they are told is tested with them.
    steps: list[str] = []
    spec = {"job": "stacking", "folder": None, "n_rows": 20000, "n_features": 50}
    spec |= {"n_jobs": 2, "n_splits": 3, "options": {}}
    threading, mmap = (
        Run.from_result(work({**spec, "peer": peer, "backend": peer}, steps.append))
        for peer in ("threading", "mmap")
    )
    assert threading.score_bits == mmap.score_bits
    for run in (threading, mmap):
        assert run.shape == (20000, 50)
        assert run.scores[0] > 0.5  # the score of the stack
        assert len(run.scores) == 3  # and the coefficients of two base models
        assert run.peak_growth_bytes > 0
    assert mmap.mapped_bytes is not None
    assert mmap.mapped_bytes > mmap.data_bytes
    assert threading.mapped_bytes is None
    assert steps == ["loading", "starting workers", "running"] * 2


@pytest.mark.parametrize("package", ["distributed", "ray"])
def test_optional_peers_give_equal_scores(
    package: str, capfd: pytest.CaptureFixture[str]
) -> None:
    # Not imported here: ray leaves environment variables.
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package}, an optional peer, is not installed")
    peer = {"distributed": "dask", "ray": "ray"}[package]
    command = [*SMALL, "--jobs", "cross-validation", "--peers", f"threading,{peer}"]
    assert main([*command, "--json"]) == 0
    (job,) = json.loads(capfd.readouterr().out)["jobs"]
    assert [result["scores"] for result in job["peers"]] == ["reference", "equal"]


def test_every_peer_that_is_there_runs_every_job(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--peers", "threading,loky,mmap,mmap-any"]) == 0
    lines = capsys.readouterr().out.splitlines()
    asked = [(spec["job"], spec["peer"]) for spec in children.specs]
    peers = ["threading", "loky", "mmap", "mmap-any"]
    assert asked == [
        (job, p) for job in ("cross-validation", "stacking") for p in peers
    ]
    assert lines[0].startswith("cross-validation: X 20,000 x 50, 7.6 MiB; 3 folds")
    assert [line.split()[0] for line in lines[2:6]] == peers
    assert lines[3].endswith("reference")
    assert lines[4].endswith("equal")


def test_medians_of_repetitions(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*SMALL, "--peers", "mmap", "--jobs", "stacking", "--repeat", "3"]
    assert main([*command, "--json"]) == 0
    ((peer,),) = [job["peers"] for job in json.loads(capsys.readouterr().out)["jobs"]]
    growths = [run["peak_growth_bytes"] for run in peer["runs"]]
    assert sorted(growths) == [8_000_000, 16_000_000, 24_000_000]
    assert growths != sorted(growths)
    assert peer["peak_growth_bytes"] == 16_000_000
    assert peer["peak_growth_ratio"] == 2.0


@pytest.mark.parametrize("changed", ["mmap", "threading"])
def test_scores_that_must_be_equal_and_are_not_fail(
    changed: str, children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    children.scores[changed] = (0.5, 0.25000000000000006)
    assert main([*SMALL, "--peers", "threading,loky,mmap", "--jobs", "stacking"]) == 1
    output = capsys.readouterr()
    assert "differ by 6e-17" in output.out
    assert f"the scores under loky and {changed} are not equal" in output.err


def test_another_row_order_may_give_other_scores(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    children.scores["mmap-any"] = (0.5, 0.26)
    assert main([*SMALL, "--peers", "loky,mmap-any", "--jobs", "stacking"]) == 0
    assert "differ by 0.01" in capsys.readouterr().out


def test_peers_that_are_missing_or_fail_are_named_with_the_reason(
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    find_spec = _bench_find_spec({"distributed": None, "ray": object()})
    monkeypatch.setattr("importlib.util.find_spec", find_spec)
    children.failing.add("ray")
    command = [*SMALL, "--peers", "mmap,dask,ray,mlens", "--jobs", "stacking"]
    assert main(command) == 0
    output = capsys.readouterr().out
    assert "dask has not taken part: not installed (pip install distributed)" in output
    assert "ray has not taken part: it failed: no workers" in output
    assert "mlens has not taken part: its last release" in output
    assert [spec["peer"] for spec in children.specs] == ["mmap", "ray"]


def _bench_find_spec(known: dict[str, object]) -> Callable[[str], object]:
    return lambda name: known[name]


def test_a_backend_of_this_package_that_fails_is_an_error(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    children.failing.add("mmap")
    assert main([*SMALL, "--peers", "loky,mmap"]) == 3
    assert "error: no workers" in capsys.readouterr().err


def test_nobody_to_compare_is_an_error(
    children: Children, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*SMALL, "--peers", "mlens"]) == 3
    assert "none of the peers can take part (mlens: " in capsys.readouterr().err


def test_too_little_memory_is_said_before_anything_starts(
    children: Children,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 1 << 20)
    assert main([*SMALL]) == 3
    message = capsys.readouterr().err
    assert "with 2 workers needs about" in message
    assert "fewer --rows" in message
    assert not children.specs


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rows", "10"], "at least 1000"),
        (["--n-features", "4"], "at least 5"),
        (["--repeat", "0"], "at least 1"),
        (["--peers", "loky,spark"], "'spark' in 'loky,spark' is none of"),
        (["--jobs", "search"], "'search' in 'search' is none of"),
    ],
)
def test_bad_options_are_explained_and_end_with_2(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *options]) == 2
    assert message in capsys.readouterr().err
