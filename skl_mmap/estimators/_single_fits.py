"""Fits that scikit-learn makes one at a time, in a worker instead of this process.

A search fits its best estimator when all candidates are done, and a stacking ensemble
fits its final estimator when all others are. Both happen in the process of the caller,
which has X already, and may have no room for more. Here they are tasks as well::

    this process                                    worker
    GridSearchCV.fit
      clone(estimator) --> a stand-in
      stand_in.fit(X, y) --- estimator, X shared -->  the same threads, random states
                             surroundings             and environment as in the parent
      best_estimator_ <----- fitted, warnings,  ----  estimator.fit(X, y)
                             random states

scikit-learn asks `clone` for what it fits, and `clone` asks the estimator: its protocol
``__sklearn_clone__`` is the one place where a stand-in enters. All else is done by
scikit-learn.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import random
import sys
import warnings
from collections.abc import Iterable, Iterator
from numbers import Number
from typing import Any, NamedTuple

import numpy as np
from joblib import effective_n_jobs, parallel_config
from joblib.parallel import SequentialBackend, ThreadingBackend, get_active_backend
from scipy import sparse
from sklearn.base import clone
from sklearn.utils import get_tags
from sklearn.utils.parallel import Parallel, delayed
from threadpoolctl import ThreadpoolController, threadpool_limits

from skl_mmap._compat import has_callbacks, worker_environment
from skl_mmap.backend import name_estimator, set_variables
from skl_mmap.monitor import note

_CLONE = "__sklearn_clone__"
_SEARCHES = frozenset(
    {
        "GridSearchCV",
        "RandomizedSearchCV",
        "HalvingGridSearchCV",
        "HalvingRandomSearchCV",
    }
)
# What the transport of a model raises if something in it cannot be pickled.
_NOT_SENT = (pickle.PicklingError, TypeError, AttributeError)
_BLAS_THREADS = "OPENBLAS_NUM_THREADS"
NO_LAST_FIT = (
    "only searches, and stacking ensembles that are fitted as one list of tasks, have "
    "a last fit of their own"
)


def is_search(estimator: Any) -> bool:
    """Tell if an estimator is one of scikit-learn's searches, and not derived of one.

    The halving ones are not imported for that: they are experimental.
    """
    kind = type(estimator)
    return kind.__name__ in _SEARCHES and kind.__module__.startswith("sklearn.")


def is_halving(estimator: Any) -> bool:
    """Tell if an estimator is one of scikit-learn's halving searches."""
    return is_search(estimator) and type(estimator).__name__.startswith("Halving")


def note_refusal(reason: str) -> None:
    """Tell whoever measures why a fit is not in a worker."""
    note(f"single_fits='worker' has no effect: {reason}")


@contextlib.contextmanager
def refitting_in_worker(search: Any) -> Iterator[None]:
    """Let a search that is fitted in this block fit its best estimator in a worker."""
    if not search.refit:
        note_refusal("the search has refit=False, and fits no best estimator")
        yield
        return
    reason = _find_refusal(search)
    if reason is not None:
        note_refusal(reason)
        yield
        return
    refit = _Refit(search)
    with refit.replacing_clones():
        yield
    if not refit.is_caught:
        note_refusal("this search does not ask for a clone of its best estimator")


def _find_refusal(search: Any) -> str | None:
    """Say why the estimator of a search cannot have a stand-in; None if it can."""
    estimator = search.estimator
    if has_callbacks(search) is not False:
        return "there are callbacks, which have to be called in this process"
    if not hasattr(type(estimator), _CLONE) or not hasattr(estimator, "__dict__"):
        return "its estimator is not cloned as those of scikit-learn are"
    return None


class _Refit:
    """Notices which clone of its estimator a search makes for the refit.

    It clones its estimator once, and this clone for each fit. That for the refit is
    the first one after ``best_params_`` is known.
    """

    def __init__(self, search: Any) -> None:
        self._search = search
        self._hooked: list[Any] = []
        self.is_caught = False

    @contextlib.contextmanager
    def replacing_clones(self) -> Iterator[None]:
        """Answer `clone` in this block."""
        vars(self._search).pop("best_params_", None)
        estimator = self._search.estimator
        self._hook(estimator, lambda: self._clone_first(estimator))
        try:
            yield
        finally:
            for hooked in self._hooked:
                vars(hooked).pop(_CLONE, None)
            self._hooked.clear()

    def _hook(self, estimator: Any, function: Any) -> None:
        self._hooked.append(estimator)
        vars(estimator)[_CLONE] = function

    def _clone_first(self, estimator: Any) -> Any:
        # The search may be sent with its tasks, and a hook cannot be pickled.
        vars(estimator).pop(_CLONE, None)
        base = clone(estimator)
        if base is not estimator:  # a frozen estimator is its own clone
            self._hook(base, lambda: self._clone_again(base))
        return base

    def _clone_again(self, base: Any) -> Any:
        # Threads of joblib may be here at once, so that the hook stays where it is.
        copied = getattr(type(base), _CLONE)(base)
        if not hasattr(self._search, "best_params_"):
            return copied
        self.is_caught = True
        return SingleFit(copied, self._search, "best_estimator_", "refit")


class SingleFit:
    """Stands for an unfitted estimator; its `fit` runs in a worker.

    Parameters
    ----------
    estimator : estimator
        What it stands for.
    owner : object
        Has the stand-in as an attribute, and gets the fitted estimator in its place.
        Its ``n_jobs`` says how many workers there are.
    attribute : str
        The name of this attribute.
    role : str
        What it is in the owner, for the report.
    """

    def __init__(self, estimator: Any, owner: Any, attribute: str, role: str) -> None:
        self._estimator = estimator
        self._owner = owner
        self._attribute = attribute
        self._role = role

    @property  # type: ignore[misc]
    def __class__(self) -> type[Any]:
        # Errors of scikit-learn have its name.
        return type(self._estimator)

    def __repr__(self) -> str:
        return repr(self._estimator)

    def __sklearn_tags__(self) -> Any:
        return get_tags(self._estimator)

    def __sklearn_clone__(self) -> SingleFit:
        # The owner clones what it fits, before it is fitted.
        copied = clone(self._estimator)
        return SingleFit(copied, self._owner, self._attribute, self._role)

    def set_params(self, **params: Any) -> SingleFit:
        """Set parameters of what it stands for."""
        self._estimator = self._estimator.set_params(**params)
        return self

    def fit(self, X: Any, y: Any = None, **params: Any) -> SingleFit:
        """Fit what it stands for, and put that in its own place."""
        try:
            reason = self._find_refusal(params)
            if reason is None:
                reason = self._fit_in_worker(X, y, params)
            if reason is not None:
                note_refusal(reason)
                _fit(self._estimator, X, y, params)
        finally:
            # After an error as well: scikit-learn leaves what is not fitted there.
            setattr(self._owner, self._attribute, self._estimator)
        return self

    def _find_refusal(self, params: dict[str, Any]) -> str | None:
        if effective_n_jobs(self._owner.n_jobs) == 1:
            return "with n_jobs=1, there is no worker"
        # What is neither data nor a number may be there to be changed by the fit.
        names = [name for name, value in params.items() if not _is_plain(value)]
        if names:
            return f"the fit is given objects that it may change: {', '.join(names)}"
        return None

    def _fit_in_worker(self, X: Any, y: Any, params: dict[str, Any]) -> str | None:
        """Fit, or say why that was not possible."""
        surroundings = Surroundings.here()
        label = f"{name_estimator(self._estimator)}, {self._role}"
        task = delayed(fit_alone)(
            self._estimator, X, y, params, surroundings, label=label
        )
        try:
            parallel = Parallel(n_jobs=self._owner.n_jobs, batch_size=1)
            [done] = parallel([task])
        except _NOT_SENT as error:
            # Or the error of the fit itself: then it is raised here once more.
            return f"the model could not be sent ({type(error).__name__}: {error})"
        self._estimator = done.estimator
        done.random_states.apply()
        for warning in done.warnings:
            warning.repeat()
        return None


def _is_plain(value: Any) -> bool:
    """Tell if a fit can only read a value: numbers, texts, arrays, lists of these."""
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    is_simple = value is None or isinstance(value, str | Number)
    return is_simple or hasattr(value, "__array__") or sparse.issparse(value)


def _fit(estimator: Any, X: Any, y: Any, params: dict[str, Any]) -> None:
    # As a search does it: not every `fit` takes a y.
    if y is None:
        estimator.fit(X, **params)
    else:
        estimator.fit(X, y, **params)


class RandomStates(NamedTuple):
    """The random states that all of a process shares: NumPy's and Python's."""

    numpy: Any
    python: Any

    @classmethod
    def here(cls) -> RandomStates:
        """Return those of this process."""
        # Estimators without a seed draw from it.
        return cls(np.random.get_state(), random.getstate())  # noqa: NPY002

    def apply(self) -> None:
        """Make them those of this process."""
        np.random.set_state(self.numpy)  # noqa: NPY002
        random.setstate(self.python)


class Surroundings(NamedTuple):
    """What the result of a fit depends on, beside its arguments.

    The last bits of sums depend on how many threads have computed them.

    Attributes
    ----------
    n_threads : dict of str to int
        Threads of each library for linear algebra or OpenMP, by its file.
    environment : dict of str to str or None
        Variables that libraries read when they are loaded; None for what is not set.
    random_states : RandomStates
        As they are before the fit.
    n_jobs : int or None
        For parallel calls in the fit that do not say how many jobs they want.
    """

    n_threads: dict[str, int]
    environment: dict[str, str | None]
    random_states: RandomStates
    n_jobs: int | None

    @classmethod
    def here(cls) -> Surroundings:
        """Return those of this thread."""
        libraries = ThreadpoolController().info()
        n_threads = {found["filepath"]: found["num_threads"] for found in libraries}
        names = worker_environment(SequentialBackend(), 1)
        environment = {name: os.environ.get(name) for name in names}
        _, n_jobs = get_active_backend()
        return cls(n_threads, environment, RandomStates.here(), n_jobs)

    @contextlib.contextmanager
    def around(self) -> Iterator[None]:
        """Have them in this thread, in this block."""
        own_states = RandomStates.here()
        with contextlib.ExitStack() as stack:
            stack.callback(own_states.apply)
            self.random_states.apply()
            stack.enter_context(_threads(self.n_threads))
            stack.enter_context(_environment(self.environment))
            config = parallel_config(_InnerThreads(nesting_level=1), n_jobs=self.n_jobs)
            stack.enter_context(config)
            yield


@contextlib.contextmanager
def _environment(variables: dict[str, str | None]) -> Iterator[None]:
    """Set variables in this block; None removes them."""
    before = {name: os.environ.get(name) for name in variables}
    set_variables(variables)
    try:
        yield
    finally:
        set_variables(before)


@contextlib.contextmanager
def _threads(n_threads: dict[str, int]) -> Iterator[None]:
    """Have so many threads in each library in this block."""
    controller = ThreadpoolController()
    known = {found["filepath"] for found in controller.info()}
    with contextlib.ExitStack() as stack:
        stack.callback(_limit_libraries_beside, known)
        for path in known & n_threads.keys():
            library = controller.select(filepath=path)
            stack.enter_context(library.limit(limits=n_threads[path]))
        yield


def _limit_libraries_beside(known: set[str]) -> None:
    """Give libraries that were loaded by a fit the threads that workers have.

    They have read an environment that was not that of the worker.
    """
    controller = ThreadpoolController()
    new = {found["filepath"] for found in controller.info()} - known
    limit = os.environ.get(_BLAS_THREADS, "")
    if new and limit.isdecimal():
        controller.select(filepath=list(new)).limit(limits=int(limit))


class _InnerThreads(ThreadingBackend):  # type: ignore[misc]
    """Runs the tasks of a fit in threads of a worker, as if workers ran them.

    In the parent they would run in workers, where linear algebra has fewer threads, and
    so they get as many here.
    """

    _limits: Any = None

    def configure(
        self, n_jobs: int = 1, parallel: Any = None, **parameters: Any
    ) -> int:
        """Get ready, and return how many tasks run at once."""
        n_jobs = int(super().configure(n_jobs, parallel, **parameters))
        limit = worker_environment(self, n_jobs).get(_BLAS_THREADS, "")
        if limit.isdecimal():
            self._limits = threadpool_limits(int(limit), user_api="blas")
        return n_jobs

    def terminate(self) -> None:
        """End a call."""
        super().terminate()
        if self._limits is not None:
            self._limits.restore_original_limits()
            self._limits = None


class CaughtWarning(NamedTuple):
    """A warning in a worker, for the parent.

    Attributes
    ----------
    message : Warning
        What was warned of.
    filename, lineno : str, int
        The line that it points at.
    """

    message: Warning
    filename: str
    lineno: int

    @classmethod
    def all_of(
        cls, caught: Iterable[warnings.WarningMessage]
    ) -> tuple[CaughtWarning, ...]:
        """Return what `warnings.catch_warnings` has recorded."""
        return tuple(
            cls(found.message, found.filename, found.lineno)
            for found in caught
            if isinstance(found.message, Warning)
        )

    def repeat(self) -> None:
        """Warn here as that line of code would have done."""
        # The module counts for filters, and remembers what was shown once.
        modules = list(sys.modules.items())
        name, module = next(
            (m for m in modules if getattr(m[1], "__file__", None) == self.filename),
            (None, None),
        )
        registry = (
            {} if module is None else vars(module).setdefault("__warningregistry__", {})
        )
        category = type(self.message)
        warnings.warn_explicit(
            self.message, category, self.filename, self.lineno, name, registry
        )


class SingleResult(NamedTuple):
    """What comes back from a fit in a worker."""

    estimator: Any
    random_states: RandomStates
    warnings: tuple[CaughtWarning, ...]


# Workers run it. The backend knows it by name.
def fit_alone(
    estimator: Any,
    X: Any,
    y: Any,
    fit_params: Any,
    surroundings: Surroundings,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> SingleResult:
    """Fit an estimator as it would be fitted in the parent."""
    with surroundings.around(), warnings.catch_warnings(record=True) as caught:
        _fit(estimator, X, y, fit_params)
        random_states = RandomStates.here()
    return SingleResult(estimator, random_states, CaughtWarning.all_of(caught))
