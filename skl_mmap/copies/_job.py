"""What a measuring process is asked and answers, and whether two answers agree."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.copies._results import (
    Content,
    CopySite,
    Layout,
    MethodCopies,
    Reason,
)

_MAX_NUMBERS = 4_000
# Relative to the largest number: sums in another order.
_ROUNDING = 1e-9
# From the best to the worst.
VERDICTS = ("identical", "rounding", "different", "unknown")


@dataclass(frozen=True, slots=True)
class Sample:
    """The data, for the processes that measure: they inherit the open file with X."""

    fd: int
    shape: tuple[int, int]
    # How X lies in the file.
    layout: Layout
    y: Any


@dataclass(frozen=True, slots=True)
class Job:
    """Methods to be measured in one layout, in a process of their own."""

    layout: Layout
    # In this order; what they need is fitted before.
    methods: tuple[str, ...]
    # Rows of the largest sample.
    n_samples: int
    # For `set_params`.
    parameters: dict[str, Any] = field(default_factory=dict)
    # Whether fingerprints of the results are wanted.
    compares: bool = False
    # Where memray may write; empty to do without.
    deep_folder: str = ""
    # Whether only the time of more and more rows is wanted, until it is known how many
    # of them take so many seconds of the processor.
    is_scouting: bool = False
    seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Scouting:
    """How many rows the time allows, and the seconds of the last smaller sample."""

    n_samples: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a fitted estimator or a result is."""

    # A digest of all its bits but times; empty if there is none.
    digest: str
    # Some of its numbers, to say how far others are.
    numbers: npt.NDArray[np.float64] | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What was measured of one method; fingerprints only if they were wanted."""

    copies: MethodCopies
    # Of the fitted estimator, and of what the method returned.
    state: Fingerprint | None = None
    output: Fingerprint | None = None


Answers = Mapping[str, Answer]
"""One for each method."""


# What may be in a message of a measuring process, by name.
_KINDS = {
    kind.__name__: kind
    for kind in (Answer, Content, CopySite, Fingerprint, Layout, MethodCopies, Scouting)
}


def to_plain(value: Any) -> Any:
    """Turn an answer into plain values, from which nothing is executed to read them."""
    if isinstance(value, Reason):
        return ["Reason", value.value]
    if type(value).__name__ in _KINDS:
        return [
            type(value).__name__,
            *(to_plain(getattr(value, item.name)) for item in fields(value)),
        ]
    if isinstance(value, tuple | list):
        return ["tuple", *map(to_plain, value)]
    if isinstance(value, np.ndarray):
        return ["numbers", value.astype(np.float64).tobytes()]
    return value.item() if isinstance(value, np.generic) else value


def from_plain(plain: Any) -> Any:
    """Turn plain values into the answer that `to_plain` was given."""
    if not isinstance(plain, list):
        return plain
    name, *values = plain
    if name == "Reason":
        return Reason(*values)
    if name == "numbers":
        return np.frombuffer(values[0], dtype=np.float64)
    if name == "tuple":
        return tuple(map(from_plain, values))
    return _KINDS[name](*map(from_plain, values))


class BitPickler(pickle.Pickler):
    """Writes the same bytes for equal objects, however their arrays lie in memory."""

    def __init__(self, file: Any) -> None:
        super().__init__(file, protocol=4)
        # Without it, two equal strings are written differently if they are one object.
        self.fast = True

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, np.ndarray) and obj.dtype.kind not in "OV":
            content = obj.dtype.str, obj.shape, obj.tobytes()
            return _nothing, content
        if isinstance(obj, np.ndarray):
            return _nothing, (obj.dtype.str, obj.shape, obj.tolist())
        if hasattr(obj, "get_params") and hasattr(obj, "__dict__"):
            return _nothing, (type(obj).__qualname__, _fitted_state(obj))
        return NotImplemented


def _nothing(*content: Any) -> None:
    """Stand in for what would make the object again."""


def _fitted_state(estimator: Any) -> dict[str, Any]:
    """Leave out parameters, and durations as in ``cv_results_["mean_fit_time"]``."""
    parameters = estimator.get_params(deep=False)
    kept = {}
    for name, value in vars(estimator).items():
        if name in parameters or "time" in name.split("_"):
            continue
        if isinstance(value, dict):
            value = {k: v for k, v in value.items() if "time" not in str(k).split("_")}
        kept[name] = value
    return kept


def take_fingerprint(value: Any) -> Fingerprint:
    """Take the fingerprint of a fitted estimator, or of what a method returned."""
    file = io.BytesIO()
    try:
        BitPickler(file).dump(value)
        digest = hashlib.blake2b(file.getbuffer(), digest_size=16).hexdigest()
    except Exception:  # noqa: BLE001 - whatever an estimator holds, it is not an answer
        digest = ""
    return Fingerprint(digest, _find_numbers(value))


def _find_numbers(value: Any) -> npt.NDArray[np.float64] | None:
    values = (
        [v for k, v in sorted(vars(value).items()) if k.endswith("_")]
        if hasattr(value, "get_params")
        else [value]
    )
    found = []
    for item in values:
        with contextlib.suppress(TypeError, ValueError):
            array = np.asarray(item)
            if array.dtype.kind in "fiub" and array.size:
                step = max(1, array.size // _MAX_NUMBERS)
                found.append(array.reshape(-1)[::step].astype(np.float64))
    return np.concatenate(found)[: 10 * _MAX_NUMBERS] if found else None


def compare(
    first: Fingerprint | None, second: Fingerprint | None
) -> tuple[str, float | None]:
    """Compare two fingerprints."""
    if first is None or second is None:
        return "unknown", None
    if first.digest and first.digest == second.digest:
        return "identical", 0.0
    a, b = first.numbers, second.numbers
    if a is None or b is None:
        return "unknown" if not (first.digest and second.digest) else "different", None
    if a.shape != b.shape:
        return "different", None
    a, b = np.nan_to_num(a), np.nan_to_num(b)
    size = float(max(np.abs(a).max(), np.abs(b).max())) or 1.0
    difference = float(np.abs(a - b).max()) / size
    return ("rounding" if difference <= _ROUNDING else "different"), difference


def agree(first: Answers, second: Answers) -> tuple[str, float | None]:
    """Compare fitted models and results, and return the worst, as `compare` does."""
    verdicts = []
    for method in first.keys() & second.keys():
        a, b = first[method], second[method]
        if a.copies.outcome == "missing":
            continue
        if b.copies.outcome != "ok":
            return "unknown", None
        verdicts += [
            compare(left, right)
            for left, right in ((a.state, b.state), (a.output, b.output))
            if left is not None or right is not None
        ]
    if not verdicts:
        return "unknown", None
    differences = [d for _, d in verdicts if d is not None]
    verdict = max((v for v, _ in verdicts), key=VERDICTS.index)
    return verdict, max(differences) if differences else None
