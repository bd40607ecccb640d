"""Linear models: validated, along paths of penalties, and what is asked of them."""

from __future__ import annotations

from typing import Any

from sklearn.calibration import CalibratedClassifierCV
from sklearn.feature_selection import RFECV
from sklearn.inspection import permutation_importance
from sklearn.linear_model import (
    LassoCV,
    LogisticRegression,
    LogisticRegressionCV,
    Ridge,
    RidgeCV,
    SGDClassifier,
)
from sklearn.model_selection import (
    cross_val_predict,
    cross_validate,
    learning_curve,
)
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputRegressor
from sklearn.naive_bayes import GaussianNB
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from .data import (
    make_array,
    make_classes,
    make_frame,
    make_groups,
    make_many_classes,
    make_outputs,
    make_sparse,
)
from .jobs import job

# Rows of a prediction that stands for the fitted model.
_SOME = slice(2000)


def _sgd() -> Any:
    return SGDClassifier(max_iter=3, tol=None, random_state=0)


@job(make_classes)
def sgd_array(X: Any, y: Any) -> Any:
    """cross_validate of SGDClassifier, array."""
    return cross_validate(_sgd(), X, y, cv=4)


@job(make_frame, "pandas")
def sgd_frame(X: Any, y: Any) -> Any:
    """cross_validate of SGDClassifier, frame."""
    return cross_validate(_sgd(), X, y, cv=4)


@job(make_frame, "pandas")
def logistic_frame(X: Any, y: Any) -> Any:
    """cross_validate of LogisticRegression, frame."""
    return cross_validate(LogisticRegression(max_iter=8), X, y, cv=4)


@job(make_sparse)
def logistic_sparse(X: Any, y: Any) -> Any:
    """cross_validate of LogisticRegression, CSR matrix."""
    return cross_validate(LogisticRegression(max_iter=8), X, y, cv=4)


@job(make_classes)
def logistic_path(X: Any, y: Any) -> Any:
    """LogisticRegressionCV, two penalties."""
    model = LogisticRegressionCV(
        cv=4, Cs=2, max_iter=8, l1_ratios=(0,), use_legacy_attributes=True
    )
    return model.fit(X, y).coef_


@job(make_array)
def lasso_path(X: Any, y: Any) -> Any:
    """LassoCV, four penalties."""
    model = LassoCV(cv=4, alphas=4).fit(X, y)
    return model.coef_, model.mse_path_


@job(make_array)
def ridge_path(X: Any, y: Any) -> Any:
    """RidgeCV with folds, three penalties."""
    model = RidgeCV(alphas=(0.1, 1, 10), cv=4).fit(X, y)
    return model.coef_, model.alpha_


@job(make_array)
def scaled_ridge(X: Any, y: Any) -> Any:
    """cross_validate of StandardScaler and Ridge."""
    return cross_validate(make_pipeline(StandardScaler(), Ridge()), X, y, cv=4)


@job(make_classes)
def feature_elimination(X: Any, y: Any) -> Any:
    """RFECV of SGDClassifier."""
    return RFECV(_sgd(), step=30, min_features_to_select=40, cv=4).fit(X, y).cv_results_


@job(make_many_classes)
def predicted_probabilities(X: Any, y: Any) -> Any:
    """cross_val_predict of probabilities, GaussianNB, 200 classes."""
    return cross_val_predict(GaussianNB(), X, y, cv=4, method="predict_proba")


@job(make_classes)
def calibration(X: Any, y: Any) -> Any:
    """CalibratedClassifierCV of SGDClassifier."""
    return CalibratedClassifierCV(_sgd(), cv=4).fit(X, y).predict_proba(X[_SOME])


@job(make_classes)
def permutation_array(X: Any, y: Any) -> Any:
    """permutation_importance of SGDClassifier, array."""
    model = _sgd().fit(X, y)
    return permutation_importance(model, X, y, n_repeats=1, random_state=0)


@job(make_frame, "pandas")
def permutation_frame(X: Any, y: Any) -> Any:
    """permutation_importance of SGDClassifier, frame."""
    model = _sgd().fit(X, y)
    return permutation_importance(model, X, y, n_repeats=1, random_state=0)


@job(make_classes)
def learning_curves(X: Any, y: Any) -> Any:
    """learning_curve of SGDClassifier, three sizes."""
    return learning_curve(_sgd(), X, y, train_sizes=[0.3, 0.6, 1.0], cv=4)


@job(make_outputs)
def many_outputs(X: Any, y: Any) -> Any:
    """MultiOutputRegressor of Ridge, eight outputs."""
    return MultiOutputRegressor(Ridge()).fit(X, y).predict(X[_SOME])


@job(make_groups)
def one_vs_rest(X: Any, y: Any) -> Any:
    """OneVsRestClassifier of LogisticRegression, five classes."""
    model = OneVsRestClassifier(LogisticRegression(max_iter=5))
    return model.fit(X, y).decision_function(X[_SOME])
