"""Records of tasks, calls and shared arrays, and who is told of them.

::

    worker: a task runs --> TaskRecord --(with the result)--> parent: publish(record)
    parent: an array is shared, a call ends, something is done in another way
            --> SegmentRecord, CallRecord, note: a sentence -> publish(record)
                                                                |
                                          every open measure() <+
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple


@dataclass(frozen=True, slots=True)
class TaskRecord:
    """Cost of one batch of tasks in the worker that ran it.

    Attributes
    ----------
    pid : int
        The worker.
    seconds : float
        Wall time of the tasks, without queueing.
    mapped_bytes : int
        Bytes of folds that were mapped: they cost no memory.
    copied_bytes : int
        Bytes of folds that were copied although their source is shared; by the task
        itself, but for those of the reasons ``"SHIFTED"`` and ``"GATHERED"``, which
        tasks share.
    attached_bytes : int
        Bytes of whole arrays that were mapped, from which folds are selected.
    copy_reasons : mapping of str to int
        Why, and how many bytes for each cause, by its key (see `skl_mmap.memory`).
    peak_private_bytes : int or None
        Growth of the worker's private memory while the tasks ran, at its worst
        moment. A lower bound, in which a forked worker's copies of pages that it has
        inherited are missing; None where it was not measured.
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
    is_adoptable : bool
        Whether it is a copy, in memory, of an array that could have been shared in
        place.
    is_of_folds : bool
        Whether it is no array of a task, but parts of folds that all tasks share.
    """

    description: str
    n_bytes: int
    place: str
    is_copy: bool = True
    path: str = ""
    inode: tuple[int, int] = (0, 0)
    is_adoptable: bool = field(default=False, kw_only=True)
    is_of_folds: bool = field(default=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class CallRecord:
    """A parallel call: how it was asked for, and what its tasks had in common.

    Attributes
    ----------
    backend : str
        Name of joblib's backend.
    n_jobs : int
        Number of workers as the user gave it: -1 for one for each core.
    options : mapping of str to str, int, float, bool or None
        Parameters of the backend that are not the defaults.
    owner : str
        Class of the estimator that has set the backend by itself; empty if the user
        has, with ``parallel_config`` for example.
    n_splits : int
        Test sets that the tasks had; 0 if they do not say.
    n_runs : int
        The most runs of consecutive rows that a train set consisted of.
    is_partition : bool or None
        Whether no row was tested twice and each train set was all other rows, so that
        `skl_mmap.arrange` can be used; None if the tasks do not say.
    has_target : bool
        Whether there was a y.
    is_classifier : bool
        Whether a classifier was fitted.
    can_reorder : bool
        Whether tasks had train sets or splitters, which ``row_order="any"`` is about.
    conversions : mapping of str to str
        By the estimator of a task's label: the layout to which it converts X, if
        ``layouts="auto"`` would save that. Empty where it does.
    input_bytes : int or None
        Size of the largest argument X of the tasks; None if they have none, or one of
        unknown size.
    """

    backend: str
    n_jobs: int
    options: Mapping[str, str | int | float | bool | None] = field(default_factory=dict)
    owner: str = field(default="", kw_only=True)
    n_splits: int = field(default=0, kw_only=True)
    n_runs: int = field(default=0, kw_only=True)
    is_partition: bool | None = field(default=None, kw_only=True)
    has_target: bool = field(default=False, kw_only=True)
    is_classifier: bool = field(default=False, kw_only=True)
    can_reorder: bool = field(default=False, kw_only=True)
    conversions: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    input_bytes: int | None = field(default=None, kw_only=True)


Record = TaskRecord | SegmentRecord | CallRecord | str


class _Listener(NamedTuple):
    take: Callable[[Any], object]
    kinds: tuple[type, ...]
    copy_sites: bool


_lock = threading.Lock()
_listeners: list[_Listener] = []


def listen(
    take: Callable[[Any], object], *kinds: type, copy_sites: bool = False
) -> _Listener:
    """Call a function with every record from now on.

    Parameters
    ----------
    take : callable
        Called with each record, in the thread that publishes it.
    *kinds : type
        Which ones: TaskRecord, SegmentRecord, CallRecord, or str for notes. All of
        them if none is given.
    copy_sites : bool, default=False
        Whether workers are to name lines of code, which costs them time.

    Returns
    -------
    object
        For `unlisten`.
    """
    listener = _Listener(take, kinds or (object,), copy_sites)
    with _lock:
        _listeners.append(listener)
    return listener


def unlisten(listener: _Listener) -> None:
    """Stop calling the function given to `listen`."""
    with _lock:
        _listeners.remove(listener)


def is_measuring() -> bool:
    """Tell if anybody listens, so that workers should look closely."""
    return bool(_listeners)


def wants_copy_sites() -> bool:
    """Tell if workers should name the lines of code that ask for large blocks."""
    return any(listener.copy_sites for listener in tuple(_listeners))


def publish(record: Record) -> None:
    """Hand a record to everybody who listens; called in the parent process."""
    with _lock:
        listeners = tuple(_listeners)
    for listener in listeners:
        if isinstance(record, listener.kinds):
            listener.take(record)


def note(text: str) -> None:
    """Publish a sentence for the report: what is done in another way, and why."""
    publish(text)


def add_reasons(records: Iterable[TaskRecord]) -> dict[str, int]:
    """Add up why folds were copied: bytes for each reason, largest first."""
    total: dict[str, int] = {}
    for record in records:
        for reason, n_bytes in record.copy_reasons.items():
            total[reason] = total.get(reason, 0) + n_bytes
    return dict(sorted(total.items(), key=lambda item: -item[1]))
