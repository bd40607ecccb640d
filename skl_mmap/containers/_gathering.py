"""Rows of any input in another order, in shared memory where that is possible."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import select_rows
from skl_mmap.containers._container import container_of
from skl_mmap.containers._numpy import ARRAY_TYPES, is_shareable
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Placement, Settings


def count_rows(values: Any, name: str) -> int:
    """Return the number of rows of an array-like.

    Raises
    ------
    InvalidParameterError
        If it has none.
    """
    shape = getattr(values, "shape", None)
    try:
        n_rows = len(values) if shape is None else shape[0]
    except (TypeError, IndexError) as error:
        raise InvalidParameterError(
            f"{name} of type {type(values).__name__} has no rows that could be "
            "arranged. Pass an array, a DataFrame, a sparse matrix or a list."
        ) from error
    return int(n_rows)


def gather(
    values: Any,
    permutation: npt.NDArray[np.intp],
    placement: Placement,
    settings: Settings,
    name: str,
) -> Any:
    """Return the rows of an array-like in another order, in shared memory if possible.

    Parameters
    ----------
    values : array-like of shape (n_samples, ...)
        Numbers are written to shared memory row by row, those of sparse matrices and
        of data frames with one dtype as well. Everything else (text, objects, masked
        arrays, mixed data frames) is indexed the way scikit-learn does it.
    permutation : ndarray of shape (n_samples,), dtype=intp
        Row i of the result is row ``permutation[i]``.
    placement, settings : Placement, Settings
        Where, and whether it may be written to.
    name : str
        The user's word for it, for error messages.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Notes
    -----
    One copy of the data and 16 MiB at most, where numbers are written.
    """
    # The type of one element is looked at first: a list of texts would become an array
    # as wide as the longest of them.
    if (
        isinstance(values, list | tuple)
        and len(values)
        and is_shareable(np.asarray(values[0]))
    ):
        values = np.asarray(values)
    container = container_of(values)
    gathered = None
    if container is not None:
        gathered = container.gather(values, permutation, placement, settings, name)
    return select_rows(values, permutation) if gathered is None else gathered


def restore(values: Any, permutation: npt.NDArray[np.intp]) -> Any:
    """Put gathered rows back: row ``permutation[i]`` of the result is row i."""
    if type(values) not in ARRAY_TYPES:
        inverse = np.empty_like(permutation)
        inverse[permutation] = np.arange(len(permutation))
        return select_rows(values, inverse)
    array = np.asarray(values)
    restored = np.empty(array.shape, array.dtype)
    restored[permutation] = array
    return restored
