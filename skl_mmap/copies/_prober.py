"""One estimator and one sample of data, ready to be measured again and again."""

from __future__ import annotations

import numbers
import os
import sys
import tempfile
from typing import Any, final

import numpy as np
import numpy.typing as npt

from skl_mmap._units import format_bytes
from skl_mmap.copies._job import Answer, Job
from skl_mmap.copies._layout import Layout
from skl_mmap.copies._pickling import pickle_estimator
from skl_mmap.copies._server_process import ServerProcess, make_sample
from skl_mmap.exceptions import InvalidParameterError, MeasurementError
from skl_mmap.memory import can_remap

__all__ = ["Prober", "as_table"]

# Enough to tell a copy from vectors and from noise of the kernel's numbers.
_SAMPLE_BYTES = 16 << 20
_MIN_BYTES = 2 << 20
# One call with the largest sample.
_MAX_SECONDS = 1.5
# Less work, and the same use of X.
_CHEAPER = {"n_estimators": 4, "max_iter": 5, "n_init": 1, "cache_size": 10}


def as_table(X: Any) -> npt.NDArray[Any]:
    """Return X as an array that can be measured.

    Raises
    ------
    InvalidParameterError
        If X is no dense table of numbers.
    """
    if hasattr(X, "tocsr"):
        raise InvalidParameterError(
            "X is a sparse matrix, whose copies cannot be told apart yet. "
            "Pass a dense sample of it."
        )
    table = np.asarray(X)
    if table.ndim != 2 or table.dtype.kind not in "fiub" or table.size == 0:
        raise InvalidParameterError(
            f"X of shape {table.shape} and dtype {table.dtype} is no table of numbers, "
            "and copies of others cannot be told apart. Pass an array of shape "
            "(n_samples, n_features) of floats or integers."
        )
    return table


@final
class Prober:
    """Measures an estimator on a sample of data, in processes of its own.

    Parameters
    ----------
    estimator : estimator
        Not fitted by this; a clone with fixed random states is.
    X : ndarray of shape (n_samples, n_features)
        The data.
    y : array-like of shape (n_samples,) or None
        The target.
    layout : Layout
        In which it is tried how many rows the time allows.
    methods : tuple of str
        Likewise.
    n_rows : int or None
        Rows of the largest sample; None for some 16 MB, or fewer if a call with them
        takes more than some seconds.
    timeout_seconds : float
        For all methods in one layout.
    deep : bool
        Whether memray looks on.

    Attributes
    ----------
    estimator : estimator
        The clone.
    n_samples : int
        Rows of the largest sample.
    cheaper : dict
        Parameters that were set, so that it takes less time.
    notes : tuple of str
        What the numbers do not tell.
    """

    def __init__(
        self,
        estimator: Any,
        X: npt.NDArray[Any],
        y: Any,
        *,
        layout: Layout,
        methods: tuple[str, ...],
        n_rows: int | None = None,
        timeout_seconds: float = 300.0,
        deep: bool = False,
    ) -> None:
        _check_system()
        self.estimator = _make_repeatable(estimator)
        self.cheaper: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        wanted = _choose_rows(X, n_rows)
        data = pickle_estimator(self.estimator)
        self._folder = tempfile.TemporaryDirectory() if deep else None
        sample = make_sample(X, y, wanted)
        try:
            self._server = ServerProcess(data, sample, timeout_seconds=timeout_seconds)
        except BaseException:
            if self._folder is not None:
                self._folder.cleanup()
            raise
        finally:
            os.close(sample.fd)
        self.n_samples = wanted
        try:
            if n_rows is None:
                self._fit_into_time(layout, methods, wanted, X)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """End its processes."""
        self._server.close()
        if self._folder is not None:
            self._folder.cleanup()

    def measure(
        self,
        layout: Layout,
        methods: tuple[str, ...],
        *,
        parameters: dict[str, Any] | None = None,
        compares: bool = False,
    ) -> list[Answer]:
        """Measure methods in one layout.

        Parameters
        ----------
        layout : Layout
            Of X.
        methods : tuple of str
            What to call.
        parameters : dict, default=None
            For ``set_params``.
        compares : bool, default=False
            Whether fingerprints are wanted, to compare results.

        Returns
        -------
        list of Answer
            One for each method.
        """
        job = Job(
            layout,
            methods,
            self.n_samples,
            parameters={**self.cheaper, **(parameters or {})},
            compares=compares,
            deep_folder="" if self._folder is None else self._folder.name,
        )
        return self._server.measure(job)

    def _fit_into_time(
        self,
        layout: Layout,
        methods: tuple[str, ...],
        wanted: int,
        X: npt.NDArray[Any],
    ) -> None:
        job = Job(layout, methods, wanted, is_scouting=True, seconds=_MAX_SECONDS)
        scouting = self._server.scout(job)
        if scouting is not None and scouting.n_samples < wanted:
            cheaper = _find_cheaper(self.estimator)
            if cheaper:
                job = Job(
                    layout,
                    methods,
                    wanted,
                    cheaper,
                    is_scouting=True,
                    seconds=_MAX_SECONDS,
                )
                other = self._server.scout(job)
                if other is not None and other.n_samples > scouting.n_samples:
                    scouting, self.cheaper = other, cheaper
                    values = ", ".join(f"{k}={v!r}" for k, v in cheaper.items())
                    self.notes += (f"measured with {values}, to save time",)
        row_bytes = X.shape[1] * X.dtype.itemsize
        least = min(wanted, -(-_MIN_BYTES // row_bytes))
        if scouting is not None:
            self.n_samples = max(scouting.n_samples, least)
        if self.n_samples * row_bytes < _MIN_BYTES // 2:
            size = format_bytes(self.n_samples * row_bytes)
            self.notes += (f"X of {size} is too small to tell copies from noise",)


def _check_system() -> None:
    has_all = sys.platform == "linux" and hasattr(os, "pidfd_open")
    if not has_all or not can_remap():
        raise MeasurementError(
            "Copies of X can only be measured on Linux with /proc (5.3 or later): "
            "elsewhere nothing tells the peak of a process and which pages were "
            "written to. Run this on Linux."
        )


def _make_repeatable(estimator: Any) -> Any:
    """Clone an estimator, with a random state wherever it has none."""
    from sklearn.base import clone

    if isinstance(estimator, type) or not hasattr(estimator, "fit"):
        raise InvalidParameterError(
            f"estimator={estimator!r} has no fit, or is a class. Pass an instance of "
            "an estimator, such as Ridge()."
        )
    if not hasattr(estimator, "get_params"):
        return estimator
    copy = clone(estimator)
    states = {
        name: 0
        for name, value in copy.get_params(deep=True).items()
        if name.rpartition("__")[2] == "random_state" and value is None
    }
    return copy.set_params(**states)


def _choose_rows(X: npt.NDArray[Any], n_rows: int | None) -> int:
    if n_rows is None:
        row_bytes = X.shape[1] * X.dtype.itemsize
        return int(min(len(X), max(1, _SAMPLE_BYTES // row_bytes)))
    is_number = isinstance(n_rows, numbers.Integral) and not isinstance(n_rows, bool)
    if not is_number or not 1 <= n_rows <= len(X):
        raise InvalidParameterError(
            f"n_rows={n_rows!r} is no number of rows of X, which has {len(X)}. Pass a "
            "number of them, or None to have as many as needed."
        )
    return int(n_rows)


def _find_cheaper(estimator: Any) -> dict[str, Any]:
    """Return parameters with which an estimator does less of the same."""
    if not hasattr(estimator, "get_params"):
        return {}
    return {
        name: _CHEAPER[last]
        for name, value in estimator.get_params(deep=True).items()
        if (last := name.rpartition("__")[2]) in _CHEAPER
        and (value == "auto" or _is_more(value, _CHEAPER[last]))
    }


def _is_more(value: Any, least: int) -> bool:
    """Whether a number is larger; -1 stands for no limit."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and bool(value > least or value == -1)
