"""What was found out about an estimator: plain data, its wording is in `_text`."""

from __future__ import annotations

from dataclasses import dataclass

from skl_mmap.copies._layout import Layout

__all__ = ["CopySite", "LayoutResult", "MethodCopies", "Suggestion"]


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
        The same in words.
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
    reason: str
    detail: str
    content: str
    file: str
    line: int
    function: str
    through: str
    is_at_peak: bool


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
        return tuple(dict.fromkeys(site.reason for site in self.sites))


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
