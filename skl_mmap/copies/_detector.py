"""What one call needs in memory, measured in the process that makes it.

::

    peak of the process (VmHWM, exact)      what was needed in all, native code too
    large blocks of NumPy (hook)            which line asked, and what it did with X
    a thread that reads RssAnon             the line in which memory grew that is no
                                            block of NumPy: native code
    pages of X that became private          what was written in place

For a process that does nothing else: garbage collection is off meanwhile, and the
kernel's peak belongs to the whole process.

The hook does not hear of the end of a block. Blocks of at least `MIN_BLOCK_BYTES` are
mappings of their own once glibc is told so (`M_MMAP_THRESHOLD`): a block that is gone
cannot be read any more, or has another size in the word before it. The memory is read
through /proc/self/mem, where reading what is not there is an error and no crash.
"""

from __future__ import annotations

import contextlib
import gc
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, final

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import CHUNK_HEADER_BYTES, mapped_chunk_bytes
from skl_mmap._linux.calls import trim_heap
from skl_mmap._linux.proc import (
    PAGE_BYTES,
    can_reset_own_peak,
    find_bytes,
    open_own_memory,
    own_private_bytes,
    read_own_status,
    resident_bytes,
)
from skl_mmap.copies._contents import Reference
from skl_mmap.copies._numpy_memory import (
    Frame,
    NumpyHook,
    check_arguments,
    is_hookable,
    read_stack,
)
from skl_mmap.copies._results import Content
from skl_mmap.monitor import own_memory

MIN_BLOCK_BYTES = 1 << 15
# Smaller ones are counted, but nothing else is known of them.
_MIN_SHARE = 0.1
# Between two looks at a block: first, and how much longer each time.
_FIRST_SECONDS = 0.001
_FACTOR = 1.3
_MAX_LOOKS = 20
# Rounding of a block to pages, its header included.
_MAX_SLACK_BYTES = 2 * 65536
_INTERVAL_SECONDS = 0.002
# Fraction of X: if more grows than blocks of NumPy explain, the line is kept.
_MIN_UNEXPLAINED_SHARE = 0.1
_MAX_HOLES = 4096
_WAITING = ("threading.py", "queue.py", "pool.py", "selectors.py")


class OwnPages:
    """The memory of this process as a file."""

    def __init__(self) -> None:
        self._file = open_own_memory()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def read(self, address: int, n_bytes: int) -> bytes:
        """Read memory; an OSError if some of it is not there."""
        data = os.pread(self._file, n_bytes, address)
        if len(data) < n_bytes:
            raise OSError(f"memory at {address:#x} is not there")
        return data

    def is_block(self, address: int, n_bytes: int) -> bool:
        """Return whether glibc has a block of that size at the address."""
        try:
            header = self.read(address - CHUNK_HEADER_BYTES, CHUNK_HEADER_BYTES)
        except OSError:
            return False
        chunk_bytes = mapped_chunk_bytes(header)
        return (
            chunk_bytes is not None and 0 <= chunk_bytes - n_bytes <= _MAX_SLACK_BYTES
        )


@dataclass(slots=True)
class Block:
    """One block of NumPy; small ones have neither stack nor content."""

    address: int
    n_bytes: int
    stack: tuple[Frame, ...] = ()
    # What check_array was asked for, if that is what made it.
    arguments: dict[str, Any] | None = None
    # What it had to do with X when it was last seen.
    content: Content | None = None
    # Whether it was alive when most was.
    is_at_peak: bool = False
    # Whether it was looked at, and never had a page in memory.
    is_untouched: bool = False
    n_looks: int = 0
    next_look: float = 0.0


@dataclass(slots=True)
class Blocks:
    """The blocks of one call, compared with X."""

    reference: Reference
    pages: OwnPages
    # File that makes the call: frames from there on are not looked at.
    bottom: str
    # All that are at least a tenth of X.
    seen: list[Block] = field(default_factory=list)
    # The most that was alive at one moment.
    peak_bytes: int = 0
    _alive: dict[int, Block] = field(default_factory=dict)
    _live_bytes: int = 0
    # Arrays that are made while looking are not those of the estimator.
    _busy: threading.local = field(default_factory=threading.local)
    _lock: Any = field(default_factory=threading.RLock)

    def notice(
        self, address: int, n_bytes: int, old: int, frame: FrameType | None
    ) -> None:
        """Take up a block that NumPy has just been given."""
        if getattr(self._busy, "is_busy", False):
            return
        with self._looking():
            for gone in {address, old} & self._alive.keys():
                self._live_bytes -= self._alive.pop(gone).n_bytes
            block = Block(address, n_bytes)
            # The next block comes when the one before has been filled, mostly.
            self._look_at_contents()
            if n_bytes >= _MIN_SHARE * self.reference.n_bytes:
                block.stack = read_stack(frame, self.bottom)
                block.arguments = check_arguments(frame)
                self.seen.append(block)
            self._alive[address] = block
            self._live_bytes += n_bytes
            self._update_peak()

    def _update_peak(self) -> None:
        if self._live_bytes <= self.peak_bytes:
            return
        self._forget_dead()
        if self._live_bytes > self.peak_bytes:
            self.peak_bytes = self._live_bytes
            for block in self.seen:
                block.is_at_peak = self._alive.get(block.address) is block

    def live_bytes(self, *, looks_anyway: bool = False) -> int:
        """Return the bytes of the blocks that are alive, and look at what they hold."""
        with self._looking():
            self._look_at_contents(anyway=looks_anyway)
            self._forget_dead()
            return self._live_bytes

    def find(self, address: int) -> Block | None:
        """Return the block that is at an address, None if there is none."""
        return self._alive.get(address)

    def _forget_dead(self) -> None:
        for address, block in list(self._alive.items()):
            if not self.pages.is_block(address, block.n_bytes):
                del self._alive[address]
                self._live_bytes -= block.n_bytes

    def _look_at_contents(self, *, anyway: bool = False) -> None:
        """Look at what blocks hold, at each of them less and less often."""
        now = time.monotonic()
        for block in list(self._alive.values()):
            if block.stack and (anyway or now >= block.next_look):
                block.next_look = now + _FIRST_SECONDS * _FACTOR**block.n_looks
                block.n_looks = min(block.n_looks + 1, _MAX_LOOKS)
                # Freed by another thread meanwhile.
                with contextlib.suppress(OSError):
                    self._look_at(block)

    def _look_at(self, block: Block) -> None:
        address, n_bytes = block.address, block.n_bytes
        if not self.pages.is_block(address, n_bytes):
            return
        if block.is_untouched or block.n_looks == 1:
            # Reading would bring the page of zeros into memory.
            # The first page has the header of the block in it.
            pages = resident_bytes(
                address + PAGE_BYTES, n_bytes - PAGE_BYTES, stop_at_first=True
            )
            block.is_untouched = pages == (0, 0)
        if not block.is_untouched:
            found = self.reference.identify(address, n_bytes, self.pages.read)
            block.content = found or block.content

    @contextlib.contextmanager
    def _looking(self) -> Any:
        with self._lock:
            self._busy.is_busy = True
            try:
                yield
            finally:
                self._busy.is_busy = False


@dataclass(slots=True)
class Numbers:
    """What a call needed."""

    seconds: float = 0.0
    # The most private memory at one moment, beside what was there before. None if the
    # kernel does not tell.
    peak_bytes: int | None = None
    # The most that was in large blocks of NumPy. None if these cannot be seen.
    numpy_bytes: int | None = None
    # Pages of X that were written to, and became private by it; part of the peak.
    written_bytes: int = 0
    # Native memory that is still there afterwards, such as the trees of a forest.
    model_bytes: int = 0
    # The most growth seen that no block of NumPy explains, and who was running then.
    native_bytes: int = 0
    native_stack: tuple[Frame, ...] = ()
    # The large ones.
    blocks: list[Block] = field(default_factory=list)


@final
class Detector:
    """Measures the code of a ``with`` block, and fills in `numbers` at its end.

    `X` is a mapping that owns its pages, all of them in memory; `bottom` is the file
    that has the ``with`` block.
    """

    def __init__(self, X: npt.NDArray[Any], bottom: str) -> None:
        self.numbers = Numbers()
        self._address = _address_of(X)
        self._n_bytes = X.nbytes
        self._pages = OwnPages()
        self._fillers: list[npt.NDArray[Any]] = []
        self._blocks = Blocks(Reference(X), self._pages, bottom)
        self._hook = NumpyHook(self._blocks.notice, MIN_BLOCK_BYTES)
        self._bottom = bottom
        self._is_running = False
        self._main = threading.get_ident()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Detector:
        gc.collect()
        gc.disable()
        self._thread.start()
        trim_heap()
        self._fill_holes()
        memory = own_memory(reset_peak=True)
        self._resident_bytes = memory.resident_bytes
        self._private_bytes = own_private_bytes()
        self._file_bytes = _read_file_bytes()
        self._hook.__enter__()
        self._is_running = True
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        numbers = self.numbers
        numbers.seconds = time.perf_counter() - self._start
        self._is_running = False
        memory = own_memory()
        self._hook.__exit__()
        numbers.written_bytes = resident_bytes(self._address, self._n_bytes)[0]
        if memory.peak_bytes > memory.resident_bytes or can_reset_own_peak():
            # A page of the file that is written to is replaced by a private one, which
            # does not change how many there are.
            growth_bytes = memory.peak_bytes - self._resident_bytes
            # Code that ran for the first time was read from its file.
            growth_bytes -= max(0, _read_file_bytes() - self._file_bytes)
            numbers.peak_bytes = max(0, growth_bytes) + numbers.written_bytes
        self._blocks.live_bytes(looks_anyway=True)
        self._stop.set()
        self._thread.join()
        numbers.model_bytes = self._read_model_bytes()
        self._pages.close()
        numbers.blocks = self._blocks.seen
        if is_hookable():
            numbers.numpy_bytes = self._blocks.peak_bytes

    def _fill_holes(self) -> None:
        """Hold what is free in the heap, so that large blocks are new mappings.

        A block in such a hole could not be told from one that is gone.
        """
        for _ in range(_MAX_HOLES):
            filler = np.empty(MIN_BLOCK_BYTES, np.uint8)
            self._fillers.append(filler)
            if self._pages.is_block(_address_of(filler), MIN_BLOCK_BYTES):
                break

    def _read_model_bytes(self) -> int:
        self._fillers.clear()
        gc.enable()
        gc.collect()
        trim_heap()
        growth_bytes = own_private_bytes() - self._private_bytes
        known_bytes = self._blocks.live_bytes() + self.numbers.written_bytes
        return max(0, growth_bytes - known_bytes)

    def find_block(self, array: npt.NDArray[Any]) -> Block | None:
        """Return the block that an array lies at the start of."""
        return self._blocks.find(_address_of(array))

    def _watch(self) -> None:
        """Look again and again, until the block ends."""
        while not self._stop.wait(_INTERVAL_SECONDS):
            if self._is_running:
                self._look()

    def _look(self) -> None:
        """Keep who is running while more has grown than NumPy's blocks explain."""
        growth_bytes = own_private_bytes() - self._private_bytes
        unexplained_bytes = growth_bytes - self._blocks.live_bytes()
        least = max(self.numbers.native_bytes, _MIN_UNEXPLAINED_SHARE * self._n_bytes)
        if unexplained_bytes > least and self._is_running:
            stack = self._read_running_stack()
            if stack:
                self.numbers.native_bytes = unexplained_bytes
                self.numbers.native_stack = stack

    def _read_running_stack(self) -> tuple[Frame, ...]:
        """Return the stack of the thread that works, the first one if it does."""
        me = threading.get_ident()
        frames: dict[int, FrameType] = sys._current_frames()
        try:
            others = sorted(frames.keys() - {me}, key=lambda i: i != self._main)
            stacks = [read_stack(frames[i], self._bottom) for i in others]
        finally:
            # A frame keeps its arrays alive.
            del frames
        working = [s for s in stacks if s and not s[0].file.endswith(_WAITING)]
        return working[0] if working else ()


def _address_of(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])


def _read_file_bytes() -> int:
    return find_bytes(read_own_status(), b"\nRssFile:")


def keep_to_one_processor() -> None:
    """Stay on one processor: the kernel counts pages for each, and adds up later."""
    with contextlib.suppress(AttributeError, OSError):
        mine = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {mine[os.getpid() % len(mine)]})
