"""Sharing data explicitly, for longer than a ``with`` block of the backend."""

from __future__ import annotations

import os
import warnings
import weakref
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.containers._container import known_containers
from skl_mmap.exceptions import FallbackWarning, InvalidParameterError
from skl_mmap.memory import (
    Placement,
    Settings,
    SharedArray,
    adopt,
    describe,
    share_array,
)


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
    settings = Settings.from_parameter(mmap_mode)
    if order not in ("K", "C"):
        raise InvalidParameterError(
            f"order={order!r} is not known. Pass 'K' (keep the order of the elements) "
            "or 'C' (row by row)."
        )
    if isinstance(X, np.ndarray):
        return _share_array(X, inplace, order, placement, settings)
    if inplace:
        raise InvalidParameterError(
            f"inplace=True needs an ndarray, and X is of type {type(X).__name__}, "
            "whose memory is not in one piece. Leave it out: X is then copied once."
        )
    # Subclasses are shared as what they are made of.
    kinds = [known_containers().get(class_) for class_ in type(X).__mro__]
    for container in filter(None, kinds):
        if (shared := container.share(X, placement, settings)) is not None:
            return shared
    hint = " Paths are for skl_mmap.load()." if isinstance(X, str | os.PathLike) else ""
    raise InvalidParameterError(
        f"X of type {type(X).__name__} cannot be shared: only arrays, data frames of "
        "pandas, polars or pyarrow and sparse matrices can. Convert it first."
        f"{hint}"
    )


def _share_array(
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
    """Return the array, now in shared memory, or why that was not done."""
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
