"""What is asked of a process that measures, and what it answers: plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from skl_mmap.copies._fingerprint import Fingerprint
from skl_mmap.copies._layout import Layout
from skl_mmap.copies._results import MethodCopies

__all__ = ["Answer", "Job", "Sample", "Scouting"]


@dataclass(frozen=True, slots=True)
class Sample:
    """The data, for the processes that measure.

    Attributes
    ----------
    fd : int
        Open file with X, which these processes inherit.
    shape : (int, int)
        Of X.
    layout : Layout
        Of X in the file.
    y : array-like of shape (n_samples,) or None
        Target.
    """

    fd: int
    shape: tuple[int, int]
    layout: Layout
    y: Any


@dataclass(frozen=True, slots=True)
class Job:
    """Methods to be measured in one layout, in a process of their own.

    Attributes
    ----------
    layout : Layout
        Of X.
    methods : tuple of str
        In this order; what they need is fitted before.
    n_samples : int
        Rows of the largest sample.
    parameters : dict
        For ``set_params`` of the estimator.
    compares : bool
        Whether fingerprints of the results are wanted.
    deep_folder : str
        Where memray may write; empty to do without.
    is_scouting : bool
        Whether only the time is wanted, of more and more rows, until it is known how
        many `seconds` allow.
    seconds : float
        Most processor time that one sample may take.
    """

    layout: Layout
    methods: tuple[str, ...]
    n_samples: int
    parameters: dict[str, Any] = field(default_factory=dict)
    compares: bool = False
    deep_folder: str = ""
    is_scouting: bool = False
    seconds: float = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What was measured of one method.

    Attributes
    ----------
    copies : MethodCopies
        The numbers.
    state, output : Fingerprint or None
        Of the fitted estimator and of the result.
    """

    copies: MethodCopies
    state: Fingerprint | None = None
    output: Fingerprint | None = None


@dataclass(frozen=True, slots=True)
class Scouting:
    """How many rows the time allows.

    Attributes
    ----------
    n_samples : int
        Rows.
    seconds : float
        Processor time that the last of the smaller samples took.
    """

    n_samples: int
    seconds: float
