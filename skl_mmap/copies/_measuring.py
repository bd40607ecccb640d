"""Measure the methods of one job, in the process that is there for it."""

from __future__ import annotations

import inspect
import math
import mmap
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, cast

import joblib
import numpy as np
import numpy.typing as npt

from skl_mmap._linux.calls import use_own_mappings
from skl_mmap._linux.proc import descriptor_path
from skl_mmap._scratch import open_scratch_file
from skl_mmap.copies._detector import (
    MIN_BLOCK_BYTES,
    Detector,
    keep_to_one_processor,
)
from skl_mmap.copies._job import Answer, Job, Sample, Scouting, take_fingerprint
from skl_mmap.copies._results import Layout, MethodCopies
from skl_mmap.copies._verdict import (
    Run,
    Shape,
    divide,
    is_certain,
    judge,
    list_shapes,
)
from skl_mmap.exceptions import MeasurementError

Send = Callable[[Any], None]

# Fraction of X below which nothing is a copy, so that smaller samples are not needed.
_MIN_SHARE = 0.08
_MIN_SCOUTED_ROWS = 64
_MAX_POWER = 3.0
_FITTING = frozenset({"fit", "fit_predict", "fit_transform", "partial_fit"})
_WITH_TARGET = _FITTING | {"score"}
# Code that all estimators share does not tell which of them is running.
_BASES = (
    os.path.join("sklearn", "base.py"),
    os.path.join("sklearn", "utils", "_metadata_requests.py"),
    os.path.join("sklearn", "utils", "_set_output.py"),
    os.path.join("sklearn", "utils", "metaestimators.py"),
)
_MAX_DEPTH = 6
_MAX_ITEMS = 200
_MAX_VIEWS = 8
_POSITION = re.compile(r"\[\d+\]")
_MAX_FRAMES = 6
_ALLOCATORS = ("malloc", "calloc", "realloc", "mmap", "operator new", "aligned_alloc")


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

    def make_fitted(self, method: str, shape: Shape) -> Any:
        """Make an estimator, fitted with data of some shape if a method needs that."""
        estimator = self.make_estimator()
        self.own_files = _find_own_files(estimator)
        if method not in _FITTING:
            _call(estimator, "fit", *self.take(shape))
        return estimator


def perform(
    job: Job, sample: Sample, make_estimator: Callable[[], Any], send: Send
) -> None:
    """Do what a job asks for, in a process of its own.

    `make_estimator` returns a new one each time. `send` takes a method's name before it
    is called, and its `Answer` in the end; a `Scouting` if that is what was asked for.
    """
    warnings.simplefilter("ignore")
    keep_to_one_processor()
    use_own_mappings(MIN_BLOCK_BYTES)
    order: Any = sample.layout.order
    path = descriptor_path(sample.fd)
    table = np.memmap(path, sample.layout.dtype, "r", 0, sample.shape, order)
    work = Work(job, sample, table, make_estimator, send)
    # Threads instead of workers, whose memory would not be seen here.
    with joblib.parallel_config("threading"):
        if job.is_scouting:
            _scout(work)
        else:
            _measure(work)


def _scout(work: Work) -> None:
    """Find out how many rows the time allows, from more and more of them."""
    wanted, n_columns = work.job.n_samples, work.table.shape[1]
    n = min(wanted, max(_MIN_SCOUTED_ROWS, wanted // 64))
    before: tuple[int, float] | None = None
    # The first call of a library takes longer.
    _run_all(work, (n, n_columns), is_measured=False)
    while True:
        # Time of the processor does not grow when others use the machine.
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
    # What libraries allocate once, at their first call, does not count; nor does what
    # measuring needs.
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
    """Return whether a call needed so much that it matters what it was."""
    numbers = run.numbers
    needed = max(numbers.peak_bytes or 0, numbers.numpy_bytes or 0)
    return needed - run.output_bytes > _MIN_SHARE * run.input_bytes


def _run_all(work: Work, shape: Shape, *, is_measured: bool) -> dict[str, MethodCopies]:
    """Call the methods with data of some shape, and return those that failed."""
    layout = work.job.layout
    failed: dict[str, MethodCopies] = {}
    fitted: Any = None
    for method in work.job.methods:
        if "fit" in failed:
            failed[method] = MethodCopies(method, layout, "not run", "fit failed")
            continue
        work.send(method)
        try:
            estimator = fitted
            if method in _FITTING or fitted is None:
                estimator = work.make_fitted(method, shape)
            if method == "fit" or method not in _FITTING:
                fitted = estimator
            if not hasattr(estimator, method):
                failed[method] = MethodCopies(method, layout, "missing")
            elif is_measured:
                run = _run(work, estimator, method, shape)
                work.runs.setdefault(method, {})[shape] = run
            else:
                _call(estimator, method, *work.take(shape))
        except Exception as error:  # noqa: BLE001 - it is the estimator's, and told
            message = f"{type(error).__name__}: {error}"
            failed[method] = MethodCopies(method, layout, "error", message)
    return failed


def _run(work: Work, estimator: Any, method: str, shape: Shape) -> Run:
    """Measure one call."""
    X, y = work.take(shape)
    detector = Detector(X, __file__)
    with detector:
        result = _call(estimator, method, X, y)
    run = Run(detector.numbers, X.nbytes)
    if result is not estimator:
        for array in _list_arrays(result):
            if not np.may_share_memory(array, X):
                run.output_bytes += array.nbytes
                run.output_blocks += [b for b in [detector.find_block(array)] if b]
    if method in _FITTING:
        run.keeps_view = _find_views(estimator, X)
    if work.job.compares and shape[0] == work.job.n_samples:
        if method in _FITTING:
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
        frames = _watch_native(work, method, shape)
        copies = replace(copies, native_frames=frames)
    work.send(Answer(copies, runs[shape].state, runs[shape].output))


def _call(estimator: Any, method: str, X: npt.NDArray[Any], y: Any) -> Any:
    """Call a method of an estimator with data, and with y if it takes one."""
    function = getattr(estimator, method)
    if method not in _WITH_TARGET or y is None:
        return function(X)
    if method == "partial_fit" and "classes" in inspect.signature(function).parameters:
        return function(X, y, classes=np.unique(y))
    return function(X, y)


def _find_own_files(estimator: Any) -> frozenset[str]:
    """Return the files of the classes that an estimator and its parts are made of."""
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += estimator.get_params(deep=True).values()
    classes = {
        class_
        for part in parts
        if hasattr(part, "fit") and not isinstance(part, type)
        for class_ in type(part).__mro__
    }
    modules = (sys.modules.get(class_.__module__) for class_ in classes)
    files = {getattr(module, "__file__", None) or "" for module in modules} - {""}
    return frozenset(file for file in files if not file.endswith(_BASES))


def _list_arrays(value: Any) -> list[npt.NDArray[Any]]:
    """Return the arrays that a result is made of."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple | list):
        return [array for item in value[:_MAX_ITEMS] for array in _list_arrays(item)]
    parts = (getattr(value, name, None) for name in ("data", "indices", "indptr"))
    return [part for part in parts if isinstance(part, np.ndarray)]


def _find_views(estimator: Any, X: npt.NDArray[Any]) -> tuple[str, ...]:
    """Name the attributes of an estimator that share memory with X."""
    start = int(X.__array_interface__["data"][0])
    found = [
        path
        for path, array in _walk(estimator, "", 0, set())
        if start <= int(array.__array_interface__["data"][0]) < start + X.nbytes
    ]
    if len(found) > _MAX_VIEWS:
        # Those of every leaf of a tree, for example: once for all leaves.
        found = [_POSITION.sub("[...]", path) for path in found]
    return tuple(dict.fromkeys(found))


def _walk(
    value: Any, path: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, npt.NDArray[Any]]]:
    """Yield all arrays that can be reached, with the attributes that lead there."""
    if isinstance(value, np.ndarray):
        if value.size:
            yield path, value
        return
    if depth > _MAX_DEPTH or id(value) in seen or isinstance(value, str | bytes | type):
        return
    seen.add(id(value))
    items: Any = ()
    if isinstance(value, dict):
        items = ((f"{path}[{key!r}]", item) for key, item in value.items())
    elif isinstance(value, tuple | list):
        items = ((f"{path}[{i}]", item) for i, item in enumerate(value[:_MAX_ITEMS]))
    elif hasattr(value, "__dict__") and not callable(value):
        items = ((f"{path}.{name}".lstrip("."), v) for name, v in vars(value).items())
    elif type(value).__module__.startswith("sklearn."):
        # Trees of neighbours, written in C, show what they were made from.
        data = getattr(value, "data", None)
        if isinstance(data, np.ndarray | memoryview):
            items = [(f"{path}.data", np.asarray(data))]
    for name, item in items:
        yield from _walk(item, name, depth + 1, seen)


def map_layout(X: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Copy an array to a file in memory, and map that in some layout.

    It is a private mapping that begins on a page of its own; all pages are in memory,
    and none of them is private yet.
    """
    dtype, order = np.dtype(layout.dtype), cast(Any, layout.order)
    n_bytes = X.size * dtype.itemsize
    fd = open_scratch_file("skl_mmap-copies")
    try:
        os.ftruncate(fd, n_bytes)
        with mmap.mmap(fd, n_bytes) as filling:
            target: npt.NDArray[Any] = np.ndarray(X.shape, dtype, filling, order=order)
            with np.errstate(over="ignore"):
                target[...] = X
            del target
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if layout.mode == "c" else 0)
        pages = mmap.mmap(fd, n_bytes, mmap.MAP_PRIVATE, protection)
    finally:
        os.close(fd)
    # Reading one byte of each page brings it into memory.
    np.frombuffer(pages, np.uint8)[:: mmap.PAGESIZE].max()
    return np.ndarray(X.shape, dtype, pages, order=order)


def check_memray() -> None:
    """Raise an error that says what to install, if memray is not there."""
    try:
        import memray  # noqa: F401
    except ImportError as error:
        raise MeasurementError(
            "deep=True looks at native code with memray, which is not installed. "
            "Run: pip install 'skl-mmap[deep]'"
        ) from error


def _watch_native(work: Work, method: str, shape: Shape) -> tuple[str, ...]:
    """Call a method once more, and name what took memory that was there at its peak.

    Returns sizes and functions of native code from the inside out, the largest first.
    """
    import memray

    estimator = work.make_fitted(method, shape)
    X, y = work.take(shape)
    path = os.path.join(work.job.deep_folder, f"{method}-{work.job.layout}.bin")
    destination = memray.FileDestination(path, overwrite=True)
    with memray.Tracker(destination=destination, native_traces=True):
        _call(estimator, method, X, y)
    with memray.FileReader(path) as reader:
        records = [
            (record.size, _name_frames(record))
            for record in reader.get_high_watermark_allocation_records(
                merge_threads=True
            )
            if record.size >= X.nbytes // 5
        ]
    os.unlink(path)
    records.sort(reverse=True)
    return tuple(f"{size / 2**20:.1f} MiB in {names}" for size, names in records)


def _name_frames(record: Any) -> str:
    names = [
        function
        for function, _, _ in record.hybrid_stack_trace()
        if not function.startswith(_ALLOCATORS)
    ]
    return " < ".join(names[:_MAX_FRAMES])
