"""Text and other small objects in arrays: pickled once for a call, not for each task.

::

    array of objects --pickled once--> bytes in a segment <--mapped-- every task
                                                           unpickled there, each time

Only arrays of strings, numbers, dates and what stands for missing ones: nobody can tell
two equal ones apart, so it does not matter that these are not the very objects that the
rest of a task refers to. (Times may have a time zone, which has an identity.)
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

__all__ = ["rebuild_objects", "share_objects"]

_IMMUTABLE = frozenset(
    {
        *(bool, bytes, complex, float, int, str, type(None)),
        *(datetime.date, datetime.timedelta, decimal.Decimal),
    }
)


class _Pickled(NamedTuple):
    """An array that was pickled in one call."""

    source: weakref.ref[npt.NDArray[Any]]
    call: int
    shared: tuple[ArrayHandle, Segment] | None


# By store, and by the id of the array. An entry lives as long as both of them.
_pickled: weakref.WeakKeyDictionary[Store, dict[int, _Pickled]]
_pickled = weakref.WeakKeyDictionary()
_lock = threading.Lock()


def share_objects(
    array: npt.NDArray[Any], store: Store
) -> tuple[ArrayHandle, Segment] | None:
    """Share the pickle of an array of immutable objects.

    Parameters
    ----------
    array : ndarray, dtype=object
        Any.
    store : Store
        Where it goes, and what says which call this is.

    Returns
    -------
    (ArrayHandle, Segment) or None
        For `rebuild_objects`. None if the array holds anything else, or cannot be
        shared: then it has to be pickled with the task.

    Raises
    ------
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room.
    """
    key = id(array)
    call = store.call
    with _lock:
        known = _pickled.setdefault(store, {})
        found = known.get(key)
        if found is not None and found.call == call and found.source() is array:
            return found.shared
        known.pop(key, None)
        shared = None
        if all(map(_is_immutable, set(map(type, array.ravel(order="K"))))):
            payload = pickle.dumps(array, protocol=pickle.HIGHEST_PROTOCOL)
            shared = store.share(np.frombuffer(payload, dtype=np.uint8))
        # The callback takes no lock: it may run anywhere.
        source = weakref.ref(array, lambda _: known.pop(key, None))
        known[key] = _Pickled(source, call, shared)
    return shared


def _is_immutable(type_: type[Any]) -> bool:
    if type_ in _IMMUTABLE:
        return True
    if issubclass(type_, np.generic):  # and no subclass of somebody's
        return type_.__module__ == "numpy" and type_ is not np.void
    pandas = sys.modules.get("pandas")
    return type_ is type(getattr(pandas, "NA", None))  # there is only one


def rebuild_objects(handle: ArrayHandle) -> Any:
    """Unpickle an array of objects from shared memory."""
    return pickle.loads(np.asarray(rebuild_array(handle)).data)
