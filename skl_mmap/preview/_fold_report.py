"""What the backend "mmap" will map and copy of each fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skl_mmap._tables import as_data_frame


@dataclass(frozen=True, slots=True)
class FoldRows:
    """What selecting one train or test set does.

    Attributes
    ----------
    part : {"train", "test"}
        Which of the two.
    n_rows : int
        Rows that are selected.
    n_runs : int
        Runs of consecutive rows that they consist of, in the order in which they are
        selected.
    kind : {"view", "joined view", "part copied", "copied"}
        A view is one run, mapped as a whole. A joined view consists of several runs,
        of which next to nothing is copied: the seams between them, and at most 2 % of
        all bytes. Of "part copied" more is copied, and of "copied" all.
    mapped_bytes, copied_bytes : int
        Bytes that cost no memory, and bytes that are copied: by every task for itself,
        but for those of the reason ``"SHIFTED"``, of which all tasks share one copy.
    copy_reasons : mapping of str to int
        Why, with the keys that a task's record has, and how many bytes for each.
    uncounted_bytes : int
        Part of `copied_bytes` that a task does not count: of data that is not shared,
        or so little that mapping it is not worth it.
    reason : str
        Why rows are copied, in words; empty if none are, or only seams.
    remedies : tuple of str
        What to do about it, each a line of its own that helps; the best first.
    """

    part: str
    n_rows: int
    n_runs: int
    kind: str
    mapped_bytes: int
    copied_bytes: int
    copy_reasons: Mapping[str, int]
    uncounted_bytes: int
    reason: str
    remedies: tuple[str, ...] = ()

    @property
    def remedy(self) -> str:
        """The best thing to do, in one line; empty if there is nothing to gain."""
        return self.remedies[0] if self.remedies else ""


@dataclass(frozen=True, slots=True)
class Fold:
    """One split.

    Attributes
    ----------
    split : int
        Its number, from 0 on.
    train, test : FoldRows
        Its two sets.
    """

    split: int
    train: FoldRows
    test: FoldRows

    @property
    def parts(self) -> tuple[FoldRows, FoldRows]:
        """The train set and the test set."""
        return self.train, self.test


@dataclass(frozen=True, slots=True)
class FoldReport:
    """What the backend "mmap" will map and copy of X, fold by fold.

    `check_folds` makes it. ``print(report)`` shows a table.

    Attributes
    ----------
    title : str
        Which splitter, and which data.
    row_order : {"exact", "any"}
        Of train sets, as in ``parallel_config("mmap", row_order=...)``.
    folds : tuple of Fold
        One for each split, with `train` and `test`.
    """

    title: str
    row_order: str
    folds: tuple[Fold, ...]

    @property
    def mapped_bytes(self) -> int:
        """Bytes of all train and test sets that cost no memory."""
        return sum(rows.mapped_bytes for rows in self._all_rows())

    @property
    def copied_bytes(self) -> int:
        """Bytes of all train and test sets that are copied."""
        return sum(rows.copied_bytes for rows in self._all_rows())

    @property
    def remedies(self) -> tuple[str, ...]:
        """What to do, each a line that helps; first what concerns most bytes."""
        return _by_bytes((rows.remedies, rows) for rows in self._all_rows())

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why rows are copied, each once; first what concerns most bytes."""
        given = ((rows.reason,) if rows.reason else () for rows in self._all_rows())
        return _by_bytes(zip(given, self._all_rows(), strict=True))

    def to_frame(self) -> Any:
        """Return a pandas.DataFrame with a row for each train and each test set.

        Returns
        -------
        DataFrame of shape (2 * n_splits, 9)
            The columns are `split` and most attributes of `FoldRows`.

        Raises
        ------
        ImportError
            If pandas is not installed.
        """
        rows = [
            {"split": fold.split, **{name: getattr(part, name) for name in _COLUMNS}}
            for fold in self.folds
            for part in fold.parts
        ]
        return as_data_frame(rows, ["split", *_COLUMNS])

    def __str__(self) -> str:
        from skl_mmap.preview._fold_text import format_folds

        return format_folds(self)

    def _all_rows(self) -> Iterator[FoldRows]:
        for fold in self.folds:
            yield from fold.parts


def _by_bytes(given: Any) -> tuple[str, ...]:
    """Return texts, each once; first those of rows of which most bytes are copied."""
    n_bytes: dict[str, int] = {}
    for texts, rows in given:
        for text in texts:
            n_bytes[text] = n_bytes.get(text, 0) + rows.copied_bytes
    return tuple(sorted(n_bytes, key=lambda text: -n_bytes[text]))


_COLUMNS = (
    *("part", "n_rows", "n_runs", "kind", "mapped_bytes", "copied_bytes"),
    *("reason", "remedy"),
)
