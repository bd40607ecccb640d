"""Sharing data explicitly, for longer than a ``with`` block of the backend."""

from __future__ import annotations

import os
import sys
import warnings
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import FallbackWarning, InvalidParameterError
from skl_mmap.inputs._arrow import is_table, share_table
from skl_mmap.memory import (
    Placement,
    Settings,
    SharedArray,
    adopt,
    describe,
    share_array,
)

__all__ = ["share"]


def share(
    X: Any,
    *,
    inplace: bool = False,
    order: str = "K",
    store: str | os.PathLike[str] = "auto",
    mmap_mode: str = "c",
) -> Any:
    """Put data into shared memory, once and for as long as it is used.

    Folds of the result are mapped and not copied: by every joblib backend that stays
    in this process (``n_jobs=1``, "threading"), and by the backend "mmap", to which it
    costs nothing to send.

    Parameters
    ----------
    X : ndarray, DataFrame, Series, pyarrow.Table or sparse matrix
        The data; frames of pandas or polars. A ``numpy.memmap`` opened with mode
        ``"r"`` is used where it lies.
    inplace : bool, default=False
        Make the memory of an ndarray itself shared: there is no second copy at any
        time. `X` stays what it is and where it is, and later writes to it are private
        to it. Needs a large array that NumPy allocated itself on Linux with glibc; if
        it is not, it is copied, with a warning that says why. No other thread may
        write to it meanwhile.
    order : {"K", "C"}, default="K"
        ``"C"`` stores an ndarray row by row even if it is in Fortran order: only rows
        that lie in one piece can be mapped. Data frames of numbers are always stored
        row by row.
    store : {"auto", "memory", "disk"} or path-like, default="auto"
        Where: in memory (memfd), on disk in the temporary folder or in the one given,
        or in memory while there is room.
    mmap_mode : {"c", "r"}, default="c"
        Whether the result may be written to (copy-on-write), or not.

    Returns
    -------
    SharedArray, DataFrame, Series, pyarrow.Table or sparse matrix
        What was given, over shared memory, which is freed when the last array over it
        is gone. All but CSC matrices and pyarrow tables are context managers that are
        closed at the end of the block; a `SharedArray` also has ``close()``.

    Raises
    ------
    InvalidParameterError
        If `X` is none of these, or a parameter cannot be used.
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.

    Warns
    -----
    FallbackWarning
        If `inplace` was asked for, and `X` had to be copied.

    Notes
    -----
    O(n) in bytes: one copy at about the speed of ``numpy.copyto``.

    Examples
    --------
    >>> import numpy as np
    >>> import skl_mmap
    >>> with skl_mmap.share(np.ones((40_000, 20))) as X:
    ...     fold = X[np.r_[0:8192, 16384:40_000]]  # mapped
    >>> X
    <closed SharedArray>
    >>> fold.shape
    (31808, 20)
    """
    placement = Placement.from_parameter(store)
    settings = Settings(_checked(mmap_mode, "mmap_mode", ("c", "r")))
    _checked(order, "order", ("K", "C"))
    if isinstance(X, np.ndarray):
        return _share_ndarray(X, inplace, order, placement, settings)
    if inplace:
        raise InvalidParameterError(
            f"inplace=True needs an ndarray, and X is of type {type(X).__name__}, "
            "whose memory is not in one piece. Leave it out: X is then copied once."
        )
    return _share_other(X, placement, settings)


def _checked(value: str, name: str, known: tuple[str, ...]) -> str:
    if value not in known:
        raise InvalidParameterError(
            f"{name}={value!r} is not known. Pass one of {', '.join(map(repr, known))}."
        )
    return value


def _share_ndarray(
    X: npt.NDArray[Any],
    inplace: bool,
    order: str,
    placement: Placement,
    settings: Settings,
) -> SharedArray:
    if isinstance(X, np.ma.MaskedArray):
        raise InvalidParameterError(
            f"X of shape {X.shape} is a masked array, and shared memory would hold "
            "what lies under its mask as if it were data. Pass X.filled(np.nan), or "
            "X.data if nothing is masked."
        )
    if X.dtype.hasobject or not X.nbytes:
        what = "holds Python objects" if X.dtype.hasobject else "is empty"
        raise InvalidParameterError(
            f"X of shape {X.shape} and dtype {X.dtype} {what}, so there are no bytes "
            "to share. Pass numbers, or a DataFrame whose other columns stay as they "
            "are."
        )
    if inplace:
        refusal = _share_inplace(X, order, placement, settings)
        if isinstance(refusal, SharedArray):
            return refusal
        warnings.warn(
            f"X of shape {X.shape} and dtype {X.dtype} is shared as a copy and not in "
            f"place, which needs its size once more: {refusal}.",
            FallbackWarning,
            stacklevel=3,
        )
    return share_array(X, placement, settings, order=order)


def _share_inplace(
    X: npt.NDArray[Any], order: str, placement: Placement, settings: Settings
) -> SharedArray | str:
    if order == "C" and not X.flags.c_contiguous:
        return "another order of its elements was asked for"
    if describe(X, settings) is not None:
        return X.view(SharedArray)  # of memory that is shared already
    mapping = adopt(X, placement, settings)
    if isinstance(mapping, str):
        return mapping
    shared = X.view(SharedArray)
    # X is found by its address as long as `shared` is open.
    shared.on_close = weakref.finalize(shared, mapping.forget)
    return shared


def _share_other(X: Any, placement: Placement, settings: Settings) -> Any:
    pandas = sys.modules.get("pandas")
    if pandas is not None and isinstance(X, (pandas.DataFrame, pandas.Series)):
        from skl_mmap.inputs._pandas import share_frame

        return share_frame(X, placement, settings)
    if is_table(X):
        return share_table(X, placement, settings)
    sparse = sys.modules.get("scipy.sparse")
    if sparse is not None and sparse.issparse(X):
        from skl_mmap.inputs._sparse import share_sparse

        return share_sparse(X, placement, settings)
    hint = " Paths are for skl_mmap.load()." if isinstance(X, str | os.PathLike) else ""
    raise InvalidParameterError(
        f"X of type {type(X).__name__} cannot be shared: it is no ndarray, no data "
        "frame of pandas, polars or pyarrow and no sparse matrix. Convert it first."
        f"{hint}"
    )
