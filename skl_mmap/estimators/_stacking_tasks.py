"""What workers do for a stacking ensemble: one fit each."""

from __future__ import annotations

from typing import Any

from skl_mmap._compat import stacking_functions
from skl_mmap.memory import ResultSlot

__all__ = ["fit_on_all", "predict_fold"]


def _get_functions() -> Any:
    # scikit-learn's own, so that every detail is the same. That they are there was
    # checked before the task was made.
    functions = stacking_functions()
    assert functions is not None
    return functions


def fit_on_all(
    estimator: Any,
    X: Any,
    y: Any,
    fit_params: Any,
    label: str,  # noqa: ARG001 - read by the backend, for the report
) -> Any:
    """Fit an estimator on all rows, and return it."""
    fit, _ = _get_functions()
    return fit(estimator, X, y, fit_params)


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
    _, fit_and_predict = _get_functions()
    predictions = fit_and_predict(estimator, X, y, train, test, fit_params, method)
    written = slot.write(predictions)
    return predictions if written is None else written
