"""The pytest plugin, in runs of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

# Each run forgets what it has imported, and numpy cannot be imported twice.
import skl_mmap.estimators
import skl_mmap.report
from skl_mmap._linux.proc import is_readable

Run = Callable[[str], pytest.RunResult]

pytestmark = pytest.mark.skipif(
    not is_readable(), reason="limits are on committed memory, which needs /proc"
)

# Not from the heap, which may have as much to spare.
HOLD = """
    import mmap, time

    def hold(mib):
        data = mmap.mmap(-1, mib << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data[:: mmap.PAGESIZE] = b"x" * (len(data) // mmap.PAGESIZE)
        time.sleep(0.15)  # for some readings
"""


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    pytester.makeconftest(
        HOLD
        + """
    import numpy as np, pytest

    @pytest.fixture
    def X():
        return np.ones((1 << 20, 2))  # 16 MiB

    @pytest.fixture
    def small():
        return np.ones((1 << 20, 1))  # 8 MiB

    @pytest.fixture
    def unknown():
        return object()
    """
    )

    def run_tests(code: str) -> pytest.RunResult:
        pytester.makepyfile(
            "import pytest\nimport numpy as np\nfrom conftest import hold\n" + code
        )
        return pytester.runpytest_inprocess(
            *("-p", "pytest_skl_mmap"),
            *("-W", "error"),
            # Where the package is installed, the outer run has loaded it already.
            *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
        )

    return run_tests


def test_limits_are_probed_from_both_sides(run: Run) -> None:
    result = run(
        "@pytest.mark.peak_memory('1.4 X')\n"
        "def test_more_than_a_multiple(X): hold(32)\n"
        "@pytest.mark.peak_memory('2.6 X')\n"
        "def test_less_than_a_multiple(X): hold(32)\n"
        "@pytest.mark.peak_memory('1.4*X', X='small')\n"
        "def test_more_than_another_fixture(X, small): hold(16)\n"
        "@pytest.mark.peak_memory('1.4 X', X=np.ones(1 << 21))\n"
        "def test_less_than_an_array(): hold(16)\n"
        "@pytest.mark.peak_memory('24 MiB', interval_seconds=0.02)\n"
        "def test_more_than_bytes(): hold(32)\n"
        "@pytest.mark.peak_memory(40 << 20)\n"
        "def test_less_than_bytes(): hold(32)\n"
        "def test_without_a_limit(): hold(32)\n"
    )
    result.assert_outcomes(passed=4, failed=3)
    output = result.stdout.str()
    for name in ("a_multiple", "another_fixture", "bytes"):
        result.stdout.fnmatch_lines([f"FAILED *test_more_than_{name}*"])
    assert "Memory grew by" in output
    assert "22.4 MiB (1.4 X) are allowed" in output
    assert "24.0 MiB are allowed" in output
    assert "held by this process" in output
    assert "more than before, after" in output
    # The message is enough: no frames of the plugin.
    assert "def pytest_runtest_call" not in output


def test_memory_of_fixtures_is_not_the_test_s(run: Run) -> None:
    result = run(
        "@pytest.fixture\n"
        "def large(): hold(64)\n"
        "@pytest.mark.peak_memory('16 MiB')\n"
        "def test_little(large): pass\n"
    )
    result.assert_outcomes(passed=1)


def test_marks_of_classes_and_methods_of_unittest(run: Run) -> None:
    result = run(
        "import unittest\n"
        "@pytest.mark.peak_memory('16 MiB')\n"
        "class TestMany:\n"
        "    def test_little(self): pass\n"
        "    def test_much(self): hold(32)\n"
        "    @pytest.mark.peak_memory('64 MiB')\n"
        "    def test_much_with_leave(self): hold(32)\n"
        "class OfUnittest(unittest.TestCase):\n"
        "    @pytest.mark.peak_memory('16 MiB')\n"
        "    def test_much(self): hold(32)\n"
    )
    result.assert_outcomes(passed=2, failed=2)


def test_an_error_of_the_test_comes_first(run: Run) -> None:
    result = run(
        "@pytest.mark.peak_memory('1 MiB')\n"
        "def test_wrong():\n    hold(32)\n    assert 1 == 2\n"
        "@pytest.mark.peak_memory('1 MiB')\n"
        "def test_skipped():\n    pytest.skip('no')\n"
    )
    result.assert_outcomes(failed=1, skipped=1)
    assert "assert 1 == 2" in result.stdout.str()
    assert "Memory grew" not in result.stdout.str()


@pytest.mark.parametrize(
    ("mark", "message"),
    [
        ("'a lot'", "'a lot'*does not limit memory"),
        ("-1", "-1*does not limit memory"),
        ("'1 X', X='missing'", "has no argument of this name"),
        ("'1 X', X='unknown'", "relative to 'unknown', a object whose size"),
        ("'1 X', limits=3", "takes a limit, X= and interval_seconds="),
        ("", "takes a limit, X= and interval_seconds="),
    ],
)
def test_marks_that_cannot_be_used(run: Run, mark: str, message: str) -> None:
    result = run(
        f"@pytest.mark.peak_memory({mark})\n"
        "def test_it(unknown): raise RuntimeError('was run')\n"
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{message}*"])
    assert "was run" not in result.stdout.str().partition("short test summary")[2]
    assert "_find_limit" not in result.stdout.str()


def test_the_workers_of_a_job_are_counted(run: Run) -> None:
    result = run(
        "import subprocess, sys\n"
        "CODE = 'import time; data = bytearray(32 << 20); time.sleep(0.3)'\n"
        "@pytest.mark.peak_memory('24 MiB')\n"
        "def test_child(): subprocess.run([sys.executable, '-c', CODE], check=True)\n"
    )
    result.assert_outcomes(failed=1)
    assert "other process" in result.stdout.str()


def test_a_check_for_copies_is_a_fixture(
    run,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[object] = []
    monkeypatch.setattr(
        skl_mmap, "assert_no_copy", lambda *given: calls.append(given), raising=False
    )
    result = run("def test_it(assert_no_copy): assert_no_copy(1, 2, 3)\n")
    result.assert_outcomes(passed=1)
    assert calls == [(1, 2, 3)]


def test_the_mark_is_registered(pytester: pytest.Pytester) -> None:
    result = pytester.runpytest_inprocess("-p", "pytest_skl_mmap", "--markers")
    result.stdout.fnmatch_lines(["@pytest.mark.peak_memory(limit, X='X', *"])


def test_import_is_light() -> None:
    root = Path(__file__).parents[1]
    program = (
        "import pytest, sys; before = set(sys.modules); import pytest_skl_mmap\n"
        "print(*sorted(set(sys.modules) - before))"
    )
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
        cwd=root,
    )
    assert result.stdout.split() == ["pytest_skl_mmap"]


def test_the_plugin_is_an_entry_point() -> None:
    tomllib = pytest.importorskip("tomllib")
    text = (Path(__file__).parents[1] / "pyproject.toml").read_text()
    points = tomllib.loads(text)["project"]["entry-points"]["pytest11"]
    assert points == {"pytest_skl_mmap": "pytest_skl_mmap"}
