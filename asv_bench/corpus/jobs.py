"""The jobs by name: each is a function of X and y, with the data that it is for."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["FAMILIES", "N_JOBS", "Job", "JobError", "find_job", "job", "select_jobs"]

FAMILIES = ("searches", "linear", "ensembles", "steps", "packages")
"""Modules with jobs. A process imports the one whose job it runs, as a user would."""

N_JOBS = 4
"""For packages that do not ask `parallel_config` how many workers there are to be."""

# Where the name of what is installed is not that of what is imported.
_INSTALLED_NAMES = {
    "category_encoders": "category-encoders",
    "feature_engine": "feature-engine",
    "imblearn": "imbalanced-learn",
    "quantile_forest": "quantile-forest",
}

Data = tuple[Any, Any]


class JobError(ValueError):
    """A job that is asked for and not there."""


@dataclass(frozen=True, slots=True)
class Job:
    """A job as a user would write it.

    Attributes
    ----------
    name : str
        Of the function.
    family : str
        Module that it is in.
    make : callable
        Makes X and y; takes the size of X in bytes.
    run : callable
        The job: takes X and y, and returns what has to be equal under all backends.
    packages : tuple of str
        What it imports beside scikit-learn.
    """

    name: str
    family: str
    make: Callable[[int], Data]
    run: Callable[[Any, Any], Any]
    packages: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """What it does, in a line."""
        return (self.run.__doc__ or "").partition("\n")[0].rstrip(".")

    @property
    def reason_to_skip(self) -> str | None:
        """Why it cannot run here; None if it can."""
        missing = [
            installed_name(package)
            for package in self.packages
            if importlib.util.find_spec(package) is None
        ]
        if not missing:
            return None
        return f"not installed (pip install {' '.join(missing)})"


def installed_name(package: str) -> str:
    """Return the name that pip knows a package by."""
    return _INSTALLED_NAMES.get(package, package)


_known: dict[str, Job] = {}


def job(
    make: Callable[[int], Data], *packages: str
) -> Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]:
    """Make a job of a function; `packages` are those that it imports itself."""

    def add(run: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        family = run.__module__.rpartition(".")[2]
        _known[run.__name__] = Job(run.__name__, family, make, run, packages)
        return run

    return add


def find_job(family: str, name: str) -> Job:
    """Return a job, and import no other family."""
    importlib.import_module(f".{family}", __package__)
    return _known[name]


def select_jobs(names: Iterable[str] = ()) -> list[Job]:
    """Return the jobs of these names, or all of them, by family.

    Raises
    ------
    JobError
        If there is no job of a name.
    """
    for family in FAMILIES:
        importlib.import_module(f".{family}", __package__)
    jobs = sorted(_known.values(), key=lambda job: FAMILIES.index(job.family))
    wanted = set(names) or _known.keys()
    if unknown := sorted(wanted - _known.keys()):
        raise JobError(
            f"There is no job named {', '.join(unknown)}. "
            f"Choose from {', '.join(job.name for job in jobs)}."
        )
    return [job for job in jobs if job.name in wanted]
