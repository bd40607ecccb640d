"""Where a segment should live: in memory or on a disk, and how much room is there."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, replace
from pathlib import Path

from skl_mmap._linux import proc
from skl_mmap._scratch import find_temporary_folder
from skl_mmap._units import format_bytes
from skl_mmap.exceptions import (
    InvalidParameterError,
    NotEnoughDiskError,
    NotEnoughMemoryError,
)

# "auto" leaves a fifth of what is free to the estimators.
_AUTO_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Placement:
    """The validated form of the parameter `store`.

    Parameters
    ----------
    kind : {"auto", "memory", "disk"}
        ``"memory"`` is a memfd (Linux), ``"disk"`` an unlinked file in `folder`,
        ``"auto"`` memory while it fits, else disk.
    folder : str or None
        Where files on disk are made; None if there is no folder for them.
    """

    kind: str
    folder: str | None

    @classmethod
    def from_parameter(cls, store: object, temp_folder: object = None) -> Placement:
        """Validate the parameter `store`.

        Raises
        ------
        InvalidParameterError
            If it is neither one of the words nor a folder that can be written to.
        """
        if isinstance(store, str) and store in ("auto", "memory", "disk"):
            if temp_folder is not None:
                return cls(store, _checked_folder(temp_folder, "temp_folder"))
            placement = cls(store, find_temporary_folder())
            if store == "disk":
                placement.disk_folder()
            return placement
        if isinstance(store, str | os.PathLike):
            return cls("disk", _checked_folder(store, "store"))
        raise InvalidParameterError(
            f"store={store!r} does not say where shared arrays should live. "
            "Pass 'auto', 'memory', 'disk', or the path of a folder."
        )

    def choose(self, n_bytes: int, what: str) -> str:
        """Decide between ``"memory"`` and ``"disk"`` for one segment.

        Parameters
        ----------
        n_bytes : int
            Size of the segment.
        what : str
            The array, for the error message.

        Raises
        ------
        NotEnoughMemoryError
            If memory was asked for and there is not enough.
        """
        if self.kind == "disk":
            return "disk"
        available = proc.available_memory_bytes()
        if available is None:
            return "memory"
        if self.kind == "auto" and self.has_room(n_bytes):
            return "memory"
        if self.kind == "auto" and self.folder is not None:
            return "disk"
        if n_bytes > available:
            raise NotEnoughMemoryError(
                f"store={self.kind!r} needs {format_bytes(n_bytes)} for {what}, and "
                f"{format_bytes(available)} are available. Use store='disk', or a "
                "folder with that much room."
            )
        return "memory"

    def disk_folder(self) -> str:
        """Return where files on disk are made.

        Raises
        ------
        NotEnoughDiskError
            If there is no folder for them.
        """
        if self.folder is None:
            raise NotEnoughDiskError(
                "There is no folder for temporary files: neither TMPDIR nor /tmp, "
                "/var/tmp or /usr/tmp can be written to, so nothing can be shared on a "
                "disk. Pass store= a folder that can."
            )
        return self.folder

    def without_falling_back(self) -> Placement:
        """Return this placement without a disk to fall back to.

        A disk that was asked for stays one.
        """
        return replace(self, kind="memory") if self.kind == "auto" else self

    def has_room(self, n_bytes: int) -> bool:
        """Return whether a segment would be made in memory, if memory is asked for."""
        if self.kind == "auto":
            return n_bytes <= spare_memory_bytes()
        available = None if self.kind == "disk" else proc.available_memory_bytes()
        return available is None or n_bytes <= available

    def check_growth(self, n_bytes: int, what: str, *, is_memory: bool) -> None:
        """Check that a segment which turns out larger than planned can grow.

        Parameters
        ----------
        n_bytes : int
            How much more it needs.
        what : str
            What it holds, for the error message.
        is_memory : bool
            Whether it lives in memory; a disk answers for itself.

        Raises
        ------
        NotEnoughMemoryError
            If it lives in memory and there is not enough.
        """
        available = proc.available_memory_bytes() if is_memory else None
        if available is not None and n_bytes > available:
            raise NotEnoughMemoryError(
                f"{what} turned out larger than planned: it needs another "
                f"{format_bytes(n_bytes)}, and {format_bytes(available)} are "
                "available. Use store='disk', or a folder with enough room."
            )


def spare_memory_bytes() -> float:
    """Return how much memory may be taken without crowding out the estimators."""
    available = proc.available_memory_bytes()
    return math.inf if available is None else _AUTO_SHARE * available


def _checked_folder(folder: object, name: str) -> str:
    if not isinstance(folder, str | os.PathLike):
        raise InvalidParameterError(
            f"{name}={folder!r} is not the path of a folder. Pass a string or a path."
        )
    path = Path(os.fspath(folder))
    if not path.is_dir():
        raise InvalidParameterError(
            f"{name}={str(path)!r} is not an existing folder, so shared arrays cannot "
            "be kept there. Create it first, or use store='auto'."
        )
    if not os.access(path, os.W_OK | os.X_OK):
        raise InvalidParameterError(
            f"{name}={str(path)!r} cannot be written to, so shared arrays cannot be "
            "kept there. Change its permissions, or choose another folder."
        )
    return str(path)
