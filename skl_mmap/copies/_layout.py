"""How X lies in memory, and whether it may be written to."""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import InvalidParameterError

__all__ = ["Layout", "all_layouts", "given_layouts", "layout_of", "map_layout"]

_MODES = {"c": "copy-on-write", "r": "read-only"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How X lies in memory.

    Attributes
    ----------
    dtype : str
        Name of the dtype, such as "float64".
    order : {"C", "F"}
        Row by row, or column by column.
    mode : {"c", "r"}, default="c"
        Mapped copy-on-write, as the backend "mmap" does, or read-only.
    """

    dtype: str
    order: str
    mode: str = "c"

    def __str__(self) -> str:
        return f"{self.dtype} {self.order} {_MODES[self.mode]}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read a layout as `str` writes it; copy-on-write where nothing is said.

        Parameters
        ----------
        text : str
            "float64 C read-only", for example, or "float32 F".

        Raises
        ------
        InvalidParameterError
            If the text names no layout.

        Examples
        --------
        >>> Layout.parse("float64 C read-only")
        Layout(dtype='float64', order='C', mode='r')
        """
        words = text.split()
        mode = "c"
        if len(words) == 3:
            modes = {name: key for key, name in _MODES.items()} | {"c": "c", "r": "r"}
            mode = modes.get(words[2], "")
        try:
            dtype = str(np.dtype(words[0]))
        except (TypeError, IndexError):
            dtype = ""
        if len(words) in (2, 3) and dtype and words[1] in ("C", "F") and mode:
            return cls(dtype, words[1], mode)
        raise InvalidParameterError(
            f"{text!r} names no layout of X. Pass a dtype, an order and, if you like, "
            "a mode: 'float64 C', 'float32 F read-only'."
        )


def layout_of(X: npt.NDArray[Any], mode: str = "c") -> Layout:
    """Return the layout of an array; C order if it has both or neither."""
    is_fortran = X.flags.f_contiguous and not X.flags.c_contiguous
    return Layout(str(X.dtype), "F" if is_fortran else "C", mode)


def given_layouts(X: npt.NDArray[Any]) -> tuple[Layout, ...]:
    """Return the layouts in which the backend hands X to estimators."""
    return layout_of(X), layout_of(X, "r")


def all_layouts(X: npt.NDArray[Any]) -> tuple[Layout, ...]:
    """Return all layouts that are tried, those of X first."""
    dtypes = dict.fromkeys((str(X.dtype), "float64", "float32"))
    if X.dtype.kind != "f":
        dtypes = dict.fromkeys((str(X.dtype),))
    orders = dict.fromkeys((layout_of(X).order, "C", "F"))
    return tuple(
        Layout(dtype, order, mode)
        for dtype in dtypes
        for order in orders
        for mode in _MODES
    )


def map_layout(X: npt.NDArray[Any], layout: Layout) -> npt.NDArray[Any]:
    """Copy an array to a file in memory, and map that in some layout.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
        The data.
    layout : Layout
        How the result lies in memory.

    Returns
    -------
    ndarray of shape (n_samples, n_features)
        A private mapping that begins on a page of its own; all pages are in memory, and
        none of them is private yet.
    """
    dtype = np.dtype(layout.dtype)
    n_bytes = X.size * dtype.itemsize
    fd = os.memfd_create("skl_mmap-copies", os.MFD_CLOEXEC)
    try:
        os.ftruncate(fd, n_bytes)
        with mmap.mmap(fd, n_bytes) as filling:
            target: npt.NDArray[Any] = np.ndarray(
                X.shape, dtype, filling, order=_order(layout)
            )
            with np.errstate(over="ignore"):
                target[...] = X
            del target
        protection = mmap.PROT_READ | (mmap.PROT_WRITE if layout.mode == "c" else 0)
        pages = mmap.mmap(fd, n_bytes, mmap.MAP_PRIVATE, protection)
    finally:
        os.close(fd)
    # Reading one byte of each page brings it into memory.
    np.frombuffer(pages, np.uint8)[:: mmap.PAGESIZE].max()
    return np.ndarray(X.shape, dtype, pages, order=_order(layout))


def _order(layout: Layout) -> Any:
    return layout.order
