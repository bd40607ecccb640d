"""Settings of the tests of the backend."""

from __future__ import annotations

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers", "slow: takes many seconds; run by hand (tox -e slow)"
    )
