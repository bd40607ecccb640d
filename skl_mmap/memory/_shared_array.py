"""SharedArray: an ndarray whose rows can be selected without a copy."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap.memory._closing import WeakMethod, close_array, close_at_exit
from skl_mmap.memory._mapping import find_mapping
from skl_mmap.memory._selection import select_rows

if TYPE_CHECKING:
    from typing_extensions import Self


class SharedArray(np.ndarray[Any, np.dtype[Any]]):
    """An array in shared memory that selects rows without copying them.

    Tasks get their large arrays as this class; it is not made by hand. ``X[i]`` and
    ``np.take(X, i, axis=0)`` with an integer index array or a boolean mask return a
    *joined view*: rows that are far apart in the file appear next to each other in
    virtual memory. Values, order, dtype, shape and errors are exactly numpy's. A
    joined view is copy-on-write: writing to it changes neither `X` nor any other view.

    Everything else returns a plain ``ndarray``, but for views (slices, transposes,
    reshapes), which stay shared. Pickling is by value.

    It is a context manager that calls `close` at its end.

    Notes
    -----
    The class holds no state. What is shared is found by the address of the memory,
    so that ``np.asarray(X)``, which scikit-learn's input validation returns, is still
    sent to workers as a reference.
    """

    # Called by close(): what was done for this array alone is undone there.
    on_close: Callable[[], object] | None = None

    # As numpy.memmap: in numpy's functions, plain arrays win.
    __array_priority__ = -100.0

    def __enter__(self) -> Self:
        return self

    close = WeakMethod(close_array)
    __exit__ = WeakMethod(close_at_exit)

    def __getitem__(self, key: Any) -> Any:
        joined = select_rows(self, key, SharedArray)
        if joined is not None:
            return joined
        return _plain_unless_shared(super().__getitem__(key))

    def take(
        self,
        indices: Any,
        axis: Any = None,
        out: npt.NDArray[Any] | None = None,
        mode: Any = "raise",
    ) -> Any:
        """Select elements; rows (``axis=0``) without copying them."""
        if axis == 0 and out is None and mode == "raise":
            index = np.asarray(indices)
            # A mask is an array of the indices 0 and 1 here.
            if index.ndim == 1 and index.dtype.kind in "iu":
                joined = select_rows(self, index, SharedArray)
                if joined is not None:
                    return joined
        return np.asarray(self).take(indices, axis=axis, out=out, mode=mode)

    def __copy__(self) -> Any:
        return np.asarray(self).__copy__()

    def __deepcopy__(self, memo: dict[int, Any] | None) -> Any:
        return np.asarray(self).__deepcopy__(memo)

    def __array_wrap__(self, array: Any, context: Any = None, *args: Any) -> Any:
        # The signature of NumPy 2; NumPy 1 does not pass return_scalar, and expects a
        # scalar for every result without dimensions.
        if self is array:
            return array
        if args[0] if args else array.ndim == 0:
            return array[()]
        return array.view(np.ndarray)

    def __reduce_ex__(self, protocol: Any) -> Any:
        return np.asarray(self).__reduce_ex__(protocol)

    def __reduce__(self) -> Any:
        return np.asarray(self).__reduce__()

    def __array_function__(self, *arguments: Any) -> Any:
        return _plain_unless_shared(super().__array_function__(*arguments))


def _plain_unless_shared(result: Any) -> Any:
    if type(result) is SharedArray and find_mapping(result) is None:
        return result.view(np.ndarray)
    return result


def _delegate(name: str) -> Any:
    """Make a method that works on, and returns, plain arrays."""
    plain = getattr(np.ndarray, name)

    def method(self: npt.NDArray[Any], *args: Any, **kwargs: Any) -> Any:
        return plain(self.view(np.ndarray), *args, **kwargs)

    method.__name__ = name
    method.__doc__ = f"As ``ndarray.{name}``; the result is a plain array."
    return method


# Methods with a result of their own that do not ask __array_wrap__.
_PLAIN_METHODS = (
    *("argmax", "argmin", "argpartition", "argsort", "astype", "choose", "compress"),
    *("copy", "cumprod", "cumsum", "dot", "flatten", "nonzero", "repeat", "round"),
    "searchsorted",
)
for _name in _PLAIN_METHODS:
    setattr(SharedArray, _name, _delegate(_name))
