"""SharedArray: an ndarray whose rows can be selected without a copy.

Rows are joined views instead of copies. The result is numpy's, always, in values,
order, dtype and shape; only the memory behind it differs. What cannot be done without a
copy is left to numpy.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap import _compat
from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._closing import WeakMethod, close_array, close_at_exit
from skl_mmap.memory._gathered_folds import gather_rows
from skl_mmap.memory._mapping import (
    Mapping,
    as_array,
    find_mapping,
    geometry_of,
    map_plan,
)
from skl_mmap.memory._plan import (
    Cost,
    Geometry,
    Plan,
    count_selected,
    plan_rows,
    plan_runs,
    row_key,
)
from skl_mmap.memory._reasons import Reason
from skl_mmap.memory._runs import Runs
from skl_mmap.memory._shortcuts import add_plain_methods, without_copy

if TYPE_CHECKING:
    from typing_extensions import Self


# Nothing more than `select_rows` knows can be made of these.
_OWN_KEYS = frozenset({int, slice, list, np.ndarray})


class SharedArray(np.ndarray[Any, np.dtype[Any]]):
    """An array in shared memory that selects rows without copying them.

    Tasks get their large arrays as this class; it is not made by hand. ``X[i]`` and
    ``np.take(X, i, axis=0)`` with an integer index array or a boolean mask return a
    *joined view*: rows that are far apart in the file appear next to each other in
    virtual memory. Values, order, dtype, shape and errors are exactly numpy's. A
    joined view is copy-on-write: writing to it changes neither `X` nor any other view.
    ``np.delete``, ``np.concatenate``, ``compress`` and ``copy`` save memory too.

    Everything else returns a plain ``ndarray``, but for views (slices, transposes,
    reshapes), which stay shared. Pickling is by value.

    It is a context manager that calls `close` at its end.

    Notes
    -----
    The class holds no state. What is shared is found by the address of the memory,
    so that ``np.asarray(X)``, which scikit-learn's input validation returns, is still
    sent to workers as a reference.
    """

    # Called by close(): what was done for this array alone is undone there.
    on_close: Callable[[], object] | None = None
    # Selects rows in a way of its own, or returns None; see _train_rows.py.
    take_train: Callable[[npt.NDArray[Any]], Any] | None = None

    # As numpy.memmap: in numpy's functions, plain arrays win.
    __array_priority__ = -100.0

    def __enter__(self) -> Self:
        return self

    close = WeakMethod(close_array)
    __exit__ = WeakMethod(close_at_exit)

    def __getitem__(self, key: Any) -> Any:
        joined = select_rows(self, key, SharedArray)
        if joined is None and type(key) not in _OWN_KEYS and self.nbytes > PAGE_BYTES:
            joined = without_copy(np.ndarray.__getitem__, self, key)
        if joined is not None:
            return joined
        return _plain_unless_shared(super().__getitem__(key))

    def __deepcopy__(self, memo: dict[int, Any] | None) -> Any:
        return np.asarray(self).__deepcopy__(memo)

    def __array_wrap__(self, array: Any, context: Any = None, *args: Any) -> Any:
        # The signature of NumPy 2; NumPy 1 does not pass return_scalar, and expects a
        # scalar for every result without dimensions.
        if self is array:
            return array
        if args[0] if args else array.ndim == 0:
            return array[()]
        return array.view(np.ndarray)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()

    def __array_function__(
        self, function: Any, types: Any, args: Any, kwargs: Any
    ) -> Any:
        result = without_copy(function, *args, **kwargs)
        if result is None:
            result = super().__array_function__(function, types, args, kwargs)
        return _plain_unless_shared(result)


def _plain_unless_shared(result: Any) -> Any:
    if isinstance(result, SharedArray) and find_mapping(result) is None:
        return result.view(np.ndarray)
    return result


add_plain_methods(SharedArray)
_compat.hash_as_plain(SharedArray, np.asarray)


def select_rows(
    array: npt.NDArray[Any], key: object, subtype: type[npt.NDArray[Any]]
) -> npt.NDArray[Any] | None:
    """Select rows of a shared array as a joined view, and count what it cost.

    Parameters
    ----------
    array : ndarray of shape (n_rows, ...)
        Any array; only one that lies in a mapping can be joined.
    key : object
        What stands between the brackets.
    subtype : type
        Class of the result.

    Returns
    -------
    ndarray or None
        None if the rows have to be copied, or the key is not about rows or not valid:
        then numpy has to do it.
    """
    if array.ndim == 0 or array.dtype.hasobject:
        return None
    index = row_key(key, array.ndim)
    if index is None:
        return None
    take_train = getattr(array, "take_train", None)
    if take_train is not None and (rows := take_train(index)) is not None:
        return rows  # type: ignore[no-any-return]
    geometry = geometry_of(array)
    plan = plan_rows(geometry, index)
    gathered = gather_rows(plan, geometry, array, index, subtype=subtype)
    if gathered is not None:
        return gathered
    return carry_out(plan, geometry, array, count_selected(index), subtype)


def join_rows(
    array: npt.NDArray[Any], runs: Runs, subtype: type[npt.NDArray[Any]] = np.ndarray
) -> npt.NDArray[Any] | None:
    """Join runs of rows of a shared, C-contiguous array; None if it is not worth it."""
    geometry = geometry_of(array)
    n_rows = int((runs[:, 1] - runs[:, 0]).sum())
    return carry_out(plan_runs(geometry, runs), geometry, array, n_rows, subtype)


def carry_out(
    plan: Plan,
    geometry: Geometry,
    array: npt.NDArray[Any],
    n_rows: int,
    subtype: type[npt.NDArray[Any]] = np.ndarray,
) -> npt.NDArray[Any] | None:
    """Map what was planned for rows of an array, and count what it costs.

    None if nothing was planned to be mapped, or the kernel has no room for it.
    """
    joined = map_counted(plan, geometry)
    if joined is None:
        return None
    if plan.is_by_column:
        shape: tuple[int, ...] = (array.shape[1], n_rows)
        return as_array(joined, array.dtype, shape, subtype=subtype).T
    shape = (n_rows, *array.shape[1:])
    return as_array(joined, array.dtype, shape, subtype=subtype)


def map_counted(
    plan: Plan, geometry: Geometry, *, is_new: bool = False
) -> Mapping | None:
    """Map what was planned, writable in any case if it `is_new`, and count the cost."""
    if not plan.is_mapped and not plan.cause.reason.is_counted:
        return None  # without more ado: rows are often selected a few at a time
    cost, joined, origin = plan.cost, None, geometry.origin
    if plan.is_mapped and origin and origin.segment:
        mode = "c" if is_new else origin.settings.mmap_mode
        settings = origin.settings._replace(mmap_mode=mode)
        joined = map_plan(origin.segment, plan, settings)
        if joined is not None and is_new and not joined.is_writable:
            joined = None  # no writable pages are promised, and who reads needs none
        if joined is None:
            cost = Cost.of_copy(Reason.NO_MAPPINGS, plan.n_bytes)
        else:
            cost = joined.cost
    counters.add(cost)
    return joined
