"""The candidates of a search share their scattered folds."""

from __future__ import annotations

import os
import signal
import threading
import zlib
from typing import Any

import joblib
import numpy as np
import pytest
from loky.process_executor import TerminatedWorkerError
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    KFold,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    cross_validate,
)
from sklearn.tree import DecisionTreeClassifier

import skl_mmap
from skl_mmap.memory import _gathered_folds, can_remap
from tests.backend.common import SegmentWatch, use_mmap

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

RNG = np.random.default_rng(0)
X = RNG.random((3000, 70))
Y = RNG.integers(0, 3, 3000)
GROUPS = RNG.integers(0, 40, 3000)
FIRST = KFold(3, shuffle=True, random_state=0)
OTHER = KFold(3, shuffle=True, random_state=1)


class Checksum(ClassifierMixin, BaseEstimator):  # type: ignore[misc]
    """Scores folds by each byte of them and its place, and writes to them."""

    def __init__(self, number: int = 0) -> None:
        self.number = number

    def fit(self, X: Any, y: Any) -> Any:
        self.classes_ = np.arange(3)
        self.sum_ = take_in(X) + take_in(y)
        return self

    def score(self, X: Any, y: Any) -> float:
        return float(take_in(X) + take_in(y) + self.sum_ + self.number)


def take_in(values: Any) -> int:
    """Return a checksum of an array or frame, and overwrite it."""
    array = np.asarray(values)
    flags = array.flags
    looks = 2 * flags.c_contiguous + flags.f_contiguous
    found = zlib.crc32(array.tobytes(), looks)
    if isinstance(values, np.ndarray):
        array[...] = 7
    return found


def arm() -> None:
    """Let this worker die when it has gathered half of some pages."""

    def die(filler: Any, first: int, stop: int) -> None:
        os.pwrite(filler._fd, b"x" * 5000, filler.place_of(first))
        os.kill(os.getpid(), signal.SIGKILL)

    _gathered_folds._FoldFiller._copy = die  # type: ignore[method-assign]


def search(X: Any, cv: Any = FIRST, n_candidates: int = 3, **more: Any) -> list[Any]:
    grid = {"number": list(range(n_candidates))}
    found = GridSearchCV(Checksum(), grid, cv=cv, refit=False)
    results = found.fit(X, Y, **more).cv_results_
    return [results[key].tolist() for key in sorted(results) if "_test_score" in key]


def folds_bytes(report: Any) -> int:
    """Return what folds of X have taken."""
    return sum(s.n_bytes for s in report.segments if s.is_of_folds and "70)" in str(s))


@pytest.mark.parametrize(
    ("cv", "dtype", "order"),
    [
        (FIRST, "f8", "C"),
        (StratifiedKFold(4, shuffle=True, random_state=0), "f4", "C"),
        (GroupKFold(3), "f8", "F"),
        (RepeatedKFold(n_splits=2, n_repeats=2, random_state=0), "i4", "C"),
        (ShuffleSplit(3, random_state=0), "f8", "C"),
    ],
    ids=lambda value: str(value).partition("(")[0],
)
def test_searches_equal_those_in_one_process(cv: Any, dtype: str, order: Any) -> None:
    data = np.asarray(100 * X, dtype=dtype, order=order)
    if data.dtype.kind == "f":
        data[::11, 5] = np.nan
    more = {"groups": GROUPS} if isinstance(cv, GroupKFold) else {}
    expected = search(data, cv, **more)
    with use_mmap(n_jobs=4, layouts="given"), skl_mmap.measure() as report:
        assert search(data, cv, **more) == expected
    rows = [rows for split in cv.split(X, Y, **more) for rows in split]
    assert report.copy_reasons["GATHERED"] >= 3 * sum(data[r].nbytes for r in rows)
    assert "NOT_BY_ROW" not in report.copy_reasons
    # The train set of one split may be the test set of another.
    n_bytes = sum(data[r].nbytes for r in {r.tobytes(): r for r in rows}.values())
    assert n_bytes <= folds_bytes(report) < 1.05 * n_bytes + 40 * 4096


def test_converted_copies_are_gathered_as_well() -> None:
    def fit() -> Any:
        grid = {"max_depth": [1, 2]}
        tree = DecisionTreeClassifier(random_state=0)
        found = GridSearchCV(tree, grid, cv=FIRST, refit=False).fit(X, Y)
        return found.cv_results_["mean_test_score"].tolist()

    expected = fit()
    with use_mmap(n_jobs=4), skl_mmap.measure() as report:
        assert fit() == expected
    (record,) = (s for s in report.segments if s.is_of_folds and "70)" in str(s))
    assert "float32" in record.description


def test_the_next_search_has_its_own_folds() -> None:
    watch = SegmentWatch()
    refilled = X.copy()
    expected = [search(X, FIRST), search(X, OTHER), search(X + 1, OTHER)]
    with use_mmap(n_jobs=4, layouts="given"):
        found = [search(refilled, FIRST), search(refilled, OTHER)]
        refilled += 1
        found.append(search(refilled, OTHER))
    assert found == expected
    assert watch.wait()


def test_two_searches_at_the_same_time_have_their_own_folds() -> None:
    expected = {1: search(X, FIRST), 2: search(X + 1, OTHER)}
    found: dict[int, Any] = {}

    def run(number: int, data: Any, cv: Any) -> None:
        with use_mmap(n_jobs=4, layouts="given"):
            found[number] = search(data, cv)

    threads = [
        threading.Thread(target=run, args=arguments)
        for arguments in ((1, X, FIRST), (2, X + 1, OTHER))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_more_splits_than_workers_and_single_candidates_copy_their_folds() -> None:
    with use_mmap(n_jobs=4), skl_mmap.measure() as report:
        search(X, KFold(5, shuffle=True, random_state=0))
        search(X, n_candidates=1)
        cross_validate(Checksum(), X, Y, cv=FIRST)
    assert not folds_bytes(report)
    assert "GATHERED" not in report.copy_reasons


def test_after_a_worker_has_died_while_gathering_results_are_right() -> None:
    expected = search(X)
    with use_mmap(n_jobs=4, layouts="given"):
        joblib.Parallel(batch_size=1)(joblib.delayed(arm)() for _ in range(6))
        with pytest.raises(TerminatedWorkerError):
            search(X)
        assert search(X) == expected


def test_frames_are_gathered_in_their_order() -> None:
    pd = pytest.importorskip("pandas")
    frames = [pd.DataFrame(X), pd.DataFrame(X.copy(), copy=False)]
    expected = [search(frame) for frame in frames]
    for frame, scores in zip(frames, expected, strict=True):
        with use_mmap(n_jobs=4, layouts="given"), skl_mmap.measure() as report:
            assert search(frame) == scores
        assert "GATHERED" in report.copy_reasons
        assert 0 < sum(s.n_bytes for s in report.segments if s.is_of_folds)
