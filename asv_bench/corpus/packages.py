"""Packages that are neither ours nor scikit-learn, with their own loops and models."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import (
    LinearRegression,
    LogisticRegression,
    Ridge,
    SGDClassifier,
    SGDRegressor,
)
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.tree import DecisionTreeClassifier

from .data import (
    make_array,
    make_frame,
    make_imbalanced,
    make_imbalanced_frame,
    make_mixed_frame,
    make_narrow_array,
    make_narrow_frame,
)
from .jobs import N_JOBS, job

# Rows of a prediction that stands for the fitted model.
_SOME = slice(2000)


@job(make_imbalanced, "imblearn")
def smote_grid(X: Any, y: Any) -> Any:
    """Grid of imbalanced-learn's SMOTE and SGDClassifier, array."""
    from imblearn.over_sampling import SMOTE
    from imblearn.pipeline import make_pipeline

    model = make_pipeline(
        SMOTE(sampling_strategy=0.2, random_state=0),
        SGDClassifier(max_iter=2, tol=None, random_state=0),
    )
    grid = {"sgdclassifier__alpha": [1e-4, 1e-3]}
    return GridSearchCV(model, grid, cv=3).fit(X, y).cv_results_


@job(make_imbalanced_frame, "pandas", "imblearn")
def under_sampled_frame(X: Any, y: Any) -> Any:
    """cross_validate of imbalanced-learn's RandomUnderSampler and a model, frame."""
    from imblearn.pipeline import make_pipeline
    from imblearn.under_sampling import RandomUnderSampler

    model = make_pipeline(
        RandomUnderSampler(random_state=0), LogisticRegression(max_iter=5)
    )
    return cross_validate(model, X, y, cv=4)


@job(make_imbalanced, "imblearn")
def balanced_bagging(X: Any, y: Any) -> Any:
    """imbalanced-learn's BalancedBaggingClassifier of trees."""
    from imblearn.ensemble import BalancedBaggingClassifier

    model = BalancedBaggingClassifier(
        DecisionTreeClassifier(max_depth=3, max_features=5),
        n_estimators=8,
        n_jobs=N_JOBS,
        random_state=0,
    )
    return model.fit(X, y).predict_proba(X[_SOME])


@job(make_array, "mlxtend")
def mlxtend_stack(X: Any, y: Any) -> Any:
    """mlxtend's StackingCVRegressor of Ridge and SGDRegressor."""
    from mlxtend.regressor import StackingCVRegressor

    model = StackingCVRegressor(
        [Ridge(), SGDRegressor(max_iter=3, tol=None, random_state=0)],
        Ridge(),
        cv=4,
        shuffle=False,
        n_jobs=N_JOBS,
        random_state=0,
    )
    return model.fit(X, y).predict(X[_SOME])


@job(make_narrow_array, "mlxtend")
def mlxtend_selection(X: Any, y: Any) -> Any:
    """mlxtend's SequentialFeatureSelector, backward by one column of 20."""
    from mlxtend.feature_selection import SequentialFeatureSelector

    selector = SequentialFeatureSelector(
        LinearRegression(), k_features=19, forward=False, cv=2, n_jobs=N_JOBS
    )
    return selector.fit(X, y).k_score_


@job(make_narrow_frame, "pandas", "feature_engine")
def single_features(X: Any, y: Any) -> Any:
    """feature-engine's SelectBySingleFeaturePerformance, frame."""
    from feature_engine.selection import SelectBySingleFeaturePerformance

    selector = SelectBySingleFeaturePerformance(
        LinearRegression(), scoring="r2", cv=4, threshold=0.001
    )
    return selector.fit(X, y).feature_performance_


@job(make_frame, "pandas", "feature_engine")
def shuffled_features(X: Any, y: Any) -> Any:
    """feature-engine's SelectByShuffling, frame."""
    from feature_engine.selection import SelectByShuffling

    model = SGDClassifier(max_iter=2, tol=None, random_state=0)
    selector = SelectByShuffling(model, scoring="accuracy", cv=4, random_state=0)
    return selector.fit(X, y).performance_drifts_


@job(make_array, "pyod")
def isolation_forest(X: Any, y: Any) -> Any:
    """pyod's IForest of eight trees."""
    from pyod.models.iforest import IForest

    model = IForest(n_estimators=8, n_jobs=N_JOBS, random_state=0)
    return model.fit(X).decision_scores_


@job(make_array, "pyod")
def outlier_columns(X: Any, y: Any) -> Any:
    """pyod's ECOD, column by column."""
    from pyod.models.ecod import ECOD

    return ECOD(n_jobs=N_JOBS).fit(X).decision_scores_


@job(make_array, "boruta")
def boruta_selection(X: Any, y: Any) -> Any:
    """BorutaPy with a random forest."""
    from boruta import BorutaPy

    forest = RandomForestRegressor(
        8, max_depth=3, max_samples=0.1, max_features=5, n_jobs=N_JOBS, random_state=0
    )
    return (
        BorutaPy(forest, n_estimators=8, max_iter=2, random_state=0).fit(X, y).ranking_
    )


def _sum_of_predictions(model: Any, X: Any, y: Any) -> float:
    return float(np.sum(model.predict(X[:200])))


@job(make_array, "quantile_forest")
def quantile_forest(X: Any, y: Any) -> Any:
    """cross_validate of a quantile forest with a callable scoring."""
    from quantile_forest import RandomForestQuantileRegressor

    model = RandomForestQuantileRegressor(
        3, max_depth=4, max_features=5, random_state=0
    )
    return cross_validate(model, X, y, cv=4, scoring=_sum_of_predictions)


@job(make_mixed_frame, "pandas", "category_encoders")
def target_encoded(X: Any, y: Any) -> Any:
    """cross_validate of category_encoders' TargetEncoder and a model, mixed frame."""
    from category_encoders import TargetEncoder
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(TargetEncoder(), LogisticRegression(max_iter=5))
    return cross_validate(model, X, y, cv=4)
