"""Whether two fits gave the same: a digest of every bit, and some numbers."""

from __future__ import annotations

import contextlib
import hashlib
import io
import pickle
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Fingerprint", "compare", "take_fingerprint"]

_MAX_NUMBERS = 4_000
# Relative to the largest number: sums in another order.
_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a fitted estimator or a result is.

    Attributes
    ----------
    digest : str
        Of all its bits, times excluded; empty if it cannot be told.
    numbers : ndarray of shape (n_numbers,) or None
        Some of its numbers, to say how far others are.
    """

    digest: str
    numbers: npt.NDArray[np.float64] | None


class _Pickler(pickle.Pickler):
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
        _Pickler(file).dump(value)
        digest = hashlib.blake2b(file.getbuffer(), digest_size=16).hexdigest()
    except Exception:  # noqa: BLE001 - whatever an estimator holds, it is no answer
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
    """Compare two fingerprints.

    Returns
    -------
    verdict : {"identical", "rounding", "different", "unknown"}
        "rounding" if no number differs by more than a billionth of the largest.
    difference : float or None
        The largest difference, relative to the largest number.
    """
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
