"""Files of numpy: mapped where they lie."""

from __future__ import annotations

import ast
import math
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from skl_mmap.files._columns import convert
from skl_mmap.memory import (
    Placement,
    SegmentWriter,
    Settings,
    SharedArray,
    can_remap,
    map_array,
    open_file_segment,
    reading_in_order,
)

_CHUNK_BYTES = 8 << 20
_MAX_HEADER_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class NpyHeader:
    """Type and shape of an array, order of its elements, and where they begin."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    offset: int

    @property
    def n_bytes(self) -> int:
        """Bytes of the data."""
        return self.dtype.itemsize * math.prod(self.shape)


def read_npy_header(path: str) -> NpyHeader:
    """Read the header of a file of numpy (NEP 1, versions 1 to 3).

    FileFormatError says that it is damaged, or that the data is shorter than it says.
    """
    with open(path, "rb") as file:
        start = file.read(12)
        major = start[6] if len(start) > 6 else 0
        length_bytes = 2 if major == 1 else 4
        length = int.from_bytes(start[8 : 8 + length_bytes], "little")
        offset = 8 + length_bytes + length
        if len(start) < 12 or major not in (1, 2, 3) or length > _MAX_HEADER_BYTES:
            raise _damaged(path, f"it begins with {start!r}")
        file.seek(8 + length_bytes)
        text = file.read(length)
        n_bytes = os.fstat(file.fileno()).st_size
    try:
        header = ast.literal_eval(text.decode("utf-8" if major == 3 else "latin1"))
        dtype = np.lib.format.descr_to_dtype(header["descr"])
        shape = tuple(operator.index(length) for length in header["shape"])
        found = NpyHeader(dtype, shape, "F" if header["fortran_order"] else "C", offset)
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise _damaged(path, f"its header {text[:80]!r} cannot be read") from error
    if min(shape, default=0) < 0:
        raise _damaged(path, f"its header says that its shape is {shape}")
    if not dtype.hasobject and offset + found.n_bytes > n_bytes:
        raise _damaged(
            path,
            f"{n_bytes} bytes, and {offset + found.n_bytes} would be needed for "
            f"{shape} of {dtype}",
        )
    return found


def _damaged(path: str, found: str) -> FileFormatError:
    return FileFormatError(
        f"{path} is not a complete .npy file: {found}. It is damaged, was cut off, or "
        "is still being written; get it anew."
    )


def load_npy(
    path: str,
    columns: object,
    target: object,
    dtype: np.dtype[Any] | None,
    placement: Placement,
    settings: Settings,
) -> Any:
    """Map a file of numpy; see `load`."""
    header = read_npy_header(path)
    if header.dtype.hasobject:
        raise InvalidParameterError(
            f"{path} holds Python objects ({header.dtype}), which cannot be mapped and "
            "could run any code when they are read. Save numbers, or use "
            "np.load(path, allow_pickle=True) if you trust the file."
        )
    X = _map(path, header, settings)
    if columns is None and target is None:
        if dtype is None or dtype == X.dtype:
            return X
        if X.ndim == 0 or not X.size:
            return X.astype(dtype)
        return _copy(X, None, path, dtype, placement, settings)
    if len(header.shape) != 2:
        raise InvalidParameterError(
            f"columns and target need a table, and {path} has the shape "
            f"{header.shape}. Leave them out, and index the result."
        )
    n_columns = header.shape[1]
    y_column = None if target is None else _position(target, n_columns, "target", path)
    wanted = _positions(columns, y_column, n_columns, path)
    part = X[:, wanted] if isinstance(wanted, slice) else None
    if part is None or (dtype is not None and dtype != X.dtype):
        part = _copy(X, wanted, path, dtype or X.dtype, placement, settings)
    return part if y_column is None else (part, X[:, y_column])


def _map(path: str, header: NpyHeader, settings: Settings) -> npt.NDArray[Any]:
    dtype, shape, order, offset = (
        header.dtype,
        header.shape,
        header.order,
        header.offset,
    )
    if not header.n_bytes:
        return np.empty(shape, dtype, order=order)
    if not can_remap():
        mode: Any = settings.mmap_mode
        return np.memmap(path, dtype, mode, offset, shape, order).view(SharedArray)
    segment = open_file_segment(path)
    if segment is None:
        raise PermissionError(f"{path} cannot be opened for reading.")
    return map_array(segment, dtype, shape, settings, offset=offset, order=order)


def _position(value: object, n_columns: int, parameter: str, path: str) -> int:
    try:
        place = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        place = n_columns
    if isinstance(value, bool) or not -n_columns <= place < n_columns:
        raise InvalidParameterError(
            f"{parameter}: {value!r} is not a column of {path}, which has {n_columns} "
            f"without names. Pass a position from 0 to {n_columns - 1}."
        )
    return place % n_columns


def _positions(
    columns: object, target: int | None, n_columns: int, path: str
) -> slice | list[int]:
    """Return the columns of X: as a slice, which is a view, where that is possible."""
    if isinstance(columns, slice):
        places = list(range(*columns.indices(n_columns)))
    elif columns is None:
        places = [place for place in range(n_columns) if place != target]
    elif isinstance(columns, str) or not isinstance(columns, Iterable):
        raise InvalidParameterError(
            f"columns={columns!r} is neither a list of positions of columns of {path} "
            "nor a slice. Its columns have no names."
        )
    else:
        places = [_position(value, n_columns, "columns", path) for value in columns]
    if not places or len(set(places)) < len(places) or target in places:
        raise InvalidParameterError(
            f"columns={columns!r} of the {n_columns} of {path} gives no column, one "
            "twice, or the target. Pass each column that X should have once."
        )
    step = places[1] - places[0] if len(places) > 1 else 1
    if places == list(range(places[0], places[-1] + (1 if step > 0 else -1), step)):
        stop = places[-1] + step
        return slice(places[0], stop if stop >= 0 else None, step)
    return places


def _copy(
    X: npt.NDArray[Any],
    columns: slice | list[int] | None,
    path: str,
    dtype: np.dtype[Any],
    placement: Placement,
    settings: Settings,
) -> npt.NDArray[Any]:
    """Write columns, or all as another type, into a new segment some rows at a time."""
    if X.dtype.kind not in "biufc" or (X.dtype.kind == "c" and dtype.kind != "c"):
        raise InvalidParameterError(
            f"{path} holds {X.dtype}, which cannot become {dtype}. Leave out dtype "
            "and list of columns, and convert the result."
        )
    # Files in Fortran order stay so: their columns are the rows of the transpose.
    is_fortran = columns is None and not X.flags.c_contiguous
    source = np.asarray(X.T if is_fortran else X)

    def take(rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return rows if columns is None else rows[:, columns]

    shape = (len(source), *take(source[:1]).shape[1:])
    row_bytes = math.prod(shape[1:]) * dtype.itemsize
    if not len(source) or not row_bytes:
        return np.empty(shape, dtype)
    step = max(_CHUNK_BYTES // row_bytes, 1)
    with (
        SegmentWriter(placement, path, len(source) * row_bytes) as writer,
        reading_in_order(source),
    ):
        for start in range(0, len(source), step):
            values = take(source[start : start + step])
            chunk = np.empty(values.shape, dtype)
            bad = convert(values, chunk)
            if bad is not None:
                place, text = np.unravel_index(bad, values.shape), values.flat[bad]
                where = [start + int(place[0]), *map(int, place[1:])]
                raise FileFormatError(
                    f"{path}, element {where[::-1] if is_fortran else where}: "
                    f"{text!s}, which {dtype} cannot hold. Pass a dtype that can, "
                    "such as 'float64'."
                )
            writer.write(chunk)
        segment = writer.finish()
    if is_fortran:
        return map_array(segment, dtype, shape[::-1], settings, order="F")
    return map_array(segment, dtype, shape, settings)
