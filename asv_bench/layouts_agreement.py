"""Compare results with ``layouts="auto"`` to those of loky, for all known layouts.

    python asv_bench/layouts_agreement.py [WORD ...] [--quick] [--resume FILE]

Each estimator of the table (with one of the words in its full name) is run in jobs on
arrays by rows and by columns, and on frames, of float64, float32 and int64::

    cross_validate, cross_val_predict    rows of folds
    a pipeline that begins with it       the same, for transformers
    bagging                              rows and repeated rows, of arrays
    fits on all of X                     X in the order that it has

Scores, predictions and what was fitted have to be the same, bit by bit, and each layout
of the table has to be taken by a job at least once, or nothing would be proved. If
something is not so, the exit code is 1. With ``--resume`` there is a line for each
estimator in a file, and those that are in it already are not run again. With
``--quick`` there is one shape of X, and nothing that has no layout in the table.

``tox -e layouts`` runs it, and ``tox -e layouts-sk16`` and its like for a version of
scikit-learn.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import json
import os
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import joblib
import numpy as np
from sklearn.base import clone, is_classifier, is_regressor
from sklearn.ensemble import BaggingClassifier, BaggingRegressor
from sklearn.ensemble._base import _fit_single_estimator
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import KFold, cross_val_predict, cross_validate
from sklearn.pipeline import make_pipeline

sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.estimators_layouts import (
    Variation,
    digest,
    installed_versions,
    is_repeatable,
    make_data,
    state_of,
    store,
)
from docs.estimators_table import Entry, list_estimators
from skl_mmap.copies import Layout
from skl_mmap.copies._known_layouts import known_layouts
from skl_mmap.monitor import listen, unlisten

_list_entries = functools.cache(list_estimators)
# "rows" is a frame that is stored by rows already, as pandas makes it if told to.
_GIVEN = tuple(
    f"{dtype} {order}"
    for dtype in ("float64", "float32", "int64")
    for order in ("C", "F", "frame", "rows")
)
# With folds of 512 rows, so that they are whole pages in any order. The second one is
# for layouts of the table only.
_SHAPES = (Variation(20, 1459, 8, "normal", 3), Variation(21, 1459, 33, "scaled", 2))
_CV = KFold(3)
# The first one that an estimator has tells most.
_PREDICTIONS = ("predict_proba", "decision_function", "predict")
_METHODS = (*_PREDICTIONS, "transform")
_ON_ALL_ROWS = "fits"
_ERROR = "error: "


@dataclass(slots=True)
class Outcome:
    """What was found of one estimator.

    Attributes
    ----------
    name : str
        Its class's full name.
    n_compared : int
        Results of jobs that were compared.
    n_errors : int
        Jobs that end with the same error under both backends, which tells nothing.
    different : list of str
        What differs.
    not_taken : list of str
        Layouts of the table that no job was given X in.
    n_layouts : int
        All layouts of the table, those of frames that are stored by rows included.
    """

    name: str
    n_compared: int = 0
    n_errors: int = 0
    different: list[str] = field(default_factory=list)
    not_taken: list[str] = field(default_factory=list)
    n_layouts: int = 0

    @property
    def is_fine(self) -> bool:
        """Whether all is the same, and all layouts were taken."""
        return not self.different and not self.not_taken

    def __str__(self) -> str:
        parts = [f"{self.n_compared} comparisons, {self.n_layouts} layouts"]
        if self.n_errors:
            parts.append(f"{self.n_errors} jobs with the same error")
        if self.different:
            parts.append(f"DIFFERENT {', '.join(self.different)}")
        if self.not_taken:
            parts.append(f"NOT TAKEN {', '.join(self.not_taken)}")
        return f"{self.name}: {'; '.join(parts)}"


def list_jobs(estimator: Any, y: Any, *, is_array: bool) -> dict[str, Any]:
    """Return jobs for an estimator by name: functions of it, X and y."""
    jobs: dict[str, Any] = {_ON_ALL_ROWS: _fit_twice}
    if hasattr(estimator, "score"):
        jobs["scores"] = _score
    for method in _PREDICTIONS:
        if hasattr(estimator, method):
            jobs[method] = functools.partial(_predict, method=method)
    is_classes = np.asarray(y).dtype.kind == "i"
    if hasattr(estimator, "transform"):
        model = LogisticRegression(max_iter=20) if is_classes else Ridge()
        jobs["pipeline"] = functools.partial(_score_pipeline, model=model)
    if is_array and (is_classifier(estimator) or is_regressor(estimator)):
        bagging = BaggingClassifier if is_classes else BaggingRegressor
        jobs["bagging"] = functools.partial(_bag, bagging=bagging)
    return jobs


@functools.cache
def _find_possible(class_: type[Any], variation: Variation, dtype: str) -> list[str]:
    """Return the jobs that have a result in this process, too.

    joblib starts all workers anew after an error, and nothing is told by one. Of the
    predictions, those that tell most are enough.
    """
    estimator = _entry_of(class_).estimator
    X, y, _ = make_data(estimator, variation, dtype, limits=False)
    possible: list[str] = []
    with joblib.parallel_config("sequential"):
        for name, job in list_jobs(estimator, y, is_array=True).items():
            if name in _PREDICTIONS and set(_PREDICTIONS) & set(possible):
                continue
            if not _run(job, estimator, X, y)[0].startswith(_ERROR):
                possible.append(name)
    return possible


@functools.cache
def _tells(class_: type[Any]) -> bool:
    """Return whether what is fitted is the same whenever all is the same."""
    return is_repeatable(_entry_of(class_).estimator)


def _entry_of(class_: type[Any]) -> Entry:
    return next(e for e in _list_entries() if type(e.estimator) is class_)


def _fit_twice(estimator: Any, X: Any, y: Any) -> Any:
    """Fit as a VotingClassifier does, which checks nothing before."""
    fitted = joblib.Parallel()(
        joblib.delayed(_fit_single_estimator)(clone(estimator), X, y, {})
        for _ in range(2)
    )
    methods = [method for method in _METHODS if hasattr(fitted[0], method)]
    # In threads, a forest would add up its trees in any order.
    with joblib.parallel_config("sequential"):
        results = [getattr(fit, name)(X[:100]) for fit in fitted for name in methods]
    tells = _tells(type(estimator))
    return results, [state_of(fit) for fit in fitted] if tells else None


def _score(estimator: Any, X: Any, y: Any) -> Any:
    return _cross_validate(estimator, X, y, tells=_tells(type(estimator)))


def _score_pipeline(estimator: Any, X: Any, y: Any, *, model: Any) -> Any:
    tells = _tells(type(estimator))
    return _cross_validate(make_pipeline(estimator, model), X, y, tells=tells)


def _cross_validate(estimator: Any, X: Any, y: Any, *, tells: bool) -> Any:
    found = cross_validate(
        estimator, X, y, cv=_CV, return_estimator=True, error_score="raise"
    )
    states = [state_of(fitted) for fitted in found["estimator"]] if tells else None
    return found["test_score"], states


def _predict(estimator: Any, X: Any, y: Any, *, method: str) -> Any:
    return cross_val_predict(estimator, X, y, cv=_CV, method=method)


def _bag(estimator: Any, X: Any, y: Any, *, bagging: type[Any]) -> Any:
    ensemble = bagging(estimator, n_estimators=2, max_samples=0.7, random_state=0)
    return ensemble.fit(X, y).predict(X[:100])


def _run(job: Any, *args: Any) -> tuple[str, list[str]]:
    """Return a digest of what a job returns, or its error, and the notes of it."""
    notes: list[str] = []
    listener = listen(notes.append, str)
    try:
        return digest(job(*args)), notes
    except Exception as error:  # noqa: BLE001 - it has to be the same with both
        return _ERROR + type(error).__name__, notes
    finally:
        unlisten(listener)


def compare_backends(
    outcome: Outcome, estimator: Any, given: str, variation: Variation
) -> dict[str, list[str]]:
    """Add what differs between loky and "mmap", and return the notes of each job."""
    dtype, order = given.split()
    values, y, _ = make_data(estimator, variation, dtype, limits=False)
    X = store(values, given)
    notes = {}
    jobs = list_jobs(estimator, y, is_array=order in "CF")
    possible = _find_possible(type(estimator), variation, dtype)
    for name in [name for name in possible if name in jobs]:
        with joblib.parallel_config("loky", n_jobs=2):
            expected, _ = _run(jobs[name], estimator, X, y)
        with joblib.parallel_config("mmap", n_jobs=2, layouts="auto", min_bytes=1):
            found, notes[name] = _run(jobs[name], estimator, X, y)
        if found != expected:
            outcome.different.append(f"{given}: {name}")
        if found.startswith(_ERROR):
            outcome.n_errors += 1
        else:
            outcome.n_compared += 1
    return notes


def _was_taken(
    layout: Layout, given: str, notes: Mapping[str, list[str]], estimator: Any
) -> bool:
    """Return whether a job was given X in a layout of the table.

    Rows that are selected from an array have the order of C, whatever it has.
    """
    jobs = [_ON_ALL_ROWS] if given.endswith(" F") else list(notes)
    name = type(estimator).__name__
    parts = ("X", "train sets of X")
    wanted = {
        f"{name} was given {part} as {layout.dtype} {layout.order}" for part in parts
    }
    return any(note in wanted for job in jobs for note in notes[job])


def compare_estimator(
    name: str, estimator: Any, layouts: Mapping[str, Layout], *, is_quick: bool = False
) -> Outcome:
    """Compare all jobs of one estimator in all layouts."""
    outcome = Outcome(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for given in _GIVEN:
            layout = layouts.get(given.replace("rows", "C"))
            if is_quick and layout is None:
                continue
            outcome.n_layouts += layout is not None
            n_taken = 0
            for variation in _SHAPES if layout and not is_quick else _SHAPES[:1]:
                notes = compare_backends(outcome, estimator, given, variation)
                if layout is not None:
                    n_taken += _was_taken(layout, given, notes, estimator)
            if layout is not None and not n_taken:
                outcome.not_taken.append(given)
    return outcome


def _read_done(path: str | None, versions: Mapping[str, str]) -> dict[str, Outcome]:
    """Return what a file has of these versions, by estimator."""
    done = {}
    with contextlib.suppress(FileNotFoundError):
        for line in Path(path or os.devnull).read_text(encoding="utf-8").splitlines():
            values = json.loads(line)
            if values.pop("version") == versions.get(_module(values["name"])):
                done[values["name"]] = Outcome(**values)
    return done


def _module(name: str) -> str:
    return name.partition(".")[0]


def main(arguments: list[str] | None = None) -> int:
    """Compare all estimators, print what differs, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("words", nargs="*", help="only estimators with these words")
    parser.add_argument("--quick", action="store_true", help="fewer jobs for each")
    parser.add_argument("--resume", metavar="FILE", help="what was compared already")
    options = parser.parse_args(arguments)
    known = known_layouts()
    entries = [
        entry
        for entry in _list_entries()
        if entry.name in known
        and any(word in entry.name for word in options.words or [""])
    ]
    versions = installed_versions(entry.name for entry in entries)
    done = _read_done(options.resume, versions)
    outcomes = []
    for n_done, entry in enumerate(entries):
        if entry.name in done:
            outcomes.append(done[entry.name])
            continue
        layouts = known[entry.name]
        outcome = compare_estimator(
            entry.name, entry.estimator, layouts, is_quick=options.quick
        )
        outcomes.append(outcome)
        print(f"[{n_done + 1}/{len(entries)}] {outcome}", flush=True)
        if options.resume:
            values = {"version": versions[_module(entry.name)], **asdict(outcome)}
            with open(options.resume, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
    print(_summarise(outcomes, versions))
    return 0 if all(outcome.is_fine for outcome in outcomes) else 1


def _summarise(outcomes: list[Outcome], versions: Mapping[str, str]) -> str:
    return (
        f"{sum(outcome.n_compared for outcome in outcomes):,} comparisons of "
        f"{len(outcomes)} estimators in {sum(o.n_layouts for o in outcomes)} layouts "
        f"({', '.join(' '.join(item) for item in versions.items())}): "
        f"{sum(len(outcome.different) for outcome in outcomes)} differ, "
        f"{sum(len(outcome.not_taken) for outcome in outcomes)} layouts were not taken"
    )


if __name__ == "__main__":
    sys.exit(main())
