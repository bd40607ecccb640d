"""Rows in the order of the folds, for tasks that were given scattered ones.

::

    parent                                            worker
    task(X, y, train, test)
      X, y --gathered once, in the order of the folds--> arranged X, y
      train, test --where these rows are now-----------> runs: mapped

The rows that a task selects are the same, in the same order; the backend's
``row_order="any"`` then puts train sets into an order in which they are mapped. All
that does not select rows by `train` and `test` has X as it was given, and so have
models that are fitted on all rows: what they say of row numbers is true of the
caller's X.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import has_callbacks, select_rows
from skl_mmap._units import format_bytes
from skl_mmap.backend import InLayout
from skl_mmap.containers import container_of, count_bytes, count_rows, gather
from skl_mmap.estimators._interception import Splits, TaskRewriter
from skl_mmap.estimators._single_fits import is_halving
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import (
    Cause,
    ClosedAtExit,
    Placement,
    Reason,
    Settings,
    SharedArray,
    is_shared_already,
    trim_heap,
)
from skl_mmap.monitor import note
from skl_mmap.orders import find_partition
from skl_mmap.preview import check_folds

_TRAIN, _TEST, _X = "train", "test", "X"
# Arguments of tasks with a row for each sample, and those that may have such in them.
_ROWS = frozenset({_X, "y", "sample_weight"})
_PARAMS = frozenset({"fit_params", "score_params", "routed_params"})
_KNOWN_MODULES = ("sklearn.", "skl_mmap.estimators.")
# Why rows are copied where they lie, and would not be in the order of the folds.
_CURED = frozenset(
    {Reason.SCATTERED, Reason.SHORT_RUNS, Reason.SEAMS, Reason.NOT_BY_ROW}
)
# Of X: if workers would copy less of it than that, the folds are good as they are.
_LEAST_SHARE = 1 / 8


class Arranger(TaskRewriter):
    """Gives tasks their rows in the order of the folds, where that saves memory.

    Parameters
    ----------
    estimator : estimator
        What is going to be fitted.
    n_jobs : int
        Workers, each of which may hold the copy of a fold.
    placement : Placement
        Where arranged rows live.
    min_bytes : int or None
        The backend's parameter.
    needs_both : bool
        Whether X is shared as it is too, so that arranging it takes another X.
    """

    def __init__(
        self,
        estimator: Any,
        n_jobs: int,
        placement: Placement,
        min_bytes: int | str | None,
        *,
        needs_both: bool,
    ) -> None:
        self._estimator = estimator
        self._n_jobs = n_jobs
        self._placement = placement
        self._min_bytes = min_bytes
        self._needs_both = needs_both
        self._permutation: npt.NDArray[np.intp] | None = None
        self._places: npt.NDArray[np.intp] | None = None
        # What was arranged, by the id of what it was made of, which is kept with it.
        self._arranged: dict[int, tuple[Any, Any]] = {}

    def see_folds(self, X: Any, y: Any, splits: Splits) -> None:
        self.release()
        reason = self._find_refusal(X, splits)
        if reason is None:
            reason = self._find_order(X, splits)
        if reason is not None:
            note_unarranged(reason)

    def _find_refusal(self, X: Any, splits: Splits) -> str | None:
        """Say why it cannot be done or does not pay; None if it does."""
        shape = tuple(getattr(X, "shape", ()))
        n_bytes = count_bytes(X)
        if self._n_jobs == 1:
            return "with one job, there are no workers to share it with"
        if has_callbacks(self._estimator) is not False:
            return "there are callbacks, which would see them in another order"
        is_of_samples = getattr(self._estimator, "resource", "") == "n_samples"
        if is_halving(self._estimator) and is_of_samples:
            return (
                "each iteration of a halving search draws rows of its folds at random, "
                "which lie scattered in any order"
            )
        if not splits or container_of(X) is None or not n_bytes:
            return f"rows of {type(X).__name__} are not mapped in any order"
        if len(shape) == 2 and len(set(shape)) == 1:
            return "it is square, and may be a matrix of pairs"
        copied_bytes = self._count_copied(X, splits[len(splits) // 2])
        saved_bytes = self._n_jobs * copied_bytes
        if saved_bytes < n_bytes * _LEAST_SHARE:
            return "nearly all rows of its folds are mapped where they lie"
        if not (self._needs_both or _is_mapped(X)):
            return None
        if saved_bytes <= n_bytes:
            return (
                f"a copy of it ({format_bytes(n_bytes)}) takes more than the copies of "
                f"folds that it saves ({format_bytes(saved_bytes)})"
            )
        if not self._placement.has_room(n_bytes):
            return f"there is no room for a copy of it ({format_bytes(n_bytes)})"
        return None

    def _count_copied(self, X: Any, split: tuple[Any, Any]) -> int:
        """Return how much of one fold a task would copy, and would not if arranged."""
        try:
            report = check_folds([split], X, row_order="any", min_bytes=self._min_bytes)
        except InvalidParameterError:  # the task will say what is wrong
            return 0
        return sum(
            n_bytes
            for rows in report.folds[0].parts
            for key, n_bytes in rows.copy_reasons.items()
            if Cause.from_key(key).reason in _CURED
        )

    def _find_order(self, X: Any, splits: Splits) -> str | None:
        """Find the order of the folds, or say why there is none."""
        try:
            found = find_partition(
                splits, X, n_samples=count_rows(X, _X), classifier=False
            )
        except InvalidParameterError as error:
            return str(error)
        if np.all(found.permutation[1:] > found.permutation[:-1]):
            return "they are in the order of the folds already"
        self._permutation = found.permutation
        self._places = np.empty_like(found.permutation)
        self._places[found.permutation] = np.arange(len(found.permutation))
        return None

    def rewrite(self, item: Any) -> Any:
        if self._permutation is None:
            return item
        function, args, kwargs = item
        plain = inspect.unwrap(function)
        if not getattr(plain, "__module__", "").startswith(_KNOWN_MODULES):
            return item
        names = (*[*inspect.signature(plain).parameters][: len(args)], *kwargs)
        arguments = dict(zip(names, (*args, *kwargs.values()), strict=False))
        if len(arguments) != len(args) + len(kwargs) or not self._knows(arguments):
            return item
        try:
            changed = {k: self._arrange_argument(k, v) for k, v in arguments.items()}
        except Exception as error:  # noqa: BLE001 - the task is right as it is
            self._permutation = None
            note_unarranged(str(error))
            return item
        values = tuple(changed.values())
        return function, values[: len(args)], {name: changed[name] for name in kwargs}

    def _knows(self, arguments: Mapping[str, Any]) -> bool:
        """Tell if a task selects rows by its indices, and of which arguments."""
        if any(arguments.get(name) is None for name in (_TRAIN, _TEST, _X)):
            return False
        X = arguments[_X]
        arranged = (found for _, found in self._arranged.values())
        if isinstance(X, InLayout) or any(X is found for found in arranged):
            return False  # it was rewritten before: layouts are chosen after that
        return all(
            self._has_rows(value) == (name in _ROWS)
            for name, value in arguments.items()
            if name not in (_TRAIN, _TEST, *_PARAMS) and value is not None
        )

    def _has_rows(self, value: Any) -> bool:
        """Tell if a value has a row for each sample, as scikit-learn decides it."""
        assert self._permutation is not None
        # Ensembles and pipelines have a length, which is another one.
        is_other = hasattr(type(value), "get_params")
        if is_other or isinstance(value, str | bytes | Mapping):
            return False
        try:
            return count_rows(value, "") == len(self._permutation)
        except InvalidParameterError:
            return False

    def _arrange_argument(self, name: str, value: Any) -> Any:
        if name in (_TRAIN, _TEST):
            rows = np.asarray(value)
            if rows.dtype == bool:
                rows = np.flatnonzero(rows)
            assert self._places is not None
            return self._places[rows]
        if name in _ROWS:
            return None if value is None else self._arrange(value, name)
        return self._arrange_params(value) if name in _PARAMS else value

    def _arrange_params(self, params: Any) -> Any:
        """Arrange what has rows among parameters of `fit` and of scorers."""
        if isinstance(params, dict):
            changed = copy.copy(params)  # scikit-learn has a class of its own
            changed.update((k, self._arrange_params(v)) for k, v in params.items())
            return changed
        return self._arrange(params, "params") if self._has_rows(params) else params

    def _arrange(self, values: Any, name: str) -> Any:
        """Return values in the order of the folds, made once."""
        if id(values) not in self._arranged:
            self._arranged[id(values)] = values, self._gather(values, name)
        return self._arranged[id(values)][1]

    def _gather(self, values: Any, name: str) -> Any:
        assert self._permutation is not None
        container = container_of(values)
        if container is None:  # lists stay lists
            return select_rows(values, self._permutation)
        settings = Settings()
        arranged = gather(values, self._permutation, self._placement, settings, name)
        if not isinstance(arranged, SharedArray | ClosedAtExit):
            # This process needs no copy of its own beside the shared one.
            shared = container.share(arranged, self._placement, settings)
            arranged = arranged if shared is None else shared
        trim_heap()
        if name == _X:
            size = format_bytes(count_bytes(arranged) or 0)
            note(
                f"X ({size}) was written once in the order of the folds, whose rows "
                "are scattered, so that tasks need not copy them"
            )
        return arranged

    def release(self) -> None:
        self._arranged.clear()
        # Later calls, of the refit for example, have other folds, or tell of theirs.
        self._permutation = self._places = None


def _is_mapped(X: Any) -> bool:
    """Tell if workers could map X as it is: it is a file, or shared already."""
    return is_shared_already(X) or isinstance(X, ClosedAtExit)


def note_unarranged(reason: str) -> None:
    """Say in the report why rows keep their order."""
    note(f"row_order='any' has left the rows of X in their order: {reason}")
