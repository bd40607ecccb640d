"""Selecting rows of shared arrays: joined views instead of copies.

The result is numpy's, always, in values, order, dtype and shape; only the memory behind
it differs. What cannot be done without a copy is left to numpy.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._accounting import counters
from skl_mmap.memory._mapping import as_array, geometry_of, map_plan
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
    geometry = geometry_of(array)
    plan = plan_rows(geometry, index)
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
    cost = plan.cost
    joined = None
    if plan.is_mapped and geometry.origin and geometry.origin.segment:
        origin = geometry.origin
        joined = map_plan(geometry.origin.segment, plan, origin.settings)
        if joined is None:
            cost = Cost.of_copy(Reason.NO_MAPPINGS, plan.n_bytes)
    counters.add(cost)
    if joined is None:
        return None
    if plan.is_by_column:
        shape: tuple[int, ...] = (array.shape[1], n_rows)
        return as_array(joined, array.dtype, shape, subtype=subtype).T
    shape = (n_rows, *array.shape[1:])
    return as_array(joined, array.dtype, shape, subtype=subtype)
