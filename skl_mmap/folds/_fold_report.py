"""What the backend "mmap" will map and copy of each fold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.folds._fold_report_text import describe

__all__ = ["Fold", "FoldReport", "FoldRows"]


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
        Bytes that cost no memory, and bytes that every task has for itself.
    copy_reasons : mapping of str to int
        Why, in the words of a task's record, and how many bytes for each reason.
    uncounted_bytes : int
        Part of `copied_bytes` that a task does not count: of data that is not shared,
        or so little that mapping it is not worth it.
    reason : str
        Why rows are copied, in words; empty if none are, or only seams.
    remedy : str
        What to do about it, in one line; empty if there is nothing to gain.
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
    remedy: str


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
        Of train sets, as in ``parallel_config(backend="mmap", row_order=...)``.
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
        """What to do, each once; first what concerns most bytes."""
        return tuple(self._by_text("remedy"))

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why rows are copied, each once; first what concerns most bytes."""
        return tuple(self._by_text("reason"))

    def to_frame(self) -> Any:
        """Return a pandas.DataFrame with a row for each train and each test set.

        Returns
        -------
        DataFrame of shape (2 * n_splits, 9)
            The columns are `split` and most attributes of `FoldRows`.

        Raises
        ------
        InvalidParameterError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InvalidParameterError(
                "to_frame() makes a pandas.DataFrame, and pandas is not installed. "
                "Run pip install 'skl-mmap[tables]', or use report.folds."
            ) from error
        rows = [
            {"split": fold.split, **{name: getattr(part, name) for name in _COLUMNS}}
            for fold in self.folds
            for part in fold.parts
        ]
        return pd.DataFrame(rows, columns=["split", *_COLUMNS])

    def __str__(self) -> str:
        return describe(self)

    def _all_rows(self) -> Iterator[FoldRows]:
        for fold in self.folds:
            yield from fold.parts

    def _by_text(self, name: str) -> list[str]:
        n_bytes: dict[str, int] = {}
        for rows in self._all_rows():
            if text := getattr(rows, name):
                n_bytes[text] = n_bytes.get(text, 0) + rows.copied_bytes
        return sorted(n_bytes, key=lambda text: -n_bytes[text])


_COLUMNS = (
    *("part", "n_rows", "n_runs", "kind", "mapped_bytes", "copied_bytes"),
    *("reason", "remedy"),
)
