"""What every kind of input says about its rows, and where the kinds are registered.

One class for each kind, in one file for each library. A file imports its library at the
top, and is itself imported when that library is in use: whoever has no data frame never
imports pandas.
"""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.memory import (
    Cost,
    Geometry,
    Placement,
    Reason,
    Settings,
    Stack,
    count_selected,
)

GeometryOf = Callable[[npt.NDArray[Any]], Geometry]


class RowSize(NamedTuple):
    """How large the rows of an input are: where runs of them may be cut.

    Attributes
    ----------
    n_bytes : int
        Bytes of one row, on average if they differ.
    part_bytes : int or None
        Bytes of the smallest part of a row that is mapped on its own: the whole row of
        an array, an item of a frame with columns. None if rows differ in length.
    starts : ndarray of shape (n_rows + 1,) or None
        Number of the first element of each row, if rows differ in length.
    elements_of_page : int
        Elements after which the same place in a page comes again, in that case.
    """

    n_bytes: int
    part_bytes: int | None
    starts: npt.NDArray[Any] | None = None
    elements_of_page: int = 1


class Container(ABC):
    """One kind of input whose rows can be selected.

    An implementation owes the classes that it answers for, and their size. The rest
    says how they are handled better than by a copy: above all `plan`, and `take_apart`
    for classes that pickle would not take apart into arrays.
    """

    @abstractmethod
    def classes(self) -> tuple[type[Any], ...]:
        """Return the classes of inputs that this is about; subclasses are others."""

    @abstractmethod
    def n_bytes(self, X: Any) -> int:
        """Return the bytes of what is selected from."""

    def plan(self, X: Any, rows: npt.NDArray[Any], geometry_of: GeometryOf) -> Cost:
        """Return what selecting rows would map and copy, without doing it.

        By default, nothing of X is shared, and its library copies rows of it.

        Parameters
        ----------
        X : object
            What a worker has.
        rows : ndarray of shape (n_selected,) or (n_rows,)
            Valid indices, or a mask.
        geometry_of : callable
            Says where an array of X comes from.
        """
        return Cost.of_copy(Reason.NOT_SHARED, self.bytes_of_rows(X, rows))

    def bytes_of_rows(self, X: Any, rows: npt.NDArray[Any]) -> int:
        """Return the bytes of some rows; if rows differ in size, on average."""
        n_rows = X.shape[0] if X.shape else 0
        return self.n_bytes(X) * count_selected(rows) // max(n_rows, 1)

    def row_size(self, X: Any) -> RowSize | None:
        """Return how large the rows are; None if they cannot be mapped."""
        return None

    def n_arrays(self, X: Any) -> int:
        """Count the arrays that rows are selected from: each has seams of its own."""
        return 1

    def take_apart(self, X: Any, min_bytes: int) -> tuple[Any, ...] | None:
        """Return what ``__reduce__`` would, such that arrays in it can be shared.

        None if X is smaller than `min_bytes`, or pickled well as it is.
        """
        return None

    def arrays(self, X: Any) -> Sequence[npt.NDArray[Any]]:
        """Return the arrays that X is pickled with: small ones are shared together.

        The very objects, as far as they are known.
        """
        return ()

    def block_by_column(self, X: Any) -> npt.NDArray[Any] | None:
        """Return the array of X whose rows could be mapped in Fortran order."""
        return None

    def numbers(self, X: Any) -> npt.NDArray[Any] | Stack | None:
        """Return the numbers of X, column by column, if other rows may hold them.

        As an array of shape (n_columns, n_rows), or several. None if X has to stay as
        it is: if it has several dtypes, say.
        """
        return None

    def rebuild_over(self, X: Any) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        """Return how X is put together from other numbers, of that shape.

        A function that takes them, and the arguments after that.
        """
        raise NotImplementedError  # of kinds that have `numbers`

    def with_train_rows(
        self, X: Any, source: Any, train: npt.NDArray[Any], *, is_source: bool
    ) -> Any:
        """Return X, whose rows of a train set are those of another one.

        As `skl_mmap.memory.with_train_rows` does for arrays.
        """
        raise NotImplementedError  # of kinds that have `numbers`

    def share(self, X: Any, placement: Placement, settings: Settings) -> Any:
        """Copy X into shared memory; None if that is not possible."""
        return None

    def gather(
        self,
        X: Any,
        permutation: npt.NDArray[np.intp],
        placement: Placement,
        settings: Settings,
        name: str,
    ) -> Any:
        """Return the rows in another order, in shared memory; None if not possible."""
        return None


# A library, a name that it defines late, and the file that is about it.
_LIBRARIES = {
    "scipy.sparse": ("csc_array", "skl_mmap.containers._sparse"),
    "pandas": ("__all__", "skl_mmap.containers._pandas"),
    "pyarrow": ("Table", "skl_mmap.containers._arrow"),
    # Older releases cannot keep their dtypes in Arrow memory.
    "polars": ("CompatLevel", "skl_mmap.containers._polars"),
}

_waiting = dict(_LIBRARIES)
_containers: dict[type[Any], Container] = {}


def register(container: Container) -> None:
    """Let a kind of input be known everywhere in the package."""
    _containers.update(dict.fromkeys(container.classes(), container))


def known_containers() -> Mapping[type[Any], Container]:
    """Return the kinds of input by class, of the libraries that are in use here."""
    for library, (late_name, module) in list(_waiting.items()):
        # It may be just being imported, by another thread or by ourselves.
        if hasattr(sys.modules.get(library), late_name):
            importlib.import_module(module)
            _waiting.pop(library, None)
    return _containers


def container_of(X: object) -> Container | None:
    """Return the kind of input that something is; None if it is not known."""
    return known_containers().get(type(X))


# Of what is not yet an array: numbers will be float64, or int64.
_NUMBER_BYTES = 8


def count_bytes(X: Any) -> int | None:
    """Return the bytes of an array, a frame, a matrix or a list; None if unknown.

    Of a list, those of what NumPy would make of it; of texts, their characters.
    """
    container = container_of(X)
    if container is not None:
        return container.n_bytes(X)
    if isinstance(X, list | tuple):
        if X and isinstance(X[0], str | bytes):
            return sum(len(text) for text in X if isinstance(text, str | bytes))
        is_matrix = bool(X) and isinstance(X[0], list | tuple | np.ndarray)
        return _NUMBER_BYTES * len(X) * (len(X[0]) if is_matrix else 1)
    n_bytes = getattr(X, "nbytes", None)
    return int(n_bytes) if isinstance(n_bytes, int) else None
