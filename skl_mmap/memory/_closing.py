"""Closing what is shared: its class changes to one whose every use is an error.

An open array pays nothing for this, and a closed one cannot be mistaken for data: an
array without rows, which would be simpler, can. The memory of an array can be let go
of at once if nothing refers to it but names in the function that closes it. A view of
another class, a memoryview or C code would refer to it too, and must find it there.
"""

from __future__ import annotations

import functools
import inspect
import sys
import weakref
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import ClosedArrayError

if TYPE_CHECKING:
    from typing_extensions import Self

# Python looks these up in the class, and C code does not ask __getattribute__.
_SPECIAL_METHODS = (
    *("__array_function__", "__array_ufunc__", "__bool__", "__complex__"),
    *("__contains__", "__copy__", "__deepcopy__", "__float__", "__format__"),
    *("__getitem__", "__index__", "__int__", "__iter__", "__len__", "__reduce__"),
    *("__reduce_ex__", "__setattr__", "__setitem__"),
)
_STILL_USABLE = frozenset(
    {"__class__", "__enter__", "__exit__", "__repr__", "__str__", "close"}
)

_closed_classes: dict[type, type] = {}


class WeakMethod:
    """A method that does not hold its object while it runs or waits to be called.

    So the references that others have to the object can be counted, in the same way
    in all versions of Python, and also inside of a ``with`` statement.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: type) -> Callable[..., Any]:
        if instance is None:
            return self._function
        return functools.partial(self._function, weakref.ref(instance))


def _count_holders(reference: weakref.ref[Any]) -> int:
    """Count the references to an object, but for those of this function."""
    target = reference()
    return sys.getrefcount(target) - _own_references


class _Probe:
    pass


_own_references = 0
_probe = _Probe()
_own_references = _count_holders(weakref.ref(_probe)) - 1


def close_array(reference: weakref.ref[npt.NDArray[Any]]) -> None:
    """Let go of the memory; the array cannot be used any more.

    Views and selections of it, and tasks that use it, stay valid: the memory is freed
    when the last of them is gone. Closing twice does nothing.

    Notes
    -----
    The memory goes at once if only variables of the function that calls this refer to
    the array; otherwise when the last reference is gone. NumPy's C code does not ask:
    ``np.asarray`` of a closed array gives an empty or a still valid one.
    """
    _close(reference, sys._getframe(1))


def close_at_exit(reference: weakref.ref[npt.NDArray[Any]], *_error: object) -> None:
    """Close an array at the end of a ``with`` block."""
    _close(reference, sys._getframe(1))


def _close(reference: weakref.ref[Any], caller: FrameType) -> None:
    # Counted before the variables are looked at, which may make a copy of them.
    n_holders = _count_holders(reference)
    array = reference()
    if array is None or _is_closed(array):
        return
    # Without the GIL, another thread may just be taking a reference.
    is_alone = _has_gil() and n_holders == _count_names(array, caller)
    if is_alone and not array.flags.owndata:
        # An array over no memory. Plain views hold the mapping, not this array.
        empty_state: Any = (1, (0,), np.dtype(np.uint8), False, b"")
        np.ndarray.__setstate__(array, empty_state)
    if array.on_close is not None:
        array.on_close()
    array.__class__ = _closed_class(type(array))


def _count_names(array: object, frame: FrameType) -> int:
    """Count the variables of a function, and of its module, that are an array."""
    scopes = [frame.f_locals]
    if frame.f_globals is not frame.f_locals:
        scopes.append(frame.f_globals)
    n_names = sum(value is array for scope in scopes for value in scope.values())
    if sys.version_info < (3, 13) and frame.f_code.co_flags & inspect.CO_OPTIMIZED:
        frame.f_locals.clear()  # a copy, which the frame would keep until it returns
    return n_names


def _has_gil() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def _is_closed(shared: object) -> bool:
    return type(shared) in _closed_classes.values()


def _closed_class(class_: type) -> type:
    """Return the class that objects of a class have after they were closed."""
    if class_ in _closed_classes:
        return _closed_classes[class_]

    def refuse(*_arguments: object, **_parameters: object) -> NoReturn:
        raise ClosedArrayError(
            f"this {class_.__qualname__} was closed, so its memory may be gone. Use it "
            "before close() or inside its `with` block, or copy what is needed later."
        )

    def get(instance: Any, name: str) -> Any:
        if name in _STILL_USABLE:
            return object.__getattribute__(instance, name)
        return refuse()

    def describe(_instance: object) -> str:
        return f"<closed {class_.__qualname__}>"

    namespace: dict[str, Any] = {
        **dict.fromkeys(_SPECIAL_METHODS, refuse),
        "__getattribute__": get,
        "__repr__": describe,
        "__str__": describe,
        "__doc__": "It was closed: every use raises ClosedArrayError.",
    }
    closed = type(f"Closed{class_.__qualname__}", (class_,), namespace)
    return _closed_classes.setdefault(class_, closed)


class ClosedAtExit:
    """A frame or matrix that lets go of its memory at the end of a ``with`` block.

    What was taken from it, folds and columns say, stays valid: the memory is freed when
    nothing refers to it any more. There is no method ``close``: it would hide a column
    of this name (``prices.close``).
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of everything; nothing happens the second time."""
        if _is_closed(self):
            return
        closed = _closed_class(type(self))
        vars(self).clear()
        # pandas has a __setattr__ that looks for columns.
        object.__setattr__(self, "__class__", closed)
