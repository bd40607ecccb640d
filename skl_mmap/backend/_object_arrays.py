"""Text and other small objects in arrays: pickled once, not for each task.

::

    array of objects --pickled once--> bytes in a segment <--mapped-- every task
                                                           unpickled there, each time

Only arrays of strings, numbers, dates and what stands for missing ones: nobody can tell
two equal ones apart, so it does not matter that these are not the very objects that the
rest of a task refers to. (Times may have a time zone, which has an identity.)

Buffers are refilled between two tasks, so that an array has to prove that it is what
was pickled: it still refers to the very same objects. As these cannot change, and are
kept alive for it, that is a proof, and takes 0.1 ms for 200,000 of them.
"""

from __future__ import annotations

import datetime
import decimal
import pickle
import sys
import threading
import weakref
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.memory import ArrayHandle, Segment, Store, rebuild_array

_IMMUTABLE = frozenset(
    {
        *(bool, bytes, complex, float, int, str, type(None)),
        *(datetime.date, datetime.timedelta, decimal.Decimal),
    }
)


class _Pickled(NamedTuple):
    """An array that was pickled, and the objects that it referred to then."""

    source: weakref.ref[npt.NDArray[Any]]
    objects: npt.NDArray[Any]
    shared: tuple[ArrayHandle, Segment]


# By store, and by the id of the array. An entry lives as long as both of them.
_pickled: weakref.WeakKeyDictionary[Store, dict[int, _Pickled]]
_pickled = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def share_objects(
    array: npt.NDArray[Any], store: Store
) -> tuple[ArrayHandle, Segment] | None:
    """Share the pickle of an array of immutable objects.

    For `rebuild_objects`. None if the array holds anything else, or cannot be shared:
    then it has to be pickled with the task.

    Notes
    -----
    Until the array or the store is gone, 8 bytes for each object stay in use beside the
    segment, and the objects stay alive.
    """
    key = id(array)
    with _lock:
        known = _pickled.setdefault(store, {})
        found = known.get(key)
        if found is not None and found.source() is array:
            if _refers_to(array, found.objects):
                return found.shared
            del known[key], found  # the old version goes before there is a new one
        objects = array.copy(order="A")  # in the order in which it would be pickled
        if not all(map(_is_immutable, set(map(type, objects.ravel(order="K"))))):
            return None
        payload = pickle.dumps(objects, protocol=pickle.HIGHEST_PROTOCOL)
        shared = store.share(np.frombuffer(payload, dtype=np.uint8))
        if shared is not None:
            # The callback takes no lock: it may run anywhere.
            source = weakref.ref(array, lambda _: known.pop(key, None))
            known[key] = _Pickled(source, objects, shared)
    return shared


def _refers_to(array: npt.NDArray[Any], objects: npt.NDArray[Any]) -> bool:
    """Return whether an array holds these very objects, and would be pickled alike."""
    return (
        array.shape == objects.shape
        and np.isfortran(array) == np.isfortran(objects)
        and np.array_equal(_references(array), _references(objects))
    )


def _references(array: npt.NDArray[Any]) -> npt.NDArray[np.intp]:
    """Return the addresses of the objects in an array, without a copy of them."""
    return np.asarray(_Addresses(array))


class _Addresses:
    """Lets NumPy see the memory of an array of objects as integers."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array  # keeps the memory alive
        self.__array_interface__ = {
            **array.__array_interface__,
            "typestr": np.dtype(np.intp).str,
            "descr": [("", np.dtype(np.intp).str)],
        }


def _is_immutable(type_: type[Any]) -> bool:
    if type_ in _IMMUTABLE:
        return True
    if issubclass(type_, np.generic):  # and no subclass of somebody's
        return type_.__module__ == "numpy" and not issubclass(type_, np.void)
    pandas = sys.modules.get("pandas")
    return type_ is type(getattr(pandas, "NA", None))  # there is only one


def rebuild_objects(handle: ArrayHandle) -> Any:
    """Unpickle an array of objects from shared memory."""
    return pickle.loads(np.asarray(rebuild_array(handle)).data)
