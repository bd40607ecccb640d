"""What was found out about the copies that an estimator makes: plain results."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from skl_mmap.copies._layout import Layout
from skl_mmap.copies._results import LayoutResult, MethodCopies, Suggestion
from skl_mmap.exceptions import CopyError, InvalidParameterError, MeasurementError

__all__ = ["CopyReport"]


@dataclass(frozen=True, slots=True)
class CopyReport:
    """How often an estimator copies X, where and why.

    ``str`` and a notebook show it as a table.

    Attributes
    ----------
    estimator : str
        The estimator.
    given : Layout
        Layout of X, as the backend "mmap" hands it to estimators: copy-on-write.
    shape : (int, int)
        Of X.
    n_samples : int
        Rows of the largest sample that was measured.
    layouts : tuple of LayoutResult
        What was found, the given layout first.
    suggestions : tuple of Suggestion
        What was tried and needs less, that which changes no results first.
    same_results : tuple of Layout
        The layouts in which fitted model and results are those of the given one, bit
        by bit.
    notes : tuple of str
        What the numbers do not tell.
    seconds : float
        How long it took.
    """

    estimator: str
    given: Layout
    shape: tuple[int, int]
    n_samples: int
    layouts: tuple[LayoutResult, ...]
    suggestions: tuple[Suggestion, ...] = ()
    same_results: tuple[Layout, ...] = ()
    notes: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def methods(self) -> tuple[str, ...]:
        """The methods that were called."""
        return tuple(found.method for found in self.layouts[0].methods)

    def find(self, method: str, layout: Layout | str | None = None) -> MethodCopies:
        """Return everything about one method in one layout.

        Parameters
        ----------
        method : str
            Its name.
        layout : Layout or str, default=None
            The layout, or text such as "float32 C read-only". None for the given one.

        Returns
        -------
        MethodCopies
            Sizes, sites and reasons.

        Raises
        ------
        InvalidParameterError
            If that was not measured.
        """
        wanted = Layout.parse(layout) if isinstance(layout, str) else layout
        wanted = self.given if wanted is None else wanted
        for result in self.layouts:
            for found in result.methods:
                if result.layout == wanted and found.method == method:
                    return found
        names = ", ".join(f"'{result.layout}'" for result in self.layouts)
        raise InvalidParameterError(
            f"{method!r} in layout '{wanted}' was not measured. There are the methods "
            f"{', '.join(map(repr, self.methods))} in the layouts {names}."
        )

    def copies(self, method: str = "fit", layout: Layout | str | None = None) -> float:
        """Return how often a method copies X.

        Parameters
        ----------
        method : str, default="fit"
            Its name.
        layout : Layout or str, default=None
            As in `find`.

        Returns
        -------
        float
            Private memory in units of X that grows with n_samples * n_features.

        Raises
        ------
        MeasurementError
            If the method failed, with its error.
        """
        found = self.find(method, layout)
        if found.copies is None:
            raise MeasurementError(
                f"{self.estimator}.{method} could not be measured with X as "
                f"{found.layout}: {found.outcome}. {found.message}"
            )
        return found.copies

    def best(self, method: str = "fit") -> Layout:
        """Return the layout in which a method needs the least memory for copies.

        Of those that were measured. Other dtypes count only if they change no bit of
        the results. Where two are equal, the given one is better, then copy-on-write.

        Parameters
        ----------
        method : str, default="fit"
            Its name.

        Returns
        -------
        Layout
            The layout.

        Raises
        ------
        MeasurementError
            If the method failed in all of them.
        """
        candidates = [
            (round(found.copies * found.input_bytes / 2**18), place, result.layout)
            for place, result in enumerate(self.layouts)
            for found in result.methods
            if found.method == method
            and found.copies is not None
            and self._keeps_results(result.layout)
        ]
        if not candidates:
            self.copies(method)
        return min(candidates)[2]

    def _keeps_results(self, layout: Layout) -> bool:
        is_given = layout.dtype == self.given.dtype
        return is_given or layout in self.same_results

    def assert_no_copy(
        self,
        *,
        methods: tuple[str, ...] = ("fit",),
        layout: Layout | str | None = None,
        max_copies: float = 0.1,
    ) -> None:
        """Raise an error if a method copies X.

        Parameters
        ----------
        methods : tuple of str, default=("fit",)
            Which must not.
        layout : Layout or str, default=None
            As in `find`.
        max_copies : float, default=0.1
            What still counts as none, in units of X.

        Raises
        ------
        CopyError
            With the places and what helps.
        MeasurementError
            If a method failed.
        """
        from skl_mmap.copies._text import explain_copies

        guilty = [
            self.find(method, layout)
            for method in methods
            if self.copies(method, layout) > max_copies
        ]
        if guilty:
            raise CopyError(explain_copies(self, guilty, max_copies))

    def to_dict(self) -> dict[str, Any]:
        """Return everything as dicts, lists, text and numbers, for JSON."""
        result = dataclasses.asdict(self)
        result["shape"] = list(self.shape)
        plain: dict[str, Any] = _as_lists({"schema": 1, **result})
        return plain

    def to_frame(self) -> Any:
        """Return one row for each layout and method.

        Returns
        -------
        pandas.DataFrame
            With the numbers, the reasons and the first place.

        Raises
        ------
        InvalidParameterError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise InvalidParameterError(
                "to_frame() makes a pandas DataFrame, and pandas is not installed. "
                "Run: pip install 'skl-mmap[tables]'"
            ) from error
        from skl_mmap.copies._text import name_place

        rows = [
            {
                "estimator": self.estimator,
                "dtype": result.layout.dtype,
                "order": result.layout.order,
                "mode": result.layout.mode,
                "method": found.method,
                "outcome": found.outcome,
                "copies": found.copies,
                "native_copies": found.native_copies,
                "peak_bytes": found.peak_bytes,
                "input_bytes": found.input_bytes,
                "written_bytes": found.written_bytes,
                "output_bytes": found.output_bytes,
                "reasons": ", ".join(found.reasons),
                "place": name_place(found.sites[0]) if found.sites else "",
                "keeps_view": ", ".join(found.keeps_view),
                "seconds": found.seconds,
            }
            for result in self.layouts
            for found in result.methods
        ]
        return pd.DataFrame(rows)

    def __str__(self) -> str:
        """Tell it in a table."""
        from skl_mmap.copies._text import describe

        return describe(self)

    def _repr_html_(self) -> str:
        from skl_mmap.copies._html import describe_html

        return describe_html(self)


def _as_lists(value: Any) -> Any:
    """Replace tuples by lists, as JSON does."""
    if isinstance(value, dict):
        return {key: _as_lists(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [_as_lists(item) for item in value]
    return value
