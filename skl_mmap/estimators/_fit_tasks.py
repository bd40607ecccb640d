"""Tasks that fit an estimator on rows of X, whoever made them.

Searches, cross-validation, voting, calibration and stacking itself each have a function
of their own for their tasks. What they have in common is what a `FitTask` says.
"""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from sklearn.base import clone

from skl_mmap._compat import is_fit_on_rows
from skl_mmap.estimators import _flat_list
from skl_mmap.estimators._flat_list import WEIGHTS
from skl_mmap.estimators._rows import Rows
from skl_mmap.estimators._stacking import find_stacks, is_stacking

# A task is what joblib calls one: (function, args, kwargs).
Item = Any

_TRAIN = "train"
_OWN = {
    getattr(_flat_list, name)
    for name in ("fit_rows", "predict_fold", "try_fit_rows", "try_predict_fold")
}


class FitTask(NamedTuple):
    """A task that fits an estimator on rows of X.

    Attributes
    ----------
    item : (function, args, kwargs)
        The task.
    estimator : estimator
        What is fitted, with the parameters that it is fitted with.
    X, y : array-like of n_samples
        All rows.
    rows : Rows or None
        Those that it is fitted on; None for all.
    fit_params : dict
        Further arguments of `fit`, for all rows.
    uses_train_set : bool
        Whether it uses the train set for more than the fit.
    """

    item: Item
    estimator: Any
    X: Any
    y: Any
    rows: Rows | None
    fit_params: dict[str, Any]
    uses_train_set: bool

    def with_estimator(self, estimator: Any) -> Item:
        """Return the task with another estimator in place of its own."""
        function, args, kwargs = self.item
        if "estimator" in kwargs:
            return function, args, kwargs | {"estimator": estimator}
        return function, (estimator, *args[1:]), kwargs


def read_fit_task(item: Item) -> FitTask | None:
    """Return what a task fits; None if it does something else."""
    arguments = _bind(item)
    if arguments is None or not {"estimator", "X", "y"} <= arguments.keys():
        return None
    estimator, parameters = arguments["estimator"], arguments.get("parameters")
    if parameters and is_stacking(estimator):
        # As the task does it.
        estimator = clone(estimator).set_params(**clone(parameters, safe=False))
    fit_params = dict(arguments.get("fit_params") or {})
    if _TRAIN not in arguments and arguments.get(WEIGHTS) is not None:
        fit_params[WEIGHTS] = arguments[WEIGHTS]  # of one output of several
    train = arguments.get(_TRAIN)
    rows = train if train is None or isinstance(train, Rows) else Rows(train)
    return FitTask(
        *(item, estimator, arguments["X"], arguments["y"], rows, fit_params),
        uses_train_set=bool(arguments.get("return_train_score")),
    )


def find_hidden_stack(item: Item) -> str:
    """Return the class of the estimator of a task, if an ensemble is a part of it."""
    estimator = (_bind(item) or {}).get("estimator")
    if is_stacking(estimator) or not find_stacks(estimator):
        return ""
    return type(estimator).__name__


def train_set_of(item: Item) -> Any:
    """Return the train set of a task; None if it has none."""
    return (_bind(item) or {}).get(_TRAIN)


def with_train_set(item: Item, train: Any) -> Item:
    """Return a task with another train set, if it has one."""
    before = train_set_of(item)
    if before is None:
        return item
    function, args, kwargs = item
    return (
        function,
        tuple(train if arg is before else arg for arg in args),
        {name: train if arg is before else arg for name, arg in kwargs.items()},
    )


def _bind(item: Item) -> dict[str, Any] | None:
    function, args, kwargs = item
    function = inspect.unwrap(function)
    if function not in _OWN and not is_fit_on_rows(function):
        return None
    return inspect.signature(function).bind_partial(*args, **kwargs).arguments
