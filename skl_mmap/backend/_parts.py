"""The pickle of a task in parts, each of which goes away when it was sent or read."""

from __future__ import annotations

import collections
import io
import mmap
import pickle
from collections.abc import Iterator
from typing import Any

from skl_mmap._linux import calls
from skl_mmap.memory import trim_heap

# A large pickle of a task is sent in parts of this size.
_BLOCK_BYTES = 1 << 20
_TRIM_BLOCKS = 4


class TaskPickle:
    """The pickle of a task; a large one goes away, part by part, while it is sent.

    A task may hold a long list of texts. What loky's own pickler makes of its pickle is
    as large again.
    """

    def __init__(self) -> None:
        self._small = io.BytesIO()
        self._blocks: collections.deque[mmap.mmap] = collections.deque()
        self._n_left = 0  # bytes in the last block

    def write(self, data: Any) -> None:
        """Append data; called by the pickler."""
        self._small.write(data)
        if self._small.tell() >= _BLOCK_BYTES:
            with self._small.getbuffer() as view:
                self._fill_blocks(view)
            self._small = io.BytesIO()

    def _fill_blocks(self, data: memoryview) -> None:
        while data:
            if not self._n_left:
                self._blocks.append(calls.private_block(_BLOCK_BYTES))
                self._n_left = _BLOCK_BYTES
                if len(self._blocks) == _TRIM_BLOCKS:
                    trim_heap()  # of what sending the task before has left there
            part, data = data[: self._n_left], data[self._n_left :]
            begin = _BLOCK_BYTES - self._n_left
            self._blocks[-1][begin : begin + len(part)] = part
            self._n_left -= len(part)

    def __reduce__(self) -> Any:
        if not self._blocks:
            return bytes, (self._small.getvalue(),)
        with self._small.getbuffer() as view:
            self._fill_blocks(view)
        return list, (), None, self._hand_out()

    def _hand_out(self) -> Iterator[pickle.PickleBuffer]:
        # The pickler remembers all objects, but a buffer can be released nevertheless.
        # It may have asked for the next one before it pickles one.
        pending: collections.deque[tuple[Any, ...]] = collections.deque()
        while self._blocks:
            block = self._blocks.popleft()
            n_bytes = _BLOCK_BYTES if self._blocks else _BLOCK_BYTES - self._n_left
            view = memoryview(block)[:n_bytes].toreadonly()
            buffer = pickle.PickleBuffer(view)
            pending.append((buffer, view, block))
            yield buffer
            if len(pending) > 1:
                self._free(*pending.popleft())
        while pending:
            self._free(*pending.popleft())

    @staticmethod
    def _free(buffer: pickle.PickleBuffer, view: memoryview, block: mmap.mmap) -> None:
        buffer.release()
        view.release()
        block.close()


class PartsReader:
    """Reads the parts of a pickle, and lets go of each that was read."""

    def __init__(self, parts: list[bytes]) -> None:
        self._parts = collections.deque(parts)
        parts.clear()
        self._place = 0

    def read(self, n_bytes: int) -> bytes:
        """Read so many bytes; called by the unpickler."""
        found = []
        while n_bytes and self._parts:
            part = self._parts[0]
            data = part[self._place : self._place + n_bytes]
            found.append(data)
            n_bytes -= len(data)
            self._place += len(data)
            if self._place == len(part):
                self._parts.popleft()
                self._place = 0
        return found[0] if len(found) == 1 else b"".join(found)

    def readline(self) -> bytes:
        """Read a line, which only old protocols have."""
        line: list[bytes] = []
        while not line or line[-1] not in (b"", b"\n"):
            line.append(self.read(1))
        return b"".join(line)
