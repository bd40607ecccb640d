"""How much of some memory is copies of X, from samples of several shapes.

Memory that a fit needs is made of parts that grow with ``n_samples * n_features``
(copies of X), with either of them, with powers of them, or not at all. Of four samples,
with n or a fourth of the rows and with d or a fourth of the columns, ::

    P(n, d) - P(n / 4, d) - P(n, d / 4) + P(n / 4, d / 4)

has only the first part left, divided by the same of ``n * d``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["Coefficient", "Shape", "divide", "find_coefficient", "list_shapes"]

Shape = tuple[int, int]

# Of rows and columns, in the smaller samples.
_DIVISOR = 4
# Outside by more than noise: another part of the work has the peak there.
_NOISE = 0.15


@dataclass(frozen=True, slots=True)
class Coefficient:
    """How many copies.

    Attributes
    ----------
    copies : float
        In units of X, at least 0.
    rest : float
        What else there was in the largest sample, in the same unit.
    is_certain : bool
        False if what grows with the rows alone is in it as well.
    """

    copies: float
    rest: float
    is_certain: bool


def divide(size: int) -> int:
    """Return the size of a smaller sample."""
    return max(1, size // _DIVISOR)


def list_shapes(shape: Shape) -> tuple[tuple[Shape, ...], tuple[Shape, ...]]:
    """Return the shapes of smaller samples, and of others in case these do not do.

    Algorithms change with the number of columns: the others have more of them.
    """
    n, d = shape
    low_n, low_d, other_d = divide(n), divide(d), d - d // _DIVISOR
    first = {(low_n, d), (n, low_d), (low_n, low_d)} - {shape}
    second = {(n, other_d), (low_n, other_d)} - first - {shape}
    return tuple(sorted(first)), tuple(sorted(second))


def find_coefficient(values: Mapping[Shape, float], itemsize: int) -> Coefficient:
    """Find the part of a size that grows with samples times features.

    Parameters
    ----------
    values : mapping of (n_samples, n_features) to float
        Bytes that were needed; of the largest sample, at least.
    itemsize : int
        Bytes of one number of X.
    """
    n, d = max(values)
    low_n = divide(n)
    full = values[n, d]
    in_all = full / (n * d * itemsize)
    for low_d in sorted({columns for _, columns in values} - {d}):
        corners = ((low_n, d), (n, low_d), (low_n, low_d))
        if low_n == n or not all(corner in values for corner in corners):
            continue
        mixed = full - values[low_n, d] - values[n, low_d] + values[low_n, low_d]
        copies = mixed / ((n - low_n) * (d - low_d) * itemsize)
        if -_NOISE <= copies <= in_all + _NOISE:
            return _make(copies, in_all, is_certain=True)
    if low_n < n and (low_n, d) in values:
        copies = (full - values[low_n, d]) / ((n - low_n) * d * itemsize)
        return _make(min(copies, in_all), in_all, is_certain=False)
    return _make(in_all, in_all, is_certain=False)


def _make(copies: float, in_all: float, *, is_certain: bool) -> Coefficient:
    copies = max(0.0, copies)
    return Coefficient(copies, in_all - copies, is_certain)
