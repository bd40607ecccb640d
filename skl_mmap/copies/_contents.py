"""What a block of memory has to do with X, from a few of its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.copies._results import Content, Layout

Read = Callable[[int, int], bytes]
"""Takes address and bytes; raises OSError if they are not there."""

_N_ROWS = 6
_MAX_COLUMNS = 24
# Rows that begin with the same number.
_MAX_CANDIDATES = 50
_DTYPES = (np.dtype(np.float64), np.dtype(np.float32))
# Rounding of what was computed from X, in the precision of the block.
_TOLERANCE = 1e4


class Reference:
    """X, for comparison with other memory.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The input of the estimator. What is compared is copied now, since X may be
        written to later; for rows, X is read.
    """

    def __init__(self, X: npt.NDArray[Any]) -> None:
        self.n_bytes = X.nbytes
        self._shape = X.shape
        n_rows, n_columns = X.shape
        # Consecutive, since reading them from Fortran order is then one piece for each
        # column; from three places, so that a row subset is no copy.
        starts = {0, n_rows // 2, max(n_rows - _N_ROWS, 0)}
        self._slices = [slice(s, min(s + _N_ROWS, n_rows)) for s in sorted(starts)]
        self._columns = np.unique(
            np.linspace(0, n_columns - 1, min(n_columns, _MAX_COLUMNS)).astype(np.intp)
        )
        self._rows = [X[rows][:, self._columns] for rows in self._slices]
        # Nothing as long as X is made later, while memory is being measured.
        self._X = X
        first = X[:, self._columns[0]]
        self._sorting = np.argsort(first)
        self._sorted = first[self._sorting]
        dtypes: list[np.dtype[Any]] = [X.dtype, *_DTYPES]
        self._dtypes = list(dict.fromkeys(dtypes))

    def identify(self, address: int, n_bytes: int, read: Read) -> Content | None:
        """Tell what a block holds, None if it seems to have nothing to do with X.

        `read` reads memory; its OSError, if the block is gone, is passed on. Some dozen
        reads take about 0.1 ms.
        """
        # A block may hold anything, numbers that are none among it.
        with np.errstate(all="ignore"):
            return self._identify(address, n_bytes, read)

    def _identify(self, address: int, n_bytes: int, read: Read) -> Content | None:
        n_rows, n_columns = self._shape
        for dtype in self._dtypes:
            n_found, rest = divmod(n_bytes, n_columns * dtype.itemsize)
            if rest or n_found == 0:
                continue
            for order in ("C", "F"):
                if n_found == n_rows:
                    kind = self._compare(address, dtype, order, read)
                    if kind is not None:
                        return Content(kind, Layout(str(dtype), order))
                if self._holds_rows(address, n_found, dtype, order, read):
                    return Content("rows", Layout(str(dtype), order))
        return None

    def _compare(
        self, address: int, dtype: np.dtype[Any], order: str, read: Read
    ) -> str | None:
        """Compare a block of the shape of X."""
        pairs = []
        for rows, given in zip(self._slices, self._rows, strict=True):
            found = self._read(address, self._shape[0], rows, dtype, order, read)
            pairs.append((given.astype(dtype), found))
        if all(np.array_equal(a, b, equal_nan=a.dtype.kind == "f") for a, b in pairs):
            return "equal"
        given = np.concatenate([pair[0] for pair in pairs]).astype(float)
        found = np.concatenate([pair[1] for pair in pairs]).astype(float)
        if not np.isfinite(found).all() or not np.isfinite(given).all():
            return None
        return _compare_columns(given, found, float(np.finfo(_float(dtype)).eps))

    def _read(
        self,
        address: int,
        n_rows: int,
        rows: slice,
        dtype: np.dtype[Any],
        order: str,
        read: Read,
    ) -> npt.NDArray[Any]:
        """Read some consecutive rows, at the columns that are compared."""
        n_columns, size = self._shape[1], dtype.itemsize
        n_read = rows.stop - rows.start
        if order == "C":
            start = address + rows.start * n_columns * size
            data = read(start, n_read * n_columns * size)
            table = np.frombuffer(data, dtype).reshape(n_read, n_columns)
            return table[:, self._columns]
        pieces = [
            read(address + (column * n_rows + rows.start) * size, n_read * size)
            for column in self._columns.tolist()
        ]
        return np.frombuffer(b"".join(pieces), dtype).reshape(-1, n_read).T

    def _holds_rows(
        self, address: int, n_found: int, dtype: np.dtype[Any], order: str, read: Read
    ) -> bool:
        """Return whether the first, the middle and the last row are rows of X."""
        if n_found < 3 or self._shape[1] < 2:
            return False
        for place in (0, n_found // 2, n_found - 1):
            row = self._read(
                address, n_found, slice(place, place + 1), dtype, order, read
            )[0]
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


def _float(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return dtype if dtype.kind == "f" else np.dtype(np.float64)


def _compare_columns(
    given: npt.NDArray[np.float64], found: npt.NDArray[np.float64], eps: float
) -> str | None:
    """Tell whether each column was moved, or moved and stretched."""
    varies = np.ptp(given, axis=0) > 0
    if not varies.any():
        return None
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
    return None
