"""Measure in which layouts estimators may be given X, for ``layouts="auto"``.

    python -m docs.estimators_layouts --json skl_mmap/copies/layouts.json

::

    list_estimators() --> measure_entry() --> Found --> layouts.json
                            |                             (other versions stay)
                            |  for each way to hand X over, and each layout instead:
                            +--> find_agreements()   are all bits the same?
                            +--> choose_layout()     and is less copied?

An estimator is fitted on the same numbers in two layouts, again and again: with few and
many rows and columns, odd numbers of them, other values, targets, weights, missing
values, parameters and numbers of threads. What is fitted and what it returns has to be
the same bit by bit each time, arrays in the same order of memory included, since the
next step of a pipeline may add them up in that order.

The installed versions are measured, in about ten minutes; what the file knows of other
minor versions stays, and ``tox -e matrix-sk16,matrix-sk17,...`` renews it. A version
that is added has only to confirm what others have, with ``--known``.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import itertools
import json
import multiprocessing
import os
import sys
import threading
import time
import tracemalloc
import warnings
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.utils import get_tags
from threadpoolctl import ThreadpoolController

from docs.estimators_table import Entry, installed_version, list_estimators
from docs.estimators_variations import (
    FEW,
    N_TEST,
    VARIATIONS,
    Variation,
    list_values,
    make_data,
    make_peak_data,
    store,
    vary,
)
from skl_mmap.copies._job import BitPickler

GIVEN = tuple(
    f"{dtype} {order}"
    for dtype in ("float64", "float32", "int64")
    for order in ("C", "F", "frame")
    if (dtype, order) != ("int64", "F")
)
_RESULTS = (
    *("predict", "predict_proba", "decision_function", "transform"),
    *("score_samples", "score"),
)
# In units of X as it is given.
_MIN_SAVED = 0.15
# They read single numbers as float32, in native code, whatever they are given.
_CASTING = {"xgboost", "catboost"}
# Of the processor, for one estimator.
_MAX_SECONDS = 60.0
# Fits that have to agree, of those with all variations.
_MIN_TOLD = 6


@dataclass(frozen=True, slots=True)
class Found:
    """What is known of one estimator in one version.

    Attributes
    ----------
    name : str
        Its class's full name.
    layouts : dict of str to str
        What it may be given instead: ``{"float64 frame": "float64 C fit only"}``.
    parameters : dict of str to list
        Values, other than the defaults, with which that is true.
    message : str
        Why there are no layouts, if it could not be measured.
    seconds : float
        What that took.
    """

    name: str
    layouts: dict[str, str] = field(default_factory=dict)
    parameters: dict[str, list[Any]] = field(default_factory=dict)
    message: str = ""
    seconds: float = 0.0


def list_candidates(given: str) -> list[str]:
    """Return how X may be stored instead, which is always by rows."""
    dtype, order = given.split()
    dtypes = dict.fromkeys((dtype, "float64", "float32"))
    stored = [f"{other} {'rows' if order == 'frame' else 'C'}" for other in dtypes]
    return [name for name in stored if name != given]


class _Pickler(BitPickler):
    """Tells arrays apart that lie in memory in another order, too."""

    def reducer_override(self, obj: Any) -> Any:
        reduced = super().reducer_override(obj)
        if isinstance(obj, np.ndarray) and obj.ndim > 1 and obj.size > max(obj.shape):
            flags = obj.flags.c_contiguous, obj.flags.f_contiguous
            return reduced[0], (*reduced[1], flags)
        return reduced


def digest(value: Any) -> str:
    """Return a digest of all bits of a value, and of the order of its arrays."""
    file = io.BytesIO()
    _Pickler(file).dump(value)
    return hashlib.blake2b(file.getbuffer(), digest_size=16).hexdigest()


def state_of(fitted: Any) -> Any:
    """Return what was fitted; of CatBoost, whose state has a date, the trees."""
    if not hasattr(fitted, "get_leaf_values"):
        return fitted
    names = ("get_borders", "get_leaf_values", "get_leaf_weights", "get_scale_and_bias")
    return [getattr(fitted, name)() for name in names]


class Experiment:
    """One estimator and the same numbers, in one layout and another.

    What was fitted and computed is kept, since a layout is compared with several.
    """

    def __init__(self, estimator: Any, variation: Variation, dtype: str) -> None:
        self._estimator = estimator
        X, self._y, self._weights = make_data(estimator, variation, dtype)
        self._train, self._test = X[:-N_TEST], X[-N_TEST:]
        self.has_missing = bool(np.isnan(X).any())
        self._fits: dict[str, tuple[Any, str, str]] = {}
        self._results: dict[tuple[str, str], dict[str, str]] = {}

    def compare(self, given: str, candidate: str, *, sees_state: bool) -> str:
        """Return what agrees: "all", "fit" or ""; "failed" if nothing is told."""
        fitted, state, transformed = self.fit(given)
        if fitted is None:
            return "failed"
        other, other_state, other_transformed = self.fit(candidate)
        if other is None or transformed != other_transformed:
            return ""
        if sees_state and state != other_state:
            return ""
        expected = self.compute(given, given)
        if self.compute(candidate, given) != expected:
            return ""
        return "all" if self.compute(candidate, candidate) == expected else "fit"

    def fit(self, stored: str) -> tuple[Any, str, str]:
        """Return what was fitted, its state, and what it makes of its train set."""
        if stored not in self._fits:
            try:
                self._fits[stored] = self._fit(store(self._train, stored))
            except Exception:  # noqa: BLE001 - then it is no layout for this estimator
                self._fits[stored] = None, "", ""
        return self._fits[stored]

    def _fit(self, X: Any) -> tuple[Any, str, str]:
        keywords = {} if self._weights is None else {"sample_weight": self._weights}
        y = self._y[: len(X)]
        n_train = len(X)
        keywords = {name: value[:n_train] for name, value in keywords.items()}
        fitted = clone(self._estimator).fit(X, y, **keywords)
        transformed = ""
        # A pipeline calls this, which may compute what transform does in another way.
        if hasattr(fitted, "fit_transform"):
            transformed = digest(clone(self._estimator).fit_transform(X, y, **keywords))
        return fitted, digest(state_of(fitted)), transformed

    def compute(self, stored: str, rows: str) -> dict[str, str]:
        """Return the results of a fit for the test set as it is stored in `rows`."""
        key = stored, rows
        if key not in self._results:
            fitted = self.fit(stored)[0]
            X, y = store(self._test, rows), self._y[-N_TEST:]
            self._results[key] = dict(self._compute(fitted, X, y))
        return self._results[key]

    def _compute(self, fitted: Any, X: Any, y: Any) -> Iterator[tuple[str, str]]:
        # A score is made of predictions, but for clusters, densities and the like.
        predicts = get_tags(fitted).estimator_type in ("classifier", "regressor")
        for name in _RESULTS:
            if not hasattr(fitted, name) or (name == "score" and predicts):
                continue
            arguments = (X, y) if name == "score" else (X,)
            try:
                result = digest(getattr(fitted, name)(*arguments))
            except Exception as error:  # noqa: BLE001 - has to be the same as well
                result = type(error).__name__
            yield name, result


class _TooSlowError(Exception):
    """The time for an estimator is over."""


def find_agreements(
    estimator: Any,
    variations: tuple[Variation, ...],
    pairs: Mapping[tuple[str, str], str],
    *,
    until: float,
) -> dict[tuple[str, str], str]:
    """Find what agrees in all variations: "all" or "fit" for each pair of layouts.

    Parameters
    ----------
    estimator : estimator
        Not fitted.
    variations : tuple of Variation
        All of them have to agree, and most of them have to be possible.
    pairs : dict of (str, str) to str
        What is given and what is tried instead, and what is to be expected at most.
    until : float
        When `time.process_time` says so, this ends with an error.
    """
    alive = dict(pairs)
    sees_state = is_repeatable(estimator)
    n_told = dict.fromkeys(alive, 0)
    for variation in variations:
        for dtype in dict.fromkeys(given.split()[0] for given, _ in alive):
            with _quiet(variation.n_threads):
                experiment = _start(estimator, variation, dtype)
                for pair in _list_pairs(alive, dtype, experiment):
                    if time.process_time() > until:
                        raise _TooSlowError
                    found = experiment.compare(*pair, sees_state=sees_state)
                    if found == "failed":
                        continue
                    n_told[pair] += 1
                    if not found:
                        del alive[pair]
                    elif found == "fit":
                        alive[pair] = "fit"
    n_needed = min(_MIN_TOLD, len(variations) // 2 + 1)
    return {pair: extent for pair, extent in alive.items() if n_told[pair] >= n_needed}


def _list_pairs(
    pairs: Iterable[tuple[str, str]], dtype: str, experiment: Experiment
) -> list[tuple[str, str]]:
    """Return those of a dtype, without frames if values are missing.

    What pandas hands out is read-only, and scikit-learn cannot look for missing values
    in read-only rows; columns it copies first.
    """
    orders = {"C", "F"} if experiment.has_missing else {"C", "F", "frame"}
    wanted = {f"{dtype} {order}" for order in orders}
    return [pair for pair in pairs if pair[0] in wanted]


def _start(estimator: Any, variation: Variation, dtype: str) -> Experiment:
    """Return an experiment with other parameters, or with these if they cannot be."""
    experiment = Experiment(vary(estimator, variation), variation, dtype)
    if experiment.fit(f"{dtype} C")[0] is None:
        return Experiment(estimator, variation, dtype)
    return experiment


def is_repeatable(estimator: Any) -> bool:
    """Return whether the same fit leaves the same state twice, so that it tells."""
    fits = (Experiment(estimator, VARIATIONS[0], "float64") for _ in range(2))
    with _quiet(1):
        return len({experiment.fit("float64 C")[1] for experiment in fits}) == 1


@functools.cache
def _threads() -> ThreadpoolController:
    return ThreadpoolController()


@contextlib.contextmanager
def _quiet(n_threads: int | None) -> Iterator[None]:
    with warnings.catch_warnings(), _threads().limit(limits=n_threads):
        warnings.simplefilter("ignore")
        yield


class Peaks:
    """What a fit needs at most, beside X, in each layout: as NumPy counts it."""

    def __init__(self, estimator: Any, dtype: str) -> None:
        self._estimator = estimator
        self._X, self._y = make_peak_data(estimator, dtype)
        self.input_bytes = self._X.nbytes

    @functools.cache  # noqa: B019 - there are few, and they are short-lived
    def measure(self, stored: str) -> int:
        """Return the most that was allocated while fitting, in bytes."""
        X = store(self._X, stored)
        estimator = clone(self._estimator)
        with _quiet(1):
            tracemalloc.start(1)
            try:
                before = tracemalloc.get_traced_memory()[0]
                estimator.fit(X, self._y)
                return tracemalloc.get_traced_memory()[1] - before
            finally:
                tracemalloc.stop()


def choose_layout(
    given: str, agreed: Mapping[str, str], peaks: Peaks, *, is_casting: bool
) -> str | None:
    """Choose the layout that saves most, of those with the same bits; None for none.

    A fold of a frame that is stored by columns is a copy, which one of rows is not.
    Another dtype is believed only if the estimator can be seen to convert to it.
    """
    dtype, order = given.split()
    is_frame = order == "frame"
    size = peaks.input_bytes
    before = peaks.measure(given) + (size if is_frame else 0)
    same_dtype = f"{dtype} rows" if is_frame else given
    choices = []
    for stored, extent in agreed.items():
        peak = peaks.measure(stored)
        stored_dtype, stored_order = stored.split()
        if before - peak < _MIN_SAVED * size:
            continue
        converts = peaks.measure(same_dtype) - peak >= _MIN_SAVED * size
        if stored_dtype != dtype and not (converts or is_casting):
            continue
        shared = size * np.dtype(stored_dtype).itemsize // np.dtype(dtype).itemsize
        name = f"{stored_dtype} {'C' if is_frame else stored_order}"
        only = "" if extent == "all" else " fit only"
        # At least two workers fit at once.
        choices.append(
            (bool(only), shared + 2 * peak, stored_dtype != dtype, name + only)
        )
    return min(choices)[-1] if choices else None


def measure_entry(
    entry: Entry, pairs: Iterable[tuple[str, str]] | None = None
) -> Found:
    """Find the layouts of one estimator, and the parameters with which they hold.

    `pairs` are the layouts to be tried, and what they are tried for; all by default.
    """
    if pairs is None:
        pairs = [(given, other) for given in GIVEN for other in list_candidates(given)]
    started = time.process_time()
    if entry.estimator is None:
        return Found(entry.name, message=entry.problem)
    try:
        layouts, parameters = _measure(entry, pairs, started + _MAX_SECONDS)
        message = ""
    except _TooSlowError:
        layouts, parameters, message = {}, {}, f"more than {_MAX_SECONDS:.0f} s"
    except Exception as error:  # noqa: BLE001 - one of two hundred, and said in its row
        layouts, parameters = {}, {}
        message = f"{type(error).__name__}: {error}"
    seconds = time.process_time() - started
    return Found(entry.name, layouts, parameters, message, seconds)


def _measure(
    entry: Entry, pairs: Iterable[tuple[str, str]], until: float
) -> tuple[dict[str, str], dict[str, list[Any]]]:
    estimator = entry.estimator
    tried = dict.fromkeys(pairs, "all")
    agreed = find_agreements(estimator, VARIATIONS, tried, until=until)
    peaks = functools.cache(functools.partial(Peaks, estimator))
    is_casting = entry.package in _CASTING
    layouts = {}
    for given, group in itertools.groupby(agreed, key=lambda pair: pair[0]):
        stored = {candidate: agreed[given, candidate] for _, candidate in group}
        dtype = given.split()[0]
        chosen = choose_layout(given, stored, peaks(dtype), is_casting=is_casting)
        if chosen is not None:
            layouts[given] = chosen
    if not layouts:
        return {}, {}
    return layouts, _measure_values(estimator, layouts, until)


def _measure_values(
    estimator: Any, layouts: Mapping[str, str], until: float
) -> dict[str, list[Any]]:
    """Return the values of parameters with which layouts hold, if time allows."""
    parameters: dict[str, list[Any]] = {}
    for name, value, changed in list_values(estimator):
        with contextlib.suppress(_TooSlowError):
            if _holds(changed, layouts, until):
                parameters.setdefault(name, []).append(value)
    return parameters


def _stored_as(given: str, text: str) -> str:
    """Return how X is stored for a layout of the table."""
    dtype, order, *_ = text.split()
    return f"{dtype} rows" if given.endswith("frame") else f"{dtype} {order}"


def _holds(estimator: Any, layouts: Mapping[str, str], until: float) -> bool:
    """Return whether layouts hold with other parameters, in float64 if that has any."""
    pairs = {}
    some = {given: v for given, v in layouts.items() if given.startswith("float64")}
    for given, text in (some or layouts).items():
        pairs[given, _stored_as(given, text)] = "fit" if "only" in text else "all"
    found = find_agreements(estimator, FEW, pairs, until=until)
    return found == pairs


def is_measured(entry: Entry) -> bool:
    """Return whether an estimator computes anything, and not with another one."""
    if entry.estimator is None:
        return False
    if not any(hasattr(entry.estimator, name) for name in _RESULTS):
        return False
    values = entry.estimator.get_params(deep=False).values()
    return not any(hasattr(value, "fit") or isinstance(value, list) for value in values)


def _end_with_parent() -> None:
    """Let this process end as soon as the one that started it has, however that ended.

    A worker of a pool waits for work in a pipe that it holds itself at both ends.
    """

    def wait() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _measure_named(name: str, pairs: list[tuple[str, str]] | None) -> Found:
    return measure_entry(_entries()[name], pairs)


@functools.cache
def _entries() -> dict[str, Entry]:
    return {entry.name: entry for entry in list_estimators()}


def installed_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the minor versions of the packages of estimators, by their module."""
    modules = sorted({name.partition(".")[0] for name in names})
    return {
        module: ".".join(installed_version(module).split(".")[:2]) for module in modules
    }


def merge_table(
    table: dict[str, Any], found: list[Found], versions: Mapping[str, str]
) -> dict[str, Any]:
    """Return the table with what was found in place of what it had of these versions.

    In the table, each estimator has a list of rows, which say of which versions they
    are true if not of all.
    """
    known = {module: list(old) for module, old in table.get("versions", {}).items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, parts in table.get("estimators", {}).items():
        for part in parts:
            row = {key: value for key, value in part.items() if key != "in"}
            for version in part.get("in", known[name.partition(".")[0]]):
                rows.setdefault(name, {})[version] = row
    for module, version in versions.items():
        known[module] = sorted({*known.get(module, ()), version}, key=_as_numbers)
    for item in found:
        of_versions = rows.setdefault(item.name, {})
        of_versions.pop(versions[item.name.partition(".")[0]], None)
        if item.layouts:
            row = {**item.layouts}
            if item.parameters:
                row["with"] = item.parameters
            of_versions[versions[item.name.partition(".")[0]]] = row
    estimators = {
        name: _group(of_versions, known[name.partition(".")[0]])
        for name, of_versions in sorted(rows.items())
        if of_versions
    }
    return {"versions": dict(sorted(known.items())), "estimators": estimators}


def _list_known(table: Mapping[str, Any]) -> dict[str, list[tuple[str, str]]]:
    """Return what a table has of any version, as pairs to be tried, by estimator."""
    return {
        name: list(
            dict.fromkeys(
                (given, _stored_as(given, text))
                for row in rows
                for given, text in row.items()
                if given in GIVEN
            )
        )
        for name, rows in table["estimators"].items()
    }


def _as_numbers(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def _group(of_versions: Mapping[str, Any], known: list[str]) -> list[dict[str, Any]]:
    """Write rows that are equal once, with their versions."""
    groups: list[tuple[Any, list[str]]] = []
    for version in sorted(of_versions, key=_as_numbers):
        row = of_versions[version]
        same = next((group for group in groups if group[0] == row), None)
        if same is None:
            groups.append((row, [version]))
        else:
            same[1].append(version)
    return [row if own == known else {"in": own, **row} for row, own in groups]


def write_table(path: str | os.PathLike[str], table: Mapping[str, Any]) -> None:
    """Write a table, one line for each estimator."""
    lines = (
        f"  {json.dumps(name)}: {json.dumps(rows)}"
        for name, rows in table["estimators"].items()
    )
    text = (
        f'{{\n "versions": {json.dumps(table["versions"])},\n'
        ' "estimators": {\n' + ",\n".join(lines) + "\n }\n}\n"
    )
    Path(path).write_text(text, encoding="utf-8")


def read_table(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read a table; an empty one if there is no file."""
    if not os.path.exists(path):
        return {}
    table: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    return table


def main(arguments: list[str] | None = None) -> None:
    """Measure the estimators of the installed versions, and write what was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", required=True, help="the table, which is renewed")
    parser.add_argument(
        "--only",
        nargs="+",
        default=[""],
        help="only estimators with these words in their full name",
    )
    parser.add_argument(
        "--known",
        action="store_true",
        help="only what holds in another version already, which takes less time",
    )
    parser.add_argument("--jobs", type=int, default=2, help="processes, 2 by default")
    given = parser.parse_args(arguments)
    words = dict.fromkeys(given.only)
    entries = list(
        dict.fromkeys(name for word in words for name in _entries() if word in name)
    )
    if not entries:
        parser.error(f"no estimator has {given.only!r} in its name")
    before, found = read_table(given.json), []
    names = [name for name in entries if is_measured(_entries()[name])]
    pairs = _list_known(before) if given.known else dict.fromkeys(names)
    names = [name for name in names if name in pairs]
    versions = installed_versions(entries)
    with ProcessPoolExecutor(
        given.jobs,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_end_with_parent,
    ) as executor:
        for future in as_completed(
            executor.submit(_measure_named, name, pairs[name]) for name in names
        ):
            item = future.result()
            found.append(item)
            what = item.message or item.layouts or "-"
            print(
                f"[{len(found)}/{len(names)}] {item.name}: {what} "
                f"{item.parameters or ''} ({item.seconds:.0f} s)",
                file=sys.stderr,
            )
            # What is known is kept if this ends early.
            write_table(given.json, merge_table(before, found, versions))
    n_found = sum(bool(item.layouts) for item in found)
    print(f"{n_found} of {len(found)} estimators have layouts, see {given.json}")


if __name__ == "__main__":
    main()
