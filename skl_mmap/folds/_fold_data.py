"""The data whose folds are planned: what it is, and whether it would be shared."""

from __future__ import annotations

import mmap
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from skl_mmap._units import format_bytes
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.folds._fold_reasons import Advice

if TYPE_CHECKING:
    from skl_mmap.backend._options import Options
    from skl_mmap.backend._planning import SelectionCost, TaskPlanner

__all__ = ["FoldData", "describe_data"]

_DEFAULT_MIN_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class FoldData:
    """X, and those who plan what happens to its rows.

    Attributes
    ----------
    planner, any_planner : TaskPlanner
        For the order of rows that was asked for, and for ``row_order="any"``.
    name : str
        For the title.
    n_samples : int
        Rows.
    is_frame : bool
        Whether it is a data frame.
    filters_masks : bool
        Whether masks select its rows in another way than indices: those of polars.
    is_pairwise : bool
        Whether columns are selected too.
    unit_rows : int or None
        Rows after which the same place in a page comes again; None if they differ.
    n_arrays : int
        Arrays that rows are selected from.
    refusal : Advice or None
        Why nothing can be mapped, if so.
    """

    planner: TaskPlanner
    any_planner: TaskPlanner
    name: str
    n_samples: int
    is_frame: bool
    filters_masks: bool
    is_pairwise: bool
    unit_rows: int | None
    n_arrays: int
    refusal: Advice | None

    @property
    def is_refused(self) -> bool:
        """Whether nothing can be mapped."""
        return self.refusal is not None

    def cost_of(self, rows: Any, train: Any) -> SelectionCost:
        """Plan the selection of some rows for a train set or its test set."""
        if not self.is_pairwise:
            return self.planner.select(rows)
        from skl_mmap.backend._planning import SelectionCost

        share = _count(train) / max(self.n_samples, 1)
        cost = self.planner.select(rows)
        n_bytes = cost.mapped_bytes + sum(cost.copy_reasons.values())
        return SelectionCost(0, {}, round((n_bytes + cost.uncounted_bytes) * share))

    def copied_in_any_order(self, train: Any, test: Any) -> tuple[int, int]:
        """Bytes of a train and of a test set that ``row_order="any"`` would copy."""
        in_train, in_test = (
            cost.uncounted_bytes + sum(cost.copy_reasons.values())
            for cost in map(
                self.any_planner.select, self.any_planner.order(train, test)
            )
        )
        return in_train, in_test


def _count(rows: Any) -> int:
    index = np.asarray(rows)
    return int(np.count_nonzero(index)) if index.dtype == bool else len(index)


def describe_data(X: Any, y: Any, options: Options, estimator: Any) -> FoldData:
    """Find out how tasks would be given X.

    Parameters
    ----------
    X, y : array-like of shape (n_samples, ...)
        As ``cross_validate`` hands them on.
    options : Options
        Of the backend.
    estimator : estimator or None
        What would be fitted.

    Raises
    ------
    InvalidParameterError
        If `estimator` wants a square matrix, and X is none.
    """
    from skl_mmap.backend._planning import TaskPlanner

    planner = TaskPlanner(X, y, options)
    any_options = replace(options, row_order="any")
    is_any = options.row_order == "any"
    any_planner = planner if is_any else TaskPlanner(X, y, any_options)
    is_pairwise = _is_pairwise(estimator, X)
    refusal = _find_refusal(X, planner, options)
    if is_pairwise:
        refusal = Advice(
            "the estimator takes a matrix of pairs, of which columns are selected too",
            "a kernel or metric that the estimator computes, instead of 'precomputed'",
        )
    return FoldData(
        planner,
        any_planner,
        _name_of(X),
        X.shape[0] if hasattr(X, "shape") else len(X),
        _is_frame(X),
        hasattr(X, "estimated_size"),
        is_pairwise,
        _unit_rows(planner.X),
        _count_arrays(planner.X),
        refusal,
    )


def _is_pairwise(estimator: Any, X: Any) -> bool:
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


def _name_of(X: Any) -> str:
    shape = getattr(X, "shape", None)
    if shape is None:
        return f"{type(X).__name__} of {len(X)} samples"
    dtype = getattr(X, "dtype", "")
    return " ".join(filter(None, [type(X).__name__, str(shape), str(dtype)]))


def _is_frame(X: Any) -> bool:
    return hasattr(X, "columns") or hasattr(X, "iloc")


def _unit_rows(X: Any) -> int | None:
    from skl_mmap.inputs._pandas import pandas_classes, row_bytes_of

    row_bytes = None
    if type(X) in pandas_classes():
        sizes = row_bytes_of(X)
        row_bytes = None if sizes is None else sizes[1]
    elif isinstance(X, np.ndarray) and X.ndim and X.size:
        row_bytes = X.nbytes // len(X)
    if not row_bytes:
        return None
    return mmap.PAGESIZE // int(np.gcd(mmap.PAGESIZE, row_bytes))


def _count_arrays(X: Any) -> int:
    """Count the arrays that rows are selected from, each with seams of its own."""
    from skl_mmap.inputs._pandas import pandas_classes
    from skl_mmap.inputs._sparse import is_csr

    if is_csr(X):
        return 2
    if type(X) not in pandas_classes():
        return 1
    from skl_mmap.inputs._frame_columns import arrays_of
    from skl_mmap.inputs._shared_frame import numeric_block

    if numeric_block(X) is not None or X.ndim == 1:
        return 1
    columns = [X.iloc[:, place] for place in range(X.shape[1])]
    return max(sum(len(arrays_of(column)) for column in columns), 1)


def _find_refusal(X: Any, planner: TaskPlanner, options: Options) -> Advice | None:
    """Say why nothing of X is shared; None if something is."""
    from skl_mmap.memory import can_remap

    if options.min_bytes is None:
        remedy = "leave min_bytes at its default"
        return Advice("nothing is shared with min_bytes=None", remedy)
    if not can_remap():
        return Advice("this system cannot map parts of a file behind each other", "")
    if planner.is_shared or _is_shared_class(planner.X):
        return None
    if isinstance(X, np.ndarray):
        return _find_refusal_of_array(X, options.min_bytes)
    pyarrow = sys.modules.get("pyarrow")
    if pyarrow is not None and isinstance(X, getattr(pyarrow, "Table", ())):
        return Advice(
            "rows of a pyarrow table are selected by pyarrow, which copies them",
            "X = polars.from_arrow(X)",
        )
    if not hasattr(X, "shape"):
        return Advice(
            f"X is of type {type(X).__name__}, which is not shared", "X = np.asarray(X)"
        )
    return _too_small(planner.total_bytes, options.min_bytes) or Advice(
        f"X is of type {type(X).__name__}, which cannot be shared as it is", ""
    )


def _is_shared_class(X: Any) -> bool:
    return type(X).__module__.startswith("skl_mmap") or "Shared" in type(X).__name__


def _find_refusal_of_array(X: np.ndarray[Any, Any], min_bytes: int) -> Advice:
    from skl_mmap.memory import SharedArray, writable_memmap_of

    if X.dtype.hasobject:
        return Advice(
            f"X holds Python objects (dtype {X.dtype}), which have no place in shared "
            "memory",
            "X = X.astype(float), or a data frame with a dtype for each column",
        )
    if writable_memmap_of(X) is not None:
        return Advice(
            "X is a file that is open for writing, which tasks get as it is",
            'open it with mode="r"',
        )
    if type(X) not in (np.ndarray, np.memmap, SharedArray):
        return Advice(
            f"X is a {type(X).__name__}, and only plain arrays are shared",
            "X = np.asarray(X), if that is the same to the estimator",
        )
    return _too_small(X.nbytes, min_bytes) or Advice("X could not be shared", "")


def _too_small(n_bytes: int, min_bytes: int) -> Advice | None:
    if n_bytes >= min_bytes:
        return None
    # Nobody gains by sharing what is smaller than the default.
    remedy = "leave min_bytes at its default" if n_bytes >= _DEFAULT_MIN_BYTES else ""
    return Advice(
        f"X has {format_bytes(n_bytes)}, less than min_bytes "
        f"({format_bytes(min_bytes)}), so that it is sent by value",
        remedy,
    )
