"""Stacking ensembles within other estimators, fitted as flat lists of tasks.

A pipeline, a search or a voting ensemble has scikit-learn's own code between
`Memmapped` and the ensemble. There are two ways in which it may be fitted::

    in this process, by whatever contains it:       in a task of a parallel call:
    Pipeline.fit --> stack.fit                      GridSearchCV.fit --> Parallel
                       |                                                    |
                       v                                                    v
                  `flat` ensembles have                    `WaveBackend` takes the task
                  another `fit`                            apart; see `_waves`

For the first, ensembles in the estimator are made *flat* while it is fitted: instances
of a class that differs in `fit` alone. Clones of them are flat as well; what is pickled
is not, and when the fit has ended there are none any more.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import weakref
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from joblib import parallel_config
from joblib.parallel import get_active_backend
from sklearn.ensemble import StackingClassifier, StackingRegressor

from skl_mmap._compat import can_see_tasks, has_callbacks
from skl_mmap.estimators._prepared import named_as
from skl_mmap.estimators._single_fits import NO_LAST_FIT, note_refusal
from skl_mmap.estimators._stacking import find_stacks, fit_stacking, plain_class
from skl_mmap.estimators._waves import OWN_WAY, WaveBackend
from skl_mmap.memory import Placement
from skl_mmap.monitor import note


class _Session(NamedTuple):
    """A fit of `Memmapped`, in which ensembles are flat.

    Attributes
    ----------
    placement : Placement
        Where predictions of the folds live.
    final_in_worker : bool
        Whether final estimators are fitted in a worker.
    flat : list of weakref.ref
        All flat ensembles that were made.
    """

    placement: Placement
    final_in_worker: bool
    flat: list[weakref.ref[Any]]


# Other threads have none: tasks in threads are for scikit-learn.
_session: contextvars.ContextVar[_Session | None] = contextvars.ContextVar(
    "skl_mmap_flat_fits", default=None
)


def is_nested() -> bool:
    """Tell if this is a task of some other parallel call already."""
    backend, _ = get_active_backend()
    return bool(backend.nesting_level)


@contextlib.contextmanager
def fitting_flat(estimator: Any, *, final_in_worker: bool = False) -> Iterator[None]:
    """Let stacking ensembles in an estimator be fitted as flat lists in this block.

    The backend "mmap" is the active one; `final_in_worker` fits final estimators in a
    worker, too.
    """
    stacks = find_stacks(estimator)
    if not stacks or is_nested():
        yield
        return
    backend, n_jobs = get_active_backend()
    options = backend.options
    session = _Session(options.placement, final_in_worker, [])
    token = _session.set(session)
    try:
        for stack in stacks:
            _make_flat(stack, session)
        with contextlib.ExitStack() as contexts:
            if _may_be_in_tasks(estimator, stacks):
                waves = WaveBackend(backend, options)
                contexts.enter_context(parallel_config(waves, n_jobs=n_jobs))
            yield
    finally:
        _session.reset(token)
        for known in session.flat:
            flat = known()
            if flat is not None:
                flat.__class__ = plain_class(flat)


def _make_flat(stack: Any, session: _Session) -> None:
    stack.__class__ = _FLAT[plain_class(stack)]
    session.flat.append(weakref.ref(stack))


def _may_be_in_tasks(estimator: Any, stacks: list[Any]) -> bool:
    """Tell if tasks of parallel calls may have to be taken apart."""
    if len(stacks) == 1 and stacks[0] is estimator:
        return False
    if has_callbacks(estimator) is not False:
        note(f"{OWN_WAY}: there are callbacks, which have to be called where it is")
        return False
    return can_see_tasks()


class _Flat:
    """What flat ensembles of both kinds have in common."""

    def __new__(cls, *_args: Any, **_parameters: Any) -> Any:
        made = super().__new__(cls)
        session = _session.get()
        if session is not None:
            session.flat.append(weakref.ref(made))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        # Whoever reads the pickle may be in another process.
        stack: Any = self
        return object.__new__, (plain_class(self),), stack.__getstate__()


def _flat_fit(plain: type[Any]) -> Callable[..., Any]:
    """Return the `fit` of flat ensembles, with the signature of scikit-learn's."""

    @functools.wraps(plain.fit)
    def fit(self: Any, *args: Any, **kwargs: Any) -> Any:
        session = _session.get()
        params = dict(zip(("X", "y"), args, strict=False)) | kwargs
        # Otherwise it is for the ensemble to say what is missing, or too much.
        is_complete = len(args) <= 2 and {"X", "y"} <= params.keys()
        if session is not None and is_complete and not is_nested():
            X, y = params.pop("X"), params.pop("y")
            refusal = fit_stacking(
                *(self, X, y, params, session.placement),
                final_in_worker=session.final_in_worker,
            )
            if refusal is None:
                return self
            note(f"{OWN_WAY}: {refusal}")
            if session.final_in_worker:
                note_refusal(NO_LAST_FIT)
        return plain.fit(self, *args, **kwargs)

    return fit


class _FlatClassifier(_Flat, StackingClassifier):  # type: ignore[misc]
    fit = _flat_fit(StackingClassifier)


class _FlatRegressor(_Flat, StackingRegressor):  # type: ignore[misc]
    fit = _flat_fit(StackingRegressor)


_FLAT: dict[type[Any], type[Any]] = {
    StackingClassifier: named_as(_FlatClassifier, StackingClassifier),
    StackingRegressor: named_as(_FlatRegressor, StackingRegressor),
}
