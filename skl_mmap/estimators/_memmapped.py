"""Memmapped: an estimator around another one, for inputs that should not be copied.

Its attributes are those of the estimator inside it::

    outer.predict ------> outer.__getattr__("predict") ---> looks like inner.predict,
                                                            signature included
    outer.predict(X) ---> outer._run_method("predict", X)

Only what has to be treated in another way is listed here: the outer estimator has what
the inner one has, and nothing else. Other libraries ask for methods by ``hasattr`` and
for parameters by ``inspect.signature``; both get the inner answer.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import os
import sys
import warnings
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType
from typing import TYPE_CHECKING, Any

from joblib import effective_n_jobs, parallel_config
from sklearn.base import BaseEstimator, MetaEstimatorMixin, clone
from sklearn.exceptions import NotFittedError
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted

from skl_mmap._units import parse_bytes
from skl_mmap.containers import count_bytes
from skl_mmap.estimators._arranging import Arranger, note_unarranged
from skl_mmap.estimators._fit_inputs import read_arguments
from skl_mmap.estimators._flat_fits import fitting_flat, is_nested
from skl_mmap.estimators._interception import RewritingBackend, rewriting_tasks
from skl_mmap.estimators._shared_prefix import PrefixSharer, find_prefix
from skl_mmap.estimators._shared_prefix import note_refusal as note_no_prefix
from skl_mmap.estimators._single_fits import (
    NO_LAST_FIT,
    is_search,
    note_refusal,
    refitting_in_worker,
)
from skl_mmap.estimators._stacking import find_stacks, is_stacking
from skl_mmap.exceptions import CopyError, CopyWarning, InvalidParameterError
from skl_mmap.memory import Placement
from skl_mmap.report import MemoryReport, measure

if TYPE_CHECKING:
    from typing_extensions import Self

# These make a new fitted estimator; all others use the one that is there.
_FITTING_METHODS = frozenset({"fit", "fit_predict", "fit_transform", "partial_fit"})
_CHECKS = ("report", "warn", "error", "off")
_SINGLE_FITS = ("here", "worker")
# A fit that is worth sharing takes seconds; half of the default's overhead is enough.
_INTERVAL_SECONDS = 0.02
# Between the user's line and this module, where an estimator is part of another one.
_NOT_THE_USER = {"skl_mmap", "sklearn", "joblib", "contextlib", "functools"}


class _FitMethod:
    """The method ``fit``, with the signature that it has in the inner estimator."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        functools.update_wrapper(self, function)

    def __get__(self, outer: Any, owner: type) -> Any:
        return self if outer is None else outer._bound_method(outer.estimator, "fit")

    def __call__(self, outer: Any, *args: Any, **kwargs: Any) -> Any:
        return self._function(outer, *args, **kwargs)


class Memmapped(MetaEstimatorMixin, BaseEstimator):  # type: ignore[misc]
    """Fit an estimator with its inputs shared between workers, and say what it cost.

    A clone of the estimator is fitted under the joblib backend "mmap": X is shared
    once, folds are mapped and not copied, and the report says what they and the
    estimators needed. Everything else is the estimator's own: methods, fitted
    attributes, tags and metadata requests are there if it has them.

    Parameters
    ----------
    estimator : estimator
        What is fitted: a stacking ensemble, a search, a pipeline, or any other.
    n_jobs : int, default=None
        Workers for parallel calls of the estimator that do not say how many they want.
        None means 1 unless in a ``joblib.parallel_config`` context.
    row_order : {"exact", "any"}, default="exact"
        ``"exact"`` gives the same results as the estimator alone, bit for bit.
        ``"any"`` may reorder the rows within a train set, so that nearly all of them
        are mapped and not copied. If the estimator's folds are scattered in X
        (shuffled, stratified, grouped), tasks get a copy of X in the order of the
        folds, where that saves memory.
    layouts : {"auto", "given"}, default="auto"
        ``"auto"`` hands estimators that would convert X to another dtype or order, as
        trees do to float32, rows of one shared converted copy. Results stay the same,
        bit for bit. ``"given"`` hands on X as it is.
    store : {"auto", "memory", "disk"} or path-like, default="auto"
        Where shared arrays live: in memory, on disk in the temporary folder or in the
        one given, or in memory while there is room.
    adopt : bool, default=False
        Share large arrays in place, without a second copy of X.
    min_bytes : int, str or None, default="1M"
        Arrays of at least this size are shared. If X is smaller, or with None, nothing
        is shared or measured, and the estimator is simply fitted.
    check : {"report", "warn", "error", "off"}, default="report"
        What to do about copies: say so in `report_`, also give a `CopyWarning`, or
        raise a `CopyError` instead of being fitted. ``"off"`` does not even look.
    single_fits : {"here", "worker"}, default="here"
        Where a search fits its best estimator, and a stacking ensemble its final one.
        With ``"worker"``, this process needs no memory for it. Results stay the same,
        bit for bit.
    share_prefix : bool, default=False
        Whether the first steps of a pipeline in a search, those before all that
        candidates change, are fitted once for each fold, and not for each candidate.
        All transformed folds are kept in memory while candidates are fitted. Results
        stay the same, bit for bit.

    Attributes
    ----------
    estimator_ : estimator
        The fitted clone.
    report_ : MemoryReport or None
        What the last fit has cost. None if X was small, with ``check="off"``, and in
        a worker: what it cost there is in the report of the process that sent it.

    See Also
    --------
    skl_mmap.measure : The same for any block of code.
    skl_mmap.arrange : Data in the order of shuffled, stratified or grouped folds.

    Notes
    -----
    X, y and ``sample_weight`` may be arrays, data frames and sparse matrices, but also
    files: a path, or a tuple of a path and columns, read as by `skl_mmap.load`.

    A ``StackingClassifier`` or ``StackingRegressor`` is fitted as one flat list of
    tasks: every fit of a base estimator, on all rows or on a fold, is one of them.
    scikit-learn runs one task for all folds of an estimator. So it is where the
    ensemble is the last step of a pipeline, a part of a voting or another stacking
    ensemble, or the estimator of a search, a calibration or a multi-output regressor;
    rows of folds of folds are rows of X. Candidates of a search share base estimators
    that are fitted to the same model: those of scikit-learn that have the same
    parameters, and take no random numbers or those of a seed. In ``cv_results_``, the
    time of a fit is then that of all its parts, shared ones included, as if they had
    run one after the other. Where that is not safe (``cv="prefit"``, metadata routing,
    several outputs, callbacks; in a search, splitters of others and train scores), and
    for an ensemble in a pipeline under search, scikit-learn's own `fit` is used, and
    the report says so.

    With ``row_order="any"``, searches, stacking ensembles and scikit-learn's other
    estimators with folds and workers need no `arrange`. Train and test sets have the
    rows that they have without it, test sets in the same order. X, y and parameters of
    `fit` are written once in the order of the folds for all tasks, and for nothing
    else: what the estimator returns, keeps or fits on all rows has the order of the
    caller. The original X is needed for that, so that it stays. The copy is not made
    if the folds are no partition of the rows, if they are long runs already, or if
    less would be saved: the report says which. Nor is it for halving searches over a
    number of samples: each iteration draws rows of its folds at random, and no order
    of X has these next to each other.

    With ``single_fits="worker"``, the worker has the threads, the environment and the
    random states of this process during the fit, and the model comes back by the way
    of all results. It concerns scikit-learn's own searches, and ensembles that are
    fitted as one list of tasks. With one job, with callbacks, with parameters of `fit`
    that are no data and with models that cannot be pickled, the fit stays here, and the
    report says so; so it does in tasks of other parallel calls. Parallel calls of the
    estimator itself, as those of forests, run in threads of this one worker.

    With ``share_prefix=True``, a ``GridSearchCV`` or ``RandomizedSearchCV`` over
    scikit-learn's ``Pipeline`` fits and applies first steps in a task for each fold;
    candidates map what these have made. The best estimator is the whole pipeline,
    fitted on all of X as ever. Each candidate fits all steps nevertheless, and the
    report says so, where results could be others: with one job, functions that compute
    scores from X, first steps that draw random numbers without a seed or are given
    parameters of `fit`, steps with ``copy=False``, callbacks, metadata routing, a
    pipeline with a memory of its own, and where there is no room for all folds.
    Times of fits in ``cv_results_`` are those of later steps.

    The fitted estimator may refer to rows of X in shared memory (``KNeighbors``, for
    example); `detach` makes it independent. It is pickled by value.

    In a task of another parallel call, nested calls use joblib's choice of a backend.

    Starting the measurement takes 0.1 s; X smaller than `min_bytes` costs nothing.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.ensemble import StackingRegressor
    >>> from sklearn.linear_model import LassoCV, Ridge
    >>> from skl_mmap import Memmapped
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((20_000, 10))
    >>> y = X.sum(axis=1)
    >>> stack = StackingRegressor([("ridge", Ridge()), ("lasso", LassoCV())])
    >>> model = Memmapped(stack, n_jobs=1).fit(X, y)
    >>> model.predict(X[:2]).shape
    (2,)
    >>> model.named_estimators_["ridge"]
    Ridge()
    >>> model.report_.copied_bytes
    0
    """

    def __init__(
        self,
        estimator: Any,
        *,
        n_jobs: int | None = None,
        row_order: str = "exact",
        layouts: str = "auto",
        store: str | os.PathLike[str] = "auto",
        adopt: bool = False,
        min_bytes: int | str | None = "1M",
        check: str = "report",
        single_fits: str = "here",
        share_prefix: bool = False,
    ) -> None:
        self.estimator = estimator
        self.n_jobs = n_jobs
        self.row_order = row_order
        self.layouts = layouts
        self.store = store
        self.adopt = adopt
        self.min_bytes = min_bytes
        self.check = check
        self.single_fits = single_fits
        self.share_prefix = share_prefix

    @_FitMethod
    def fit(self, X: Any, y: Any = None, **params: Any) -> Self:
        """Fit a clone of the estimator.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features), or path
            The data. A path, or a tuple of a path and columns, is loaded.
        y : array-like of shape (n_samples,), or path, optional
            The target.
        **params : object
            What the estimator's own `fit` takes, ``sample_weight`` for example.

        Returns
        -------
        self : object

        Raises
        ------
        InvalidParameterError
            If a parameter cannot be used.
        CopyError
            If ``check="error"``, and something was copied.
        NotEnoughMemoryError, NotEnoughDiskError
            If there is no room for what has to be shared.
        """
        fitted: Self = self._run_method("fit", X, y, **params)
        return fitted

    def detach(self) -> Self:
        """Copy what the fitted estimator refers to in shared memory.

        Returns
        -------
        self : object

        Notes
        -----
        The fitted estimator is there twice for a moment.
        """
        self._check_is_fitted("detach")
        self.estimator_: Any = copy.deepcopy(self.estimator_)
        return self

    def __sklearn_is_fitted__(self) -> bool:
        return "estimator_" in vars(self)

    def __sklearn_tags__(self) -> Any:
        return get_tags(self.estimator)

    @property
    def _metadata_request(self) -> Any:
        # Of scikit-learn 1.6 and 1.7, a search without a scorer reads what `score`
        # has asked for here, and not from get_metadata_routing().
        return self.estimator._metadata_request

    def get_metadata_routing(self) -> Any:
        """Return the estimator's own requests: everything is passed on to it."""
        return self.estimator.get_metadata_routing()

    def __getattr__(self, name: str) -> Any:
        """Return what the estimator has under a public name."""
        own = vars(self)
        if name.startswith("_") or "estimator" not in own:
            raise AttributeError(
                f"{type(self).__name__!r} object has no attribute {name!r}"
            )
        inner = own.get("estimator_", self.estimator)
        if name in _FITTING_METHODS:
            inner = self.estimator
        value = getattr(inner, name)
        # scikit-learn's ``set_fit_request`` and its like are functions, not methods.
        is_method = getattr(value, "__self__", None) is inner or _is_configuring(name)
        return self._bound_method(inner, name) if is_method else value

    def _bound_method(self, inner: Any, name: str) -> Any:
        """Return the method that stands for one of the inner estimator."""
        # A partial object and not a closure, so that it can be pickled.
        bound = functools.partial(self._run_method, name)
        return functools.update_wrapper(bound, getattr(inner, name))

    def _run_method(self, name: str, *args: Any, **kwargs: Any) -> Any:
        if _is_configuring(name):
            for inner in (self.estimator, vars(self).get("estimator_")):
                if inner is not None:
                    getattr(inner, name)(*args, **kwargs)
            return self
        if name in _FITTING_METHODS:
            return self._fit(name, args, kwargs)
        estimator = self._find_fitted(name)
        method = getattr(estimator, name)
        args, kwargs = read_arguments(method, args, kwargs, self.store)
        with self._backend(self._is_small(args, kwargs)):
            result = method(*args, **kwargs)
        return self if result is estimator else result

    def _fit(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        _check_check(self.check)
        _check_single_fits(self.single_fits)
        _check_share_prefix(self.share_prefix)
        estimator = self._make_estimator(name)
        method = getattr(estimator, name)
        args, kwargs = read_arguments(method, args, kwargs, self.store)
        is_small = self._is_small(args, kwargs)
        watch: AbstractContextManager[Any] = nullcontext()
        if not is_small and self.check != "off" and not is_nested():
            watch = measure(interval_seconds=_INTERVAL_SECONDS)
        report = None
        with self._backend(is_small), watch as measurement:
            if is_small:
                result = method(*args, **kwargs)
            else:
                with self._rewriting(estimator, args, kwargs):
                    result = self._fit_large(estimator, name, args, kwargs)
        if measurement is not None:
            title = f"{type(self).__name__}({type(estimator).__name__})"
            input_bytes = count_bytes(_data_of(args, kwargs))
            report = measurement.report(title, input_bytes=input_bytes)
            _act_on(report, self.check)
        self.estimator_ = estimator
        self.report_ = report
        return self if result is estimator else result

    def _fit_large(
        self, estimator: Any, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        in_worker = self.single_fits == "worker" and not is_nested()
        with contextlib.ExitStack() as stack:
            stack.enter_context(fitting_flat(estimator, final_in_worker=in_worker))
            if in_worker and is_search(estimator):
                # A stacking ensemble fits the last of its own fits there.
                if not is_stacking(estimator.estimator):
                    stack.enter_context(refitting_in_worker(estimator))
            elif in_worker and not find_stacks(estimator):
                note_refusal(NO_LAST_FIT)
            return getattr(estimator, name)(*args, **kwargs)

    def _rewriting(
        self, estimator: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> AbstractContextManager[Any]:
        """Return what has a hand in the tasks of a fit, if an option asks for it."""
        if is_nested():
            return nullcontext()
        y = args[1] if len(args) > 1 else kwargs.get("y")
        n_jobs = effective_n_jobs(getattr(estimator, "n_jobs", None))
        if self.share_prefix:
            n_steps = find_prefix(estimator, kwargs, n_jobs)
            if isinstance(n_steps, int):
                sharer = PrefixSharer(estimator, n_steps, self._make_backend)
                return rewriting_tasks(estimator, y, sharer)
            note_no_prefix(n_steps)
        if self.row_order == "exact":
            return nullcontext()
        if find_stacks(estimator) and not is_stacking(estimator):
            # Folds of folds are known by their rows in the caller's X.
            note_unarranged("an ensemble in the estimator is fitted in parts")
            return nullcontext()
        arranger = Arranger(
            estimator,
            n_jobs,
            Placement.from_parameter(self.store),
            self.min_bytes,
            needs_both=self.adopt or is_stacking(estimator),
        )
        return rewriting_tasks(estimator, y, arranger)

    def _make_estimator(self, name: str) -> Any:
        """Return the estimator to fit: a clone, or the one that goes on learning."""
        goes_on = name == "partial_fit" or getattr(self.estimator, "warm_start", False)
        if not goes_on or "estimator_" not in vars(self):
            return clone(self.estimator)
        if name != "partial_fit":
            self.estimator_.set_params(**clone(self.estimator).get_params(deep=False))
        return self.estimator_

    def _find_fitted(self, name: str) -> Any:
        if "estimator_" in vars(self):
            return self.estimator_
        # What is fitted when it is new has no state, whatever its tags say.
        fresh = clone(self.estimator)
        try:
            check_is_fitted(fresh)
        except NotFittedError:
            self._check_is_fitted(name)
        return fresh

    def _check_is_fitted(self, name: str) -> None:
        if not self.__sklearn_is_fitted__():
            raise NotFittedError(
                f"This {type(self).__name__} instance is not fitted yet, so that "
                f"{name} has nothing to work with. Call fit first."
            )

    def _is_small(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Tell if sharing the data would cost more than it saves."""
        if self.min_bytes is None:
            return True
        n_bytes = count_bytes(_data_of(args, kwargs))
        least = parse_bytes(self.min_bytes, name="min_bytes")
        return n_bytes is not None and n_bytes < least

    def _backend(self, is_small: bool) -> AbstractContextManager[Any]:
        """Return what sets the backend; nothing if X is small, and no jobs wanted."""
        backend = self._make_backend()  # first: it checks the parameters
        config: dict[str, Any] = {} if self.n_jobs is None else {"n_jobs": self.n_jobs}
        if is_small and not config:
            return nullcontext()
        # In a task of another parallel call, joblib's choice for nested calls stays:
        # processes that start processes would be more than there are cores.
        if not is_nested():
            config["backend"] = backend
        return parallel_config(**config) if config else nullcontext()

    def _make_backend(self) -> RewritingBackend:
        backend = RewritingBackend(
            row_order=self.row_order,
            layouts=self.layouts,
            store=self.store,
            adopt=self.adopt,
            min_bytes=self.min_bytes,
        )
        backend.owner = type(self).__name__
        return backend


def _data_of(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return args[0] if args else kwargs.get("X")


def _is_configuring(name: str) -> bool:
    """Tell if a method only says how later calls work, and returns its estimator."""
    return name.startswith("set_")  # set_output, set_fit_request


def _check_check(check: object) -> None:
    """Raise an `InvalidParameterError` if this is no value of ``check``."""
    if not isinstance(check, str) or check not in _CHECKS:
        raise InvalidParameterError(
            f"check={check!r} does not say what to do about copies. Pass one of "
            f"{', '.join(map(repr, _CHECKS))}."
        )


def _check_single_fits(where: object) -> None:
    """Raise an `InvalidParameterError` if this is no value of ``single_fits``."""
    if not isinstance(where, str) or where not in _SINGLE_FITS:
        raise InvalidParameterError(
            f"single_fits={where!r} does not say where the last fit of a search or an "
            f"ensemble runs. Pass one of {', '.join(map(repr, _SINGLE_FITS))}."
        )


def _check_share_prefix(shares: object) -> None:
    """Raise an `InvalidParameterError` if this is no value of ``share_prefix``."""
    if not isinstance(shares, bool):
        raise InvalidParameterError(
            f"share_prefix={shares!r} does not say whether candidates of a search "
            "share the results of first steps. Pass True or False."
        )


def _act_on(report: MemoryReport, check: str) -> None:
    """Warn of large copies, or raise a `CopyError`, if that was asked for."""
    if check not in ("warn", "error") or not report.large_copies:
        return
    text = f"{report.title}: {' '.join(report.large_copies)}"
    if check == "error":
        raise CopyError(f"{text} With check='report', this would be no error.")
    warnings.warn(text, CopyWarning, stacklevel=_find_user_frame())


def _find_user_frame() -> int:
    """Return the stack level, for the caller, of the line that the user wrote."""
    frame: FrameType | None = sys._getframe(1)
    level = 1
    while frame is not None:
        package = frame.f_globals.get("__name__", "").partition(".")[0]
        if package not in _NOT_THE_USER:
            return level
        frame, level = frame.f_back, level + 1
    return 1
