"""What workers do for a stacking ensemble: one fit each."""

from __future__ import annotations

import inspect
from typing import Any

from sklearn.ensemble import _base as ensemble_base
from sklearn.model_selection import _validation as validation

from skl_mmap.memory import ResultSlot

__all__ = ["fit_on_all", "has_known_functions", "predict_fold"]

# scikit-learn's own functions for the two kinds of fits, so that every detail is the
# same; they have no public name. Their arguments as they are in 1.6 to 1.9.
_KNOWN = {
    "_fit_and_predict": (
        *("estimator", "X", "y", "train", "test", "fit_params", "method"),
    ),
    "_fit_single_estimator": ("estimator", "X", "y", "fit_params"),
}


def has_known_functions() -> bool:
    """Whether this version of scikit-learn has the functions that are used here."""
    functions = {
        "_fit_and_predict": getattr(validation, "_fit_and_predict", None),
        "_fit_single_estimator": getattr(ensemble_base, "_fit_single_estimator", None),
    }
    return all(
        function is not None
        and tuple(inspect.signature(function).parameters)[: len(names)] == names
        for function, names in zip(functions.values(), _KNOWN.values(), strict=True)
    )


def fit_on_all(
    estimator: Any,
    X: Any,
    y: Any,
    fit_params: Any,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Fit an estimator on all rows, and return it."""
    return ensemble_base._fit_single_estimator(estimator, X, y, fit_params)


def predict_fold(
    estimator: Any,
    X: Any,
    y: Any,
    train: Any,
    test: Any,
    fit_params: Any,
    method: str,
    slot: ResultSlot,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Fit an estimator on a train set and predict its test set.

    Returns
    -------
    WrittenArray or object
        Where the predictions are in the buffer; they themselves if they do not fit.
    """
    predictions = validation._fit_and_predict(
        estimator, X, y, train, test, fit_params, method
    )
    written = slot.write(predictions)
    return predictions if written is None else written
