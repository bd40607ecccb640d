"""Views of one array in many tasks: its parts are shared once, as they are met.

::

    array of the user   |....a....|          |....b....|
                             |                    |        met for the first time:
                             v                    v        copied
    file in memory      |....a....|   hole   |....b....|   holes cost nothing
                             |                    |        met again: compared
                             v                    v
                        ArrayHandle          ArrayHandle   in the tasks

Columns and slices of one large array are often too small to be shared, each for itself,
and sent with each task. Here they find their bytes in a file that has room for all of
the array, in the order in which pickling would store them: as they lie, or column by
column for views whose elements are a row apart. Nothing is copied that no task was
given, and what several views have in common is there once.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import proc
from skl_mmap._units import format_bytes
from skl_mmap.memory._byte_ranges import ByteRanges, count_bytes
from skl_mmap.memory._comparison import COMPARE_CHUNK_BYTES
from skl_mmap.memory._filling import iterate_stored, write_array
from skl_mmap.memory._mapping import byte_bounds
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._plan import round_up
from skl_mmap.memory._segment import Segment, new_segment
from skl_mmap.monitor import SegmentRecord, is_measuring, note, publish

# Smaller views are sent sooner than a mapping is made and given back.
MIN_VIEW_BYTES = 64 << 10
# What views leave behind that do not come again, for each array, before there is a
# new file: the old one goes with the tasks that use it.
_MAX_SPARE_BYTES = 8 << 20
# Each file takes a descriptor, of which a process has a thousand or so.
_MAX_FILES = 64
# Room for so much is looked for at a time.
_ROOM_BYTES = 16 << 20
# Columns begin where arrays of NumPy do.
_COLUMN_ALIGNMENT = 64


class ViewPlace(NamedTuple):
    """Where the bytes of a view belong in the file of its array.

    Attributes
    ----------
    owner : ndarray
        The array whose memory it is.
    row_bytes : int
        Distance of elements that follow each other in the file; 0 for bytes that do so
        in memory too.
    elements : ndarray of shape (n_elements,)
        What follows each other in the file: elements of the view, or its bytes.
    start : int
        Place of the first one.
    room_bytes : int
        Size of a file for all of the array.
    """

    owner: npt.NDArray[Any]
    row_bytes: int
    elements: npt.NDArray[Any]
    start: int
    room_bytes: int

    @property
    def stop(self) -> int:
        """Place after the last element."""
        return self.start + self.elements.nbytes

    def part(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Return the elements that belong to a range of the file."""
        size = self.elements.itemsize
        return self.elements[(start - self.start) // size : (stop - self.start) // size]


def owner_of_memory(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return the array that others are views of, which is at the end of their bases."""
    owner = array
    while isinstance(owner.base, np.ndarray):
        owner = owner.base
    return owner


def locate_view(view: npt.NDArray[Any]) -> ViewPlace | None:
    """Find out where the bytes of a view belong among those of its array.

    Parameters
    ----------
    view : ndarray
        Without objects, and not empty.

    Returns
    -------
    ViewPlace or None
        None if it is all of its array, or its elements lie in another way than one
        after another or one in each row.
    """
    owner = owner_of_memory(view)
    is_dense = owner.flags.c_contiguous or owner.flags.f_contiguous
    if owner.nbytes <= view.nbytes or not is_dense or not view.flags.aligned:
        return None
    first, end = byte_bounds(owner)
    low, high = byte_bounds(view)
    if low < first or end < high:
        return None
    plain = np.asarray(view)
    if view.flags.c_contiguous or view.flags.f_contiguous:
        elements = plain.reshape(-1, order="A").view(np.uint8)
        return ViewPlace(owner, 0, elements, low - first, owner.nbytes)
    column = plain.squeeze()
    # What pads records is not copied with their fields.
    if column.ndim != 1 or column.strides[0] <= 0 or column.dtype.names is not None:
        return None
    row_bytes, item_bytes = column.strides[0], column.itemsize
    row, offset = divmod(low - first, row_bytes)
    if row_bytes % item_bytes or offset % item_bytes:
        return None
    n_rows = -(-owner.nbytes // row_bytes)
    column_bytes = round_up(n_rows * item_bytes, _COLUMN_ALIGNMENT)
    start = offset // item_bytes * column_bytes + row * item_bytes
    room_bytes = row_bytes // item_bytes * column_bytes
    return ViewPlace(owner, row_bytes, column, start, room_bytes)


class _Parts:
    """The parts of one array that tasks of a call have views of."""

    def __init__(self, place: ViewPlace) -> None:
        owner = place.owner
        self.description = f"parts of {owner.dtype} {owner.shape}"
        self.room_bytes = place.room_bytes
        # In this call, also in files that are gone.
        self._met = ByteRanges()
        self.segment: Segment | None = None
        self._filled = ByteRanges()
        self._filled_bytes = self._again_bytes = self._checked_bytes = 0
        self._had_eighth = False
        # The last task that had a view.
        self.task = 0

    def meet(self, place: ViewPlace) -> None:
        """Keep in mind that there was a view here."""
        self._met.add(place.start, place.stop)

    def holds(self, place: ViewPlace) -> bool:
        """Return whether the file has, of what it has at all, the bytes of a view."""
        if self.segment is None:
            return True
        missing = self._filled.missing(place.start, place.stop)
        edges = [place.start, *(edge for gap in missing for edge in gap), place.stop]
        known = zip(edges[::2], edges[1::2], strict=True)
        return all(
            self.segment.holds(
                iterate_stored(place.part(start, stop), COMPARE_CHUNK_BYTES), start
            )
            for start, stop in known
            if start < stop
        )

    def is_spent(self, place: ViewPlace) -> bool:
        """Return whether more was filled than it is worth to keep for later."""
        n_more = count_bytes(self._filled.missing(place.start, place.stop))
        n_again = self._again_bytes + place.elements.nbytes - n_more
        return (
            n_more > 0
            and self._filled_bytes + n_more > _MAX_SPARE_BYTES
            and self._filled_bytes > 2 * n_again
        )

    def fill(self, place: ViewPlace, placement: Placement) -> Segment | None:
        """Copy what is missing of a view; None if memory is short."""
        missing = self._filled.missing(place.start, place.stop)
        n_missing = count_bytes(missing)
        if self._filled_bytes + n_missing > self._checked_bytes:
            n_bytes = max(n_missing, _ROOM_BYTES)
            if not placement.has_room(n_bytes):
                return None
            self._checked_bytes = self._filled_bytes + n_bytes
        if self.segment is None:
            self.segment = new_segment(
                self.room_bytes,
                placement.without_falling_back(),
                self.description,
                more_bytes=n_missing,
            )
        for start, stop in missing:
            write_array(self.segment.fd, place.part(start, stop), start)
            self._filled.add(start, stop)
        n_new = count_bytes(self._met.missing(place.start, place.stop))
        self._filled_bytes += n_missing
        self._again_bytes += place.elements.nbytes - n_new
        self.meet(place)
        return self.segment

    def has_eighth(self) -> bool:
        """Return whether an eighth of the array is filled; True once at most."""
        if self._had_eighth or 8 * self._filled_bytes < self.room_bytes:
            return False
        self._had_eighth = True
        return True

    def retire(self) -> None:
        """Let go of the file: tasks that use it keep it, and nothing is added."""
        segment, self.segment = self.segment, None
        if segment is None:
            return
        segment.seal()
        if is_measuring():
            record = SegmentRecord(
                self.description,
                self._filled_bytes,
                "memory",
                inode=segment.identity,
            )
            publish(record)
        self._filled = ByteRanges()
        self._filled_bytes = self._again_bytes = self._checked_bytes = 0


class SharedViews:
    """The parts of arrays that tasks of one call have views of.

    Parameters
    ----------
    placement : Placement
        Files on disk have no holes: then nothing is shared here.

    Notes
    -----
    The first view of an array is sent by value: it may be the only one. From the second
    on, a file in memory holds the views that were met, and nothing else: what is shared
    is never more than what was sent. What is kept for tasks to come is at most 8 MiB
    for each of 64 arrays, and what one task got, unless views come again: a file that
    has more, and of which less than half was asked for again, is replaced by a new one,
    and goes with its tasks.

    All bytes of a view are compared before the file is believed. If they differ, there
    is a new file.

    Not safe to be used by several threads.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self._can_share = placement.kind != "disk" and proc.can_remap()
        self._task = 1
        # By the array, as long as it lives, and how views of it are stored.
        self._parts: dict[tuple[int, int, int], _Parts] = {}
        self._owners: dict[int, weakref.ref[npt.NDArray[Any]]] = {}
        # How many other views there were, and of how many bytes.
        self._others: dict[tuple[Any, tuple[int, ...]], tuple[int, int]] = {}

    def next_task(self) -> None:
        """Say that the next views are those of another task."""
        self._task += 1

    def put(self, place: ViewPlace, *, is_first_sent: bool = True) -> Segment | None:
        """Return a file that has the bytes of a view in its place.

        Parameters
        ----------
        place : ViewPlace
            The view.
        is_first_sent : bool, default=True
            Whether the first view of an array is sent by value.

        Returns
        -------
        Segment or None
            None if the view has to be sent by value.

        Raises
        ------
        NotEnoughMemoryError, OSError
            If the file cannot be made or filled.
        """
        if not self._can_share:
            return None
        parts, is_new = self._parts_of(place)
        if is_new and is_first_sent:
            parts.meet(place)
            return None
        # Whatever the views of one task take, they take it together.
        is_first_of_task, parts.task = parts.task != self._task, self._task
        if not parts.holds(place) or (is_first_of_task and parts.is_spent(place)):
            parts.retire()
        if parts.segment is None and self._count_files() >= _MAX_FILES:
            note(
                f"views of more than {_MAX_FILES} arrays at a time were sent by value: "
                "each array whose views are shared takes an open file"
            )
            return None
        segment = parts.fill(place, self._placement)
        if segment is None:
            note("views of an array were sent by value: there is no memory for a file")
        return segment

    def see_other(self, view: npt.NDArray[Any]) -> None:
        """Count a view that is no range of its array's file, for whoever measures."""
        owner = owner_of_memory(view)
        if is_measuring() and owner.nbytes > view.nbytes:
            key = owner.dtype, owner.shape
            n_views, n_bytes = self._others.get(key, (0, 0))
            self._others[key] = n_views + 1, n_bytes + view.nbytes

    def has_eighth(self, place: ViewPlace) -> bool:
        """Return whether an eighth of an array is in its file; True once at most."""
        parts, _ = self._parts_of(place)
        return parts.has_eighth()

    def is_filling(self, segment: Segment) -> bool:
        """Return whether a segment is a file to which more may be added."""
        return any(parts.segment is segment for parts in list(self._parts.values()))

    def close(self) -> None:
        """Let go of everything; tasks in flight keep what they use."""
        for parts in list(self._parts.values()):
            parts.retire()
        self._parts.clear()
        self._owners.clear()
        for (dtype, shape), (n_views, n_bytes) in self._others.items():
            note(
                f"views of {dtype} {shape} were sent by value ({n_views}, of "
                f"{format_bytes(n_bytes)} in all): their elements are neither one "
                "after another nor one in each row"
            )
        self._others.clear()

    def _parts_of(self, place: ViewPlace) -> tuple[_Parts, bool]:
        """Return the parts that a view belongs to, and whether it is the first one."""
        owner = place.owner
        self._keep_while_alive(owner)
        key = id(owner), place.row_bytes, place.elements.itemsize
        parts = self._parts.get(key)
        if parts is not None and parts.room_bytes == place.room_bytes:
            return parts, False
        self._parts[key] = parts = _Parts(place)
        return parts, True

    def _keep_while_alive(self, owner: npt.NDArray[Any]) -> None:
        known = self._owners.get(id(owner))
        if known is not None and known() is owner:
            return
        number = id(owner)
        views = weakref.ref(self)

        # The callback runs at any moment, so it takes no lock and only lets go.
        def let_go(reference: object) -> None:
            if (found := views()) is not None:
                found._forget(number, reference)

        self._forget(number, known)
        self._owners[number] = weakref.ref(owner, let_go)

    def _forget(self, number: int, reference: object) -> None:
        if reference is not None and self._owners.get(number) is reference:
            del self._owners[number]
            for key in [key for key in list(self._parts) if key[0] == number]:
                self._parts.pop(key, None)

    def _count_files(self) -> int:
        found = list(self._parts.values())
        return sum(parts.segment is not None for parts in found)
