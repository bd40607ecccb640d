"""Measure how often an estimator copies X, where and why, and what helps."""

from __future__ import annotations

import numbers
import time
from typing import Any

import numpy.typing as npt

from skl_mmap.copies._job import Answers, agree
from skl_mmap.copies._measuring import check_memray
from skl_mmap.copies._prober import Prober, as_table
from skl_mmap.copies._remedies import find_suggestions
from skl_mmap.copies._report import CopyReport
from skl_mmap.copies._results import (
    Layout,
    LayoutResult,
    all_layouts,
    given_layouts,
    layout_of,
)
from skl_mmap.exceptions import InvalidParameterError

_LAYOUTS = {"given": given_layouts, "all": all_layouts}


def check_copies(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    methods: tuple[str, ...] = ("fit", "predict"),
    layouts: str = "given",
    n_rows: int | None = None,
    deep: bool = False,
    timeout_seconds: float = 300.0,
    suggestions: bool = True,
) -> CopyReport:
    """Measure how often an estimator copies X, where and why.

    Parameters
    ----------
    estimator : estimator
        Any object with fit; a clone is fitted, in processes of its own.
    X : array-like of shape (n_samples, n_features)
        Dense numbers.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Target.
    methods : tuple of str, default=("fit", "predict")
        What to call, with X, and with y if it takes that. One that the estimator does
        not have is said to be missing.
    layouts : {"given", "all"}, default="given"
        How X lies in memory: as it does, mapped copy-on-write and read-only; or also
        with the other order and the other of float64 and float32.
    n_rows : int, default=None
        Rows of the largest sample. By default 16 MB of X, and fewer if one call with
        them takes more than some seconds.
    deep : bool, default=False
        Whether memray looks on as well, and names functions of native code. Needs
        ``pip install 'skl-mmap[deep]'``.
    timeout_seconds : float, default=300
        For all methods in one layout together.
    suggestions : bool, default=True
        Whether other layouts and parameters are tried, if X is copied.

    Returns
    -------
    CopyReport
        With `CopyReport.copies`, `CopyReport.best` and more. A method that raises,
        crashes or takes too long is part of it.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used.
    MeasurementError
        If nothing can be measured on this system, or if the estimator cannot be sent
        to another process.

    Notes
    -----
    Some seconds, of which the new interpreter needs one or two. Memory: a sample of X,
    and what the estimator needs with it. Numbers of copies are those that grow with
    ``n_samples * n_features``, found with up to six samples of different shapes; other
    memory is in ``peak_bytes`` only. Copies in native code are told from the kernel's
    peak. Nested parallel jobs run in threads, and BLAS and OpenMP with one thread.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import Ridge
    >>> from skl_mmap import check_copies
    >>> X = np.random.default_rng(0).normal(size=(20_000, 30))
    >>> report = check_copies(
    ...     Ridge(), X, X[:, 0], methods=("fit",), suggestions=False
    ... )
    >>> round(report.copies("fit"))
    1
    >>> report.find("fit").reasons
    ('copy asked for',)
    """
    start = time.monotonic()
    table = as_table(X)
    _check_parameters(table, y, methods, layouts, timeout_seconds)
    if deep:
        check_memray()
    with Prober(
        estimator,
        table,
        y,
        layout=layout_of(table),
        methods=tuple(methods),
        n_rows=n_rows,
        timeout_seconds=float(timeout_seconds),
        deep=deep,
    ) as prober:
        return _measure(
            prober,
            table.shape,
            _LAYOUTS[layouts](table),
            suggests_above=0.0 if suggestions else None,
            start=start,
        )


def assert_no_copy(
    estimator: Any,
    X: Any,
    y: Any = None,
    *,
    methods: tuple[str, ...] = ("fit",),
    max_copies: float = 0.1,
) -> None:
    """Raise an error if an estimator copies X, for tests of estimators.

    Parameters
    ----------
    estimator : estimator
        As in `check_copies`; its class may be defined in a test.
    X : array-like of shape (n_samples, n_features)
        Dense numbers, some MB of them. It is mapped copy-on-write, in its layout.
    y : array-like of shape (n_samples,) or (n_samples, n_outputs), default=None
        Target.
    methods : tuple of str, default=("fit",)
        Which must not copy.
    max_copies : float, default=0.1
        What still counts as none, in units of X.

    Raises
    ------
    CopyError
        If X is copied or written to, with places, reasons and what helps.
    MeasurementError
        If a method fails, or nothing can be measured.
    InvalidParameterError
        If a parameter cannot be used.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import SGDRegressor
    >>> from skl_mmap import assert_no_copy
    >>> X = np.random.default_rng(0).normal(size=(20_000, 30))
    >>> assert_no_copy(SGDRegressor(max_iter=5), X, X[:, 0])
    """
    start = time.monotonic()
    table = as_table(X)
    _check_parameters(table, y, methods, "given", 300.0)
    given = layout_of(table)
    with Prober(estimator, table, y, layout=given, methods=tuple(methods)) as prober:
        report = _measure(
            prober, table.shape, (given,), suggests_above=max_copies, start=start
        )
    report.assert_no_copy(methods=tuple(methods), max_copies=max_copies)


def _measure(
    prober: Prober,
    shape: tuple[int, ...],
    layouts: tuple[Layout, ...],
    *,
    suggests_above: float | None,
    start: float,
) -> CopyReport:
    """Measure the prober's methods in some layouts, the given one first."""
    given = layouts[0]
    compares = suggests_above is not None or len(layouts) > 2
    answers: dict[Layout, Answers] = {
        layout: prober.measure(layout, compares=compares) for layout in layouts
    }
    is_copied = suggests_above is not None and any(
        (answer.copies.copies or 0.0) > suggests_above
        for found in answers.values()
        for answer in found.values()
    )
    return CopyReport(
        estimator=prober.name,
        given=given,
        shape=(int(shape[0]), int(shape[1])),
        n_samples=prober.n_samples,
        layouts=tuple(
            LayoutResult(layout, tuple(answer.copies for answer in found.values()))
            for layout, found in answers.items()
        ),
        suggestions=find_suggestions(prober, given, answers) if is_copied else (),
        same_results=tuple(
            layout
            for layout in layouts
            if layout == given
            or agree(answers[given], answers[layout])[0] == "identical"
        ),
        notes=prober.notes,
        seconds=time.monotonic() - start,
    )


def _check_parameters(
    X: npt.NDArray[Any],
    y: Any,
    methods: tuple[str, ...],
    layouts: str,
    timeout_seconds: float,
) -> None:
    names_ok = not isinstance(methods, str) and all(isinstance(m, str) for m in methods)
    if not names_ok or not methods:
        raise InvalidParameterError(
            f"methods={methods!r} are not names of methods. Pass a tuple of them, such "
            "as ('fit', 'predict')."
        )
    if layouts not in _LAYOUTS:
        raise InvalidParameterError(
            f"layouts={layouts!r} is unknown. Pass 'given' for that of X, or 'all'."
        )
    is_number = isinstance(timeout_seconds, numbers.Real)
    if not is_number or isinstance(timeout_seconds, bool) or not timeout_seconds > 0:
        raise InvalidParameterError(
            f"timeout_seconds={timeout_seconds!r} is not a time to wait. Pass a "
            "positive number of seconds."
        )
    if y is not None and len(y) != len(X):
        raise InvalidParameterError(
            f"y has {len(y)} values and X has {len(X)} rows, so they do not belong "
            "together. Pass as many of the one as of the other."
        )
