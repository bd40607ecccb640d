"""How arrays are handed to tasks: what travels with each handle."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from skl_mmap.exceptions import InvalidParameterError

if TYPE_CHECKING:
    from skl_mmap.memory._shifted_pages import ShiftedFile


class Settings(NamedTuple):
    """How arrays are handed to tasks.

    Attributes
    ----------
    mmap_mode : {"c", "r"}
        Copy-on-write or read-only.
    min_mapped_bytes : int
        Rows are copied when fewer bytes than this could be mapped: a mapping costs
        about as much time as copying some hundred KiB.
    min_bytes : int
        Smaller parts of an array are sent by value: they would keep all of it alive.
    is_by_column : bool
        Whether rows of an array in Fortran order are selected into Fortran order too,
        column by column, and not into C order as by numpy.
    shifted : ShiftedFile or None
        Where pages are that do not agree with those of the segment, if anywhere.
    """

    mmap_mode: str = "c"
    min_mapped_bytes: int = 256 << 10
    min_bytes: int = 1 << 20
    is_by_column: bool = False
    shifted: ShiftedFile | None = None

    @classmethod
    def from_parameter(cls, mmap_mode: object) -> Settings:
        """Validate the parameter `mmap_mode`, with the defaults of everything else.

        Raises
        ------
        InvalidParameterError
            If it is neither of the two.
        """
        if isinstance(mmap_mode, str) and mmap_mode in ("c", "r"):
            return cls(mmap_mode)
        raise InvalidParameterError(
            f"mmap_mode={mmap_mode!r} is not known. Pass 'c' (copy-on-write: writes "
            "stay private) or 'r' (read-only); no task may change the data of others."
        )

    @property
    def is_writable(self) -> bool:
        """Whether tasks may write to what they are given."""
        return self.mmap_mode == "c"
