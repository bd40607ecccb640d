"""Every large block of memory that NumPy asks for, and which Python code asked.

NumPy keeps its default functions for memory in one struct (NEP 49). Those three that
hand out memory are replaced in place::

    numpy -> our function (Python, looks at the stack) -> the function it replaces

`PyDataMem_SetHandler` would be the public way, but holds for one context only, and the
threads of an estimator are others. The function that frees is left alone: it runs while
exceptions are being raised, where Python code must not (NumPy would then fail with
"returned NULL without setting an exception").

See https://numpy.org/neps/nep-0049.html.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, final

__all__ = ["NumpyHook", "is_hookable"]

# Place of PyDataMem_GetHandler in the table of NumPy's C API, in these versions of its
# ABI: those of NumPy 1 and of NumPy 2.
_GET_HANDLER = 305
_ABI_VERSIONS = (0x01000009, 0x02000000)
_NAME = b"default_allocator"
_VERSION = 1

_MALLOC = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
_CALLOC = ctypes.PYFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t
)
_REALLOC = ctypes.PYFUNCTYPE(
    ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t
)

Notice = Callable[[int, int, int, FrameType | None], None]
"""Takes address, bytes, old address (0 if none) and the frame that asked."""


class _Handler(ctypes.Structure):
    """PyDataMem_Handler of numpy/ndarraytypes.h, its functions as plain addresses."""

    _fields_ = (
        ("name", ctypes.c_char * 127),
        ("version", ctypes.c_uint8),
        ("ctx", ctypes.c_void_p),
        ("malloc", ctypes.c_void_p),
        ("calloc", ctypes.c_void_p),
        ("realloc", ctypes.c_void_p),
        ("free", ctypes.c_void_p),
    )


def _find_handler() -> _Handler | None:
    """Find the struct; None if it is not the one that is known."""
    address = _find_get_handler()
    if address is None:
        return None
    capsule = ctypes.PYFUNCTYPE(ctypes.py_object)(address)()
    handler = _Handler.from_address(_read_capsule(capsule))
    is_known = handler.name == _NAME and handler.version == _VERSION
    return handler if is_known else None


def _find_get_handler() -> int | None:
    """Return the address of PyDataMem_GetHandler; None in a NumPy that is not known."""
    core: Any = sys.modules.get("numpy._core._multiarray_umath")
    core = core or sys.modules.get("numpy.core._multiarray_umath")
    get_version = getattr(core, "_get_ndarray_c_version", None)
    if get_version is None or sys.implementation.name != "cpython":
        return None
    # In another version, another function may stand in that place.
    if get_version() not in _ABI_VERSIONS:
        return None
    table = ctypes.cast(_read_capsule(core._ARRAY_API), ctypes.POINTER(ctypes.c_void_p))
    address: int | None = table[_GET_HANDLER]
    return address


def _read_capsule(capsule: Any) -> int:
    """Return the pointer in a PyCapsule, whatever its name."""
    api = ctypes.pythonapi
    get_name = ctypes.PYFUNCTYPE(ctypes.c_char_p, ctypes.py_object)(
        ("PyCapsule_GetName", api)
    )
    get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", api)
    )
    return int(get_pointer(capsule, get_name(capsule)))


def is_hookable() -> bool:
    """Whether the memory functions of this NumPy can be replaced."""
    return _find_handler() is not None


@final
class NumpyHook:
    """Calls a function for each large block while a ``with`` block runs.

    Parameters
    ----------
    notice : callable
        Called with the address of the block, its bytes, the address that it had before
        (0 if it is new) and the innermost Python frame, which it must not keep. In the
        thread that asks, with the GIL held. What it raises is lost.
    min_bytes : int
        Smaller blocks are not told of.

    Notes
    -----
    Small arrays take 0.8 instead of 0.2 microseconds. For processes that are there to
    be measured only: the functions stay in place until the end of the block, and
    nothing else may replace them meanwhile.
    """

    def __init__(self, notice: Notice, min_bytes: int) -> None:
        self._notice = notice
        self._min_bytes = min_bytes
        self._handler = _find_handler()
        self._originals: tuple[int, int, int] | None = None
        self._functions: tuple[Any, Any, Any] | None = None

    def __enter__(self) -> NumpyHook:
        if self._handler is None:
            return self
        handler = self._handler
        self._originals = handler.malloc, handler.calloc, handler.realloc
        self._functions = self._make_functions(*self._originals)
        handler.malloc, handler.calloc, handler.realloc = (
            ctypes.cast(function, ctypes.c_void_p).value for function in self._functions
        )
        return self

    def __exit__(self, *args: object) -> None:
        if self._handler is not None and self._originals is not None:
            handler = self._handler
            handler.malloc, handler.calloc, handler.realloc = self._originals
            self._originals = None

    def _make_functions(
        self, malloc: int, calloc: int, realloc: int
    ) -> tuple[Any, Any, Any]:
        # PYFUNCTYPE: the originals are called with the GIL, which calloc gives up and
        # takes again by itself.
        call_malloc, call_calloc = _MALLOC(malloc), _CALLOC(calloc)
        call_realloc = _REALLOC(realloc)
        min_bytes, notice, get_frame = self._min_bytes, self._notice, sys._getframe

        def on_malloc(ctx: int, size: int) -> int | None:
            address: int | None = call_malloc(ctx, size)
            if size >= min_bytes and address:
                notice(address, size, 0, get_frame(1))
            return address

        def on_calloc(ctx: int, n_items: int, item_size: int) -> int | None:
            address: int | None = call_calloc(ctx, n_items, item_size)
            if n_items * item_size >= min_bytes and address:
                notice(address, n_items * item_size, 0, get_frame(1))
            return address

        def on_realloc(ctx: int, old: int | None, size: int) -> int | None:
            address: int | None = call_realloc(ctx, old, size)
            if size >= min_bytes and address:
                notice(address, size, old or 0, get_frame(1))
            return address

        return _MALLOC(on_malloc), _CALLOC(on_calloc), _REALLOC(on_realloc)
