"""Which tasks get X in another layout, with ``layouts="auto"``.

An estimator that would convert X by itself, fold by fold and in every worker, gets rows
of one converted copy that all workers share. Three things are needed for that::

    the task      hands X to an estimator or a scorer, and does nothing else with it
    the estimator gives the same bits with X in the other layout: always, or in fit
    the copy      costs less than the tasks that are in sight would convert

The first is known of the tasks that scikit-learn makes, the second of the estimators in
a table: see `skl_mmap.copies`. If only fit gives the same bits, or a scorer is not
known, only the train set is taken from the copy.
"""

from __future__ import annotations

import inspect
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from skl_mmap import _compat
from skl_mmap._compat import ModelTask
from skl_mmap.backend._arguments import names_of, position_of
from skl_mmap.backend._layouts import InLayout, why_not_by_column
from skl_mmap.backend._row_index import count_rows, find_runs_of, known_runs
from skl_mmap.containers import container_of
from skl_mmap.memory import (
    Conversion,
    SharedArray,
    Stack,
    is_shared_already,
    stored_order,
)
from skl_mmap.monitor import note

if TYPE_CHECKING:
    from skl_mmap.copies import Layout

# What they do with X is what scikit-learn's own tasks do: select rows, and hand them to
# the estimator.
_OWN_TASKS = {
    ("skl_mmap.estimators._flat_list", "fit_rows"): ModelTask((), only_fits=True),
    ("skl_mmap.estimators._flat_list", "predict_fold"): ModelTask(()),
    ("skl_mmap.estimators._flat_list", "try_fit_rows"): ModelTask((), only_fits=True),
    ("skl_mmap.estimators._flat_list", "try_predict_fold"): ModelTask(()),
    ("skl_mmap.estimators._single_fits", "fit_alone"): ModelTask((), only_fits=True),
}
_ARRAYS = (np.ndarray, np.memmap, SharedArray)
_KINDS = "fiu"
# So deep in the arguments of fit, X itself is looked for.
_MAX_DEPTH = 3
# Inputs that are gone are forgotten when there are so many.
_MAX_KNOWN = 64


class _Call(NamedTuple):
    """A task that hands X to an estimator.

    Attributes
    ----------
    kind : ModelTask
        What it does.
    arguments : dict
        Its arguments by name.
    numbers : ndarray or Stack
        X, or the columns of a frame.
    """

    kind: ModelTask
    arguments: dict[str, Any]
    numbers: Any

    @property
    def X(self) -> Any:  # noqa: N802 - as everywhere
        """The array or frame."""
        return self.arguments["X"]

    @property
    def is_array(self) -> bool:
        """Whether X is an array."""
        return self.numbers is self.X

    @property
    def train(self) -> Any:
        """The row index of the train set; None if fit gets all rows, or some."""
        return self.arguments.get("train")

    @property
    def selects_rows(self) -> bool:
        """Whether the estimator gets rows of X, and not all of it."""
        return self.kind.selects_rows or self.train is not None

    @property
    def order(self) -> str:
        """The order in which the estimator gets X, or rows of it."""
        if self.is_array:
            # numpy selects rows into C order, and has to copy them from any other.
            return "C" if self.selects_rows else stored_order(self.X)
        is_by_row = isinstance(self.numbers, np.ndarray) and (
            self.numbers.flags.f_contiguous
        )
        return "C" if is_by_row else "frame"


class _Wish(NamedTuple):
    """X of a task as its estimator wants it, and the bytes that are saved by that."""

    layout: InLayout
    estimator: str
    saved_bytes: float

    @property
    def key(self) -> tuple[int, Conversion]:
        """Tells one converted copy from another."""
        return id(self.layout.given), self.layout.conversion


class _Known:
    """What is known of one X in a call."""

    def __init__(self, X: Any) -> None:
        self.reference = weakref.ref(X)
        self.stack: Stack | None = None
        # Copies that were decided for, and whether a task gets X as it is.
        self.made: set[Conversion] = set()
        self.is_given = False


class LayoutChoice:
    """Decides, for the tasks of one call, which of them get X in another layout.

    Parameters
    ----------
    n_jobs : int
        How many tasks run at the same time.
    min_bytes : int
        Smaller arrays are left alone.
    """

    def __init__(self, n_jobs: int, min_bytes: int) -> None:
        self._n_jobs = n_jobs
        self._min_bytes = max(min_bytes, 1)
        self._known: dict[int, _Known] = {}
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()

    def choose(self, batches: list[Any]) -> None:
        """Replace X in the batches of tasks that are in sight, where that pays."""
        new = [b for b in batches if _compat.tasks_of(b) and b not in self._seen]
        self._seen.update(new)
        wishes = [[self.wish(item) for item in _compat.tasks_of(b) or ()] for b in new]
        groups: dict[tuple[int, Conversion], list[list[_Wish]]] = {}
        for of_batch in wishes:
            for key in dict.fromkeys(wish.key for wish in of_batch if wish):
                same = [wish for wish in of_batch if wish and wish.key == key]
                groups.setdefault(key, []).append(same)
        chosen = {key for key, group in groups.items() if self._pays(group)}
        for batch, of_batch in zip(new, wishes, strict=True):
            if any(wish and wish.key in chosen for wish in of_batch):
                items = zip(_compat.tasks_of(batch) or (), of_batch, strict=True)
                _compat.set_tasks(
                    batch,
                    [
                        _replace_input(item, wish)
                        if wish and wish.key in chosen
                        else item
                        for item, wish in items
                    ],
                )

    def _pays(self, group: list[list[_Wish]]) -> bool:
        """Return whether a converted copy costs less than it saves.

        It is there once, for as long as the call. Without it, each batch that runs at
        the same time has a copy of its own, of one train set at a time.
        """
        first = group[0][0]
        layout = first.layout
        known = self._known[id(layout.given)]
        if layout.conversion in known.made:
            return True
        cost_bytes = layout.n_bytes
        is_needed = known.is_given or layout.needs_given
        if not is_needed and not is_shared_already(layout.numbers):
            cost_bytes -= layout.numbers.nbytes  # which nobody shares then
        saved = [max(wish.saved_bytes for wish in of_batch) for of_batch in group]
        if cost_bytes < sum(sorted(saved)[-self._n_jobs :]):
            known.made.add(layout.conversion)
            return True
        known.is_given = True
        note(
            f"{first.estimator} was given X as it is: one copy as {layout.name} for "
            "all would need as much memory as it saves"
        )
        return False

    def wish(self, item: Any) -> _Wish | None:
        """Return X of a task as its estimator wants it; None if it is fine as it is."""
        call = self._see(item)
        if call is None:
            return None
        estimator = _estimator_of(call)
        found = _find_conversion(call, estimator) or _find_order(call)
        known = self._known[id(call.X)]
        if found is None:
            known.is_given = True
            return None
        conversion, is_for_train = found
        layout = InLayout(
            call.X,
            call.numbers,
            conversion,
            is_for_train=is_for_train,
            train_place=_place_of(item, "train"),
        )
        n_rows = call.X.shape[0]
        n_fitted = n_rows if call.train is None else count_rows(call.train)
        saved_bytes = layout.n_bytes * n_fitted / n_rows
        return _Wish(layout, type(estimator).__name__, saved_bytes)

    def _see(self, item: Any) -> _Call | None:
        """Return a task, if it does no more with X than to hand it to an estimator."""
        function, args, kwargs = item
        function = inspect.unwrap(function)
        own = _OWN_TASKS.get(_compat.place_of_function(function))
        kind = own or _compat.find_model_task(function)
        if kind is None:
            for value in (*args, *kwargs.values()):
                self._needs_as_it_is(value)
            return None
        names = names_of(function)
        arguments = {**dict(zip(names, args, strict=False)), **kwargs}
        X = arguments.get("X")
        numbers = self._numbers_of(X)
        if numbers is None:
            return None
        call = _Call(kind, arguments, numbers)
        others = [value for name, value in arguments.items() if name != "X"]
        if any(_contains(value, X) for value in others) or not _is_known_use(call):
            self._needs_as_it_is(X)
            return None
        return call

    def _needs_as_it_is(self, value: Any) -> None:
        known = self._known.get(id(value))
        if known is not None and known.reference() is value:
            known.is_given = True

    def _numbers_of(self, X: Any) -> Any:
        """Return the numbers of X, if X may be given in another layout."""
        container = container_of(X)
        if container is None or getattr(X, "ndim", 0) != 2 or not X.size:
            return None
        if container.n_bytes(X) < self._min_bytes:
            return None
        numbers = X if type(X) in _ARRAYS else container.numbers(X)
        if numbers is None or numbers.dtype.kind not in _KINDS:
            return None
        if not numbers.dtype.isnative:
            return None
        known = self._known_of(X)
        if isinstance(numbers, Stack):
            # The same one for all tasks, so that a look at parts of it is enough.
            if known.stack is None or not known.stack.is_like(numbers):
                known.stack = numbers
            return known.stack
        return numbers

    def _known_of(self, X: Any) -> _Known:
        known = self._known.get(id(X))
        if known is None or known.reference() is not X:
            if len(self._known) >= _MAX_KNOWN:
                self._known = {
                    key: known
                    for key, known in self._known.items()
                    if known.reference() is not None
                }
            self._known[id(X)] = known = _Known(X)
        return known


def _contains(value: Any, X: Any, depth: int = _MAX_DEPTH) -> bool:
    """Return whether X is there a second time, and what is looked for by identity."""
    if value is X:
        return True
    if isinstance(value, dict):
        value = list(value.values())
    if depth == 0 or type(value) not in (list, tuple):
        return False
    # Lists of numbers are long.
    parts = value[:_MAX_KNOWN]
    return any(_contains(part, X, depth - 1) for part in parts)


def _is_known_use(call: _Call) -> bool:
    """Return whether a task of a known kind looks at X no more than the others do."""
    kind, arguments = call.kind, call.arguments
    n_rows, n_columns = call.X.shape
    if n_rows == n_columns:  # it may be a matrix of pairs
        return False
    if kind.is_for_arrays and not call.is_array:
        return False
    if "cv" in arguments and not _compat.has_known_splits(arguments["cv"]):
        return False
    if not all(_is_index(arguments.get(name)) for name in ("train", "test")):
        return False
    return not _compat.is_watched(arguments.get("caller"))


def _is_index(rows: Any) -> bool:
    """Return whether rows are selected by number, or none are selected."""
    if rows is None or known_runs(rows) is not None:
        return True
    return (
        isinstance(rows, np.ndarray)
        and rows.ndim == 1
        and rows.dtype.kind in "iu"
        and rows.size > 0
    )


def _find_order(call: _Call) -> tuple[Conversion, bool] | None:
    """Return C order if rows are selected from an array in another one.

    They have C order in any case, and can be mapped then.
    """
    conversion = Conversion(order="C", is_optional=True)
    if not call.is_array or not call.selects_rows:
        return None
    return (conversion, False) if conversion.is_needed_for(call.X) else None


def _find_conversion(call: _Call, estimator: Any) -> tuple[Conversion, bool] | None:
    """Return the layout that the estimator of a task wants.

    And whether only the train set may be given in it.
    """
    # Who has no parameters may be anything: an ensemble whose parts are fitted, say.
    if not hasattr(estimator, "get_params"):
        return None
    if _compat.has_callbacks(estimator) is not False:
        return None
    layout = _find_layout(call, estimator)
    if layout is None or not (call.is_array or layout.order == "C"):
        return None
    order = layout.order if call.is_array else "F"  # of columns: row by row
    conversion = Conversion(
        np.dtype(layout.dtype), order, is_optional=True, needs_finite=not call.is_array
    )
    if not conversion.is_needed_for(call.numbers):
        return None
    if call.kind.only_fits:
        return conversion, False
    is_handed_on = _compat.is_handing_scorer(call.arguments.get("scorer"))
    is_by_column = call.is_array and order == "F" and call.selects_rows
    if is_handed_on and not layout.is_for_fit_only and not is_by_column:
        return conversion, False
    if call.train is None:
        return None
    if call.arguments.get("return_train_score"):
        note(
            f"{type(estimator).__name__} was given X as it is, and not as "
            f"{layout.dtype} {layout.order}: train scores are computed from it as well"
        )
        return None
    return conversion, True


def _find_layout(call: _Call, estimator: Any) -> Layout | None:
    """Return the layout that the table of estimators has for a task."""
    from skl_mmap.copies import find_layout

    is_bagging = call.kind.estimator != "estimator"
    if is_bagging and not call.is_array:
        return None
    # Columns of X have another order than X: then only the dtype may be another.
    orders = ("F", "C") if is_bagging else (call.order,)
    layouts = {
        order: find_layout(estimator, call.numbers, order=order)[0] for order in orders
    }
    is_only_dtype = all(
        layout is not None and layout.order == ("C" if order == "C" else "F")
        for order, layout in layouts.items()
    )
    if (is_bagging or _hands_on(estimator)) and not is_only_dtype:
        return None
    layout = layouts[stored_order(call.X) if is_bagging else call.order]
    if layout is not None and layout.is_for_fit_only and _hands_on(estimator):
        return None
    return layout


def _hands_on(estimator: Any) -> bool:
    """Return whether others get what the first step of a pipeline makes of X.

    It may have the order of X then, which others see.
    """
    from skl_mmap.copies import used_steps

    while hasattr(estimator, "steps"):
        used = used_steps(estimator)
        if len(used) != 1:
            return True
        (estimator,) = used
    return False


def _estimator_of(call: _Call) -> Any:
    """Return the estimator as it will be fitted; None if that cannot be known."""
    kind, arguments = call.kind, call.arguments
    estimator = arguments.get(kind.estimator)
    if kind.estimator == "estimators":
        return estimator[0] if estimator else None
    if kind.estimator == "ensemble":
        is_known = _compat.is_bagging_all(estimator, arguments)
        return getattr(estimator, "estimator_", None) if is_known else None
    parameters = arguments.get("parameters")
    if not parameters:
        return estimator
    from sklearn.base import clone

    try:
        estimator = clone(estimator)
        return estimator.set_params(**clone(parameters, safe=False))
    except Exception:  # noqa: BLE001 - the task itself will say what is wrong
        return None


def _place_of(item: Any, name: str) -> int | str:
    """Return which positional argument has a name, or the name."""
    function, _, kwargs = item
    place = None if name in kwargs else position_of(function, name)
    return name if place is None else place


def _replace_input(item: Any, wish: _Wish) -> Any:
    """Return a task with X in another layout."""
    function, args, kwargs = item
    layout = wish.layout
    which = "train sets of X" if layout.is_for_train else "X"
    note(f"{wish.estimator} was given {which} as {layout.name}")
    return (
        function,
        tuple(layout if arg is layout.given else arg for arg in args),
        {k: layout if v is layout.given else v for k, v in kwargs.items()},
    )


def find_saved_conversion(item: Any, min_bytes: int) -> str:
    """Name the layout, as "float32 C", that ``layouts="auto"`` would share with a task.

    Empty where the estimator takes X as it is, or would convert its train set
    nevertheless.
    """
    choice = LayoutChoice(1, min_bytes)
    wish = choice.wish(item)
    if wish is None or wish.layout.conversion.dtype is None:  # only another order
        return ""
    layout = wish.layout
    if layout.is_by_column and layout.is_for_train:
        _, args, kwargs = item
        place = layout.train_place
        train = args[place] if isinstance(place, int) else kwargs[place]
        runs = find_runs_of(train, layout.shape[0])
        if why_not_by_column(layout.shape, layout.row_bytes, runs):
            return ""
    return layout.name
