"""A pytest plugin: tests that fail when they take too much memory.

::

    @pytest.mark.peak_memory("1.2 X")
    def test_search(X, y): ...

    @pytest.mark.peak_memory("500 MiB")
    def test_report(): ...

    def test_model(assert_no_copy, X, y):
        assert_no_copy(SGDRegressor(), X, y)

It lies beside the package, because pytest imports every plugin before the first test:
this costs nothing until a test is marked.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from skl_mmap import MemoryReport

__all__ = ["assert_no_copy"]

_MARK = "peak_memory"
_MULTIPLE = re.compile(r"\s*(\d+(?:\.\d*)?)\s*\*?\s*X\s*")


def pytest_configure(config: pytest.Config) -> None:
    """Register the mark."""
    config.addinivalue_line(
        "markers",
        "peak_memory(limit, X='X', interval_seconds=0.01): fail the test if committed "
        "memory of this process and all it starts grows by more than limit while it "
        "runs: bytes ('500 MiB'), or a multiple ('1.2 X') of an array or of the "
        "fixture of that name (skl-mmap).",
    )


@pytest.fixture
def assert_no_copy() -> Callable[..., Any]:
    """Return `skl_mmap.assert_no_copy`: fails if an estimator copies X."""
    import skl_mmap

    check: Callable[..., Any] = skl_mmap.assert_no_copy
    return check


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Measure a marked test while it runs, without its fixtures."""
    mark = item.get_closest_marker(_MARK)
    if mark is None:
        return (yield)
    import skl_mmap

    limit, X, interval_seconds = _read_mark(mark)
    limit_bytes, input_bytes = _find_limit(item, limit, X)
    gc.collect()  # what earlier tests have left would hide as much of this one
    with skl_mmap.measure(interval_seconds=interval_seconds) as live:
        # An error of the test is of more interest than its memory.
        result = yield
    report = live.report(item.nodeid, input_bytes=input_bytes)
    growth_bytes = report.peak_growth_bytes
    if growth_bytes is None:
        pytest.fail(f"Memory was not measured. {' '.join(report.notes)}", pytrace=False)
    if growth_bytes > limit_bytes:
        pytest.fail(_explain(report, limit, limit_bytes), pytrace=False)
    return result


def _read_mark(mark: pytest.Mark) -> tuple[Any, Any, float]:
    """Return the arguments of a mark: limit, X, and the interval of readings."""

    def bind(limit: Any, *, X: Any = "X", interval_seconds: float = 0.01) -> Any:
        return limit, X, interval_seconds

    try:
        arguments: tuple[Any, Any, float] = bind(*mark.args, **mark.kwargs)
    except TypeError as error:
        pytest.fail(
            f"@pytest.mark.peak_memory takes a limit, X= and interval_seconds= "
            f"({error}). Write @pytest.mark.peak_memory('1.2 X') or ('500 MiB').",
            pytrace=False,
        )
    return arguments


def _find_limit(item: pytest.Item, limit: Any, X: Any) -> tuple[int, int | None]:
    """Return a limit in bytes, and the size of X if the limit is a multiple of it."""
    from skl_mmap._units import parse_bytes
    from skl_mmap.exceptions import InvalidParameterError

    if isinstance(limit, str) and (match := _MULTIPLE.fullmatch(limit)):
        input_bytes = _size_of(item, X)
        return int(float(match[1]) * input_bytes), input_bytes
    try:
        return parse_bytes(limit, name="limit"), None
    except InvalidParameterError:
        pytest.fail(
            f"@pytest.mark.peak_memory({limit!r}) does not limit memory. Pass bytes, "
            "such as '500 MiB', or a multiple of X, such as '1.2 X'.",
            pytrace=False,
        )


def _size_of(item: pytest.Item, X: Any) -> int:
    """Return the size of an array, or of what a fixture of the test has returned."""
    from skl_mmap.containers import count_bytes

    name = "X"
    if isinstance(X, str):
        name = X
        values = getattr(item, "funcargs", {})
        if name not in values:
            pytest.fail(
                f"@pytest.mark.peak_memory is relative to {name!r}, and {item.name} "
                "has no argument of this name. Pass the array, or the name of a "
                "fixture that the test uses, as X=.",
                pytrace=False,
            )
        X = values[name]
    n_bytes = count_bytes(X)
    if not n_bytes:
        pytest.fail(
            f"@pytest.mark.peak_memory is relative to {name!r}, a "
            f"{type(X).__name__} whose size is not known or 0. Pass a limit in bytes, "
            "such as '500 MiB'.",
            pytrace=False,
        )
    return n_bytes


def _explain(report: MemoryReport, limit: Any, limit_bytes: int) -> str:
    from skl_mmap._units import format_bytes

    growth_bytes = report.peak_growth_bytes or 0
    peak, allowed = format_bytes(growth_bytes), format_bytes(limit_bytes)
    if report.input_bytes is not None:
        peak += f" ({growth_bytes / report.input_bytes:.2f} X)"
        allowed += f" ({limit})"
    headline = (
        f"Memory grew by {peak} while the test ran, and {allowed} are allowed "
        "(@pytest.mark.peak_memory)."
    )
    return "\n".join([headline, *str(report).splitlines()[1:]])
