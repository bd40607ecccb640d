"""Row indices as runs: ranges of consecutive rows.

An index array of a fold is long, but made of few runs. Everything here works in
chunks, so that no second array of the size of the index is ever allocated.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

# Shape (n_runs, 2): first row, and the row after the last, of each run.
Runs = npt.NDArray[np.intp]

_CHUNK_ROWS = 1 << 13


def find_runs(key: npt.NDArray[Any], n_rows: int, *, max_runs: int) -> Runs | None:
    """Find the runs of an index array or a boolean mask.

    Parameters
    ----------
    key : ndarray of shape (n_indices,) or (n_rows,)
        Integer indices, which may be negative, repeated and unsorted, or a mask.
    n_rows : int
        Rows of the array that is indexed.
    max_runs : int
        Give up above this number.

    Returns
    -------
    ndarray of shape (n_runs, 2), dtype=intp, or None
        The runs in the order in which the rows are asked for. None if there are too
        many, or if the key is not valid for `n_rows` rows: numpy should say so.

    Examples
    --------
    >>> find_runs(np.array([0, 1, 2, 7, 8, -1]), 10, max_runs=9).tolist()
    [[0, 3], [7, 10]]
    >>> find_runs(np.array([True, False, True, True]), 4, max_runs=9).tolist()
    [[0, 1], [2, 4]]
    """
    if key.dtype == bool:
        return runs_of_mask(key, max_runs=max_runs) if len(key) == n_rows else None
    return runs_of_index(key, n_rows, max_runs=max_runs)


def runs_of_index(
    index: npt.NDArray[Any], n_rows: int, *, max_runs: int
) -> Runs | None:
    """Runs of an integer index array; see `find_runs`."""
    parts: list[Runs] = []
    n_runs = 0
    for begin in range(0, len(index), _CHUNK_ROWS):
        chunk = index[begin : begin + _CHUNK_ROWS]
        # Compared before the cast: a uint64 above the range of intp must not wrap.
        if int(chunk.min()) < -n_rows or int(chunk.max()) >= n_rows:
            return None
        rows = chunk.astype(np.intp)
        rows[rows < 0] += n_rows
        breaks = np.flatnonzero(rows[1:] != rows[:-1] + 1) + 1
        runs = np.empty((len(breaks) + 1, 2), dtype=np.intp)
        runs[0, 0] = rows[0]
        runs[1:, 0] = rows[breaks]
        runs[:-1, 1] = rows[breaks - 1] + 1
        runs[-1, 1] = rows[-1] + 1
        n_runs += _append(parts, runs)
        if n_runs > max_runs:
            return None
    return _joined(parts)


def runs_of_mask(mask: npt.NDArray[np.bool_], *, max_runs: int) -> Runs | None:
    """Runs of a boolean mask; see `find_runs`."""
    parts: list[Runs] = []
    n_runs = 0
    for begin in range(0, len(mask), _CHUNK_ROWS):
        chunk = mask[begin : begin + _CHUNK_ROWS]
        edges = np.flatnonzero(chunk[1:] != chunk[:-1]) + 1
        bounds = np.concatenate(([0], edges, [len(chunk)])) + begin
        runs = np.stack((bounds[:-1], bounds[1:]), axis=1)
        runs = runs[0 if chunk[0] else 1 :: 2].astype(np.intp)
        if len(runs):
            n_runs += _append(parts, runs)
        if n_runs > max_runs:
            return None
    return _joined(parts)


def _append(parts: list[Runs], runs: Runs) -> int:
    """Add the runs of the next chunk, and return how many more there are now.

    The last run of the chunk before may go on over the border.
    """
    n_more = len(runs)
    if parts and parts[-1][-1, 1] == runs[0, 0]:
        runs[0, 0] = parts[-1][-1, 0]
        parts[-1] = parts[-1][:-1]
        if not len(parts[-1]):
            parts.pop()
        n_more -= 1
    parts.append(runs)
    return n_more


def _joined(parts: list[Runs]) -> Runs:
    return np.concatenate(parts) if parts else np.empty((0, 2), dtype=np.intp)


def expand_runs(runs: Runs) -> Iterator[npt.NDArray[np.intp]]:
    """Yield the row indices of some runs, a bounded number at a time.

    Examples
    --------
    >>> [chunk.tolist() for chunk in expand_runs(np.array([[3, 5], [0, 2]]))]
    [[3, 4, 0, 1]]
    """
    lengths = runs[:, 1] - runs[:, 0]
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    for begin in range(0, total, _CHUNK_ROWS):
        stop = min(begin + _CHUNK_ROWS, total)
        place = np.arange(begin, stop, dtype=np.intp)
        which = np.searchsorted(ends, place, side="right")
        yield runs[which, 1] - (ends[which] - place)


def index_of_runs(runs: Runs) -> npt.NDArray[np.intp]:
    """Return the row indices of some runs as one array.

    Examples
    --------
    >>> index_of_runs(np.array([[3, 5], [0, 2]])).tolist()
    [3, 4, 0, 1]
    """
    index = np.empty(int((runs[:, 1] - runs[:, 0]).sum()), dtype=np.intp)
    place = 0
    for chunk in expand_runs(runs):
        index[place : place + len(chunk)] = chunk
        place += len(chunk)
    return index


def count_runs(rows: Any) -> int:
    """Count the runs of consecutive rows, however many, in chunks.

    Examples
    --------
    >>> count_runs([0, 1, 2, 7, 8, 3]), count_runs(np.array([True, False, True]))
    (3, 2)
    """
    index = np.asarray(rows)
    if not index.size:
        return 0
    is_mask = index.dtype == bool
    n_runs = int(index[0]) if is_mask else 1
    for begin in range(0, len(index) - 1, _CHUNK_ROWS):
        chunk = index[begin : begin + _CHUNK_ROWS + 1]
        if is_mask:
            n_runs += int(np.count_nonzero(chunk[1:] & ~chunk[:-1]))
        else:
            rows = chunk.astype(np.intp)  # few bits without a sign would wrap
            n_runs += int(np.count_nonzero(rows[1:] != rows[:-1] + 1))
    return n_runs
