"""The large blocks of NumPy that are alive, found without hearing of their end.

Blocks of at least `MIN_BLOCK_BYTES` are mappings of their own once glibc is told so
(`M_MMAP_THRESHOLD`): a block that is gone cannot be read any more, or has another size
in the word before it. The memory is read through /proc/self/mem, where reading what is
not there is an error and no crash.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from skl_mmap._linux.proc import PAGE_BYTES, open_own_memory, resident_bytes
from skl_mmap.copies._contents import Content, Reference
from skl_mmap.copies._stacks import Frame, check_arguments, read_stack

__all__ = ["MIN_BLOCK_BYTES", "Block", "Blocks", "OwnPages"]

MIN_BLOCK_BYTES = 1 << 15
# Smaller ones are counted, but nothing else is known of them.
_MIN_SHARE = 0.1
# Between two looks at a block: first, and how much longer each time.
_FIRST_SECONDS = 0.001
_FACTOR = 1.3
_MAX_LOOKS = 20
_HEADER_BYTES = 16
_IS_MAPPED = 2
_FLAGS = 7
# Rounding of a block to pages, its header included.
_MAX_SLACK_BYTES = 2 * 65536


class OwnPages:
    """The memory of this process as a file."""

    def __init__(self) -> None:
        self._file = open_own_memory()

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def read(self, address: int, n_bytes: int) -> bytes:
        """Read memory.

        Raises
        ------
        OSError
            If some of it is not there.
        """
        data = os.pread(self._file, n_bytes, address)
        if len(data) < n_bytes:
            raise OSError(f"memory at {address:#x} is not there")
        return data

    def is_block(self, address: int, n_bytes: int) -> bool:
        """Whether there is a block of that size, allocated by glibc, at the address."""
        try:
            header = self.read(address - _HEADER_BYTES, _HEADER_BYTES)
        except OSError:
            return False
        size = int.from_bytes(header[8:], "little")
        slack = (size & ~_FLAGS) - n_bytes
        return bool(size & _IS_MAPPED) and 0 <= slack <= _MAX_SLACK_BYTES


@dataclass(slots=True)
class Block:
    """One block.

    Attributes
    ----------
    address, n_bytes : int
        Where it is.
    stack : tuple of Frame
        Who asked for it; empty for small blocks.
    arguments : dict or None
        What check_array was asked for, if that is what made it.
    content : Content or None
        What it has to do with X, as it was last seen.
    is_at_peak : bool
        Whether it was alive when most was.
    is_untouched : bool
        Whether it was looked at, and never had a page in memory.
    """

    address: int
    n_bytes: int
    stack: tuple[Frame, ...] = ()
    arguments: dict[str, Any] | None = None
    content: Content | None = None
    is_at_peak: bool = False
    is_untouched: bool = False
    n_looks: int = 0
    next_look: float = 0.0


@dataclass(slots=True)
class Blocks:
    """The blocks of one call.

    Attributes
    ----------
    reference : Reference
        X, for comparison.
    pages : OwnPages
        The memory of this process.
    bottom : str
        File that makes the call: frames from there on are not looked at.
    seen : list of Block
        All that are at least a tenth of X.
    peak_bytes : int
        The most that was alive at one moment.
    """

    reference: Reference
    pages: OwnPages
    bottom: str
    seen: list[Block] = field(default_factory=list)
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
        """Bytes of the blocks that are alive now; what they hold is looked at."""
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
