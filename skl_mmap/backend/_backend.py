"""The joblib backend "mmap"."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from joblib.parallel import AutoBatchingMixin, FallbackToBackend, ParallelBackendBase
from loky.process_executor import ShutdownExecutorError, TerminatedWorkerError

from skl_mmap import _compat
from skl_mmap.backend._calls import CallWatch
from skl_mmap.backend._in_process import SequentialBackend, count_jobs, nested_backend
from skl_mmap.backend._indices import compact_waiting
from skl_mmap.backend._layout_choice import LayoutChoice
from skl_mmap.backend._lost_tasks import TasksInFlight
from skl_mmap.backend._options import Options
from skl_mmap.backend._pool import get_executor, submit, why_spawned
from skl_mmap.backend._task import Task, unpack
from skl_mmap.memory import FilePool, InPlace, Store
from skl_mmap.monitor import is_measuring, note, publish


class MmapBackend(AutoBatchingMixin, ParallelBackendBase):  # type: ignore[misc]
    """Run tasks in processes that share their input and map their folds.

    Used through joblib, never by hand::

        with joblib.parallel_backend("mmap", n_jobs=4):
            cross_val_score(estimator, X, y, cv=5)

    Parameters
    ----------
    min_bytes : int, str or None, default="1M"
        Arrays of at least this size, anywhere in a task, are shared. So are columns,
        slices and other views of such an array, from 64 KiB on: what several tasks
        get of it is shared once. Smaller arrays of a frame or a CSR matrix of this
        size are shared together. None shares nothing. joblib's `max_nbytes` means
        the same.
    mmap_mode : {"c", "r"}, default="c"
        Copy-on-write: a task may write to its view of an array, and nobody else sees
        it; or read-only. Set "r" in ``parallel_backend`` or ``parallel_config``:
        in ``Parallel`` itself it is joblib's default, and cannot be told from it.
    row_order : {"exact", "any"}, default="exact"
        ``"exact"`` gives the same results as joblib's "loky", bit for bit. ``"any"``
        may reorder the rows within a train set, so that all but a few hundred of them
        are mapped and not copied.
    layouts : {"auto", "given"}, default="auto"
        ``"auto"`` hands estimators that would convert X to another dtype or order
        (trees want float32) rows of one shared converted copy. Results stay the same,
        bit for bit: it is done where a table says so. Arrays and frames, in tasks of
        scikit-learn; `skl_mmap.measure` says who gets what. ``"given"`` hands on X.
    store : {"auto", "memory", "disk"} or path-like, default="auto"
        Where shared arrays live: in memory (memfd), on disk in the temporary folder
        or the one given, or in memory while there is room.
    adopt : bool, default=False
        Share large arrays *in place*: their memory itself becomes shared, so that
        there is no second copy of X at any time. The arrays stay as they are, and
        writes to them stay private. No other thread may write to them while a call
        starts. What cannot be adopted is copied; `skl_mmap.measure` says why.
    idle_worker_timeout : float, default=300
        Seconds after which idle workers stop; infinity stands for 23 days.
    initializer : callable, optional
        Called in each worker when it starts, with `initargs`, as with "loky".
    initargs : tuple, default=()
        See `initializer`.
    workers : {"auto", "spawn"}, default="auto"
        ``"auto"`` forks workers from a server that has imported the libraries of this
        process once: each takes some 12 MB instead of 110, and starts in milliseconds.
        They see what new interpreters would see. Where forking is not known to be safe
        (on systems other than Linux, where a library starts threads when it is
        imported, under a debugger or coverage), and with ``"spawn"``, workers are new
        interpreters, as with "loky"; `skl_mmap.measure` says why.
    preload : list of str, default=()
        Modules that the server imports as well. Their import must start no thread and
        make no random state; what happens in it is the same for all workers. Packages
        such as pandas, LightGBM or XGBoost are known, and need not be named.
    inner_max_num_threads : int, optional
        Threads that BLAS and OpenMP may use in each worker.
    nesting_level : int, optional
        Set by joblib.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used.

    Notes
    -----
    Shared arrays are freed when the `with` block is left and nothing uses them any
    more. The workers belong to the loky package's pool, not to joblib's own.

    A task gets what its arguments hold when it is sent, also if they were changed since
    the task before. There is one exception, an array larger than 1 MiB that is the very
    same object: "loky" then sends what the first task of the call got. Here 66 pages of
    it are compared (0.3 ms): its two ends, and 64 at equal distances. A change that
    misses all of them, of a few rows say, is not seen until the next call; one that
    touches a 64th of the array in one piece always is. Pass a view made for each task,
    ``X[:]``, and all of it is compared. So are views that are smaller than `min_bytes`.
    """

    supports_retrieve_callback = True
    supports_inner_max_num_threads = True
    # Class of an estimator that uses the backend without the user's doing.
    owner = ""

    def __init__(
        self,
        nesting_level: int | None = None,
        inner_max_num_threads: int | None = None,
        **parameters: Any,
    ) -> None:
        self.options = Options.from_parameters(parameters)
        super().__init__(
            nesting_level=nesting_level, inner_max_num_threads=inner_max_num_threads
        )
        self._call_options = self.options
        self._in_place = InPlace()
        self._store: Store | None = None
        self._files: FilePool | None = None
        self._workers: Any = None
        self._n_workers = 1
        self.parallel: Any = None
        self._watch: CallWatch | None = None
        self._choice: LayoutChoice | None = None
        self._in_flight: TasksInFlight | None = None

    def effective_n_jobs(self, n_jobs: int | None) -> int:
        """Return how many tasks run at the same time; the rules of joblib's "loky"."""
        return count_jobs(self, n_jobs)

    def configure(
        self,
        n_jobs: int = 1,
        parallel: Any = None,
        **parameters: Any,
    ) -> int:
        """Get the workers ready, and return how many there are."""
        n_jobs = self.effective_n_jobs(n_jobs)
        self._call_options = self.options.for_call(
            parameters, _compat.explicit_mmap_mode()
        )
        if n_jobs == 1:
            raise FallbackToBackend(
                SequentialBackend(
                    self.options, self.nesting_level, self._in_place, self.owner
                )
            )
        self._n_workers = n_jobs
        env = _compat.worker_environment(self, n_jobs)
        self._workers = get_executor(n_jobs, self._call_options, env)
        self._configured_with = parameters
        self.parallel = parallel
        return n_jobs

    def get_nested_backend(self) -> tuple[Any, None]:
        """Return the backend of calls that are nested in tasks, as joblib would."""
        return nested_backend(self.nesting_level + 1, self._call_options), None

    def start_call(self) -> None:
        """Begin a call: whatever is shared already has to prove that it is current."""
        if is_measuring():
            for sentence in _compat.lost().values():
                note(sentence)
        options = self._call_options
        wanted = options.placement, options.settings, options.adopt
        store = self._store
        if (
            store is None
            or (store.placement, store.settings, store.can_adopt) != wanted
        ):
            placement, settings, can_adopt = wanted
            self._store = store = Store(placement, settings, can_adopt=can_adopt)
        store.next_call(self._n_workers)
        self._close_files()
        self._files = FilePool.for_call(options.min_bytes)
        self._watch = self._choice = None
        self._in_flight = TasksInFlight(self._n_workers)
        if options.layouts == "auto" and options.min_bytes is not None:
            self._choice = LayoutChoice(self._n_workers, options.min_bytes)
        if is_measuring() and self.parallel is not None:
            self._watch = CallWatch(
                self.parallel.n_jobs, options, self.inner_max_num_threads, self.owner
            )

    def stop_call(self) -> None:
        """End a call: tell who measures what its tasks had in common."""
        if self._store is not None:
            self._store.end_call()
        self._choice = None
        if self._watch is not None:
            publish(self._watch.record())
            self._watch = None
            if reason := why_spawned(self._call_options):
                note(f"Workers were spawned, and not forked, since {reason}.")
        self._close_files()

    def _close_files(self) -> None:
        """Let go of the files for results that no task has."""
        if self._files is not None:
            self._files.close()
            self._files = None

    def submit(self, func: Any, callback: Callable[[Any], None] | None = None) -> Any:
        """Send a batch of tasks to the workers."""
        if self._store is None:  # a late task of a call that was aborted
            self.start_call()
        options = self._call_options
        if self._choice is not None:
            self._choice.choose([func, *_compat.waiting_batches(self.parallel)])
        freed_bytes = compact_waiting(self.parallel, options)
        task = Task(func, self._store, options, freed_bytes, self._files)
        if self._watch is not None:  # index arrays are runs by now
            self._watch.see(task.batch)
        future = submit(self._workers, task)
        if callback is not None:
            future.add_done_callback(callback)
        assert self._in_flight is not None  # the call has begun
        self._in_flight.add(future, task.batch)
        # Not before joblib has read the result, which may refer to the segments.
        future.add_done_callback(task.release)
        return future

    def retrieve_result_callback(self, out: Any) -> Any:
        """Return the result of a batch, or raise its error."""
        try:
            outcome = out.result()
        except ShutdownExecutorError as error:
            raise RuntimeError(
                "The executor underlying Parallel has been shutdown, so tasks that "
                "were waiting for it have no result. Exhaust or close a generator that "
                "Parallel returned before it is garbage collected or Parallel is "
                "called again."
            ) from error
        except TerminatedWorkerError as error:
            assert self._in_flight is not None
            raise self._in_flight.explain(error) from error
        return unpack(outcome)

    def terminate(self) -> None:
        """End a call; the workers stay warm for the next one."""
        self._workers = None
        self._close_files()
        # Parallel refers to the backend: a cycle would keep what is shared alive
        # until the garbage collector finds it.
        self.parallel = None
        self.reset_batch_stats()

    def abort_everything(self, ensure_ready: bool = True) -> None:
        """Kill the workers, and start new ones if more calls are to come."""
        self._store = None
        self._close_files()
        self._workers.shutdown(kill_workers=True)
        self._workers = None
        if ensure_ready:
            self.configure(
                n_jobs=self.parallel.n_jobs,
                parallel=self.parallel,
                **self._configured_with,
            )
