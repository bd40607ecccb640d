"""Running a method of an estimator under the backend, and watching what it costs."""

from __future__ import annotations

import contextlib
import sys
import warnings
from collections.abc import Iterator
from types import FrameType
from typing import Any

from joblib import parallel_config
from joblib.parallel import get_active_backend

from skl_mmap.backend import MmapBackend
from skl_mmap.exceptions import CopyError, CopyWarning, InvalidParameterError
from skl_mmap.monitor import Measurement
from skl_mmap.report import MemoryReport, measure

__all__ = ["act_on", "check_check", "is_nested", "measured", "under_backend"]

_CHECKS = ("report", "warn", "error", "off")
# A fit that is worth sharing takes seconds; half of the default's overhead is enough.
_INTERVAL_SECONDS = 0.02
# Between the user's line and this module, where an estimator is part of another one.
_NOT_THE_USER = {"skl_mmap", "sklearn", "joblib", "contextlib", "functools"}


def is_nested() -> bool:
    """Whether this is a task of some other parallel call already."""
    backend, _ = get_active_backend()
    return bool(backend.nesting_level)


@contextlib.contextmanager
def under_backend(backend: MmapBackend, n_jobs: int | None) -> Iterator[None]:
    """Run parallel calls of a block by a backend.

    In a task of another parallel call, joblib's choice for nested calls is left as it
    is: processes that start processes would be more than there are cores.

    Parameters
    ----------
    backend : MmapBackend
        What runs them.
    n_jobs : int or None
        None leaves what is set outside.
    """
    config: dict[str, Any] = {} if n_jobs is None else {"n_jobs": n_jobs}
    if not is_nested():
        config["backend"] = backend
    with parallel_config(**config) if config else contextlib.nullcontext():
        yield


def check_check(check: object) -> None:
    """Raise an `InvalidParameterError` if this is no value of ``check``."""
    if not isinstance(check, str) or check not in _CHECKS:
        raise InvalidParameterError(
            f"check={check!r} does not say what to do about copies. Pass one of "
            f"{', '.join(map(repr, _CHECKS))}."
        )


@contextlib.contextmanager
def measured(check: str) -> Iterator[Measurement[MemoryReport] | None]:
    """Measure a block, unless nobody wants to know or it is a task of another one."""
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
        If ``check="error"``, and the report has large copies.
    """
    if check not in ("warn", "error") or not report.large_copies:
        return
    text = f"{report.title}: {' '.join(report.large_copies)}"
    if check == "error":
        raise CopyError(f"{text} With check='report', this would be no error.")
    warnings.warn(text, CopyWarning, stacklevel=_find_user_frame())


def _find_user_frame() -> int:
    """Return the stack level, for the caller, of the line that the user wrote."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _NOT_THE_USER:
            return level
        frame, level = frame.f_back, level + 1
    return 1
