"""What a block of memory has to do with X, from a few of its numbers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.copies._results import Content, Layout

Read = Callable[[int, int], bytes]
"""Takes address and bytes; raises OSError if they are not there."""
Look = Callable[[int, int], npt.NDArray[Any]]
"""Takes the first and the last row, exclusive, of a block."""

_N_ROWS = 6
_MAX_COLUMNS = 24
# Rows that begin with the same number.
_MAX_CANDIDATES = 50
_DTYPES = (np.dtype(np.float64), np.dtype(np.float32))
# Rounding of what was computed from X, in the precision of the block.
_TOLERANCE = 1e4


class Reference:
    """X, for comparison with other memory."""

    def __init__(self, X: npt.NDArray[Any]) -> None:
        self.n_bytes = X.nbytes
        self._shape = X.shape
        n_rows, n_columns = X.shape
        # Consecutive, since reading them from Fortran order is then one piece for each
        # column; from three places, so that some rows of X do not pass for X.
        starts = {0, n_rows // 2, max(n_rows - _N_ROWS, 0)}
        self._runs = [(s, min(s + _N_ROWS, n_rows)) for s in sorted(starts)]
        self._columns = np.unique(
            np.linspace(0, n_columns - 1, min(n_columns, _MAX_COLUMNS)).astype(np.intp)
        )
        rows = [X[start:stop, self._columns] for start, stop in self._runs]
        self._rows = np.concatenate(rows)
        # Nothing as long as X is made later, while memory is being measured.
        self._X = X
        first = X[:, self._columns[0]]
        self._sorting = np.argsort(first)
        self._sorted = first[self._sorting]
        self._dtypes: list[np.dtype[Any]] = list(dict.fromkeys((X.dtype, *_DTYPES)))

    def identify(self, address: int, n_bytes: int, read: Read) -> Content | None:
        """Tell what a block holds, None if it seems to have nothing to do with X.

        `read` reads memory; its OSError, if the block is gone, is passed on. Some dozen
        reads take about 0.1 ms.
        """
        # A block may hold anything, numbers that are none among it.
        with np.errstate(all="ignore"):
            for dtype in self._dtypes:
                n_found, rest = divmod(n_bytes, self._shape[1] * dtype.itemsize)
                if rest or n_found == 0:
                    continue
                for order in ("C", "F"):
                    look = functools.partial(
                        self._read, read, address, n_found, dtype, order
                    )
                    kind = ""
                    if n_found == self._shape[0]:
                        kind = self._compare(look, dtype)
                    if not kind and self._holds_rows(look, n_found):
                        kind = "rows"
                    if kind:
                        return Content(kind, Layout(str(dtype), order))
        return None

    def _read(
        self,
        read: Read,
        address: int,
        n_rows: int,
        dtype: np.dtype[Any],
        order: str,
        start: int,
        stop: int,
    ) -> npt.NDArray[Any]:
        """Read some consecutive rows, at the columns that are compared."""
        n_columns, size, n_read = self._shape[1], dtype.itemsize, stop - start
        if order == "C":
            data = read(address + start * n_columns * size, n_read * n_columns * size)
            table = np.frombuffer(data, dtype).reshape(n_read, n_columns)
            return table[:, self._columns]
        pieces = [
            read(address + (column * n_rows + start) * size, n_read * size)
            for column in self._columns.tolist()
        ]
        return np.frombuffer(b"".join(pieces), dtype).reshape(-1, n_read).T

    def _compare(self, look: Look, dtype: np.dtype[Any]) -> str:
        """Compare a block of the shape of X, and say what it is; empty if nothing."""
        given = self._rows.astype(dtype)
        found = np.concatenate([look(start, stop) for start, stop in self._runs])
        if np.array_equal(given, found, equal_nan=given.dtype.kind == "f"):
            return "equal"
        given, found = given.astype(float), found.astype(float)
        if not np.isfinite(found).all() or not np.isfinite(given).all():
            return ""
        exact: Any = dtype if dtype.kind == "f" else np.dtype(float)
        return _compare_columns(given, found, float(np.finfo(exact).eps))

    def _holds_rows(self, look: Look, n_found: int) -> bool:
        """Return whether the first, the middle and the last row are rows of X."""
        if n_found < 3 or self._shape[1] < 2:
            return False
        for place in (0, n_found // 2, n_found - 1):
            row = look(place, place + 1)[0]
            # Memory that nobody has written to yet.
            if not row.any() or not self._has_row(row):
                return False
        return True

    def _has_row(self, row: npt.NDArray[Any]) -> bool:
        """Return whether X has such a row, converted to its dtype."""
        value = row[0]
        low = high = value
        if row.dtype.kind == "f":
            # All numbers that may have been rounded to it.
            low, high = np.nextafter(value, (-np.inf, np.inf), dtype=row.dtype)
        start = int(np.searchsorted(self._sorted, low, "left"))
        stop = int(np.searchsorted(self._sorted, high, "right"))
        for place in self._sorting[start : min(stop, start + _MAX_CANDIDATES)].tolist():
            candidate = self._X[place, self._columns]
            if np.array_equal(candidate.astype(row.dtype), row):
                return True
        return False


def _compare_columns(
    given: npt.NDArray[np.float64], found: npt.NDArray[np.float64], eps: float
) -> str:
    """Tell whether each column was moved, or moved and stretched; empty if neither."""
    varies = np.ptp(given, axis=0) > 0
    if not varies.any():
        return ""
    given, found = given[:, varies], found[:, varies]
    size = np.abs(given).max(axis=0) + np.abs(found).max(axis=0)
    tolerance = _TOLERANCE * eps * size
    if (np.ptp(found - given, axis=0) <= tolerance).all():
        return "centered"
    low, high = given.argmin(axis=0), given.argmax(axis=0)
    columns = np.arange(given.shape[1])
    width = given[high, columns] - given[low, columns]
    slope = (found[high, columns] - found[low, columns]) / width
    rest = np.ptp(found - slope * given, axis=0)
    if (slope != 0).all() and (rest <= tolerance * (1 + np.abs(slope))).all():
        return "scaled"
    return ""
