"""Why rows of a fold are copied, and what to do about it, in words."""

from __future__ import annotations

import mmap
from dataclasses import dataclass
from typing import Any, NamedTuple

from sklearn import model_selection

from skl_mmap._units import format_bytes
from skl_mmap.folds._page_friendly import PageFriendly
from skl_mmap.folds._page_order import VECTOR_UNIT

__all__ = [
    "Advice",
    "Circumstances",
    "PlannedRows",
    "explain",
    "is_stratified",
    "kind_of",
]

# Of a joined view, these may be copied: two pages at each seam, or this share.
_PAGES_OF_SEAM = 2
_SMALL_SHARE = 0.02
# More and shorter runs than these are those of scattered rows.
_MAX_LONG_RUNS = 16
_UNITS_OF_LONG_RUN = 4

# How the reasons of the backend begin.
_SCATTERED = "the rows are not in long runs"
_SHORT = "no run of rows is long enough"
_SEAMS = "runs and seams"
_FORTRAN = "the array is not C-contiguous"
_COLUMNS = "columns of dtype"

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


class Advice(NamedTuple):
    """A reason and a remedy; both may be empty."""

    reason: str
    remedy: str


@dataclass(frozen=True, slots=True)
class PlannedRows:
    """What is known about one train or test set.

    Attributes
    ----------
    part : {"train", "test"}
        Which one.
    n_rows, n_runs : int
        Rows, and runs that they consist of.
    is_mask : bool
        Whether a mask selects them.
    mapped_bytes, uncounted_bytes : int
        See `FoldRows`.
    copy_reasons : dict of str to int
        See `FoldRows`.
    any_copied_bytes : int or None
        What ``row_order="any"`` would copy of it, if that is another order, and known.
    """

    part: str
    n_rows: int
    n_runs: int
    is_mask: bool
    mapped_bytes: int
    uncounted_bytes: int
    copy_reasons: dict[str, int]
    any_copied_bytes: int | None = None

    @property
    def copied_bytes(self) -> int:
        """Bytes that every task has for itself."""
        return self.uncounted_bytes + sum(self.copy_reasons.values())

    @property
    def main_reason(self) -> str:
        """The reason for which most bytes are copied; empty if it is not counted."""
        counted = self.copy_reasons
        if self.uncounted_bytes >= sum(counted.values()):
            return ""
        return max(counted, key=counted.__getitem__)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What all folds have in common.

    Attributes
    ----------
    cv : cross-validation splitter
        As ``check_cv`` returns it.
    row_order : {"exact", "any"}
        Of train sets.
    n_samples : int
        Rows of X.
    is_frame : bool
        Whether X has columns of its own, and is no matrix.
    filters_masks : bool
        Whether masks select rows of X in another way than indices.
    unit_rows : int or None
        Rows after which the same place in a page comes again; None if rows differ in
        size.
    n_arrays : int
        Arrays that rows are selected from: each has seams of its own.
    refusal : Advice or None
        Why nothing of X can be mapped, if so.
    min_bytes : int
        Smaller arrays are not shared.
    min_mapped_bytes : int
        Of fewer bytes, rows are copied.
    arrange_call : str
        How `arrange` is called; empty if it refuses, because rows are tested twice, or
        a train set is not all of the other rows.
    has_sorted_classes : bool
        Whether the splitter is stratified, and the samples of each class of y follow
        each other.
    """

    cv: Any
    row_order: str
    n_samples: int
    is_frame: bool
    filters_masks: bool
    unit_rows: int | None
    n_arrays: int
    refusal: Advice | None
    min_bytes: int
    min_mapped_bytes: int
    arrange_call: str
    has_sorted_classes: bool


def is_stratified(cv: Any) -> bool:
    """Whether a splitter splits each class for itself."""
    return isinstance(_unwrap(cv), _STRATIFIED)


def _unwrap(cv: Any) -> Any:
    return cv.cv if isinstance(cv, PageFriendly) else cv


def kind_of(rows: PlannedRows, n_arrays: int) -> str:
    """Name what is done: see `FoldRows`."""
    copied_bytes, mapped_bytes = rows.copied_bytes, rows.mapped_bytes
    if not mapped_bytes:
        return "copied"
    if not copied_bytes and rows.n_runs == 1:
        return "view"
    seams_bytes = _PAGES_OF_SEAM * mmap.PAGESIZE * rows.n_runs * n_arrays
    small_bytes = _SMALL_SHARE * (copied_bytes + mapped_bytes)
    # Short runs have nothing but seams.
    is_small = copied_bytes <= min(seams_bytes, mapped_bytes / 4)
    return "joined view" if is_small or copied_bytes <= small_bytes else "part copied"


def explain(rows: PlannedRows, about: Circumstances) -> Advice:
    """Say why rows are copied, and what helps.

    Parameters
    ----------
    rows : PlannedRows
        A train or test set.
    about : Circumstances
        Of all of them.

    Returns
    -------
    Advice
        Empty if nothing is copied but seams.
    """
    if kind_of(rows, about.n_arrays) in ("view", "joined view"):
        return Advice("", "")
    if about.refusal is not None:
        return about.refusal
    reason = rows.main_reason
    if not reason:
        return _explain_uncounted(rows, about)
    if reason.startswith(_FORTRAN):
        return _explain_order_of_elements(rows, about)
    if reason.startswith(_COLUMNS):
        return Advice(reason, 'convert these columns to "category" or to Arrow text')
    if reason.startswith((_SCATTERED, _SHORT, _SEAMS)):
        if reason.startswith(_SCATTERED) or _is_scattered(rows, about):
            return _explain_scattered(rows, about)
        return _explain_pages(rows, about)
    return Advice(reason, "")


def _explain_uncounted(rows: PlannedRows, about: Circumstances) -> Advice:
    if rows.is_mask and about.filters_masks:
        return Advice(
            "a mask selects the rows, which is left to polars, and polars copies them",
            "let cv yield indices: np.flatnonzero(mask)",
        )
    smallest = format_bytes(about.min_mapped_bytes)
    if about.is_frame and about.n_arrays > 1:
        is_much = rows.uncounted_bytes >= about.min_bytes
        return Advice(
            f"the rest is small: less than min_bytes ({format_bytes(about.min_bytes)}) "
            "of columns that lie together is sent by value, and less than "
            f"{smallest} of a column is not mapped",
            'parallel_config(backend="mmap", min_bytes="64K")' if is_much else "",
        )
    return Advice(
        f"they have less than {smallest}: mapping so little takes longer than copying",
        "",
    )


def _explain_order_of_elements(rows: PlannedRows, about: Circumstances) -> Advice:
    what = "the frame lies" if about.is_frame else "X is in Fortran order:"
    reason = f"{what} column by column, so that no row is in one place"
    if _is_scattered(rows, about):
        # The data in the order of the folds lies row by row, too.
        scattered = _explain_scattered(rows, about)
        return Advice(f"{reason}; and {scattered.reason}", scattered.remedy)
    if about.is_frame:
        remedy = _in_any_order(rows) or "X = skl_mmap.share(X), which stores it by row"
        return Advice(reason, remedy)
    return Advice(reason, "X = np.ascontiguousarray(X)")


def _is_scattered(rows: PlannedRows, about: Circumstances) -> bool:
    unit = max(about.unit_rows or 1, VECTOR_UNIT)
    is_short = rows.n_rows < _UNITS_OF_LONG_RUN * unit * rows.n_runs
    return rows.n_runs > _MAX_LONG_RUNS and is_short


def _explain_scattered(rows: PlannedRows, about: Circumstances) -> Advice:
    cause = _cause_of_scattering(about)
    remedy = _in_any_order(rows) or about.arrange_call
    if not remedy:
        remedy = "cv = KFold(n_splits), or KFold(n_splits, shuffle=True) with arrange()"
    return Advice(cause, remedy)


def _cause_of_scattering(about: Circumstances) -> str:
    name = type(about.cv).__name__
    inner = _unwrap(about.cv)
    is_shuffled = getattr(inner, "shuffle", False) or isinstance(
        inner,
        model_selection.BaseShuffleSplit
        | model_selection.RepeatedKFold
        | model_selection.RepeatedStratifiedKFold,
    )
    if is_shuffled:
        return f"the rows are scattered: {name} shuffles them"
    if isinstance(inner, _GROUPED):
        return f"the rows are scattered, because those of each group of {name} are"
    if is_stratified(about.cv) and not about.has_sorted_classes:
        return (
            f"the rows are scattered: {name} splits each class for itself, and y is "
            "not sorted by class"
        )
    return f"the rows are scattered: there are many short runs of them in {name}"


def _in_any_order(rows: PlannedRows) -> str:
    """Suggest another order of rows, if it is known to copy less than half."""
    n_bytes = rows.any_copied_bytes
    if n_bytes is None or 2 * n_bytes >= rows.copied_bytes:
        return ""
    return 'parallel_config(backend="mmap", row_order="any")'


def _explain_pages(rows: PlannedRows, about: Circumstances) -> Advice:
    unit = about.unit_rows
    if unit is None:
        reason = "runs of rows continue each other's pages only by chance"
    elif rows.n_runs == 1:
        reason = "the run of rows fills no page, or lies where X itself is a copy"
    else:
        reason = (
            "runs of rows continue each other's pages only if the number of rows left "
            f"out between them is a multiple of {unit} (the rows that fill whole pages)"
        )
    if about.row_order == "any" and rows.part == "train":
        reason += "; with row_order='any', what is left over of each run is copied"
    choices = [_in_any_order(rows), _suggest_splits(about)]
    if rows.part == "test":
        choices.append(about.arrange_call)
    return Advice(reason, " or ".join(filter(None, choices)))


def _suggest_splits(about: Circumstances) -> str:
    """Find a number of splits near the given one whose folds are whole pages."""
    if type(about.cv) is not model_selection.KFold or not about.unit_rows:
        return ""
    n_splits = about.cv.n_splits
    fitting = [
        number
        for number in range(2, 2 * n_splits + 1)
        if about.n_samples % (number * about.unit_rows) == 0
    ]
    if not fitting:
        return ""
    best = min(fitting, key=lambda number: (abs(number - n_splits), number))
    return "" if best == n_splits else f"KFold(n_splits={best})"
