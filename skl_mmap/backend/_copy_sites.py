"""Which lines of code of a task ask for large blocks of memory."""

from __future__ import annotations

import os
from types import FrameType
from typing import Any

from skl_mmap.backend import _labels

# What is less is no copy of anything that needs this backend.
_MIN_BYTES = 4 << 20
_PACKAGE_FOLDER = os.path.dirname(os.path.dirname(_labels.__file__)) + os.sep


class CopySites:
    """Takes down large blocks of NumPy's while a ``with`` block runs.

    Attributes
    ----------
    largest : dict of str to int
        Bytes of the largest block that each line of code has asked for.
    """

    def __init__(self) -> None:
        from skl_mmap.copies._numpy_memory import NumpyHook

        self.largest: dict[str, int] = {}
        self._hook: Any = NumpyHook(self._notice, _MIN_BYTES)

    def __enter__(self) -> None:
        self._hook.__enter__()

    def __exit__(self, *error: object) -> None:
        self._hook.__exit__()

    def _notice(
        self, address: int, n_bytes: int, old: int, frame: FrameType | None
    ) -> None:
        from skl_mmap.copies._numpy_memory import find_site, read_stack

        stack = read_stack(frame, "")
        # Rows that could not be mapped were selected on behalf of somebody else.
        site = find_site(
            tuple(f for f in stack if not f.file.startswith(_PACKAGE_FOLDER))
        )
        name = str(site)
        self.largest[name] = max(self.largest.get(name, 0), n_bytes)
