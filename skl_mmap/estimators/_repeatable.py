"""Estimators whose fit gives the same model each time.

Candidates of a search often differ in parameters of one part of an ensemble, and the
fits of all others would be made anew for each of them. They are made once if nobody can
tell: only for estimators of scikit-learn whose random numbers, if they take any, are
those of a seed.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from numbers import Number
from typing import Any

import numpy as np

_SEED = "random_state"
# Estimators that take no random numbers, unless a parameter has another value.
_WITHOUT_DRAWING: dict[str, tuple[str, frozenset[Any]]] = {
    "ElasticNet": ("selection", frozenset({"cyclic"})),
    "ElasticNetCV": ("selection", frozenset({"cyclic"})),
    "Lasso": ("selection", frozenset({"cyclic"})),
    "LassoCV": ("selection", frozenset({"cyclic"})),
    "LogisticRegression": (
        "solver",
        frozenset({"lbfgs", "newton-cg", "newton-cholesky"}),
    ),
    "Ridge": (
        "solver",
        frozenset({"auto", "svd", "cholesky", "lsqr", "sparse_cg", "lbfgs"}),
    ),
    "RidgeClassifier": (
        "solver",
        frozenset({"auto", "svd", "cholesky", "lsqr", "sparse_cg", "lbfgs"}),
    ),
    "SVC": ("probability", frozenset({False, "deprecated"})),
}


def key_of(estimator: Any) -> bytes | None:
    """Return what is equal for estimators that are fitted to the same model.

    None if one of them may differ from the next.
    """
    if not _is_repeatable(estimator):
        return None
    try:
        return pickle.dumps(estimator)
    except Exception:  # noqa: BLE001 - whatever keeps it from being pickled
        return None


def _is_repeatable(value: Any) -> bool:
    if not hasattr(value, "get_params"):
        return _is_data(value)
    kind = type(value)
    if isinstance(value, type) or not kind.__module__.startswith("sklearn."):
        return False
    parameters = value.get_params(deep=False)
    if _SEED in parameters and parameters[_SEED] is None:
        name, harmless = _WITHOUT_DRAWING.get(kind.__name__, ("", frozenset()))
        try:
            if parameters.get(name) not in harmless:
                return False
        except TypeError:  # not hashable
            return False
    return all(map(_is_repeatable, parameters.values()))


def _is_data(value: Any) -> bool:
    """Tell if a parameter only says what is to be done, and does nothing itself."""
    if isinstance(value, Mapping):
        return all(map(_is_repeatable, value.values()))
    if isinstance(value, list | tuple):
        return all(map(_is_repeatable, value))
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    # A generator is copied with the estimator, so that each copy draws the same.
    return value is None or isinstance(value, str | Number | np.random.RandomState)
