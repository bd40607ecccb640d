"""The data whose folds are planned: its size, and why it might not be shared."""

from __future__ import annotations

from typing import Any

import numpy as np

from skl_mmap._units import format_bytes
from skl_mmap.backend import Options
from skl_mmap.containers import container_of
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Reason, Remedy, can_remap, find_mapping, writable_memmap_of
from skl_mmap.orders import rows_of_pages
from skl_mmap.preview._explain import Explanation
from skl_mmap.preview._rehearsal import Rehearsal

_DEFAULT_MIN_BYTES = 1 << 20


def is_pairwise(estimator: Any, X: Any) -> bool:
    """Return whether an estimator takes a square matrix of pairs, and X is one."""
    from sklearn.utils import get_tags

    if estimator is None or not get_tags(estimator).input_tags.pairwise:
        return False
    shape = getattr(X, "shape", None)
    if shape is None or len(shape) != 2 or shape[0] != shape[1]:
        raise InvalidParameterError(
            f"{type(estimator).__name__} takes a square matrix of pairs, and X "
            f"{'has no shape' if shape is None else f'has the shape {shape}'}. Pass "
            "the matrix, or an estimator that computes it."
        )
    return True


def name_of_data(X: Any) -> str:
    """Return what to call X in a title: its class, shape and dtype."""
    shape = getattr(X, "shape", None)
    if shape is None:
        return f"{type(X).__name__} of {len(X)} samples"
    dtype = getattr(X, "dtype", "")
    return " ".join(filter(None, [type(X).__name__, str(shape), str(dtype)]))


def unit_rows(X: Any) -> int | None:
    """Return after how many rows the same place in a page comes again."""
    container = container_of(X)
    size = None if container is None else container.row_size(X)
    if size is None or not size.part_bytes:
        return None
    return rows_of_pages(size.part_bytes)


def count_arrays(X: Any) -> int:
    """Count the arrays that rows are selected from, each with seams of its own."""
    container = container_of(X)
    return 1 if container is None else container.n_arrays(X)


def explain_refusal(
    X: Any, rehearsal: Rehearsal, options: Options, *, is_pairwise: bool
) -> Explanation | None:
    """Say why nothing of X can be mapped; None if something can."""
    if is_pairwise:
        return Explanation(Reason.PAIRWISE.value)
    if options.min_bytes is None:
        return _explain(Reason.NO_SHARING)
    if not can_remap():
        return Explanation(Reason.NO_REMAP.value)
    if rehearsal.is_shared or type(rehearsal.X) is not type(X):
        return None
    if isinstance(X, np.ndarray):
        return _explain_array(X, options.min_bytes)
    if not hasattr(X, "shape"):
        what = f"X is of type {type(X).__name__}, which is not shared"
        return Explanation(what, (Remedy.AS_ARRAY.line(),))
    if not hasattr(X, "iloc") and hasattr(X, "to_batches"):
        return _explain(Reason.TABLE)
    return _explain_size(rehearsal.total_bytes, options.min_bytes) or Explanation(
        f"X is of type {type(X).__name__}, which cannot be shared as it is"
    )


def _explain(reason: Reason, what: str = "") -> Explanation:
    lines = tuple(remedy.line() for remedy in reason.remedies)
    return Explanation(what or reason.value, lines)


def _explain_array(X: np.ndarray[Any, Any], min_bytes: int) -> Explanation | None:
    if X.dtype.hasobject:
        what = (
            f"X holds Python objects (dtype {X.dtype}), which have no place in shared "
            "memory"
        )
        return _explain(Reason.OBJECTS, what)
    memmap = writable_memmap_of(X)
    if memmap is not None:
        return Explanation(Reason.OPEN_FOR_WRITING.value, _open_read_only(X, memmap))
    if container_of(X) is None:
        what = f"X is a {type(X).__name__}, and {Reason.SUBCLASS.value}"
        return _explain(Reason.SUBCLASS, what)
    if find_mapping(X) is not None:
        return None
    too_small = _explain_size(X.nbytes, min_bytes)
    return too_small or Explanation("X could not be shared")


def _open_read_only(X: Any, memmap: Any) -> tuple[str, ...]:
    """Write the line that opens a file for reading; nothing if X is a part of it."""
    if X.nbytes != memmap.nbytes or X.shape != memmap.shape:
        return ()
    path = str(memmap.filename)
    if path.endswith(".npy"):
        return (Remedy.READ_ONLY.line(open=f'np.load({path!r}, mmap_mode="r")'),)
    opened = (
        f'np.memmap({path!r}, {str(X.dtype)!r}, "r", {memmap.offset}, {memmap.shape})'
    )
    return (Remedy.READ_ONLY.line(open=opened),)


def _explain_size(n_bytes: int, min_bytes: int) -> Explanation | None:
    if n_bytes >= min_bytes:
        return None
    what = (
        f"X has {format_bytes(n_bytes)}, less than min_bytes "
        f"({format_bytes(min_bytes)}), so that it is sent by value"
    )
    # Nobody gains by sharing what is smaller than the default.
    return (
        _explain(Reason.SMALL, what)
        if n_bytes >= _DEFAULT_MIN_BYTES
        else (Explanation(what))
    )
