"""Why a block of the size of X was made, in words.

In this order: what `sklearn.utils.check_array` was asked for says most; then what the
block holds; then which functions are on the stack. What is left is a temporary of some
formula.
"""

from __future__ import annotations

import itertools
import linecache
import os

import numpy as np

from skl_mmap.copies._blocks import Block
from skl_mmap.copies._layout import Layout
from skl_mmap.copies._stacks import Frame, find_site

__all__ = ["explain", "explain_native", "explain_written"]

# Functions that select rows.
_SELECTIONS = frozenset(
    {"_safe_indexing", "_array_indexing", "safe_mask", "_make_indexable", "resample"}
)
_LINALG = f"{os.sep}linalg{os.sep}"
_COPYING_WORDS = (".copy(", "copy=True", "np.array(", "deepcopy")


def explain(block: Block, layout: Layout, input_bytes: int) -> tuple[str, str]:
    """Say why a block of NumPy was made.

    Parameters
    ----------
    block : Block
        The block.
    layout : Layout
        Of X.
    input_bytes : int
        Size of X.

    Returns
    -------
    reason : str
        One of the words of `CopySite`.
    detail : str
        The same in a sentence's worth of words.
    """
    content = block.content
    site = find_site(block.stack)
    is_checked = block.arguments is not None
    if content is not None and content.kind == "rows":
        return "row subset", "rows of X were selected, which NumPy copies"
    if any(frame.function in _SELECTIONS for frame in block.stack):
        return "row subset", "rows of X were selected, which NumPy copies"
    kind = None if content is None else content.kind
    if is_checked or kind == "equal":
        if content is not None and content.dtype != layout.dtype:
            return "dtype", f"{layout.dtype} was converted to {content.dtype}"
        if content is not None and content.order != layout.order:
            return "order", f"{layout.order} order was changed to {content.order}"
    if is_checked:
        checked = _explain_check(block, layout, input_bytes)
        if checked is not None:
            return checked
    if _is_decomposing(block):
        return "linear algebra", "a decomposition works on a copy"
    if kind == "equal" or _is_copying(site):
        return "copy asked for", "a copy was asked for"
    if kind == "centered":
        return "centering", "the mean was subtracted, in a new array"
    if kind == "scaled":
        return "scaling", "X was scaled, in a new array"
    return "temporary", "a temporary of a formula, as large as X"


def _explain_check(
    block: Block, layout: Layout, input_bytes: int
) -> tuple[str, str] | None:
    """Say what check_array made the block for."""
    assert block.arguments is not None
    site = find_site(block.stack)
    if site is None or site.function not in ("check_array", "_asarray_with_order"):
        return None
    itemsize = np.dtype(layout.dtype).itemsize
    found = round(block.n_bytes / input_bytes * itemsize)
    if found != itemsize and block.arguments["dtype"] is not None:
        return "dtype", f"{layout.dtype} was converted to float{8 * found}"
    order = block.arguments["order"]
    if order in ("C", "F") and order != layout.order:
        return "order", f"{layout.order} order was changed to {order}"
    if block.arguments["copy"] is True:
        return "copy asked for", "the estimator asked for a copy (copy=True)"
    if block.arguments["force_writeable"] is True and layout.mode == "r":
        return "writeability", "X is read-only, and the estimator wants to write to it"
    return None


def _is_decomposing(block: Block) -> bool:
    """Whether linear algebra of NumPy or SciPy asked for it, not its caller."""
    inner = itertools.takewhile(lambda f: f != find_site(block.stack), block.stack)
    frames = (*inner, find_site(block.stack))
    return any(frame and _LINALG in frame.file for frame in frames)


def _is_copying(site: Frame | None) -> bool:
    if site is None:
        return False
    line = linecache.getline(site.file, site.line)
    return any(word in line for word in _COPYING_WORDS)


def explain_native(site: Frame) -> tuple[str, str]:
    """Say that native code took memory."""
    where = "" if site.file else ", in a call during which nothing else could be seen"
    return "native", f"native code took it, not NumPy{where}"


def explain_written() -> tuple[str, str]:
    """Say that X was written to."""
    return (
        "written in place",
        "X itself was written to: its pages became private, and X is changed",
    )
