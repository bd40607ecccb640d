"""Calls that stay in one process: with one job, and nested ones, which run in threads.

::

    MmapBackend.configure, n_jobs=1        in a worker: a Parallel of the task
        |                                      |
        v                                      v
    SequentialBackend   <--- n_jobs=1 ---  ThreadingBackend
        |                                      |
        '-------> Call.prepare(task) <---------'
                    X, in a file, shared or adopted --> InPlaceArray, the same memory
                    train, cv                       --> in the order asked for

joblib runs the tasks, as ever. Nothing of X is copied for them, so that arrays of which
nothing can be mapped are left alone, and so are layouts: one task at a time converts no
more than its own fold, which is less than a converted X. With several threads it is no
different, since estimators that convert X seldom run in nested calls.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import joblib.parallel
import numpy as np
from joblib.parallel import FallbackToBackend, mp

from skl_mmap import _compat
from skl_mmap.backend._any_order import in_any_order
from skl_mmap.backend._calls import CallWatch
from skl_mmap.backend._observation import Observation
from skl_mmap.backend._options import Options
from skl_mmap.backend._row_index import known_runs
from skl_mmap.backend._semaphore import has_eventfd
from skl_mmap.memory import (
    ClosedAtExit,
    InPlace,
    InPlaceArray,
    SharedArray,
    index_of_runs,
)
from skl_mmap.monitor import is_measuring, note, publish, wants_copy_sites

_ARRAY_TYPES = frozenset({np.ndarray, np.memmap})
# These select rows by mapping them already.
_SHARED_TYPES = (SharedArray, ClosedAtExit)
# Counters belong to the process, so that one task at a time can be observed. Those of
# nested calls are a part of it.
_observed = threading.Lock()
# Results are looked through so deep, and no lists that are longer.
_MOST_LEVELS = 4
_MOST_ITEMS = 50


class Call:
    """One parallel call, whose tasks run in this process, until it is ended.

    Parameters
    ----------
    options : Options
        Those of the call.
    in_place : InPlace
        What rows can be selected from.
    owner : str
        Class of the estimator that uses the backend without the user's doing.
    """

    def __init__(self, options: Options, in_place: InPlace, owner: str = "") -> None:
        self.in_place = in_place
        self._options = options
        self._owner = owner
        self._watch: CallWatch | None = None
        self._is_nested = in_place.is_in_use
        in_place.begin_call()
        self._is_open = True

    def end(self) -> None:
        """End the call, once; after an error, a traceback may hold it for long."""
        if not self._is_open:
            return
        self._is_open = False
        if self._watch is not None:
            publish(self._watch.record())
        self.in_place.end_call()

    def prepare(self, item: Any) -> Any:
        """Return what joblib should run instead of a task (function, args, kwargs)."""
        function, args, kwargs = item
        is_any = self._options.row_order == "any"
        views = self._view_arrays((*args, *kwargs.values()))
        # Of what else it is given, a task copies rows as ever, and counts nothing.
        selects = views or (
            (is_any or is_measuring())
            and any(isinstance(v, _SHARED_TYPES) for v in (*args, *kwargs.values()))
        )
        if not selects:
            return item
        if is_any:
            args, kwargs = in_any_order(function, args, kwargs)
            args = tuple(map(_as_index, args))
            kwargs = {name: _as_index(value) for name, value in kwargs.items()}
        task = _Task(function, item, self, {id(v): a for a, v in views.values()})

        def replaced(value: Any) -> Any:
            return views[id(value)][1] if id(value) in views else value

        return (
            task,
            tuple(map(replaced, args)),
            {name: replaced(value) for name, value in kwargs.items()},
        )

    def _view_arrays(self, values: tuple[Any, ...]) -> dict[int, tuple[Any, Any]]:
        """Return the arrays that can be replaced, by id, and what they become."""
        options, views = self._options, {}
        if options.min_bytes is None:
            return {}
        for value in values:
            if type(value) in _ARRAY_TYPES and value.nbytes >= options.min_bytes:
                view = self.in_place.view(
                    value,
                    options.placement,
                    options.settings,
                    can_adopt=options.adopt and not _may_be_index(value),
                )
                if view is not None:
                    views[id(value)] = value, view
                elif value.ndim > 1 and self._is_told() and not options.adopt:
                    note(
                        f"an array of shape {value.shape} and dtype {value.dtype} was "
                        "given to tasks of this process as it is, so that rows are "
                        "copied: it is neither in shared memory nor in a file opened "
                        "with mmap_mode='r'; adopt=True would share it in place"
                    )
        return views

    def _is_told(self) -> bool:
        return is_measuring() and not self._is_nested

    def watch(self, task: _Task) -> None:
        """Take down what the report of the call needs to know of a task."""
        if self._watch is None:
            self._watch = CallWatch(1, self._options, None, self._owner)
        self._watch.see(task)


def _may_be_index(array: Any) -> bool:
    return bool(array.ndim == 1 and array.dtype == np.intp)


def _as_index(value: Any) -> Any:
    runs = known_runs(value)
    return value if runs is None else index_of_runs(runs)


class _Task:
    """A task among others, which it is called instead of.

    Attributes
    ----------
    items : list
        What the user has asked for, alone: it is looked at like a batch.
    """

    def __init__(
        self, function: Callable[..., Any], item: Any, call: Call, given: dict[int, Any]
    ) -> None:
        self.items = [item]
        self._function = function
        self._call = call
        # The arrays that were replaced, by the id of what has replaced them.
        self._given = given

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        try:
            with self._observing(), self._call.in_place.running():
                result = self._function(*args, **kwargs)
        except BaseException:
            self._call.end()
            raise
        return _as_given(result, self._given) if self._given else result

    @contextlib.contextmanager
    def _observing(self) -> Iterator[None]:
        """Tell whoever measures what the task costs, unless it is a part of another."""
        if not is_measuring() or not _observed.acquire(blocking=False):
            yield
            return
        observation = Observation(names_sites=wants_copy_sites())
        try:
            with observation.running():
                observation.see(self)
                self._call.watch(self)
                yield
        finally:
            publish(observation.record())
            _observed.release()


def _as_given(result: Any, given: dict[int, Any], level: int = 0) -> Any:
    """Return a result with the caller's own arrays in it, and plain ones."""
    kind = type(result)
    if kind is InPlaceArray:
        return given.get(id(result), result.view(np.ndarray))
    if level == _MOST_LEVELS or kind not in (tuple, list, dict):
        return result
    if len(result) > _MOST_ITEMS:
        return result
    if kind is tuple:
        items = tuple(_as_given(item, given, level + 1) for item in result)
        is_same = all(map(lambda a, b: a is b, items, result))
        return result if is_same else items
    for key, item in list(result.items() if kind is dict else enumerate(result)):
        plain = _as_given(item, given, level + 1)
        if plain is not item:
            result[key] = plain
    return result


class SequentialBackend(joblib.parallel.SequentialBackend):  # type: ignore[misc]
    """Runs one task after the other, as joblib's own, with folds that are mapped."""

    def __init__(
        self,
        options: Options,
        nesting_level: int | None = None,
        in_place: InPlace | None = None,
        owner: str = "",
    ) -> None:
        super().__init__(nesting_level=nesting_level)
        self._options = self._call_options = options
        self._in_place = in_place or InPlace()
        self._owner = owner

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, **parameters: Any
    ) -> int:
        """Get ready for calls of an object that runs tasks."""
        if is_measuring() and not self._in_place.is_in_use:
            for sentence in _compat.lost().values():
                note(sentence)
        # Not kept: it refers to this backend.
        self._call_options = _options_for(self._options, parameters)
        if parallel is not None:
            _compat.change_tasks(parallel, self._prepare_all)
        return int(self.effective_n_jobs(n_jobs))

    def _prepare_all(self, tasks: Iterable[Any]) -> Iterator[Any]:
        call = Call(self._call_options, self._in_place, self._owner)
        try:
            for task in tasks:
                yield call.prepare(task)
        finally:
            call.end()

    def __reduce__(self) -> Any:
        return _reduce(self)


class ThreadingBackend(joblib.parallel.ThreadingBackend):  # type: ignore[misc]
    """Runs tasks in threads, as joblib's own, with folds that are mapped."""

    def __init__(self, options: Options, nesting_level: int | None = None) -> None:
        super().__init__(nesting_level=nesting_level)
        self._options = self._call_options = options
        self._call: Call | None = None
        self._in_place = InPlace()

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, **parameters: Any
    ) -> int:
        """Make the threads."""
        self._call_options = _options_for(self._options, parameters)
        try:
            return int(super().configure(n_jobs, parallel, **parameters))
        except FallbackToBackend:
            backend = SequentialBackend(
                self._options, self.nesting_level, self._in_place
            )
            raise FallbackToBackend(backend) from None

    def start_call(self) -> None:
        """Begin a call."""
        super().start_call()
        self._call = Call(self._call_options, self._in_place)

    def stop_call(self) -> None:
        """End a call."""
        call, self._call = self._call, None
        if call is not None:
            call.end()
        super().stop_call()

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """Hand a batch of tasks to a thread."""
        tasks, call = _compat.tasks_of(func), self._call
        if tasks is not None and call is not None:
            func = _compat.with_tasks(func, list(map(call.prepare, tasks)))
        return super().submit(func, callback)

    def get_nested_backend(self) -> tuple[Any, None]:
        """Return the backend of calls that are nested in the tasks."""
        return nested_backend(self.nesting_level + 1, self._options), None

    def __reduce__(self) -> Any:
        return _reduce(self)


def nested_backend(nesting_level: int, options: Options) -> Any:
    """Return the backend of calls that are nested so deep, as joblib: threads once."""
    kind = ThreadingBackend if nesting_level < 2 else SequentialBackend
    return kind(options, nesting_level)


def _reduce(backend: Any) -> Any:
    """Pickle a nested backend: it goes with each batch, so that few bytes matter."""
    options = backend._options
    values = options.min_bytes, options.mmap_mode, options.row_order
    return _rebuild, (backend.nesting_level, *(() if values == _DEFAULTS else values))


def _rebuild(nesting_level: int, *values: Any) -> Any:
    # What tasks make is not worth adopting.
    min_bytes, mmap_mode, row_order = values or _DEFAULTS
    options = Options(min_bytes=min_bytes, mmap_mode=mmap_mode, row_order=row_order)
    return nested_backend(nesting_level, options)


_DEFAULTS = (Options().min_bytes, Options().mmap_mode, Options().row_order)


def _options_for(options: Options, parameters: dict[str, Any]) -> Options:
    return options.for_call(parameters, _compat.explicit_mmap_mode())


def count_jobs(backend: Any, n_jobs: int | None) -> int:
    """Return how many tasks run at the same time; the rules of joblib's "loky"."""
    if n_jobs == 0:
        raise ValueError("n_jobs == 0 in Parallel has no meaning")
    # joblib has no use for processes without named semaphores, which need /dev/shm.
    has_processes = mp is not None or has_eventfd()
    if not has_processes or n_jobs is None or n_jobs == 1:
        return 1
    if multiprocessing.current_process().daemon:
        _warn_sequential("run in a daemon process, which may not have children")
        return 1
    if not (backend.in_main_thread() or backend.nesting_level == 0):
        _warn_sequential("be nested below threads")
        return 1
    if n_jobs < 0:
        return max(_compat.cpu_count() + 1 + n_jobs, 1)
    return n_jobs


def _warn_sequential(what: str) -> None:
    warnings.warn(
        f"mmap-backed parallel loops cannot {what}, setting n_jobs=1",
        stacklevel=5,
    )
