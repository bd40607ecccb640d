"""Every line that check_folds advises, pasted and run: folds are mapped then."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from sklearn.model_selection import (
    GroupKFold,
    KFold,
    ShuffleSplit,
    StratifiedKFold,
    check_cv,
)
from sklearn.utils import _safe_indexing, indexable

import skl_mmap
from skl_mmap.memory import Remedy, can_remap
from tests.memory.sharing import take_counted

pytestmark = pytest.mark.skipif(not can_remap(), reason="maps pages freely")

N_ROWS = 30_000
RNG = np.random.default_rng(0)
X = RNG.random((N_ROWS, 8))
Y = RNG.integers(0, 3, N_ROWS)
GROUPS = RNG.integers(0, 9, N_ROWS)
MASKS = [(np.arange(N_ROWS) < 20_000, np.arange(N_ROWS) >= 20_000)]
SHUFFLED = KFold(3, shuffle=True, random_state=0)


def make_file(folder: Path) -> Any:
    np.save(folder / "x.npy", X)
    return np.load(folder / "x.npy", mmap_mode="r+")


def make_raw_file(folder: Path) -> Any:
    X.tofile(folder / "x.bin")
    return np.memmap(folder / "x.bin", "f8", "r+", shape=X.shape)


def make_text(_: Path) -> Any:
    text = pd.Series(["a", "b"] * (3 * N_ROWS), dtype=object)
    return pd.DataFrame({"a": np.arange(6.0 * N_ROWS), "text": text})


@dataclass(frozen=True)
class Situation:
    """Data and splits that call for a remedy."""

    remedy: Remedy
    make: Callable[[Path], Any] = lambda _: X.copy()
    cv: Any = 3
    y: Any = None
    groups: Any = None
    min_bytes: Any = "1M"


FORTRAN = np.asfortranarray(X)
SITUATIONS = (
    Situation(Remedy.ANY_ORDER, cv=KFold(7)),
    Situation(Remedy.ANY_ORDER, lambda _: pd.DataFrame(FORTRAN)),
    Situation(Remedy.WHOLE_PAGES, lambda _: X[:24_576], cv=KFold(5)),
    Situation(Remedy.ARRANGE, cv=SHUFFLED, y=Y),
    Situation(Remedy.ARRANGE, cv=ShuffleSplit(4, random_state=0), y=Y),
    Situation(Remedy.ARRANGE, cv=StratifiedKFold(4, shuffle=True), y=Y),
    Situation(Remedy.ARRANGE, lambda _: FORTRAN, cv=SHUFFLED, y=Y),
    Situation(Remedy.ARRANGE_X, cv=SHUFFLED),
    Situation(Remedy.ARRANGE_GROUPS, cv=GroupKFold(3), y=Y, groups=GROUPS),
    Situation(Remedy.ARRANGE_X_GROUPS, cv=GroupKFold(3), groups=GROUPS),
    Situation(Remedy.BY_ROW, lambda _: FORTRAN),
    Situation(Remedy.BY_ROW, lambda _: pd.DataFrame(FORTRAN)),
    Situation(Remedy.CATEGORIES, make_text),
    Situation(Remedy.INDICES, lambda _: polars.DataFrame(X), cv=MASKS),
    Situation(Remedy.POLARS, lambda _: pa.table(dict.fromkeys("abcdefgh", X[:, 0]))),
    Situation(Remedy.AS_ARRAY, lambda _: X.tolist(), cv=2),
    Situation(Remedy.AS_ARRAY, lambda _: np.ma.masked_array(X)),
    Situation(Remedy.AS_NUMBERS, lambda _: X.astype(object)),
    Situation(Remedy.READ_ONLY, make_file),
    Situation(Remedy.READ_ONLY, make_raw_file),
    Situation(Remedy.DEFAULT_SIZES, min_bytes="4M"),
    Situation(Remedy.DEFAULT_SIZES, min_bytes=None),
)


def select(X: Any, train: Any, test: Any) -> tuple[int, int]:
    """Select both sets in a worker; return its process and the bytes mapped."""
    take_counted()
    parts = [_safe_indexing(X, rows) for rows in (train, test)]
    mapped_bytes, _ = take_counted()
    del parts
    time.sleep(0.2)  # so that no worker takes all tasks
    return os.getpid(), mapped_bytes


def run(line: str, scope: dict[str, Any]) -> tuple[int, int]:
    """Run a job in the context that a line makes: workers, and bytes mapped."""
    X, y, groups = indexable(scope["X"], scope["y"], scope["groups"])
    tasks = [
        joblib.delayed(select)(X, train=train, test=test)
        for train, test in check_cv(scope["cv"]).split(X, y, groups)
    ]
    with eval(line, scope):
        done = joblib.Parallel(batch_size=1)(tasks * 2)
    workers = {pid for pid, _ in done} - {os.getpid()}
    return len(workers), sum(n for _, n in done) // 2


@pytest.mark.parametrize(
    "situation",
    SITUATIONS,
    ids=[f"{i} {s.remedy.name}" for i, s in enumerate(SITUATIONS)],
)
def test_a_pasted_line_does_what_it_says(situation: Situation, tmp_path: Path) -> None:
    cv, y, groups = situation.cv, situation.y, situation.groups
    scope: dict[str, Any] = {
        "X": situation.make(tmp_path),
        "y": y,
        "cv": cv,
        "groups": groups,
        "KFold": KFold,
        "StratifiedKFold": StratifiedKFold,
        "np": np,
        "skl_mmap": skl_mmap,
        "polars": polars,
        "parallel_config": joblib.parallel_config,
    }
    options: dict[str, Any] = {"min_bytes": situation.min_bytes}
    report = skl_mmap.check_folds(cv, scope["X"], y, groups, **options)
    (line,) = (line for line in report.remedies if is_of(line, situation.remedy))
    context = f'parallel_config("mmap", n_jobs=2, min_bytes={situation.min_bytes!r})'
    if line.startswith("parallel_config("):
        context = line
        given = eval(line.replace("parallel_config(", "dict(_=", 1))
        options = {k: v for k, v in given.items() if k not in ("_", "n_jobs")}
    else:
        exec(line, scope)
    n_workers, mapped_bytes = run(context, scope)
    assert n_workers >= 2
    # ArrangedSplits are the same folds for whoever asks.
    after = skl_mmap.check_folds(scope["cv"], scope["X"], y, groups, **options)
    assert after.copied_bytes < report.copied_bytes / 2
    assert mapped_bytes == after.mapped_bytes


def is_of(line: str, remedy: Remedy) -> bool:
    """Return whether a line is one of a remedy, with its places filled in."""
    places = {"cv": "", "names": "", "open": "", "n_splits": ""}
    if line.startswith("parallel_config("):
        return line == remedy.line(**places)
    template = remedy.line(**places)
    if remedy is Remedy.READ_ONLY:
        return line.startswith(("X = np.load(", "X = np.memmap("))
    head, _, tail = remedy.value.partition("{")
    return line.startswith(head) and (not tail or line.endswith(template[-1]))


def test_every_remedy_has_a_situation() -> None:
    # This one is what a report gives, which knows no splitter.
    assert {s.remedy for s in SITUATIONS} == set(Remedy) - {Remedy.CHECK_FOLDS}
