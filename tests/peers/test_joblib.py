"""joblib's own tests of `Parallel`, with our backend in the place of loky."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.peers.suites import SUITES, Suite


@pytest.mark.timeout(3600)
def test_fails_where_loky_fails(check_suite: Callable[[Suite], None]) -> None:
    check_suite(SUITES["joblib"])
