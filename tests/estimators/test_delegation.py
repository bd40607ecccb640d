"""Methods and attributes are there exactly if the inner estimator has them."""

from __future__ import annotations

import inspect
import pickle
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import BaseEstimator, clone, is_classifier, is_regressor
from sklearn.cluster import DBSCAN, KMeans
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    BaggingRegressor,
    RandomForestRegressor,
    StackingRegressor,
    VotingClassifier,
)
from sklearn.exceptions import NotFittedError
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression, Ridge, SGDClassifier
from sklearn.mixture import GaussianMixture
from sklearn.model_selection import GridSearchCV
from sklearn.neighbors import KernelDensity, LocalOutlierFactor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler
from sklearn.svm import SVC, LinearSVC
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import get_tags
from sklearn.utils.validation import check_is_fitted, has_fit_parameter

from skl_mmap import Memmapped
from tests.estimators.common import assert_equal_state, make_data, share_all

INNER = [
    Ridge(),
    LogisticRegression(),
    SGDClassifier(max_iter=10, tol=None, random_state=0),
    LinearSVC(),
    KMeans(3, random_state=0),
    DBSCAN(),
    LocalOutlierFactor(),
    KernelDensity(),
    GaussianMixture(random_state=0),
    PCA(2),
    StandardScaler(),
    FunctionTransformer(),
    make_pipeline(StandardScaler(), PCA(2)),
    make_pipeline(StandardScaler(), LogisticRegression()),
    GridSearchCV(Ridge(), {"alpha": [0.5, 1.0]}, cv=2),
    GridSearchCV(LogisticRegression(), {"C": [0.5, 1.0]}, cv=2, refit=False),
    VotingClassifier([("a", LogisticRegression()), ("b", DecisionTreeClassifier())]),
    BaggingRegressor(Ridge(), 3, random_state=0),
]
IDS = [f"{type(inner).__name__}{i}" for i, inner in enumerate(INNER)]
SETTINGS = [pytest.param({}, id="small"), pytest.param({"min_bytes": 1}, id="shared")]


def wrap(inner: Any, parameters: Any) -> Memmapped:
    return Memmapped(clone(inner), check="off", **parameters)


def public_names(estimator: Any) -> set[str]:
    return {name for name in dir(estimator) if not name.startswith("_")}


def assert_same_names(outer: Any, inner: Any) -> None:
    for name in public_names(inner):
        assert hasattr(outer, name) == hasattr(inner, name), name
    for name in ("predict", "predict_proba", "transform", "coef_", "nothing", "fit"):
        assert hasattr(outer, name) == hasattr(inner, name), name


@pytest.mark.parametrize("inner", INNER, ids=IDS)
@pytest.mark.parametrize("parameters", SETTINGS)
def test_names_are_those_of_the_inner_estimator(inner: Any, parameters: Any) -> None:
    X, _, y = make_data()
    X, y = X[:60], y[:60]
    outer, inner = wrap(inner, parameters), clone(inner)
    assert_same_names(outer, inner)
    assert outer.fit(X, y) is outer
    inner.fit(X, y)
    assert_same_names(outer, inner)
    for name in public_names(inner):
        value = getattr(inner, name, None)
        is_fitted_number = name.endswith("_") and not name.endswith("time_")
        if is_fitted_number and isinstance(value, np.ndarray | int | float | list):
            assert_equal_state(getattr(outer, name), value, name)


@pytest.mark.parametrize(
    ("inner", "method"),
    [
        (LogisticRegression(), "predict"),
        (LogisticRegression(), "predict_proba"),
        (LogisticRegression(), "predict_log_proba"),
        (LogisticRegression(), "decision_function"),
        (PCA(2), "transform"),
        (KernelDensity(), "score_samples"),
        (GaussianMixture(random_state=0), "score_samples"),
        (make_pipeline(StandardScaler(), SVC()), "decision_function"),
        (GridSearchCV(Ridge(), {"alpha": [1.0, 2.0]}, cv=2), "predict"),
        (BaggingRegressor(Ridge(), 3, random_state=0), "predict"),
    ],
)
@pytest.mark.parametrize("parameters", SETTINGS)
def test_methods_return_the_same(inner: Any, method: str, parameters: Any) -> None:
    X, _, y = make_data()
    outer, inner = wrap(inner, parameters).fit(X, y), clone(inner).fit(X, y)
    assert_equal_state(getattr(outer, method)(X), getattr(inner, method)(X))
    assert_equal_state(getattr(outer, method)(X=X), getattr(inner, method)(X))
    assert outer.score(X, y) == inner.score(X, y)


@pytest.mark.parametrize("parameters", SETTINGS)
def test_methods_that_fit(parameters: Any) -> None:
    X, _, _y = make_data()
    scaler, clusters = wrap(StandardScaler(), parameters), wrap(DBSCAN(), parameters)
    assert_equal_state(scaler.fit_transform(X), StandardScaler().fit_transform(X))
    assert_equal_state(scaler.mean_, X.mean(axis=0))
    assert_equal_state(clusters.fit_predict(X), DBSCAN().fit_predict(X))
    assert_equal_state(clusters.labels_, DBSCAN().fit(X).labels_)


@pytest.mark.parametrize("parameters", SETTINGS)
def test_partial_fit_goes_on(parameters: Any) -> None:
    X, _, y = make_data()
    outer = wrap(SGDClassifier(random_state=0), parameters)
    inner = SGDClassifier(random_state=0)
    assert outer.partial_fit(X, y, (0, 1, 2)) is outer
    inner.partial_fit(X, y, (0, 1, 2))
    first = outer.estimator_
    for _ in range(2):
        assert outer.partial_fit(X, y) is outer
        inner.partial_fit(X, y)
    assert outer.estimator_ is first
    assert_equal_state(outer.coef_, inner.coef_)
    assert outer.t_ == inner.t_
    assert outer.fit(X, y).t_ < 100 * len(y), "fit begins anew"
    assert outer.estimator_ is not first


@pytest.mark.parametrize("parameters", SETTINGS)
def test_classes_that_look_like_a_path_and_a_column(parameters: Any) -> None:
    X, _, y = make_data()
    text = np.array(["no", "yes"])[(y > 0).astype(int)]
    outer = wrap(SGDClassifier(random_state=0), parameters)
    outer.partial_fit(X, text, ("no", "yes"))
    outer.partial_fit(X, text, classes=("no", "yes"))
    assert outer.classes_.tolist() == ["no", "yes"]


def test_warm_start_goes_on_with_the_new_parameters() -> None:
    X, y, _ = make_data()
    outer = share_all(RandomForestRegressor(2, warm_start=True, random_state=0))
    outer.fit(X, y)
    trees = list(outer.estimators_)
    outer.set_params(estimator__n_estimators=4).fit(X, y)
    assert len(outer.estimators_) == 4
    assert outer.estimators_[:2] == trees
    outer.set_params(estimator__warm_start=False).fit(X, y)
    assert outer.estimators_[0] not in trees


def test_methods_that_return_the_estimator_return_the_outer_one() -> None:
    X, _, y = make_data()
    outer = share_all(LogisticRegression()).fit(X, y)
    assert outer.sparsify() is outer
    assert outer.densify() is outer


@pytest.mark.parametrize("inner", INNER, ids=IDS)
def test_signatures_are_those_of_the_inner_estimator(inner: Any) -> None:
    outer = Memmapped(inner)
    for name in ("fit", "predict", "transform", "fit_transform", "score"):
        if hasattr(inner, name):
            expected = inspect.signature(getattr(inner, name))
            assert inspect.signature(getattr(outer, name)) == expected
    has_weight = has_fit_parameter(inner, "sample_weight")
    assert has_fit_parameter(outer, "sample_weight") == has_weight


@pytest.mark.parametrize("inner", INNER, ids=IDS)
def test_tags_are_those_of_the_inner_estimator(inner: Any) -> None:
    outer = Memmapped(inner)
    assert get_tags(outer) == get_tags(inner)
    assert is_classifier(outer) == is_classifier(inner)
    assert is_regressor(outer) == is_regressor(inner)


def test_nothing_works_before_fit() -> None:
    X, _, _ = make_data()
    outer = Memmapped(LogisticRegression())
    with pytest.raises(NotFittedError, match="Call fit first"):
        outer.predict(X)
    with pytest.raises(NotFittedError, match="detach"):
        outer.detach()
    with pytest.raises(NotFittedError):
        check_is_fitted(outer)
    assert not hasattr(outer, "report_")


def test_stateless_transformers_need_no_fit() -> None:
    X, _, _ = make_data()
    outer = share_all(FunctionTransformer(np.negative))
    assert_equal_state(outer.transform(X), -X)
    texts = ["one text", "two texts"]
    vectorizer = HashingVectorizer(n_features=8)
    # scikit-learn 1.6 says that it has to be fitted, and is believed.
    if not get_tags(vectorizer).requires_fit:
        assert Memmapped(vectorizer).transform(texts).shape == (2, 8)
    hashed = Memmapped(vectorizer).fit(texts).transform(texts)
    assert hashed.shape == (2, 8)


def test_failed_fit_leaves_the_last_model() -> None:
    X, y, _ = make_data()
    outer = share_all(Ridge()).fit(X, y)
    before = outer.estimator_
    with pytest.raises(ValueError, match="inconsistent"):
        outer.fit(X, y[:-1])
    assert outer.estimator_ is before


def test_output_is_configured_before_and_after_fit() -> None:
    X, _, _ = make_data()
    names = [f"c{i}" for i in range(X.shape[1])]
    frame = pd.DataFrame(X, columns=names)
    outer = share_all(StandardScaler())
    assert outer.set_output(transform="pandas") is outer
    scaled = outer.fit_transform(frame)
    assert isinstance(scaled, pd.DataFrame)
    assert outer.feature_names_in_.tolist() == names
    assert outer.get_feature_names_out().tolist() == names
    outer.set_output(transform="default")
    assert isinstance(outer.transform(frame), np.ndarray)


def test_parameters_reach_the_inner_estimator() -> None:
    outer = Memmapped(make_pipeline(StandardScaler(), Ridge()), n_jobs=2)
    outer.set_params(estimator__ridge__alpha=3.0, store="disk")
    assert outer.get_params()["estimator__ridge__alpha"] == 3.0
    copied = clone(outer)
    assert copied.get_params()["store"] == "disk"
    assert copied.estimator is not outer.estimator
    assert copied.estimator["ridge"].alpha == 3.0
    with pytest.raises(ValueError, match="Invalid parameter 'unknown'"):
        outer.set_params(unknown=3)


def test_user_estimator_is_not_fitted() -> None:
    X, y, _ = make_data()
    inner = Ridge()
    share_all(inner).fit(X, y)
    assert not hasattr(inner, "coef_")


def test_diagram_shows_what_is_inside() -> None:
    X, y, _ = make_data()
    stack = StackingRegressor([("my ridge", Ridge())], cv=2)
    outer = Memmapped(stack)
    for _ in range(2):
        diagram = outer._repr_html_()
        assert "Memmapped" in diagram
        assert "StackingRegressor" in diagram
        assert "my ridge" in diagram
        outer.fit(X, y)


def test_methods_can_be_pickled() -> None:
    X, y, _ = make_data()
    outer = share_all(Ridge()).fit(X, y)
    predict = pickle.loads(pickle.dumps(outer.predict))
    assert_equal_state(predict(X), outer.predict(X))


class Bare(BaseEstimator):
    """Has nothing but fit."""

    def fit(self, X: Any) -> Bare:
        return self


def test_estimators_with_nothing_but_fit() -> None:
    X, _, _ = make_data()
    outer = share_all(Bare())
    assert outer.fit(X) is outer
    assert not hasattr(outer, "predict")
    assert not hasattr(outer, "score")
    with pytest.raises(AttributeError, match="_private"):
        outer._private  # noqa: B018
