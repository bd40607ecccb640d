"""Rows of the table, and how a scenario runs its parts in fresh processes."""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from skl_mmap.cli._child import run_child

__all__ = ["Row", "Settings", "call_in_child"]

# One thread for linear algebra in every process: more would compete for the cores
# that the workers have, and change the order of sums.
_ENVIRONMENT = dict.fromkeys(
    ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"
)


@dataclass(frozen=True, slots=True)
class Settings:
    """How large and how often.

    Attributes
    ----------
    is_quick : bool
        Whether to use a tenth of the rows, to try the script: the figures are then
        dominated by constant costs, and no target applies.
    n_repeats : int
        How often each case runs; the table has the median.
    """

    is_quick: bool = False
    n_repeats: int = 3

    def scale(self, n: int) -> int:
        """Return a number of rows, calls or bytes for the size asked for."""
        return n // 10 if self.is_quick else n

    def repeat(self, run: Callable[[], dict[str, Any]]) -> list[dict[str, Any]]:
        """Run a case as often as asked for."""
        return [run() for _ in range(self.n_repeats)]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure beside its target.

    Attributes
    ----------
    scenario, case : str
        What was measured.
    values : tuple of float
        The figure, once for each repeat.
    unit : str
        Of the figure.
    target : float or None
        None for a figure that is there to compare with.
    is_minimum : bool
        Whether the target is the least that is wanted, not the most.
    note : str
        What else is worth knowing, in a few words.
    details : dict
        Goes to the JSON file.
    """

    scenario: str
    case: str
    values: Sequence[float]
    unit: str
    target: float | None = None
    is_minimum: bool = False
    note: str = ""
    details: Any = field(default_factory=dict)

    @property
    def measured(self) -> float:
        """Median over the repeats."""
        return statistics.median(self.values)

    @property
    def is_hit(self) -> bool | None:
        """Whether the target is met, None without a target."""
        if self.target is None:
            return None
        if self.is_minimum:
            return self.measured >= self.target
        return self.measured <= self.target

    def to_dict(self) -> dict[str, Any]:
        """Return everything, as JSON can hold it."""
        return {**asdict(self), "measured": self.measured, "is_hit": self.is_hit}


def call_in_child(function: Callable[..., dict[str, Any]], **arguments: Any) -> Any:
    """Call a function of one of these modules in a fresh interpreter.

    Its arguments and what it returns must be what JSON can hold.
    """
    result, messages = run_child(
        "scenarios.child",
        {
            "module": function.__module__,
            "function": function.__name__,
            "arguments": arguments,
        },
        environment=_ENVIRONMENT,
    )
    if messages:
        print(messages, file=sys.stderr)
    return result
