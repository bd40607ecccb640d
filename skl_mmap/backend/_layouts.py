"""X of a task in another layout than it has: how it is sent, and put together again.

::

    parent   task(estimator, X, train=train, ...)
             task(estimator, InLayout(X, float32), ...)   all rows, or those of train

    worker   an array or frame over one converted copy, which all workers share; or X,
             whose rows of train come from there

Who gets what is decided in _layout_choice.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from skl_mmap.backend._row_index import find_runs_of
from skl_mmap.containers import RowSize, container_of
from skl_mmap.memory import (
    MAX_RUNS,
    ArrayHandle,
    Conversion,
    Runs,
    rebuild_array,
)
from skl_mmap.monitor import note
from skl_mmap.orders import rows_of_pages

# More runs than this are not long.
_MAX_LONG_RUNS = 256


@dataclass(frozen=True, slots=True, eq=False)
class InLayout:
    """X of a task that is to be shared in another layout.

    Attributes
    ----------
    given : ndarray or DataFrame
        X as the task has it.
    numbers : ndarray or Stack
        What is stored: the array, or the columns of the frame.
    conversion : Conversion
        The layout in which it is.
    is_for_train : bool
        Whether that is for the train set only, and all other rows are selected as they
        would be from what was given.
    train_place : int or str
        Which argument of the task the train set is.
    train : index array, or the runs of one
        The train set itself, once it is in its final order.
    """

    given: Any
    numbers: Any
    conversion: Conversion
    is_for_train: bool = False
    train_place: int | str = 0
    train: Any = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of X."""
        return self.given.shape  # type: ignore[no-any-return]

    @property
    def is_array(self) -> bool:
        """Whether X is an array."""
        return self.numbers is self.given

    @property
    def is_by_column(self) -> bool:
        """Whether rows of the other layout do not lie in one piece."""
        return self.is_array and self.conversion.order == "F"

    @property
    def n_bytes(self) -> int:
        """Bytes of all rows in the other layout."""
        itemsize = self.conversion.dtype_of(self.numbers).itemsize
        return itemsize * self.shape[0] * self.shape[1]

    @property
    def row_bytes(self) -> int:
        """Bytes of the part of one row that lies in one piece in the other layout."""
        n_parts = self.shape[1] if self.is_by_column else 1
        return self.n_bytes // (self.shape[0] * n_parts)

    @property
    def name(self) -> str:
        """The layout, as in "float32 C"."""
        order = self.conversion.order_of(self.numbers) if self.is_array else "C"
        return f"{self.conversion.dtype_of(self.numbers)} {order}"

    @property
    def needs_given(self) -> bool:
        """Whether numbers of other rows would be lost in the other layout."""
        dtype = self.conversion.dtype_of(self.numbers)
        return self.is_for_train and dtype != self.numbers.dtype

    def by_row(self) -> Any:
        """Return the array such that rows of it are selected from C order."""
        conversion = Conversion(order="C", is_optional=True)
        if not self.is_array or not conversion.is_needed_for(self.given):
            return self.given
        return InLayout(self.given, self.given, conversion)

    def reduce(self, handle: ArrayHandle) -> Any:
        """Return what `__reduce__` would, with the handle of what is stored."""
        if self.is_by_column and self.is_for_train:
            settings = handle.settings._replace(is_by_column=True)
            handle = replace(handle, settings=settings)
        rebuild = None
        if not self.is_array:
            container = container_of(self.given)
            assert container is not None
            rebuild = container.rebuild_over(self.given)
        if not self.is_for_train:
            return _rebuild, (handle, rebuild)
        given = self.by_row() if self.needs_given else None
        return _rebuild_for_train, (handle, rebuild, self.train, given)


def _rebuild(handle: ArrayHandle, rebuild: Any) -> Any:
    numbers = rebuild_array(handle)
    if rebuild is None:
        return numbers
    function, arguments = rebuild
    return function(numbers, *arguments)


def _rebuild_for_train(
    handle: ArrayHandle, rebuild: Any, train: Any, given: Any
) -> Any:
    source = _rebuild(handle, rebuild)
    X = source if given is None else given
    container = container_of(X)
    assert container is not None
    return container.with_train_rows(X, source, train, is_source=given is None)


def given_of(value: Any) -> Any:
    """Return an argument as the task had it."""
    return value.given if type(value) is InLayout else value


def settle(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Tell X of a task in another layout which rows it is for, in their final order.

    Train sets are selected column by column from arrays in Fortran order. If they are
    in long runs, and cannot be mapped like that, X stays as it is: its rows are mapped
    then, and converted by the estimator.
    """
    X = next((v for v in (*args, *kwargs.values()) if _is_for_train(v)), None)
    if X is None:
        return args, kwargs
    place = X.train_place
    train = args[place] if isinstance(place, int) else kwargs[place]
    settled = replace(X, train=train)
    if X.is_by_column:
        runs = find_runs_of(train, X.shape[0])
        problem = why_not_by_column(X.shape, X.row_bytes, runs)
        if problem:
            note(f"train sets are put into Fortran order by the estimator: {problem}")
            settled = X.by_row()
    return (
        tuple(settled if value is X else value for value in args),
        {name: settled if value is X else value for name, value in kwargs.items()},
    )


def _is_for_train(value: Any) -> bool:
    return type(value) is InLayout and value.is_for_train


def count_rows_of(values: tuple[Any, ...]) -> int:
    """Return how many rows the longest of a task's arguments has."""
    return max((value.shape[0] for value in values if size_of(value)), default=0)


def size_of(value: Any) -> RowSize | None:
    """Return how large the rows of an argument are; None if it has no rows."""
    if type(value) is InLayout:
        return RowSize(value.row_bytes, value.row_bytes)
    container = container_of(value)
    return None if container is None else container.row_size(value)


def why_not_by_column(
    shape: tuple[int, ...], itemsize: int, runs: Runs | None
) -> str | None:
    """Say why rows in long runs cannot all be mapped column by column.

    Each column begins at a page if `n_samples` fills whole pages, and so does each
    column of the train set if its size does. The same holds for its runs. Rows without
    long runs are copied in any case.

    Examples
    --------
    >>> import numpy as np
    >>> why_not_by_column((5120, 10), 8, np.array([[0, 1024], [2048, 5120]]))
    >>> why_not_by_column((5120, 10), 8, np.array([[0, 1000], [2048, 5120]]))
    'their runs of rows do not begin and end at multiples of 512'
    """
    unit = rows_of_pages(itemsize)
    if runs is None or len(runs) > _MAX_LONG_RUNS:
        return None
    if len(runs) * shape[1] > MAX_RUNS:
        return f"{len(runs)} runs of rows in {shape[1]} columns are too many"
    if shape[0] % unit:
        return f"the number of rows, {shape[0]}, is not a multiple of {unit}"
    if np.any(runs % unit):
        return f"their runs of rows do not begin and end at multiples of {unit}"
    return None
