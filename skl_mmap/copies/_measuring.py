"""Measure the methods of one job, in the process that is there for it."""

from __future__ import annotations

import math
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from skl_mmap._linux.calls import use_own_mappings
from skl_mmap._linux.proc import descriptor_path
from skl_mmap.copies import _calls
from skl_mmap.copies._blocks import MIN_BLOCK_BYTES
from skl_mmap.copies._calls import call, find_own_files, find_views, fits, list_arrays
from skl_mmap.copies._coefficients import Shape, divide, list_shapes
from skl_mmap.copies._detector import Detector, keep_to_one_processor
from skl_mmap.copies._fingerprint import take_fingerprint
from skl_mmap.copies._job import Answer, Job, Sample, Scouting
from skl_mmap.copies._layout import map_layout
from skl_mmap.copies._results import MethodCopies
from skl_mmap.copies._verdict import Run, is_certain, judge

__all__ = ["perform"]

Send = Callable[[Any], None]

# Of X: less is no copy, whatever it is made of, and smaller samples need not be tried.
_MIN_SHARE = 0.08
_MIN_SCOUTED_ROWS = 64
_MAX_POWER = 3.0


@dataclass(slots=True)
class Work:
    """Everything that the measurements of one job need."""

    job: Job
    sample: Sample
    table: npt.NDArray[Any]
    make_estimator: Callable[[], Any]
    send: Send
    runs: dict[str, dict[Shape, Run]] = field(default_factory=dict)
    own_files: frozenset[str] = frozenset()

    def take(self, shape: Shape) -> tuple[npt.NDArray[Any], Any]:
        """Return X and y of a smaller shape, evenly chosen; X in the job's layout."""
        n_rows = len(self.table)
        n, d = shape
        rows: Any = slice(None)
        y = self.sample.y
        if n < n_rows:
            rows = np.linspace(0, n_rows - 1, n).astype(np.intp)
            y = None if y is None else y[rows]
        return map_layout(self.table[rows, :d], self.job.layout), y


def perform(
    job: Job, sample: Sample, make_estimator: Callable[[], Any], send: Send
) -> None:
    """Do what a job asks for, in a process of its own.

    Parameters
    ----------
    job : Job
        What to measure.
    sample : Sample
        The data.
    make_estimator : callable
        Returns a new estimator each time.
    send : callable
        Takes a name before each method, and then its `Answer`; a `Scouting` if that is
        what was asked for.
    """
    warnings.simplefilter("ignore")
    keep_to_one_processor()
    use_own_mappings(MIN_BLOCK_BYTES)
    table = _map_sample(sample)
    work = Work(job, sample, table, make_estimator, send)
    # Threads instead of workers, whose memory would not be seen here.
    with joblib.parallel_config("threading"):
        if job.is_scouting:
            _scout(work)
        else:
            _measure(work)


def _map_sample(sample: Sample) -> npt.NDArray[Any]:
    order: Any = sample.layout.order
    path = descriptor_path(sample.fd)
    return np.memmap(path, sample.layout.dtype, "r", 0, sample.shape, order)


def _scout(work: Work) -> None:
    """Find out how many rows the time allows, from more and more of them."""
    wanted, n_columns = work.job.n_samples, work.table.shape[1]
    n = min(wanted, max(_MIN_SCOUTED_ROWS, wanted // 64))
    before: tuple[int, float] | None = None
    # The first call of a library takes longer.
    _run_all(work, (n, n_columns), is_measured=False)
    while True:
        # Of the processor: others that use the machine change nothing then.
        start = time.process_time()
        _run_all(work, (n, n_columns), is_measured=False)
        seconds = max(time.process_time() - start, 1e-4)
        power = 2.0
        if before is not None:
            power = math.log(seconds / before[1]) / math.log(n / before[0])
            power = min(max(power, 1.0), _MAX_POWER)
        factor = (work.job.seconds / seconds) ** (1 / power)
        found = Scouting(min(wanted, max(n, int(n * factor))), seconds)
        # One sample says nothing of the power yet, and most of its time is overhead.
        cost = 4.0 if before is None else 4.0**power
        if n * 4 >= wanted or seconds * cost > work.job.seconds:
            work.send(found)
            return
        # For the case that the next one takes too long.
        work.send(replace(found, n_samples=n))
        before = n, seconds
        n *= 4


def _measure(work: Work) -> None:
    shape = work.job.n_samples, work.table.shape[1]
    # What libraries allocate once, at their first call, is no part of any estimator,
    # and nor is what measuring needs.
    _run_all(work, (divide(shape[0]), shape[1]), is_measured=True)
    work.runs.clear()
    failed = _run_all(work, shape, is_measured=True)
    first, second = list_shapes(shape)
    if any(_is_large(runs[shape]) for runs in work.runs.values()):
        # Not all estimators take fewer rows or columns: then there is less to tell.
        for smaller in first:
            _run_all(work, smaller, is_measured=True)
        if not all(is_certain(work.job.layout, runs) for runs in work.runs.values()):
            for smaller in second:
                _run_all(work, smaller, is_measured=True)
    for method in work.job.methods:
        if method in failed:
            work.send(Answer(failed[method]))
        else:
            _answer(work, method)


def _is_large(run: Run) -> bool:
    """Whether a call needed so much that it matters what it was."""
    numbers = run.numbers
    needed = max(numbers.peak_bytes or 0, numbers.numpy_bytes or 0)
    return needed - run.output_bytes > _MIN_SHARE * run.input_bytes


def _run_all(work: Work, shape: Shape, *, is_measured: bool) -> dict[str, MethodCopies]:
    """Call the methods with data of some shape, and return those that failed."""
    failed: dict[str, MethodCopies] = {}
    fitted: Any = None
    for method in work.job.methods:
        failure = MethodCopies(method, work.job.layout)
        work.send(method)
        try:
            estimator = fitted
            if fits(method) or fitted is None:
                estimator = work.make_estimator()
                work.own_files = find_own_files(estimator)
                if not fits(method):
                    call(estimator, "fit", *work.take(shape))
            if method == "fit" or not fits(method):
                fitted = estimator
            if not hasattr(estimator, method):
                failed[method] = replace(failure, outcome="missing")
            elif is_measured:
                work.runs.setdefault(method, {})[shape] = _run(
                    work, estimator, method, shape
                )
            else:
                call(estimator, method, *work.take(shape))
        except Exception as error:  # noqa: BLE001 - it is the estimator's, and told
            message = f"{type(error).__name__}: {error}"
            failed[method] = replace(failure, outcome="error", message=message)
            if method == "fit":
                message = "fit failed"
                rest = work.job.methods[work.job.methods.index(method) + 1 :]
                for other in rest:
                    failed[other] = MethodCopies(
                        other, work.job.layout, "not run", message
                    )
                break
    return failed


def _run(work: Work, estimator: Any, method: str, shape: Shape) -> Run:
    """Measure one call."""
    X, y = work.take(shape)
    detector = Detector(X, _calls.__file__)
    with detector:
        result = call(estimator, method, X, y)
    run = Run(detector.numbers, X.nbytes)
    if result is not estimator:
        for array in list_arrays(result):
            if not np.may_share_memory(array, X):
                run.output_bytes += array.nbytes
                run.output_blocks += [b for b in [detector.find_block(array)] if b]
    if fits(method):
        run.keeps_view = find_views(estimator, X)
    if work.job.compares and shape[0] == work.job.n_samples:
        if fits(method):
            run.state = take_fingerprint(estimator)
        if result is not estimator:
            run.output = take_fingerprint(result)
    return run


def _answer(work: Work, method: str) -> None:
    """Send what is known of a method."""
    runs = work.runs[method]
    shape = max(runs)
    copies = judge(method, work.job.layout, runs, work.own_files)
    if work.job.deep_folder:
        frames = _look_deeply(work, method, shape)
        copies = replace(copies, native_frames=frames)
    work.send(Answer(copies, runs[shape].state, runs[shape].output))


def _look_deeply(work: Work, method: str, shape: Shape) -> tuple[str, ...]:
    """Call a method once more, with memray watching."""
    from skl_mmap.copies._native import watch_native

    estimator = work.make_estimator()
    if not fits(method):
        call(estimator, "fit", *work.take(shape))
    X, y = work.take(shape)
    path = os.path.join(work.job.deep_folder, f"{method}-{work.job.layout}.bin")
    return watch_native(
        lambda: call(estimator, method, X, y), path, least_bytes=X.nbytes // 5
    )
