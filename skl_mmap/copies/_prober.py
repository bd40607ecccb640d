"""One estimator and one sample of data, ready to be measured again and again."""

from __future__ import annotations

import contextlib
import numbers
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import Any, final

import cloudpickle
import numpy as np
import numpy.typing as npt

from skl_mmap._linux.proc import can_remap
from skl_mmap._units import format_bytes
from skl_mmap.copies._job import Answer, Job
from skl_mmap.copies._results import Layout
from skl_mmap.copies._server import ServerProcess, make_sample
from skl_mmap.exceptions import InvalidParameterError, MeasurementError

# Enough to tell a copy from vectors and from noise of the kernel's numbers.
_SAMPLE_BYTES = 16 << 20
_MIN_BYTES = 2 << 20
# One call with the largest sample.
_MAX_SECONDS = 1.5
# Less work, and the same use of X.
_CHEAPER = {"n_estimators": 4, "max_iter": 5, "n_init": 1, "cache_size": 10}


def as_table(X: Any) -> npt.NDArray[Any]:
    """Return X as an array; an error if it is not a dense table of numbers."""
    if hasattr(X, "tocsr"):
        raise InvalidParameterError(
            "X is a sparse matrix, whose copies cannot be told apart yet. "
            "Pass a dense sample of it."
        )
    table = np.asarray(X)
    if table.ndim != 2 or table.dtype.kind not in "fiub" or table.size == 0:
        raise InvalidParameterError(
            f"X of shape {table.shape} and dtype {table.dtype} is not a table of "
            "numbers, and copies of others cannot be told apart. Pass an array of "
            "shape (n_samples, n_features) of floats or integers."
        )
    return table


@final
class Prober:
    """Measures an estimator on a sample of data, in processes of its own.

    A clone with fixed random states is fitted. Where `n_rows` is None, it is tried in
    `layout` how many rows the time allows: some 16 MB, and fewer if a call with them
    takes more than some seconds. `timeout_seconds` are for all methods in one layout,
    and with `deep` memray looks on.

    Attributes
    ----------
    name : str
        The estimator in one line.
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
        self.name = " ".join(repr(estimator).split())
        self.estimator = _make_repeatable(estimator)
        self._methods = methods
        self.cheaper: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        wanted = _choose_rows(X, n_rows)
        data = _pickle_estimator(self.estimator)
        with contextlib.ExitStack() as stack:
            self._folder = ""
            if deep:
                self._folder = stack.enter_context(tempfile.TemporaryDirectory())
            sample = make_sample(X, y, wanted)
            try:
                self._server = stack.enter_context(
                    ServerProcess(data, sample, timeout_seconds=timeout_seconds)
                )
            finally:
                os.close(sample.fd)
            self.n_samples = wanted
            if n_rows is None:
                self._fit_into_time(layout, wanted, X)
            # Everything went well: what was opened stays open.
            self._opened = stack.pop_all()

    def __enter__(self) -> Prober:
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.close()

    def measure(
        self,
        layout: Layout,
        methods: tuple[str, ...] | None = None,
        *,
        parameters: dict[str, Any] | None = None,
        compares: bool = False,
    ) -> dict[str, Answer]:
        """Measure methods, those of the prober by default, and return their answers.

        `parameters` are for ``set_params``; with `compares`, answers have fingerprints.
        """
        job = Job(
            layout,
            self._methods if methods is None else methods,
            self.n_samples,
            parameters={**self.cheaper, **(parameters or {})},
            compares=compares,
            deep_folder=self._folder,
        )
        return {answer.copies.method: answer for answer in self._server.measure(job)}

    def _fit_into_time(self, layout: Layout, wanted: int, X: npt.NDArray[Any]) -> None:
        """Choose as many rows, up to those wanted, as the time allows."""
        job = Job(layout, self._methods, wanted, is_scouting=True, seconds=_MAX_SECONDS)
        scouting = self._server.scout(job)
        if scouting is not None and scouting.n_samples < wanted:
            cheaper = _find_cheaper(self.estimator)
            other = None
            if cheaper:
                other = self._server.scout(replace(job, parameters=cheaper))
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
            f"n_rows={n_rows!r} is not a number of rows of X, which has {len(X)}. Pass "
            "a number of them, or None to have as many as needed."
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
    """Return whether a number is larger; -1 stands for no limit."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    return is_number and bool(value > least or value == -1)


def _pickle_estimator(estimator: Any) -> bytes:
    """Pickle an estimator for a new interpreter with this ``sys.path``.

    Classes and functions that it cannot import, of a test module for example, are in it
    by value.
    """
    with contextlib.ExitStack() as stack:
        for module in _find_modules(estimator):
            if not _is_importable(module):
                cloudpickle.register_pickle_by_value(module)
                stack.callback(cloudpickle.unregister_pickle_by_value, module)
        data: bytes = cloudpickle.dumps(estimator)
    return data


def _find_modules(estimator: Any) -> Iterator[ModuleType]:
    """Return the modules of an estimator's classes and of its parameters."""
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += estimator.get_params(deep=True).values()
    names: dict[str, None] = {}
    for part in parts:
        classes = () if isinstance(part, type) else type(part).__mro__
        for item in (*classes, part):
            name = getattr(item, "__module__", None)
            if isinstance(name, str):
                names[name] = None
    for name in names:
        module = sys.modules.get(name)
        is_known = name in cloudpickle.list_registry_pickle_by_value()
        if module is not None and name not in ("__main__", "builtins") and not is_known:
            yield module


def _is_importable(module: ModuleType) -> bool:
    """Return whether the finders lead to this module, whatever is imported."""
    file = getattr(module, "__file__", None)
    if file is None:
        return True
    path: Any = None
    spec: Any = None
    parts = module.__name__.split(".")
    for n_parts in range(1, len(parts) + 1):
        name = ".".join(parts[:n_parts])
        for finder in sys.meta_path:
            with contextlib.suppress(ImportError, AttributeError):
                spec = finder.find_spec(name, path, None)
                if spec is not None:
                    break
        if spec is None:
            return False
        path = spec.submodule_search_locations
        if path is None and n_parts < len(parts):
            return False
    return bool(spec.origin == file)
