"""Which layout an estimator may be given X in, as far as that is known.

A table of estimators was measured and ships as data, with the versions that it is true
of. Nothing else is known: an estimator that is not in it, has parameters that could
matter, or is of another version, gets X as it is.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Iterator
from importlib import metadata, resources
from typing import Any

import numpy as np

from skl_mmap.copies._results import Layout

_TABLE = "layouts.json"
# How rows of the table say that only fit may have X like that, of which versions they
# are true if not of all, and with which values of parameters other than the defaults.
_FIT_ONLY = " fit only"
_IN, _WITH = "in", "with"
# Whatever these are, it has nothing to do with how X is read. Of all others, numbers do
# not matter, and words and flags have to be the defaults, or have been measured.
_HARMLESS = frozenset(
    {
        *("allow_writing_files", "auto_class_weights", "bootstrap", "class_weight"),
        *("class_weights", "criterion", "custom_metric", "cv", "early_stopping"),
        *("decision_function_shape", "eval_metric", "hidden_layer_sizes"),
        *("importance_type", "learning_rate", "logging_level", "loss"),
        *("loss_function", "max_features", "max_samples", "n_jobs", "objective"),
        *("oob_score", "penalty", "random_state", "refit", "selection", "shuffle"),
        *("silent", "splitter", "tol", "train_dir", "verbose", "warm_start"),
    }
)
# Numbers that X is compared with, so that its dtype matters.
_COMPARED_WITH_X = frozenset({"missing", "missing_values", "threshold"})
# Distributions by module, where they have another name, or several of them do.
_DISTRIBUTIONS = {
    "sklearn": ("scikit-learn",),
    "xgboost": ("xgboost", "xgboost-cpu"),
}


def find_layout(
    estimator: Any,
    X: Any,
    *,
    order: str,
) -> tuple[Layout | None, str]:
    """Look up in which layout an estimator may be given X, with the same results.

    Parameters
    ----------
    estimator : estimator
        Not fitted. Of a pipeline, its first step is looked at.
    X : ndarray or DataFrame of shape (n_samples, n_features)
        The data; only its dtype is looked at.
    order : {"C", "F", "frame"}
        The order in which the estimator would get X, or rows of it. "frame" is a frame
        of pandas with one numeric dtype, stored by columns.

    Returns
    -------
    layout : Layout or None
        None if it takes X as it is, does more than convert it, or is not known. Of a
        frame, it is how a frame with the same names is to be stored.
    reason : str
        Why, in words.

    Notes
    -----
    Of frames, this is true as long as all values are finite, and their sum. Otherwise
    scikit-learn looks at each value, which it cannot do in the read-only rows that
    pandas hands out (since 3.0), and ends with an error; columns it copies before.
    """
    consumer = _first_consumer(estimator)
    if not hasattr(consumer, "get_params"):
        return None, "nothing is known about what takes X first"
    name = f"{type(consumer).__module__}.{type(consumer).__qualname__}"
    row = known_layouts().get(name)
    if row is None:
        return None, "no other layout is known to help it"
    other = _find_unmeasured(consumer, known_values().get(name, {}))
    if other is not None:
        return None, f"it was not measured with {other}"
    layout = row.get(f"{_dtype_of(X)} {order}")
    if layout is None:
        return None, "it takes X as it is, or does more than convert it"
    return layout, "it would convert X to that"


def _dtype_of(X: Any) -> str:
    """Return the dtype of an array or of the first column of a frame."""
    return str(X.dtype if hasattr(X, "dtype") else X.dtypes.iloc[0])


def _first_consumer(estimator: Any) -> Any:
    """Return the estimator that X is handed to: of a pipeline, the first step."""
    while hasattr(estimator, "steps"):
        used = used_steps(estimator)
        estimator = used[0] if used else None
    return estimator


def used_steps(pipeline: Any) -> list[Any]:
    """Return the steps of a pipeline that do something."""
    return [step for _, step in pipeline.steps if step not in (None, "passthrough")]


def _find_unmeasured(estimator: Any, measured: dict[str, list[Any]]) -> str | None:
    """Return a parameter that could matter and was measured with other values only."""
    defaults = _defaults_of(type(estimator))  # type: ignore[arg-type]
    for name, value in estimator.get_params(deep=False).items():
        known = defaults.get(name, inspect.Parameter.empty)
        if _is_harmless(name, value) or _is_one_of(value, known):
            continue
        if not _is_one_of(value, *measured.get(name, ())):
            return f"{name}={value!r}"
    return None


@functools.lru_cache(maxsize=64)
def _defaults_of(class_: type[Any]) -> dict[str, Any]:
    """Return the defaults of parameters, those of base classes included.

    The classes of XGBoost hand most of theirs on to a base class.
    """
    return {
        name: parameter.default
        for base in reversed(class_.__mro__)
        if "__init__" in vars(base)
        for name, parameter in inspect.signature(
            vars(base)["__init__"]
        ).parameters.items()
    }


def _is_harmless(name: str, value: Any) -> bool:
    if name in _COMPARED_WITH_X:
        return isinstance(value, float) and bool(np.isnan(value))
    is_number = isinstance(value, int | float | np.number)
    is_scorer_name = name == "scoring" and isinstance(value, str)
    return name in _HARMLESS or is_scorer_name or (is_number and not _is_flag(value))


def _is_one_of(value: Any, *known: Any) -> bool:
    """Return whether a value is one of these: a word, a flag, None or the object.

    Tuples of numbers are compared as well: `clone` makes new ones.
    """
    if _is_flag(value):
        value = bool(value)
    is_plain = isinstance(value, str) or (
        isinstance(value, tuple) and all(isinstance(v, int | float) for v in value)
    )
    return any(value is other or (is_plain and value == other) for other in known)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool | np.bool_)


def known_layouts() -> dict[str, dict[str, Layout]]:
    """Return the layouts of all estimators, as far as they are of measured versions.

    For each, by its full name, what it may be given instead: by "float64 C", say, or by
    "float64 frame".
    """
    return _read_table()[0]


def known_values() -> dict[str, dict[str, list[Any]]]:
    """Return with which values of parameters, other than the defaults, that is true."""
    return _read_table()[1]


@functools.cache
def _read_table() -> tuple[
    dict[str, dict[str, Layout]], dict[str, dict[str, list[Any]]]
]:
    layouts, values = {}, {}
    for name, row in _iterate_rows():
        values[name] = row.pop(_WITH, {})
        row.pop(_IN, None)
        layouts[name] = {given: _parse(wanted) for given, wanted in row.items()}
    return layouts, values


def _iterate_rows() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the rows of the table that are true of what is installed."""
    text = resources.files("skl_mmap.copies").joinpath(_TABLE).read_text()
    table = json.loads(text)
    measured = table["versions"]
    installed = {module: _minor_version(module) for module in measured}
    for name, rows in table["estimators"].items():
        module = name.partition(".")[0]
        for row in rows:
            if installed[module] in row.get(_IN, measured[module]):
                yield name, row


def _parse(text: str) -> Layout:
    """Read a layout as the table has it: "float64 C", or "float64 C fit only"."""
    layout = Layout.parse(text.removesuffix(_FIT_ONLY))
    is_for_fit_only = text.endswith(_FIT_ONLY)
    return Layout(layout.dtype, layout.order, is_for_fit_only=is_for_fit_only)


def _minor_version(module: str) -> str:
    """Return the version that is installed, without its patch; empty if none is."""
    for distribution in _DISTRIBUTIONS.get(module, (module,)):
        try:
            return ".".join(metadata.version(distribution).split(".")[:2])
        except metadata.PackageNotFoundError:
            continue
    return ""
