"""What may need less memory, and whether it does: everything is measured first."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from skl_mmap.copies._job import VERDICTS, Answers, agree
from skl_mmap.copies._prober import Prober
from skl_mmap.copies._results import Layout, Reason, Suggestion

# Fraction of X that a line of code has to save.
_MIN_SAVED = 0.15
_MAX_CANDIDATES = 7
_MAX_SECONDS = 30.0
_MAX_SUGGESTIONS = 4

# By name: the values that copy, the one that may not, and a word of the class that this
# is true of. In the order in which they are tried: what only copies first, what changes
# the model last.
_RULES: tuple[tuple[str, tuple[Any, ...], Any, str], ...] = (
    ("copy_X", (True,), False, ""),
    ("copy_x", (True,), False, ""),
    ("copy_X_train", (True,), False, ""),
    ("copy", (True,), False, ""),
    ("whiten_solver", ("svd",), "eigh", ""),
    ("algorithm", ("kd_tree", "ball_tree"), "brute", ""),
    (
        "solver",
        ("liblinear", "newton-cg", "newton-cholesky"),
        "lbfgs",
        "LogisticRegression",
    ),
    ("solver", ("svd",), "lsqr", "LinearDiscriminantAnalysis"),
    ("gamma", ("scale",), "auto", ""),
    ("early_stopping", ("auto", True), False, ""),
    ("assume_centered", (False,), True, ""),
    ("covariance_type", ("full",), "diag", ""),
    ("fit_intercept", (True,), False, ""),
)
_COPYING = frozenset({"copy_X", "copy_x", "copy_X_train", "copy"})
_WITH_COPYING = "fit_intercept"
# These say what is fitted, and not only how.
_MODEL = frozenset(
    {"assume_centered", "covariance_type", "early_stopping", "fit_intercept", "gamma"}
)


def list_parameters(estimator: Any) -> list[dict[str, Any]]:
    """List parameters worth a try, for ``set_params``: one at a time, then several.

    Of a pipeline, the parameters of its steps are looked at as well.
    """
    if not hasattr(estimator, "get_params"):
        return []
    values = estimator.get_params(deep=True)
    singles: list[dict[str, Any]] = []
    for last, copying, other, word in _RULES:
        for name, value in values.items():
            owner_name, _, own_name = name.rpartition("__")
            owner = values.get(owner_name, estimator) if owner_name else estimator
            is_known = isinstance(value, bool | str) and value in copying
            if own_name == last and is_known and word in type(owner).__name__:
                singles.append({name: other})
    copies = {k: v for one in singles for k, v in one.items() if _last(k) in _COPYING}
    pairs = [
        {**copies, **one}
        for one in singles
        if copies and any(_last(name) == _WITH_COPYING for name in one)
    ]
    several = [copies] if len(copies) > 1 else []
    # Alone it saves nothing: the copy is made anyway.
    singles = [one for one in singles if not copies or _last(*one) != _WITH_COPYING]
    return singles + several + pairs


def _last(name: str) -> str:
    return name.rpartition("__")[2]


def find_suggestions(
    prober: Prober, given: Layout, answers: Mapping[Layout, Answers]
) -> tuple[Suggestion, ...]:
    """Try what may need less, and return what does, unchanged results first.

    `answers` are known already, with fingerprints.
    """
    base = answers[given]
    deadline = time.monotonic() + _MAX_SECONDS
    methods = tuple(method for method in base if base[method].copies.outcome == "ok")
    if not any((base[method].copies.copies or 0) > _MIN_SAVED for method in methods):
        return ()
    found: list[Suggestion] = []
    for layout in _list_layouts(given, base, answers):
        other = answers.get(layout) or prober.measure(layout, methods, compares=True)
        code = f'X = np.asarray(X, dtype="{layout.dtype}", order="{layout.order}")'
        scale = np.dtype(layout.dtype).itemsize / np.dtype(given.dtype).itemsize
        found += _compare(code, "layout", base, other, scale=scale)
    for parameters in list_parameters(prober.estimator)[:_MAX_CANDIDATES]:
        if time.monotonic() > deadline:
            break
        other = prober.measure(given, methods, parameters=parameters, compares=True)
        values = ", ".join(f"{name}={value!r}" for name, value in parameters.items())
        found += _compare(
            f"estimator.set_params({values})",
            "parameters",
            base,
            other,
            changes_model=any(_last(name) in _MODEL for name in parameters),
        )
    return _choose(found)


def _list_layouts(
    given: Layout, base: Answers, answers: Mapping[Layout, Answers]
) -> Iterator[Layout]:
    """Yield the layouts that the estimator converts X to, and those measured anyway."""
    wanted = [
        site.holds.layout
        for answer in base.values()
        for site in answer.copies.sites
        if site.reason in (Reason.DTYPE, Reason.ORDER) and site.holds is not None
    ]
    others = [layout for layout in answers if layout.mode == "c"]
    for layout in dict.fromkeys((*wanted, *others)):
        if layout != given:
            yield layout


def _compare(
    code: str,
    kind: str,
    before: Answers,
    after: Answers,
    *,
    scale: float = 1.0,
    changes_model: bool = False,
) -> Iterator[Suggestion]:
    """Yield a suggestion, if it saves anything, for the method that gains most."""
    gains = []
    for method, answer in before.items():
        old = answer.copies.copies
        new = after[method].copies.copies if method in after else None
        if old is not None and new is not None:
            gains.append((old - scale * new, method, old, scale * new))
    if not gains:
        return
    saved, method, old, new = max(gains)
    # What one method saves is not a gain if another one needs more.
    if saved >= _MIN_SAVED and min(gains)[0] > -_MIN_SAVED:
        results, difference = agree(before, after)
        yield Suggestion(
            code,
            method,
            round(old, 3),
            round(new, 3),
            results,
            difference,
            kind,
            changes_model,
        )


def _choose(found: list[Suggestion]) -> tuple[Suggestion, ...]:
    """Sort suggestions, and drop those that others are better than in all respects."""

    def rank(suggestion: Suggestion) -> int:
        return VERDICTS.index(
            "different" if suggestion.changes_model else suggestion.results
        )

    ordered = sorted(found, key=lambda s: (rank(s), round(s.after, 1), len(s.code)))
    kept: list[Suggestion] = []
    for suggestion in ordered:
        is_beaten = any(
            other.after <= suggestion.after + 0.05 and other.method == suggestion.method
            for other in kept
        )
        if not is_beaten:
            kept.append(suggestion)
    return tuple(kept[:_MAX_SUGGESTIONS])
