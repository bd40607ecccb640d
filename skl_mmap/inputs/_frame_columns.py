"""What columns of a frame are made of, and how their rows are selected.

Imports pandas, so it is itself imported inside functions only.

::

    numbers, dates        an array            --> a joined view
    categories            an array of codes   --> a joined view, of the same categories
    Int64, boolean, ...   values and a mask   --> a joined view of each
    Arrow                 chunks              --> slices of the chunks
    everything else                           --> copied by pandas
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skl_mmap._compat import masked_parts
from skl_mmap.memory import Runs, counters, expand_runs, join_rows
from skl_mmap.memory._mapping import find_mapping

__all__ = [
    "MAX_SLICES",
    "MIN_SLICED_ROWS",
    "arrays_of",
    "count_copied_columns",
    "is_arrow",
    "join_arrays",
    "like_column",
    "take_slices",
]

# Each run becomes a chunk of an Arrow column, and many chunks make everything slow.
MAX_SLICES = 256
# Taking fewer rows is quicker than looking at them.
MIN_SLICED_ROWS = 1024
_NUMBERS_AND_DATES = "biufcmM"
# Of columns in one reason for a copy.
_MAX_NAMES = 5
_MASKED = (pd.arrays.IntegerArray, pd.arrays.FloatingArray, pd.arrays.BooleanArray)


def arrays_of(column: pd.Series) -> tuple[npt.NDArray[Any], ...]:
    """Return what holds the elements of a column, one item for each, without a copy.

    Returns
    -------
    tuple of ndarray
        Empty if the elements are something else.
    """
    if isinstance(column.dtype, pd.CategoricalDtype):
        return (np.asarray(column.array.codes),)
    if isinstance(column.array, _MASKED):
        return masked_parts(column.array) or ()
    if isinstance(column.dtype, np.dtype) and column.dtype.kind in _NUMBERS_AND_DATES:
        return (column.to_numpy(copy=False),)
    return ()


def like_column(column: pd.Series, arrays: tuple[npt.NDArray[Any], ...]) -> Any:
    """Put together what `arrays_of` has taken apart, with other elements."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        (codes,) = arrays
        return pd.Categorical.from_codes(codes, dtype=column.dtype, validate=False)
    if isinstance(column.array, _MASKED):
        return type(column.array)(*arrays, copy=False)
    (values,) = arrays
    return values


def is_arrow(column: pd.Series) -> bool:
    """Whether a column is made of chunks of Arrow memory."""
    if isinstance(column.dtype, pd.StringDtype):
        return str(column.dtype.storage).startswith("pyarrow")
    return isinstance(column.dtype, pd.ArrowDtype)


def take_slices(column: pd.Series, runs: Runs) -> Any:
    """Select rows of an Arrow column as slices of its chunks, without a copy."""
    parts = [column.iloc[start:stop] for start, stop in runs.tolist()]
    taken = pd.concat(parts, ignore_index=True).array
    counters.add_mapped(int(taken.nbytes))
    return taken


def join_arrays(column: pd.Series, runs: Runs) -> tuple[npt.NDArray[Any], ...] | None:
    """Select rows of what a column is made of; None if nothing can be mapped.

    What is too small to be worth a mapping, the mask of some values say, is copied.
    """
    n_rows = int((runs[:, 1] - runs[:, 0]).sum())
    arrays = arrays_of(column)
    joined = [_join(array, runs, n_rows) for array in arrays]
    if all(array is None for array in joined):
        return None
    return tuple(
        _gather(array, runs, n_rows) if rows is None else rows
        for array, rows in zip(arrays, joined, strict=True)
    )


def _join(array: npt.NDArray[Any], runs: Runs, n_rows: int) -> npt.NDArray[Any] | None:
    n_bytes = n_rows * array.itemsize
    found = find_mapping(array)
    if found is None or n_bytes < found[0].settings.min_mapped_bytes:
        return None
    if not array.flags.c_contiguous:
        counters.add_copied("the array is not C-contiguous", n_bytes)
        return None
    return join_rows(array, runs)


def _gather(array: npt.NDArray[Any], runs: Runs, n_rows: int) -> npt.NDArray[Any]:
    gathered = np.empty(n_rows, array.dtype)
    place = 0
    for rows in expand_runs(runs):
        np.take(array, rows, out=gathered[place : place + len(rows)], mode="clip")
        place += len(rows)
    return gathered


def count_copied_columns(columns: list[pd.Series], n_selected: int) -> None:
    """Say of which columns rows are copied, because of what is in them."""
    others: dict[str, list[pd.Series]] = {}
    for column in columns:
        if not arrays_of(column) and not is_arrow(column):
            others.setdefault(str(column.dtype), []).append(column)
    for dtype, group in others.items():
        names = ", ".join(repr(column.name) for column in group[:_MAX_NAMES])
        if len(group) > _MAX_NAMES:
            names += f" and {len(group) - _MAX_NAMES} more"
        n_bytes = sum(column.array.nbytes // max(len(column), 1) for column in group)
        reason = f"columns of dtype {dtype}, whose rows pandas copies: {names}"
        counters.add_copied(reason, n_bytes * n_selected)
