"""What check_folds predicts is what tasks of the backend then do, byte for byte."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
from scipy import sparse
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    LeaveOneGroupOut,
    PredefinedSplit,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.utils import _safe_indexing, indexable

import skl_mmap
from skl_mmap import FoldReport, check_folds
from skl_mmap.memory import can_remap, counters
from tests.memory.sharing import take_counted

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

N_ROWS = 30_000
ROWS = np.arange(N_ROWS)
UNSORTED = np.random.default_rng(0).integers(0, 3, N_ROWS)
SORTED = np.sort(UNSORTED)
GROUPS = ROWS * 7 // N_ROWS

Counted = tuple[int, dict[str, int]]


def halves(first: Any, second: Any) -> list[tuple[Any, Any]]:
    return [(first, second), (second, first)]


# By name: the splitter, y and groups.
SPLITTERS: dict[str, tuple[Any, Any, Any]] = {
    "KFold": (KFold(3), UNSORTED, None),
    "KFold of two": (KFold(2), UNSORTED, None),
    "KFold, shuffled": (KFold(2, shuffle=True, random_state=0), UNSORTED, None),
    "StratifiedKFold, sorted": (StratifiedKFold(2), SORTED, None),
    "StratifiedKFold, unsorted": (StratifiedKFold(2), UNSORTED, None),
    "GroupKFold": (GroupKFold(2), UNSORTED, GROUPS),
    "GroupKFold, scattered": (GroupKFold(2), UNSORTED, UNSORTED),
    "TimeSeriesSplit": (TimeSeriesSplit(3), UNSORTED, None),
    "ShuffleSplit": (ShuffleSplit(1, test_size=0.4, random_state=0), UNSORTED, None),
    "LeaveOneGroupOut": (LeaveOneGroupOut(), UNSORTED, GROUPS),
    "PredefinedSplit": (PredefinedSplit(GROUPS // 3 - 1), UNSORTED, None),
    "RepeatedKFold": (RepeatedKFold(n_splits=2, n_repeats=1), UNSORTED, None),
    "lists": (halves(ROWS[:100].tolist(), ROWS[100:].tolist()), UNSORTED, None),
    "masks": (halves(ROWS < 9000, ROWS >= 9000), UNSORTED, None),
    "rows twice": (halves(np.r_[0:20_000, 0:9000], ROWS[::-1]), UNSORTED, None),
    "from the end": (halves(-1 - ROWS, np.r_[-9000:0, 0:9000]), UNSORTED, None),
    "no test rows": ([(ROWS, ROWS[:0])], UNSORTED, None),
    "many runs": (halves(ROWS[ROWS % 40 > 0], ROWS[ROWS % 400 > 0]), UNSORTED, None),
}


def dense(n_columns: int = 12, dtype: Any = float) -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).random((N_ROWS, n_columns)).astype(dtype)


def numpy_file(folder: Path, mode: Any) -> Any:
    np.save(folder / "x.npy", dense())
    return np.load(folder / "x.npy", mmap_mode=mode)


def joined_view() -> Any:
    shared = skl_mmap.share(np.vstack([dense(), dense()]))
    # 511 rows are no whole number of pages: the second half is copied to it.
    return shared[np.r_[0 : N_ROWS // 2, N_ROWS // 2 + 511 : N_ROWS + 511]]


def written_to() -> Any:
    shared = joined_view()
    shared[5] = 0.0
    return shared


def mixed_frame(n_columns: int = 2, dtype: Any = "f8") -> Any:
    numbers = np.random.default_rng(2)
    frame = pd.DataFrame(dense(n_columns, dtype)).add_prefix("number")
    frame["small"] = numbers.integers(0, 9, N_ROWS).astype("i1")
    frame["category"] = pd.Categorical(numbers.integers(0, 9, N_ROWS))
    frame["nullable"] = pd.array(numbers.integers(0, 9, N_ROWS), dtype="Int64")
    frame["object"] = pd.Series([str(i) for i in range(N_ROWS)], dtype=object)
    return frame


def arrow_frame() -> Any:
    return mixed_frame().astype({"object": "string[pyarrow]"})


def labelled_frame() -> Any:
    labels = np.random.default_rng(3).permutation(N_ROWS) * 1_000_003
    return pd.DataFrame(dense(), index=labels, copy=False)


LAYOUTS: dict[str, Any] = {
    "C, float64": lambda _: dense(),
    "C, float32": lambda _: dense(32, "f4"),
    "rows of 104 bytes": lambda _: dense(13),
    "Fortran": lambda _: np.asfortranarray(dense()),
    "every second column": lambda _: dense(24)[:, ::2],
    "upside down": lambda _: dense()[::-1],
    "SharedArray, upside down": lambda _: skl_mmap.share(dense())[::-1],
    "three dimensions": lambda _: dense(24).reshape(N_ROWS, 2, 12),
    "SharedArray": lambda _: skl_mmap.share(dense()),
    "joined view": lambda _: joined_view(),
    "joined view, written to": lambda _: written_to(),
    "part of a SharedArray": lambda _: skl_mmap.share(np.ones((40_000, 12)))[7:30_007],
    "file, r": lambda folder: numpy_file(folder, "r"),
    "file, c": lambda folder: numpy_file(folder, "c"),
    "file, r+": lambda folder: numpy_file(folder, "r+"),
    "frame by column": lambda _: pd.DataFrame(np.asfortranarray(dense())),
    "frame by row": lambda _: pd.DataFrame(dense(), copy=False),
    "frame with labels": lambda _: labelled_frame(),
    "shared frame": lambda _: skl_mmap.share(pd.DataFrame(dense())),
    "mixed frame": lambda _: mixed_frame(),
    "shared mixed frame": lambda _: skl_mmap.share(mixed_frame()),
    "wide mixed frame": lambda _: mixed_frame(100, "i1"),
    "frame of Arrow text": lambda _: mixed_frame().astype(
        {"object": "string[pyarrow]"}
    ),
    "series": lambda _: pd.Series(np.arange(4.0 * N_ROWS)[:N_ROWS].repeat(5)[:N_ROWS]),
    "polars": lambda _: pl.DataFrame(dense()),
    "CSR": lambda _: sparse.random(N_ROWS, 90, 0.2, format="csr", random_state=0),
    "CSR array, float32": lambda _: sparse.csr_array(
        sparse.random(N_ROWS, 90, 0.2, dtype="f4", random_state=0)
    ),
    "CSC": lambda _: sparse.random(N_ROWS, 90, 0.2, format="csc", random_state=0),
    "objects": lambda _: dense(6).astype(object),
    "masked": lambda _: np.ma.masked_less(dense(), 0.5),
    "small": lambda _: dense(2, "f4"),
}


def count_selections(X: Any, y: Any, train: Any, test: Any) -> tuple[Counted, Counted]:
    """Select rows in a worker, and return what it counts for each of the two sets."""
    counted = []
    for rows in (train, test):
        counters.take()
        selected = _safe_indexing(X, rows)
        counted.append(take_counted())
        del selected
    return counted[0], counted[1]


# To save time: of these, either order of the rows tells the same.
ONE_ORDER = {
    *("rows of 104 bytes", "every second column", "three dimensions", "file, c"),
    *("joined view, written to", "part of a SharedArray", "SharedArray, upside down"),
    *("shared frame", "shared mixed frame", "wide mixed frame", "series", "CSC"),
    *("CSR array, float32", "objects", "masked", "small"),
}


@pytest.mark.parametrize(
    ("layout", "row_order"),
    [
        *((layout, "exact") for layout in LAYOUTS),
        *((layout, "any") for layout in LAYOUTS if layout not in ONE_ORDER),
    ],
)
def test_prediction_is_what_workers_do(
    layout: str, row_order: str, tmp_path: Path
) -> None:
    X = LAYOUTS[layout](tmp_path)
    (X,) = indexable(X)
    # Looking at a hundred columns takes time.
    n_splitters = 4 if layout.startswith("wide") else len(SPLITTERS)
    splits = {
        name: list(given[0] if isinstance(given[0], list) else split(*given))
        for name, given in list(SPLITTERS.items())[:n_splitters]
    }
    select = joblib.delayed(count_selections)
    for name, both in splits.items():
        y = SPLITTERS[name][1]
        # In a call of its own: what tasks of one share has its limit.
        with joblib.parallel_config(backend="mmap", n_jobs=4, row_order=row_order):
            real = joblib.Parallel()(
                select(X, y, train=train, test=test) for train, test in both
            )
        assert_equal(check_folds(both, X, y, row_order=row_order), real, name)


def split(splitter: Any, y: Any, groups: Any) -> Any:
    return splitter.split(np.empty((N_ROWS, 0)), y, groups)


def assert_equal(
    report: FoldReport, real: list[tuple[Counted, Counted]], name: str
) -> None:
    for fold, counted in zip(report.folds, real, strict=True):
        for rows, (mapped_bytes, copy_reasons) in zip(fold.parts, counted, strict=True):
            where = f"{name}, {fold.split}, {rows.part}"
            assert rows.mapped_bytes == mapped_bytes, where
            assert rows.copy_reasons == copy_reasons, where
            copied_bytes = sum(copy_reasons.values()) + rows.uncounted_bytes
            assert rows.copied_bytes == copied_bytes, where
            is_copy = rows.kind in ("part copied", "copied")
            assert bool(rows.reason) == is_copy, where


def test_labels_that_are_dates_are_selected_as_predicted() -> None:
    n_rows = 150_000  # so many dates are shared
    splits = list(KFold(3).split(np.empty((n_rows, 0))))
    labels = pd.date_range("2000", periods=n_rows, freq="s")
    for values in (np.ones((n_rows, 2)), np.asfortranarray(np.ones((n_rows, 2)))):
        X = pd.DataFrame(values, index=labels, copy=False)
        tasks = [
            joblib.delayed(count_selections)(X, None, train=train, test=test)
            for train, test in splits
        ]
        with joblib.parallel_config(backend="mmap", n_jobs=4):
            counted = joblib.Parallel()(tasks)
        assert_equal(check_folds(splits, X), counted, "dates")


@pytest.mark.parametrize("layout", ["C, float64", "Fortran", "SharedArray", "small"])
@pytest.mark.parametrize("row_order", ["exact", "any"])
def test_every_selected_byte_is_mapped_or_copied(
    layout: str, row_order: str, tmp_path: Path
) -> None:
    X = LAYOUTS[layout](tmp_path)
    row_bytes = X.nbytes // len(X)
    for cv, y, groups in SPLITTERS.values():
        for fold in check_folds(cv, X, y, groups, row_order=row_order).folds:
            for rows in fold.parts:
                n_bytes = rows.mapped_bytes + rows.copied_bytes
                assert n_bytes == rows.n_rows * row_bytes
