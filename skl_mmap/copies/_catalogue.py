"""Every estimator of the installed libraries, and data that it can be fitted on."""

from __future__ import annotations

import importlib
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler
from sklearn.utils import all_estimators, get_tags

__all__ = ["Entry", "list_estimators", "make_data"]

# Shapes of about 10 MB. What takes O(n_samples ** 2) gets many features instead, what
# takes O(n_features ** 2) or more gets few, and what is slow anyway gets 1 MB.
_TALL = (25_000, 64)
_WIDE = (500, 2_400)
_NARROW = (150_000, 8)
_SMALL = (3_000, 40)
_SHAPES = {
    _WIDE: (
        *("AffinityPropagation", "AgglomerativeClustering", "ClassicalMDS", "DBSCAN"),
        *("FeatureAgglomeration", "GaussianProcessClassifier", "HDBSCAN", "Isomap"),
        *("GaussianProcessRegressor", "KNNImputer", "KNeighborsTransformer"),
        *("KernelCenterer", "KernelDensity", "KernelPCA", "KernelRidge"),
        *("LabelPropagation", "LabelSpreading", "LocalOutlierFactor", "MDS"),
        *("LocallyLinearEmbedding", "NuSVC", "NuSVR", "OPTICS"),
        *("OneClassSVM", "RadiusNeighborsClassifier", "RadiusNeighborsRegressor"),
        *("RadiusNeighborsTransformer", "SVC", "SVR", "SpectralBiclustering"),
        *("SpectralClustering", "SpectralCoclustering", "SpectralEmbedding", "TSNE"),
    ),
    _NARROW: (
        *("GraphicalLassoCV", "PolynomialCountSketch", "PolynomialFeatures"),
        "SplineTransformer",
    ),
    _SMALL: (
        *("BaggingClassifier", "BaggingRegressor", "Birch", "DictionaryLearning"),
        *("EllipticEnvelope", "MeanShift", "MinCovDet"),
        *("GammaRegressor", "IterativeImputer", "LatentDirichletAllocation"),
        *("MiniBatchDictionaryLearning", "MiniBatchSparsePCA", "QuantileRegressor"),
        *("NeighborhoodComponentsAnalysis", "SequentialFeatureSelector", "SparsePCA"),
        "TheilSenRegressor",
    ),
}
_SHAPE_OF = {name: shape for shape, names in _SHAPES.items() for name in names}
_NEED_CLASSES = {"NeighborhoodComponentsAnalysis"}
_NEED_OUTPUTS = {"CCA", "PLSCanonical", "PLSSVD"}
# What makes a fit cheaper and does not change how it uses its input.
_COSTS = {
    "n_estimators": 4,
    "max_iter": 20,
    "n_init": 1,
    "max_trials": 5,
    "n_repeats": 2,
    "n_restarts_optimizer": 0,
}
_MORE_COSTS: dict[str, dict[str, Any]] = {
    "BernoulliRBM": {"n_iter": 2},
    "DictionaryLearning": {"n_components": 8, "max_iter": 5},
    "GaussianRandomProjection": {"n_components": 20},
    "GraphicalLassoCV": {"alphas": 2, "n_refinements": 1, "cv": 2},
    "LGBMClassifier": {"n_estimators": 4, "n_jobs": 1, "verbose": -1},
    "LGBMRegressor": {"n_estimators": 4, "n_jobs": 1, "verbose": -1},
    "LatentDirichletAllocation": {"max_iter": 2},
    "MeanShift": {"max_iter": 2, "bandwidth": 5.0, "bin_seeding": True},
    "MiniBatchDictionaryLearning": {"n_components": 8, "max_iter": 2},
    "NeighborhoodComponentsAnalysis": {"max_iter": 3},
    "SequentialFeatureSelector": {"n_features_to_select": 1, "cv": 2},
    "SparsePCA": {"n_components": 4},
    "SparseRandomProjection": {"n_components": 20},
    "TSNE": {"max_iter": 250},
    "XGBClassifier": {"n_estimators": 4, "n_jobs": 1},
    "XGBRegressor": {"n_estimators": 4, "n_jobs": 1},
}
# The default is for compatibility only, and cannot be fitted.
_NEEDED_ALL_THE_SAME = {("SelfTrainingClassifier", "estimator")}


@dataclass(frozen=True, slots=True)
class Entry:
    """One estimator.

    Attributes
    ----------
    name : str
        Its class's full name.
    package : str
        The distribution that it comes from.
    estimator : estimator or None
        With its defaults, but for cheaper fits. None if it cannot be made.
    problem : str
        Why not.
    """

    name: str
    package: str
    estimator: Any
    problem: str = ""


def list_estimators() -> list[Entry]:
    """Return the estimators of scikit-learn, LightGBM and XGBoost, sorted by name."""
    entries = [_make_entry(class_, package) for class_, package in _iterate_classes()]
    return sorted(entries, key=lambda entry: entry.name)


def _iterate_classes() -> Iterator[tuple[type[Any], str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _, class_ in all_estimators():
            yield class_, "scikit-learn"
    for package in ("lightgbm", "xgboost"):
        try:
            module = importlib.import_module(package)
        except ImportError:
            continue
        for name in (
            "LGBMClassifier",
            "LGBMRegressor",
            "XGBClassifier",
            "XGBRegressor",
        ):
            if hasattr(module, name):
                yield getattr(module, name), package


def _make_entry(class_: type[Any], package: str) -> Entry:
    name = f"{class_.__module__}.{class_.__qualname__}"
    try:
        estimator = _make_estimator(class_)
    except Exception as error:  # noqa: BLE001 - it is not ours, and said in the table
        return Entry(name, package, None, f"cannot be made: {error}")
    tags = get_tags(estimator).input_tags
    if not tags.two_d_array:
        return Entry(name, package, None, "takes no table of numbers")
    if class_.__name__ == "FrozenEstimator":
        return Entry(name, package, None, "wraps an estimator that is fitted already")
    return Entry(name, package, estimator)


def _make_estimator(class_: type[Any]) -> Any:
    parameters = inspect.signature(class_).parameters
    required = {
        name: _required_value(name, class_)
        for name, parameter in parameters.items()
        if (
            parameter.default is inspect.Parameter.empty
            or (class_.__name__, name) in _NEEDED_ALL_THE_SAME
        )
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    estimator = class_(**required)
    cheaper = {
        name: value
        for name, value in _COSTS.items()
        if name in parameters and _is_larger(parameters[name].default, value)
    }
    cheaper |= _MORE_COSTS.get(class_.__name__, {})
    if "max_depth" in parameters and parameters["max_depth"].default is None:
        cheaper["max_depth"] = 3
    if "random_state" in parameters:
        cheaper["random_state"] = 0
    estimator.set_params(**cheaper)  # returns nothing, for some
    return estimator


def _is_larger(default: Any, value: Any) -> bool:
    return default == "auto" or (isinstance(default, int) and default > value)


def _required_value(name: str, class_: type[Any]) -> Any:
    is_classifier = "Classif" in class_.__name__ or class_.__name__.startswith("One")
    is_classifier |= class_.__name__ == "OutputCodeClassifier"
    model: Any = LogisticRegression(max_iter=20) if is_classifier else Ridge()
    values = {
        "base_estimator": model,
        "estimator": model,
        "estimators": [("first", model), ("second", model)],
        "param_distributions": {"alpha": [0.1, 1.0]},
        "param_grid": {"alpha": [0.1, 1.0]},
        "steps": [("scaler", StandardScaler()), ("model", model)],
        "transformer_list": [("first", StandardScaler()), ("second", StandardScaler())],
        "transformers": [("first", StandardScaler(), slice(0, None))],
    }
    if name not in values:
        raise TypeError(f"{name} is required")
    return values[name]


def make_data(estimator: Any) -> tuple[npt.NDArray[np.float64], Any]:
    """Make data that an estimator can be fitted on.

    Parameters
    ----------
    estimator : estimator
        Its tags say what it needs.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
        1 to 13 MB, and numbers that are no float32.
    y : ndarray of shape (n_samples,) or (n_samples, 2), or None
        Target.
    """
    name = type(estimator).__name__
    rng = np.random.default_rng(0)
    X = rng.normal(size=_SHAPE_OF.get(name, _TALL))
    tags = get_tags(estimator)
    if tags.input_tags.positive_only or name == "SelectKBest":
        X = np.abs(X, out=X)
    if tags.input_tags.pairwise:
        X = X @ X.T
    signal = X[:, 0] + 0.5 * X[:, 1] + 0.1 * rng.normal(size=len(X))
    target = tags.target_tags
    if tags.estimator_type in ("classifier", "outlier_detector") or _selects(name):
        classes = (signal > np.median(signal)).astype(int)
        if target.multi_output and not target.single_output:
            return X, np.stack((classes, 1 - classes), axis=1)
        return X, classes
    if target.positive_only:
        signal = np.abs(signal) + 0.1
    if name in _NEED_OUTPUTS or (target.multi_output and not target.single_output):
        return X, np.stack((signal, X[:, 2] - signal), axis=1)
    return X, signal


def _selects(name: str) -> bool:
    """Whether a transformer needs classes, which its tags do not say."""
    is_selector = name.startswith("Select") and name != "SelectFromModel"
    return is_selector or name in _NEED_CLASSES
