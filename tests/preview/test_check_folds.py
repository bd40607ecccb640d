"""check_folds: kinds, reasons, remedies that help, errors, and the report."""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    RepeatedKFold,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.svm import SVC

import skl_mmap
from skl_mmap import FoldReport, check_folds
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import can_remap

# What is refused, and why, is the same on all systems.
mapped = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

# 64 rows fill a page, and 30 000 rows of 64 bytes are 1.8 MiB.
N_ROWS = 30_000
X = np.random.default_rng(0).random((N_ROWS, 8))
Y = np.random.default_rng(1).integers(0, 4, N_ROWS)
ANY_ORDER = 'parallel_config("mmap", n_jobs=4, row_order="any")'


def kinds(report: FoldReport) -> list[tuple[str, str]]:
    return [(fold.train.kind, fold.test.kind) for fold in report.folds]


def only(texts: tuple[str, ...]) -> str:
    (text,) = texts
    return text


@mapped
def test_one_run_is_a_view_and_pages_that_agree_are_joined() -> None:
    report = check_folds(KFold(3), X[:24_576])
    assert kinds(report) == [
        ("view", "view"),
        ("joined view", "view"),
        ("view", "view"),
    ]
    assert report.copied_bytes == 0
    assert report.mapped_bytes == 3 * 24_576 * 64
    assert report.reasons == report.remedies == ()


@mapped
def test_a_seam_is_a_joined_view_and_half_a_fold_is_a_copy(tmp_path: Path) -> None:
    # The header of the file shifts the rows, so that one page has rows of both runs.
    np.save(tmp_path / "x.npy", X[:24_576])
    in_file = np.load(tmp_path / "x.npy", mmap_mode="r")
    train = check_folds(KFold(3), in_file).folds[1].train
    assert (train.kind, train.copied_bytes, train.n_runs) == ("joined view", 4096, 2)
    # The second run begins at row 17 143, in another place of a page than before.
    train = check_folds(7, X).folds[3].train
    assert (train.kind, train.copied_bytes > 12_000 * 64) == ("part copied", True)


@mapped
def test_pages_are_the_reason_and_the_unit_is_named() -> None:
    report = check_folds(7, X)
    assert "a multiple of 64 (the rows that fill whole pages)" in only(report.reasons)
    assert only(report.remedies) == ANY_ORDER
    better = check_folds(7, X, row_order="any")
    assert better.copied_bytes < report.copied_bytes / 4


@mapped
def test_another_number_of_splits_is_suggested_if_it_makes_whole_pages() -> None:
    report = check_folds(KFold(5), X[:24_576])
    assert report.remedies == (ANY_ORDER, "cv = KFold(n_splits=4)")
    assert check_folds(KFold(4), X[:24_576]).copied_bytes == 0


@mapped
@pytest.mark.parametrize("classifier", [True, False])
def test_shuffled_folds(classifier: bool) -> None:
    splitter = StratifiedKFold if classifier else KFold
    cv: Any = splitter(3, shuffle=True, random_state=0)
    report = check_folds(cv, X, Y)
    assert kinds(report) == [("copied", "copied")] * 3
    assert f"{splitter.__name__} shuffles" in only(report.reasons)
    assert only(report.remedies) == "X, y, cv = skl_mmap.arrange(X, y, cv=cv)"
    arranged, y, cv = skl_mmap.arrange(X, Y, cv=cv)
    better = check_folds(cv, arranged, y)
    assert all(fold.test.kind == "view" for fold in better.folds)
    assert better.copied_bytes < report.copied_bytes / 2


@mapped
@pytest.mark.parametrize(
    "cv", [ShuffleSplit(2, test_size=0.4), RepeatedKFold(n_splits=3, n_repeats=2)]
)
def test_what_is_no_partition_cannot_be_arranged(cv: Any) -> None:
    report = check_folds(cv, X, Y)
    assert f"{type(cv).__name__} shuffles" in only(report.reasons)
    n_splits = 2 if isinstance(cv, ShuffleSplit) else 3
    folds = f"KFold({n_splits}, shuffle=True, random_state=0)"
    assert only(report.remedies) == f"X, y, cv = skl_mmap.arrange(X, y, cv={folds})"


@mapped
def test_stratified_folds_of_unsorted_and_of_sorted_classes() -> None:
    y = np.arange(N_ROWS) // 2 % 2  # pairs of rows
    cv = [
        (np.flatnonzero(y == 0), np.flatnonzero(y == 1)),
        (np.flatnonzero(y == 1), np.flatnonzero(y == 0)),
    ]
    report = check_folds(cv, X, y)
    assert "many short runs" in only(report.reasons)
    assert only(report.remedies) == "X, y, cv = skl_mmap.arrange(X, y, cv=cv)"
    # A class of every second row that is used up early leaves gaps of one row.
    y = np.where(np.arange(N_ROWS) < 9000, np.arange(N_ROWS) % 2, 0)
    report = check_folds(StratifiedKFold(2), X, y)
    assert "splits each class for itself, and y is not sorted" in report.reasons[0]
    report = check_folds(StratifiedKFold(2), X, np.sort(y))
    assert not any("sorted" in reason for reason in report.reasons)
    assert not any("copied" == rows.kind for f in report.folds for rows in f.parts)


@mapped
def test_scattered_groups() -> None:
    groups = np.random.default_rng(2).integers(0, 9, N_ROWS)
    report = check_folds(GroupKFold(3), X, Y, groups)
    assert "those of each group of GroupKFold" in only(report.reasons)
    remedy = "X, y, cv = skl_mmap.arrange(X, y, cv=cv, groups=groups)"
    assert only(report.remedies) == remedy
    assert check_folds(GroupKFold(3), X, None, groups).remedies == (
        "X, _, cv = skl_mmap.arrange(X, cv=cv, groups=groups)",
    )
    together = np.arange(N_ROWS) * 3 // N_ROWS
    assert check_folds(GroupKFold(3), X, Y, together).copied_bytes < X.nbytes


@mapped
def test_fortran_order() -> None:
    fortran = np.asfortranarray(X)
    report = check_folds(3, fortran)
    assert "X is in Fortran order" in only(report.reasons)
    assert only(report.remedies) == 'X = skl_mmap.share(X, order="C")'
    better = check_folds(3, skl_mmap.share(fortran, order="C"))
    assert better.copied_bytes < report.copied_bytes / 4
    scattered = check_folds(KFold(3, shuffle=True), fortran, Y)
    assert "Fortran" in only(scattered.reasons)
    assert "shuffles" in only(scattered.reasons)
    assert "arrange" in only(scattered.remedies)


@mapped
def test_frames_by_column() -> None:
    frame = pd.DataFrame(np.asfortranarray(X))
    report = check_folds(3, frame)
    assert "the frame lies column by column" in only(report.reasons)
    assert report.remedies == (ANY_ORDER, 'X = skl_mmap.share(X, order="C")')
    with skl_mmap.share(frame, order="C") as shared:
        assert check_folds(3, shared).copied_bytes < report.copied_bytes / 4
    assert check_folds(3, frame, row_order="any").copied_bytes < report.copied_bytes / 2


@mapped
def test_columns_that_cannot_be_mapped() -> None:
    # Column by column, whatever the release of pandas makes of an array.
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({name: rng.random(100_000) for name in "abc"})
    frame["text"] = pd.Series(["a", "b"] * 50_000, dtype=object)
    report = check_folds(3, frame)
    assert kinds(report) == [("part copied", "part copied")] * 3
    assert any("columns of dtype object" in reason for reason in report.reasons)
    assert any("category" in remedy for remedy in report.remedies)
    # After astype(), each column lies for itself.
    text = frame.astype({"text": "string[pyarrow]"})
    # Of less than min_bytes each, they are shared together.
    better = check_folds(3, text)
    assert kinds(better)[0] == ("view", "view")
    assert better.copied_bytes < report.copied_bytes / 2


@mapped
def test_small_folds_are_copied_without_a_remedy() -> None:
    report = check_folds(KFold(10), X)
    test = report.folds[0].test
    assert (test.kind, test.remedy) == ("copied", "")
    assert "less than 256.0 KiB" in test.reason
    assert (test.uncounted_bytes, test.copied_bytes) == (3000 * 64, 3000 * 64)
    frame = pd.DataFrame({"a": np.arange(N_ROWS), "b": np.ones(N_ROWS, "f4")})
    assert check_folds(2, frame, min_bytes="16K").copied_bytes == 0
    report = check_folds(10, pd.concat([frame] * 3, axis=1, ignore_index=True))
    assert "rows of less than 256.0 KiB are not mapped" in report.folds[0].test.reason


@pytest.mark.parametrize(
    ("given", "reason", "remedy"),
    [
        (X[:100], "X has 6.2 KiB, less than min_bytes (1.0 MiB)", None),
        (X.tolist(), "X is of type list, which is not shared", "X = np.asarray(X)"),
        (X.astype(object), "X holds Python objects (dtype object)", "X.astype(float)"),
        (np.ma.masked_less(X, 0.5), "X is a MaskedArray, and only plain", "np.asarray"),
        (pd.DataFrame(X[:100]), "X has 6.2 KiB, less than min_bytes", None),
        (pl.DataFrame(X[:100]), "X has 6.2 KiB, less than min_bytes", None),
    ],
    ids=["small", "list", "objects", "masked", "small frame", "small polars frame"],
)
@mapped
def test_what_is_not_shared_is_copied(
    given: Any, reason: str, remedy: str | None
) -> None:
    report = check_folds(3, given)
    assert kinds(report) == [("copied", "copied")] * 3
    assert reason in only(report.reasons)
    assert len(report.remedies) == (remedy is not None)
    assert remedy is None or remedy in only(report.remedies)
    assert report.mapped_bytes == 0
    assert report.copied_bytes == sum(
        rows.uncounted_bytes for fold in report.folds for rows in fold.parts
    )


@mapped
def test_polars_filters_by_masks() -> None:
    frame = pl.DataFrame(X)
    mask = np.arange(N_ROWS) < 20_000
    report = check_folds([(mask, ~mask)], frame)
    assert kinds(report) == [("copied", "copied")]
    assert "a mask selects the rows, which is left to polars" in only(report.reasons)
    better = check_folds([(np.flatnonzero(mask), np.flatnonzero(~mask))], frame)
    assert better.copied_bytes == 0


@mapped
def test_files_that_are_open_for_writing(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    np.save(path, X)
    report = check_folds(2, np.load(path, mmap_mode="r+"))
    assert "open for writing" in only(report.reasons)
    assert only(report.remedies) == f'X = np.load({str(path)!r}, mmap_mode="r")'
    assert check_folds(2, np.load(tmp_path / "x.npy", mmap_mode="r")).copied_bytes == 0


@mapped
def test_min_bytes() -> None:
    assert check_folds(2, X, min_bytes="1M").copied_bytes == 0
    report = check_folds(2, X, min_bytes="2M")
    assert "less than min_bytes (2.0 MiB)" in only(report.reasons)
    assert only(report.remedies) == 'parallel_config("mmap", n_jobs=4)'
    assert check_folds(2, X[:256], min_bytes=1).copied_bytes == 0
    report = check_folds(2, X[:64], min_bytes=1)
    assert "fills no page" in only(report.reasons)
    assert "min_bytes=None" in only(check_folds(2, X, min_bytes=None).reasons)


def test_where_pages_cannot_be_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
    report = check_folds(3, X, row_order="any")
    assert kinds(report) == [("copied", "copied")] * 3
    assert "this system cannot map" in only(report.reasons)
    assert report.copied_bytes == 3 * X.nbytes


@mapped
def test_the_estimator_decides_what_an_int_means() -> None:
    classifier = LogisticRegression()
    assert check_folds(3, X, Y).title.startswith("KFold(")
    title = check_folds(3, X, Y, estimator=classifier).title
    assert title.startswith("StratifiedKFold(")
    assert check_folds(3, X, X[:, 0], estimator=classifier).title.startswith("KFold(")


@mapped
def test_pairwise_estimators_select_columns_too() -> None:
    kernel = np.ones((900, 900))
    estimator = SVC(kernel="precomputed")
    report = check_folds(KFold(3), kernel, estimator=estimator)
    assert kinds(report) == [("copied", "copied")] * 3
    assert "of which columns are selected too" in only(report.reasons)
    assert report.folds[0].train.copied_bytes == 600 * 600 * 8
    assert report.folds[0].test.copied_bytes == 300 * 600 * 8
    assert check_folds(KFold(3), kernel, estimator=SVC()).mapped_bytes > 0
    with pytest.raises(InvalidParameterError, match=r"shape \(30000, 8\)"):
        check_folds(KFold(3), X, estimator=estimator)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cv": 1}, "cannot split|gives no train and test sets"),
        ({"cv": "five"}, "cv='five' gives no train and test sets. Pass an int"),
        ({"cv": KFold(40_000)}, "cannot split 30000 rows: .*n_splits=40000"),
        ({"cv": GroupKFold(2)}, "cannot split 30000 rows: .*groups"),
        ({"cv": [([0, N_ROWS], [1])]}, "train set of split 0 has the index 30000"),
        ({"cv": [([0], [1, -40_000])]}, "test set of split 0 has the index -40000"),
        ({"cv": [([True], [1])]}, "shape \\(1,\\) and dtype bool, and X has 30000"),
        ({"cv": [([0.5], [1])]}, "train set of split 0 .* selects no rows"),
        ({"cv": [([[0]], [1])]}, "shape \\(1, 1\\)"),
        ({"cv": [(1, 2, 3)]}, "cannot split 30000 rows"),
        ({"y": Y[:10]}, "do not fit together: .*inconsistent numbers of samples"),
        ({"groups": Y[:10]}, "do not fit together"),
        ({"X": "x.npy"}, r"Pass skl_mmap.load\(X\)"),
        ({"X": Path("x.npy")}, r"Pass skl_mmap.load\(X\)"),
        ({"row_order": "random"}, "row_order='random' is not known"),
        ({"min_bytes": "much"}, "min_bytes='much' is not a size"),
    ],
)
def test_what_cannot_be_checked(arguments: dict[str, Any], message: str) -> None:
    given = {"cv": 3, "X": X, **arguments}
    with pytest.raises(InvalidParameterError, match=message) as caught:
        check_folds(**given)
    assert len(str(caught.value)) > 60
    assert str(caught.value).endswith(".")


def test_an_iterator_of_splits_is_gone_through_once() -> None:
    report = check_folds(iter(KFold(3).split(X)), X)
    assert len(report.folds) == 3
    assert report.title.startswith("a list of splits on ndarray (30000, 8) float64")


@mapped
def test_nothing_is_changed_or_kept() -> None:
    data = X.copy()
    before = data.copy()
    report = check_folds(KFold(3, shuffle=True), data, row_order="any")
    np.testing.assert_array_equal(data, before)
    assert sys.getrefcount(data) == 2
    assert pickle.loads(pickle.dumps(report)) == report


@mapped
def test_the_report_as_text() -> None:
    text = str(check_folds(7, X, row_order="exact"))
    title = text.splitlines()[0]
    assert title.startswith("KFold(n_splits=7, ")
    assert title.endswith(" on ndarray (30000, 8) float64, row_order='exact'")
    assert text.count("  train  ") == text.count("   test  ") == 7
    assert text.count("(1)") > 2
    assert f"  try: {ANY_ORDER}" in text
    assert "mapped, " in text
    assert all(line == line.rstrip() for line in text.splitlines())


@mapped
def test_long_reports_are_folded() -> None:
    report = check_folds(TimeSeriesSplit(40), X)
    text = str(report)
    assert "and 31 more splits" in text
    assert text.count(" train ") == 9
    assert len(report.folds) == 40
    assert "  39 " in text


@mapped
def test_the_report_as_a_frame() -> None:
    report = check_folds(7, X)
    frame = report.to_frame()
    assert frame.shape == (14, 9)
    assert frame["copied_bytes"].sum() == report.copied_bytes
    assert frame["mapped_bytes"].sum() == report.mapped_bytes
    assert frame["split"].tolist() == [i // 2 for i in range(14)]
    n_rows = frame.loc[frame["part"] == "train", "n_rows"]
    assert n_rows.tolist() == [fold.train.n_rows for fold in report.folds]


def test_the_extra_is_named_where_pandas_is_missing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    report = check_folds(3, X)
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match=r"install 'skl-mmap\[tables\]'"):
        report.to_frame()


@mapped
def test_what_concerns_most_bytes_comes_first() -> None:
    rows = np.arange(N_ROWS)
    report = check_folds([(rows[::2], rows[:300])], X)
    assert "scattered" in report.reasons[0]
    assert "less than" in report.reasons[1]


@pytest.mark.parametrize(
    "make_y", [list, pd.Series, lambda y: np.array(y, dtype=object)]
)
def test_the_target_may_be_anything(make_y: Any) -> None:
    y = make_y([None, "text", 3.0] * (N_ROWS // 3))
    assert len(check_folds(KFold(3, shuffle=True), X, y).folds) == 3
    assert len(check_folds(3, X, np.c_[X, X]).folds) == 3
    column = pd.DataFrame({"y": Y})
    assert len(check_folds(StratifiedKFold(3), X, column).folds) == 3


@mapped
def test_train_sets_that_are_not_all_other_rows_cannot_be_arranged() -> None:
    rows = np.random.default_rng(4).permutation(N_ROWS)
    parts = rows.reshape(3, -1)
    others = [np.delete(parts, number, axis=0).ravel() for number in range(3)]
    arrange_call = "skl_mmap.arrange(X, cv=cv)"
    cv = list(zip(others, parts, strict=True))
    assert arrange_call in only(check_folds(cv, X).remedies)
    # The test sets are the same, and each row is tested once.
    cv = [(train[:-1], test) for train, test in cv]
    assert not any(arrange_call in remedy for remedy in check_folds(cv, X).remedies)
    with pytest.raises(InvalidParameterError, match="not the complement"):
        skl_mmap.arrange(X, cv=cv)
    # Each train set is all other rows, and rows are tested twice.
    cv = [(others[0], parts[0]), (others[1], parts[1]), (others[0], parts[0])]
    assert not any(arrange_call in remedy for remedy in check_folds(cv, X).remedies)


@mapped
@pytest.mark.parametrize(
    ("n_units", "kind"), [(60, "part copied"), (90, "joined view")]
)
def test_two_percent_may_be_copied_of_a_joined_view(n_units: int, kind: str) -> None:
    # Cut to units of 512 rows, two runs leave 76, 412 and 400 rows: more than seams.
    stop = 512 * n_units
    train = np.r_[0 : stop + 76, stop + 612 : stop + 12 * 512 + 400]
    cv = [(train, np.arange(stop + 100, stop + 500))]
    zeros = np.zeros((stop + 10_000, 8))
    rows = check_folds(cv, zeros, row_order="any").folds[0].train
    assert 2 * 2 * 4096 < rows.copied_bytes <= (76 + 412 + 400) * 64
    share = rows.copied_bytes / (rows.copied_bytes + rows.mapped_bytes)
    assert (share <= 0.02) == (kind == "joined view")
    assert rows.kind == kind


@mapped
@pytest.mark.parametrize("n_more", [0, 512])
def test_another_order_is_advised_if_it_copies_less_than_half(n_more: int) -> None:
    train = np.r_[0:20_000, 20_481 : 20_481 + 1123 + n_more]
    cv = [(train, np.arange(20_100, 20_400))]
    rows = check_folds(cv, X).folds[0].train
    better = check_folds(cv, X, row_order="any").folds[0].train
    assert (rows.kind, better.copied_bytes < rows.copied_bytes) == ("part copied", True)
    is_half = better.copied_bytes < rows.copied_bytes / 2
    assert is_half == bool(n_more)
    assert ("row_order" in rows.remedy) == is_half


@mapped
@pytest.mark.parametrize("is_sorted", [True, False])
def test_sorted_classes_are_not_the_reason(is_sorted: bool) -> None:
    y = np.arange(N_ROWS) // 100
    if not is_sorted:
        y[-100:] = 0  # the first class comes twice
    report = check_folds(StratifiedKFold(3), X, y)
    assert ("y is not sorted" in report.reasons[0]) == (not is_sorted)
    assert ("many short runs" in report.reasons[0]) == is_sorted
