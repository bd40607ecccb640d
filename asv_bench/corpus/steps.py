"""What comes before a model: scaling, joining, text, gaps; and loops of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np
from joblib import Parallel, delayed
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA
from sklearn.experimental import enable_iterative_imputer  # noqa: F401
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.impute import IterativeImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, KFold, cross_validate
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import KBinsDiscretizer, MinMaxScaler, StandardScaler

from .data import make_array, make_frame, make_texts, make_with_gaps
from .jobs import N_JOBS, job


@job(make_array)
def feature_union(X: Any, y: Any) -> Any:
    """FeatureUnion of two scalers and PCA."""
    union = FeatureUnion(
        [
            ("standard", StandardScaler()),
            ("range", MinMaxScaler()),
            ("components", PCA(5, svd_solver="covariance_eigh")),
        ]
    )
    return union.fit_transform(X)


@job(make_frame, "pandas")
def column_transformer(X: Any, y: Any) -> Any:
    """ColumnTransformer of four steps, frame."""
    names = list(X.columns)
    bins = KBinsDiscretizer(
        5, encode="ordinal", subsample=1000, quantile_method="linear", random_state=0
    )
    columns = ColumnTransformer(
        [
            ("standard", StandardScaler(), names[:40]),
            ("range", MinMaxScaler(), names[40:70]),
            ("bins", bins, names[70:85]),
            ("more", StandardScaler(), names[85:]),
        ]
    )
    return columns.fit_transform(X)


@job(make_texts)
def text_grid(X: Any, y: Any) -> Any:
    """Grid of TfidfVectorizer and LogisticRegression, list of texts."""
    model = make_pipeline(TfidfVectorizer(), LogisticRegression(max_iter=5))
    grid = {"logisticregression__C": [0.1, 1.0]}
    return GridSearchCV(model, grid, cv=3).fit(X, y).cv_results_


@job(make_with_gaps)
def imputed_ridge(X: Any, y: Any) -> Any:
    """cross_validate of IterativeImputer and Ridge."""
    imputer = IterativeImputer(
        Ridge(), max_iter=1, n_nearest_features=4, random_state=0
    )
    return cross_validate(make_pipeline(imputer, Ridge()), X, y, cv=4)


def _fit_without(X: Any, y: Any, rows: Any) -> Any:
    return Ridge().fit(np.delete(X, rows, axis=0), np.delete(y, rows)).coef_


@job(make_array)
def own_jackknife(X: Any, y: Any) -> Any:
    """A loop of one's own that leaves rows out with np.delete, Ridge."""
    tasks = (delayed(_fit_without)(X, y, test) for _, test in KFold(8).split(X))
    return Parallel(n_jobs=N_JOBS)(tasks)


def _fit_sample(X: Any, y: Any, seed: int) -> Any:
    rows = np.sort(np.random.default_rng(seed).integers(0, len(X), len(X)))
    return Ridge().fit(X[rows], y[rows]).coef_


@job(make_array)
def own_bootstrap(X: Any, y: Any) -> Any:
    """A loop of one's own over bootstrap samples, Ridge."""
    return Parallel(n_jobs=N_JOBS)(
        delayed(_fit_sample)(X, y, seed) for seed in range(8)
    )
