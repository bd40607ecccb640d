"""Reasons why rows are copied: each with its sentence, and with what helps.

A plan gives a reason, a task counts bytes by it, and a report or a preview explains it.
Only here is it put into words, and only here is it said what helps.
"""

from __future__ import annotations

import enum
from typing import NamedTuple

from skl_mmap._advice import backend_line


class Remedy(enum.Enum):
    """What helps against copies: the line to paste, with places to fill in.

    A line with ``backend(...)`` is a call of ``parallel_config``.
    """

    ANY_ORDER = 'backend(row_order="any")'
    DEFAULT_SIZES = "backend()"
    ARRANGE = "X, y, cv = skl_mmap.arrange(X, y, cv={cv})"
    ARRANGE_GROUPS = "X, y, cv = skl_mmap.arrange(X, y, cv={cv}, groups=groups)"
    ARRANGE_X = "X, _, cv = skl_mmap.arrange(X, cv={cv})"
    ARRANGE_X_GROUPS = "X, _, cv = skl_mmap.arrange(X, cv={cv}, groups=groups)"
    WHOLE_PAGES = "cv = KFold(n_splits={n_splits})"
    INDICES = "cv = [tuple(map(np.flatnonzero, split)) for split in cv]"
    BY_ROW = 'X = skl_mmap.share(X, order="C")'
    CATEGORIES = 'X = X.astype(dict.fromkeys({names}, "category"))'
    POLARS = "X = polars.from_arrow(X)"
    AS_ARRAY = "X = np.asarray(X)"
    AS_NUMBERS = "X = X.astype(float)"
    READ_ONLY = "X = {open}"
    CHECK_FOLDS = "print(skl_mmap.check_folds(cv, X, y))"

    def line(self, n_jobs: int | None = None, **places: object) -> str:
        """Write the line, for a job with so many tasks at once."""
        if self.value.startswith("backend("):
            return backend_line(n_jobs, **_OPTIONS.get(self, {}))
        return str(self.value).format(**places)


_OPTIONS: dict[Remedy, dict[str, object]] = {
    Remedy.ANY_ORDER: {"row_order": "any"},
}


class Reason(enum.Enum):
    """Why rows are copied. The value is the sentence, without a full stop."""

    # The data is shared, and its rows are copied nevertheless.
    SCATTERED = "the rows are not in long runs (shuffled, or a class or group each)"
    SHORT_RUNS = "no run of rows is long enough to be mapped"
    SEAMS = "runs and seams that do not agree with the pages of the file"
    SHIFTED = (
        "runs that do not agree with the pages of the file, of which all tasks share "
        "one copy"
    )
    GATHERED = "rows that are not in long runs, of which all tasks share one copy"
    NOT_BY_ROW = "the array is not C-contiguous"
    TEST_SETS = "of data that is stored as fit wants it, only train sets are mapped"
    NO_MAPPINGS = "the kernel has no room for more mappings"
    COLUMNS = "pandas copies the rows of columns of this dtype"
    MANY_COLUMNS = (
        "frames of several dtypes and more than 100 columns (keep the numbers in a "
        "frame of their own)"
    )
    # A task does not count what it copies for one of these.
    FEW_BYTES = "mapping so little takes longer than copying"
    NOT_SHARED = "the data is not shared"
    MASK = "a mask selects the rows, which is left to polars, and polars copies them"
    # Nothing of the data is shared.
    NO_SHARING = "nothing is shared with min_bytes=None"
    NO_REMAP = "this system cannot map parts of a file behind each other"
    PAIRWISE = (
        "the estimator takes a matrix of pairs, of which columns are selected too"
    )
    OBJECTS = "X holds Python objects, which have no place in shared memory"
    OPEN_FOR_WRITING = "X is a file that is open for writing, which tasks get as it is"
    SUBCLASS = "only plain arrays are shared"
    TABLE = "rows of a pyarrow table are selected by pyarrow, which copies them"
    TYPE = "data of this type is not shared"
    SMALL = "X is smaller than min_bytes, so that it is sent by value"

    @property
    def is_counted(self) -> bool:
        """Whether a task counts the bytes that are copied for this reason."""
        return self in _COUNTED

    @property
    def is_shared(self) -> bool:
        """Whether tasks have one copy in common, and not each its own."""
        return self in (Reason.SHIFTED, Reason.GATHERED)

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What may help, the best first. Not each of them helps in every case."""
        return _REMEDIES.get(self, ())


_COUNTED = frozenset(
    {
        *(Reason.SCATTERED, Reason.SHORT_RUNS, Reason.SEAMS, Reason.NOT_BY_ROW),
        *(Reason.TEST_SETS, Reason.NO_MAPPINGS, Reason.COLUMNS, Reason.MANY_COLUMNS),
        *(Reason.SHIFTED, Reason.GATHERED),
    }
)
_REMEDIES = {
    Reason.SCATTERED: (Remedy.ANY_ORDER, Remedy.ARRANGE),
    Reason.SHORT_RUNS: (Remedy.ANY_ORDER, Remedy.WHOLE_PAGES, Remedy.ARRANGE),
    Reason.SEAMS: (Remedy.ANY_ORDER, Remedy.WHOLE_PAGES, Remedy.ARRANGE),
    Reason.SHIFTED: (Remedy.ANY_ORDER, Remedy.WHOLE_PAGES, Remedy.ARRANGE),
    Reason.NOT_BY_ROW: (Remedy.ANY_ORDER, Remedy.BY_ROW),
    Reason.COLUMNS: (Remedy.CATEGORIES,),
    Reason.MASK: (Remedy.INDICES,),
    Reason.NO_SHARING: (Remedy.DEFAULT_SIZES,),
    Reason.OBJECTS: (Remedy.AS_NUMBERS,),
    Reason.OPEN_FOR_WRITING: (Remedy.READ_ONLY,),
    Reason.SUBCLASS: (Remedy.AS_ARRAY,),
    Reason.TABLE: (Remedy.POLARS,),
    Reason.TYPE: (Remedy.AS_ARRAY,),
    Reason.SMALL: (Remedy.DEFAULT_SIZES,),
}


class Cause(NamedTuple):
    """A reason, and what in particular it is about: the names of columns, say."""

    reason: Reason
    detail: str = ""

    @property
    def key(self) -> str:
        """The form that task records and JSON files have."""
        return f"{self.reason.name}: {self.detail}" if self.detail else self.reason.name

    @classmethod
    def from_key(cls, key: str) -> Cause:
        """Return the cause that has this key; KeyError if there is none."""
        name, _, detail = key.partition(": ")
        return cls(Reason[name], detail)

    def __str__(self) -> str:
        """Write the sentence."""
        sentence: str = self.reason.value
        return f"{sentence}: {self.detail}" if self.detail else sentence
