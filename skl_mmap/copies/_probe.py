"""For other parts of the package: measure layouts, and find out what is converted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from skl_mmap.copies._layout import Layout, given_layouts, layout_of
from skl_mmap.copies._prober import Prober, as_table
from skl_mmap.copies._remedies import Answers, agree
from skl_mmap.copies._results import CopySite, LayoutResult

__all__ = ["converts_to", "find_conversion", "list_results", "probe"]

_MIN_COPIES = 0.1
_MIN_SAVED = 0.15


def probe(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    layouts: tuple[Layout, ...] | None = None,
    methods: tuple[str, ...] = ("fit", "predict"),
    n_rows: int | None = None,
    timeout_seconds: float = 300.0,
) -> list[LayoutResult]:
    """Measure an estimator in some layouts, and nothing else.

    Parameters
    ----------
    estimator : estimator
        A clone is fitted, in processes of its own.
    X : array-like of shape (n_samples, n_features)
        Dense numbers.
    y : array-like of shape (n_samples,), default=None
        Target.
    layouts : tuple of Layout, default=None
        None for that of X, copy-on-write and read-only.
    methods : tuple of str, default=("fit", "predict")
        What to call.
    n_rows : int, default=None
        As in `check_copies`.
    timeout_seconds : float, default=300
        For each layout.

    Returns
    -------
    list of LayoutResult
        One for each layout.

    Raises
    ------
    MeasurementError
        If nothing can be measured here, or the estimator cannot be sent to a process.
    """
    table = as_table(X)
    layouts = given_layouts(table) if layouts is None else layouts
    with Prober(
        estimator,
        table,
        y,
        layout=layouts[0],
        methods=methods,
        n_rows=n_rows,
        timeout_seconds=timeout_seconds,
    ) as prober:
        return [
            LayoutResult(
                layout,
                tuple(answer.copies for answer in prober.measure(layout, methods)),
            )
            for layout in layouts
        ]


def converts_to(
    estimator: Any, X: Any, y: Any = None, *, timeout_seconds: float = 120.0
) -> tuple[Layout | None, str]:
    """Find the layout to which an estimator converts all of X, and does only that.

    Three things have to be true: fit copies X only in order to convert it, when it
    checks its input; fitted model and results are the same, bit by bit, if X is
    converted before; and fewer copies are made then.

    Parameters
    ----------
    estimator : estimator
        A clone is fitted, in processes of its own.
    X : array-like of shape (n_samples, n_features)
        A sample of some MB, in the layout that is asked about.
    y : array-like of shape (n_samples,), default=None
        Target.
    timeout_seconds : float, default=120
        For each of two layouts.

    Returns
    -------
    layout : Layout or None
        Always copy-on-write; None if it is none.
    reason : str
        Why, in words.
    """
    table = as_table(X)
    given = layout_of(table)
    methods = ("fit", *list_results(estimator))
    with Prober(
        estimator,
        table,
        y,
        layout=given,
        methods=methods,
        timeout_seconds=timeout_seconds,
    ) as prober:

        def measure(layout: Layout) -> Answers:
            answers = prober.measure(layout, methods, compares=True)
            return {answer.copies.method: answer for answer in answers}

        return find_conversion(given, measure)


def find_conversion(
    given: Layout, measure: Callable[[Layout], Answers]
) -> tuple[Layout | None, str]:
    """Find the layout to which an estimator converts; see `converts_to`.

    Parameters
    ----------
    given : Layout
        The layout that is asked about.
    measure : callable
        Returns what was measured in a layout, with fingerprints.
    """
    before = measure(given)
    fit = before["fit"].copies
    if fit.copies is None:
        return None, f"fit could not be measured: {fit.outcome}. {fit.message}"
    if not fit.sites or fit.copies <= _MIN_COPIES:
        return None, "fit makes no copy"
    layout = next(filter(None, (_find_target(s, given) for s in fit.sites)), None)
    if layout is None or layout == given:
        return None, f"fit copies X for another reason: {fit.sites[0].detail}"
    after = measure(layout)
    if layout.dtype == given.dtype:
        # Another order is for fit alone: rows to predict for are selected into C order.
        before, after = {"fit": before["fit"]}, {"fit": after["fit"]}
    verdict, _ = agree(before, after)
    if verdict != "identical":
        return None, f"with X as {layout.dtype} {layout.order}, results are {verdict}"
    now = after["fit"].copies
    assert now.copies is not None
    before_bytes = fit.copies * fit.input_bytes
    if now.copies * now.input_bytes > before_bytes - _MIN_SAVED * fit.input_bytes:
        return None, f"fit copies X as {layout.dtype} {layout.order} just as much"
    return layout, (
        f"fit converts X to {layout.dtype} {layout.order}, with the same results"
    )


def list_results(estimator: Any) -> list[str]:
    """Return the methods whose results are compared."""
    names = ("predict", "predict_proba", "decision_function", "transform")
    return [name for name in names if hasattr(estimator, name)]


def _find_target(site: CopySite, given: Layout) -> Layout | None:
    """Return the layout of a copy that check_array has made only to convert X."""
    if site.function not in ("check_array", "_asarray_with_order"):
        return None
    if site.reason not in ("dtype", "order"):
        return None
    words = site.content.split()
    if words[:2] == ["X", "as"]:
        return Layout(words[2], words[3])
    if words:
        return None
    # It was gone before anybody could look at it. What is tried will be compared.
    if site.reason == "order":
        return Layout(given.dtype, "C" if given.order == "F" else "F")
    other = {"float64": "float32", "float32": "float64"}.get(given.dtype)
    return None if other is None else Layout(other, given.order)
