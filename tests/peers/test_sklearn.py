"""scikit-learn's tests, with every parallel call and every array forced onto a backend.

Tests that expect a task to run in the process of the test, to warn there or to count
calls there, fail on both.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.peers.suites import SUITES, Suite


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("name", [name for name in SUITES if name != "joblib"])
def test_fails_where_loky_fails(
    name: str, check_suite: Callable[[Suite], None]
) -> None:
    check_suite(SUITES[name])
