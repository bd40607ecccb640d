"""The cases in which layouts of an estimator have to agree: data and parameters.

docs/estimators_layouts.py goes through them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.utils import get_tags
from sklearn.utils.validation import has_fit_parameter

from docs.estimators_table import (
    NARROW,
    NEED_OUTPUTS,
    SMALL,
    TALL,
    WIDE,
    selects_features,
    shape_for,
)

N_TEST = 77
# The largest shapes for bits, and the shapes for peaks, by that for copies.
_MOST = {TALL: (1_503, 200), WIDE: (380, 130), NARROW: (5_003, 9), SMALL: (611, 40)}
# They do something else with more rows than so many.
_DEPENDING_ON_SIZE = ("HistGradient", "LGBM", "XGB", "CatBoost", "RandomForest")
_SHAPES = {TALL: (3_001, 48), WIDE: (400, 500), NARROW: (20_011, 8), SMALL: (1501, 40)}


@dataclass(frozen=True, slots=True)
class Variation:
    """One of the cases in which bits have to agree.

    Attributes
    ----------
    seed : int
        Of everything that is drawn.
    n_samples, n_features : int
        Shape of the train set.
    values : {"normal", "skewed", "ties", "scaled"}
        What X is made of.
    n_classes : int
        Of a classifier's target.
    has_weights, has_missing, has_outputs : bool
        Whether there are weights, missing values, two targets, where possible.
    n_threads : int or None
        Of native code; None for the default.
    """

    seed: int
    n_samples: int
    n_features: int
    values: str = "normal"
    n_classes: int = 2
    has_weights: bool = False
    has_missing: bool = False
    has_outputs: bool = False
    n_threads: int | None = 1


VARIATIONS = (
    Variation(0, 203, 3),
    Variation(1, 401, 64, "skewed", 3, has_weights=True, n_threads=None),
    Variation(2, 517, 16, "ties", 2, has_missing=True),
    Variation(3, 1031, 17, "normal", 4, has_outputs=True),
    Variation(4, 333, 33, "scaled", 2, has_weights=True),
    Variation(5, 259, 130, "skewed", 2),
    Variation(6, 97, 200, "normal", 2, n_threads=None),
    Variation(7, 1501, 12, "normal", 3, has_missing=True, has_weights=True),
    Variation(8, 1203, 40, "normal", 2, n_threads=None),
    Variation(9, 611, 31, "ties", 5, has_outputs=True),
    Variation(10, 10_007, 4, "scaled", 2),
)
# For parameters, one by one.
FEW = (VARIATIONS[2], VARIATIONS[4], VARIATIONS[6], VARIATIONS[8])

# What jobs set, by the name of the parameter: drawn anew for each variation.
_DRAWN: dict[str, tuple[Any, ...]] = {
    "C": (0.1, 1.0, 10.0),
    "alpha": (1e-4, 0.01, 0.5),
    "bootstrap": (True, False),
    "class_weight": (None, "balanced"),
    "colsample_bytree": (0.7, 1.0),
    "depth": (3, 6),
    "early_stopping": (True, False),
    "l1_ratio": (0.15, 0.5, 0.9),
    "leaf_size": (10, 30),
    "max_bin": (31, 255),
    "max_bins": (31, 255),
    "max_depth": (3, 6),
    "max_leaf_nodes": (None, 9),
    "max_samples": (0.5, None),
    "min_child_samples": (5, 20),
    "min_samples_leaf": (1, 5),
    "n_components": (2,),
    "n_estimators": (2, 5),
    "n_neighbors": (1, 4, 11),
    "num_leaves": (7, 31),
    "p": (1, 2, 3),
    "reg_alpha": (0.0, 0.5),
    "reg_lambda": (0.0, 2.0),
    "selection": ("cyclic", "random"),
    "splitter": ("best", "random"),
    "subsample": (0.6, 1.0),
    "tol": (1e-3, 1e-5),
    "warm_start": (False, True),
}
_FORESTS = {"max_features": ("sqrt", 0.5, 1.0, None), "min_samples_split": (2, 9)}
_DRAWN_OF: dict[str, dict[str, tuple[Any, ...]]] = {
    **{
        name: {
            "border_count": (31, 254),
            "l2_leaf_reg": (1.0, 5.0),
            "learning_rate": (0.1, 0.5),
            "rsm": (0.7, 1.0),
        }
        for name in ("CatBoostClassifier", "CatBoostRegressor")
    },
    "GradientBoostingClassifier": {"learning_rate": (0.1, 0.5), **_FORESTS},
    "GradientBoostingRegressor": {
        "loss": ("squared_error", "absolute_error", "huber"),
        **_FORESTS,
    },
    "HistGradientBoostingClassifier": {"learning_rate": (0.1, 0.5)},
    "HistGradientBoostingRegressor": {
        "loss": ("squared_error", "absolute_error"),
        "learning_rate": (0.1, 0.5),
    },
    "LinearSVC": {"loss": ("hinge", "squared_hinge")},
    "SGDClassifier": {
        "loss": ("hinge", "log_loss", "modified_huber", "perceptron"),
        "penalty": ("l2", "l1", "elasticnet"),
        "learning_rate": ("optimal", "constant", "invscaling"),
        "eta0": (0.01, 0.1),
    },
    "SGDRegressor": {
        "loss": ("squared_error", "huber", "epsilon_insensitive"),
        "penalty": ("l2", "l1", "elasticnet"),
    },
    **{
        name: {**_FORESTS, "criterion": ("gini", "entropy", "log_loss")}
        for name in (
            *("DecisionTreeClassifier", "ExtraTreesClassifier"),
            *("ExtraTreeClassifier", "RandomForestClassifier"),
        )
    },
    **{
        name: {**_FORESTS, "criterion": ("squared_error", "friedman_mse")}
        for name in (
            *("DecisionTreeRegressor", "ExtraTreesRegressor"),
            *("ExtraTreeRegressor", "RandomForestRegressor"),
        )
    },
}
# Words and flags that jobs set, and that may change how X is read. Each is measured on
# its own.
_LINEAR = {"fit_intercept": (False,)}
_COORDINATES = {**_LINEAR, "positive": (True,), "precompute": (True,)}
_KERNEL = {"kernel": ("linear", "poly", "sigmoid"), "gamma": ("auto",)}
_NEIGHBORS = {
    "algorithm": ("brute", "kd_tree", "ball_tree"),
    "metric": ("euclidean", "manhattan", "chebyshev", "cosine"),
    "weights": ("distance",),
}
_SINGLE = {"average": (True,), **_LINEAR}
_LIGHTGBM = {
    "boosting_type": ("dart", "goss", "rf"),
    "deterministic": (True,),
    "force_col_wise": (True,),
    "force_row_wise": (True,),
    "extra_trees": (True,),
}
_XGBOOST = {
    "booster": ("gbtree", "dart"),
    "device": ("cpu",),
    "enable_categorical": (True, False),
    "grow_policy": ("depthwise", "lossguide"),
    "tree_method": ("hist", "approx", "exact"),
}
_CATBOOST = {
    "boosting_type": ("Plain", "Ordered"),
    "bootstrap_type": ("Bayesian", "Bernoulli", "No"),
    "grow_policy": ("SymmetricTree", "Depthwise", "Lossguide"),
    "nan_mode": ("Min", "Max"),
    "task_type": ("CPU",),
}
_MEASURED_VALUES: dict[str, dict[str, tuple[Any, ...]]] = {
    "CatBoostClassifier": _CATBOOST | {"auto_class_weights": ("Balanced",)},
    "CatBoostRegressor": _CATBOOST,
    "ElasticNet": _COORDINATES,
    "HistGradientBoostingClassifier": {"categorical_features": (None,)},
    "HistGradientBoostingRegressor": {"categorical_features": (None,)},
    "KNeighborsClassifier": _NEIGHBORS,
    "KNeighborsRegressor": _NEIGHBORS,
    "LGBMClassifier": _LIGHTGBM,
    "LGBMRegressor": _LIGHTGBM,
    "Lasso": _COORDINATES,
    "LinearSVC": {**_LINEAR, "dual": (True, False)},
    "LinearSVR": {**_LINEAR, "dual": (True, False)},
    "LogisticRegression": {
        **_LINEAR,
        "solver": ("liblinear", "newton-cg", "newton-cholesky", "sag", "saga"),
    },
    "LogisticRegressionCV": {
        **_LINEAR,
        "solver": ("liblinear", "newton-cg", "newton-cholesky", "sag", "saga"),
    },
    "MLPClassifier": {"solver": ("lbfgs", "sgd"), "activation": ("tanh", "logistic")},
    "MLPRegressor": {"solver": ("lbfgs", "sgd"), "activation": ("tanh", "logistic")},
    "NearestNeighbors": _NEIGHBORS,
    "Perceptron": _LINEAR,
    "SGDClassifier": _SINGLE,
    "SGDOneClassSVM": _SINGLE,
    "SGDRegressor": _SINGLE,
    "SVC": {**_KERNEL, "probability": (True,)},
    "SVR": _KERNEL,
    "StandardScaler": {"with_mean": (False,), "with_std": (False,)},
    "XGBClassifier": _XGBOOST,
    "XGBRegressor": _XGBOOST,
}
# Without which a value is none: "rf" of LightGBM wants a fraction of rows, say.
_NEEDED_WITH: dict[Any, dict[str, Any]] = {
    "rf": {"subsample": 0.6, "subsample_freq": 1},
}


def store(X: npt.NDArray[Any], stored: str) -> Any:
    """Return the numbers of X as "float64 C", say; "rows" is a frame stored by rows."""
    dtype, order = stored.split()
    array = np.array(X, dtype=dtype, order="C" if order in "C rows" else "F")
    if order in "CF":
        return array
    import pandas as pd

    names = [f"column {i}" for i in range(X.shape[1])]
    # Rows of a fold have the index that they had in the whole frame.
    index = pd.Index(np.arange(len(X)) * 2 + 5)
    return pd.DataFrame(array, columns=names, index=index, copy=False)


def make_data(
    estimator: Any, variation: Variation, dtype: str, *, limits: bool = True
) -> tuple[npt.NDArray[Any], Any, Any]:
    """Make X, y and weights; the last rows of X are those of a test set.

    X has the values that an array of `dtype` can have, and uses all of its digits.
    """
    rng = np.random.default_rng(variation.seed)
    shape = variation.n_samples + N_TEST, variation.n_features
    if limits:
        shape = _limit_shape(estimator, variation)
    X = rng.normal(size=shape)
    if variation.values == "skewed":
        X = np.exp(X)
    elif variation.values == "ties":
        X = np.round(X, 1)
        X[:, 0] = 0.1
    elif variation.values == "scaled":
        X *= 10.0 ** rng.integers(-2, 3, size=shape[1])
        X += 3.0
    tags = get_tags(estimator)
    name = type(estimator).__name__
    if tags.input_tags.positive_only or name == "SelectKBest":
        X = np.abs(X)
    y = _make_target(estimator, variation, X, rng)
    if dtype == "int64":
        # As many digits as float32 cannot hold, now and then.
        X = np.round(X * 10.0 ** (1 + 4 * (variation.seed % 3)))
    elif variation.has_missing and tags.input_tags.allow_nan:
        X[rng.random(shape) < 0.05] = np.nan
    if tags.input_tags.pairwise:
        X = X[: shape[0]] @ X[: shape[0]].T
    weights = None
    if variation.has_weights and has_fit_parameter(estimator, "sample_weight"):
        weights = rng.random(shape[0]) + 0.5
    return X.astype(dtype), y, weights


def make_peak_data(estimator: Any, dtype: str) -> tuple[npt.NDArray[Any], Any]:
    """Make X and y large enough that copies of X are most of what a fit needs."""
    variation = Variation(0, *_SHAPES[shape_for(estimator)])
    X, y, _ = make_data(estimator, variation, dtype, limits=False)
    return X, y


def _limit_shape(estimator: Any, variation: Variation) -> tuple[int, int]:
    """Return a shape that this estimator can be fitted with in little time."""
    n_samples, n_features = _MOST[shape_for(estimator)]
    if type(estimator).__name__.startswith(_DEPENDING_ON_SIZE):
        n_samples = variation.n_samples
    return (
        min(variation.n_samples, n_samples + variation.seed) + N_TEST,
        min(variation.n_features, n_features),
    )


def _make_target(
    estimator: Any, variation: Variation, X: npt.NDArray[Any], rng: np.random.Generator
) -> Any:
    name = type(estimator).__name__
    signal = X[:, 0] + 0.5 * X[:, 1] + rng.normal(size=len(X)) * X.std()
    tags = get_tags(estimator)
    target = tags.target_tags
    needs_outputs = name in NEED_OUTPUTS or not target.single_output
    has_outputs = target.multi_output and (variation.has_outputs or needs_outputs)
    is_classifier = tags.estimator_type in ("classifier", "outlier_detector")
    if is_classifier or selects_features(name):
        n_classes = variation.n_classes
        if tags.classifier_tags is not None and not tags.classifier_tags.multi_class:
            n_classes = 2
        limits = np.quantile(signal, np.linspace(0, 1, n_classes + 1)[1:-1])
        signal = np.searchsorted(limits, signal)
    elif target.positive_only:
        signal = np.abs(signal) + 0.1
    return np.stack((signal, signal[::-1]), axis=1) if has_outputs else signal


def vary(estimator: Any, variation: Variation) -> Any:
    """Return an estimator with other parameters, as jobs set them."""
    rng = np.random.default_rng(1000 + variation.seed)
    name = type(estimator).__name__
    pool = {**_DRAWN, **_DRAWN_OF.get(name, {})}
    parameters = estimator.get_params(deep=False)
    varied = clone(estimator)
    own = _DRAWN_OF.get(name, {}).keys()
    for key in sorted(pool.keys() & parameters.keys() | own):
        values = pool[key]
        value = values[rng.integers(len(values))]
        is_word = isinstance(parameters.get(key), str)
        if is_word and not isinstance(value, str) and key != "max_features":
            continue  # the same name, and another meaning
        if rng.random() < 0.5:
            varied.set_params(**{key: value})
    return varied


def list_values(estimator: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield parameters to be measured, their values, and the estimator with them."""
    values = _MEASURED_VALUES.get(type(estimator).__name__, {})
    for name in values:
        for value in values[name]:
            changed = clone(estimator)
            changed.set_params(**{**_NEEDED_WITH.get(value, {}), name: value})
            yield name, value, changed
