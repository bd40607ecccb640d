"""Measure which estimators copy X, for the table in the documentation.

    python docs/estimators_table.py --csv estimators.csv --html estimators_table.html

::

    list_estimators() --> measure_entry() --> Row --> CSV, one line at once
                                               |        (what is there is not
                                               |         measured again)
                                               +----> docs page

All estimators take about an hour. ``tox -e matrix`` writes the two files that are kept:
docs/estimators.csv and docs/estimators_table.html. The page has a part of what
docs/estimators_layouts.py has found, too.
"""

from __future__ import annotations

import argparse
import csv
import html
import importlib
import inspect
import json
import os
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators, get_tags

from skl_mmap.copies import CopySite, Layout, Prober, Suggestion
from skl_mmap.copies._job import Answer
from skl_mmap.copies._numpy_memory import shorten
from skl_mmap.copies._remedies import find_suggestions
from skl_mmap.copies._results import all_layouts, layout_of
from skl_mmap.exceptions import FileFormatError

# Shapes of about 10 MB. What takes O(n_samples ** 2) gets many features instead, what
# takes O(n_features ** 2) or more gets few, and what is slow anyway gets 1 MB.
TALL = (25_000, 64)
WIDE = (500, 2_400)
NARROW = (150_000, 8)
SMALL = (3_000, 40)
_SHAPES = {
    WIDE: (
        *("AffinityPropagation", "AgglomerativeClustering", "ClassicalMDS", "DBSCAN"),
        *("FeatureAgglomeration", "GaussianProcessClassifier", "HDBSCAN", "Isomap"),
        *("GaussianProcessRegressor", "KNNImputer", "KNeighborsTransformer"),
        *("KernelCenterer", "KernelDensity", "KernelPCA", "KernelRidge"),
        *("LabelPropagation", "LabelSpreading", "LocalOutlierFactor", "MDS"),
        *("LocallyLinearEmbedding", "NuSVC", "NuSVR", "OPTICS"),
        *("OneClassSVM", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor"),
        *("RadiusNeighborsTransformer", "SVC", "SVR", "SpectralBiclustering"),
        *("SpectralClustering", "SpectralCoclustering", "SpectralEmbedding", "TSNE"),
    ),
    NARROW: (
        *("GraphicalLassoCV", "PolynomialCountSketch", "PolynomialFeatures"),
        "SplineTransformer",
    ),
    SMALL: (
        *("BaggingClassifier", "BaggingRegressor", "Birch", "DictionaryLearning"),
        *("EllipticEnvelope", "MeanShift", "MinCovDet"),
        *("GammaRegressor", "IterativeImputer", "LatentDirichletAllocation"),
        *("MiniBatchDictionaryLearning", "MiniBatchSparsePCA", "QuantileRegressor"),
        *("NeighborhoodComponentsAnalysis", "SequentialFeatureSelector", "SparsePCA"),
        "TheilSenRegressor",
    ),
}
_SHAPE_OF = {name: shape for shape, names in _SHAPES.items() for name in names}
_NEED_CLASSES = {"NeighborhoodComponentsAnalysis"}
NEED_OUTPUTS = {"CCA", "PLSCanonical", "PLSSVD"}
# What makes a fit cheaper and does not change how it uses its input.
_COSTS = {
    "n_estimators": 4,
    "max_iter": 20,
    "n_init": 1,
    "max_trials": 5,
    "n_repeats": 2,
    "n_restarts_optimizer": 0,
}
_CATBOOST = {
    "allow_writing_files": False,
    "iterations": 4,
    "thread_count": 1,
    "verbose": False,
}
_MORE_COSTS: dict[str, dict[str, Any]] = {
    "BernoulliRBM": {"n_iter": 2},
    "CatBoostClassifier": _CATBOOST,
    "CatBoostRegressor": _CATBOOST,
    "DictionaryLearning": {"n_components": 8, "max_iter": 5},
    "GaussianRandomProjection": {"n_components": 20},
    "GraphicalLassoCV": {"alphas": 2, "n_refinements": 1, "cv": 2},
    "HistGradientBoostingClassifier": {"max_iter": 4},
    "HistGradientBoostingRegressor": {"max_iter": 4},
    "LGBMClassifier": {"n_estimators": 4, "n_jobs": 1, "verbose": -1},
    "LGBMRegressor": {"n_estimators": 4, "n_jobs": 1, "verbose": -1},
    "LatentDirichletAllocation": {"max_iter": 2},
    "LogisticRegressionCV": {"Cs": 2, "cv": 2},
    "MeanShift": {"max_iter": 2, "bandwidth": 5.0, "bin_seeding": True},
    "MiniBatchDictionaryLearning": {"n_components": 8, "max_iter": 2},
    # With columns of other scales they would go on and on.
    **{name: {"max_iter": 500} for name in ("NuSVC", "NuSVR", "SVC", "SVR")},
    "NeighborhoodComponentsAnalysis": {"max_iter": 3},
    # Most rows would have no neighbors.
    "RadiusNeighborsClassifier": {"radius": 20.0},
    "RadiusNeighborsRegressor": {"radius": 20.0},
    "SequentialFeatureSelector": {"n_features_to_select": 1, "cv": 2},
    "SparsePCA": {"n_components": 4},
    "SparseRandomProjection": {"n_components": 20},
    "TSNE": {"max_iter": 250},
    "XGBClassifier": {"n_estimators": 4, "n_jobs": 1},
    "XGBRegressor": {"n_estimators": 4, "n_jobs": 1},
}
# The default is for compatibility only, and cannot be fitted.
_NEEDED_ALL_THE_SAME = {("SelfTrainingClassifier", "estimator")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One estimator.

    Attributes
    ----------
    name : str
        Its class's full name.
    package : str
        The distribution that it comes from.
    estimator : estimator or None
        With its defaults, but for cheaper fits. None if it cannot be made.
    problem : str
        Why not.
    """

    name: str
    package: str
    estimator: Any
    problem: str = ""


def list_estimators() -> list[Entry]:
    """Return the estimators of scikit-learn and of boosters, sorted by name."""
    entries = [_make_entry(class_, package) for class_, package in _iterate_classes()]
    return sorted(entries, key=lambda entry: entry.name)


def _iterate_classes() -> Iterator[tuple[type[Any], str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, class_ in all_estimators():
            yield class_, "scikit-learn"
    for package in ("catboost", "lightgbm", "xgboost"):
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        for name in (
            "CatBoostClassifier",
            "CatBoostRegressor",
            "LGBMClassifier",
            "LGBMRegressor",
            "XGBClassifier",
            "XGBRegressor",
        ):
            if hasattr(module, name):
                yield getattr(module, name), package


def _make_entry(class_: type[Any], package: str) -> Entry:
    name = f"{class_.__module__}.{class_.__qualname__}"
    try:
        estimator = _make_estimator(class_)
        tags = get_tags(estimator).input_tags
    except Exception as error:  # noqa: BLE001 - it is not ours, and said in the table
        return Entry(name, package, None, f"cannot be made: {error}")
    if not tags.two_d_array:
        return Entry(name, package, None, "takes no table of numbers")
    if class_.__name__ == "FrozenEstimator":
        return Entry(name, package, None, "wraps an estimator that is fitted already")
    return Entry(name, package, estimator)


def _make_estimator(class_: type[Any]) -> Any:
    parameters = inspect.signature(class_).parameters
    required = {
        name: _required_value(name, class_)
        for name, parameter in parameters.items()
        if (
            parameter.default is inspect.Parameter.empty
            or (class_.__name__, name) in _NEEDED_ALL_THE_SAME
        )
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    estimator = class_(**required)
    cheaper = {
        name: value
        for name, value in _COSTS.items()
        if name in parameters and _is_larger(parameters[name].default, value)
    }
    cheaper |= _MORE_COSTS.get(class_.__name__, {})
    if "max_depth" in parameters and parameters["max_depth"].default is None:
        cheaper["max_depth"] = 3
    if "random_state" in parameters:
        cheaper["random_state"] = 0
    estimator.set_params(**cheaper)  # returns nothing, for some
    return estimator


def _is_larger(default: Any, value: Any) -> bool:
    return default == "auto" or (isinstance(default, int) and default > value)


def _required_value(name: str, class_: type[Any]) -> Any:
    is_classifier = "Classif" in class_.__name__ or class_.__name__.startswith("One")
    is_classifier |= class_.__name__ == "OutputCodeClassifier"
    model: Any = LogisticRegression(max_iter=20) if is_classifier else Ridge()
    values = {
        "base_estimator": model,
        "estimator": model,
        "estimators": [("first", model), ("second", model)],
        "param_distributions": {"alpha": [0.1, 1.0]},
        "param_grid": {"alpha": [0.1, 1.0]},
        "steps": [("scaler", StandardScaler()), ("model", model)],
        "transformer_list": [("first", StandardScaler()), ("second", StandardScaler())],
        "transformers": [("first", StandardScaler(), slice(0, None))],
    }
    if name not in values:
        raise TypeError(f"{name} is required")
    return values[name]


def shape_for(estimator: Any) -> tuple[int, int]:
    """Return the shape of X with which an estimator is measured in reasonable time."""
    return _SHAPE_OF.get(type(estimator).__name__, TALL)


def make_data(estimator: Any) -> tuple[npt.NDArray[np.float64], Any]:
    """Make data that an estimator can be fitted on.

    Parameters
    ----------
    estimator : estimator
        Its tags say what it needs.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        1 to 13 MB, and numbers that are no float32.
    y : ndarray of shape (n_samples,) or (n_samples, 2), or None
        Target.
    """
    name = type(estimator).__name__
    rng = np.random.default_rng(0)
    X = rng.normal(size=shape_for(estimator))
    tags = get_tags(estimator)
    if tags.input_tags.positive_only or name == "SelectKBest":
        X = np.abs(X, out=X)
    if tags.input_tags.pairwise:
        X = X @ X.T
    signal = X[:, 0] + 0.5 * X[:, 1] + 0.1 * rng.normal(size=len(X))
    target = tags.target_tags
    if tags.estimator_type in ("classifier", "outlier_detector") or selects_features(
        name
    ):
        classes = (signal > np.median(signal)).astype(int)
        if target.multi_output and not target.single_output:
            return X, np.stack((classes, 1 - classes), axis=1)
        return X, classes
    if target.positive_only:
        signal = np.abs(signal) + 0.1
    if name in NEED_OUTPUTS or (target.multi_output and not target.single_output):
        return X, np.stack((signal, X[:, 2] - signal), axis=1)
    return X, signal


def selects_features(name: str) -> bool:
    """Whether a transformer needs classes, which its tags do not say."""
    is_selector = name.startswith("Select") and name != "SelectFromModel"
    return is_selector or name in _NEED_CLASSES


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
    keeps_view: str = ""
    seconds: float = 0.0


_NAMES = [f.name for f in fields(Row)]
_JSON = {"copies"}
_NUMBERS: dict[str, Callable[[str], Any]] = {
    "n_features": int,
    "n_samples": int,
    "seconds": float,
}


def installed_version(package: str) -> str:
    """Return the version of a package, whatever the distribution is that has it."""
    module = {"scikit-learn": "sklearn"}.get(package, package)
    return str(importlib.import_module(module).__version__)


def measure_entry(entry: Entry) -> Row:
    """Measure the fit of one estimator in all layouts, in processes of their own."""
    version = installed_version(entry.package)
    row = Row(entry.name, entry.package, version)
    if entry.estimator is None:
        return _fail(row, "not measured", entry.problem)
    try:
        X, y = make_data(entry.estimator)
        given = layout_of(X)
        with Prober(
            entry.estimator,
            X,
            y,
            layout=given,
            methods=("fit",),
            timeout_seconds=_TIMEOUT_SECONDS,
        ) as prober:
            return _measure(row, prober, given)
    except Exception as error:  # noqa: BLE001 - one of two hundred, and said in its row
        return _fail(row, "error", f"{type(error).__name__}: {error}")


def _fail(row: Row, outcome: str, message: str) -> Row:
    values = asdict(row) | {"outcome": outcome, "message": " ".join(message.split())}
    return Row(**values)


def _measure(row: Row, prober: Prober, given: Layout) -> Row:
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
        keeps_view=", ".join(first.keeps_view),
        seconds=round(sum(fit.seconds for fit in fits.values()), 2),
    )


def _measure_methods(
    prober: Prober, layout: Layout, methods: tuple[str, ...]
) -> dict[str, Answer]:
    return prober.measure(layout, methods, compares=layout.mode == "c")


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


def read_layouts(path: str | os.PathLike[str] | None) -> dict[str, dict[str, str]]:
    """Read the layouts of estimators in the newest version; none without a path."""
    if path is None:
        return {}
    table = json.loads(Path(path).read_text(encoding="utf-8"))
    newest = {module: versions[-1] for module, versions in table["versions"].items()}
    return {
        name: row
        for name, rows in table["estimators"].items()
        for row in rows
        if (version := newest[name.partition(".")[0]]) in row.get("in", [version])
    }


def write_row(path: str | os.PathLike[str], row: Row) -> None:
    """Append one row to a file, which is made if it is not there."""
    is_new = not os.path.exists(path)
    with open(path, "a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, _NAMES, lineterminator="\n")
        if is_new:
            writer.writeheader()
        values = asdict(row)
        writer.writerow(values | {name: json.dumps(values[name]) for name in _JSON})


_STYLE = """\
<style>
#copies { border-collapse: collapse; font-size: 80%; }
#copies th { cursor: pointer; position: sticky; top: 0; vertical-align: bottom; }
#copies td, #copies th { border-bottom: 1px solid #8884; padding: 0.2em 0.5em; }
#copies td.number { text-align: right; font-variant-numeric: tabular-nums; }
#copies td.free { background: #2a82; }
#copies td.much { background: #c432; }
</style>
"""
_SCRIPT = """\
<script>
document.querySelectorAll("#copies th").forEach((head, column) => {
  let direction = 1;
  const key = (row) => row.cells[column].dataset.key || row.cells[column].textContent;
  head.addEventListener("click", () => {
    const body = document.querySelector("#copies tbody");
    const rows = [...body.rows];
    const isNumber = rows.every((row) => key(row) === "" || !isNaN(key(row)));
    const compare = isNumber
      ? (a, b) => (key(a) === "") - (key(b) === "") || key(a) - key(b)
      : (a, b) => key(a).localeCompare(key(b));
    rows.sort((a, b) => direction * compare(a, b));
    body.append(...rows);
    direction = -direction;
  });
});
</script>
"""
_FREE, _MUCH = 0.1, 1.5
# What the page says of layouts="auto".
_GIVEN = ("float64 C", "float64 frame")
_SHORT = {"copy-on-write": "c", "read-only": "r"}


def write_page(
    path: str | os.PathLike[str],
    rows: Iterable[Row],
    layouts: Mapping[str, Mapping[str, str]],
) -> None:
    """Write the rows as one HTML table, for a page that includes it.

    `layouts` are those of `read_layouts`, by estimator.
    """
    ordered = sorted(rows, key=lambda row: row.estimator.rpartition(".")[2])
    heads = [
        "estimator",
        *(_short_name(str(layout)) for layout in LAYOUTS),
        *("best layout", *(f"instead of {given}" for given in _GIVEN)),
        *("why", "what needs less"),
    ]
    lines = [
        _STYLE,
        '<div style="overflow-x: auto"><table id="copies"><thead><tr>',
        *(f"<th>{html.escape(head)}</th>" for head in heads),
        "</tr></thead><tbody>",
        *(_write_row(row, layouts.get(row.estimator, {})) for row in ordered),
        "</tbody></table></div>",
        _SCRIPT,
    ]
    Path(path).write_text("\n".join(lines), encoding="utf-8")


def _short_name(layout: str) -> str:
    dtype, order, mode = layout.split()
    return f"{dtype} {order} {_SHORT[mode]}"


def _write_row(row: Row, layouts: Mapping[str, str]) -> str:
    name = row.estimator.rpartition(".")[2]
    cells = [f'<td title="{html.escape(row.estimator)}">{html.escape(name)}</td>']
    if row.outcome != "ok":
        cells += ["<td></td>"] * (len(LAYOUTS) + 1 + len(_GIVEN))
        cells += [f"<td>{html.escape(row.message)}</td>", "<td></td>"]
        return f"<tr>{''.join(cells)}</tr>"
    cells += [_write_copies(row.copies.get(str(layout))) for layout in LAYOUTS]
    changes = f" ({row.results} results)" if row.remedy else ""
    remedy = f"<code>{html.escape(row.remedy)}</code>{changes}" if row.remedy else ""
    cells += [
        f"<td>{html.escape(_short_name(row.best))}</td>",
        *(f"<td>{html.escape(layouts.get(given, ''))}</td>" for given in _GIVEN),
        f'<td title="{html.escape(row.site)}">{html.escape(row.why)}</td>',
        f"<td>{remedy}</td>",
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _write_copies(copies: float | None) -> str:
    if copies is None:
        return "<td></td>"
    kind = " free" if copies < _FREE else " much" if copies >= _MUCH else ""
    return f'<td class="number{kind}" data-key="{copies}">{copies:.1f}</td>'


def main(arguments: list[str] | None = None) -> None:
    """Measure the estimators that the table does not have yet, and write the files."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--csv", default="copies.csv", help="is continued if it exists")
    parser.add_argument("--html", help="also write the table as HTML")
    parser.add_argument("--layouts-json", help="what docs/estimators_layouts.py wrote")
    parser.add_argument(
        "--only", default="", help="only estimators with this word in their full name"
    )
    given = parser.parse_args(arguments)
    entries = [entry for entry in list_estimators() if given.only in entry.name]
    if not entries:
        parser.error(f"no estimator has {given.only!r} in its name")
    rows = read_rows(given.csv)
    left = [entry for entry in entries if entry.name not in rows]
    for n_done, entry in enumerate(left):
        print(f"[{n_done + 1}/{len(left)}] {entry.name}", file=sys.stderr)
        rows[entry.name] = measure_entry(entry)
        write_row(given.csv, rows[entry.name])
    if given.html:
        write_page(given.html, rows.values(), read_layouts(given.layouts_json))
    print("\n".join(_summarise([rows[entry.name] for entry in entries], given.csv)))


def _summarise(rows: list[Row], path: str) -> list[str]:
    measured = [row for row in rows if row.outcome == "ok"]
    lines = [f"{len(measured)} of {len(rows)} estimators measured, see {path}"]
    for mode in ("read-only", "copy-on-write"):
        n_free = sum(
            any(n < _FREE for layout, n in row.copies.items() if layout.endswith(mode))
            for row in measured
        )
        lines.append(f"  fit without a copy in some {mode} layout: {n_free}")
    failed = [row for row in rows if row.outcome != "ok"]
    return lines + [
        f"  {row.estimator.rpartition('.')[2]}: {row.outcome}, {row.message}"
        for row in failed
    ]


if __name__ == "__main__":
    main()
