"""Results as short texts that are equal exactly if all bits are."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

__all__ = ["digest", "digest_parts"]

_LENGTH = 16
# Keys of what scikit-learn's searches and validations return that say how long it took.
_TIMES = ("_time", "_times")


def digest_parts(result: Any) -> dict[str, str]:
    """Return a digest of each part of a result, by its name.

    Parameters
    ----------
    result : object
        Arrays, frames, sparse matrices, numbers, texts, and mappings and sequences of
        them. Entries of mappings whose names end with "_time" are left out.

    Returns
    -------
    dict of str to str
        By key of a mapping, by position in a sequence; one part for anything else.

    Raises
    ------
    TypeError
        If there is something in it that cannot be compared.
    """
    if isinstance(result, Mapping):
        parts = dict(_without_times(result))
    elif isinstance(result, list | tuple):
        parts = dict(enumerate(result))
    else:
        parts = {"result": result}
    return {str(name): digest(part) for name, part in parts.items()}


def digest(value: Any) -> str:
    """Return a text that is equal for values of the same bits and the same types."""
    found = hashlib.sha256()
    for piece in _list_pieces(value):
        # With its length, so that no two lists of pieces look the same.
        found.update(len(piece).to_bytes(8, "little"))
        found.update(piece)
    return found.hexdigest()[:_LENGTH]


def _without_times(mapping: Mapping[Any, Any]) -> Iterator[tuple[Any, Any]]:
    for key, value in mapping.items():
        if not str(key).endswith(_TIMES):
            yield key, value


def _list_pieces(value: Any) -> Iterator[bytes]:
    """List what makes up a value: the names of types, and bytes."""
    if hasattr(value, "indptr"):
        yield b"sparse"
        yield from _list_pieces([value.shape, value.indptr, value.indices, value.data])
    elif hasattr(value, "to_numpy"):
        yield from _list_frame_pieces(value)
    elif isinstance(value, np.ma.MaskedArray):
        yield from _list_pieces([value.filled(), np.ma.getmaskarray(value)])
    elif isinstance(value, np.ndarray | np.generic | float):
        yield from _list_array_pieces(np.asarray(value))
    elif value is None or isinstance(value, bool | int | str):
        yield f"{type(value).__name__} {value!r}".encode()
    elif isinstance(value, Mapping):
        yield b"mapping"
        for item in _without_times(value):
            yield from _list_pieces(item)
    elif isinstance(value, list | tuple):
        yield f"sequence of {len(value)}".encode()
        for item in value:
            yield from _list_pieces(item)
    else:
        raise TypeError(
            f"A result holds {type(value).__name__}, and it is not known what its bits "
            "are. Let the job return arrays, frames, numbers or texts, or teach "
            "corpus/digests.py."
        )


def _list_frame_pieces(value: Any) -> Iterator[bytes]:
    """List the pieces of a frame, a series or an index of pandas."""
    yield type(value).__name__.encode()
    if hasattr(value, "columns"):
        yield from _list_pieces([value.columns, value.index])
        for position in range(value.shape[1]):
            yield from _list_pieces(value.iloc[:, position].to_numpy())
    else:
        yield from _list_pieces(value.to_numpy())


def _list_array_pieces(array: np.ndarray) -> Iterator[bytes]:
    if array.dtype.hasobject:
        yield from _list_pieces([array.shape, array.ravel().tolist()])
    else:
        yield f"{array.dtype.str} {array.shape}".encode()
        yield array.tobytes()
