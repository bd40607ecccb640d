"""Measure the methods of one job, in the process that is there for it."""

from __future__ import annotations

import contextlib
import inspect
import math
import mmap
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt

from skl_mmap._linux.calls import use_own_mappings
from skl_mmap._linux.proc import descriptor_path
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

# Of X: less is no copy, whatever it is made of, and smaller samples need not be tried.
_MIN_SHARE = 0.08
_MIN_SCOUTED_ROWS = 64
_MAX_POWER = 3.0
_FITTING = frozenset({"fit", "fit_predict", "fit_transform", "partial_fit"})
_WITH_TARGET = _FITTING | {"score"}
# Of all estimators, and therefore of none.
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
    detector = Detector(X, __file__)
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
    estimator = work.make_estimator()
    if not fits(method):
        call(estimator, "fit", *work.take(shape))
    X, y = work.take(shape)
    path = os.path.join(work.job.deep_folder, f"{method}-{work.job.layout}.bin")
    return watch_native(
        lambda: call(estimator, method, X, y), path, least_bytes=X.nbytes // 5
    )


def fits(method: str) -> bool:
    """Whether a method makes a fitted estimator of one that is not."""
    return method in _FITTING


def call(estimator: Any, method: str, X: npt.NDArray[Any], y: Any) -> Any:
    """Call a method of an estimator with data, and with y if it takes one."""
    function = getattr(estimator, method)
    if method not in _WITH_TARGET or y is None:
        return function(X)
    if method == "partial_fit" and "classes" in inspect.signature(function).parameters:
        return function(X, y, classes=np.unique(y))
    return function(X, y)


def find_own_files(estimator: Any) -> frozenset[str]:
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
    files = {_file_of(class_) for class_ in classes} - {""}
    return frozenset(file for file in files if not file.endswith(_BASES))


def _file_of(class_: type[Any]) -> str:
    try:
        return inspect.getfile(class_)
    except (TypeError, OSError):
        return ""


def list_arrays(value: Any) -> list[npt.NDArray[Any]]:
    """Return the arrays that a result is made of."""
    if isinstance(value, np.ndarray):
        return [value]
    if isinstance(value, tuple | list):
        return [array for item in value[:_MAX_ITEMS] for array in list_arrays(item)]
    parts = (getattr(value, name, None) for name in ("data", "indices", "indptr"))
    return [part for part in parts if isinstance(part, np.ndarray)]


def find_views(estimator: Any, X: npt.NDArray[Any]) -> tuple[str, ...]:
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

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The data.
    layout : Layout
        How the result lies in memory.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        A private mapping that begins on a page of its own; all pages are in memory, and
        none of them is private yet.
    """
    dtype = np.dtype(layout.dtype)
    n_bytes = X.size * dtype.itemsize
    fd = os.memfd_create("skl_mmap-copies", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, n_bytes)
        with mmap.mmap(fd, n_bytes) as filling:
            target: npt.NDArray[Any] = np.ndarray(
                X.shape, dtype, filling, order=_order(layout)
            )
            with np.errstate(over="ignore"):
                target[...] = X
            del target
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if layout.mode == "c" else 0)
        pages = mmap.mmap(fd, n_bytes, mmap.MAP_PRIVATE, protection)
    finally:
        os.close(fd)
    # Reading one byte of each page brings it into memory.
    np.frombuffer(pages, np.uint8)[:: mmap.PAGESIZE].max()
    return np.ndarray(X.shape, dtype, pages, order=_order(layout))


def _order(layout: Layout) -> Any:
    return layout.order


def check_memray() -> None:
    """Raise an error if memray is not there.

    Raises
    ------
    MeasurementError
        With what to install.
    """
    try:
        import memray  # noqa: F401
    except ImportError as error:
        raise MeasurementError(
            "deep=True looks at native code with memray, which is not installed. "
            "Run: pip install 'skl-mmap[deep]'"
        ) from error


def watch_native(
    function: Callable[[], Any], path: str, *, least_bytes: int
) -> tuple[str, ...]:
    """Call a function, and name what took memory that was there at its peak.

    Parameters
    ----------
    function : callable
        Without arguments.
    path : str
        A file that memray writes and that is removed.
    least_bytes : int
        Of one place, to be named.

    Returns
    -------
    tuple of str
        Size and functions from the inside out, the largest first.
    """
    import memray

    destination = memray.FileDestination(path, overwrite=True)
    try:
        with memray.Tracker(destination=destination, native_traces=True):
            function()
        with memray.FileReader(path) as reader:
            records = [
                (record.size, _name_frames(record))
                for record in reader.get_high_watermark_allocation_records(
                    merge_threads=True
                )
                if record.size >= least_bytes
            ]
    finally:
        with contextlib.suppress(FileNotFoundError):
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
