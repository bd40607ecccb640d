"""Files that last as long as they are open, and the folder that others are made in."""

from __future__ import annotations

import os
import tempfile


def find_temporary_folder() -> str | None:
    """Return where temporary files can be made; None if nowhere, as in some containers.

    Python would then try the current folder, and raise an error if that fails too.
    """
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        return None


def open_scratch_file(name: str) -> int:
    """Open a file without a name: in memory, or where that is refused on a disk.

    Parameters
    ----------
    name : str
        What it is called in /proc, if it is in memory.

    Returns
    -------
    int
        A descriptor that no program inherits, for reading and writing.
    """
    try:
        return os.memfd_create(name, os.MFD_CLOEXEC)
    except (AttributeError, OSError):
        with tempfile.TemporaryFile() as file:
            return os.dup(file.fileno())
