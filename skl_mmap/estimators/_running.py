"""Running a method of an estimator under the backend, and watching what it costs."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

from joblib import parallel_config
from joblib.parallel import get_active_backend

from skl_mmap.backend import MmapBackend
from skl_mmap.exceptions import CopyError, CopyWarning, InvalidParameterError
from skl_mmap.monitor import Measurement, measure
from skl_mmap.report import MemoryReport

__all__ = ["CHECKS", "act_on", "is_nested", "measured", "under_backend"]

CHECKS = ("report", "warn", "error", "off")
# A fit that is worth sharing takes seconds; half of the default's overhead is enough.
_INTERVAL_SECONDS = 0.02


def is_nested() -> bool:
    """Whether this is a task of some other parallel call already."""
    backend, _ = get_active_backend()
    return bool(backend.nesting_level)


@contextlib.contextmanager
def under_backend(n_jobs: int | None, **options: Any) -> Iterator[None]:
    """Run parallel calls of a block by the backend "mmap".

    In a task of another parallel call, joblib's choice for nested calls is left as it
    is: processes that start processes would be more than there are cores.

    Parameters
    ----------
    n_jobs : int or None
        None leaves what is set outside.
    **options : object
        Parameters of `MmapBackend`.

    Raises
    ------
    InvalidParameterError
        If one of them cannot be used.
    """
    backend = MmapBackend(**options)
    config = {} if n_jobs is None else {"n_jobs": n_jobs}
    if not is_nested():
        config["backend"] = backend
    with parallel_config(**config) if config else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def measured(check: str) -> Iterator[Measurement | None]:
    """Measure a block, unless nobody wants to know or it is a task of another one."""
    if check not in CHECKS:
        raise InvalidParameterError(
            f"check={check!r} does not say what to do about copies. Pass one of "
            f"{', '.join(map(repr, CHECKS))}."
        )
    if check == "off" or is_nested():
        yield None
        return
    with measure(interval_seconds=_INTERVAL_SECONDS) as measurement:
        yield measurement


def act_on(report: MemoryReport, check: str) -> None:
    """Warn of copies, or raise an error, if that was asked for.

    Raises
    ------
    CopyError
        If ``check="error"``, and the report has complaints.
    """
    if check not in ("warn", "error") or not report.complaints:
        return
    text = f"{report.title}: {' '.join(report.complaints)}"
    if check == "error":
        raise CopyError(f"{text} With check='report', this would be no error.")
    warnings.warn(text, CopyWarning, stacklevel=_find_user_frame())


def _find_user_frame() -> int:
    """Return the stack level of the line outside of this package."""
    import sys

    level = 1
    frame = sys._getframe(1)
    while frame.f_back is not None:
        frame = frame.f_back
        name = frame.f_globals.get("__name__", "")
        if not name.startswith(("skl_mmap.", "contextlib", "functools")):
            break
        level += 1
    return level
