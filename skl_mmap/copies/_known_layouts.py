"""Which layout an estimator converts its input to, as far as that is known.

A table of estimators was measured and ships as data, with the versions that it is true
of. Nothing else is known: an estimator that is not in it, has parameters that could
matter, or is of another version, gets X as it is.
"""

from __future__ import annotations

import functools
import inspect
import json
from collections.abc import Callable
from importlib import metadata, resources
from typing import Any

import numpy as np

from skl_mmap._compat import CHECKING_FUNCTIONS
from skl_mmap.copies._job import Answers, agree
from skl_mmap.copies._results import CopySite, Layout, Reason

_TABLE = "layouts.json"
# Copies of X that count as none, and that have to be saved at least.
_MIN_COPIES = 0.1
_MIN_SAVED = 0.15
# What these are has nothing to do with how the input is converted. Of all others,
# numbers do not matter, and words and flags have to be the defaults, as measured.
_HARMLESS = frozenset(
    {
        *("bootstrap", "class_weight", "criterion", "loss", "max_features"),
        "max_samples",
        *("n_jobs", "oob_score", "random_state", "verbose", "warm_start", "penalty"),
        *("early_stopping", "learning_rate", "selection", "shuffle", "splitter", "tol"),
    }
)


def find_layout(
    estimator: Any,
    X: Any,
    y: Any,  # noqa: ARG001 - no row of the table depends on it
    *,
    order: str,
) -> tuple[Layout | None, str]:
    """Look up to which layout an estimator converts X by itself.

    Parameters
    ----------
    estimator : estimator
        Not fitted. Of a pipeline, its first step is looked at.
    X : ndarray or DataFrame of shape (n_samples, n_features)
        The data; only its dtype is looked at.
    y : array-like of shape (n_samples,) or None
        The target.
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
    """
    consumer = _first_consumer(estimator)
    if not hasattr(consumer, "get_params"):
        return None, "nothing is known about what takes X first"
    class_ = type(consumer)
    row = known_layouts().get(f"{class_.__module__}.{class_.__qualname__}")
    if row is None:
        return None, "nothing is known about it"
    if not _has_default_words(consumer):
        return None, "with these parameters it was not measured"
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
        steps = [step for _, step in estimator.steps]
        used = [step for step in steps if step not in (None, "passthrough")]
        estimator = used[0] if used else None
    return estimator


def _has_default_words(estimator: Any) -> bool:
    """Return whether all parameters that could matter are as they were measured."""
    defaults = inspect.signature(type(estimator).__init__).parameters
    for name, value in _words_of(estimator).items():
        known = defaults[name].default if name in defaults else inspect.Parameter.empty
        if value is not known and not (isinstance(value, str) and value == known):
            return False
    return True


def _words_of(estimator: Any) -> dict[str, Any]:
    """Return the parameters that could matter: words, flags and objects."""
    return {
        name: value
        for name, value in estimator.get_params(deep=False).items()
        if name not in _HARMLESS
        and (isinstance(value, bool) or not isinstance(value, int | float | np.number))
    }


@functools.cache
def known_layouts() -> dict[str, dict[str, Layout]]:
    """Return the table, without the estimators of libraries of other versions.

    For each estimator, by its full name, the layouts that it converts: "float64 C", for
    example, and to what.
    """
    text = resources.files("skl_mmap.copies").joinpath(_TABLE).read_text()
    table = json.loads(text)
    current = {
        package: _is_current(package, version)
        for package, version in table["versions"].items()
    }
    return {
        name: {given: Layout.parse(wanted) for given, wanted in row.items()}
        for name, row in table["estimators"].items()
        if current[table["packages"][name.partition(".")[0]]]
    }


def _is_current(package: str, version: str) -> bool:
    """Return whether the version measured is installed, but for its patch."""
    try:
        installed = metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return installed.split(".")[:2] == version.split(".")[:2]


def find_conversion(
    given: Layout, measure: Callable[[Layout], Answers]
) -> tuple[Layout | None, str]:
    """Find the layout to which an estimator converts all of X, and does only that.

    Three things have to be true: fit copies X only in order to convert it, when it
    checks its input; fitted model and results are the same, bit by bit, if X is
    converted before; and fewer copies are made then. `measure` returns what was
    measured in a layout, with fingerprints. Returns None if there is no such layout,
    and why.
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
    if site.function not in CHECKING_FUNCTIONS:
        return None
    if site.reason not in (Reason.DTYPE, Reason.ORDER):
        return None
    if site.holds is not None:
        return site.holds.layout if site.holds.kind == "equal" else None
    # It was gone before anybody could look at it. What is tried will be compared.
    if site.reason == Reason.ORDER:
        return Layout(given.dtype, "C" if given.order == "F" else "F")
    other = {"float64": "float32", "float32": "float64"}.get(given.dtype)
    return None if other is None else Layout(other, given.order)
