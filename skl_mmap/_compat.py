"""Private names of other libraries, each behind one function that can do without it.

Each name belongs to a *feature*. Where a new version of a library has renamed, removed
or reshaped what a feature needs, the function for it returns None (or something else
that is harmless), the feature is off, and all the rest works: results stay the same.
`lost` says which features are off in this process, and every report has its sentences.

The libraries are imported when they are needed, joblib excepted, which ``skl_mmap``
imports anyway.
"""

from __future__ import annotations

import atexit
import contextlib
import copy
import functools
import importlib
import inspect
import io
import itertools
import multiprocessing.context
import multiprocessing.process
import os
import pickle
import struct
import subprocess
import sys
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import joblib.parallel


class _Feature(NamedTuple):
    """Something that needs a private name.

    Attributes
    ----------
    library : str
        Nothing is lost before this is imported. Empty for what needs none.
    is_there : callable
        Tries what is needed, and returns or raises something else than True where it
        does not work.
    loss : str
        What is different without it.
    """

    library: str
    is_there: Callable[[], bool]
    loss: str


_features: dict[str, _Feature] = {}


def _needs(
    library: str, name: str, loss: str
) -> Callable[[Callable[[], bool]], Callable[[], bool]]:
    """Register a feature; the function below tries whether it works."""

    def register(is_there: Callable[[], bool]) -> Callable[[], bool]:
        _features[name] = _Feature(library, is_there, loss)
        return is_there

    return register


def lost() -> dict[str, str]:
    """Return what is off in this process, because a library is not as it was.

    Returns
    -------
    dict of str to str
        For each feature a sentence that says what is different. Libraries that are not
        imported yet are not looked at.

    Notes
    -----
    About 1 ms: everything is tried.
    """
    return {
        name: _explain(feature)
        for name, feature in _features.items()
        if not feature.library or feature.library in sys.modules
        if not _works(feature.is_there)
    }


def _works(is_there: Callable[[], bool]) -> bool:
    try:
        return is_there() is True
    except Exception:  # noqa: BLE001 - what is not known may raise anything
        return False


def _explain(feature: _Feature) -> str:
    if not feature.library:
        return f"{feature.loss}."
    name = feature.library.partition(".")[0]
    if name in sys.stdlib_module_names:
        version = f"Python {sys.version_info.major}.{sys.version_info.minor}"
    else:
        known = {"sklearn": "scikit-learn", "numpy": "NumPy", "scipy": "SciPy"}
        number = getattr(sys.modules.get(name), "__version__", "?")
        version = f"{known.get(name, name)} {number}"
    return f"{version} is not known well enough: {feature.loss}."


def _find(module: str, name: str) -> Any:
    """Return something from a module; None where one of them is missing."""
    try:
        return getattr(importlib.import_module(module), name, None)
    except ImportError:
        return None


def _has_arguments(function: Any, names: tuple[str, ...]) -> bool:
    """Return whether the first arguments of a function have these names."""
    if function is None:
        return False
    parameters = inspect.signature(inspect.unwrap(function)).parameters
    return tuple(itertools.islice(parameters, len(names))) == names


# ------------------------------------------------------------------- joblib


def explicit_mmap_mode() -> str | None:
    """Return the `mmap_mode` set in ``parallel_config``, None if it is the default.

    ``Parallel`` passes "r" to every backend unless the user says otherwise, and "r"
    is a choice of the user for the backend "mmap", whose own default is "c". Only the
    configuration itself tells the one from the other (joblib 1.3 to 1.6).
    """
    default = getattr(joblib.parallel, "default_parallel_config", None)
    local = getattr(joblib.parallel, "_backend", None)
    config = getattr(local, "config", default)
    if not isinstance(default, dict) or not isinstance(config, dict):
        return None
    mode = config.get("mmap_mode")
    return None if mode is default.get("mmap_mode") else mode


@_needs(
    "joblib",
    "mmap_mode",
    "mmap_mode='r' of parallel_config is taken for joblib's default, so that tasks may "
    "write to their own view of an array; mmap_mode given to the backend works",
)
def _has_config() -> bool:
    with joblib.parallel_config(mmap_mode="w+"):
        return explicit_mmap_mode() == "w+"


def hash_as_plain(kind: type, make_plain: Callable[[Any], Any]) -> None:
    """Let ``joblib.hash`` see objects of a class as what they are without it.

    It adds their class to their bytes. A ``joblib.Memory``, and so a pipeline with
    ``memory=``, would compute for a shared array what it knows of the same array.

    Parameters
    ----------
    kind : type
        The class.
    make_plain : callable
        Takes an object of the class, and returns what it is taken for.
    """
    hasher = _find("joblib.hashing", "NumpyHasher")
    save = getattr(hasher, "save", None)
    if save is None:
        return

    @functools.wraps(save)
    def save_plain(self: Any, obj: Any) -> None:
        if isinstance(obj, kind):
            # Twice the same object is hashed as a reference to the first.
            known = vars(self).setdefault("_plain", {})
            _, obj = known.setdefault(id(obj), (obj, make_plain(obj)))
        save(self, obj)

    hasher.save = save_plain


@_needs(
    "joblib",
    "hashes",
    "joblib.Memory does not know shared arrays for those that they were made from, and "
    "computes its results again",
)
def _has_hasher() -> bool:
    hasher = _find("joblib.hashing", "NumpyHasher")
    return _has_arguments(getattr(hasher, "save", None), ("self", "obj"))


def tasks_of(batch: Any) -> list[Any] | None:
    """Return the tasks of a batch, (function, args, kwargs) each; None if unknown.

    Parameters
    ----------
    batch : callable
        joblib's ``BatchedCalls``. Of anything else nothing is known.
    """
    items = getattr(batch, "items", None)
    return items if isinstance(items, list) else None


def with_tasks(batch: Any, tasks: list[Any]) -> Any:
    """Return a batch like another one, of which `tasks_of` knows the tasks."""
    changed = copy.copy(batch)
    set_tasks(changed, tasks)
    return changed


def set_tasks(batch: Any, tasks: list[Any]) -> None:
    """Give a batch other tasks."""
    batch.items = tasks


@_needs(
    "joblib",
    "batches",
    "the tasks of a batch cannot be seen, so that rows keep their order, layouts stay "
    "as given, index arrays are sent whole, and reports do not name the tasks",
)
def _has_batches() -> bool:
    sequential = joblib.parallel.SequentialBackend(), 1
    batch = joblib.parallel.BatchedCalls([(len, ((),), {})], sequential)
    other: list[Any] = [(len, ("ab",), {})]
    return tasks_of(batch) == [(len, ((),), {})] and with_tasks(batch, other)() == [2]


def can_see_tasks() -> bool:
    """Return whether `tasks_of` knows the batches of joblib."""
    return _works(_has_batches)


def waiting_batches(parallel: Any) -> list[Any]:
    """Return the batches that joblib has ready, and has not sent yet."""
    ready = getattr(parallel, "_ready_batches", None)
    return list(getattr(ready, "queue", ()))


@_needs(
    "joblib",
    "waiting batches",
    "batches that wait cannot be seen, so that all of their index arrays stay in "
    "memory while data is being shared",
)
def _has_waiting_batches() -> bool:
    parallel = joblib.Parallel(n_jobs=2, backend="threading")
    parallel._ready_batches.put("a batch")
    return waiting_batches(parallel) == ["a batch"]


def change_tasks(parallel: Any, change: Callable[[Any], Any]) -> None:
    """Let calls with one job run other tasks than they are given.

    joblib runs them by itself, and asks no method of a backend about them.

    Parameters
    ----------
    parallel : joblib.Parallel
        Whose calls.
    change : callable
        Takes the tasks of a call, an iterable, and returns those to be run.
    """
    run = getattr(type(parallel), "_get_sequential_output", None)
    if run is None:
        return
    # Nothing that refers to itself: it would keep the backend, and what it shares.
    reference = weakref.ref(parallel)
    parallel._get_sequential_output = lambda tasks: run(reference(), change(tasks))


@_needs(
    "joblib",
    "tasks of one job",
    "calls with one job get arrays as they are, so that their folds are copied",
)
def _has_sequential_output() -> bool:
    parallel = joblib.Parallel(n_jobs=1, backend="sequential")
    change_tasks(parallel, lambda tasks: [(str, args, {}) for _, args, _ in tasks])
    return bool(parallel([(abs, (-1,), {})]) == ["-1"])


def worker_environment(backend: Any, n_jobs: int) -> dict[str, str]:
    """Return the environment variables that limit the threads of a worker."""
    prepare = getattr(backend, "_prepare_worker_env", None)
    if prepare is None:
        return {}
    try:
        return dict(prepare(n_jobs=n_jobs))
    except NameError:
        # Without named semaphores (/dev/shm) joblib leaves out all of its loky.
        most = backend.inner_max_num_threads
        n_threads = str(most or max(cpu_count() // n_jobs, 1))
        known = {} if most else os.environ
        return {n: known.get(n, n_threads) for n in backend.MAX_NUM_THREADS_VARS}


@_needs(
    "joblib",
    "threads of workers",
    "the threads of BLAS and OpenMP in workers are not limited, and "
    "inner_max_num_threads has no effect",
)
def _has_worker_environment() -> bool:
    backend = joblib.parallel.SequentialBackend()
    return "OMP_NUM_THREADS" in worker_environment(backend, 1)


# --------------------------------------------------------------------- loky

_JOBLIB_EXECUTOR = "joblib.externals.loky.process_executor"
_JOBLIB_CONTEXT = "joblib.externals.loky.backend.context"


@contextlib.contextmanager
def keeping_contexts() -> Iterator[None]:
    """Register joblib's contexts with multiprocessing again after ``import loky``.

    joblib vendors loky and registers its context under the name "loky". Importing the
    loky package puts another one there, and joblib's own backend would then talk to
    the wrong resource tracker: KeyErrors on stderr, and leaks.
    """
    kinds = {
        "loky": _find(_JOBLIB_CONTEXT, "LokyContext"),
        "loky_init_main": _find(_JOBLIB_CONTEXT, "LokyInitMainContext"),
    }
    contexts = _find_contexts()
    before = dict(contexts)
    yield
    for name, kind in kinds.items():
        if kind is not None:
            known = before.get(name)
            contexts[name] = known if isinstance(known, kind) else kind()


def cpu_count() -> int:
    """Return loky's number of CPUs; joblib's is 1 where it uses no processes."""
    with keeping_contexts():
        import loky
    return int(loky.cpu_count())


def _find_contexts() -> dict[str, Any]:
    # multiprocessing offers no way to register a context, and loky itself assigns to
    # this dictionary.
    contexts = getattr(multiprocessing.context, "_concrete_contexts", None)
    return contexts if isinstance(contexts, dict) else {}


@_needs(
    "joblib.externals.loky",
    "two copies of loky",
    "joblib's own backend may be given the context of another copy of loky, and then "
    "complains of a resource tracker",
)
def _has_contexts() -> bool:
    return isinstance(_find_contexts()["loky"], _find(_JOBLIB_CONTEXT, "LokyContext"))


def count_as_worker() -> None:
    """Tell joblib's own copy of loky that this process is a worker already."""
    module: Any = sys.modules.get(_JOBLIB_EXECUTOR)
    depth = getattr(module, "_CURRENT_DEPTH", None)
    if isinstance(depth, int):
        module._CURRENT_DEPTH = depth + 1


@_needs(
    _JOBLIB_EXECUTOR,
    "depth of nesting",
    "workers of the backend 'mmap' do not count as workers for the backend 'loky', "
    "which may start more processes in them than its LOKY_MAX_DEPTH allows",
)
def _has_depth() -> bool:
    return isinstance(_find(_JOBLIB_EXECUTOR, "_CURRENT_DEPTH"), int)


def terminated_worker_errors() -> tuple[type[BaseException], ...]:
    """Return the errors of both copies of loky for a worker that has ended."""
    modules = "loky.process_executor", _JOBLIB_EXECUTOR
    found = [_find(module, "TerminatedWorkerError") for module in modules]
    return tuple(dict.fromkeys(error for error in found if error is not None))


def why_broken(executor: Any) -> BaseException | None:
    """Return the error that has ended a pool; None if there is none, or it is unknown.

    While a worker is being started, the end of another one closes the pipes that the
    new one should get: an OSError then, which says nothing of the cause.
    """
    error = getattr(getattr(executor, "_flags", None), "broken", None)
    return error if isinstance(error, BaseException) else None


@_needs(
    "loky",
    "broken pools",
    "the end of a worker may be reported as an OSError while another one starts",
)
def _has_flags() -> bool:
    pool = _find("loky.process_executor", "_ExecutorFlags")(shutdown_lock=None)
    return pool.broken is None


UNKNOWN_EXIT_CODE = 255
"""What loky says of a process that has ended nobody knows how."""

_SPAWN = "loky.backend.spawn"


def _tracker_fds(data: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Return the places of the pipes to both resource trackers.

    loky 3.5 has them a level deeper.
    """
    places: list[tuple[dict[str, Any], str]] = []
    for name in ("tracker", "mp_tracker"):
        inner = data.get(f"{name}_args")
        is_inner = isinstance(inner, dict)
        places.append((inner, "fd") if is_inner else (data, f"{name}_fd"))  # type: ignore[arg-type]
    return places


def pack_process(process: Any, popen: Any, state: Any) -> bytes:
    """Pickle a process of loky's for `run_process` in another one.

    Parameters
    ----------
    process : LokyProcess
        Not started yet.
    popen : object
        Has `DupFd` and `duplicate_for_child`, which multiprocessing asks about each
        descriptor that the other process needs.
    state : object
        For the other process, in front of all else.
    """
    spawn = importlib.import_module(_SPAWN)
    file = io.BytesIO()
    multiprocessing.context.set_spawning_popen(popen)
    try:
        data = spawn.get_preparation_data(process.name, process.init_main_module)
        for place, key in _tracker_fds(data):
            place[key] = popen.duplicate_for_child(place[key])
        dump = _find("loky.backend.reduction", "dump")
        dump((state, data), file)
        dump(process, file)
    finally:
        multiprocessing.context.set_spawning_popen(None)
    return file.getvalue()


def run_process(
    fd: int, descriptors: list[int], prepare: Callable[[Any], object]
) -> int:
    """Be a process that another one has packed, to its end.

    Parameters
    ----------
    fd : int
        File with the pickle.
    descriptors : list of int
        What `duplicate_for_child` has returned the places of.
    prepare : callable
        Called with the state before all else.

    Returns
    -------
    int
        The exit code. Handlers for the exit of the interpreter have run.
    """
    current: Any = multiprocessing.process.current_process()
    name, code = "a worker", 1
    try:
        with open(fd, "rb") as file:
            current._inheriting = True
            try:
                state, data = pickle.load(file)
                name = data["name"]
                prepare(state)
                for place, key in _tracker_fds(data):
                    place[key] = descriptors[place[key]]
                importlib.import_module(_SPAWN).prepare(data)
                process = pickle.load(file)
            finally:
                del current._inheriting
        code = process._bootstrap()
    except Exception:  # noqa: BLE001 - of whatever the initializer consists of
        sys.stderr.write(f"\n{name} failed:\n{traceback.format_exc()}")
    finally:
        atexit._run_exitfuncs()
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(Exception):
                stream.flush()
    return int(code)


@_needs(
    "loky",
    "processes of loky",
    "workers are not forked, and each needs 110 MB for libraries and seconds to start",
)
def can_pack_processes() -> bool:
    """Return whether processes of this loky can be packed, and run by others."""
    base = multiprocessing.process.BaseProcess
    get_data, prepare = _find(_SPAWN, "get_preparation_data"), _find(_SPAWN, "prepare")
    return (
        _has_arguments(get_data, ("name", "init_main_module"))
        and _has_arguments(prepare, ("data",))
        and _has_arguments(_find("loky.backend.reduction", "dump"), ("obj", "file"))
        and _has_arguments(getattr(base, "_bootstrap", None), ("self",))
        and callable(getattr(atexit, "_run_exitfuncs", None))
    )


# ------------------------------------------------------------- scikit-learn

_ENSEMBLE = "sklearn.ensemble._base"
_VALIDATION = "sklearn.model_selection._validation"
_SCORER = "sklearn.metrics._scorer"
_BAGGING = "sklearn.ensemble._bagging"
_IMPORTANCE = "sklearn.inspection._permutation_importance"


class ModelTask(NamedTuple):
    """A task that hands X, or rows of it, to an estimator, and looks at it no further.

    Attributes
    ----------
    first : tuple of str
        Its first arguments.
    estimator : str
        The one with the estimator.
    only_fits : bool
        Whether the estimator is fitted, and nothing else.
    selects_rows : bool
        Whether rows are selected, although there is no argument `train`.
    is_for_arrays : bool
        Whether it does something else with data frames.
    """

    first: tuple[str, ...]
    estimator: str = "estimator"
    only_fits: bool = False
    selects_rows: bool = False
    is_for_arrays: bool = False


_FITS = ("estimator", "X", "y")
_SPLITS = (*_FITS, "train", "test")
_PREDICTS = ("estimators", "estimators_features", "X")
# The tasks of scikit-learn that are like that, with arguments as they are in 1.6 to
# 1.9. Others are not: those of LassoCV, LarsCV and LogisticRegressionCV center or
# convert rows by themselves, RFECV's select columns as well, which gives another order,
# and ColumnTransformer's and FeatureUnion's hand on what transformers make of X.
_TASKS = {
    (_ENSEMBLE, "_fit_single_estimator"): ModelTask(
        (*_FITS, "fit_params"), only_fits=True
    ),
    (_VALIDATION, "_fit_and_predict"): ModelTask((*_SPLITS, "fit_params", "method")),
    (_VALIDATION, "_fit_and_score"): ModelTask(_FITS),
    (_VALIDATION, "cross_val_predict"): ModelTask(_FITS, selects_rows=True),
    (_VALIDATION, "_permutation_test_score"): ModelTask(
        (*_FITS, "cv", "scorer"), selects_rows=True
    ),
    ("sklearn.calibration", "_fit_classifier_calibrator_pair"): ModelTask(
        (*_SPLITS, "method", "classes")
    ),
    ("sklearn.multioutput", "_fit_estimator"): ModelTask(_FITS, only_fits=True),
    ("sklearn.multiclass", "_fit_binary"): ModelTask(
        (*_FITS, "fit_params"), only_fits=True
    ),
    ("sklearn.multiclass", "_fit_ovo_binary"): ModelTask(
        (*_FITS, "i", "j"), only_fits=True, selects_rows=True
    ),
    (_BAGGING, "_parallel_build_estimators"): ModelTask(
        ("n_estimators", "ensemble", "X", "y"), "ensemble", only_fits=True
    ),
    **{
        (_BAGGING, name): ModelTask(_PREDICTS, "estimators")
        for name in (
            "_parallel_predict_proba",
            "_parallel_predict_log_proba",
            "_parallel_decision_function",
            "_parallel_predict_regression",
        )
    },
    # It selects rows or copies all of them, and permutes a column of those.
    (_IMPORTANCE, "_calculate_permutation_scores"): ModelTask(
        (*_FITS, "sample_weight"), selects_rows=True, is_for_arrays=True
    ),
}


def find_model_task(function: Any) -> ModelTask | None:
    """Return how a function hands X to an estimator; None if it may look at it."""
    task = _TASKS.get(place_of_function(function))
    return task if task is not None and _has_arguments(function, task.first) else None


def place_of_function(function: Any) -> tuple[str, str]:
    """Return the module and the name of a function; "" for what it has not."""
    return getattr(function, "__module__", ""), getattr(function, "__qualname__", "")


def is_bagging_all(ensemble: Any, arguments: dict[str, Any]) -> bool:
    """Return whether each estimator of a bagging ensemble gets all columns of X.

    And checks it by itself.
    """
    n_columns = getattr(ensemble, "_max_features", None)
    return (
        n_columns == arguments["X"].shape[1]
        and not getattr(ensemble, "bootstrap_features", True)
        and arguments.get("check_input") is True
    )


def has_known_splits(cv: Any) -> bool:
    """Return whether a splitter looks at no more of X than the number of its rows."""
    is_plain = cv is None or isinstance(cv, int)
    return is_plain or type(cv).__module__ == "sklearn.model_selection._split"


# Those of them that fit the estimator, once, on all rows or on a train set.
_FITS_ON_ROWS = frozenset(
    {
        (_ENSEMBLE, "_fit_single_estimator"),
        (_VALIDATION, "_fit_and_predict"),
        (_VALIDATION, "_fit_and_score"),
        ("sklearn.calibration", "_fit_classifier_calibrator_pair"),
        ("sklearn.multioutput", "_fit_estimator"),
    }
)


def is_fit_on_rows(function: Any) -> bool:
    """Return whether a function fits an estimator on all rows, or on a train set."""
    return (
        place_of_function(function) in _FITS_ON_ROWS
        and find_model_task(function) is not None
    )


def count_repeated_splits(batch: Any) -> int:
    """Return how many splits there are, if each is that of several tasks; 0 if not.

    Searches fit each candidate on each split, and say so to their tasks.
    """
    for function, _, kwargs in (tasks_of(batch) or ())[:1]:
        function = inspect.unwrap(function)
        if place_of_function(function) != (_VALIDATION, "_fit_and_score"):
            return 0
        progress = [kwargs.get(name) for name in _PROGRESS]
        if all(isinstance(part, tuple) and len(part) == 2 for part in progress):
            n_splits, n_candidates = (part[1] for part in progress)
            return n_splits if n_candidates > 1 else 0
    return 0


# Arguments of the tasks of a search: (number, how many there are) each.
_PROGRESS = ("split_progress", "candidate_progress")


@_needs(
    _VALIDATION,
    "progress of searches",
    "the tasks of a search do not say how many splits and candidates there are, so "
    "that each of them copies its scattered folds",
)
def _has_progress() -> bool:
    function = inspect.unwrap(_find(_VALIDATION, "_fit_and_score"))
    return set(_PROGRESS) <= set(inspect.signature(function).parameters)


def is_handing_scorer(scorer: Any) -> bool:
    """Return whether a scorer only hands X to methods of the estimator."""
    if scorer is None:
        return True
    plain = _find(_SCORER, "_Scorer"), _find(_SCORER, "_PassthroughScorer")
    if type(scorer) is _find(_SCORER, "_MultimetricScorer"):
        scorers = getattr(scorer, "_scorers", None)
        return isinstance(scorers, dict) and all(
            map(is_handing_scorer, scorers.values())
        )
    return type(scorer) in plain


@_needs(
    _VALIDATION,
    "tasks of scikit-learn",
    "layouts='auto' leaves X as it is in some tasks of cross-validation, searches and "
    "ensembles, stacking ensembles in them are fitted by one worker each, and "
    "Memmapped(share_prefix=True) has no effect",
)
def _has_tasks() -> bool:
    return all(
        _has_arguments(_find(module, name), task.first)
        for (module, name), task in _TASKS.items()
        if module in sys.modules
    )


@_needs(
    _SCORER,
    "scorers of scikit-learn",
    "layouts='auto' leaves test sets as they are in tasks that compute scores",
)
def _has_scorers() -> bool:
    from sklearn.metrics import accuracy_score, make_scorer

    scorer = make_scorer(accuracy_score)
    several = _find(_SCORER, "_MultimetricScorer")(scorers={"a": scorer})
    passthrough = _find(_SCORER, "_PassthroughScorer")
    return is_handing_scorer(several) and isinstance(passthrough, type)


def stacking_functions() -> tuple[Callable[..., Any], Callable[..., Any]] | None:
    """Return scikit-learn's functions for the fits of a stacking ensemble.

    Returns
    -------
    (callable, callable) or None
        ``_fit_single_estimator(estimator, X, y, fit_params)``, which returns the
        estimator, and ``_fit_and_predict(estimator, X, y, train, test, fit_params,
        method)``, which returns predictions. None if one of them is another one now.
    """
    names = (_ENSEMBLE, "_fit_single_estimator"), (_VALIDATION, "_fit_and_predict")
    fit, predict = (_find(*name) for name in names)
    is_known = all(
        _has_arguments(function, _TASKS[name].first)
        for function, name in zip((fit, predict), names, strict=True)
    )
    return (fit, predict) if is_known else None


@_needs(
    _ENSEMBLE,
    "tasks of stacking",
    "Memmapped lets stacking ensembles fit themselves, so that workers wait for the "
    "slowest fit twice",
)
def _has_stacking_functions() -> bool:
    return stacking_functions() is not None


def has_callbacks(estimator: Any) -> bool | None:
    """Return whether callbacks watch an estimator, or one in it; None if unknown.

    They are new in scikit-learn 1.9.
    """
    if "sklearn.callback" not in sys.modules:
        return False
    if not _works(_has_callbacks):
        return None
    parts = [estimator, *estimator.get_params(deep=True).values()]
    return any(map(_callbacks_of, parts))


def is_watched(estimator: Any) -> bool:
    """Return whether callbacks watch an estimator itself, or that is unknown."""
    if estimator is None or "sklearn.callback" not in sys.modules:
        return False
    return not _works(_has_callbacks) or bool(_callbacks_of(estimator))


def _callbacks_of(estimator: Any) -> list[Any]:
    return getattr(estimator, "_skl_callbacks", [])


@_needs(
    "sklearn.callback",
    "callbacks of scikit-learn",
    "callbacks cannot be seen, so that Memmapped(single_fits='worker') leaves the best "
    "estimator of a search to the parent, and tasks keep their rows and their steps",
)
def _has_callbacks() -> bool:
    from sklearn.callback import CallbackSupportMixin, ScoringMonitor

    monitor = ScoringMonitor(scoring="r2")
    return _callbacks_of(CallbackSupportMixin().set_callbacks(monitor)) == [monitor]


def select_rows(values: Any, rows: Any) -> Any:
    """Select rows by number as scikit-learn's ``_safe_indexing`` does."""
    select = _find("sklearn.utils", "_safe_indexing")
    if select is not None:
        return select(values, rows)
    if hasattr(values, "iloc"):
        return values.iloc[rows]
    if hasattr(values, "shape"):
        return values[rows]
    return [values[row] for row in rows]


@_needs(
    "sklearn.utils",
    "rows of other containers",
    "arrange selects rows by the container's own rules, and may refuse containers that "
    "scikit-learn takes",
)
def _has_safe_indexing() -> bool:
    return bool(_find("sklearn.utils", "_safe_indexing")([5, 6], [1]) == [6])


SELECTING_FUNCTIONS = frozenset(
    {"_safe_indexing", "_array_indexing", "safe_mask", "_make_indexable", "resample"}
)
"""Functions of scikit-learn that select rows, as they are called in a stack."""

CHECKING_FUNCTIONS = frozenset({"check_array", "_asarray_with_order"})
"""Functions of scikit-learn that convert X, as they are called in a stack."""


@_needs(
    "sklearn.utils",
    "names in stacks",
    "copies by functions of scikit-learn that select rows or convert X may be reported "
    "without their reason",
)
def _has_functions_of_stacks() -> bool:
    modules = {
        "_safe_indexing": "sklearn.utils",
        "_array_indexing": "sklearn.utils._indexing",
        "_make_indexable": "sklearn.utils.validation",
        "_asarray_with_order": "sklearn.utils._array_api",
    }
    return all(_find(module, name) is not None for name, module in modules.items())


# -------------------------------------------------------------------- NumPy

# Place of PyDataMem_GetHandler in the table of NumPy's C API, in these versions of its
# ABI: those of NumPy 1 and of NumPy 2.
_GET_HANDLER = 305
_ABI_VERSIONS = (0x01000009, 0x02000000)
_HANDLER_VERSION = 1
DEFAULT_ALLOCATOR = "default_allocator"


def _find_numpy_core() -> Any:
    core = sys.modules.get("numpy._core._multiarray_umath")
    return core or sys.modules.get("numpy.core._multiarray_umath")


def memory_handler_slot() -> tuple[Any, int] | None:
    """Return NumPy's table of C functions, and the place of PyDataMem_GetHandler in it.

    None in another version of the ABI, where another function may stand there, and
    where nothing of the table may be called.
    """
    core = _find_numpy_core()
    get_version = getattr(core, "_get_ndarray_c_version", None)
    if get_version is None or sys.implementation.name != "cpython":
        return None
    if get_version() not in _ABI_VERSIONS:
        return None
    table = getattr(core, "_ARRAY_API", None)
    return None if table is None else (table, _GET_HANDLER)


def is_known_handler(name: bytes, version: int) -> bool:
    """Return whether a memory handler of NumPy is its own, and laid out as expected."""
    return name == DEFAULT_ALLOCATOR.encode() and version == _HANDLER_VERSION


@_needs(
    "numpy",
    "allocations of NumPy",
    "check_copies cannot see who asks NumPy for memory, and tells only how much a call "
    "needs",
)
def _has_memory_handler() -> bool:
    return memory_handler_slot() is not None


def allocator_of(array: Any) -> str | None:
    """Return the name of the allocator that an array's memory is from.

    None if that cannot be told.
    """
    function = _find("numpy._core.multiarray", "get_handler_name") or _find(
        "numpy.core.multiarray", "get_handler_name"
    )
    name = None if function is None else function(array)
    return name if isinstance(name, str) else None


@_needs(
    "numpy",
    "allocators of NumPy",
    "it cannot be told where NumPy has the memory of an array from, so that none is "
    "shared in place (adopt=True); they are copied",
)
def _has_allocator_names() -> bool:
    import numpy as np

    return allocator_of(np.empty(1)) is not None


# -------------------------------------------------------------------- glibc

CHUNK_HEADER_BYTES = 16
_CHUNK_IS_MAPPED = 2
_CHUNK_FLAGS = 7


@functools.cache
def is_glibc() -> bool:
    """Return whether the C library is glibc, whose blocks have known headers."""
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (AttributeError, ValueError, OSError):
        return False
    return version is not None and version.startswith("glibc") and sys.maxsize > 1 << 32


def mapped_chunk_bytes(header: bytes) -> int | None:
    """Return the size of a block that glibc has mapped for itself alone.

    Parameters
    ----------
    header : bytes
        The `CHUNK_HEADER_BYTES` before the block.

    Returns
    -------
    int or None
        Header and padding included; None if it is another kind of block.
    """
    if not is_glibc():
        return None
    previous, size = struct.unpack("NN", header)
    is_mapped = previous == 0 and size & _CHUNK_FLAGS == _CHUNK_IS_MAPPED
    return size & ~_CHUNK_FLAGS if is_mapped else None


@_needs(
    "",
    "blocks of glibc",
    "The C library is not glibc, so that no array is shared in place (adopt=True), and "
    "check_copies does not notice when a block is freed",
)
def _has_chunk_headers() -> bool:
    # Elsewhere it is another system, and not another version of this one.
    return is_glibc() or sys.platform != "linux"


# ------------------------------------------------------------------- pandas


def block_values(frame: Any) -> list[Any]:
    """Return the arrays that a frame or series consists of, without a copy.

    Of n columns of one dtype that lie together, shape (n, n_rows). Empty if unknown.
    """
    blocks = getattr(getattr(frame, "_mgr", None), "blocks", ())
    return [block.values for block in blocks if hasattr(block, "values")]


def single_block(frame: Any) -> Any:
    """Return the array of a frame or series that consists of one, as in `block_values`.

    None if there are several, or none, or if that cannot be told.
    """
    manager = getattr(frame, "_mgr", None)
    values = block_values(frame)
    is_single = getattr(manager, "is_single_block", False)
    return values[0] if is_single and len(values) == 1 else None


@_needs(
    "pandas",
    "blocks of pandas",
    "the arrays of data frames and series cannot be seen, so that they are sent to "
    "each worker by value",
)
def _has_blocks() -> bool:
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}).copy()
    found, series = single_block(frame), single_block(frame["a"])
    return found is not None and found.shape == (2, 2) and series.shape == (2,)


def placed_blocks(frame: Any) -> list[tuple[Any, Any]] | None:
    """Return the arrays of a frame, and which columns each of them holds."""
    blocks = getattr(getattr(frame, "_mgr", None), "blocks", ())
    places = [
        getattr(getattr(block, "mgr_locs", None), "as_array", None) for block in blocks
    ]
    values = block_values(frame)
    if len(values) != len(places) or any(place is None for place in places):
        return None
    return list(zip(values, places, strict=True))


@_needs(
    "pandas",
    "columns of blocks",
    "which columns the arrays of a data frame hold cannot be seen, so that layouts="
    "'auto' leaves frames of several arrays as they are",
)
def _has_placed_blocks() -> bool:
    import pandas as pd

    frame = pd.DataFrame({"a": [1.0]}).join(pd.DataFrame({"b": [2.0]}))
    found = placed_blocks(frame) or []
    return sorted(int(place) for _, places in found for place in places) == [0, 1]


def masked_parts(array: Any) -> tuple[Any, Any] | None:
    """Return the values of a nullable array of pandas, and its mask, without a copy."""
    mask = getattr(array, "_mask", None)
    if mask is None:  # looked at first: pandas 2.1 warns of the `_data` of other arrays
        return None
    values = getattr(array, "_data", None)
    return None if values is None else (values, mask)


@_needs(
    "pandas",
    "nullable columns of pandas",
    "the parts of nullable columns (Int64, Float64, boolean) cannot be seen, so that "
    "their rows are copied",
)
def _has_masked_parts() -> bool:
    import pandas as pd

    parts = masked_parts(pd.array([1, None], dtype="Int64"))
    return parts is not None and parts[1].tolist() == [False, True]


def backing_array(values: Any) -> Any:
    """Return the array behind dates or categories of pandas; others are their own."""
    return getattr(values, "_ndarray", values)


@_needs(
    "pandas",
    "arrays of dates and categories of pandas",
    "small columns of dates and categories are sent to each worker by value",
)
def _has_backing_arrays() -> bool:
    import pandas as pd

    found = backing_array(pd.Categorical(["a", "b"]))
    return hasattr(found, "nbytes") and found.tolist() == [0, 1]


def select_by_label(class_: Any) -> None:
    """Have frames of a class asked before rows are selected by their labels (``loc``).

    Parameters
    ----------
    class_ : type
        A subclass of a frame or series of pandas. Its ``_select_labelled_rows(rows,
        labels)`` returns the rows with their labels, or None if pandas has to do it.
    """
    inherited: Any = getattr(class_, "_reindex_with_indexers", None)
    if not _has_arguments(inherited, ("self", "reindexers")):
        return

    @functools.wraps(inherited)
    def select(self: Any, reindexers: Any, *args: Any, **parameters: Any) -> Any:
        # Only where labels may be there twice, none of them is missing.
        if parameters.get("allow_dups") and list(reindexers) == [0]:
            labels, rows = reindexers[0]
            if labels is not None and rows is not None:
                selected = self._select_labelled_rows(rows, labels)
                if selected is not None:
                    return selected
        return inherited(self, reindexers, *args, **parameters)

    class_._reindex_with_indexers = select


@_needs(
    "pandas",
    "labels of pandas",
    "rows of shared frames that tasks select by their labels (loc) are copied",
)
def _has_selection_by_label() -> bool:
    import pandas as pd

    class Frame(pd.DataFrame):  # type: ignore[misc]
        def _select_labelled_rows(self, rows: Any, labels: Any) -> Any:
            return rows.tolist(), labels.tolist()

    select_by_label(Frame)
    return bool(Frame({"a": [1, 2, 3]}).loc[[2, 0]] == ([2, 0], [2, 0]))


# -------------------------------------------------------------------- SciPy

_SORTED, _CANONICAL = "_has_sorted_indices", "_has_canonical_format"


def index_dtype(matrix: Any, arrays: tuple[Any, ...], largest: int) -> Any:
    """Return the dtype that SciPy would give the indices of a result.

    Parameters
    ----------
    matrix : sparse matrix or array
        What rows are selected from.
    arrays : tuple of ndarray
        Indices of the result.
    largest : int
        What they have to hold.

    Returns
    -------
    dtype or None
        None if it cannot be told.
    """
    choose = getattr(matrix, "_get_index_dtype", None)
    if choose is None:
        return None
    return choose(arrays, maxval=largest, check_contents=True)


@_needs(
    "scipy.sparse",
    "rows of sparse matrices",
    "the type of the indices of selected rows cannot be told, so that rows of sparse "
    "matrices are copied",
)
def _has_index_dtype() -> bool:
    import numpy as np
    from scipy import sparse

    few = np.zeros(1, np.int32)
    return all(
        index_dtype(kind((1, 1)), (few,), 1) == np.int32
        for kind in (sparse.csr_matrix, sparse.csr_array)
    )


def csr_state(
    plain_class: type[Any],
    parts: tuple[Any, Any, Any],
    shape: tuple[int, int],
    known: dict[str, bool],
) -> dict[str, Any]:
    """Return the attributes of a CSR matrix or array over existing arrays.

    Parameters
    ----------
    plain_class : type
        SciPy's class.
    parts : (ndarray, ndarray, ndarray)
        `data`, `indices` and `indptr`, which must fit.
    shape : (int, int)
        Rows and columns.
    known : dict of str to bool
        What `csr_facts` has returned for it, or for what its rows are from.
    """
    data, indices, indptr = parts
    state = dict(vars(plain_class((1, 1), dtype=data.dtype)))
    if "_shape" not in state:  # its own way, which looks at all indices
        return dict(vars(plain_class(parts, shape=shape, copy=False)))
    own = {"data": data, "indices": indices, "indptr": indptr, "_shape": shape}
    return {**state, **own, **known}


def csr_facts(matrix: Any = None) -> dict[str, bool]:
    """Return what SciPy knows of the elements of all rows, and so of those of some.

    It would find it out anew, which reads all of them. Without a matrix, the facts of
    one whose indices are sorted, each there once.
    """
    if matrix is None:
        return {_SORTED: True, _CANONICAL: True}
    return {name: True for name in (_SORTED, _CANONICAL) if vars(matrix).get(name)}


@_needs(
    "scipy.sparse",
    "state of sparse matrices",
    "sparse matrices are put together by SciPy's own constructor, which reads all of "
    "their indices each time",
)
def _has_csr_state() -> bool:
    from scipy import sparse

    matrix = sparse.csr_matrix((1, 1))
    is_known = matrix.has_canonical_format and matrix.has_sorted_indices
    return "_shape" in vars(matrix) and is_known and csr_facts(matrix) == csr_facts()


# ------------------------------------------------------------------- Python


def interpreter_flags() -> list[str]:
    """List the options that this interpreter was started with, such as -W and -X."""
    # What multiprocessing uses for the same purpose.
    flags = getattr(subprocess, "_args_from_interpreter_flags", None)
    return [] if flags is None else list(flags())


@_needs(
    "subprocess",
    "options of Python",
    "scripts are started without the options of this interpreter, such as -W and -X",
)
def _has_interpreter_flags() -> bool:
    return getattr(subprocess, "_args_from_interpreter_flags", None) is not None
