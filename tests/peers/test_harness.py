"""The harness itself, on a suite that does everything a suite should not do."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers import compare as compare_module
from tests.peers import run_suite as run_suite_module
from tests.peers.compare import Comparison, compare
from tests.peers.differences import Difference
from tests.peers.outcomes import Outcome, Run, read_log
from tests.peers.run_suite import run_suite
from tests.peers.suites import LeftOut, Suite

TOY_SUITE = """
import os, time
import numpy as np
import pytest
from joblib import Parallel, delayed

def test_submits():
    X = np.ones(3)
    assert Parallel()(delayed(np.sum)(X) for _ in range(4)) == [3.0] * 4

def test_fails():
    assert 1 == 2

def test_dies():
    os._exit(3)

def test_hangs():
    time.sleep(1000)

def test_is_left_out():
    raise NotImplementedError

@pytest.mark.xfail
def test_fails_as_expected():
    assert False

@pytest.fixture
def broken():
    yield
    raise OSError("no more")

def test_cannot_be_torn_down(broken):
    pass

def test_passes():
    pass
"""


@pytest.fixture
def toy_suite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Suite:
    (tmp_path / "toy_suite.py").write_text(TOY_SUITE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    left_out = LeftOut("::test_is_left_out", "it is")
    return Suite("toy", ("toy_suite",), "forced", 1, (left_out,))


@pytest.mark.parametrize("backend", ["loky", "mmap"])
def test_every_test_has_one_outcome(
    backend: str, toy_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_suite_module, "TEST_SECONDS", 5)
    run = run_suite(toy_suite, backend)
    outcomes = {
        name.partition("::")[2]: test.outcome for name, test in run.outcomes.items()
    }
    assert outcomes == {
        "test_submits": "passed",
        "test_fails": "failed",
        "test_dies": "killed",
        "test_hangs": "failed",
        "test_fails_as_expected": "xfailed",
        "test_cannot_be_torn_down": "error",
        "test_passes": "passed",
    }
    assert run.tasks == 4
    assert run.shared == (4 if backend == "mmap" else 0)
    assert run.troubles == ["the process ended with exit status 3"]


def test_kills_a_process_that_is_silent(
    toy_suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    # pytest-timeout would need longer.
    monkeypatch.setattr(run_suite_module, "SILENT_SECONDS", 8)
    run = run_suite(toy_suite, "loky", only=["::test_hangs", "::test_passes"])
    assert run.counts == {"killed": 1, "passed": 1}
    assert run.troubles == ["no sign of life for 8 seconds"]


def test_needs_a_suite(toy_suite: Suite) -> None:
    suite = Suite("typo", ("toy_suite.nothing",), "forced", 1)
    with pytest.raises(RuntimeError, match="cannot collect the suite 'typo'"):
        run_suite(suite, "loky")


def test_unfinished_line_of_a_log_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text('{"event": "started", "id": "test_x", "submits": 3}\n{"event": "fi')
    log = read_log(path)
    assert (log.running, log.submits, log.has_ended) == ("test_x", 3, False)


def test_run_survives_saving(tmp_path: Path) -> None:
    run = Run("toy", "loky", {"test_x": Outcome("failed", "why", 1.5)}, submits=3)
    run.save(tmp_path / "folder" / "run.json")
    assert Run.load(tmp_path / "folder" / "run.json") == run


def test_zero_submits_are_a_problem() -> None:
    comparison = Comparison(Run("toy", "loky"), Run("toy", "mmap"))
    assert comparison.list_problems(min_submits=1) == [
        "loky got 0 batches, expected at least 1",
        "mmap got 0 batches, expected at least 1",
        "no array was shared",
    ]


def test_difference_matches_the_end_of_an_id() -> None:
    difference = Difference("::test_x[*-loky]", "mmap", "")
    assert difference.matches("joblib/test/test_parallel.py::test_x[config-loky]")
    assert not difference.matches("joblib/test/test_parallel.py::test_x[loky]")


def test_differences_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failures = {
        "loky": {"test_slow", "test_on_both"},
        "mmap": {"test_new", "test_known", "test_on_both"},
    }
    names = [*sorted(set().union(*failures.values())), "test_fixed"]
    reruns = []

    def run_suite_again(
        suite: Suite, backend: str, only: set[str] = frozenset()
    ) -> Run:
        run = Run(suite.name, backend)
        if only:
            reruns.append(backend)
            assert only <= {"test_slow", "test_new"}
        for name in only or names:
            # test_slow fails once and not again.
            is_bad = name in failures[backend] and not (only and name == "test_slow")
            run.outcomes[name] = Outcome("failed" if is_bad else "passed")
        return run

    monkeypatch.setenv("SKL_MMAP_PEERS_CACHE", str(tmp_path))
    monkeypatch.setattr(compare_module, "run_suite", run_suite_again)
    known = [Difference(name, "mmap", "why") for name in ("test_known", "test_fixed")]
    monkeypatch.setattr(compare_module, "DIFFERENCES", known)
    suite = Suite("toy", ("toy_suite",), "forced", 1)
    comparison = compare(suite)
    assert comparison.expected == {"test_known": "why"}
    assert comparison.outdated == ["test_fixed"]
    assert comparison.unexpected.keys() == {"test_new"}
    assert comparison.unsteady.keys() == {"test_slow"}
    assert reruns == ["loky", "mmap"] * 2

    # What is kept of loky's side is read again.
    again = compare(suite)
    assert again.reference == comparison.reference
