"""The plan of rows of an array in Fortran order, where the result has that order too.

pandas takes rows of a frame that lies column by column into a frame that does so too:
each run of rows is a run in every column. Hardly any of them agrees with the pages of
the file, so this is of use only if there are shifted pages.
"""

from __future__ import annotations

from typing import Any

import numpy.typing as npt

from skl_mmap.memory._plan import MAX_RUNS, Geometry, Plan, plan_columns, plan_rows
from skl_mmap.memory._runs import find_runs

# Of what is less, most would be copied by each task all the same.
_MIN_MAPPED_SHARE = 0.75


def plan_by_column(geometry: Geometry, index: npt.NDArray[Any]) -> Plan:
    """Plan the selection of rows of an array, in Fortran order if it has that order.

    Parameters
    ----------
    geometry : Geometry
        The array.
    index : ndarray of shape (n_selected,)
        Integer indices.

    Returns
    -------
    Plan
        As that of `plan_rows`, unless columns are joined of shifted pages.
    """
    if geometry.order == "F" and _is_worth_sharing(geometry, len(index)):
        n_columns = geometry.row_bytes // geometry.itemsize
        runs = find_runs(index, geometry.n_rows, max_runs=MAX_RUNS // n_columns)
        if runs is not None:
            plan = plan_columns(geometry, runs)
            if plan.mapped_bytes >= _MIN_MAPPED_SHARE * plan.n_bytes:
                return plan
    return plan_rows(geometry, index)


def _is_worth_sharing(geometry: Geometry, n_selected: int) -> bool:
    """Return whether all folds like this one have fewer pages than copies in workers.

    Each column of a fold has a shift of its own, and so have those before and those
    behind the hole. Folds of one size share them; most splitters make two sizes, unless
    the rows can be divided evenly. What is no more than a half is one of disjoint sets.
    """
    shifted = geometry.origin.settings.shifted if geometry.origin else None
    if shifted is None:
        return False
    n_bytes, total_bytes = (
        n_rows * geometry.row_bytes for n_rows in (n_selected, geometry.n_rows)
    )
    needed_bytes = total_bytes
    if 2 * n_bytes > total_bytes:
        n_left = geometry.n_rows - n_selected
        is_even = n_left == 0 or geometry.n_rows % n_left == 0
        needed_bytes = (2 if is_even else 3) * n_bytes
    return needed_bytes < min(shifted.n_workers * n_bytes, shifted.budget_bytes)
