"""Collect the comparisons of all suites, and print them in one table at the end."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.peers.compare import Comparison, compare
from tests.peers.report import format_report
from tests.peers.suites import Suite

_comparisons = pytest.StashKey[list[Comparison]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[_comparisons] = []


@pytest.fixture
def check_suite(request: pytest.FixtureRequest) -> Callable[[Suite], None]:
    """Compare a suite over both backends, and fail with all that must not be."""

    def check(suite: Suite) -> None:
        comparison = compare(suite)
        request.config.stash[_comparisons].append(comparison)
        if problems := comparison.list_problems(suite.min_submits):
            pytest.fail("\n".join(problems), pytrace=False)

    return check


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    if comparisons := config.stash[_comparisons]:
        terminalreporter.section("suites of other projects")
        terminalreporter.write_line(format_report(comparisons))
