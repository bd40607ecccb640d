"""Closing a frame or sparse matrix at the end of a ``with`` block.

Its class changes to one whose every use is an error, as that of a closed array does.
There is no method ``close``: it would hide a column of this name (``prices.close``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from skl_mmap.exceptions import ClosedArrayError

if TYPE_CHECKING:
    from typing_extensions import Self

__all__ = ["ClosedAtExit"]

_closed_classes: dict[type, type] = {}


class ClosedAtExit:
    """A context manager: the object lets go of its memory at the end of the block.

    What was taken from it, folds and columns say, stays valid: the memory is freed when
    nothing refers to it any more.
    """

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Let go of everything; nothing happens the second time."""
        if type(self) in _closed_classes.values():
            return
        closed = _closed_class(type(self))
        vars(self).clear()
        # pandas has a __setattr__ that looks for columns.
        object.__setattr__(self, "__class__", closed)


def _closed_class(class_: type) -> type:
    if class_ in _closed_classes:
        return _closed_classes[class_]

    def refuse(instance: Any, name: str) -> Any:
        if name in ("__class__", "__enter__", "__exit__", "__repr__", "__str__"):
            return object.__getattribute__(instance, name)
        _refuse(class_)

    def describe(_instance: object) -> str:
        return f"<closed {class_.__name__}>"

    def refuse_special(*_arguments: object) -> NoReturn:
        _refuse(class_)

    namespace: dict[str, Any] = {
        **dict.fromkeys(("__len__", "__bool__", "__setattr__"), refuse_special),
        "__getattribute__": refuse,
        "__repr__": describe,
        "__str__": describe,
        "__doc__": "It was closed: every use raises ClosedArrayError.",
    }
    closed = type(f"Closed{class_.__name__}", (class_,), namespace)
    return _closed_classes.setdefault(class_, closed)


def _refuse(class_: type) -> NoReturn:
    raise ClosedArrayError(
        f"this {class_.__name__} was closed at the end of its `with` block, so its "
        "memory may be gone. Use it inside of the block, or copy what is needed later."
    )
