"""Frames of polars whose rows can be selected without a copy.

::

    polars frame --> Arrow table (the same memory) --> shared buffers, see `_arrow`

Nothing has to be mapped for a selection: a polars column may consist of several chunks,
and the chunks of a selection are slices of those of the frame.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from skl_mmap.containers._arrow import share_table
from skl_mmap.containers._container import Container, GeometryOf, register
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import (
    ClosedAtExit,
    Cost,
    Placement,
    Reason,
    Settings,
    counters,
    find_runs,
)

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
        index = _row_index(key)
        if index is not None:
            selected, cost = _select(self, index)
            counters.add(cost)
            if selected is not None:
                return selected
        return super().__getitem__(key)

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
    if isinstance(key, list):
        # A list of names, say, is looked at no further.
        if len(key) < _MIN_ROWS or type(key[0]) is not int:
            return None
    elif not isinstance(key, np.ndarray) or key.size < _MIN_ROWS:
        return None
    index = np.asarray(key)
    return index if index.ndim == 1 and index.dtype.kind in "iu" else None


def _select(frame: pl.DataFrame, index: npt.NDArray[Any]) -> tuple[Any, Cost]:
    """Select rows as slices of chunks, and say what it costs.

    None for the rows if polars has to select them.
    """
    runs = find_runs(index, frame.height, max_runs=_MAX_RUNS)
    if runs is None:
        n_bytes = int(frame.estimated_size()) * len(index) // max(frame.height, 1)
        return None, Cost.of_copy(Reason.SCATTERED, n_bytes)
    plain = pl.DataFrame(frame)
    parts = [plain.slice(start, stop - start) for start, stop in runs.tolist()]
    selected = SharedPolarsFrame(pl.concat(parts, rechunk=False))
    return selected, Cost(int(selected.estimated_size()))


def _to_arrow(frame: pl.DataFrame) -> Any:
    """Return an Arrow table over a polars frame; None if dtypes would change."""
    newest = pl.CompatLevel.newest()
    back = pl.from_arrow(frame.clear().to_arrow(compat_level=newest))
    if getattr(back, "schema", None) != frame.schema:
        return None
    return frame.to_arrow(compat_level=newest)


def rebuild_polars(table: Any) -> SharedPolarsFrame:
    """Make a polars frame over the memory of an Arrow table."""
    frame: Any = pl.from_arrow(table)
    return SharedPolarsFrame(frame)


def _rebuild_series(frame: Any) -> Any:
    return frame.to_series()


class PolarsContainer(Container):
    """Frames of polars, and ours."""

    def classes(self) -> tuple[type[Any], ...]:
        return pl.DataFrame, SharedPolarsFrame

    def n_bytes(self, X: Any) -> int:
        return int(X.estimated_size())

    def take_apart(self, X: Any, min_bytes: int) -> tuple[Any, ...] | None:
        if X.estimated_size() < min_bytes:
            return None
        table = _to_arrow(X)
        return None if table is None else (rebuild_polars, (table,))

    def plan(self, X: Any, rows: npt.NDArray[Any], geometry_of: GeometryOf) -> Cost:
        if type(X) is not SharedPolarsFrame:
            return super().plan(X, rows, geometry_of)
        if rows.dtype == bool:
            return Cost.of_copy(Reason.MASK, self.bytes_of_rows(X, rows))
        index = _row_index(rows)
        if index is None:
            return Cost.of_copy(Reason.FEW_BYTES, self.bytes_of_rows(X, rows))
        return _select(X, index)[1]

    def share(self, X: Any, placement: Placement, settings: Settings) -> Any:
        table = _to_arrow(X)
        if table is None:
            raise InvalidParameterError(
                f"X has columns of types that Arrow does not have ({X.schema}), so its "
                "memory cannot be shared. Convert these columns, or leave them out."
            )
        return rebuild_polars(share_table(table, placement, settings))


class PolarsSeriesContainer(Container):
    """Series of polars, whose rows polars copies."""

    def classes(self) -> tuple[type[Any], ...]:
        return (pl.Series,)

    def n_bytes(self, X: Any) -> int:
        return int(X.estimated_size())

    def take_apart(self, X: Any, min_bytes: int) -> tuple[Any, ...] | None:
        frame = X.to_frame()
        if frame.estimated_size() < min_bytes or _to_arrow(frame) is None:
            return None
        return _rebuild_series, (frame,)


register(PolarsContainer())
register(PolarsSeriesContainer())
