"""Arranged data has the folds of the splitter, and every row keeps its company."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.dummy import DummyRegressor
from sklearn.linear_model import Ridge
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    LeaveOneOut,
    LeavePGroupsOut,
    PredefinedSplit,
    RepeatedKFold,
    RepeatedStratifiedKFold,
    ShuffleSplit,
    StratifiedGroupKFold,
    StratifiedKFold,
    StratifiedShuffleSplit,
    TimeSeriesSplit,
    check_cv,
    cross_val_predict,
)
from sklearn.neighbors import KNeighborsRegressor

from skl_mmap.containers import _numpy as numpy_module
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import Segment, SharedArray, find_mapping
from skl_mmap.orders import ArrangedSplits, arrange
from tests.memory.sharing import mapped_bytes
from tests.strategies import examples

N_SAMPLES = 6000
RNG = np.random.default_rng(0)
X = RNG.random((N_SAMPLES, 40))
Y = RNG.integers(0, 3, N_SAMPLES)
WEIGHTS = RNG.random(N_SAMPLES).astype("f4")
GROUPS = RNG.integers(0, 12, N_SAMPLES)


def shuffled_blocks() -> list[tuple[Any, Any]]:
    rows = np.random.default_rng(1).permutation(N_SAMPLES)
    return [
        (np.r_[rows[:a], rows[b:]], rows[a:b]) for a, b in [(0, 2000), (2000, 5000)]
    ]


PARTITIONS = {
    "KFold": KFold(4),
    "KFold, shuffled": KFold(5, shuffle=True, random_state=0),
    "StratifiedKFold": StratifiedKFold(3),
    "StratifiedKFold, shuffled": StratifiedKFold(5, shuffle=True, random_state=0),
    "GroupKFold": GroupKFold(3),
    "StratifiedGroupKFold": StratifiedGroupKFold(3, shuffle=True, random_state=0),
    "PredefinedSplit": PredefinedSplit(RNG.integers(0, 4, N_SAMPLES)),
    "PredefinedSplit, some never": PredefinedSplit(RNG.integers(-1, 3, N_SAMPLES)),
    "LeaveOneGroupOut": LeaveOneGroupOut(),
    "one ShuffleSplit": ShuffleSplit(1, random_state=0),
    "list": shuffled_blocks(),
    "int": 4,
}
WHOLE = [
    name
    for name in PARTITIONS
    if "never" not in name and name not in ("one ShuffleSplit", "list")
]


def wrapped_splits(name: str) -> list[tuple[Any, Any]]:
    return list(check_cv(PARTITIONS[name], Y).split(X, Y, GROUPS))


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize("name", PARTITIONS)
def test_the_folds_are_the_same_sets(name: str) -> None:
    Xs, ys, weights, cv = arrange(X, Y, WEIGHTS, cv=PARTITIONS[name], groups=GROUPS)
    expected = wrapped_splits(name)
    splits = list(cv.split(Xs, ys))
    assert len(splits) == len(expected) == cv.get_n_splits() == cv.n_splits
    for (train, test), (old_train, old_test) in zip(splits, expected, strict=True):
        np.testing.assert_array_equal(
            np.sort(cv.permutation[train]), np.sort(old_train)
        )
        # In its old order, and one run.
        np.testing.assert_array_equal(cv.permutation[test], np.sort(old_test))
        np.testing.assert_array_equal(test, np.arange(test[0], test[-1] + 1))
        for new, old in ((Xs, X), (ys, Y), (weights, WEIGHTS)):
            for rows in (train, test):
                np.testing.assert_array_equal(new[rows], old[cv.permutation[rows]])


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize("name", PARTITIONS)
def test_nearly_all_rows_of_every_fold_are_mapped(name: str) -> None:
    Xs, _, cv = arrange(X, Y, cv=PARTITIONS[name], groups=GROUPS)
    for train, test in cv.split(Xs):
        seen = Xs[train]
        # At each end of two runs less than 512 rows, and a page.
        assert mapped_bytes(seen) > seen.nbytes - 4 * (512 * 320 + 4096)
        assert mapped_bytes(Xs[test]) > len(test) * 320 - 2 * 4096 or len(test) < 1000


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize("name", WHOLE)
@pytest.mark.parametrize(
    "model", [DummyRegressor(), Ridge(), KNeighborsRegressor(3)], ids=str
)
def test_predictions_are_put_back(name: str, model: Any) -> None:
    n_samples = 600
    few = X[:n_samples, :5], X[:n_samples] @ np.arange(40.0)
    splits = PARTITIONS[name]
    if name == "PredefinedSplit":
        splits = PredefinedSplit(splits.test_fold[:n_samples])
    if name.startswith("Stratified"):
        splits = list(splits.split(few[0], Y[:n_samples], GROUPS[:n_samples]))
    groups = GROUPS[:n_samples]
    expected = cross_val_predict(model, *few, cv=splits, groups=groups)
    Xs, ys, cv = arrange(*few, cv=splits, groups=groups)
    found = cross_val_predict(model, Xs, ys, cv=cv)
    np.testing.assert_allclose(cv.restore(found), expected, rtol=1e-9)
    assert not np.allclose(found, expected) or name in ("KFold", "int")


def segment_of(array: npt.NDArray[Any]) -> Segment:
    found = find_mapping(array)
    assert found is not None
    return found[0].segment


@st.composite
def random_folds(draw: st.DrawFn) -> npt.NDArray[np.int_]:
    n_samples = draw(st.integers(1, 200))
    n_folds = draw(st.integers(1, 6))
    seed = draw(st.integers(0, 1 << 20))
    lowest = draw(st.integers(-1, 0))
    return np.random.default_rng(seed).integers(lowest, n_folds, n_samples)


@examples(100)
@given(folds=random_folds(), form=st.sampled_from(["index", "mask", "negative"]))
def test_any_partition(folds: npt.NDArray[np.int_], form: str) -> None:
    n_samples = len(folds)
    tests = [np.flatnonzero(folds == fold) for fold in range(folds.max() + 1)]
    masks = [np.isin(np.arange(n_samples), test) for test in tests]

    def splits() -> Iterator[tuple[Any, Any]]:
        rng = np.random.default_rng(0)
        for mask in masks:
            if form == "mask":
                yield ~mask, mask
            else:
                shift = n_samples if form == "negative" else 0
                test = rng.permutation(np.flatnonzero(mask))
                yield np.flatnonzero(~mask) - shift, test - shift

    data = np.arange(n_samples * 3).reshape(-1, 3)
    if not tests:
        with pytest.raises(InvalidParameterError, match="makes no splits"):
            arrange(data, cv=splits())
        return
    Xs, y, cv = arrange(data, cv=splits())
    assert y is None
    np.testing.assert_array_equal(Xs, data[cv.permutation])
    np.testing.assert_array_equal(Xs[cv.inverse_permutation], data)
    np.testing.assert_array_equal(cv.restore(Xs), data)
    np.testing.assert_array_equal(
        cv.inverse_permutation[cv.permutation], np.arange(n_samples)
    )
    for (train, test), mask in zip(cv.split(Xs), masks, strict=True):
        np.testing.assert_array_equal(cv.permutation[test], np.flatnonzero(mask))
        np.testing.assert_array_equal(
            np.sort(cv.permutation[train]), np.flatnonzero(~mask)
        )


NO_PARTITIONS = {
    "test sets overlap": [
        ShuffleSplit(3, random_state=0),
        StratifiedShuffleSplit(3, random_state=0),
        LeavePGroupsOut(2),
    ],
    "call arrange.. for each": [
        RepeatedKFold(n_splits=3, n_repeats=2, random_state=0),
        RepeatedStratifiedKFold(n_splits=3, n_repeats=2, random_state=0),
    ],
    "not the complement": [
        ShuffleSplit(3, train_size=0.5, test_size=0.2, random_state=0),
        [(np.arange(1, 100), np.array([0]))],
        [(np.arange(1000, N_SAMPLES), np.arange(500))],
        [([], np.arange(10))],
    ],
    "as a bootstrap does": [
        [(RNG.integers(0, 3000, 3000), np.arange(3000, N_SAMPLES))],
        [(np.arange(10, N_SAMPLES), np.r_[0:10, 9])],
    ],
    "both its train and its test set": [[(np.arange(N_SAMPLES), np.arange(10))]],
    "needs no arranging": [
        TimeSeriesSplit(4),
        TimeSeriesSplit(4, max_train_size=100, gap=5),
    ],
    "does not fit X of 6000 rows": [[(np.arange(10, 7000), np.arange(10))]],
    "of shape .n,., or a mask": [
        [(np.zeros((2, 3), dtype=int), np.arange(10))],
        [(np.arange(10.0), np.arange(10))],
        [(np.ones(10, dtype=bool), np.arange(10))],
    ],
    "^cv=<list> makes no splits": [[]],
    "makes no splits": [iter(())],
    "item 1 of cv=<list> is not a pair": [[*shuffled_blocks()[:1], np.arange(3)]],
    "gives no train and test sets": [2.5, "five", object()],
}


@pytest.mark.filterwarnings("ignore:The groups parameter is ignored")
@pytest.mark.parametrize(
    ("message", "cv"),
    [
        pytest.param(message, cv, id=f"{message} {place}")
        for message, splitters in NO_PARTITIONS.items()
        for place, cv in enumerate(splitters)
    ],
)
def test_what_is_no_partition_is_explained(message: str, cv: Any) -> None:
    with pytest.raises(InvalidParameterError, match=message) as caught:
        arrange(X, Y, cv=cv, groups=GROUPS)
    assert len(str(caught.value)) < 600


class Named:
    """A splitter without splits, and with a repr of its own."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __repr__(self) -> str:
        return self.text

    def split(self, *_: Any) -> Iterator[Any]:
        return iter(())


@pytest.mark.parametrize(
    ("cv", "name"),
    [
        (Named("Named(3)"), "Named(3) makes"),
        (Named("x" * 100), "x" * 100 + " makes"),
        (Named("x" * 101), "<Named> makes"),
        (Named("a\nb"), "<Named> makes"),
        (1, "1 gives"),
        (2.5, "<float> gives"),
        ([(np.arange(10), np.arange(10))], "<list> is not a partition: split 0"),
    ],
)
def test_messages_name_the_splitter(cv: Any, name: str) -> None:
    with pytest.raises(InvalidParameterError, match=f"^{re.escape(f'cv={name}')} "):
        arrange(X, Y, cv=cv)


def test_the_rows_that_are_no_partition_are_counted() -> None:
    rows = np.arange(N_SAMPLES)
    first, second, third = rows[:100], rows[100:200], rows[190:293]
    cv = [(np.delete(rows, test), test) for test in (first, second, third)]
    message = "10 rows of the test set of split 2 have .* one of them by split 1"
    with pytest.raises(InvalidParameterError, match=message):
        arrange(X, Y, cv=cv)
    cv = [(np.delete(rows, test), test) for test in (first, rows[99:105])]
    message = "1 rows of the test set of split 1 have .* one of them by split 0"
    with pytest.raises(InvalidParameterError, match=message):
        arrange(X, Y, cv=cv)
    message = "as 7 of 6000 rows are in neither"
    with pytest.raises(InvalidParameterError, match=message):
        arrange(X, Y, cv=[(rows[100:-7], first)])


def test_an_int_means_what_it_means_in_scikit_learn() -> None:
    labels = np.repeat([0, 1], N_SAMPLES // 2)
    for classifier, expected in ((False, KFold(2)), (True, StratifiedKFold(2))):
        cv = arrange(X, labels, cv=2, classifier=classifier)[-1]
        for (_, test), (_, old_test) in zip(
            cv.split(X), expected.split(X, labels), strict=True
        ):
            np.testing.assert_array_equal(cv.permutation[test], old_test)


def test_as_many_folds_as_rows() -> None:
    data = X[:50]
    Xs, _, cv = arrange(data, cv=LeaveOneOut())
    np.testing.assert_array_equal(Xs, data)
    assert cv.n_splits == 50


DTYPES = ("?", "i1", "u2", ">i4", "f4", "f8", "c16", "M8[s]", "i4,f8")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["C", "F", "every second row", "3-d", "1-d"])
def test_every_layout(dtype: str, layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numpy_module, "CHUNK_BYTES", 1000)
    data = np.zeros((2 * 90, 6), dtype)
    # Not tobytes() of random bits, which may be no valid number.
    data[...] = RNG.integers(0, 100, data.shape).astype(np.dtype("i8"))
    if layout == "F":
        data = np.asfortranarray(data)
    elif layout == "every second row":
        data = data[::-2]
    elif layout == "3-d":
        data = data.reshape(-1, 3, 2)
    elif layout == "1-d":
        data = np.ascontiguousarray(data[:, 0])
    Xs, _, cv = arrange(data, cv=KFold(3, shuffle=True, random_state=0))
    assert type(Xs) is SharedArray
    assert Xs.flags.c_contiguous
    assert Xs.dtype == data.dtype
    np.testing.assert_array_equal(Xs, data[cv.permutation])
    np.testing.assert_array_equal(cv.restore(Xs), data)


def test_memmaps_and_shared_arrays(tmp_path: Any) -> None:
    np.save(tmp_path / "X.npy", X)
    mapped = np.load(tmp_path / "X.npy", mmap_mode="r")
    shuffled = KFold(3, shuffle=True, random_state=0)
    first, _, cv = arrange(mapped, cv=shuffled)
    np.testing.assert_array_equal(first, X[cv.permutation])
    again, _, cv_again = arrange(first, cv=shuffled)
    np.testing.assert_array_equal(again, X[cv.permutation][cv_again.permutation])


def test_what_holds_no_numbers_stays_what_it_is() -> None:
    n_samples = 30
    texts = [f"text {i}" for i in range(n_samples)]
    values = (texts, np.array(texts), np.array(texts, dtype=object), None)
    masked = np.ma.masked_less(np.arange(n_samples), 5)
    shuffled = KFold(3, shuffle=True, random_state=0)
    *arranged, cv = arrange(X[:n_samples], Y[:n_samples], *values, masked, cv=shuffled)
    order = cv.permutation
    expected = [texts[i] for i in order]
    assert arranged[2] == expected
    assert type(arranged[3]) is type(arranged[4]) is np.ndarray
    assert arranged[3].tolist() == arranged[4].tolist() == expected
    assert arranged[5] is None
    np.testing.assert_array_equal(arranged[6].mask, masked[order].mask)
    assert cv.restore(arranged[2]) == texts
    assert cv.restore(arranged[3]).tolist() == texts


def test_lists_of_numbers_are_shared() -> None:
    Xs, ys, cv = arrange([[1, 2], [3, 4], [5, 6]], [1.0, 2.0, 3.0], cv=KFold(3))
    assert type(Xs) is type(ys) is SharedArray
    assert cv.restore(Xs).tolist() == [[1, 2], [3, 4], [5, 6]]


def test_empty_rows() -> None:
    Xs, _, cv = arrange(np.empty((6, 0)), cv=KFold(3))
    assert Xs.shape == (6, 0)
    assert cv.n_samples == 6


def test_the_original_is_left_as_it_is_and_the_result_is_its_own() -> None:
    data = X.copy()
    Xs, _, _ = arrange(data, cv=KFold(3, shuffle=True, random_state=0))
    Xs[0] = 0
    np.testing.assert_array_equal(data, X)
    read_only, _, _ = arrange(data, cv=3, mmap_mode="r")
    assert not read_only.flags.writeable
    with pytest.raises(ValueError, match="read-only"):
        read_only[0] = 0


def test_further_arrays_can_be_arranged_later(tmp_path: Any) -> None:
    shuffled = KFold(3, shuffle=True, random_state=0)
    Xs, _, cv = arrange(X, cv=shuffled, store=tmp_path)
    in_memory, _, _ = arrange(X, cv=shuffled, store="memory")
    weights = cv.arrange(WEIGHTS, store="disk", mmap_mode="r")
    assert [segment_of(array).is_memfd for array in (Xs, in_memory, weights)] == [
        *(False, True, False)
    ]
    assert not weights.flags.writeable
    assert type(weights) is SharedArray
    np.testing.assert_array_equal(weights, WEIGHTS[cv.permutation])
    np.testing.assert_array_equal(cv.restore(weights), WEIGHTS)


def test_parameters_that_cannot_be_used() -> None:
    for parameters, message in (
        ({"mmap_mode": "w"}, "mmap_mode='w' is not known"),
        ({"store": "/no/such/folder"}, "not an existing folder"),
        ({"groups": GROUPS[1:]}, "groups has 5999 rows and X has 6000"),
    ):
        with pytest.raises(InvalidParameterError, match=message):
            arrange(X, Y, **parameters)
    with pytest.raises(InvalidParameterError, match="y has 2 rows and X has 6000"):
        arrange(X, Y[:2])
    with pytest.raises(InvalidParameterError, match=r"more\[1\] has 1 rows"):
        arrange(X, Y, None, [1])
    with pytest.raises(InvalidParameterError, match="X of type int has no rows"):
        arrange(5)
    cv = arrange(X)[-1]
    assert isinstance(cv, ArrangedSplits)
    for method in (cv.arrange, cv.restore, lambda values: list(cv.split(values))):
        with pytest.raises(InvalidParameterError, match="5999 rows"):
            method(X[1:])
    with pytest.raises(InvalidParameterError, match="has no rows"):
        next(cv.split(None))
