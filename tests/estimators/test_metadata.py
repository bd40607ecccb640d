"""Weights arrive, with metadata routing and without."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from sklearn import config_context
from sklearn.exceptions import UnsetMetadataPassedError
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, cross_validate
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.metadata_routing import get_routing_for_object

from tests.estimators.common import assert_equal_state, make_data, share_all


@pytest.fixture
def routing() -> Iterator[None]:
    with config_context(enable_metadata_routing=True):
        yield


def weights_for(n_samples: int) -> np.ndarray:
    return np.linspace(0.0, 1.0, n_samples)


def test_weights_without_routing() -> None:
    X, y, _ = make_data()
    weights = weights_for(len(y))
    expected = Ridge().fit(X, y, weights)
    for model in (
        share_all(Ridge()).fit(X, y, weights),
        share_all(Ridge()).fit(X, y, sample_weight=weights),
        share_all(Ridge()).fit(sample_weight=weights, y=y, X=X),
    ):
        assert_equal_state(model.coef_, expected.coef_)
    score = expected.score(X, y, sample_weight=weights)
    assert share_all(Ridge()).fit(X, y, weights).score(X, y, weights) == score


def test_weights_through_others_without_routing() -> None:
    X, y, _ = make_data()
    weights = weights_for(len(y))
    plain = Pipeline([("s", StandardScaler()), ("r", Ridge())])
    inside = Pipeline([("s", share_all(StandardScaler())), ("r", share_all(Ridge()))])
    expected = plain.fit(X, y, r__sample_weight=weights).predict(X)
    for model in (inside, share_all(plain)):
        model.fit(X, y, r__sample_weight=weights)
        assert_equal_state(model.predict(X), expected)
    params = {"sample_weight": weights}
    scores = [
        cross_validate(estimator, X, y, cv=3, params=params)["test_score"]
        for estimator in (share_all(Ridge()), Ridge())
    ]
    assert_equal_state(*scores)


def test_requests_are_those_of_the_inner_estimator(routing: None) -> None:
    model = share_all(Ridge())
    assert model.set_fit_request(sample_weight=True) is model
    assert model.set_score_request(sample_weight="w") is model
    request = get_routing_for_object(model)
    assert request.fit.requests == {"sample_weight": True}
    assert request.score.requests == {"sample_weight": "w"}
    X, y, _ = make_data()
    model.fit(X, y, sample_weight=weights_for(len(y)))
    assert get_routing_for_object(model.estimator_).fit.requests == {
        "sample_weight": True
    }
    # Not only the fitted clone: it would be forgotten with the next fit.
    model.set_fit_request(sample_weight=False)
    assert get_routing_for_object(model.estimator).fit.requests == {
        "sample_weight": False
    }


@pytest.mark.parametrize("is_weighted", [True, False])
def test_searches_route_weights(is_weighted: bool, routing: None) -> None:
    X, y, _ = make_data()
    weights = weights_for(len(y))
    searches = []
    for estimator in (share_all(Ridge()), Ridge()):
        estimator.set_fit_request(sample_weight=is_weighted)
        estimator.set_score_request(sample_weight=is_weighted)
        search = GridSearchCV(estimator, {}, cv=3)
        search.param_grid = (
            {"alpha": [0.5, 2.0]}
            if isinstance(estimator, Ridge)
            else {"estimator__alpha": [0.5, 2.0]}
        )
        params = {"sample_weight": weights} if is_weighted else {}
        searches.append(search.fit(X, y, **params))
    scores = [search.cv_results_["mean_test_score"] for search in searches]
    assert_equal_state(*scores)


def test_wrapped_searches_and_pipelines_route_weights(routing: None) -> None:
    X, y, _ = make_data()
    weights = weights_for(len(y))
    ridge = Ridge().set_fit_request(sample_weight=True)
    ridge.set_score_request(sample_weight=False)
    scaler = StandardScaler().set_fit_request(sample_weight=False)
    for inner in (
        GridSearchCV(ridge, {"alpha": [0.5, 2.0]}, cv=3),
        make_pipeline(scaler, ridge),
    ):
        outer = share_all(inner).fit(X, y, sample_weight=weights)
        inner.fit(X, y, sample_weight=weights)
        assert_equal_state(outer.predict(X), inner.predict(X))


def test_weights_that_nobody_has_asked_for_are_an_error(routing: None) -> None:
    X, y, _ = make_data()
    params = {"sample_weight": weights_for(len(y))}
    with pytest.raises(UnsetMetadataPassedError, match="sample_weight"):
        cross_validate(share_all(Ridge()), X, y, cv=3, params=params)
