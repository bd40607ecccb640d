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

__all__ = ["TaskRecord", "is_measuring", "listen", "publish", "unlisten"]


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
    copy_reasons : mapping of str to int
        Why, and how many bytes for each reason.
    peak_private_bytes : int or None
        Growth of the worker's private memory while the tasks ran, at its worst
        moment. A lower bound; None where it was not measured.
    dirtied_bytes : int or None
        Bytes of copy-on-write pages that the tasks wrote to. None where not measured.
    """

    pid: int
    seconds: float
    mapped_bytes: int = 0
    copied_bytes: int = 0
    copy_reasons: Mapping[str, int] = field(default_factory=dict)
    peak_private_bytes: int | None = None
    dirtied_bytes: int | None = None


_lock = threading.Lock()
_listeners: list[Callable[[TaskRecord], None]] = []


def listen(listener: Callable[[TaskRecord], None]) -> None:
    """Call `listener` with every record published from now on."""
    with _lock:
        _listeners.append(listener)


def unlisten(listener: Callable[[TaskRecord], None]) -> None:
    """Stop calling `listener`."""
    with _lock:
        _listeners.remove(listener)


def is_measuring() -> bool:
    """Whether anybody listens, so that workers should look closely."""
    return bool(_listeners)


def publish(record: TaskRecord) -> None:
    """Hand a record to everybody who listens; called in the parent process."""
    with _lock:
        listeners = tuple(_listeners)
    for listener in listeners:
        listener(record)
