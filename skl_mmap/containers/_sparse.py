"""Sparse matrices of scipy; the rows of CSR can be selected without a copy.

::

    indptr    0   2   5   9  12  ...       rebuilt for each selection
    data      |rows 0..1|rows 2..3|...     element ranges of runs of rows, joined
    indices   |rows 0..1|rows 2..3|...     the same ranges
"""

from __future__ import annotations

import itertools
import math
import mmap
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from scipy import sparse

from skl_mmap import _compat
from skl_mmap._compat import csr_facts, csr_state, index_dtype
from skl_mmap.containers._container import Container, GeometryOf, RowSize, register
from skl_mmap.containers._numpy import CHUNK_BYTES
from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.memory import (
    MAX_RUNS,
    ClosedAtExit,
    Cost,
    Geometry,
    Placement,
    Plan,
    Reason,
    Runs,
    SegmentWriter,
    Settings,
    carry_out,
    count_selected,
    counters,
    expand_runs,
    find_runs,
    geometry_of,
    map_array,
    plan_runs,
    row_key,
    share_array,
)

_WRITE_CHUNK_ITEMS = 1 << 20
_FORMATS = ("csr", "csc", "coo", "lil", "dok", "dia", "bsr")
_COMPRESSED = ("csr", "csc")
# Arrays with an item for each element.
_ELEMENTS = ("data", "indices")

# Not every environment has types for scipy; without a type they are the same in all.
_csr_matrix: Any = sparse.csr_matrix
_csr_array: Any = sparse.csr_array


class _SharedCSR(ClosedAtExit):
    """What both kinds of shared CSR have in common."""

    _plain_class: type[Any]

    def __new__(cls, *args: Any, **parameters: Any) -> Any:
        # scipy makes its results with self.__class__(...); they are of the plain class,
        # because nothing is known about where their arrays lie.
        return cls._plain_class(*args, **parameters)

    def __getitem__(self: Any, key: Any) -> Any:
        index = _row_index(key) if self.ndim == 2 else None
        selected = None if index is None else _select(self, index)
        return super().__getitem__(key) if selected is None else selected  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        # From protocol 2 on, pickle wants the class to be that of the object.
        return _as_plain(self).__reduce_ex__(0)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(0)


def _as_plain(shared: _SharedCSR) -> Any:
    """Return the same matrix, in the same memory, as scipy has it."""
    plain = object.__new__(shared._plain_class)
    vars(plain).update(vars(shared))
    return plain


_compat.hash_as_plain(_SharedCSR, _as_plain)


class SharedCSRMatrix(_SharedCSR, _csr_matrix):  # type: ignore[misc]
    """A ``scipy.sparse.csr_matrix`` in shared memory; see `SharedCSRArray`."""

    _plain_class = sparse.csr_matrix


class SharedCSRArray(_SharedCSR, _csr_array):  # type: ignore[misc]
    """A ``scipy.sparse.csr_array`` in shared memory.

    ``X[rows]``, ``X[rows, ...]`` and ``X[rows, :]`` with an integer index array or a
    mask select rows without copying their elements: `data` and `indices` of the
    result are joined views, and only `indptr` is made anew. The result can be
    selected from again. Values, order, dtypes, shape and errors are scipy's.

    Everything else, pickling included, gives scipy's plain classes.
    """

    _plain_class = sparse.csr_array


_SHARED_CLASSES: dict[Any, Any] = {
    sparse.csr_matrix: SharedCSRMatrix,
    sparse.csr_array: SharedCSRArray,
}


def _plain_class_of(matrix: Any) -> Any:
    return getattr(matrix, "_plain_class", type(matrix))


class _Memory:
    """Lets an array be made that refers to another one, but is not a view of it."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


def rebuild_sparse(plain_class: type[Any], state: dict[str, Any]) -> Any:
    """Make a compressed matrix of scipy's class and attributes, over the same memory.

    Of a class that selects rows without copies if there is one.
    """
    result = object.__new__(_SHARED_CLASSES.get(plain_class, plain_class))
    vars(result).update(state)
    for name in ("data", "indices", "indptr"):
        setattr(result, name, _without_larger_base(state[name]))
    return result


def _without_larger_base(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a plain array over the same memory that does not look like a part.

    scipy copies arrays whose base has more than twice as many elements. That of a
    mapped array counts bytes, and that of a joined view is not larger at all. See
    https://github.com/scipy/scipy/blob/v1.15.0/scipy/_lib/_util.py (_prune_array).
    """
    if array.ndim != 1 or not array.flags.c_contiguous or not array.size:
        return np.asarray(array)
    return np.asarray(_Memory(array))


class _Selection(NamedTuple):
    """The plan of a selection of rows: of runs of the elements.

    Attributes
    ----------
    runs, elements : Runs
        The rows, and their elements.
    parts : tuple of (ndarray, Geometry, Plan)
        `data` and `indices`; empty if scipy has to select the rows.
    rest : Cost
        What the rows cost then.
    """

    runs: Runs
    elements: Runs
    parts: tuple[tuple[npt.NDArray[Any], Geometry, Plan], ...]
    rest: Cost

    @property
    def cost(self) -> Cost:
        """What it costs to carry the plan out."""
        return sum((plan.cost for _, _, plan in self.parts), self.rest)


def _plan(
    matrix: Any, index: npt.NDArray[Any], geometry_of: GeometryOf
) -> _Selection | None:
    """Plan a selection; None if no rows are selected, or the matrix is not in order."""
    n_rows = matrix.shape[0]
    runs = find_runs(index, n_rows, max_runs=MAX_RUNS)
    if runs is None:
        no_runs = np.empty((0, 2), dtype=np.intp)
        rest = _cost_of_copy(matrix, index, geometry_of)
        return _Selection(no_runs, no_runs, (), rest)
    if not len(runs) or len(matrix.indptr) != n_rows + 1:
        return None
    elements = np.asarray(matrix.indptr)[runs].astype(np.intp)
    elements = elements[elements[:, 0] < elements[:, 1]]
    parts = []
    for name in _ELEMENTS:
        array = getattr(matrix, name)
        geometry = geometry_of(array)
        parts.append((array, geometry, plan_runs(geometry, elements)))
    return _Selection(runs, elements, tuple(parts), Cost())


def _cost_of_copy(
    matrix: Any, index: npt.NDArray[Any], geometry_of: GeometryOf
) -> Cost:
    """Return the cost of scattered rows, which are as long as the others on average."""
    element_bytes = matrix.data.itemsize + matrix.indices.itemsize
    n_bytes = matrix.nnz * element_bytes * count_selected(index)
    n_bytes //= max(matrix.shape[0], 1)
    origin = geometry_of(matrix.data).origin
    if origin is None:
        return Cost.of_copy(Reason.NOT_SHARED, n_bytes)
    is_few = n_bytes < origin.settings.min_mapped_bytes
    return Cost.of_copy(Reason.FEW_BYTES if is_few else Reason.SCATTERED, n_bytes)


def _select(matrix: Any, index: npt.NDArray[Any]) -> Any:
    """Select rows as planned, and count what it costs; None if scipy has to do it."""
    selection = _plan(matrix, index, geometry_of)
    if selection is None:
        return None
    counters.add(selection.rest)
    elements = selection.elements
    n_elements = int((elements[:, 1] - elements[:, 0]).sum())
    joined = [
        carry_out(plan, geometry, array, n_elements)
        for array, geometry, plan in selection.parts
    ]
    if all(part is None for part in joined):
        return None
    data, indices = (
        _copy_elements(array, elements, n_elements) if part is None else part
        for (array, _, _), part in zip(selection.parts, joined, strict=True)
    )
    shape = (int((selection.runs[:, 1] - selection.runs[:, 0]).sum()), matrix.shape[1])
    indptr = _indptr_of_runs(matrix.indptr, selection.runs)
    dtype = index_dtype(matrix, (indices, indptr), max(shape))
    if dtype is None:
        return None
    parts = data, indices.astype(dtype, copy=False), indptr.astype(dtype, copy=False)
    state = csr_state(matrix._plain_class, parts, shape, csr_facts(matrix))
    return rebuild_sparse(matrix._plain_class, state)


def _row_index(key: Any) -> npt.NDArray[Any] | None:
    if isinstance(key, tuple) and len(key) != 2:
        return None
    index = row_key(key, 2)
    # From the end, scipy counts in the index's own type, where a small one overflows.
    is_small = index is not None and index.dtype.kind == "i" and index.itemsize < 4
    return None if is_small else index


def _copy_elements(
    array: npt.NDArray[Any], elements: Runs, n_elements: int
) -> npt.NDArray[Any]:
    copied = np.empty(n_elements, array.dtype)
    place = 0
    for start, stop in elements.tolist():
        copied[place : place + stop - start] = array[start:stop]
        place += stop - start
    return copied


def _indptr_of_runs(indptr: npt.NDArray[Any], runs: Runs) -> npt.NDArray[Any]:
    """Return where the elements of each selected row begin.

    Of the dtype of `indptr`, or of a larger one if rows are selected so often that
    their elements cannot be counted in it.
    """
    n_rows = int((runs[:, 1] - runs[:, 0]).sum())
    bounds = np.asarray(indptr)[runs].astype(np.intp)
    n_elements = int((bounds[:, 1] - bounds[:, 0]).sum())
    fits = n_elements <= np.iinfo(indptr.dtype).max
    result = np.empty(n_rows + 1, dtype=indptr.dtype if fits else np.int64)
    result[0] = 0
    place = 1
    n_before = 0
    if len(runs) * 64 < n_rows:  # long runs: one shifted copy each
        for start, stop in runs.tolist():
            part = result[place : place + stop - start]
            np.add(indptr[start + 1 : stop + 1], n_before - indptr[start], out=part)
            n_before = int(part[-1])
            place += stop - start
        return result
    for rows in expand_runs(runs):
        part = result[place : place + len(rows)]
        np.cumsum(indptr[rows + 1] - indptr[rows], out=part)
        part += n_before
        n_before = int(part[-1])
        place += len(rows)
    return result


def _share_vector(
    array: npt.NDArray[Any],
    dtype: np.dtype[Any],
    placement: Placement,
    settings: Settings,
) -> npt.NDArray[Any]:
    """Copy a vector into a segment, converted a part at a time."""
    if not array.nbytes:
        return array.astype(dtype)
    what = f"a part of a sparse matrix, {len(array)} items of {dtype}"
    with SegmentWriter(placement, what, len(array) * dtype.itemsize) as writer:
        for start in range(0, len(array), _WRITE_CHUNK_ITEMS):
            part = array[start : start + _WRITE_CHUNK_ITEMS]
            writer.write(part.astype(dtype, copy=False))
        segment = writer.finish()
    return map_array(segment, dtype, array.shape, settings)


def _index_dtype(largest: int) -> np.dtype[Any]:
    """Return the integers that scipy makes indices of, for numbers up to `largest`."""
    return np.dtype(np.int32 if largest <= np.iinfo(np.int32).max else np.int64)


class SparseContainer(Container):
    """Matrices and arrays of scipy, and ours."""

    def classes(self) -> tuple[type[Any], ...]:
        kinds = itertools.product(_FORMATS, ("matrix", "array"))
        plain = [getattr(sparse, f"{format_}_{kind}") for format_, kind in kinds]
        return (*plain, *_SHARED_CLASSES.values())

    def n_bytes(self, X: Any) -> int:
        if X.format not in _COMPRESSED:
            return int(X.nnz) * int(X.dtype.itemsize + np.dtype(np.int32).itemsize)
        return int(X.data.nbytes + X.indices.nbytes)

    def row_size(self, X: Any) -> RowSize | None:
        if X.format != "csr" or len(X.shape) != 2:
            return None
        unit = max(_elements_of_page(X.data), _elements_of_page(X.indices))
        n_bytes = self.n_bytes(X) // max(X.shape[0], 1)
        return RowSize(n_bytes, None, np.asarray(X.indptr), unit)

    def n_arrays(self, X: Any) -> int:
        return len(_ELEMENTS)

    def take_apart(self, X: Any, min_bytes: int) -> tuple[Any, ...] | None:
        """Elements stay as they are, sorted or not.

        In another order they might be added up to other last bits.
        """
        if X.format not in _COMPRESSED or self.n_bytes(X) < min_bytes:
            return None
        return rebuild_sparse, (_plain_class_of(X), dict(vars(X)))

    def arrays(self, X: Any) -> Sequence[npt.NDArray[Any]]:
        return X.data, X.indices, X.indptr

    def plan(self, X: Any, rows: npt.NDArray[Any], geometry_of: GeometryOf) -> Cost:
        index = _row_index(rows)
        selection = None
        if type(X) in _SHARED_CLASSES.values() and index is not None:
            selection = _plan(X, index, geometry_of)
        if selection is not None:
            return selection.cost
        return super().plan(X, rows, geometry_of)

    def share(self, X: Any, placement: Placement, settings: Settings) -> Any:
        """Copy a compressed matrix into shared memory.

        If its indices are not sorted, or there are several elements of the same place,
        a sorted copy with their sums is shared: estimators would otherwise make one
        each. Indices become 32-bit integers if they fit, as scipy makes them for each
        fold. Two copies for a moment if X is not sorted, else one.
        """
        if X.format not in _COMPRESSED:
            raise InvalidParameterError(
                f"X of type {type(X).__name__} cannot be shared: its rows cannot be "
                "selected. Convert it to a CSR matrix first, with X.tocsr()."
            )
        if not X.has_canonical_format:
            X = X.copy()
            X.sum_duplicates()
        n_elements = int(X.indptr[-1])
        dtype = _index_dtype(max(*X.shape, n_elements))
        data, indices = X.data[:n_elements], X.indices[:n_elements]
        state = {
            **vars(X),
            "data": _share_vector(data, X.dtype, placement, settings),
            "indices": _share_vector(indices, dtype, placement, settings),
            "indptr": _share_vector(X.indptr, dtype, placement, settings),
        }
        return rebuild_sparse(_plain_class_of(X), state)

    def gather(
        self,
        X: Any,
        permutation: npt.NDArray[np.intp],
        placement: Placement,
        settings: Settings,
        name: str,
    ) -> Any:
        """Gather the rows as CSR; elements of one place are added up."""
        X = X.tocsr()
        is_array = isinstance(X, sparse.sparray)
        plain_class = sparse.csr_array if is_array else sparse.csr_matrix
        indptr = np.zeros(len(permutation) + 1, dtype=np.intp)
        np.cumsum(np.diff(X.indptr)[permutation], out=indptr[1:])
        n_elements = int(indptr[-1])
        if not n_elements:
            return X[permutation]
        dtype = _index_dtype(max(*X.shape, n_elements))
        what = f"{name} of shape {X.shape} and {n_elements} elements, arranged"
        with (
            SegmentWriter(placement, what, n_elements * X.dtype.itemsize) as data,
            SegmentWriter(placement, what, n_elements * dtype.itemsize) as indices,
        ):
            n_written = 0
            for start, stop in _chunks(indptr, X.dtype.itemsize + dtype.itemsize):
                part = X[permutation[start:stop]]
                part.sum_duplicates()  # and sorts, as estimators do in each worker
                data.write(part.data)
                indices.write(part.indices.astype(dtype, copy=False))
                indptr[start + 1 : stop + 1] = part.indptr[1:]
                indptr[start + 1 : stop + 1] += n_written
                n_written += len(part.data)
            segments = data.finish(), indices.finish()
        parts = (
            map_array(segments[0], X.dtype, (n_written,), settings),
            map_array(segments[1], dtype, (n_written,), settings),
            share_array(indptr.astype(dtype), placement, settings),
        )
        state = csr_state(plain_class, parts, X.shape, csr_facts())
        return rebuild_sparse(plain_class, state)


def _elements_of_page(array: npt.NDArray[Any]) -> int:
    return mmap.PAGESIZE // math.gcd(mmap.PAGESIZE, array.itemsize)


def _chunks(indptr: npt.NDArray[np.intp], element_bytes: int) -> list[tuple[int, int]]:
    """Cut rows into parts of about so many elements, at least one row each.

    Without the rows before the first element, which are nothing to be written.
    """
    n_at_once = max(CHUNK_BYTES // element_bytes, 1)
    places = np.arange(0, int(indptr[-1]), n_at_once)
    starts = np.unique(np.searchsorted(indptr, places, side="right") - 1).tolist()
    return list(itertools.pairwise([*starts, len(indptr) - 1]))


register(SparseContainer())
