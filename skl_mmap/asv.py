"""Memory benchmarks for asv, without a plugin.

::

    from skl_mmap.asv import peak_memory

    class CrossValidation:
        params = [1, 2, 4]
        param_names = ["n_jobs"]

        @peak_memory(rounds=3)
        def track_cross_validate(self, n_jobs):
            cross_validate(Ridge(), X, y, n_jobs=n_jobs)

Nothing but the standard library is imported here; asv itself is not needed.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, TypeVar, overload

from skl_mmap._linux.proc import is_readable
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.monitor import measure

__all__ = ["peak_memory"]

_Function = TypeVar("_Function", bound=Callable[..., Any])
_PREFIXES = ("track_", "Track")


@overload
def peak_memory(function: _Function) -> _Function: ...


@overload
def peak_memory(
    *, relative: bool = ..., rounds: int = ..., interval_seconds: float = ...
) -> Callable[[_Function], _Function]: ...


def peak_memory(
    function: _Function | None = None,
    *,
    relative: bool = False,
    rounds: int = 1,
    interval_seconds: float = 0.01,
) -> _Function | Callable[[_Function], _Function]:
    """Make asv track the peak memory of a benchmark's whole process tree.

    Parameters
    ----------
    function : callable, default=None
        A function or method whose name starts with ``track_``; what it returns counts
        as its memory. None if the decorator is written with arguments.
    relative : bool, default=False
        Whether what `setup` holds when the benchmark starts is subtracted.
    rounds : int, default=1
        In how many processes asv runs the benchmark, each time afresh. With 3 or more
        it compares samples; with 1, only their ratio. Of no effect before asv_runner
        0.3.2, where ``track_`` benchmarks run once.
    interval_seconds : float, default=0.01
        Time between two readings, from 0.001 to 60.

    Returns
    -------
    callable
        The benchmark. It returns one sample in bytes, in the form in which asv adds up
        rounds; NaN, which is asv's word for a benchmark that was skipped, where there
        is no ``/proc``.

    Raises
    ------
    InvalidParameterError
        If the name does not start with ``track_`` or `rounds` is not a positive number;
        when it runs, if the interval is out of bounds.
    MeasurementError
        When the benchmark runs, if memory cannot be read.

    Notes
    -----
    What is measured is *committed* memory: see `measure`. asv's own ``peakmem_`` sees
    the main process only.

    The measurement is that of the commit under test. For a history over many commits
    use benchmarks named ``peaktree_`` and the distribution ``asv_bench_peaktree``,
    which stays the same.

    Examples
    --------
    >>> from skl_mmap.asv import peak_memory
    >>> @peak_memory(relative=True)
    ... def track_buffer():
    ...     return bytearray(50_000_000)
    >>> track_buffer.unit
    'bytes'
    >>> result = track_buffer()
    >>> 40_000_000 < result["samples"][0] < 60_000_000
    True
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or rounds < 1:
        raise InvalidParameterError(
            f"rounds={rounds!r} is not a number of runs. Pass 1, or at least 3."
        )
    decorate = functools.partial(
        _decorate, relative=relative, rounds=rounds, interval_seconds=interval_seconds
    )
    return decorate if function is None else decorate(function)


def _decorate(
    function: _Function, *, relative: bool, rounds: int, interval_seconds: float
) -> _Function:
    if not function.__name__.startswith(_PREFIXES):
        raise InvalidParameterError(
            f"peak_memory decorates {function.__name__!r}, but asv only records what "
            "a benchmark returns if its name starts with 'track_'. Rename it to "
            f"'track_{function.__name__}'."
        )

    @functools.wraps(function)
    def benchmark(*args: Any, **kwargs: Any) -> Any:
        if not is_readable():
            print(  # noqa: T201, asv shows what a benchmark prints
                "asv: skipped: this system has no /proc, so the memory that processes "
                "share cannot be told from their own"
            )
            return math.nan
        with measure(interval_seconds=interval_seconds) as report:
            # Kept until the last reading, so that it counts however short the call is.
            kept = function(*args, **kwargs)
        del kept
        value = report.peak_growth_bytes if relative else report.peak_bytes
        return {"samples": [value], "number": 1}

    benchmark.unit = "bytes"  # type: ignore[attr-defined]
    benchmark.rounds = rounds  # type: ignore[attr-defined]
    return benchmark  # type: ignore[return-value]
