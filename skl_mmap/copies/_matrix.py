"""Measure many estimators in all layouts, and keep the results as one table.

::

    list_estimators() --> measure_entry() --> Row --> CSV, one line at once
                                               |        (what is there is not
                                               |         measured again)
                                               +----> docs page, layouts.json
"""

from __future__ import annotations

import csv
import functools
import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from skl_mmap.copies._catalogue import Entry, make_data
from skl_mmap.copies._job import Answer
from skl_mmap.copies._layout import Layout, all_layouts, layout_of
from skl_mmap.copies._probe import find_conversion, list_results
from skl_mmap.copies._prober import Prober
from skl_mmap.copies._remedies import find_suggestions
from skl_mmap.copies._results import CopySite, Suggestion
from skl_mmap.copies._stacks import shorten
from skl_mmap.exceptions import FileFormatError

__all__ = ["LAYOUTS", "Row", "measure_entry", "read_rows", "write_row", "write_table"]

LAYOUTS = all_layouts(np.empty((1, 1)))
# One layout with all its samples.
_TIMEOUT_SECONDS = 60.0
# Nothing else is tried with estimators whose fit takes longer.
_MAX_FIT_SECONDS = 0.5
_NEAR = 0.05


@dataclass(frozen=True, slots=True)
class Row:
    """What is known of one estimator.

    Attributes
    ----------
    estimator : str
        Full name of its class.
    package, version : str
        Where it comes from.
    outcome : str
        "ok", or why there are no numbers.
    message : str
        The same in words.
    n_samples, n_features : int
        Shape of the largest sample.
    copies : dict of str to float
        Copies that fit makes, in units of X in that layout, by layout.
    best : str
        The layout that needs the fewest bytes of copies.
    why : str
        What is copied in float64 C, copy-on-write, and why.
    site : str
        Where.
    remedy : str
        A line of code that needs less memory, as measured; empty if none was found.
    results : str
        What it does to the results: "identical", "rounding" or "different".
    converts : dict of str to str
        To which layout the estimator converts, and does only that, by given layout.
    keeps_view : str
        Attributes of the fitted estimator that refer to X.
    seconds : float
        Of all fits that were measured, in one layout.
    """

    estimator: str
    package: str
    version: str
    outcome: str = "ok"
    message: str = ""
    n_samples: int = 0
    n_features: int = 0
    copies: dict[str, float] = field(default_factory=dict)
    best: str = ""
    why: str = ""
    site: str = ""
    remedy: str = ""
    results: str = ""
    converts: dict[str, str] = field(default_factory=dict)
    keeps_view: str = ""
    seconds: float = 0.0


_NAMES = [f.name for f in fields(Row)]
_JSON = {"copies", "converts"}
_NUMBERS: dict[str, Callable[[str], Any]] = {
    "n_features": int,
    "n_samples": int,
    "seconds": float,
}


def measure_entry(entry: Entry) -> Row:
    """Measure the fit of one estimator in all layouts, in processes of their own."""
    version = metadata.version(entry.package)
    row = Row(entry.name, entry.package, version)
    if entry.estimator is None:
        return _fail(row, "not measured", entry.problem)
    try:
        X, y = make_data(entry.estimator)
        given = layout_of(X)
        methods = ("fit", *list_results(entry.estimator))
        with Prober(
            entry.estimator,
            X,
            y,
            layout=given,
            methods=("fit",),
            timeout_seconds=_TIMEOUT_SECONDS,
        ) as prober:
            return _measure(row, prober, given, methods)
    except Exception as error:  # noqa: BLE001 - one of two hundred, and said in its row
        return _fail(row, "error", f"{type(error).__name__}: {error}")


def _fail(row: Row, outcome: str, message: str) -> Row:
    values = asdict(row) | {"outcome": outcome, "message": " ".join(message.split())}
    return Row(**values)


def _measure(row: Row, prober: Prober, given: Layout, methods: tuple[str, ...]) -> Row:
    answers = {given: _measure_methods(prober, given, ("fit",))}
    first = answers[given]["fit"].copies
    if first.copies is None:
        return _fail(row, first.outcome, first.message)
    others = (layout for layout in LAYOUTS if layout != given)
    answers |= {layout: _measure_methods(prober, layout, ("fit",)) for layout in others}
    sites = first.sites if first.copies >= _NEAR else ()
    fits = {layout: answer["fit"].copies for layout, answer in answers.items()}
    writable = {layout: answers[layout] for layout in LAYOUTS if layout.mode == "c"}
    remedy, results = "", ""
    if first.seconds <= _MAX_FIT_SECONDS:
        suggestions = find_suggestions(prober, given, writable)
        remedy, results = _choose_remedy(suggestions)
    return Row(
        row.estimator,
        row.package,
        row.version,
        n_samples=first.n_samples,
        n_features=first.n_features,
        copies={
            str(layout): round(fit.copies, 2)
            for layout, fit in fits.items()
            if fit.copies is not None
        },
        best=_find_best(fits),
        why="; ".join(dict.fromkeys(site.detail for site in sites)),
        site=_name_site(sites[0]) if sites else "",
        remedy=remedy,
        results=results,
        converts=_find_conversions(prober, methods, writable),
        keeps_view=", ".join(first.keeps_view),
        seconds=round(sum(fit.seconds for fit in fits.values()), 2),
    )


def _measure_methods(
    prober: Prober, layout: Layout, methods: tuple[str, ...]
) -> dict[str, Answer]:
    measured = prober.measure(layout, methods, compares=layout.mode == "c")
    return {answer.copies.method: answer for answer in measured}


def _find_conversions(
    prober: Prober,
    methods: tuple[str, ...],
    fits: dict[Layout, dict[str, Answer]],
) -> dict[str, str]:
    """Return to what the estimator converts each layout, and does only that."""
    measure = functools.cache(
        functools.partial(_measure_methods, prober, methods=methods)
    )
    converts = {}
    for layout in fits:
        # Where the fits differ already, results need not be looked at.
        if find_conversion(layout, fits.__getitem__)[0] is None:
            continue
        target, _ = find_conversion(layout, measure)
        if target is not None:
            given = f"{layout.dtype} {layout.order}"
            converts[given] = f"{target.dtype} {target.order}"
    return converts


def _find_best(fits: dict[Layout, Any]) -> str:
    """Return the layout with the fewest copies; the first one of those that are near.

    In units of X as it is in that layout: that float32 is half as large is no reason
    to give up precision.
    """
    copies = {
        layout: fit.copies for layout, fit in fits.items() if fit.copies is not None
    }
    least = min(copies.values())
    return str(next(x for x, number in copies.items() if number <= least + _NEAR))


def _choose_remedy(suggestions: Iterable[Suggestion]) -> tuple[str, str]:
    """Return a line of code and what it does to results; no change of precision."""
    for suggestion in suggestions:
        if suggestion.kind == "parameters" or suggestion.results == "identical":
            is_other = suggestion.changes_model
            return suggestion.code, "different" if is_other else suggestion.results
    return "", ""


def _name_site(site: CopySite) -> str:
    return f"{shorten(site.file)}:{site.line} {site.function}" if site.file else ""


def read_rows(path: str | os.PathLike[str]) -> dict[str, Row]:
    """Read the rows that a file has already, by estimator; none if there is no file.

    Raises
    ------
    FileFormatError
        If the file is something else.
    """
    if not os.path.exists(path):
        return {}
    rows = {}
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        if reader.fieldnames is not None and list(reader.fieldnames) != _NAMES:
            raise FileFormatError(
                f"{os.fspath(path)} has the columns {reader.fieldnames}, so it is no "
                "table of copies that could be continued. Pass another file."
            )
        for values in reader:
            row = Row(**{name: _read(name, text) for name, text in values.items()})
            rows[row.estimator] = row
    return rows


def _read(name: str, text: str) -> Any:
    if name in _JSON:
        return json.loads(text)
    return _NUMBERS.get(name, str)(text)


def write_row(path: str | os.PathLike[str], row: Row) -> None:
    """Append one row to a file, which is made if it is not there."""
    is_new = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _NAMES, lineterminator="\n")
        if is_new:
            writer.writeheader()
        values = asdict(row)
        writer.writerow(values | {name: json.dumps(values[name]) for name in _JSON})


def write_table(path: str | os.PathLike[str], rows: Iterable[Row]) -> None:
    """Write what ``layouts="auto"`` has to know of estimators.

    Only of those that were measured: all others are probed when they are met.
    """
    measured = sorted(
        (row for row in rows if row.outcome == "ok"), key=lambda row: row.estimator
    )
    packages = {row.estimator.partition(".")[0]: row.package for row in measured}
    table = {
        "versions": dict(
            sorted({row.package: row.version for row in measured}.items())
        ),
        "packages": dict(sorted(packages.items())),
        "estimators": {row.estimator: row.converts for row in measured},
    }
    Path(path).write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
