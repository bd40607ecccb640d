"""Selecting rows of a shared array: joined views instead of copies.

The result is numpy's, always, in values, order, dtype and shape; only the memory
behind it differs. What cannot be done without a copy is left to numpy.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import PAGE_BYTES
from skl_mmap.memory._accounting import counters
from skl_mmap.memory._joining import JoinPlan, map_pieces, plan_pieces
from skl_mmap.memory._mapping import Mapping, Piece, as_array, find_mapping
from skl_mmap.memory._runs import Runs, find_runs

__all__ = ["join_rows", "row_key", "select_rows"]

# One mapping for each run: far below vm.max_map_count (65 530 for a whole process),
# and little enough to be set up faster than the rows would be copied.
_MAX_RUNS = 4096


def row_key(key: object, n_dimensions: int) -> npt.NDArray[Any] | None:
    """Return the row index or mask that `key` is, or None if it is something else.

    ``X[i]``, ``X[i,]``, ``X[i, ...]`` and ``X[i, :]`` select rows if `i` is a
    one-dimensional list or array of integers or booleans.
    """
    if isinstance(key, tuple):
        if not key or not _is_everything(key[1:], n_dimensions - 1):
            return None
        key = key[0]
    if isinstance(key, list):
        try:
            key = np.asarray(key)
        except ValueError:  # ragged: numpy will say so
            return None
    if not isinstance(key, np.ndarray) or key.ndim != 1 or not len(key):
        return None
    return np.asarray(key) if key.dtype.kind in "iub" else None


def _is_everything(keys: tuple[object, ...], n_dimensions: int) -> bool:
    """Whether the keys leave all of the other dimensions as they are."""
    slices = [key for key in keys if key is not Ellipsis]
    return (
        len(keys) - len(slices) <= 1
        and len(slices) <= n_dimensions
        and all(isinstance(key, slice) and key == slice(None) for key in slices)
    )


def select_rows(
    array: npt.NDArray[Any], key: object, subtype: type[npt.NDArray[Any]]
) -> npt.NDArray[Any] | None:
    """Select rows of a shared array as a joined view.

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
    n_selected = np.count_nonzero(index) if index.dtype == bool else len(index)
    n_bytes = int(n_selected) * (array.nbytes // max(len(array), 1))
    found = find_mapping(array) if n_bytes else None
    if found is None or n_bytes < found[0].settings.min_mapped_bytes:
        return None
    if not array.flags.c_contiguous:
        column_runs = found[0].settings.column_runs
        if _are_column_runs(index, array, column_runs):
            return _join_columns(array, found, subtype)
        reason = "the array is not C-contiguous"
        if column_runs:
            reason = "of arrays converted to Fortran order, only train sets are mapped"
        counters.add_copied(reason, n_bytes)
        return None
    runs = find_runs(index, len(array), max_runs=_MAX_RUNS)
    if runs is None:
        reason = "the rows are not in long runs (shuffled, or a class or group each)"
        counters.add_copied(reason, n_bytes)
        return None
    return _join(array, found, runs, subtype)


def join_rows(
    array: npt.NDArray[Any], runs: Runs, subtype: type[npt.NDArray[Any]] = np.ndarray
) -> npt.NDArray[Any] | None:
    """Join runs of rows of a shared, C-contiguous array; None if it is not worth it."""
    found = find_mapping(array)
    return None if found is None else _join(array, found, runs, subtype)


def _join(
    array: npt.NDArray[Any],
    found: tuple[Mapping, int, int],
    runs: Runs,
    subtype: type[npt.NDArray[Any]],
) -> npt.NDArray[Any] | None:
    source, start, _ = found
    row_bytes = array.nbytes // len(array)
    n_rows = int((runs[:, 1] - runs[:, 0]).sum())
    shape = (n_rows, *array.shape[1:])
    plan = plan_rows(source, start, row_bytes, runs, array.dtype.alignment)
    return _carry_out(plan, source, array.dtype, shape, subtype)


def _are_column_runs(
    index: npt.NDArray[Any],
    array: npt.NDArray[Any],
    column_runs: tuple[tuple[int, int], ...],
) -> bool:
    """Whether an index selects the rows that are to be joined column by column."""
    if not column_runs or not array.flags.f_contiguous or array.ndim != 2:
        return False
    runs = find_runs(index, len(array), max_runs=len(column_runs))
    return runs is not None and tuple(map(tuple, runs.tolist())) == column_runs


def _join_columns(
    array: npt.NDArray[Any],
    found: tuple[Mapping, int, int],
    subtype: type[npt.NDArray[Any]],
) -> npt.NDArray[Any] | None:
    """Join the runs of each column of an array in Fortran order; so is the result."""
    source, start, _ = found
    n_rows, n_columns = array.shape
    column_starts = n_rows * np.arange(n_columns, dtype=np.intp)
    runs = np.array(source.settings.column_runs, dtype=np.intp)
    n_selected = int((runs[:, 1] - runs[:, 0]).sum())
    items = (runs + column_starts[:, None, None]).reshape(-1, 2)
    plan = plan_rows(source, start, array.itemsize, items, array.dtype.alignment)
    shape = (n_columns, n_selected)
    columns = _carry_out(plan, source, array.dtype, shape, subtype)
    return None if columns is None else columns.T


def plan_rows(
    source: Mapping, start: int, row_bytes: int, runs: Runs, alignment: int
) -> JoinPlan | None:
    """Find out which pages of some runs of rows can be mapped.

    Parameters
    ----------
    source : Mapping
        Where the rows lie.
    start : int
        Place of the first row in it.
    row_bytes : int
        Bytes of each.
    runs : ndarray of shape (n_runs, 2)
        What is selected.
    alignment : int
        What the address of an element must be a multiple of.

    Returns
    -------
    JoinPlan or None
        None if so little can be mapped that all of it should be copied.
    """
    pieces, can_share = _pieces_of_runs(source, start, row_bytes, runs)
    plan = plan_pieces(pieces, alignment=alignment, can_share=can_share)
    return plan if plan.mapped_bytes >= source.settings.min_mapped_bytes else None


def _carry_out(
    plan: JoinPlan | None,
    source: Mapping,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    subtype: type[npt.NDArray[Any]],
) -> npt.NDArray[Any] | None:
    """Map what was planned, and return it as a C-contiguous array."""
    if plan is not None and source.is_planned:
        _account(plan)
        return _stand_in(dtype, shape, subtype)
    joined = None if plan is None else map_pieces(source.segment, plan, source.settings)
    if joined is None:
        reason = "no run of rows is long enough to be mapped"
        counters.add_copied(reason, math.prod(shape) * dtype.itemsize)
        return None
    _account(joined)
    return as_array(joined, dtype, shape, subtype=subtype)


def _stand_in(
    dtype: np.dtype[Any], shape: tuple[int, ...], subtype: type[npt.NDArray[Any]]
) -> npt.NDArray[Any]:
    """Return an array that looks like selected rows, with the memory of one element."""
    element = np.zeros((), dtype)
    return np.broadcast_to(element, shape).view(subtype)


def _pieces_of_runs(
    source: Mapping, start: int, row_bytes: int, runs: Runs
) -> tuple[list[Piece], list[bool]]:
    """Say for each run where its bytes lie in the segment and in memory.

    A run is cut where the source itself changes from mapped to copied bytes. What
    was copied there, or written to since, must not come from the file again.
    """
    pieces: list[Piece] = []
    can_share: list[bool] = []
    place = 0
    for first, stop in (runs * row_bytes + start).tolist():
        cursor = first
        for low, high, is_clean in _clean_spans(source, first, stop):
            for piece in source.pieces_between(low, high):
                length = piece.stop - piece.start
                address = source.address + piece.start
                pieces.append(Piece(place, place + length, piece.file_offset, address))
                can_share.append(is_clean and length >= PAGE_BYTES)
                place += length
            cursor = high
        assert cursor == stop
    return pieces, can_share


def _clean_spans(source: Mapping, start: int, stop: int) -> list[tuple[int, int, bool]]:
    """Cut a byte range of a mapping into parts, and say which equal the segment's."""
    spans = []
    place = start
    if stop - start >= PAGE_BYTES:
        for low, high in source.is_mapped_between(start, stop):
            if place < low:
                spans.append((place, low, False))
            spans.append((low, high, source.is_unmodified(low, high)))
            place = high
    if place < stop:
        spans.append((place, stop, False))
    return spans


def _account(joined: JoinPlan | Mapping) -> None:
    mapped_bytes = joined.mapped_bytes
    counters.add_mapped(mapped_bytes)
    copied_bytes = joined.n_bytes - mapped_bytes
    counters.add_copied(
        "runs and seams that do not agree with the pages of the file", copied_bytes
    )
