"""Tasks of a parallel call whose estimators are stacking ensembles, taken apart.

scikit-learn makes one task for an ensemble on a fold. In a worker, its fits would run
one after the other, or in threads. Here all fits that depend on nothing but X become
tasks of their own, and what is left of the task waits for them::

    score(stack, fold 1) -->  wave 1   a on fold 1, a on fold 1 without a third, ...
    score(stack, fold 2)               b on fold 1, ...
    ...                       wave 2   score(prepared stack, fold 1), ...

Base estimators may be ensembles themselves: then their own fits come first. Waves of
one task overlap those of the next, so that workers have something to do at the end of
each. So many tasks are begun that this is so, and no more: what they have fitted is
kept.

The backend of this file only collects the tasks of a call. They run when joblib asks
for the first result, by calls of its own under the backend that was there before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from joblib import parallel_config
from joblib.parallel import FallbackToBackend, ParallelBackendBase
from scipy import sparse
from sklearn.base import is_classifier
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import column_or_1d, get_tags, indexable
from sklearn.utils.parallel import Parallel

from skl_mmap._compat import tasks_of
from skl_mmap.backend import Options, compact_item
from skl_mmap.estimators._fit_tasks import (
    FitTask,
    Item,
    find_hidden_stack,
    read_fit_task,
    train_set_of,
    with_train_set,
)
from skl_mmap.estimators._flat_list import (
    DROPPED,
    WEIGHTS,
    Done,
    Failed,
    FitData,
    Member,
    MemberFits,
    RefusalError,
    find_method,
    make_splits,
    try_fit_rows,
    try_predict_fold,
    with_arrays,
)
from skl_mmap.estimators._prepared import prepare
from skl_mmap.estimators._repeatable import key_of
from skl_mmap.estimators._rows import Rows
from skl_mmap.estimators._stacking import find_refusal, is_stacking
from skl_mmap.monitor import note

OWN_WAY = "scikit-learn has fitted an ensemble in its own way"
# Tasks that are ready before a wave begins, for each worker: enough that waiting for
# the last ones costs little.
_TASKS_PER_WORKER = 4
_FIT_TIME = "fit_time"


class WaveBackend(ParallelBackendBase):  # type: ignore[misc]
    """Collects the tasks of a call, and runs them in waves under another backend.

    Parameters
    ----------
    backend : MmapBackend
        Has the workers.
    options : Options
        Of this backend.
    """

    supports_inner_max_num_threads = True
    supports_timeout = True
    # Only checked by joblib before `configure` hands the call on.
    supports_return_generator = True

    def __init__(self, backend: Any, options: Options) -> None:
        super().__init__(nesting_level=backend.nesting_level)
        self._backend = backend
        self._options = options
        self._collected: list[_Collected] = []
        self._n_jobs = 1
        self.parallel: Any = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at the same time."""
        return int(self._backend.effective_n_jobs(n_jobs))

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, **parameters: Any
    ) -> int:
        """Begin a call, or leave it to the other backend."""
        n_jobs = self.effective_n_jobs(n_jobs)
        if n_jobs == 1 or parallel is None or parallel.return_generator:
            raise FallbackToBackend(self._backend)
        self._n_jobs = n_jobs
        self.parallel = parallel
        self._pre_dispatch = parallel.pre_dispatch
        # joblib asks for no result before it has all tasks.
        parallel.pre_dispatch = "all"
        return n_jobs

    def start_call(self) -> None:
        """Forget what an aborted call has left."""
        self._collected = []

    def submit(
        self,
        func: Any,
        callback: Callable[[Any], None] | None = None,
    ) -> Any:
        """Keep a batch of tasks."""
        collected = _Collected(tasks_of(func) or [])
        self._collected.append(collected)
        if callback is not None:
            callback(collected)  # joblib counts the tasks that it need not wait for
        return collected

    def retrieve_result(self, out: Any, timeout: float | None = None) -> Any:
        """Return the results of a batch; the first one runs all of them."""
        if out.results is None:
            collected, self._collected = self._collected, []
            items = [item for batch in collected for item in batch.items]
            results = iter(self._run(items, timeout))
            for batch in collected:
                batch.results = [next(results) for _ in batch.items]
                batch.items = []
        results, out.results = out.results, []
        return results

    def _run(self, items: list[Item], timeout: float | None) -> list[Any]:
        with parallel_config(self._backend, n_jobs=self._n_jobs):
            for name in {*map(find_hidden_stack, items)} - {""}:
                note(f"{OWN_WAY}: it is a part of a {name}, which one worker fits")
            options = {"verbose": self.parallel.verbose, "timeout": timeout}
            if not any(_has_stack(item) for item in items):
                return list(
                    Parallel(
                        pre_dispatch=self._pre_dispatch,
                        batch_size=self.parallel.batch_size,
                        **options,
                    )(items)
                )
            parallel = Parallel(batch_size=1, **options)
            n_enough = _TASKS_PER_WORKER * self._n_jobs
            return _Waves(parallel, self._options, n_enough).run(items)

    def terminate(self) -> None:
        """End a call."""
        if self.parallel is not None:
            self.parallel.pre_dispatch = self._pre_dispatch
            self.parallel = None


class _Collected:
    """A batch of tasks, and later their results."""

    def __init__(self, items: list[Item]) -> None:
        self.items = items
        self.results: list[Any] | None = None


def _has_stack(item: Item) -> bool:
    _, args, kwargs = item
    return is_stacking(kwargs.get("estimator", args[0] if args else None))


class _Step:
    """A task, and how many others it waits for."""

    def __init__(self, item: Item, finish: Callable[[Any], None]) -> None:
        self.item = item
        self.finish = finish
        self.n_awaited = 0
        self.task: FitTask | None = None
        self.fits: list[_SharedFits] = []

    def ready_item(self) -> Item:
        """Return the task as it can run now."""
        if self.task is None or any(fits.has_failed for fits in self.fits):
            return self.item  # as scikit-learn would do it, and raise
        members = [fits.member for fits in self.fits]
        stack = prepare(
            self.task.estimator,
            [member.fitted for member in members],
            [member.predictions for member in members],
        )
        return self.task.with_estimator(stack)

    def take(self, result: Any) -> None:
        """Take the result of the task."""
        # What its fits have taken one after the other, those that it shares included.
        seconds = sum(fits.seconds for fits in self.fits)
        if isinstance(result, Done):
            result = result._replace(seconds=result.seconds + seconds)
        elif isinstance(result, dict) and _FIT_TIME in result:
            result[_FIT_TIME] += seconds
        self.task, self.fits = None, []
        self.finish(result)


class _SharedFits:
    """The fits of a base estimator, and all steps that wait for them."""

    def __init__(self, member: MemberFits, n_tasks: int) -> None:
        self.member = member
        self.waiting: list[_Step] = []
        self.seconds = 0.0
        self.has_failed = False
        self._results: list[Any] = [None] * n_tasks
        self.n_awaited = n_tasks

    def take(self, place: int, result: Done | Failed) -> None:
        """Take the result of one of them."""
        self.n_awaited -= 1
        if isinstance(result, Failed):
            self.has_failed = True
        else:
            self._results[place] = result.result
            self.seconds += result.seconds
        if not self.n_awaited:
            fitted, *parts = self._results
            self._results = []
            if not self.has_failed:
                self.member.take(fitted, parts)


class _Waves:
    """Runs tasks in waves.

    Parameters
    ----------
    parallel : Parallel
        Runs the tasks of a wave.
    options : Options
        Those of the backend.
    n_enough : int
        So many tasks make a wave, if there are as many.
    """

    def __init__(self, parallel: Any, options: Options, n_enough: int) -> None:
        self._parallel = parallel
        self._placement = options.placement
        self._options = options
        self._n_enough = n_enough
        self._ready: list[_Step] = []
        self._known: dict[Any, _SharedFits] = {}
        self._targets: dict[Any, tuple[Any, int]] = {}
        self._refused: set[str] = set()

    def run(self, items: list[Item]) -> list[Any]:
        """Return the results of tasks."""
        results: list[Any] = [None] * len(items)
        waiting = self._steps(items, results)
        step: _Step | None = next(waiting, None)
        while step is not None or self._ready:
            while step is not None and len(self._ready) < self._n_enough:
                self._begin(step)
                step = next(waiting, None)
            wave, self._ready = self._ready, []
            done = self._parallel(with_arrays(one.ready_item()) for one in wave)
            for one, result in zip(wave, done, strict=True):
                one.take(result)
        return results

    def _steps(self, items: list[Item], results: list[Any]) -> Iterator[_Step]:
        """Yield the tasks, those on the same rows behind each other."""
        digests: dict[int, bytes] = {}
        for item in items:
            train = train_set_of(item)
            if id(train) not in digests:
                digests[id(train)] = b"" if train is None else Rows(train).digest
        order = sorted(
            range(len(items)), key=lambda place: digests[id(train_set_of(items[place]))]
        )
        before = None
        for place in order:
            digest = digests[id(train_set_of(items[place]))]
            if digest != before:
                self._known.clear()  # nothing on these rows is to come
                self._targets.clear()
                before = digest

            def finish(result: Any, place: int = place) -> None:
                results[place] = result

            yield _Step(items[place], finish)

    def _begin(self, step: _Step) -> None:
        """Put a task among those that are ready, or what it has to wait for."""
        if _has_stack(step.item):
            try:
                step.task, step.fits = self._take_apart(step)
            except RefusalError as error:
                self._note(str(error))
            except Exception as error:  # noqa: BLE001 - it comes up in the task as well
                self._note(f"{type(error).__name__}: {error}")
        step.n_awaited = sum(fits.n_awaited > 0 for fits in step.fits)
        if not step.n_awaited:
            self._ready.append(step)

    def _note(self, reason: str) -> None:
        if reason not in self._refused:
            self._refused.add(reason)
            note(f"{OWN_WAY}: {reason}")

    def _take_apart(self, step: _Step) -> tuple[FitTask | None, list[_SharedFits]]:
        """Return what a task fits, and the fits that it waits for."""
        step.item = self._in_order(step.item)
        task = read_fit_task(step.item)
        if task is None:
            return None, []
        y, n_classes = self._target(task)
        members = _members_of(task, y)
        rows, stack = task.rows, task.estimator
        X, selected = task.X, y if rows is None else rows.select(y)
        if rows is None:
            X, _ = indexable(X, y)
        # Splitters of scikit-learn count rows, and look at no more of X.
        counted = X if rows is None else np.empty((len(selected), 0))
        data = FitData(
            *(task.X, y, X, rows),
            fit_params=task.fit_params,
            n_classes=n_classes,
            splits=make_splits(stack, stack.cv, counted, selected),
        )
        fits = [self._share(member, data) for member in members]
        for shared in fits:
            if shared.n_awaited:
                shared.waiting.append(step)
        return task, fits

    def _in_order(self, item: Item) -> Item:
        """Return a task with its train set in the order in which it will run."""
        if self._options.row_order == "exact":
            return item
        item = with_arrays(item)
        ordered = train_set_of(compact_item(item, self._options))
        item = with_train_set(item, ordered)
        if type(ordered) is np.ndarray:
            again = train_set_of(compact_item(item, self._options))
            if not np.array_equal(ordered, again):
                raise RefusalError("its train set is put into another order")
        return item

    def _target(self, task: FitTask) -> tuple[Any, int]:
        """Return y with numbered classes, of which only the rows of a task count."""
        has_classes = is_classifier(task.estimator)
        digest = None if task.rows is None else task.rows.digest
        key = digest, id(task.y), has_classes
        if key not in self._targets:
            self._targets[key] = _encode(task.y, task.rows, has_classes)
        return self._targets[key]

    def _share(self, member: Member, data: FitData) -> _SharedFits:
        """Return the fits of a base estimator, which may have begun before."""
        what = key_of(member.estimator)
        rows = None if data.rows is None else data.rows.digest
        weights = data.fit_params.get(WEIGHTS)
        key = what, member.method, rows, data.splits.digest, id(data.y), id(weights)
        if what is not None and key in self._known:
            return self._known[key]
        fits = MemberFits(member, data, self._placement)
        shared = _SharedFits(fits, 1 + len(data.splits))
        if what is not None:
            self._known[key] = shared
        items = fits.fit_task(try_fit_rows), *fits.fold_tasks(try_predict_fold)
        for place, item in enumerate(items):

            def finish(result: Any, place: int = place) -> None:
                self._finish(shared, place, result)

            self._begin(_Step(item, finish))
        return shared

    def _finish(self, shared: _SharedFits, place: int, result: Done | Failed) -> None:
        shared.take(place, result)
        if shared.n_awaited:
            return
        for step in shared.waiting:
            step.n_awaited -= 1
            if not step.n_awaited:
                self._ready.append(step)
        shared.waiting = []


def _encode(y: Any, rows: Rows | None, has_classes: bool) -> tuple[Any, int]:
    """Return y as base estimators get it, and the number of its classes."""
    selected = column_or_1d(y if rows is None else rows.select(y))
    n_classes = 0
    if has_classes:
        encoder = LabelEncoder().fit(selected)
        selected, n_classes = encoder.transform(selected), len(encoder.classes_)
    if rows is None:
        return np.asarray(selected), n_classes
    # All other rows have a value that is there anyway: scikit-learn counts classes.
    target = np.full(len(y), selected[0])
    target[rows.index()] = selected
    return target, n_classes


def _members_of(task: FitTask, y: Any) -> list[Member]:
    """Return the base estimators of an ensemble, if it can be fitted in parts."""
    stack, rows = task.estimator, task.rows
    refusal = find_refusal(stack, y) or _find_refusal_of_rows(task)
    members = [
        Member(name, estimator, find_method(estimator, stack.stack_method) or "")
        for name, estimator in (() if refusal else stack.estimators)
        if estimator != DROPPED
    ]
    if not members or not all(member.method for member in members):
        refusal = refusal or "its estimators are not what it expects"
    if rows is not None and any(
        get_tags(member.estimator).input_tags.pairwise for member in members
    ):
        refusal = "X is a matrix of distances between rows"
    if refusal is not None:
        raise RefusalError(refusal)
    return members


def _find_refusal_of_rows(task: FitTask) -> str | None:
    """Say why rows of rows cannot be selected from X itself; None if they can."""
    if not task.fit_params.keys() <= {WEIGHTS}:
        return "its fit is given more than weights"
    if task.uses_train_set:
        # A model that keeps its train set may give other last bits for that very array
        # than for an equal one: BLAS has a function of its own for X @ X.T.
        return "train scores are computed with the array that it was fitted on"
    if task.rows is None:
        return None
    X, cv = task.X, task.estimator.cv
    if isinstance(cv, Iterator):
        return "its splits can be gone through once"
    if hasattr(cv, "split") and not type(cv).__module__.startswith("sklearn."):
        return f"{type(cv).__name__} may look at X to split it"
    is_array = isinstance(X, np.ndarray) and not isinstance(X, np.matrix)
    is_frame = hasattr(X, "iloc") and hasattr(X, "columns")
    if not (is_array and X.ndim == 2) and not (
        is_frame or (sparse.issparse(X) and X.format == "csr")
    ):
        return f"rows of rows of a {type(X).__name__} may be another object"
    weights = task.fit_params.get(WEIGHTS)
    if weights is not None and np.shape(weights) != (X.shape[0],):
        return "there is not one weight for each row"
    return None
