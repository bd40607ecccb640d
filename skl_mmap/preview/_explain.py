"""Why rows of a fold are copied, and what to do about it, in words."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from sklearn import model_selection

from skl_mmap._units import format_bytes
from skl_mmap.backend import Options
from skl_mmap.containers import container_of
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import (
    Cause,
    Cost,
    Reason,
    Remedy,
    can_remap,
    find_mapping,
    writable_memmap_of,
)
from skl_mmap.orders import VECTOR_UNIT, PageFriendly, rows_of_pages
from skl_mmap.preview._rehearsal import Rehearsal

# What may be copied of a joined view: two pages at each seam, or this share.
_PAGES_OF_SEAM = 2
_SMALL_SHARE = 0.02
# More and shorter runs than these are those of scattered rows.
_MAX_LONG_RUNS = 16
_UNITS_OF_LONG_RUN = 4

_GROUPED = (
    model_selection.GroupKFold,
    model_selection.StratifiedGroupKFold,
    model_selection.LeaveOneGroupOut,
    model_selection.LeavePGroupsOut,
    model_selection.PredefinedSplit,
)
_STRATIFIED = (
    model_selection.StratifiedKFold,
    model_selection.RepeatedStratifiedKFold,
    model_selection.StratifiedShuffleSplit,
)
_SHUFFLED = (
    model_selection.BaseShuffleSplit,
    model_selection.RepeatedKFold,
    model_selection.RepeatedStratifiedKFold,
)


class Explanation(NamedTuple):
    """A reason in words, and lines that help; both may be empty."""

    reason: str = ""
    remedies: tuple[str, ...] = ()


class PlannedRows(NamedTuple):
    """A train or a test set, and the plan of its selection.

    Attributes
    ----------
    part : {"train", "test"}
        Which one.
    n_rows, n_runs : int
        Rows, and runs that they consist of.
    cost : Cost
        Of the selection.
    any_copied_bytes : int or None
        What ``row_order="any"`` would copy of it, if that is another order.
    """

    part: str
    n_rows: int
    n_runs: int
    cost: Cost
    any_copied_bytes: int | None = None

    @property
    def uncounted_bytes(self) -> int:
        """Bytes that are copied and that a task does not count."""
        return self.cost.copied_bytes - sum(self.cost.counted.values())

    @property
    def main_cause(self) -> Cause:
        """The cause for which most bytes are copied."""
        counted = self.cost.counted
        causes = self.cost.copied
        if counted and self.uncounted_bytes < sum(counted.values()):
            causes = counted
        elif counted:
            causes = {c: n for c, n in causes.items() if c not in counted}
        # Sets without rows, and rows without elements, have no bytes.
        few = Cause(Reason.FEW_BYTES)
        return max(causes, key=causes.__getitem__, default=few)


def is_stratified(cv: Any) -> bool:
    """Return whether a splitter splits each class for itself."""
    return isinstance(_unwrap(cv), _STRATIFIED)


def _unwrap(cv: Any) -> Any:
    return cv.cv if isinstance(cv, PageFriendly) else cv


def kind_of(rows: PlannedRows, n_arrays: int) -> str:
    """Name what is done: see `FoldRows`."""
    copied_bytes, mapped_bytes = rows.cost.copied_bytes, rows.cost.mapped_bytes
    if not mapped_bytes:
        return "copied"
    if not copied_bytes and rows.n_runs == 1:
        return "view"
    seams_bytes = _PAGES_OF_SEAM * mmap.PAGESIZE * rows.n_runs * n_arrays
    small_bytes = _SMALL_SHARE * (copied_bytes + mapped_bytes)
    # Short runs have nothing but seams.
    is_small = copied_bytes <= min(seams_bytes, mapped_bytes / 4)
    return "joined view" if is_small or copied_bytes <= small_bytes else "part copied"


@dataclass(frozen=True, slots=True)
class Explainer:
    """Explains copies of the rows of one X by one splitter.

    Attributes
    ----------
    cv : cross-validation splitter
        As ``check_cv`` returns it.
    n_splits : int
        How many splits it has made.
    row_order : {"exact", "any"}
        Of train sets.
    n_samples : int
        Rows of X.
    is_frame : bool
        Whether X is a data frame.
    is_by_column : bool
        Whether it is one of numbers that lie column by column.
    unit_rows : int or None
        Rows after which the same place in a page comes again; None if rows differ in
        size.
    n_arrays : int
        Arrays that rows are selected from: each has seams of its own.
    refusal : Explanation or None
        Why nothing of X can be mapped, if so.
    min_mapped_bytes : int
        Rows of fewer bytes are not mapped.
    is_partition : bool
        Whether `arrange` takes the splitter: no row is tested twice, and each train
        set is all of the other rows.
    has_target, has_groups : bool
        Whether there are y and groups.
    has_sorted_classes : bool
        Whether the splitter is stratified, and the samples of each class of y follow
        each other.
    """

    cv: Any
    n_splits: int
    row_order: str
    n_samples: int
    is_frame: bool
    is_by_column: bool
    unit_rows: int | None
    n_arrays: int
    refusal: Explanation | None
    min_mapped_bytes: int
    is_partition: bool
    has_target: bool
    has_groups: bool
    has_sorted_classes: bool

    def explain(self, rows: PlannedRows) -> Explanation:
        """Say why rows are copied, and what helps; nothing if only seams are."""
        if kind_of(rows, self.n_arrays) in ("view", "joined view"):
            return Explanation()
        if self.refusal is not None:
            return self.refusal
        cause = rows.main_cause
        reason, is_scattered = cause.reason, self._is_scattered(rows)
        is_shifted = reason is Reason.SHIFTED
        text = str(cause)
        if reason is Reason.COLUMNS:
            text = "columns of dtype {}, whose rows pandas copies: {}".format(
                *cause.detail.split(": ", 1)
            )
        elif reason is Reason.NOT_BY_ROW or (is_shifted and self.is_by_column):
            text = self._tell_order_of_elements(rows)
            # The data in the order of the folds lies row by row, too.
            reason = Reason.SCATTERED if is_scattered else Reason.NOT_BY_ROW
        elif reason is Reason.SCATTERED or (reason.is_counted and is_scattered):
            text, reason = self._cause_of_scattering(), Reason.SCATTERED
        elif reason in (Reason.SHORT_RUNS, Reason.SEAMS, Reason.SHIFTED):
            text = self._tell_pages(rows)
        elif reason is not Reason.MASK and not reason.is_counted:
            text, reason = self._tell_few(), Reason.FEW_BYTES
        if is_shifted:
            text += "; all tasks share one copy"
        lines = (self._line(remedy, rows, cause) for remedy in reason.remedies)
        return Explanation(text, tuple(filter(None, lines)))

    def _line(self, remedy: Remedy, rows: PlannedRows, cause: Cause) -> str | None:
        """Write the line of a remedy; None if it is not known to help here."""
        if remedy is Remedy.ANY_ORDER:
            return remedy.line() if self._helps_any_order(rows) else None
        if remedy is Remedy.ARRANGE:
            return self._arrange(rows)
        if remedy is Remedy.WHOLE_PAGES:
            n_splits = self._find_n_splits()
            return None if n_splits is None else remedy.line(n_splits=n_splits)
        if remedy is Remedy.CATEGORIES:
            dtype, _, _ = cause.detail.partition(": ")
            is_text = dtype in ("object", "str")
            names = f'X.select_dtypes("{dtype}")'
            return remedy.line(names=names) if is_text else None
        return remedy.line()

    def _tell_few(self) -> str:
        smallest = format_bytes(self.min_mapped_bytes)
        if not (self.is_frame and self.n_arrays > 1):
            return f"they have less than {smallest}: {Reason.FEW_BYTES.value}"
        return (
            f"the rest is small: rows of less than {smallest} are not mapped, nor are "
            "a few rows of Arrow memory"
        )

    def _tell_order_of_elements(self, rows: PlannedRows) -> str:
        what = "the frame lies" if self.is_frame else "X is in Fortran order:"
        text = f"{what} column by column, so that no row is in one place"
        is_scattered = self._is_scattered(rows)
        return f"{text}; and {self._cause_of_scattering()}" if is_scattered else text

    def _is_scattered(self, rows: PlannedRows) -> bool:
        unit = max(self.unit_rows or 1, VECTOR_UNIT)
        is_short = rows.n_rows < _UNITS_OF_LONG_RUN * unit * rows.n_runs
        return rows.n_runs > _MAX_LONG_RUNS and is_short

    def _partition_like(self) -> str:
        """Write a splitter that makes about such folds, and tests each row once."""
        cv = _unwrap(self.cv)
        kind = "StratifiedKFold" if is_stratified(cv) else "KFold"
        n_splits = self.n_splits // getattr(cv, "n_repeats", 1)
        return f"{kind}({max(n_splits, 2)}, shuffle=True, random_state=0)"

    def _arrange(self, rows: PlannedRows) -> str | None:
        """Write the call of `arrange`, for folds like these if it refuses them."""
        is_scattered = rows.main_cause.reason is Reason.SCATTERED
        # The train sets of long runs are as good as they can be.
        can_help = rows.part == "test" and self.is_partition
        if not (is_scattered or self._is_scattered(rows) or can_help):
            return None
        remedies = {
            (True, False): Remedy.ARRANGE,
            (True, True): Remedy.ARRANGE_GROUPS,
            (False, False): Remedy.ARRANGE_X,
            (False, True): Remedy.ARRANGE_X_GROUPS,
        }
        remedy = remedies[self.has_target, self.has_groups]
        return remedy.line(cv="cv" if self.is_partition else self._partition_like())

    def _cause_of_scattering(self) -> str:
        name = type(self.cv).__name__
        inner = _unwrap(self.cv)
        if getattr(inner, "shuffle", False) or isinstance(inner, _SHUFFLED):
            return f"the rows are scattered: {name} shuffles them"
        if isinstance(inner, _GROUPED):
            return f"the rows are scattered, because those of each group of {name} are"
        if is_stratified(self.cv) and not self.has_sorted_classes:
            return (
                f"the rows are scattered: {name} splits each class for itself, and y "
                "is not sorted by class"
            )
        return f"the rows are scattered: there are many short runs of them in {name}"

    def _helps_any_order(self, rows: PlannedRows) -> bool:
        """Return whether another order of rows is known to copy less than half."""
        n_bytes = rows.any_copied_bytes
        return n_bytes is not None and 2 * n_bytes < rows.cost.copied_bytes

    def _tell_pages(self, rows: PlannedRows) -> str:
        unit = self.unit_rows
        if unit is None:
            text = "runs of rows continue each other's pages only by chance"
        elif rows.n_runs == 1:
            text = "the run of rows fills no page, or lies where X itself is a copy"
        else:
            text = (
                "runs of rows continue each other's pages only if the number of rows "
                f"left out between them is a multiple of {unit} (the rows that fill "
                "whole pages)"
            )
        if self.row_order == "any" and rows.part == "train":
            text += "; with row_order='any', what is left over of each run is copied"
        return text

    def _find_n_splits(self) -> int | None:
        """Find a number of splits near the given one whose folds are whole pages."""
        if type(self.cv) is not model_selection.KFold or not self.unit_rows:
            return None
        n_splits = self.cv.n_splits
        fitting = [
            number
            for number in range(2, 2 * n_splits + 1)
            if self.n_samples % (number * self.unit_rows) == 0
        ]
        if not fitting or n_splits in fitting:
            return None
        return min(fitting, key=lambda number: (abs(number - n_splits), number))


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


def is_by_column(X: Any) -> bool:
    """Return whether X is a frame of numbers that lie column by column."""
    container = container_of(X)
    return container is not None and container.block_by_column(X) is not None


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
