"""The column that becomes y: numbers keep their type, text becomes objects."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import FileFormatError
from skl_mmap.files._block_writer import Part, missing_of, values_of
from skl_mmap.memory import Placement, SegmentWriter, Settings, map_array

__all__ = ["MixedTargetError", "TargetCollector", "is_numeric", "is_text"]


class MixedTargetError(Exception):
    """Only some parts of a column looked like numbers; it has to be read as text."""


def is_numeric(type_: Any) -> bool:
    """Whether a type of Arrow is one of numpy's types of numbers."""
    from pyarrow import types

    return bool(
        types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_)
    )


def is_text(type_: Any) -> bool:
    """Whether a type of Arrow is text, or categories that are."""
    from pyarrow import types

    if types.is_dictionary(type_):
        return is_text(type_.value_type)
    is_view = getattr(types, "is_string_view", lambda _: False)  # pyarrow >= 16
    return bool(
        types.is_string(type_) or types.is_large_string(type_) or is_view(type_)
    )


class TargetCollector:
    """Collect one column of a table part by part.

    Parameters
    ----------
    path : str
        The file, for error messages.
    name : str
        The column.
    """

    def __init__(self, path: str, name: str) -> None:
        self._path = path
        self._name = name
        self._chunks: list[npt.NDArray[Any]] = []
        self._classes: dict[str, int] = {}
        self._kinds: set[str] = set()

    def add(self, part: Part) -> None:
        """Append the column's values in some rows.

        Raises
        ------
        FileFormatError
            If the column can be no target.
        MixedTargetError
            If the rows before looked like another type.
        """
        start = 0
        for chunk in part.table.column(self._name).chunks:
            if len(chunk):
                self._add(chunk, part, start)
            start += len(chunk)

    def _add(self, chunk: Any, part: Part, start: int) -> None:
        from pyarrow import types

        type_ = chunk.type
        if types.is_dictionary(type_):
            chunk = chunk.dictionary_decode()
            type_ = chunk.type
        if types.is_temporal(type_):
            raise MixedTargetError  # only CSV infers times; there they are text
        is_bool = types.is_boolean(type_)
        if chunk.null_count and (is_bool or is_text(type_)):
            row = int(np.argmax(missing_of(chunk)))
            raise FileFormatError(
                f"{self._path}, {part.locate(start + row)}: the target "
                f"{self._name!r} has no value there (empty, or a word such as NA), and "
                "classes cannot be missing. Fill it in, or remove the row."
            )
        if is_text(type_):
            self._kinds.add("text")
            codes = self._encode(chunk.dictionary_encode())
        elif types.is_null(type_):
            self._kinds.add("number")
            codes = np.full(len(chunk), np.nan)
        elif is_numeric(type_):
            self._kinds.add("bool" if is_bool else "number")
            codes = np.array(values_of(chunk))
        else:
            # Only CSV comes so far: other tables know their types beforehand.
            row = start + _first_not_utf8(chunk)
            raise FileFormatError(
                f"{self._path}, {part.locate(row)}: the target {self._name!r} is not "
                "text in UTF-8 there. Convert the file, for example with iconv."
            )
        if len(self._kinds) > 1:
            raise MixedTargetError
        self._chunks.append(codes)

    def _encode(self, chunk: Any) -> npt.NDArray[np.int32]:
        """Number the classes in the order in which they appear."""
        known = self._classes
        numbers = [
            known.setdefault(t, len(known)) for t in chunk.dictionary.to_pylist()
        ]
        indices = values_of(chunk.indices)
        return np.asarray(np.array(numbers, dtype=np.int32)[indices])

    def finish(self, placement: Placement, settings: Settings) -> npt.NDArray[Any]:
        """Return all of the column: in shared memory if it is made of numbers."""
        if not self._chunks:
            return np.empty(0)
        if "text" in self._kinds:
            classes = np.array(list(self._classes), dtype=object)
            return np.asarray(classes[np.concatenate(self._chunks)])
        dtype = np.result_type(*{chunk.dtype for chunk in self._chunks})
        n_rows = sum(map(len, self._chunks))
        what = f"column {self._name!r} of {self._path}"
        with SegmentWriter(placement, what, n_rows * dtype.itemsize) as writer:
            self._chunks.reverse()
            while self._chunks:  # each is freed when it has been written
                writer.write(self._chunks.pop().astype(dtype, copy=False))
            return map_array(writer.finish(), dtype, (n_rows,), settings)


def _first_not_utf8(chunk: Any) -> int:
    """Return the place of the first value of bytes that is no text."""
    for place, value in enumerate(chunk):
        try:
            (value.as_py() or b"").decode()
        except UnicodeDecodeError:
            return place
    return 0
