"""The splitter gives the folds of the one it wraps, as sets of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.base import clone
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
    cross_validate,
)

from skl_mmap import PageFriendly, page_order
from skl_mmap.exceptions import InvalidParameterError

N_SAMPLES = 6000
X = np.arange(N_SAMPLES * 8.0).reshape(-1, 8)
Y = np.repeat([0, 1, 2, 1], N_SAMPLES // 4)
GROUPS = np.repeat(np.arange(12), N_SAMPLES // 12)

SPLITTERS = {
    "KFold": KFold(5),
    "KFold, shuffled": KFold(5, shuffle=True, random_state=0),
    "StratifiedKFold": StratifiedKFold(3),
    "GroupKFold": GroupKFold(3),
    "TimeSeriesSplit": TimeSeriesSplit(4),
    "ShuffleSplit": ShuffleSplit(3, random_state=0),
    "RepeatedKFold": RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
    "LeaveOneGroupOut": LeaveOneGroupOut(),
    "PredefinedSplit": PredefinedSplit(np.repeat([-1, 0, 1, 2], N_SAMPLES // 4)),
    "int": 4,
    "list": [(np.r_[0:2000, 3000:6000], np.r_[2000:3000])],
}


def wrapped_splits(cv: Any) -> list[tuple[Any, Any]]:
    return list(sklearn.model_selection.check_cv(cv, Y).split(X, Y, GROUPS))


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize("name", SPLITTERS)
def test_the_folds_are_the_same_sets(name: str) -> None:
    cv = PageFriendly(SPLITTERS[name])
    expected = wrapped_splits(SPLITTERS[name])
    splits = list(cv.split(X, Y, GROUPS))
    assert len(splits) == len(expected) == cv.get_n_splits(X, Y, GROUPS)
    for (train, test), (wrapped_train, wrapped_test) in zip(
        splits, expected, strict=True
    ):
        np.testing.assert_array_equal(np.sort(train), np.sort(wrapped_train))
        np.testing.assert_array_equal(test, wrapped_test)
        row_bytes = X.nbytes // len(X)
        ordered = page_order(np.asarray(wrapped_train), row_bytes=row_bytes)
        np.testing.assert_array_equal(train, ordered)
    again = list(cv.split(X, Y, GROUPS))
    for one, other in zip(splits, again, strict=True):
        np.testing.assert_array_equal(one[0], other[0])


def test_the_order_changes_where_that_pays() -> None:
    train, _ = list(PageFriendly(KFold(5)).split(X))[1]
    assert not np.array_equal(train, np.sort(train))


@pytest.mark.parametrize(
    "data", [X, X[:, 0], X.tolist(), X.astype("f4")], ids=["X", "vector", "list", "f4"]
)
def test_any_array_like_can_be_split(data: Any) -> None:
    for (train, test), expected in zip(
        PageFriendly(3).split(data), KFold(3).split(data), strict=True
    ):
        np.testing.assert_array_equal(np.sort(train), expected[0])
        np.testing.assert_array_equal(test, expected[1])


def test_it_is_a_scikit_learn_object() -> None:
    cv = PageFriendly(KFold(3))
    assert repr(cv) == (
        "PageFriendly(cv=KFold(n_splits=3, random_state=None, shuffle=False))"
    )
    assert cv.get_params()["cv"].n_splits == 3
    assert PageFriendly().get_params() == {"cv": 5}
    copy = clone(PageFriendly(7))
    assert copy.get_n_splits() == 7
    assert copy.set_params(cv=2).get_n_splits() == 2


def test_it_goes_wherever_a_splitter_goes() -> None:
    y = X.sum(axis=1)
    found = cross_validate(DummyRegressor(), X, y, cv=PageFriendly(KFold(4)))
    expected = cross_validate(DummyRegressor(), X, y, cv=KFold(4))
    np.testing.assert_allclose(found["test_score"], expected["test_score"])
    search = GridSearchCV(Ridge(), {"alpha": [1, 10]}, cv=PageFriendly(3)).fit(X, y)
    assert search.n_splits_ == 3


def test_groups_are_routed_to_the_wrapped_splitter() -> None:
    y = X.sum(axis=1)
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 5, N_SAMPLES)
    with sklearn.config_context(enable_metadata_routing=True):
        found, expected = (
            cross_validate(
                DummyRegressor(),
                X,
                y,
                cv=cv,
                params={"groups": groups},
                return_indices=True,
            )
            for cv in (PageFriendly(GroupKFold(5)), GroupKFold(5))
        )
    np.testing.assert_allclose(found["test_score"], expected["test_score"])
    for one, other in zip(
        found["indices"]["test"], expected["indices"]["test"], strict=True
    ):
        np.testing.assert_array_equal(one, other)
        assert len(np.unique(groups[one])) == 1


def test_missing_groups_are_an_error_of_the_wrapped_splitter() -> None:
    with pytest.raises(ValueError, match="groups"):
        next(PageFriendly(GroupKFold(3)).split(X, Y))


def test_a_splitter_that_repeats_rows_is_refused() -> None:
    cv = PageFriendly([(np.r_[0:3000, 0:3000], np.r_[3000:6000])])
    with pytest.raises(ValueError, match="more than once"):
        list(cv.split(X))


def test_masks_may_be_train_sets() -> None:
    mask = np.ones(N_SAMPLES, dtype=bool)
    mask[1000:2000] = False
    ((train, test),) = PageFriendly([(mask, ~mask)]).split(X)
    np.testing.assert_array_equal(
        np.sort(np.arange(N_SAMPLES)[train]), mask.nonzero()[0]
    )
    np.testing.assert_array_equal(test, ~mask)


def test_a_generator_is_refused() -> None:
    def splits() -> Iterator[tuple[Any, Any]]:
        yield from KFold(3).split(X)

    with pytest.raises(InvalidParameterError, match="only once"):
        PageFriendly(splits()).get_n_splits()


@pytest.mark.parametrize("cv", ["five", 2.5, object()], ids=["str", "float", "object"])
def test_what_is_no_splitter_is_refused(cv: object) -> None:
    with pytest.raises(InvalidParameterError, match="gives no train and test sets"):
        list(PageFriendly(cv).split(X))
