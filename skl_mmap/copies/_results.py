"""What is found out about copies of X, as plain values; `_report` puts it in words."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import InvalidParameterError

if TYPE_CHECKING:
    from typing_extensions import Self

_MODES = {"c": "copy-on-write", "r": "read-only"}


@dataclass(frozen=True, slots=True)
class Layout:
    """How X lies in memory.

    Attributes
    ----------
    dtype : str
        Name of the dtype, such as "float64".
    order : {"C", "F"}
        Row by row, or column by column.
    mode : {"c", "r"}, default="c"
        Mapped copy-on-write, as the backend "mmap" does, or read-only.
    is_for_fit_only : bool, default=False
        Of a layout that an estimator may be given instead of another: whether only what
        it is fitted on may have it, because results keep their bits only if what they
        are computed for stays as it is.
    """

    dtype: str
    order: str
    mode: str = "c"
    is_for_fit_only: bool = False

    def __str__(self) -> str:
        return f"{self.dtype} {self.order} {_MODES[self.mode]}"

    @classmethod
    def parse(cls, text: str) -> Layout:
        """Read a layout as `str` writes it; copy-on-write where nothing is said.

        Parameters
        ----------
        text : str
            "float64 C read-only", for example, or "float32 F".

        Raises
        ------
        InvalidParameterError
            If the text names no layout.

        Examples
        --------
        >>> Layout.parse("float64 C read-only")
        Layout(dtype='float64', order='C', mode='r', is_for_fit_only=False)
        """
        words = text.split()
        mode = "c"
        if len(words) == 3:
            modes = {name: key for key, name in _MODES.items()} | {"c": "c", "r": "r"}
            mode = modes.get(words[2], "")
        try:
            dtype = str(np.dtype(words[0]))
        except (TypeError, IndexError):
            dtype = ""
        if len(words) in (2, 3) and dtype and words[1] in ("C", "F") and mode:
            return cls(dtype, words[1], mode)
        raise InvalidParameterError(
            f"{text!r} names no layout of X. Pass a dtype, an order and, if you like, "
            "a mode: 'float64 C', 'float32 F read-only'."
        )


def layout_of(X: npt.NDArray[Any], mode: str = "c") -> Layout:
    """Return the layout of an array; C order if it has both or neither."""
    is_fortran = X.flags.f_contiguous and not X.flags.c_contiguous
    return Layout(str(X.dtype), "F" if is_fortran else "C", mode)


def given_layouts(X: npt.NDArray[Any]) -> tuple[Layout, ...]:
    """Return the layout of X, mapped copy-on-write and read-only."""
    return layout_of(X), layout_of(X, "r")


def all_layouts(X: npt.NDArray[Any]) -> tuple[Layout, ...]:
    """Return all layouts that are tried, those of X first."""
    dtypes = dict.fromkeys((str(X.dtype), "float64", "float32"))
    if X.dtype.kind != "f":
        dtypes = dict.fromkeys((str(X.dtype),))
    orders = dict.fromkeys((layout_of(X).order, "C", "F"))
    return tuple(
        Layout(dtype, order, mode)
        for dtype in dtypes
        for order in orders
        for mode in _MODES
    )


class Reason(str, enum.Enum):
    """Why memory of the size of X was taken.

    Attributes
    ----------
    value : str
        The reason in a word or two, as reports name it.
    sentence : str
        What was done; some name ``{given}`` and ``{made}``, the dtype or the order.
    remedy : str
        What helps those who can change that code. What helps users of an estimator is
        tried and measured instead (`find_suggestions`).
    """

    sentence: str
    remedy: str

    DTYPE = (
        "dtype",
        "{given} was converted to {made}",
        "accept both dtypes: check_array(X, dtype=[np.float64, np.float32])",
    )
    ORDER = (
        "order",
        "{given} order was changed to {made}",
        "work in either order, without order=... in check_array",
    )
    WRITEABILITY = (
        "writeability",
        "X is read-only, and the estimator wants to write to it",
        "do not write to X, and leave force_writeable=True out",
    )
    COPY = (
        "copy asked for",
        "the code asks for one: copy=True, .copy() or np.array",
        "read X itself: only what is written to needs a copy",
    )
    CENTERING = (
        "centering",
        "the mean was subtracted, in a new array",
        "subtract it from results: (X - mean) @ w is X @ w - mean @ w",
    )
    SCALING = (
        "scaling",
        "X was scaled, in a new array",
        "scale coefficients instead of X, or X in blocks of rows",
    )
    ROWS = (
        "row subset",
        "rows of X were selected, which NumPy copies",
        "select rows as slices, which are views, or in blocks",
    )
    LINALG = (
        "linear algebra",
        "a decomposition works on a copy",
        "use a solver that only multiplies by X, such as lsqr",
    )
    TEMPORARY = (
        "temporary",
        "a temporary of a formula, as large as X",
        "compute it in blocks of rows (sklearn.utils.gen_batches)",
    )
    NATIVE = (
        "native",
        "native code took it, not NumPy",
        "see which function of it did, with check_copies(..., deep=True)",
    )
    WRITTEN = (
        "written in place",
        "X itself was written to: its pages became private, and X is changed",
        "write to an array of your own, in blocks of rows",
    )

    def __new__(cls, word: str, sentence: str, remedy: str) -> Self:
        """Make a member whose value is its first word."""
        self = str.__new__(cls, word)
        self._value_ = word
        self.sentence = sentence
        self.remedy = remedy
        return self

    def __str__(self) -> str:
        return str(self.value)


@dataclass(frozen=True, slots=True)
class Content:
    """What a block of memory has to do with X.

    Attributes
    ----------
    kind : {"equal", "centered", "scaled", "rows"}
        It holds the numbers of X, these minus or times one number for each column, or
        some rows of X.
    layout : Layout
        How they lie in the block.
    """

    kind: str
    layout: Layout

    def __str__(self) -> str:
        names = {
            "equal": "X",
            "centered": "centered X",
            "rows": "rows of X",
            "scaled": "scaled X",
        }
        return f"{names[self.kind]} as {self.layout.dtype} {self.layout.order}"


@dataclass(frozen=True, slots=True)
class CopySite:
    """One place where memory of the size of X is taken.

    Attributes
    ----------
    copies : float
        Its size in units of X.
    n_bytes : int
        Its size in the sample that was measured.
    n_times : int
        How often it happened.
    reason : str
        Why: "dtype", "order", "writeability", "copy asked for", "centering",
        "scaling", "row subset", "linear algebra", "temporary", "native" or "written in
        place".
    detail : str
        The same in a sentence.
    content : str
        What it holds, as far as that has to do with X: "centered X as float64 C".
    file : str
        Path of the code; empty if it is not known.
    line : int
        Line in it.
    function : str
        Name of the function.
    through : str
        The line of the estimator's own code that led there.
    is_at_peak : bool
        Whether it was part of the most that was needed at one moment.
    """

    copies: float
    n_bytes: int
    n_times: int
    reason: Reason
    detail: str
    content: str
    file: str
    line: int
    function: str
    through: str
    is_at_peak: bool
    # The same as `content`, for those who do not read words.
    holds: Content | None = None


@dataclass(frozen=True, slots=True)
class MethodCopies:
    """What one method did with X in one layout.

    Attributes
    ----------
    method : str
        Its name.
    layout : Layout
        Of X.
    outcome : str
        "ok", or why there are no numbers: "error", "crash", "timeout", "missing" (the
        estimator has no such method) or "not run" (it needs another one that failed).
    message : str
        The error in words; empty if there was none.
    copies : float or None
        Private memory that grows with n_samples * n_features, in units of X, result
        excluded. None if there are no numbers.
    n_samples, n_features : int
        Shape of the largest sample that was measured.
    input_bytes : int
        Its size in this layout.
    peak_bytes : int or None
        The most private memory that the method needed with it, result excluded.
    native_copies : float
        The part of `copies` that NumPy knows nothing of.
    written_bytes : int
        What was written to X itself. Only a copy-on-write mapping allows that: the
        pages become private.
    output_bytes : int
        Size of the result.
    keeps_view : tuple of str
        Attributes of the fitted estimator that share memory with X.
    sites : tuple of CopySite
        Where it was copied, those at the peak first, largest first.
    native_frames : tuple of str
        With ``deep=True``: functions of native code that took memory, largest first.
    seconds : float
        Duration, while being measured.
    notes : tuple of str
        What the numbers do not tell.
    """

    method: str
    layout: Layout
    outcome: str = "ok"
    message: str = ""
    copies: float | None = None
    n_samples: int = 0
    n_features: int = 0
    input_bytes: int = 0
    peak_bytes: int | None = None
    native_copies: float = 0.0
    written_bytes: int = 0
    output_bytes: int = 0
    keeps_view: tuple[str, ...] = ()
    sites: tuple[CopySite, ...] = ()
    native_frames: tuple[str, ...] = ()
    seconds: float = 0.0
    notes: tuple[str, ...] = ()

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why X was copied, each reason once, the largest first."""
        return tuple(dict.fromkeys(site.reason.value for site in self.sites))


@dataclass(frozen=True, slots=True)
class LayoutResult:
    """What the methods did with X in one layout.

    Attributes
    ----------
    layout : Layout
        Of X.
    methods : tuple of MethodCopies
        In the order in which they were asked for.
    """

    layout: Layout
    methods: tuple[MethodCopies, ...]


@dataclass(frozen=True, slots=True)
class Suggestion:
    """Something that was tried and needs less memory.

    Attributes
    ----------
    code : str
        A line of code.
    method : str
        The method that needs less.
    before, after : float
        Copies of X, in units of the given X.
    results : str
        "identical" bit by bit, "rounding" (differ by rounding), "different", or
        "unknown".
    difference : float or None
        The largest difference of results, relative to the largest result.
    kind : str
        "layout" or "parameters".
    changes_model : bool, default=False
        Whether it is another model, even if the results are those of this one.
    """

    code: str
    method: str
    before: float
    after: float
    results: str
    difference: float | None
    kind: str
    changes_model: bool = False
