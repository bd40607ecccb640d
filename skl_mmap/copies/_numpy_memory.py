"""Every large block of memory that NumPy asks for, and which Python code asked.

NumPy keeps its default functions for memory in one struct (NEP 49). Those three that
hand out memory are replaced in place::

    numpy -> our function (Python, looks at the stack) -> the function it replaces

`PyDataMem_SetHandler` would be the public way, but holds for one context only, and the
threads of an estimator are others. The function that frees is left alone: it runs while
exceptions are being raised, where Python code must not (NumPy would then fail with
"returned NULL without setting an exception").

See https://numpy.org/neps/nep-0049.html.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NamedTuple, final

from skl_mmap._compat import is_known_handler, memory_handler_slot
from skl_mmap._linux.calls import Functions, MemoryHandler, memory_handler

_MAX_DEPTH = 60
# Code that only passes a call on: whoever called it is of interest.
_WRAPPERS = (
    f"{os.sep}numpy{os.sep}",
    f"{os.sep}skl_mmap{os.sep}copies{os.sep}",
    f"{os.sep}array_api_compat{os.sep}",
    f"sklearn{os.sep}utils{os.sep}_array_api.py",
    f"sklearn{os.sep}utils{os.sep}fixes.py",
)
# What check_array of scikit-learn was asked for.
_ARGUMENTS = ("copy", "dtype", "force_writeable", "order")

Notice = Callable[[int, int, int, FrameType | None], None]
"""Takes address, bytes, old address (0 if none) and the frame that asked."""


def _find_handler() -> MemoryHandler | None:
    """Find the struct; None in a NumPy that is not known."""
    found = memory_handler_slot()
    if found is None:
        return None
    handler = memory_handler(*found)
    return handler if is_known_handler(handler.name, handler.version) else None


def is_hookable() -> bool:
    """Return whether the memory functions of this NumPy can be replaced."""
    return _find_handler() is not None


@final
class NumpyHook:
    """Calls a function for each large block while a ``with`` block runs.

    Parameters
    ----------
    notice : callable
        Called with the address of the block, its bytes, the address that it had before
        (0 if it is new) and the innermost Python frame, which it must not keep. In the
        thread that asks, with the GIL held. What it raises is lost.
    min_bytes : int
        Smaller blocks are not told of.

    Notes
    -----
    Small arrays take 0.8 instead of 0.2 microseconds. For processes that are there to
    be measured only: the functions stay in place until the end of the block, and
    nothing else may replace them meanwhile.
    """

    def __init__(self, notice: Notice, min_bytes: int) -> None:
        self._notice = notice
        self._min_bytes = min_bytes
        self._handler = _find_handler()
        self._put_back: Callable[[], None] | None = None

    def __enter__(self) -> NumpyHook:
        if self._handler is not None:
            self._put_back = self._handler.replace(self._make_functions)
        return self

    def __exit__(self, *args: object) -> None:
        if self._put_back is not None:
            self._put_back()

    def _make_functions(
        self,
        call_malloc: Callable[..., Any],
        call_calloc: Callable[..., Any],
        call_realloc: Callable[..., Any],
    ) -> Functions:
        min_bytes, notice, get_frame = self._min_bytes, self._notice, sys._getframe

        def on_malloc(ctx: int, size: int) -> int | None:
            address: int | None = call_malloc(ctx, size)
            if size >= min_bytes and address:
                notice(address, size, 0, get_frame(1))
            return address

        def on_calloc(ctx: int, n_items: int, item_size: int) -> int | None:
            address: int | None = call_calloc(ctx, n_items, item_size)
            if n_items * item_size >= min_bytes and address:
                notice(address, n_items * item_size, 0, get_frame(1))
            return address

        def on_realloc(ctx: int, old: int | None, size: int) -> int | None:
            address: int | None = call_realloc(ctx, old, size)
            if size >= min_bytes and address:
                notice(address, size, old or 0, get_frame(1))
            return address

        return on_malloc, on_calloc, on_realloc


class Frame(NamedTuple):
    """One line of a stack."""

    file: str
    line: int
    function: str

    def __str__(self) -> str:
        return f"{shorten(self.file)}:{self.line} {self.function}"


def shorten(file: str) -> str:
    """Leave out where packages are installed."""
    for folder in ("site-packages", "dist-packages"):
        _, found, rest = file.rpartition(f"{os.sep}{folder}{os.sep}")
        if found:
            return rest
    return file


def read_stack(frame: FrameType | None, bottom: str) -> tuple[Frame, ...]:
    """Return the stack from its innermost frame out to that of a file, exclusive.

    Nothing of the frames is kept, since that would keep their arrays alive.
    """
    frames: list[Frame] = []
    while frame is not None and len(frames) < _MAX_DEPTH:
        code = frame.f_code
        if code.co_filename == bottom:
            break
        frames.append(Frame(code.co_filename, frame.f_lineno, code.co_name))
        frame = frame.f_back
    return tuple(frames)


def check_arguments(frame: FrameType | None) -> dict[str, Any] | None:
    """Return what the innermost check_array was asked for; None without one."""
    for _ in range(_MAX_DEPTH):
        if frame is None:
            return None
        code = frame.f_code
        if code.co_name == "check_array" and code.co_filename.endswith("validation.py"):
            values = frame.f_locals
            return {name: _plain(values.get(name)) for name in _ARGUMENTS}
        frame = frame.f_back
    return None


def _plain(value: Any) -> Any:
    """Keep what is small and has nothing to do with arrays."""
    return value if value is None or isinstance(value, bool | str) else repr(value)[:80]


def find_site(stack: tuple[Frame, ...]) -> Frame | None:
    """Return the innermost frame that decides anything, None if there is none."""
    for frame in stack:
        if not any(part in frame.file for part in _WRAPPERS):
            return frame
    return stack[0] if stack else None


def find_through(stack: tuple[Frame, ...], own_files: frozenset[str]) -> Frame | None:
    """Return the innermost frame of the estimator's own code, by its files."""
    return next((frame for frame in stack if frame.file in own_files), None)
