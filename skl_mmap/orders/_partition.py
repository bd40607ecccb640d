"""Which fold tests each row, and whether that is all there is to know about a splitter.

A splitter is a partition if every row is in at most one test set, and every train set
is all the rows that its test set is not. Then an order of the rows exists in which each
test set is one run, and each train set two.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.model_selection import check_cv

from skl_mmap.exceptions import InvalidParameterError

_Mask = npt.NDArray[np.bool_]

_LONGEST_REPR = 100
_LEAVE_IT = "use X and cv as they are: the folds are then copied"


@dataclass(frozen=True, slots=True)
class Partition:
    """The rows in the order of the folds that test them.

    Attributes
    ----------
    permutation : ndarray of shape (n_samples,), dtype=intp
        Row numbers: those of the first test set, those of the second, and so on, and
        last the rows that are never tested. Ascending within each of these blocks.
    boundaries : ndarray of shape (n_splits + 1,), dtype=intp
        Where in `permutation` each test set begins, and where the last one ends.
    """

    permutation: npt.NDArray[np.intp]
    boundaries: npt.NDArray[np.intp]


def find_partition(
    cv: Any,
    X: Any,
    y: Any = None,
    groups: Any = None,
    *,
    n_samples: int,
    classifier: bool,
) -> Partition:
    """Run a splitter once and find out which fold tests each row.

    Notes
    -----
    What the splitter needs, and 7 bytes per row; then 22 bytes per row to sort them.
    O(n_samples) time for each split.
    """
    name = _name(cv)
    folds = np.full(n_samples, -1, dtype=np.int32)
    ends = [0]
    for number, split in enumerate(_iterate_splits(cv, X, y, groups, classifier)):
        ends.append(ends[-1] + _add_fold(folds, number, split, name))
        del split  # before the splitter makes the next one
    n_splits = len(ends) - 1
    if not n_splits:
        raise InvalidParameterError(
            f"{name} makes no splits, so there is nothing to arrange rows for. If it "
            "is an iterator, it may have been used up: pass a list."
        )
    folds[folds < 0] = n_splits
    # A stable sort of 16 bits takes linear time.
    keys = folds.astype(np.uint16) if n_splits <= np.iinfo(np.uint16).max else folds
    del folds
    permutation = np.argsort(keys, kind="stable")
    return Partition(permutation, np.array(ends, dtype=np.intp))


class PartitionCheck:
    """Finds out split by split whether `arrange` would take them.

    Parameters
    ----------
    n_samples : int
        Rows that there are.

    Attributes
    ----------
    holds : bool
        Whether no row was tested twice so far, and each train set was all of the rows
        that its test set is not.
    """

    def __init__(self, n_samples: int) -> None:
        # A byte for each row: nobody asks which fold has tested it.
        self._folds = np.full(n_samples, -1, dtype=np.int8)
        self.holds = True

    def see(self, train: Any, test: Any) -> None:
        """Look at the next split: valid indices, or masks."""
        if self.holds:
            try:
                _add_fold(self._folds, 0, (train, test), "cv")
            except InvalidParameterError:
                self.holds = False


def _name(cv: Any) -> str:
    """Return what to call a splitter in a message: never pages of indices."""
    text = repr(cv) if hasattr(cv, "split") or isinstance(cv, int) else ""
    if not text or len(text) > _LONGEST_REPR or "\n" in text:
        text = f"<{type(cv).__name__}>"
    return f"cv={text}"


def _iterate_splits(
    cv: Any, X: Any, y: Any, groups: Any, classifier: bool
) -> Iterator[tuple[Any, Any]]:
    if isinstance(cv, Iterable) and not hasattr(cv, "split"):
        # One after the other: check_cv would make a list of all of them.
        for number, split in enumerate(cv):
            if not isinstance(split, tuple | list) or len(split) != 2:
                raise InvalidParameterError(
                    f"item {number} of {_name(cv)} is not a pair of row indices "
                    "(train, test), so it is not a split. Pass an int, a splitter, or "
                    "an iterable of such pairs."
                )
            yield split[0], split[1]
        return
    try:
        splitter = check_cv(cv, y, classifier=classifier)
    except ValueError as error:
        raise InvalidParameterError(
            f"{_name(cv)} gives no train and test sets. Pass an int, a splitter, or "
            "an iterable of (train, test)."
        ) from error
    yield from splitter.split(X, y, groups)


def _add_fold(
    folds: npt.NDArray[Any], number: int, split: tuple[Any, Any], name: str
) -> int:
    """Note the rows of a test set, and return how many there are."""
    n_samples = len(folds)
    is_train = _as_mask(split[0], n_samples, f"the train set of split {number}", name)
    is_test = _as_mask(split[1], n_samples, f"the test set of split {number}", name)
    missing = is_train & is_test
    n_both = np.count_nonzero(missing)
    if n_both:
        raise InvalidParameterError(
            f"{name} is not a partition: split {number} has {n_both} rows in both its "
            f"train and its test set. Take them out of the train set, or {_LEAVE_IT}."
        )
    np.logical_or(is_train, is_test, out=missing)
    np.logical_not(missing, out=missing)
    if missing.any():
        raise InvalidParameterError(
            _explain_missing(is_train, is_test, missing, number, name)
        )
    earlier = folds[is_test]
    if len(earlier) and int(earlier.max()) >= 0:
        raise InvalidParameterError(_explain_overlap(folds, earlier, number, name))
    folds[is_test] = number
    return len(earlier)


def _as_mask(rows: Any, n_samples: int, what: str, name: str) -> _Mask:
    rows = np.asarray(rows)
    if rows.dtype == bool and rows.shape == (n_samples,):
        return np.asarray(rows, dtype=bool)
    mask: _Mask = np.zeros(n_samples, dtype=bool)
    if not rows.size:
        return mask
    if rows.ndim != 1 or rows.dtype.kind not in "iu":
        raise InvalidParameterError(
            f"{what} of {name} has shape {rows.shape} and dtype {rows.dtype}. Pass row "
            f"indices of shape (n,), or a mask of shape ({n_samples},)."
        )
    try:
        mask[rows] = True
    except IndexError as error:
        raise InvalidParameterError(
            f"{what} of {name} does not fit X of {n_samples} rows: {error}. Pass the "
            "splits of this X."
        ) from error
    n_repeated = len(rows) - np.count_nonzero(mask)
    if n_repeated:
        raise InvalidParameterError(
            f"{name} is not a partition: {what} has {n_repeated} indices of rows that "
            "it has already, as a bootstrap does, and X would have to hold these rows "
            f"more than once. Use sample weights instead, or {_LEAVE_IT}."
        )
    return mask


def _explain_missing(
    is_train: _Mask, is_test: _Mask, missing: _Mask, number: int, name: str
) -> str:
    """Say why a train set has to be all of the other rows."""
    if _is_run_before(is_train, is_test):
        return (
            f"{name} needs no arranging: the train set of split {number} is the rows "
            "right before its test set, as in TimeSeriesSplit, and such rows are "
            "mapped where they are. Use X and cv as they are, with the backend 'mmap'."
        )
    return (
        f"{name} is not a partition: the train set of split {number} is not the "
        f"complement of its test set, as {np.count_nonzero(missing)} of "
        f"{len(missing)} rows are in neither. X cannot be in an order in which these "
        "train sets are long runs. Use a splitter whose train sets are all of the "
        f"other rows (KFold and its kin), or {_LEAVE_IT}."
    )


def _is_run_before(is_train: _Mask, is_test: _Mask) -> bool:
    trained, tested = _only_run(is_train), _only_run(is_test)
    return trained is not None and tested is not None and trained[1] <= tested[0]


def _only_run(mask: _Mask) -> tuple[int, int] | None:
    first = int(mask.argmax())
    stop = first + int(np.count_nonzero(mask))
    return (first, stop) if first < stop and mask[first:stop].all() else None


def _explain_overlap(
    folds: npt.NDArray[np.int32],
    earlier: npt.NDArray[np.int32],
    number: int,
    name: str,
) -> str:
    """Say why a row that is tested twice has no place."""
    if int(folds.min()) >= 0:
        return (
            f"{name} is not a partition: the first {number} splits have tested every "
            f"row once, and split {number} tests rows again, as repeated splitters do. "
            "X can be in the order of one repetition at a time: call arrange() for "
            "each, with KFold(shuffle=True, random_state=i) and the like, or "
            f"{_LEAVE_IT}."
        )
    n_again = np.count_nonzero(earlier >= 0)
    other = int(earlier[earlier >= 0][0])
    return (
        f"{name} is not a partition: test sets overlap. {n_again} rows of the test set "
        f"of split {number} have been tested before, one of them by split {other}, as "
        "with ShuffleSplit, and a row of X can be in one place only. Use a splitter "
        f"that tests each row once, such as KFold(shuffle=True), or {_LEAVE_IT}."
    )
