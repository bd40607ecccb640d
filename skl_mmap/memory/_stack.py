"""Several arrays that are stored as one."""

from __future__ import annotations

import bisect
import itertools
import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import PAGE_BYTES


class Composite:
    """What is stored as one array of some dtype and shape, and consists of several.

    It is stored in Fortran order: what ``T`` has is written, a few items at a time.

    Attributes
    ----------
    dtype, shape, size, nbytes
        As of the array that is stored.
    name : str
        What to call it, if not by these.
    """

    name = ""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    size: int
    nbytes: int

    @property
    def parts(self) -> Sequence[npt.NDArray[Any]]:
        """The arrays."""
        raise NotImplementedError  # pragma: no cover - abstract

    @property
    def source(self) -> Any:
        """The object whose death ends the use of what is stored."""
        raise NotImplementedError  # pragma: no cover - abstract


class Stack(Composite):
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
        self._parts = parts
        self._places = places
        self.dtype: np.dtype[Any] = parts[0].dtype
        self.shape = sum(len(part) for part in parts), parts[0].shape[1]
        self.size = self.shape[0] * self.shape[1]
        self.nbytes = self.size * self.dtype.itemsize

    @property
    def parts(self) -> Sequence[npt.NDArray[Any]]:
        """The arrays."""
        return self._parts

    @property
    def source(self) -> Any:
        """The first of the arrays."""
        return self._parts[0]

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


class Bundle(Composite):
    """Arrays of any dtypes, each of which begins on a page of its own.

    Made by `bundle_of`, and gone as soon as one of the arrays is.

    Parameters
    ----------
    arrays : sequence of ndarray
        Without objects, and not empty. They are not kept alive.

    Attributes
    ----------
    starts : list of int
        Place of the first byte of each.
    """

    def __init__(self, arrays: Sequence[npt.NDArray[Any]]) -> None:
        forget = _Forgetter(id(self))
        self._references = [weakref.ref(array, forget) for array in arrays]
        sizes = [-(-array.nbytes // PAGE_BYTES) * PAGE_BYTES for array in arrays]
        *self.starts, self.nbytes = itertools.accumulate(sizes, initial=0)
        self.dtype, self.shape = np.dtype(np.uint8), (self.nbytes,)
        self.size = self.nbytes
        self.name = f"{len(arrays)} arrays of one input"

    @property
    def parts(self) -> Sequence[npt.NDArray[Any]]:
        """The arrays, which whoever shares them keeps alive meanwhile."""
        found = (reference() for reference in self._references)
        return [array for array in found if array is not None]

    @property
    def source(self) -> Any:
        """The bundle itself, which does not outlive any of the arrays."""
        return self

    def is_of(self, arrays: Sequence[npt.NDArray[Any]]) -> bool:
        """Return whether it consists of these very arrays."""
        return len(arrays) == len(self._references) and all(
            reference() is array
            for reference, array in zip(self._references, arrays, strict=True)
        )

    @property
    def T(self) -> Bundle:  # noqa: N802 - as of arrays
        """Its bytes."""
        return self

    def __len__(self) -> int:
        """Count its bytes."""
        return self.nbytes

    def __getitem__(self, item: slice) -> npt.NDArray[np.uint8]:
        """Copy bytes that follow each other."""
        start, stop, _ = item.indices(self.nbytes)
        taken = np.zeros(stop - start, np.uint8)
        first = bisect.bisect_right(self.starts, start) - 1
        parts = self.parts
        for place in range(first, bisect.bisect_left(self.starts, stop)):
            part, begin = _bytes_of(parts[place]), self.starts[place]
            low, high = max(start, begin), min(stop, begin + len(part))
            if low < high:
                taken[low - start : high - start] = part[low - begin : high - begin]
        return taken


def _bytes_of(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Return the bytes of an array as they are stored: only gaps need a copy."""
    plain = np.asarray(array)
    if not plain.flags.forc:
        plain = np.ascontiguousarray(plain)
    return plain.reshape(-1, order="A").view(np.uint8)


class _Forgetter:
    """Lets go of a bundle; called at any moment, so that it takes no lock."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __call__(self, _: object) -> None:
        _bundles.pop(self._number, None)


# All that there are, by their id.
_bundles: dict[int, Bundle] = {}


def bundle_of(arrays: Sequence[npt.NDArray[Any]]) -> Bundle:
    """Return the bundle of some arrays: the same one, as long as they all live."""
    for bundle in list(_bundles.values()):
        if bundle.is_of(arrays):
            return bundle
    bundle = Bundle(arrays)
    _bundles[id(bundle)] = bundle
    return bundle
