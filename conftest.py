"""What holds for the examples in docstrings as for the tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.conftest import shut_down_pools


@pytest.fixture(scope="module", autouse=True)
def end_pools() -> Iterator[None]:
    """Shut the pools down after each module, lest workers end while another measures.

    A worker that ends gives memory back, and a measurement would take it for ours. The
    server that forks workers stays: to start another one takes two seconds.
    """
    yield
    shut_down_pools()
