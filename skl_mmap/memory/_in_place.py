"""Arrays of the caller from which tasks in the same process select rows by mapping.

::

    X of the caller: in a file, in shared memory, or adopted
      |
      |  InPlace.view(X)             the same memory, of another class: no copy
      v
    InPlaceArray --- X[train] ---->  a plain ndarray, its pages mapped copy-on-write

Everything else is as without us: what a task writes to X, the caller sees; a fold is
the task's own.

A user's file may be changed after the call, and what was copied from it would not
change with it. So what outlives a task and still refers to a file gets pages of its
own; see `InPlace.running`. Shared memory is sealed, and needs no such care.
"""

from __future__ import annotations

import contextlib
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls, proc
from skl_mmap._units import format_bytes
from skl_mmap.memory._adoption import adopt
from skl_mmap.memory._handles import describe
from skl_mmap.memory._mapping import Mapping, find_mapping, live_mappings
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._plan import Piece, round_up
from skl_mmap.memory._segment import Segment
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._shared_array import SharedArray, select_rows
from skl_mmap.memory._sharing import is_user_file, publish_shared
from skl_mmap.memory._user_files import describe_memmap
from skl_mmap.memory._views import owner_of_memory
from skl_mmap.monitor import is_measuring, note


class InPlaceArray(SharedArray):
    """An array of the caller, as a task in the same process gets it.

    What is selected from it is of the class that NumPy would give.
    """

    def __getitem__(self, key: Any) -> Any:
        joined = select_rows(self, key, np.ndarray)
        return self.view(np.ndarray)[key] if joined is None else joined

    def take(self, *args: Any, **kwargs: Any) -> Any:
        """Select elements; rows (``axis=0``) without copying them."""
        taken = super().take(*args, **kwargs)
        return taken.view(np.ndarray) if type(taken) is SharedArray else taken


class InPlace:
    """The arrays that tasks in this process may select from, while calls last.

    Notes
    -----
    Safe to be used by several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        # With the array of each, so that its memory stays where it is.
        self._files: list[tuple[Mapping, npt.NDArray[Any]]] = []
        self._file_segments: set[Segment] = set()
        self._adopted: list[Mapping] = []
        # Arrays that cannot be adopted, by id.
        self._refused: dict[int, weakref.ref[npt.NDArray[Any]]] = {}
        self._told: weakref.WeakSet[Mapping] = weakref.WeakSet()
        self._n_calls = 0
        self._n_running = 0
        self._before: weakref.WeakSet[Mapping] = weakref.WeakSet()

    @property
    def is_in_use(self) -> bool:
        """Whether a call has begun."""
        return self._n_calls > 0

    def begin_call(self) -> None:
        """Count a call."""
        with self._lock:
            self._n_calls += 1
            self._drop_freed()

    def end_call(self) -> None:
        """Let go of files when no call is left."""
        with self._lock:
            self._n_calls -= 1
            self._drop_freed()
            if not self._n_calls:
                self._files.clear()
                self._file_segments.clear()
                self._refused.clear()
                self._told.clear()

    def _drop_freed(self) -> None:
        """Let go of what was adopted and is there no more: its file takes memory."""
        self._adopted = [m for m in self._adopted if m.is_at(0, m.n_bytes)]

    def view(
        self,
        array: npt.NDArray[Any],
        placement: Placement,
        settings: Settings,
        *,
        can_adopt: bool,
    ) -> InPlaceArray | None:
        """Return the same memory as an array whose rows are selected by mapping.

        Parameters
        ----------
        array : ndarray or memmap
            Any array.
        placement : Placement
            Where what is adopted lives.
        settings : Settings
            How rows of it are handed to tasks, where that was not decided before.
        can_adopt : bool
            Whether its memory may be taken for a segment. Not in a nested call: what
            estimators make for one is not worth it.

        Returns
        -------
        InPlaceArray or None
            None if there is nothing that rows of it could be mapped from.
        """
        if array.dtype.hasobject or not array.ndim:
            return None
        with self._lock:
            found = find_mapping(array)
            if found is not None:
                if is_user_file(found[0].segment):
                    self._file_segments.add(found[0].segment)
            elif not self._map_file(array, settings) and not (
                can_adopt
                and self._n_calls < 2
                and self._adopt(array, placement, settings)
            ):
                return None
        if is_measuring():
            self._tell(array)
        return array.view(InPlaceArray)

    def _tell(self, array: npt.NDArray[Any]) -> None:
        """Tell whoever measures what rows are selected from, once in a call."""
        found = find_mapping(array)
        if found is None or found[0] in self._told:
            return
        self._told.add(found[0])
        described = describe(array, min_bytes=0)
        if described is not None:
            publish_shared(described, is_copy=False)

    def _map_file(self, array: npt.NDArray[Any], settings: Settings) -> bool:
        """Take down where an array lies in a file that it is a mapping of."""
        described = describe_memmap(array, settings)
        if described is None:
            return False
        handle, segment = described
        ((offset, n_bytes),) = handle.pieces
        address = array.__array_interface__["data"][0] - handle.offset
        piece = Piece(0, n_bytes, offset)
        mapping = Mapping((0, 0), address, [piece], segment, settings)
        mapping.is_writable = False
        mapping.mapped = [(0, n_bytes)]
        self._files.append((mapping, array))
        self._file_segments.add(segment)
        return True

    def _adopt(
        self, array: npt.NDArray[Any], placement: Placement, settings: Settings
    ) -> bool:
        owner = owner_of_memory(array)
        owner = owner if owner.nbytes == array.nbytes else array
        known = self._refused.get(id(owner))
        if known is not None and known() is owner:
            return False
        adopted = adopt(owner, placement, settings)
        if isinstance(adopted, Mapping):
            self._adopted.append(adopted)
            return True
        self._refused[id(owner)] = weakref.ref(owner)
        note(
            f"folds of an array of shape {array.shape} and dtype {array.dtype} were "
            f"copied, since it was not adopted: {adopted}"
        )
        return False

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run a task; what it leaves behind does not refer to the user's files.

        Notes
        -----
        When no task runs, whatever was mapped meanwhile from a file and is still there
        is copied where it is. That is what the folds are without us, and so never takes
        more memory; scores, predictions and most models keep nothing of X.
        """
        with self._lock:
            if not self._n_running:
                self._before = weakref.WeakSet(live_mappings())
            self._n_running += 1
        try:
            yield
        except BaseException:
            # What its traceback refers to is not worth a copy.
            with self._lock:
                self._n_running -= 1
            raise
        with self._lock:
            self._n_running -= 1
            if not self._n_running and self._file_segments:
                self._detach_results()

    def _detach_results(self) -> None:
        own = {id(mapping) for mapping, _ in self._files}
        for mapping in live_mappings():
            is_new = mapping not in self._before and id(mapping) not in own
            if is_new and mapping.segment in self._file_segments:
                _detach(mapping)


def _detach(mapping: Mapping) -> None:
    """Give a mapping pages of its own, of the same contents at the same addresses.

    Nobody may write to it meanwhile.
    """
    page = proc.PAGE_BYTES
    mapping.forget()
    try:
        for low, high in mapping.mapped:
            begin = (mapping.address + low) // page * page
            end = round_up(mapping.address + high, page)
            calls.make_private(begin, end - begin, writable=mapping.is_writable)
    except OSError as error:
        note(
            f"a result still refers to {format_bytes(mapping.n_bytes)} of a file, and "
            f"would change with it, since the kernel has no room for a copy ({error})"
        )
        return
    mapping.mapped = []
    # Nothing of it is left here: the file may be closed.
    del mapping.segment
