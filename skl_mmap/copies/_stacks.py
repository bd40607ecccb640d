"""Python stacks as plain data, and which of their frames are worth naming."""

from __future__ import annotations

import os
from types import FrameType
from typing import Any, NamedTuple

__all__ = ["Frame", "check_arguments", "find_site", "find_through", "read_stack"]

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


class Frame(NamedTuple):
    """One line of a stack.

    Attributes
    ----------
    file : str
        Where the code is.
    line : int
        Line that was being run.
    function : str
        Name of the function.
    """

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

    Parameters
    ----------
    frame : frame or None
        The innermost. Nothing of it is kept, since that would keep its arrays alive.
    bottom : str
        The file that made the call that is looked at.
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
    """Return the innermost frame of the estimator's own code.

    Parameters
    ----------
    stack : tuple of Frame
        From the inside out.
    own_files : frozenset of str
        The files in which the classes of the estimator are.
    """
    for frame in stack:
        if frame.file in own_files:
            return frame
    return None
