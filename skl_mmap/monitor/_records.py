"""What a worker says about each task, and who is listening.

::

    worker: task runs --> TaskRecord --(with the result)--> parent: publish(record)
                                                              |
                                        every open measure() <+
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

__all__ = ["TaskRecord", "is_measuring", "listen", "note", "publish", "unlisten"]


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


_lock = threading.Lock()
# What takes a record, and what takes a note.
_Listener = tuple[Callable[[TaskRecord], None], Callable[[str], None]]
_listeners: list[_Listener] = []


def listen(
    take_record: Callable[[TaskRecord], None], take_note: Callable[[str], None]
) -> _Listener:
    """Call the functions with every record and note from now on.

    Returns
    -------
    object
        For `unlisten`.
    """
    listener = take_record, take_note
    with _lock:
        _listeners.append(listener)
    return listener


def unlisten(listener: _Listener) -> None:
    """Stop calling the functions given to `listen`."""
    with _lock:
        _listeners.remove(listener)


def is_measuring() -> bool:
    """Whether anybody listens, so that workers should look closely."""
    return bool(_listeners)


def publish(record: TaskRecord) -> None:
    """Hand a record to everybody who listens; called in the parent process."""
    with _lock:
        listeners = tuple(_listeners)
    for take_record, _ in listeners:
        take_record(record)


def note(text: str) -> None:
    """Hand a sentence for the report to everybody who listens.

    For what is done in another way than asked for, and why.
    """
    with _lock:
        listeners = tuple(_listeners)
    for _, take_note in listeners:
        take_note(text)
