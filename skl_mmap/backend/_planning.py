"""What the folds of X would cost in a worker, found out without one.

The code is that of real tasks: X is pickled and unpickled as an argument of a task, but
for its arrays, which stay where they are; a train set gets the order that the backend
would give it; and rows are selected up to the moment when pages would be mapped.
"""

from __future__ import annotations

import io
import pickle
import types
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.backend._options import Options
from skl_mmap.backend._pickling import _TaskPickler
from skl_mmap.backend._planned_rows import (
    bytes_of_rows,
    columns_of_chunks,
    count_rows,
    total_bytes,
)
from skl_mmap.backend._row_arguments import RowIndex, with_light_rows
from skl_mmap.memory import ArrayHandle, Runs, index_of_runs, rebuild_array
from skl_mmap.memory._planning import Planner

__all__ = ["SelectionCost", "TaskPlanner"]


class SelectionCost(NamedTuple):
    """What selecting some rows of X maps and copies.

    Attributes
    ----------
    mapped_bytes : int
        Bytes that cost no memory.
    copy_reasons : dict of str to int
        Bytes that are copied, by the reason that the backend gives.
    uncounted_bytes : int
        Bytes that are copied, and that no worker counts: so few that mapping them is
        not worth it, or of something that is not shared.
    """

    mapped_bytes: int
    copy_reasons: dict[str, int]
    uncounted_bytes: int


class TaskPlanner:
    """Plan what tasks do with the rows of X.

    Parameters
    ----------
    X : array-like of shape (n_samples, ...)
        The data, as tasks would be given it.
    y : array-like of shape (n_samples, ...) or None
        The target, which has a say in how train sets are ordered.
    options : Options
        Of the backend.

    Attributes
    ----------
    X : array-like
        What a worker would have, over the memory of the given one.

    Notes
    -----
    O(1) memory in the size of X, if it is made of arrays; what is not (lists) is not
    looked at.
    """

    def __init__(self, X: Any, y: Any, options: Options) -> None:
        self._options = options
        self._given = X
        self._y = y
        self._planner = Planner(options.settings)
        self.X = self._rebuild(X) if hasattr(X, "shape") else X

    def _rebuild(self, X: Any) -> Any:
        file = io.BytesIO()
        pickler = _PlanningPickler(file, self._planner, self._options)
        pickler.dump(X)
        file.seek(0)
        return _PlanningUnpickler(file, pickler.rebuilt).load()

    @property
    def is_shared(self) -> bool:
        """Whether any array of X would be shared."""
        return self._planner.has_arrays

    @property
    def total_bytes(self) -> int:
        """Bytes of X; of what is no array, those of the references to its rows."""
        return total_bytes(self.X)

    def order(self, train: Any, test: Any) -> tuple[Any, Any]:
        """Return train and test indices in the order in which a worker gets them."""
        arguments = {"X": self._given, "y": self._y, "train": train, "test": test}
        batch = types.SimpleNamespace(items=[(_task, (), arguments)])
        light, _ = with_light_rows(batch, self._options)
        ((_, _, ordered),) = light.items
        return _as_index(ordered["train"]), _as_index(ordered["test"])

    def select(self, rows: Any) -> SelectionCost:
        """Say what selecting rows would map and copy.

        Parameters
        ----------
        rows : array-like of shape (n_selected,) or (n_samples,)
            Valid row indices, or a mask.

        Returns
        -------
        SelectionCost
        """
        with self._planner.selecting() as counters:
            count_rows(self.X, rows)
            mapped_bytes, copy_reasons = counters.take()
            counted_bytes = mapped_bytes + sum(copy_reasons.values())
            # Columns of Arrow memory once more, for themselves: without counting, the
            # size of their rows is only known on average.
            chunks = columns_of_chunks(self.X)
            if chunks is not None:
                count_rows(chunks, rows)
            counted_chunks, chunk_reasons = counters.take()
        counted_chunks += sum(chunk_reasons.values())
        expected_bytes = bytes_of_rows(self.X, rows)
        if counted_chunks:
            expected_bytes += counted_chunks - bytes_of_rows(chunks, rows)
        uncounted_bytes = max(expected_bytes - counted_bytes, 0)
        return SelectionCost(mapped_bytes, copy_reasons, uncounted_bytes)


def _task(X: Any, y: Any, train: Any, test: Any) -> None:
    """Stand for a function of scikit-learn that fits one split."""


def _as_index(rows: Any) -> Any:
    return index_of_runs(rows.runs) if isinstance(rows, RowIndex) else rows


class _PlanningPickler(_TaskPickler):
    """Pickles references to arrays, and rebuilds each as a worker would."""

    def __init__(self, file: io.BytesIO, planner: Planner, options: Options) -> None:
        super().__init__(file, planner, options)
        self._planner = planner
        self.rebuilt: list[npt.NDArray[Any]] = []
        # Given arrays are kept, because only then an id belongs to one of them.
        self._places: dict[int, tuple[int, npt.NDArray[Any]]] = {}

    def persistent_id(self, obj: Any) -> int | None:
        """Return the place of an array among the rebuilt ones."""
        if not isinstance(obj, np.ndarray):
            return None
        if id(obj) not in self._places:
            self._places[id(obj)] = len(self.rebuilt), obj
            self.rebuilt.append(self._rebuild(obj))
        return self._places[id(obj)][0]

    def _rebuild(self, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        reduced = self._reduce(array)
        if isinstance(reduced, _Index):
            return self._planner.rebuild_index(array, reduced.runs)
        if isinstance(reduced, tuple) and reduced[0] is rebuild_array:
            handle: ArrayHandle = reduced[1][0]
            return self._planner.rebuild(array, handle)
        return array  # by value, or as a part of a file that may be written to

    def _reduce(self, array: npt.NDArray[Any]) -> Any:
        if array.dtype.hasobject:
            return None
        return self.reducer_override(array)

    def reduce_index(self, runs: Runs, n_rows: int) -> Any:
        return _Index(runs)


class _Index(NamedTuple):
    """What becomes of an index array made of few runs."""

    runs: Runs


class _PlanningUnpickler(pickle.Unpickler):
    """Puts the rebuilt arrays in the places of the given ones."""

    def __init__(self, file: io.BytesIO, rebuilt: list[npt.NDArray[Any]]) -> None:
        super().__init__(file)
        self._rebuilt = rebuilt

    def persistent_load(self, place: Any) -> npt.NDArray[Any]:
        """Return the array that was pickled as a reference."""
        array: npt.NDArray[Any] = self._rebuilt[place]
        return array
