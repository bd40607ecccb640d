"""Polars frames whose rows can be selected without a copy.

Imports polars, so it is itself imported inside functions only. Nothing has to be
mapped for it: a polars column may consist of several chunks, and the chunks of a
selection are slices of those of the frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from skl_mmap.inputs._closing import ClosedAtExit
from skl_mmap.memory import counters, find_runs

__all__ = ["SharedPolarsFrame", "take_rows"]

# Selecting fewer rows is quicker than looking at them.
_MIN_ROWS = 1024
# Each run becomes a chunk of every column, and many chunks make everything slow.
_MAX_RUNS = 256


class SharedPolarsFrame(ClosedAtExit, pl.DataFrame):  # type: ignore[misc, unused-ignore]
    """A ``polars.DataFrame`` in shared memory.

    Selecting rows by a list or an array of integers, which is what scikit-learn does
    with folds, does not copy runs of rows. All results are equal to those of polars.
    Pickled, it is a plain frame.
    """

    # scikit-learn takes the first word of it for the library that made a container
    # (sklearn.utils._set_output), and pickles are of the plain class anyway.
    __module__ = "polars"

    def __getitem__(self, key: Any) -> Any:
        selected = take_rows(self, key)
        return super().__getitem__(key) if selected is None else selected

    def __reduce_ex__(self, protocol: Any) -> Any:
        return pl.DataFrame, (self.get_columns(),)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(2)


def _row_index(key: Any) -> npt.NDArray[Any] | None:
    """Return the row indices, or None if something else is asked for."""
    if isinstance(key, tuple):
        if len(key) != 2 or not isinstance(key[1], slice) or key[1] != slice(None):
            return None
        key = key[0]
    if not isinstance(key, list | np.ndarray) or len(key) < _MIN_ROWS:
        return None
    if isinstance(key, list) and type(key[0]) is not int:
        return None
    index = np.asarray(key)
    return index if index.ndim == 1 and index.dtype.kind in "iu" else None


def take_rows(frame: pl.DataFrame, key: Any) -> Any:
    """Select rows as slices of chunks; None if polars has to do it."""
    index = _row_index(key)
    return None if index is None else _select_rows(frame, index)


def _select_rows(frame: pl.DataFrame, index: npt.NDArray[Any]) -> Any:
    runs = find_runs(index, frame.height, max_runs=_MAX_RUNS)
    if runs is None:
        reason = "the rows are not in long runs (shuffled, or a class or group each)"
        n_bytes = int(frame.estimated_size()) * len(index) // max(frame.height, 1)
        counters.add_copied(reason, n_bytes)
        return None
    plain = pl.DataFrame(frame)
    parts = [plain.slice(start, stop - start) for start, stop in runs.tolist()]
    selected = SharedPolarsFrame(pl.concat(parts, rechunk=False))
    counters.add_mapped(int(selected.estimated_size()))
    return selected
