"""Facts about a parallel call that its report needs to give advice.

Tasks are looked at in this process, before they are sent, while somebody measures.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap._compat import tasks_of
from skl_mmap.backend._layout_choice import find_saved_conversion
from skl_mmap.backend._layouts import given_of
from skl_mmap.backend._observation import label_task
from skl_mmap.backend._options import Options
from skl_mmap.backend._row_index import count_rows, known_runs
from skl_mmap.containers import count_bytes
from skl_mmap.memory import count_runs, index_of_runs
from skl_mmap.monitor import CallRecord

if TYPE_CHECKING:
    from skl_mmap.orders import PartitionCheck

# These cannot be written into a line of code.
_NOT_WRITTEN = frozenset({"initializer", "initargs"})


class CallWatch:
    """Looks at the tasks of one call, and says in a record what they have in common."""

    def __init__(
        self, n_jobs: int, options: Options, threads: int | None, owner: str
    ) -> None:
        self._n_jobs = n_jobs
        self._options = options
        self._threads = threads
        self._owner = owner
        self._folds = _Folds()
        self._has_target = self._is_classifier = self._can_reorder = False
        self._conversions: dict[str, str] = {}
        self._input_bytes: int | None = None
        self._input_id = 0

    def see(self, batch: Any) -> None:
        """Look at a batch: joblib's ``BatchedCalls``; anything else tells nothing."""
        for item in tasks_of(batch) or ():
            # Arguments are of any class, and what asking them for an attribute does is
            # up to them. No call fails because somebody measures it.
            with contextlib.suppress(Exception):
                self._see_item(item)

    def _see_item(self, item: Any) -> None:
        function, args, kwargs = item
        signature = inspect.signature(inspect.unwrap(function))
        arguments = signature.bind_partial(*args, **kwargs).arguments
        train, test = arguments.get("train"), arguments.get("test")
        X = given_of(arguments.get("X"))
        self._see_input(X)
        shape = getattr(X, "shape", None)
        if arguments.get("y") is not None:
            self._has_target = True
        if train is not None or hasattr(arguments.get("cv"), "split"):
            self._can_reorder = True
        if train is not None and test is not None and shape:
            self._folds.see(train, test, int(shape[0]))
        name = label_task(item).partition(", ")[0]
        if name and name not in self._conversions:
            self._conversions[name] = ""
            self._see_estimator(name, item, arguments.get("estimator"))

    def _see_input(self, X: Any) -> None:
        """Take down the size of X, once: that of a list of texts takes a while."""
        if X is None or id(X) == self._input_id:
            return
        self._input_id = id(X)
        n_bytes = count_bytes(X)
        if n_bytes is not None:
            self._input_bytes = max(n_bytes, self._input_bytes or 0)

    def _see_estimator(self, name: str, item: Any, estimator: Any) -> None:
        from sklearn.base import is_classifier

        self._is_classifier |= is_classifier(estimator)
        if self._is_convertible():
            min_bytes = self._options.min_bytes or 0
            self._conversions[name] = find_saved_conversion(item, min_bytes)

    def _is_convertible(self) -> bool:
        return self._options.layouts == "given" and self._options.min_bytes is not None

    def record(self) -> CallRecord:
        """Return what was seen."""
        default = Options()
        options = {
            field.name: value
            for field in dataclasses.fields(Options)
            if field.name not in _NOT_WRITTEN
            and (value := getattr(self._options, field.name))
            != getattr(default, field.name)
        }
        if self._threads is not None:
            options["inner_max_num_threads"] = self._threads
        simple = (str, int, float, bool, type(None))
        return CallRecord(
            "mmap",
            self._n_jobs,
            {k: v if isinstance(v, simple) else str(v) for k, v in options.items()},
            owner=self._owner,
            n_splits=self._folds.n_splits,
            n_runs=self._folds.n_runs,
            is_partition=self._folds.is_partition,
            has_target=self._has_target,
            is_classifier=self._is_classifier,
            can_reorder=self._can_reorder,
            conversions={k: v for k, v in self._conversions.items() if v},
            input_bytes=self._input_bytes,
        )


class _Folds:
    """Finds out if the splits of a call can be arranged, as `skl_mmap.arrange` asks.

    Takes a byte and some passes over the indices for each row and split.
    """

    def __init__(self) -> None:
        self.n_splits = self.n_runs = 0
        # Searches send the same sets, as arrays or as runs, for each candidate.
        self._known: dict[int, weakref.ref[Any]] = {}
        self._hashes: set[bytes] = set()
        self._check: PartitionCheck | None = None

    @property
    def is_partition(self) -> bool | None:
        """Whether they can; None if there were none."""
        return None if self._check is None else self._check.holds

    def see(self, train: Any, test: Any, n_rows: int) -> None:
        """Look at a split, unless it was seen before."""
        from skl_mmap.orders import PartitionCheck

        known = self._known.get(id(test))
        if known is not None and known() is test:
            return
        if type(test) is np.ndarray:
            self._known[id(test)] = weakref.ref(test)
        runs = known_runs(test)
        bytes_of_test = np.ascontiguousarray(test if runs is None else runs).data
        key = hashlib.blake2b(bytes_of_test).digest()
        if key in self._hashes:
            return
        self._hashes.add(key)
        self.n_splits += 1
        runs = known_runs(train)
        n_runs = count_runs(train) if runs is None else len(runs)
        self.n_runs = max(self.n_runs, n_runs)
        if self._check is None:
            self._check = PartitionCheck(n_rows)
        self._check.see(_as_rows(train, n_rows), _as_rows(test, n_rows))


def _as_rows(rows: Any, n_rows: int) -> npt.NDArray[Any]:
    """Return runs as a mask, which takes an eighth of the memory of indices."""
    runs = known_runs(rows)
    if runs is None:
        return np.asarray(rows)
    mask = np.zeros(n_rows, dtype=bool)
    for start, stop in runs.tolist():
        mask[start:stop] = True
    # Rows that are there twice have no mask.
    is_mask = np.count_nonzero(mask) == count_rows(rows)
    return mask if is_mask else index_of_runs(runs)
