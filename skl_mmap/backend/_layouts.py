"""The layout in which a task gets X, with ``layouts="auto"``.

An estimator that would convert X by itself, fold by fold and in every worker, gets a
view of one converted copy that all workers share::

    task(estimator, X, ...)  -->  task(estimator, InLayout(X, float32), ...)
                                                   |
                                       the store makes it once, when
                                       the first such task is pickled

Exactness needs two things. The estimator must make this very conversion itself, which
`skl_mmap.copies` knows; and nothing else in the task may look at X, which is true of
the tasks that scikit-learn makes.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import is_fitting_task, is_handing_scorer
from skl_mmap.memory import MAX_RUNS, Conversion, Runs, find_runs
from skl_mmap.monitor import note
from skl_mmap.orders import rows_of_pages

# What they do with X is what scikit-learn's own tasks do: select rows, and hand them to
# the estimator or to a scorer.
_OWN_TASKS = frozenset(
    {
        ("skl_mmap.estimators._flat_list", "fit_rows"),
        ("skl_mmap.estimators._flat_list", "predict_fold"),
        ("skl_mmap.estimators._flat_list", "try_fit_rows"),
        ("skl_mmap.estimators._flat_list", "try_predict_fold"),
        ("skl_mmap.estimators._single_fits", "fit_alone"),
    }
)
# Those of them that select rows, so that folds have C order whatever X has.
_TRAIN = "train"
_KINDS = "fiu"


class InLayout(NamedTuple):
    """An array of a task that is to be shared in another layout.

    Attributes
    ----------
    array : ndarray
        The array as the task has it.
    conversion : Conversion
        The layout.
    column_runs : tuple of (int, int)
        Runs of the train set, if it is to be selected into Fortran order.
    """

    array: npt.NDArray[Any]
    conversion: Conversion
    column_runs: tuple[tuple[int, int], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    @property
    def row_bytes(self) -> int:
        """Bytes of the part of one row that lies in one piece in the other layout."""
        itemsize = self.conversion.dtype_of(self.array).itemsize
        return itemsize if self.conversion.order == "F" else itemsize * self.shape[1]


def name_conversion(array: npt.NDArray[Any], conversion: Conversion) -> str:
    """Name a layout, as in "float32 C"."""
    return f"{conversion.dtype_of(array)} {conversion.order_of(array)}"


def with_layouts(items: list[Any], min_bytes: int) -> list[Any]:
    """Return the tasks of a batch with X in the layout that their estimators want."""
    return [_with_layout(item, min_bytes) for item in items]


def _with_layout(item: Any, min_bytes: int) -> Any:
    function, args, kwargs = item
    arguments = _bind(function, args, kwargs)
    if arguments is None or not _is_convertible(arguments.get("X"), min_bytes):
        return item
    X: npt.NDArray[Any] = arguments["X"]
    conversion = _choose_conversion(arguments)
    if conversion is None or not conversion.is_needed_for(X):
        return item
    return _replace(item, X, InLayout(X, conversion))


def with_columns(item: Any) -> Any:
    """Decide how the train set of a task is selected from an array in Fortran order.

    Column by column if all of it can be mapped like that. Otherwise it would be copied
    into C order, and converted by the estimator, so that X had better be in C order.
    """
    function, args, kwargs = item
    X = next((v for v in (*args, *kwargs.values()) if type(v) is InLayout), None)
    if X is None or X.conversion.order != "F":
        return item
    arguments = _bind(function, args, kwargs) or {}
    if arguments.get(_TRAIN) is None:
        return item  # all rows, in the order that the estimator wants
    problem, runs = _find_columns(arguments, X.shape, X.row_bytes)
    if problem or runs is None:
        note(f"train sets are copied into Fortran order by the estimator: {problem}")
        settled: Any = X._replace(conversion=X.conversion._replace(order="C"))
        if not settled.conversion.is_needed_for(X.array):
            settled = X.array
    else:
        settled = X._replace(column_runs=tuple(map(tuple, runs.tolist())))
    return _replace(item, X, settled)


def _find_columns(
    arguments: dict[str, Any], shape: tuple[int, ...], itemsize: int
) -> tuple[str | None, Runs | None]:
    """Say why a train set is not selected column by column, and find its runs."""
    train = arguments[_TRAIN]
    runs = train.runs if hasattr(train, "runs") else _runs_of(train, shape[0])
    problem = why_not_by_column(shape, itemsize, runs)
    if arguments.get("return_train_score"):
        problem = "train scores are computed from them as well"
    return problem, runs


def find_saved_conversion(item: Any, min_bytes: int) -> str:
    """Name the layout, as "float32 C", that ``layouts="auto"`` would share with a task.

    Empty where nobody knows without a probe, or where the estimator would convert its
    train set nevertheless.
    """
    arguments = _bind(*item)
    if arguments is None or not _is_convertible(arguments.get("X"), min_bytes):
        return ""
    layout, _ = _find_layout(arguments, probes=False)
    if layout is None:
        return ""
    if arguments.get(_TRAIN) is not None and layout.order == "F":
        itemsize = np.dtype(layout.dtype).itemsize
        if _find_columns(arguments, arguments["X"].shape, itemsize)[0]:
            return ""
    return f"{layout.dtype} {layout.order}"


def _runs_of(train: Any, n_rows: int) -> Runs | None:
    train = np.asarray(train)
    is_index = train.ndim == 1 and train.size and train.dtype.kind in "iub"
    return find_runs(train, n_rows, max_runs=MAX_RUNS) if is_index else None


def why_not_by_column(
    shape: tuple[int, ...], itemsize: int, runs: Runs | None
) -> str | None:
    """Say why the columns of some rows cannot all be mapped; None if they can.

    Each column begins at a page if `n_samples` fills whole pages, and so does each
    column of the train set if its size does. The same holds for its runs.

    Examples
    --------
    >>> import numpy as np
    >>> why_not_by_column((5120, 10), 8, np.array([[0, 1024], [2048, 5120]]))
    >>> why_not_by_column((5120, 10), 8, np.array([[0, 1000], [2048, 5120]]))
    'their runs of rows do not begin and end at multiples of 512'
    """
    unit = rows_of_pages(itemsize)
    if runs is None or len(runs) * shape[1] > MAX_RUNS:
        return "their rows are not in long runs"
    if shape[0] % unit:
        return f"the number of rows, {shape[0]}, is not a multiple of {unit}"
    if np.any(runs % unit):
        return f"their runs of rows do not begin and end at multiples of {unit}"
    return None


def _replace(item: Any, old: Any, new: Any) -> Any:
    function, args, kwargs = item
    return (
        function,
        tuple(new if arg is old else arg for arg in args),
        {name: new if value is old else value for name, value in kwargs.items()},
    )


def _bind(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> dict[str, Any] | None:
    """Return the arguments of a task by name; None if it may do anything with X."""
    function = inspect.unwrap(function)
    name = getattr(function, "__module__", ""), getattr(function, "__qualname__", "")
    if name not in _OWN_TASKS and not is_fitting_task(function):
        return None
    arguments = inspect.signature(function).bind_partial(*args, **kwargs).arguments
    return arguments if is_handing_scorer(arguments.get("scorer")) else None


def _is_convertible(X: Any, min_bytes: int) -> bool:
    # Of frames, conversions would have to be those of pandas.
    return (
        isinstance(X, np.ndarray)
        and type(X) is not np.matrix
        and not isinstance(X, np.ma.MaskedArray)
        and X.ndim == 2
        and X.dtype.kind in _KINDS
        and X.dtype.isnative
        and X.nbytes >= max(min_bytes, 1)
    )


def _given_order(arguments: dict[str, Any]) -> str:
    """Return the order in which the estimator gets X, or rows of it."""
    # numpy selects rows into C order, and has to copy them from any other.
    selects_rows = arguments.get(_TRAIN) is not None
    return "C" if selects_rows else Conversion().order_of(arguments["X"])


def _find_layout(arguments: dict[str, Any], *, probes: bool = True) -> tuple[Any, str]:
    """Return the layout that the estimator of a task wants, or None, and why."""
    from skl_mmap.copies import find_layout

    estimator = _estimator_of(arguments)
    if estimator is None:
        return None, "its parameters cannot be set"
    X, y, order = arguments["X"], arguments.get("y"), _given_order(arguments)
    return find_layout(estimator, X, y, order=order, probes=probes)


def _choose_conversion(arguments: dict[str, Any]) -> Conversion | None:
    layout, reason = _find_layout(arguments)
    name = type(arguments["estimator"]).__name__
    if layout is None:
        note(f"{name} was given X as it is: {reason}")
        if arguments.get(_TRAIN) is None:
            return None
        return Conversion(order=_given_order(arguments), is_optional=True)
    note(f"{name} was given X as {layout.dtype} {layout.order}: {reason}")
    return Conversion(np.dtype(layout.dtype), layout.order, is_optional=True)


def _estimator_of(arguments: dict[str, Any]) -> Any:
    """Return the estimator as it will be fitted; None if that cannot be known."""
    estimator = arguments.get("estimator")
    parameters = arguments.get("parameters")
    if not parameters:
        return estimator
    from sklearn.base import clone

    try:
        estimator = clone(estimator)
        return estimator.set_params(**clone(parameters, safe=False))
    except Exception:  # noqa: BLE001 - the task itself will say what is wrong
        return None
