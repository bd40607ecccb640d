"""Columns of a table become X, one array of numbers, and y.

::

    file --> parts: some rows of some columns --RowWriter-------> X, in shared memory
             (record batches of some MB)      --TargetCollector-> y
"""

from __future__ import annotations

import difflib
import mmap
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import FileFormatError, InvalidParameterError
from skl_mmap.memory import (
    Placement,
    Segment,
    SegmentWriter,
    Settings,
    map_array,
    new_segment,
)

if TYPE_CHECKING:
    from typing_extensions import Self

# Rows that are put together at a time: in the processor's cache while that is done.
_BLOCK_BYTES = 4 << 20
_MAX_LISTED = 8


@dataclass(frozen=True, slots=True)
class Selection:
    """The columns that are read: the names of those of X, and of y, and X's type."""

    features: tuple[str, ...]
    target: str | None
    dtype: np.dtype[Any]
    # Values of y are text even where they look like numbers.
    is_text_target: bool = False

    @property
    def names(self) -> list[str]:
        """All columns that are needed."""
        return [*self.features, *([] if self.target is None else [self.target])]


class Part(NamedTuple):
    """Some rows of a table."""

    # A pyarrow.RecordBatch of the columns that were asked for, or some of them.
    rows: Any
    first_row: int
    # How much of the file was read, and how many rows there are in all, as far as is
    # known by now.
    done_bytes: int
    expected_rows: int
    # Finds the line of a row of this part, in files that are made of lines.
    find_line: Callable[[int], int] | None = None

    def locate(self, row: int) -> str:
        """Say where in the file a row of this part is."""
        if self.find_line is not None:
            return f"line {self.find_line(row)}"
        return f"row {self.first_row + row}"


class Table(ABC):
    """A table in a file, open for reading; a context manager.

    Subclasses set `names`, `n_bytes` (the size of the file) and, where the number of
    rows is known before all is read, `exact_rows`: then the columns may come a few at
    a time.
    """

    names: list[str]
    n_bytes: int
    exact_rows: int | None = None
    row_group_rows: Sequence[int] = ()

    def __init__(self, path: str) -> None:
        self._pa = import_pyarrow(path)
        self.path = path
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Close the file, and give back what pyarrow keeps for later."""
        self._stack.close()
        self._pa.default_memory_pool().release_unused()

    @abstractmethod
    def default_features(self, target: str | None) -> tuple[str, ...]:
        """Return the columns of X, if the user leaves them to the file."""

    @abstractmethod
    def default_dtype(self, features: tuple[str, ...]) -> np.dtype[Any]:
        """Return the type of X; InvalidParameterError if a column is not numbers."""

    @abstractmethod
    def parts(self, selection: Selection) -> Iterator[Part]:
        """Read the table, only once; FileFormatError if it is damaged."""


def import_pyarrow(path: str) -> Any:
    """Return the module pyarrow; InvalidParameterError if it is not installed."""
    try:
        import pyarrow
    except ImportError:
        raise InvalidParameterError(
            f"{path!r} is a table, and pyarrow, which reads tables, is not "
            "installed. Run pip install 'skl-mmap[tables]', or save the data as .npy."
        ) from None
    return pyarrow


def is_numeric(type_: Any) -> bool:
    """Tell if a type of Arrow is one of numpy's types of numbers."""
    from pyarrow import types

    return bool(
        types.is_integer(type_) or types.is_floating(type_) or types.is_boolean(type_)
    )


def is_text(type_: Any) -> bool:
    """Tell if a type of Arrow is text, or categories that are."""
    from pyarrow import types

    if types.is_dictionary(type_):
        return is_text(type_.value_type)
    return bool(
        types.is_string(type_)
        or types.is_large_string(type_)
        or types.is_string_view(type_)
    )


def list_names(names: Iterable[str]) -> str:
    """Write some names for an error message, not all if they are many."""
    known = list(names)
    text = ", ".join(repr(name) for name in known[:_MAX_LISTED])
    n_more = len(known) - _MAX_LISTED
    return (text + (f" and {n_more} more" if n_more > 0 else "")) or "none"


def choose_names(
    path: str, known: Sequence[str], columns: object, target: object
) -> tuple[tuple[str, ...] | None, str | None]:
    """Check the names that the user gave, and return those of X and of y.

    Those of X are None if the user leaves the choice to the file.
    """
    repeated = [name for name, n_times in Counter(known).items() if n_times > 1]
    if repeated:
        raise FileFormatError(
            f"{path} has more than one column named {list_names(repeated)}, so a name "
            "does not say which one is meant. Give every column a name of its own."
        )
    if target is not None:
        _check_name(path, known, target, "target")
    if columns is None:
        return None, target  # type: ignore[return-value]
    if isinstance(columns, str) or not isinstance(columns, Iterable):
        raise InvalidParameterError(
            f"columns={columns!r} is not a list of names of columns of {path}. "
            f"Pass a list such as [{list_names(known[:2])}]."
        )
    features = list(columns)
    for name in features:
        _check_name(path, known, name, "columns")
    if not features or len(set(features)) < len(features):
        raise InvalidParameterError(
            f"columns={features!r} names no column, or one of them twice. Pass each "
            f"column that X should have once; {path} has {list_names(known)}."
        )
    if target in features:
        raise InvalidParameterError(
            f"target={target!r} is one of columns, so X would hold what is to be "
            "predicted. Take it out of columns."
        )
    return tuple(features), target  # type: ignore[return-value]


def _check_name(path: str, known: Sequence[str], name: object, parameter: str) -> None:
    if isinstance(name, str) and name in known:
        return
    near = difflib.get_close_matches(str(name), known, n=3, cutoff=0.6)
    hint = f"Did you mean {list_names(near)}?" if near else "Check the spelling."
    kind = "" if isinstance(name, str) else f" ({type(name).__name__}, not a text)"
    raise InvalidParameterError(
        f"{parameter}: {path} has no column {name!r}{kind}. {hint} Its {len(known)} "
        f"columns are {list_names(known)}."
    )


class RowWriter:
    """Write the features of a table into a new segment; a context manager.

    Rows are appended, or, where `exact_rows` says how many there are, written into the
    mapped segment in any order, some columns at a time. (Appending is a third faster:
    the kernel does not clear pages that are written as a whole.)
    """

    def __init__(
        self,
        placement: Placement,
        path: str,
        selection: Selection,
        exact_rows: int | None,
    ) -> None:
        self._placement = placement
        self._path = path
        self._names = selection.features
        self._dtype = selection.dtype
        self._row_bytes = len(self._names) * self._dtype.itemsize
        self._writer: SegmentWriter | None = None
        self._segment: Segment | None = None
        self._mapped: npt.NDArray[Any] | None = None
        self._n_rows = exact_rows or 0
        self._n_missing = self._n_rows * len(self._names)
        if self._n_missing:
            n_bytes = self._n_rows * self._row_bytes
            what = f"{path} ({self._n_rows} rows)"
            self._segment = new_segment(n_bytes, placement, what)
            # Others cannot see it yet; it is unmapped before it is sealed.
            memory = mmap.mmap(self._segment.fd, n_bytes)
            shape = (self._n_rows, len(self._names))
            self._mapped = np.ndarray(shape, self._dtype, memory)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Give up what was not finished."""
        self._mapped = self._segment = None
        if self._writer is not None:
            self._writer.__exit__(None, None, None)

    def write(self, part: Part) -> None:
        """Write rows; FileFormatError if a value cannot be one of X."""
        n_rows = part.rows.num_rows
        stop = part.first_row + n_rows
        if self._mapped is not None:
            self._fill(self._mapped[part.first_row : stop], 0, part)
            self._n_missing -= n_rows * len({*self._names} & {*part.rows.schema.names})
            return
        self._n_rows = stop
        if not self._names:
            return
        if self._writer is None:
            n_bytes = part.expected_rows * self._row_bytes
            what = f"{self._path} ({part.expected_rows} rows or so)"
            self._writer = SegmentWriter(self._placement, what, n_bytes)
        block_rows = max(_BLOCK_BYTES // self._row_bytes, 1)
        # One buffer for all blocks: a new one each time would be new pages.
        buffer = np.empty((min(block_rows, n_rows), len(self._names)), self._dtype)
        for start in range(0, n_rows, block_rows):
            block = buffer[: n_rows - start]
            self._fill(block, start, part)
            self._writer.write(block)

    def finish(self, settings: Settings) -> npt.NDArray[Any]:
        """Return X, in shared memory unless it is empty."""
        if self._n_missing:
            raise FileFormatError(
                f"{self._path} says that it has {self._n_rows} rows, and not all of "
                "them were found: it is damaged. Get it anew."
            )
        shape = (self._n_rows, len(self._names))
        if not self._n_rows or not self._names:
            return np.empty(shape, self._dtype)
        self._mapped = None
        if self._writer is not None:
            segment = self._writer.finish()
        else:
            assert self._segment is not None
            segment = self._segment
            segment.seal()
        return map_array(segment, self._dtype, shape, settings)

    def _fill(self, block: npt.NDArray[Any], start: int, part: Part) -> None:
        """Fill the columns of a part in some rows: those from `start` on."""
        rows = part.rows.slice(start, len(block))
        known = {*rows.schema.names}
        for place, name in enumerate(self._names):
            if name not in known:
                continue
            column = rows.column(name)
            if column.null_count and self._dtype.kind != "f":
                row = start + int(np.argmax(_missing_of(column)))
                raise FileFormatError(
                    f"{self._path}, {part.locate(row)}: column {name!r} has no "
                    f"value there, and {self._dtype} cannot say that one is missing. "
                    "Pass dtype='float64', which reads it as NaN, fill it in, or "
                    "leave the column out with columns=."
                )
            values = _values_of(column)
            bad = convert(values, block[:, place])
            if bad is not None:
                raise FileFormatError(
                    f"{self._path}, {part.locate(start + bad)}: column "
                    f"{name!r} has {values[bad]!s} there, which {self._dtype} cannot "
                    "hold. Pass a dtype that can, such as 'float64'."
                )


class MixedTargetError(Exception):
    """Only some parts of a column looked like numbers; it has to be read as text."""


class TargetCollector:
    """Collect one column of a table: numbers keep their type, text becomes objects."""

    def __init__(self, path: str, name: str | None) -> None:
        self._path = path
        self._name = name
        self._chunks: list[npt.NDArray[Any]] = []
        self._classes: dict[str, int] = {}
        self._kinds: set[str] = set()

    def write(self, part: Part) -> None:
        """Append values; MixedTargetError if those before looked like another type."""
        from pyarrow import types

        if self._name not in part.rows.schema.names or not part.rows.num_rows:
            return
        column = part.rows.column(self._name)
        if types.is_dictionary(column.type):
            column = column.dictionary_decode()
        type_ = column.type
        if types.is_temporal(type_) or types.is_binary(type_):
            raise MixedTargetError  # only CSV infers them; there they are text
        is_bool = types.is_boolean(type_)
        if column.null_count and (is_bool or is_text(type_)):
            row = int(np.argmax(_missing_of(column)))
            raise FileFormatError(
                f"{self._path}, {part.locate(row)}: the target "
                f"{self._name!r} has no value there (empty, or a word such as NA), and "
                "classes cannot be missing. Fill it in, or remove the row."
            )
        if is_text(type_):
            self._kinds.add("text")
            codes = self._encode(column.dictionary_encode())
        elif types.is_null(type_):
            self._kinds.add("number")
            codes = np.full(len(column), np.nan)
        else:
            self._kinds.add("bool" if is_bool else "number")
            codes = np.array(_values_of(column))
        if len(self._kinds) > 1:
            raise MixedTargetError
        self._chunks.append(codes)

    def _encode(self, column: Any) -> npt.NDArray[np.int32]:
        """Number the classes in the order in which they appear."""
        known, names = self._classes, column.dictionary.to_pylist()
        numbers = [known.setdefault(name, len(known)) for name in names]
        indices = _values_of(column.indices)
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


def convert(values: npt.NDArray[Any], out: npt.NDArray[Any]) -> int | None:
    """Copy values into an array of another type; floating point types round.

    The place in C order of the first value that an integer type cannot hold is
    returned, or None.
    """
    if out.dtype.kind == "f" or np.can_cast(values.dtype, out.dtype):
        np.copyto(out, values, casting="unsafe")
        return None
    with np.errstate(invalid="ignore"):
        np.copyto(out, values, casting="unsafe")
        is_different = out != values
    return int(np.argmax(is_different)) if is_different.any() else None


def _values_of(column: Any) -> npt.NDArray[Any]:
    """Return the numbers of an Arrow array; NaN where there is none.

    Arrow's own ``to_numpy`` imports pandas, which takes 30 MB and a third of a second.
    """
    import pyarrow
    from pyarrow import compute

    dtype = np.dtype(column.type.to_pandas_dtype())
    if dtype.kind == "b":
        column = column.cast(pyarrow.uint8())  # bits become bytes
    if column.null_count:
        if dtype.kind != "f":
            column, dtype = column.cast(pyarrow.float64(), safe=False), np.dtype(float)
        column = compute.fill_null(column, pyarrow.scalar(np.nan, column.type))
    data = column.buffers()[1]
    if data is None:
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(column), column.offset * dtype.itemsize)


def _missing_of(column: Any) -> npt.NDArray[np.bool_]:
    """Return a mask of the values that are missing in an Arrow array."""
    return _values_of(column.is_null()).view(bool)
