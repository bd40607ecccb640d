"""What a batch of tasks costs in the worker that runs it, and what to call it."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from types import FrameType
from typing import Any

from skl_mmap._compat import tasks_of
from skl_mmap.memory import counters, trim_heap
from skl_mmap.monitor import OwnMemory, TaskRecord, own_memory

# Private memory that earlier batches may have left in the heap. What a batch takes from
# there would not be seen, since memory does not grow. Giving it back takes up to 10 ms.
_MAX_HEAP_BYTES = 4 << 20


class Observation:
    """Watches this process while it runs a batch."""

    # Whether this process has run a batch before: with the first one, it imports
    # libraries, which has nothing to do with the batch.
    _is_warm = False
    # Private memory of this process when the heap was last given back.
    _lean_bytes = 0

    def __init__(self, *, names_sites: bool = False) -> None:
        self._sites = CopySites() if names_sites else None
        self._seconds = 0.0
        self._before: OwnMemory | None = None
        self._peak_private_bytes: int | None = None
        self._label = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Watch a block: from unpickling a batch to letting go of it."""
        counters.take()
        counters.is_watching_pages = True
        self._begin()
        begin = time.perf_counter()
        try:
            with self._sites or contextlib.nullcontext():
                yield
        finally:
            self._seconds = time.perf_counter() - begin
            if self._before is not None:
                self._peak_private_bytes = _private_peak(self._before, own_memory())

    def see(self, batch: Any) -> None:
        """Look at a batch that was unpickled and is about to run."""
        self._label = label_batch(batch)
        if not Observation._is_warm:
            Observation._is_warm = True
            self._begin()

    @classmethod
    def pass_over(cls) -> None:
        """Let a batch run that nobody wants to know about."""
        cls._is_warm = True

    def _begin(self) -> None:
        if own_memory().anonymous_bytes > Observation._lean_bytes + _MAX_HEAP_BYTES:
            trim_heap()
            Observation._lean_bytes = own_memory().anonymous_bytes
        self._before = own_memory(reset_peak=True)

    def record(self) -> TaskRecord:
        """Return what was seen, once."""
        counters.is_watching_pages = False
        attached_bytes, dirtied_bytes = counters.attached_bytes, counters.dirtied_bytes
        cost = counters.take()
        return TaskRecord(
            pid=os.getpid(),
            seconds=self._seconds,
            mapped_bytes=cost.mapped_bytes,
            copied_bytes=cost.copied_bytes,
            attached_bytes=attached_bytes,
            copy_reasons={cause.key: n for cause, n in cost.copied.items()},
            peak_private_bytes=self._peak_private_bytes,
            dirtied_bytes=dirtied_bytes,
            label=self._label,
            copy_sites={} if self._sites is None else self._sites.largest,
        )


def _private_peak(before: OwnMemory, after: OwnMemory) -> int:
    """Bound the growth of private memory at its worst moment from below.

    In a worker that was forked, a page that it has inherited is no growth when it is
    written to, although the copy takes memory: to the kernel it was there before.

    The kernel's peak counts shared pages too. Those of mappings that are gone by now
    were counted when they went; those of all others are what is shared now. They need
    not have been there all at once, so that what is left is private for certain.
    """
    grown = after.anonymous_bytes - before.anonymous_bytes
    shared_growth = _shared_bytes(after) - _shared_bytes(before)
    peak = after.peak_bytes - before.resident_bytes
    return max(grown, peak - counters.read_bytes - max(shared_growth, 0), 0)


def _shared_bytes(memory: OwnMemory) -> int:
    return max(memory.resident_bytes - memory.anonymous_bytes, 0)


# Tasks that know better what they are pass this argument; see `skl_mmap.estimators`.
_LABEL = "label"
# What scikit-learn's searches pass: number of the split, and how many there are.
_PROGRESS = "split_progress"


def label_batch(batch: Any) -> str:
    """Return the labels of the tasks of a batch, each once."""
    items = tasks_of(batch)
    if items is None:
        return ""
    # Arguments are of any class, and what asking them for an attribute does is up to
    # them. No task fails because of its name.
    with contextlib.suppress(Exception):
        return ", ".join(dict.fromkeys(filter(None, map(label_task, items))))
    return ""


def label_fold(name: str, fold: int, n_splits: int) -> str:
    """Return the label of an estimator on one fold, which counts from 0."""
    return f"{name}, fold {fold + 1} of {n_splits}"


def label_task(item: Any) -> str:
    """Return the label of one task: (function, args, kwargs)."""
    _, args, kwargs = item
    label = kwargs.get(_LABEL)
    if isinstance(label, str):
        return label
    name = next(filter(None, map(name_estimator, (*args, *kwargs.values()))), "")
    progress = kwargs.get(_PROGRESS)
    if name and isinstance(progress, tuple) and len(progress) == 2:
        return label_fold(name, *progress)
    return name


def name_estimator(value: Any) -> str:
    """Return the class of an estimator; of a pipeline, that of its last step."""
    if not hasattr(type(value), "get_params"):
        return ""
    steps = getattr(value, "steps", None)
    if isinstance(steps, list) and steps:
        return name_estimator(steps[-1][-1]) or type(value).__name__
    return type(value).__name__


# What is less is not a copy of anything that needs this backend.
_MIN_BYTES = 4 << 20
_PACKAGE_FOLDER = os.path.dirname(os.path.dirname(__file__)) + os.sep


class CopySites:
    """Takes down large blocks of NumPy's while a ``with`` block runs.

    Attributes
    ----------
    largest : dict of str to int
        Bytes of the largest block that each line of code has asked for.
    """

    def __init__(self) -> None:
        from skl_mmap.copies import NumpyHook

        self.largest: dict[str, int] = {}
        self._hook: Any = NumpyHook(self._notice, _MIN_BYTES)

    def __enter__(self) -> None:
        self._hook.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hook.__exit__()

    def _notice(
        self, address: int, n_bytes: int, old: int, frame: FrameType | None
    ) -> None:
        from skl_mmap.copies import find_site, read_stack

        stack = read_stack(frame, "")
        # Rows that could not be mapped were selected on behalf of somebody else.
        site = find_site(
            tuple(f for f in stack if not f.file.startswith(_PACKAGE_FOLDER))
        )
        name = str(site)
        self.largest[name] = max(self.largest.get(name, 0), n_bytes)
