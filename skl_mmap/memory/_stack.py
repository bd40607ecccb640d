"""Several arrays that are stored as one."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt


class Stack:
    """Arrays that follow each other, such as the columns of a data frame.

    Parameters
    ----------
    parts : list of ndarray of shape (n_i, n_items)
        Of one dtype, without objects, and not empty.
    places : list of ndarray of shape (n_i,)
        Which columns they are.

    Notes
    -----
    It is stored in Fortran order only: one item of each array after the other, which
    are the rows of a frame. Nothing is copied but a few of these at a time.
    """

    def __init__(
        self, parts: list[npt.NDArray[Any]], places: list[npt.NDArray[Any]]
    ) -> None:
        self.parts = parts
        self._places = places
        self.dtype: np.dtype[Any] = parts[0].dtype
        self.shape = sum(len(part) for part in parts), parts[0].shape[1]
        self.size = self.shape[0] * self.shape[1]
        self.nbytes = self.size * self.dtype.itemsize

    def is_like(self, other: Stack) -> bool:
        """Return whether another one consists of the very same arrays."""
        return len(other.parts) == len(self.parts) and all(
            part is known and np.array_equal(place, known_place)
            for part, known, place, known_place in zip(
                other.parts, self.parts, other._places, self._places, strict=True
            )
        )

    @property
    def T(self) -> Stack:  # noqa: N802 - as of arrays
        """Its items, one after the other: what is selected from by number is copied."""
        return self

    def __len__(self) -> int:
        """Count the items of each array."""
        return int(self.shape[1])

    def __getitem__(self, item: int | slice) -> npt.NDArray[Any]:
        """Copy one item of each array, or some."""
        if isinstance(item, int):
            row: npt.NDArray[Any] = self[item : item + 1][0]
            return row
        start, stop, _ = item.indices(len(self))
        items = np.empty((stop - start, self.shape[0]), self.dtype)
        for part, place in zip(self.parts, self._places, strict=True):
            items[:, place] = part[:, start:stop].T
        return items
