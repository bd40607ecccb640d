"""Searches: forests and boosters, over arrays and frames, in order and shuffled."""

from __future__ import annotations

from typing import Any

from sklearn.compose import ColumnTransformer, make_column_selector
from sklearn.ensemble import HistGradientBoostingClassifier, RandomForestClassifier
from sklearn.linear_model import SGDClassifier
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    RandomizedSearchCV,
    StratifiedKFold,
)
from sklearn.pipeline import Pipeline
from sklearn.preprocessing import OrdinalEncoder, StandardScaler

from .data import make_classes, make_frame, make_mixed_frame, make_sparse
from .jobs import job

# Few and small trees: what a job does with X does not depend on their number.
_LEAVES = {"min_samples_leaf": [1, 5]}
_PENALTIES = {"reg_lambda": [1, 2]}


def _in_order() -> Any:
    return KFold(3)


def _shuffled() -> Any:
    return StratifiedKFold(3, shuffle=True, random_state=0)


def _search(model: Any, grid: dict[str, Any], cv: Any, X: Any, y: Any) -> Any:
    return GridSearchCV(model, grid, cv=cv).fit(X, y).cv_results_


def _after_columns(model: Any, grid: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Put the usual steps for a frame of several dtypes before a model."""
    columns = ColumnTransformer(
        [
            ("numbers", StandardScaler(), make_column_selector(dtype_include="float")),
            ("others", OrdinalEncoder(), make_column_selector(dtype_exclude="float")),
        ]
    )
    pipeline = Pipeline([("columns", columns), ("model", model)])
    return pipeline, {f"model__{name}": values for name, values in grid.items()}


def _forest() -> Any:
    return RandomForestClassifier(3, max_depth=4, max_samples=0.2, random_state=0)


def _histogram() -> Any:
    return HistGradientBoostingClassifier(
        max_iter=3, max_leaf_nodes=7, early_stopping=False, random_state=0
    )


def _lightgbm() -> Any:
    from lightgbm import LGBMClassifier

    return LGBMClassifier(n_estimators=3, num_leaves=7, n_jobs=1, verbose=-1)


def _xgboost() -> Any:
    from xgboost import XGBClassifier

    return XGBClassifier(n_estimators=3, max_depth=3, n_jobs=1, tree_method="hist")


def _catboost() -> Any:
    from catboost import CatBoostClassifier

    return CatBoostClassifier(
        iterations=3, depth=3, thread_count=1, verbose=0, allow_writing_files=False
    )


@job(make_classes)
def forest_grid_array(X: Any, y: Any) -> Any:
    """Grid of a random forest, KFold, array."""
    return _search(_forest(), _LEAVES, _in_order(), X, y)


@job(make_frame, "pandas")
def forest_grid_frame(X: Any, y: Any) -> Any:
    """Grid of a random forest, KFold, frame."""
    return _search(_forest(), _LEAVES, _in_order(), X, y)


@job(make_classes)
def forest_grid_shuffled_array(X: Any, y: Any) -> Any:
    """Grid of a random forest, stratified and shuffled, array."""
    return _search(_forest(), _LEAVES, _shuffled(), X, y)


@job(make_frame, "pandas")
def forest_grid_shuffled_frame(X: Any, y: Any) -> Any:
    """Grid of a random forest, stratified and shuffled, frame."""
    return _search(_forest(), _LEAVES, _shuffled(), X, y)


@job(make_mixed_frame, "pandas")
def forest_grid_mixed(X: Any, y: Any) -> Any:
    """Grid of ColumnTransformer and random forest, frame of several dtypes."""
    return _search(*_after_columns(_forest(), _LEAVES), _in_order(), X, y)


@job(make_classes)
def histogram_grid_array(X: Any, y: Any) -> Any:
    """Grid of HistGradientBoosting, KFold, array."""
    return _search(_histogram(), _LEAVES, _in_order(), X, y)


@job(make_frame, "pandas")
def histogram_grid_frame(X: Any, y: Any) -> Any:
    """Grid of HistGradientBoosting, KFold, frame."""
    return _search(_histogram(), _LEAVES, _in_order(), X, y)


@job(make_classes, "lightgbm")
def lightgbm_grid_array(X: Any, y: Any) -> Any:
    """Grid of LightGBM, KFold, array."""
    return _search(_lightgbm(), _PENALTIES, _in_order(), X, y)


@job(make_frame, "pandas", "lightgbm")
def lightgbm_grid_frame(X: Any, y: Any) -> Any:
    """Grid of LightGBM, KFold, frame."""
    return _search(_lightgbm(), _PENALTIES, _in_order(), X, y)


@job(make_classes, "lightgbm")
def lightgbm_grid_shuffled(X: Any, y: Any) -> Any:
    """Grid of LightGBM, stratified and shuffled, array."""
    return _search(_lightgbm(), _PENALTIES, _shuffled(), X, y)


@job(make_mixed_frame, "pandas", "lightgbm")
def lightgbm_grid_mixed(X: Any, y: Any) -> Any:
    """Grid of ColumnTransformer and LightGBM, frame of several dtypes."""
    return _search(*_after_columns(_lightgbm(), _PENALTIES), _in_order(), X, y)


@job(make_classes, "xgboost")
def xgboost_grid_array(X: Any, y: Any) -> Any:
    """Grid of XGBoost, KFold, array."""
    return _search(_xgboost(), _PENALTIES, _in_order(), X, y)


@job(make_frame, "pandas", "xgboost")
def xgboost_grid_frame(X: Any, y: Any) -> Any:
    """Grid of XGBoost, KFold, frame."""
    return _search(_xgboost(), _PENALTIES, _in_order(), X, y)


@job(make_classes, "catboost")
def catboost_grid_array(X: Any, y: Any) -> Any:
    """Grid of CatBoost, KFold, array."""
    return _search(_catboost(), {"l2_leaf_reg": [1, 3]}, _in_order(), X, y)


@job(make_frame, "pandas", "catboost")
def catboost_grid_frame(X: Any, y: Any) -> Any:
    """Grid of CatBoost, KFold, frame."""
    return _search(_catboost(), {"l2_leaf_reg": [1, 3]}, _in_order(), X, y)


@job(make_classes)
def sgd_search_shuffled(X: Any, y: Any) -> Any:
    """Randomized search of ten SGDClassifiers, stratified and shuffled, array."""
    model = SGDClassifier(max_iter=2, tol=None, random_state=0)
    grid = {"alpha": [10.0**-power for power in range(1, 11)]}
    search = RandomizedSearchCV(model, grid, n_iter=10, cv=_shuffled(), random_state=0)
    return search.fit(X, y).cv_results_


@job(make_sparse)
def sgd_grid_sparse(X: Any, y: Any) -> Any:
    """Grid of SGDClassifier, KFold, CSR matrix."""
    model = SGDClassifier(max_iter=3, tol=None, random_state=0)
    return _search(model, {"alpha": [1e-4, 1e-3]}, _in_order(), X, y)
