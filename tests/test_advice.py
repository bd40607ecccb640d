"""Advice can be pasted, and does not make a job sequential."""

from __future__ import annotations

from typing import Any

import joblib
import pytest
from joblib import parallel_config

from skl_mmap._advice import backend_line


@pytest.mark.parametrize(
    ("n_jobs", "options"),
    [
        (None, {}),
        (2, {"row_order": "any"}),
        (-1, {"layouts": "auto", "adopt": True}),
        (3, {"min_bytes": "64K", "store": r'a "folder" of C:\new'}),
    ],
)
def test_a_line_can_be_pasted_and_has_the_jobs_own_workers(
    n_jobs: int | None, options: dict[str, Any]
) -> None:
    line = backend_line(n_jobs, **options)
    called: list[Any] = []
    eval(
        line, {"parallel_config": lambda *args, **kwargs: called.append((args, kwargs))}
    )
    assert called == [
        (("mmap",), {"n_jobs": 4 if n_jobs is None else n_jobs, **options})
    ]


def test_joblib_takes_the_line() -> None:
    with eval(backend_line(2, row_order="any"), {"parallel_config": parallel_config}):
        assert joblib.effective_n_jobs() == 2
