"""Rows in another order, written to shared memory a part at a time."""

from __future__ import annotations

import contextlib
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import select_rows
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.folds._gathering_tables import (
    as_csr,
    gather_csr,
    gather_pandas,
    is_pandas,
    is_sparse,
)
from skl_mmap.memory import Placement, SegmentWriter, Settings, SharedArray, map_array
from skl_mmap.memory._reading import reading_in_order

__all__ = ["count_rows", "gather", "make_settings", "restore"]

# Gathered rows that are not written yet: large enough to be quick, little beside X.
_CHUNK_BYTES = 8 << 20
# In more folds, the rows of each are so far apart that reading ahead is of no use.
_MAX_PASSES = 32
# Of Python numbers, dates and records: bytes without references. Text is left alone,
# because nothing of scikit-learn's selects its rows in bulk.
_SHARED_KINDS = "biufcmMV"
_ARRAY_TYPES = (np.ndarray, np.memmap, SharedArray)

_Rows = npt.NDArray[np.intp]


def make_settings(mmap_mode: object) -> Settings:
    """Validate the parameter `mmap_mode`."""
    if not isinstance(mmap_mode, str) or mmap_mode not in ("c", "r"):
        raise InvalidParameterError(
            f"mmap_mode={mmap_mode!r} is not known. Pass 'c' (copy-on-write: writes "
            "stay private) or 'r' (read-only)."
        )
    return Settings(mmap_mode)


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
    values: Any, permutation: _Rows, placement: Placement, settings: Settings, name: str
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
    placement : Placement
        Where.
    settings : Settings
        Copy-on-write or read-only.
    name : str
        What the user calls it, for error messages.

    Returns
    -------
    SharedArray, SharedFrame, CSR matrix or array, or what `values` is

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Notes
    -----
    One copy of the data and 16 MiB at most, where numbers are written.
    """
    if is_sparse(values):
        return gather_csr(as_csr(values), permutation, placement, settings, name)
    if is_pandas(values):
        return gather_pandas(values, permutation, placement, settings, name)
    array = _as_numbers(values)
    if array is None:
        return select_rows(values, permutation)
    if not array.nbytes:
        return np.ascontiguousarray(array[permutation])
    n_rows = max(_CHUNK_BYTES * len(array) // array.nbytes, 1)
    what = f"{name} of shape {array.shape} and dtype {array.dtype}, arranged"
    with contextlib.ExitStack() as stack:
        writer = stack.enter_context(SegmentWriter(placement, what, array.nbytes))
        if _n_passes(permutation) <= _MAX_PASSES:
            stack.enter_context(reading_in_order(array))
        for start in range(0, len(array), n_rows):
            # Not take(): it would first copy all of an array in Fortran order.
            writer.write(array[permutation[start : start + n_rows]])
        segment = writer.finish()
    return map_array(segment, array.dtype, array.shape, settings)


def _n_passes(permutation: _Rows) -> int:
    """Count how often rows are gone through, in order, from the front."""
    return 1 + int(np.count_nonzero(permutation[1:] < permutation[:-1]))


def _as_numbers(values: Any) -> npt.NDArray[Any] | None:
    """Return values that can be shared as a plain array, None if they cannot."""
    if isinstance(values, list | tuple):
        # Of one element first: a list of texts would become an array as wide as the
        # longest of them.
        if not len(values) or not _is_shareable(np.asarray(values[0])):
            return None
        values = np.asarray(values)
    elif type(values) not in _ARRAY_TYPES:
        return None
    return np.asarray(values) if _is_shareable(values) else None


def _is_shareable(array: npt.NDArray[Any]) -> bool:
    return array.dtype.kind in _SHARED_KINDS and not array.dtype.hasobject


def restore(values: Any, permutation: _Rows) -> Any:
    """Put arranged rows back: row ``permutation[i]`` of the result is row i."""
    if type(values) not in _ARRAY_TYPES:
        inverse = np.empty_like(permutation)
        inverse[permutation] = np.arange(len(permutation))
        return select_rows(values, inverse)
    array = np.asarray(values)
    restored = np.empty(array.shape, array.dtype)
    restored[permutation] = array
    return restored
