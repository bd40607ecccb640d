"""Why rows of a fold are copied, and what to do about it, in words."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from sklearn import model_selection

from skl_mmap._units import format_bytes
from skl_mmap.memory import Cause, Cost, Reason, Remedy
from skl_mmap.orders import VECTOR_UNIT, PageFriendly

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
        return max(causes, key=causes.__getitem__)


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
    unit_rows : int or None
        Rows after which the same place in a page comes again; None if rows differ in
        size.
    n_arrays : int
        Arrays that rows are selected from: each has seams of its own.
    refusal : Explanation or None
        Why nothing of X can be mapped, if so.
    min_bytes, min_mapped_bytes : int
        Arrays of fewer bytes are not shared, and rows of fewer bytes are not mapped.
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
    unit_rows: int | None
    n_arrays: int
    refusal: Explanation | None
    min_bytes: int
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
        if cause.reason is Reason.MASK:
            return Explanation(str(cause), (Remedy.INDICES.line(),))
        if not cause.reason.is_counted:
            return self._explain_few(rows)
        if cause.reason is Reason.NOT_BY_ROW:
            return self._explain_order_of_elements(rows)
        if cause.reason is Reason.COLUMNS:
            return _explain_columns(cause)
        if cause.reason is Reason.SCATTERED or self._is_scattered(rows):
            return self._explain_scattered(rows)
        if cause.reason in (Reason.SHORT_RUNS, Reason.SEAMS):
            return self._explain_pages(rows)
        return Explanation(str(cause))

    def _explain_few(self, rows: PlannedRows) -> Explanation:
        smallest = format_bytes(self.min_mapped_bytes)
        if not self.is_frame or self.n_arrays == 1:
            text = f"they have less than {smallest}: {Reason.FEW_BYTES.value}"
            return Explanation(text)
        is_much = rows.uncounted_bytes >= self.min_bytes
        return Explanation(
            f"the rest is small: less than min_bytes ({format_bytes(self.min_bytes)}) "
            "of columns that lie together is sent by value, and less than "
            f"{smallest} of a column is not mapped",
            (Remedy.SMALL_ARRAYS.line(),) if is_much else (),
        )

    def _explain_order_of_elements(self, rows: PlannedRows) -> Explanation:
        what = "the frame lies" if self.is_frame else "X is in Fortran order:"
        reason = f"{what} column by column, so that no row is in one place"
        if self._is_scattered(rows):
            # The data in the order of the folds lies row by row, too.
            scattered = self._explain_scattered(rows)
            return Explanation(f"{reason}; and {scattered.reason}", scattered.remedies)
        remedies = [Remedy.BY_ROW.line()]
        if self.is_frame and self._helps_any_order(rows):
            remedies.insert(0, Remedy.ANY_ORDER.line())
        return Explanation(reason, tuple(remedies))

    def _is_scattered(self, rows: PlannedRows) -> bool:
        unit = max(self.unit_rows or 1, VECTOR_UNIT)
        is_short = rows.n_rows < _UNITS_OF_LONG_RUN * unit * rows.n_runs
        return rows.n_runs > _MAX_LONG_RUNS and is_short

    def _explain_scattered(self, rows: PlannedRows) -> Explanation:
        remedies = []
        if self._helps_any_order(rows):
            remedies.append(Remedy.ANY_ORDER.line())
        else:
            # What is tested once can be written in the order of the folds.
            cv = "cv" if self.is_partition else self._partition_like()
            remedies.append(self._arrange(cv))
        return Explanation(self._cause_of_scattering(), tuple(remedies))

    def _partition_like(self) -> str:
        """Write a splitter that makes about such folds, and tests each row once."""
        cv = _unwrap(self.cv)
        kind = "StratifiedKFold" if is_stratified(cv) else "KFold"
        n_splits = self.n_splits // getattr(cv, "n_repeats", 1)
        return f"{kind}({max(n_splits, 2)}, shuffle=True, random_state=0)"

    def _arrange(self, cv: str) -> str:
        remedies = {
            (True, False): Remedy.ARRANGE,
            (True, True): Remedy.ARRANGE_GROUPS,
            (False, False): Remedy.ARRANGE_X,
            (False, True): Remedy.ARRANGE_X_GROUPS,
        }
        return remedies[self.has_target, self.has_groups].line(cv=cv)

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

    def _explain_pages(self, rows: PlannedRows) -> Explanation:
        unit = self.unit_rows
        if unit is None:
            reason = "runs of rows continue each other's pages only by chance"
        elif rows.n_runs == 1:
            reason = "the run of rows fills no page, or lies where X itself is a copy"
        else:
            reason = (
                "runs of rows continue each other's pages only if the number of rows "
                f"left out between them is a multiple of {unit} (the rows that fill "
                "whole pages)"
            )
        if self.row_order == "any" and rows.part == "train":
            reason += "; with row_order='any', what is left over of each run is copied"
        return Explanation(reason, tuple(self._remedies_of_pages(rows)))

    def _remedies_of_pages(self, rows: PlannedRows) -> Iterator[str]:
        if self._helps_any_order(rows):
            yield Remedy.ANY_ORDER.line()
        n_splits = self._find_n_splits()
        if n_splits is not None:
            yield Remedy.WHOLE_PAGES.line(n_splits=n_splits)
        if rows.part == "test" and self.is_partition:
            yield self._arrange("cv")

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


def _explain_columns(cause: Cause) -> Explanation:
    dtype, _, names = cause.detail.partition(": ")
    remedy = Remedy.CATEGORIES.line(names=f'X.select_dtypes("{dtype}")')
    reason = f"columns of dtype {dtype}, whose rows pandas copies: {names}"
    return Explanation(reason, (remedy,) if dtype in ("object", "str") else ())
