"""The store: which arrays are shared already, and for how long.

A segment lives while

* the array that it was made from is alive, and the store is; or
* a task in flight or a result uses it: whoever sends a handle keeps the segment too.

Whether an array *is* shared already is decided by its bytes. Users change arrays
between two calls, and refill buffers between two tasks of one, and stale data is the
worst thing that could be handed out. So the identity of an array is never believed
alone::

    first task of a call, or a new view of the same memory     all bytes are compared
    next tasks of the call, with the very same ndarray         both ends and 64 pages

That is never worse than loky, which writes a new file for each new view, and then
believes the identity of an ndarray until the call ends.
"""

from __future__ import annotations

import dataclasses
import errno
import threading
import weakref
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap._linux import calls
from skl_mmap.exceptions import SklMmapError
from skl_mmap.memory._adoption import adopt
from skl_mmap.memory._comparison import (
    AS_IT_IS,
    COMPARE_CHUNK_BYTES,
    holds,
    holds_sample,
)
from skl_mmap.memory._conversion import (
    Conversion,
    create_converted,
)
from skl_mmap.memory._filling import iterate_stored
from skl_mmap.memory._handles import (
    ArrayHandle,
    contiguous_strides,
    describe,
)
from skl_mmap.memory._mapping import Mapping
from skl_mmap.memory._placement import Placement
from skl_mmap.memory._segment import (
    Segment,
    create_range_segment,
    create_segment,
)
from skl_mmap.memory._settings import Settings
from skl_mmap.memory._sharing import publish_shared
from skl_mmap.memory._shifted_pages import ShiftedPages
from skl_mmap.memory._sources import is_never_stale, name_of, owner_of, place_of
from skl_mmap.memory._user_files import describe_memmap
from skl_mmap.memory._views import (
    MIN_VIEW_BYTES,
    SharedViews,
    ViewPlace,
    locate_view,
    owner_of_memory,
)
from skl_mmap.monitor import note

# loky pickles arrays of up to 1 MiB with each task. To compare them takes 0.2 ms.
_SMALL_BYTES = 1 << 20
# Sharing this much takes longer than giving freed memory back (up to 10 ms).
_TRIM_BYTES = 32 << 20


class _Entry:
    """One array that is shared, and where a segment holds its bytes."""

    def __init__(
        self,
        array: npt.NDArray[Any],
        segment: Segment,
        epoch: int,
        conversion: Conversion,
        offset: int = 0,
    ) -> None:
        self.layout = stored_layout(array, conversion)
        self.offset = offset
        view = locate_view(array) if conversion is AS_IT_IS else None
        self.extent = None if view is None else _Extent.of(view)
        self.is_optional = conversion.is_optional
        self.segment_ref = weakref.ref(segment)
        # Kept as long as the source lives; see adopt().
        self.segment: Segment | None = None
        self.source: weakref.ref[Any] | None = None
        self.place: tuple[Any, ...] = ()
        self.epoch = epoch
        # Arrays whose bytes were compared in this call, or copied, by id.
        self._proved: dict[int, weakref.ref[npt.NDArray[Any]]] = {}
        self.adopt(array, segment, epoch)

    def adopt(self, array: npt.NDArray[Any], segment: Segment, epoch: int) -> None:
        """Tie the segment's life to this array's memory, which holds the same bytes."""
        known = self._proved if self.is_of(array) and self.epoch == epoch else {}
        self._proved = {key: ref for key, ref in known.items() if ref() is not None}
        self._proved[id(array)] = weakref.ref(array)
        self.place = place_of(array)
        self.epoch = epoch
        self.segment = segment
        # The callback runs at any moment, so it takes no lock and only lets go.
        entry = weakref.ref(self)

        def let_go(_: object) -> None:
            if (owner := entry()) is not None and owner.source is source:
                owner.segment = None

        source = weakref.ref(owner_of(array), let_go)
        self.source = source

    def is_of(self, array: npt.NDArray[Any]) -> bool:
        """Return whether this was made from the same elements in memory."""
        return (
            self.source is not None
            and self.source() is owner_of(array)
            and self.place == place_of(array)
        )

    def is_proved(self, array: npt.NDArray[Any], epoch: int) -> bool:
        """Whether this very ndarray was compared, or copied, in the call already."""
        proved = self._proved.get(id(array))
        is_known = proved is not None and proved() is array
        return is_known and self.epoch == epoch and self.is_of(array)

    def forget(self) -> None:
        """Let go of a version that is old: only tasks may still need it."""
        self.segment = self.source = None
        self._proved = {}


class _Extent(NamedTuple):
    """Which bytes of an array a view of it has."""

    owner: weakref.ref[npt.NDArray[Any]]
    start: int
    stop: int

    @classmethod
    def of(cls, place: ViewPlace) -> _Extent | None:
        """Return that of a view; None if its elements have gaps between them."""
        if place.row_bytes:
            return None
        return cls(weakref.ref(place.owner), place.start, place.stop)

    def has_half_in(self, other: _Extent | None) -> bool:
        """Return whether at least half of the bytes are those of another view."""
        if other is None or other.owner() is not self.owner():
            return False
        n_common = min(self.stop, other.stop) - max(self.start, other.start)
        return 2 * n_common >= self.stop - self.start


class Store:
    """What has been shared, so that it is not shared twice.

    Parameters
    ----------
    placement : Placement
        Where new segments live.
    settings : Settings
        How their arrays are handed to tasks.
    can_adopt : bool
        Whether the memory of an array may be taken for a segment instead of copied.

    Notes
    -----
    Safe to be used by several threads.
    """

    def __init__(
        self, placement: Placement, settings: Settings, *, can_adopt: bool = False
    ) -> None:
        self.placement = placement
        self.settings = settings
        self.can_adopt = can_adopt
        self._adopted: list[Mapping] = []
        self._entries: list[_Entry] = []
        self._views = SharedViews(placement)
        self._identity: tuple[ArrayHandle, Segment] | None = None
        self._shifted = ShiftedPages(1)
        self._epoch = 0
        self._lock = threading.Lock()

    def next_call(self, n_workers: int = 1) -> None:
        """Believe nothing any more: the caller may have changed its arrays."""
        with self._lock:
            self._epoch += 1
            self._shifted.close()
            self._shifted = ShiftedPages(n_workers)
            self._adopted = [m for m in self._adopted if m.is_at(0, m.n_bytes)]
            self._views.close()

    def next_task(self, n_splits: int = 0) -> None:
        """Say that what is shared from now on is for another task.

        Of one of so many splits, if other tasks of the call get the same folds.
        """
        with self._lock:
            self._views.next_task()
            self._shifted.next_task(n_splits)

    def end_call(self) -> None:
        """Let go of what is shared for one call only: parts of arrays and of folds."""
        with self._lock:
            self._views.close()
            self._shifted.close()

    def share(
        self, array: npt.NDArray[Any], *, conversion: Conversion = AS_IT_IS
    ) -> tuple[ArrayHandle, Segment] | None:
        """Share an array, or find out that it is shared already.

        Parameters
        ----------
        array : ndarray
            Without objects, and not empty. Or a `Composite`, with a conversion.
        conversion : Conversion, optional
            In which layout it should be stored; as it is by default.

        Returns
        -------
        (ArrayHandle, Segment) or None
            The segment must be kept until the handle was rebuilt. None if the array
            has to be sent by value, because this process may not open more files.

        Raises
        ------
        NotEnoughMemoryError, NotEnoughDiskError
            If there is no room.
        LossyConversionError
            If a number is too large for the dtype of the conversion.

        Notes
        -----
        O(n) in bytes: one copy at first sight, and one comparison (about 10 GB/s) when
        its memory is met again in another call, or as another ndarray. Within a call,
        0.2 ms: a sample of 66 pages is compared, or all of what has up to 1 MiB.
        """
        if not conversion.is_needed_for(array):
            conversion = AS_IT_IS
        as_it_is = conversion is AS_IT_IS
        described = None
        if as_it_is:
            described = describe(array, self.settings) or describe_memmap(
                array, self.settings
            )
        if described is not None:
            publish_shared(described, is_copy=False)
            return self._shifted.offer(described)
        with self._lock:
            segment, offset = self._find(array, conversion)
            if segment is None and as_it_is:
                segment, offset = self._find_overlapping(array)
            if segment is None and as_it_is and self.can_adopt:
                described = self._adopt(array)
                if described is not None:
                    publish_shared(described, is_copy=False)
                    return self._shifted.offer(described)
            is_copy = segment is None
            segment = segment or self._add(array, conversion)
        if segment is None:
            return None
        shared = self._handle(array, segment, conversion, offset), segment
        source = owner_of(array) if is_copy and as_it_is else None
        if not self._views.is_filling(segment):  # it is told of when it is complete
            publish_shared(shared, is_copy=is_copy, source=source, name=name_of(array))
        return self._shifted.offer(shared, name_of(array))

    def share_view(self, view: npt.NDArray[Any]) -> tuple[ArrayHandle, Segment] | None:
        """Share an array that is too small for it, if it is a part of a larger one.

        Parameters
        ----------
        view : ndarray
            Without objects, and not empty.

        Returns
        -------
        (ArrayHandle, Segment) or None
            As `share`; for `Windows`. None if it is better sent by value: it has
            less than 64 KiB, is nobody's part, or is the first one of its array.

        Notes
        -----
        O(n) in bytes of the view, which are copied once for each call; or compared, if
        they were met before, or all of the array is shared. See `SharedViews` for what
        is kept.
        """
        if not _may_be_part(view):
            return None
        described = describe_view(view, self.settings)
        if described is not None:
            publish_shared(described, is_copy=False)
            return self._shifted.offer(described)
        if owner_of_memory(view).nbytes < self.settings.min_bytes:
            return None
        place = locate_view(view)
        with self._lock:
            if place is None:
                self._views.see_other(view)
                return None
            whole = self._find_whole(place)
            segment = whole or self._put(place, is_first_sent=True)
            if self._has_adopted(place):
                described = describe_view(view, self.settings)
        if described is not None:
            publish_shared(described, is_copy=False)
            return described
        if segment is None:
            return None
        handle = self._handle(view, segment, offset=place.start)
        handle = dataclasses.replace(handle, settings=_as_sent(view, self.settings))
        shared = handle, segment
        if whole is not None:
            publish_shared(shared, is_copy=False)
        return shared

    def identity(self, n_rows: int) -> tuple[ArrayHandle, Segment] | None:
        """Share the array ``0, 1, ..., n_rows - 1`` or a longer one.

        Index arrays are rebuilt from it in the workers; see `IndexHandle`.
        """
        with self._lock:
            if self._identity is None or self._identity[0].shape[0] < n_rows:
                self._identity = None  # let go before making a longer one
                segment = self._unless_out_of_files(
                    create_range_segment, n_rows, self.placement
                )
                if segment is None:
                    return None
                like = np.broadcast_to(np.intp(0), (n_rows,))
                self._identity = self._handle(like, segment), segment
                publish_shared(self._identity, is_copy=True)
            return self._shifted.offer(self._identity)

    def close(self) -> None:
        """Let go of everything; tasks in flight and results keep what they use."""
        with self._lock:
            self._entries.clear()
            self._adopted.clear()
            self._views.close()
            self._shifted.close()
            self._identity = None

    def _has_adopted(self, place: ViewPlace) -> bool:
        """Share all of an array in place, once an eighth of it was copied in parts."""
        if not self.can_adopt or place.row_bytes or not self._views.has_eighth(place):
            return False
        return self._adopt(place.owner) is not None

    def _find_whole(self, place: ViewPlace) -> Segment | None:
        """Return the segment of all of an array, if it holds the bytes of a view."""
        if place.row_bytes:
            return None
        layout = stored_layout(place.owner, AS_IT_IS)
        for entry in self._entries:
            segment = entry.segment_ref()
            if segment is not None and (entry.layout, entry.offset) == (layout, 0):
                parts = iterate_stored(place.elements, COMPARE_CHUNK_BYTES)
                if entry.is_of(place.owner) and segment.holds(parts, place.start):
                    return segment
        return None

    def _find_overlapping(self, view: npt.NDArray[Any]) -> tuple[Segment | None, int]:
        """Return where a view is, if at least half of it is shared already.

        With another view of the same array, or all of it. What is missing is added to
        the file of the array's parts.
        """
        place = locate_view(view)
        if place is None or place.row_bytes:
            return None, 0
        segment = self._find_whole(place)
        if segment is None and self._has_half(_Extent.of(place)):
            segment = self._put(place, is_first_sent=False)
        if segment is None:
            return None, 0
        entry = _Entry(view, segment, self._epoch, AS_IT_IS, place.start)
        self._entries.append(entry)
        return segment, place.start

    def _has_half(self, extent: _Extent | None) -> bool:
        return extent is not None and any(
            entry.segment_ref() is not None and extent.has_half_in(entry.extent)
            for entry in self._entries
        )

    def _put(self, place: ViewPlace, *, is_first_sent: bool) -> Segment | None:
        """Put a view into the file of its array's parts, if there is room."""
        try:
            return self._views.put(place, is_first_sent=is_first_sent)
        except (SklMmapError, OSError) as error:
            note(f"views of an array were not shared with others: {error}")
            return None

    def _find(
        self, array: npt.NDArray[Any], conversion: Conversion
    ) -> tuple[Segment | None, int]:
        layout = stored_layout(array, conversion)
        alive = []
        found, offset = None, 0
        for entry in self._entries:
            segment = entry.segment_ref()
            if segment is None:
                continue
            alive.append(entry)
            if found is not None or entry.layout != layout:
                continue
            if self._is_current(entry, segment, array, conversion):
                entry.adopt(array, segment, self._epoch)
                found, offset = segment, entry.offset
            elif entry.is_of(array):
                entry.forget()
        self._entries = alive
        return found, offset

    def _is_current(
        self,
        entry: _Entry,
        segment: Segment,
        array: npt.NDArray[Any],
        conversion: Conversion,
    ) -> bool:
        """Compare an array with a segment: a sample of it where that is enough."""
        can_sample = (
            array.nbytes > max(_SMALL_BYTES, self.settings.min_bytes)
            and entry.is_proved(array, self._epoch)
            and not is_never_stale(array)
        )
        compare = holds_sample if can_sample else holds
        return compare(segment, array, conversion, entry.offset)

    def _adopt(self, array: npt.NDArray[Any]) -> tuple[ArrayHandle, Segment] | None:
        adopted = adopt(owner_of(array), self.placement, self.settings)
        if isinstance(adopted, str):
            note(
                f"an array of shape {array.shape} and dtype {array.dtype} was copied "
                f"and not adopted: {adopted}"
            )
            return None
        self._adopted.append(adopted)
        return describe(array)

    def _add(self, array: npt.NDArray[Any], conversion: Conversion) -> Segment | None:
        if conversion is AS_IT_IS:
            if not self.placement.has_room(array.nbytes):
                self._drop_optional()
            segment = self._unless_out_of_files(create_segment, array, self.placement)
        else:
            segment = self._unless_out_of_files(
                create_converted, array, conversion, self.placement
            )
        if array.nbytes >= _TRIM_BYTES:
            calls.trim_heap()
        if segment is not None:
            self._entries.append(_Entry(array, segment, self._epoch, conversion))
        return segment

    def _drop_optional(self) -> None:
        """Let go of what is there twice; tasks in flight keep what they use."""
        for entry in self._entries:
            if entry.is_optional:
                entry.segment = None

    @staticmethod
    def _unless_out_of_files(
        create: Callable[..., Segment], *arguments: Any
    ) -> Segment | None:
        try:
            return create(*arguments)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE, errno.EFBIG):
                note(f"an array was sent to each task by value: {error}")
                return None
            raise

    def _handle(
        self,
        array: npt.NDArray[Any],
        segment: Segment,
        conversion: Conversion = AS_IT_IS,
        offset: int = 0,
    ) -> ArrayHandle:
        shape, strides, dtype = stored_layout(array, conversion)
        return ArrayHandle(
            segment.handle(),
            ((offset, array.size * dtype.itemsize),),
            0,
            dtype,
            shape,
            strides,
            self.settings,
        )


def describe_view(
    view: npt.NDArray[Any], settings: Settings
) -> tuple[ArrayHandle, Segment] | None:
    """Describe a part of what is shared already, however small it is."""
    if not _may_be_part(view):
        return None
    settings = _as_sent(view, settings)
    # Columns of an array in a mapping would keep the gaps between their elements.
    is_dense = view.flags.c_contiguous or view.flags.f_contiguous
    described = describe(view, settings, min_bytes=0) if is_dense else None
    return described or describe_memmap(view, settings)


def _may_be_part(view: npt.NDArray[Any]) -> bool:
    """Return whether a view is large enough to be mapped, and may be one of more."""
    return view.nbytes >= MIN_VIEW_BYTES and view.base is not None


def _as_sent(view: npt.NDArray[Any], settings: Settings) -> Settings:
    """Return how a view is handed on: as if it had been sent by value."""
    is_writable = view.flags.writeable or not _keeps_flags(view)
    return settings._replace(mmap_mode="c" if is_writable else "r")


def _keeps_flags(array: npt.NDArray[Any]) -> bool:
    """Return whether an array that is read-only would be so when it was pickled.

    It would if its bytes are pickled as they lie: if they have no gaps, and NumPy lends
    them to others, unlike those of dates.
    """
    if not (array.flags.c_contiguous or array.flags.f_contiguous):
        return False
    try:
        memoryview(array).release()  # type: ignore[arg-type]
    except (BufferError, TypeError, ValueError):
        return False
    return True


def stored_layout(
    array: npt.NDArray[Any], conversion: Conversion
) -> tuple[tuple[int, ...], tuple[int, ...], np.dtype[Any]]:
    """Shape, strides and dtype of an array in its segment.

    Fortran order is kept, gaps are not: the same that pickling does, so that workers
    see what they see with loky.
    """
    dtype = conversion.dtype_of(array)
    order = conversion.order_of(array)
    return array.shape, contiguous_strides(array.shape, dtype.itemsize, order), dtype
