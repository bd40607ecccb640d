"""What a worker says about each task, and who is listening.

::

    worker: task runs --> TaskRecord --(with the result)--> parent: publish(record)
    parent: an array is shared --> SegmentRecord ---------> publish_segment(record)
                                                              |
                                        every open measure() <+
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

__all__ = [
    "SegmentRecord",
    "TaskRecord",
    "is_looking_for_sites",
    "is_measuring",
    "listen",
    "looking_for_sites",
    "note",
    "publish",
    "publish_segment",
    "unlisten",
]


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """What one batch of tasks cost in the worker that ran it.

    Attributes
    ----------
    pid : int
        The worker.
    seconds : float
        Wall time of the tasks, without queueing.
    mapped_bytes : int
        Bytes of folds that were mapped: they cost no memory.
    copied_bytes : int
        Bytes of folds that were copied although their source is shared.
    attached_bytes : int
        Bytes of whole arrays that were mapped, from which folds are selected.
    copy_reasons : mapping of str to int
        Why, and how many bytes for each reason.
    peak_private_bytes : int or None
        Growth of the worker's private memory while the tasks ran, at its worst
        moment. A lower bound; None where it was not measured.
    dirtied_bytes : int or None
        Bytes of copy-on-write pages that the tasks wrote to. None where not measured.
    label : str
        What was fitted, and on which fold, where the tasks say so.
    copy_sites : mapping of str to int
        Lines of code that asked for large blocks of memory, and the bytes of the
        largest one of each. Empty unless sites were asked for.
    end_seconds : float or None
        When the result arrived, since the start of the measurement that has this
        record. None before, and no part of what makes two records equal.
    """

    pid: int
    seconds: float
    mapped_bytes: int = 0
    copied_bytes: int = 0
    attached_bytes: int = 0
    copy_reasons: Mapping[str, int] = field(default_factory=dict)
    peak_private_bytes: int | None = None
    dirtied_bytes: int | None = None
    label: str = ""
    # By name only: whatever is added to a record comes before or after it.
    copy_sites: Mapping[str, int] = field(default_factory=dict, kw_only=True)
    end_seconds: float | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class SegmentRecord:
    """An array that tasks were given in shared memory.

    Attributes
    ----------
    description : str
        Shape and dtype.
    n_bytes : int
        Size of the segment.
    place : {"memory", "disk", "file"}
        A file in memory, a temporary file on disk, or a file of the user.
    is_copy : bool
        Whether it was made for this call. If not, it was there already: in shared
        memory, adopted in place, or in a file of the user.
    path : str
        Of the user's file.
    inode : tuple of (int, int)
        Device and number: what the segment is, whatever array it was met through.
    """

    description: str
    n_bytes: int
    place: str
    is_copy: bool = True
    path: str = ""
    inode: tuple[int, int] = (0, 0)


_lock = threading.Lock()
# What takes a record, what takes a note, and what takes a segment.
_Listener = tuple[
    Callable[[TaskRecord], None],
    Callable[[str], None],
    Callable[[SegmentRecord], None],
]
_listeners: list[_Listener] = []
_looking: list[bool] = []


def listen(
    take_record: Callable[[TaskRecord], None],
    take_note: Callable[[str], None],
    take_segment: Callable[[SegmentRecord], None] | None = None,
) -> _Listener:
    """Call the functions with every record, note and segment from now on.

    Returns
    -------
    object
        For `unlisten`.
    """
    listener = take_record, take_note, take_segment or _ignore
    with _lock:
        _listeners.append(listener)
    return listener


def _ignore(_: SegmentRecord) -> None:
    pass


def unlisten(listener: _Listener) -> None:
    """Stop calling the functions given to `listen`."""
    with _lock:
        _listeners.remove(listener)


def is_measuring() -> bool:
    """Whether anybody listens, so that workers should look closely."""
    return bool(_listeners)


@contextlib.contextmanager
def looking_for_sites() -> Iterator[None]:
    """Let workers say which lines of code ask for large blocks, while a block runs."""
    with _lock:
        _looking.append(True)
    try:
        yield
    finally:
        with _lock:
            _looking.pop()


def is_looking_for_sites() -> bool:
    """Whether workers should name lines of code, which costs them time."""
    return bool(_looking)


def publish(record: TaskRecord) -> None:
    """Hand a record to everybody who listens; called in the parent process."""
    with _lock:
        listeners = tuple(_listeners)
    for take_record, _, _ in listeners:
        take_record(record)


def publish_segment(record: SegmentRecord) -> None:
    """Hand a segment to everybody who listens, who may know it already."""
    with _lock:
        listeners = tuple(_listeners)
    for _, _, take_segment in listeners:
        take_segment(record)


def note(text: str) -> None:
    """Hand a sentence for the report to everybody who listens.

    For what is done in another way than asked for, and why.
    """
    with _lock:
        listeners = tuple(_listeners)
    for _, take_note, _ in listeners:
        take_note(text)
