"""A batch of tasks on its way to a worker, and its result on the way back.

::

    parent                                      worker
    Task(batch) --pickled in loky's feeder--> PackedTask()  unpickles the batch: arrays
      keeps the segments alive, and             |           are mapped here
      files for large results                   v
    unpack(Outcome) <------------------------ Outcome       result or error, pickled
      publishes the record                                  before the mappings go away
"""

from __future__ import annotations

import gc
import traceback
from dataclasses import dataclass
from typing import Any, NamedTuple

from skl_mmap.backend._indices import compact_batch
from skl_mmap.backend._observation import Observation
from skl_mmap.backend._options import Options
from skl_mmap.backend._pickling import (
    PickledResult,
    SharingError,
    dump_result,
    dump_task,
    load_result,
    load_task,
)
from skl_mmap.memory import (
    FilePool,
    Hindrance,
    ResultFiles,
    ResultWriter,
    Segment,
    Store,
    Ticket,
    live_mappings,
    trim_heap,
)
from skl_mmap.monitor import (
    TaskRecord,
    is_measuring,
    publish,
    wants_copy_sites,
)

# Memory of this size is worth the time (up to 10 ms) of giving it back.
_TRIM_BYTES = 4 << 20


class Task:
    """A batch in the parent; becomes a `PackedTask` when it is pickled.

    loky pickles in its feeder thread, so that copying a large array does not stop the
    thread that dispatches. Index arrays are compacted at once: joblib holds many.
    """

    def __init__(
        self,
        batch: Any,
        store: Store | None,
        options: Options,
        freed_bytes: int = 0,
        pool: FilePool | None = None,
    ) -> None:
        self.batch, self._freed_bytes = compact_batch(batch, options)
        self._freed_bytes += freed_bytes
        self._store = store
        self._options = options
        self._segments: list[Segment] = []
        self._pool = pool
        self._files: ResultFiles | None = None

    def release(self, future: Any = None) -> None:
        """Let go of the arrays and segments: nobody will ask for the result again.

        joblib, the future and its callbacks refer to each other after an error, until
        the garbage collector finds them.
        """
        pool, files = self._pool, self._files
        self.batch = self._store = self._pool = self._files = None
        self._segments = []
        if pool is None or files is None or future is None or future.cancelled():
            return
        # Without an outcome, a worker may still be writing.
        if future.exception() is None:
            pool.give_back(files, Outcome._make(future.result()).n_files)

    def __reduce__(self) -> Any:
        if self._freed_bytes >= _TRIM_BYTES:
            trim_heap()
        assert self._store is not None
        try:
            payload, self._segments = dump_task(self.batch, self._store, self._options)
        except SharingError as error:
            # Raised by the worker, it takes the way of every other error to the user;
            # raised here, loky would turn it into a PicklingError.
            (reason,) = error.args
            _forget_frames(reason)
            return FailedTask, (reason,)
        ticket = None
        if self._pool is not None:
            self._files = self._pool.take()
            ticket = self._files.ticket
        return PackedTask, (payload, ticket, is_measuring(), wants_copy_sites())


@dataclass(frozen=True, slots=True)
class FailedTask:
    """A task whose arguments could not be shared."""

    error: Exception

    def __call__(self) -> tuple[Any, ...]:
        return tuple(_failure(self.error))


class PackedTask:
    """A pickled batch, and whether the parent wants to know its cost in detail.

    Parameters
    ----------
    payload : bytes or list of bytes
        The batch; a large one is in parts.
    ticket : tuple or None
        For files that large results are written to.
    is_measured : bool
        Whether memory is looked at.
    names_sites : bool
        Whether lines of code that ask for large blocks are named.
    """

    __slots__ = ("_is_measured", "_names_sites", "_payload", "_ticket")

    def __init__(
        self,
        payload: bytes | list[bytes],
        ticket: Ticket,
        is_measured: bool,
        names_sites: bool,
    ) -> None:
        self._payload = payload
        self._ticket = ticket
        self._is_measured = is_measured
        self._names_sites = names_sites

    def __call__(self) -> tuple[Any, ...]:
        """Run the batch, once, and return an `Outcome` as what it consists of.

        A plain tuple is pickled in a third of the time.
        """
        outcome = self._run()
        if live_mappings():
            # Something that refers to itself holds arrays of the task; the worker
            # must not keep the memory of a segment that the parent lets go of.
            gc.collect()
        return tuple(outcome)

    def _run(self) -> Outcome:
        if not self._is_measured:
            Observation.pass_over()
            return self._try(None)
        observation = Observation(names_sites=self._names_sites)
        with observation.running():
            outcome = self._try(observation)
        return outcome._replace(record=observation.record())

    def _try(self, observation: Observation | None) -> Outcome:
        writer = ResultWriter(self._ticket)
        try:
            # The last mappings are looked through, and counted, as they go: when this
            # returns.
            pickled = self._run_batch(writer, observation)
        except BaseException as error:  # noqa: BLE001 - the worker must live on
            return _failure(error, writer.n_used)
        if writer.n_bytes >= _TRIM_BYTES:
            trim_heap()
        return Outcome(pickled, n_files=writer.n_used, hindrance=writer.hindrance)

    def _run_batch(
        self, writer: ResultWriter, observation: Observation | None
    ) -> PickledResult:
        batch = self._take_batch()
        if observation is not None:
            observation.see(batch)
        return dump_result(batch(), writer)

    def _take_batch(self) -> Any:
        """Unpickle the batch, and let go of its pickle, which may be as large."""
        payload, self._payload = self._payload, b""
        is_large = isinstance(payload, list)
        batch = load_task(payload)
        del payload
        if is_large:
            trim_heap()
        return batch


class Outcome(NamedTuple):
    """What a worker sends back, as a plain tuple.

    Attributes
    ----------
    pickled : PickledResult
        The result, or the exception.
    traceback : str
        Of the exception, as text; empty if there is none.
    record : TaskRecord or None
        What it cost, if somebody measures.
    n_files : int
        How many files may have been written to: the first ones.
    hindrance : Hindrance or None
        Why large arrays were pickled and not written to files, if they were.
    """

    pickled: PickledResult
    traceback: str = ""
    record: TaskRecord | None = None
    n_files: int = 0
    hindrance: Hindrance | None = None


class _RemoteTraceback(Exception):  # noqa: N818 - the name that loky's users know
    """The traceback of an error in a worker, shown as the cause of the error."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return f'\n"""\n{self.text}"""'

    def __reduce__(self) -> Any:
        return _RemoteTraceback, (self.text,)


def _failure(error: BaseException, n_files: int = 0) -> Outcome:
    text = "".join(traceback.format_exception(error))
    _forget_frames(error)
    try:
        pickled = _dump_error(error)
    except Exception as pickling_error:  # noqa: BLE001 - anything can happen there
        reason = RuntimeError(
            f"a task raised {type(error).__name__}, which cannot be sent back "
            f"({pickling_error}). Its traceback is above."
        )
        pickled = _dump_error(reason)
    return Outcome(pickled, text, n_files=n_files)


def _dump_error(error: BaseException) -> PickledResult:
    return dump_result(error, ResultWriter(None))


def _forget_frames(error: BaseException | None) -> None:
    """Let go of what the frames of an error hold: arrays, and so segments."""
    while error is not None and error.__traceback__ is not None:
        traceback.clear_frames(error.__traceback__)
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def unpack(sent: tuple[Any, ...]) -> Any:
    """Return the result of a batch in the parent, or raise its error.

    The error has its own type, and the worker's traceback as its cause.
    """
    outcome = Outcome._make(sent)
    if outcome.record is not None:
        publish(outcome.record)
    if outcome.hindrance is not None:
        outcome.hindrance.tell()
    if not outcome.traceback:
        return load_result(outcome.pickled)
    try:
        error = load_result(outcome.pickled)
    except Exception as reason:  # noqa: BLE001 - its class decides what happens
        error = RuntimeError(
            f"a task raised an error that cannot be rebuilt here ({reason}). The "
            "worker's traceback, which names it, is above. Exceptions that take more "
            "than one argument need a __reduce__."
        )
    raise error from _RemoteTraceback(outcome.traceback)
