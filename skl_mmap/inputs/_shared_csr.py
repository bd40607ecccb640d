"""CSR matrices whose rows can be selected without a copy.

Imports scipy, so it is itself imported inside functions only.

::

    indptr    0   2   5   9  12  ...       rebuilt for each selection
    data      |rows 0..1|rows 2..3|...     element ranges of runs of rows, joined
    indices   |rows 0..1|rows 2..3|...     the same ranges
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from skl_mmap._compat import csr_facts, csr_state, index_dtype
from skl_mmap.inputs._closing import ClosedAtExit
from skl_mmap.memory import Runs, counters, expand_runs, find_runs, join_rows
from skl_mmap.memory._mapping import find_mapping
from skl_mmap.memory._row_selection import row_key

__all__ = [
    "SHARED_CLASSES",
    "SharedCSRArray",
    "SharedCSRMatrix",
    "as_shared",
    "take_rows",
]

# As for dense rows: one mapping for each run.
_MAX_RUNS = 4096

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

    def __getitem__(self, key: Any) -> Any:
        selected = take_rows(self, key)
        return super().__getitem__(key) if selected is None else selected  # type: ignore[misc]

    def __reduce_ex__(self, protocol: Any) -> Any:
        plain = object.__new__(self._plain_class)
        vars(plain).update(vars(self))
        # Of protocols from 2 on, pickle wants the class to be that of the object.
        return plain.__reduce_ex__(0)

    def __reduce__(self) -> Any:
        return self.__reduce_ex__(0)


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


SHARED_CLASSES: dict[Any, Any] = {
    sparse.csr_matrix: SharedCSRMatrix,
    sparse.csr_array: SharedCSRArray,
}


class _Memory:
    """Lets an array be made that refers to another one, but is not a view of it."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


def as_shared(plain_class: type[Any], state: dict[str, Any]) -> Any:
    """Make a shared CSR, or what else is compressed, of what scipy's has inside.

    Parameters
    ----------
    plain_class : type
        scipy's class.
    state : dict
        The attributes of an instance of it.

    Returns
    -------
    sparse matrix or array
        Of a class that selects rows without copies if there is one, else of
        `plain_class`. It refers to the same memory.
    """
    result = object.__new__(SHARED_CLASSES.get(plain_class, plain_class))
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


def take_rows(matrix: Any, key: Any) -> Any:
    """Select rows with joined views; None if scipy has to do it."""
    index = _row_index(key) if matrix.ndim == 2 else None
    if index is None:
        return None
    n_rows, n_columns = matrix.shape
    runs = find_runs(index, n_rows, max_runs=_MAX_RUNS)
    if runs is None:
        _count_copied(matrix, index)
        return None
    if not len(runs) or len(matrix.indptr) != n_rows + 1:
        return None
    elements = np.asarray(matrix.indptr)[runs].astype(np.intp)
    elements = elements[elements[:, 0] < elements[:, 1]]
    joined: dict[str, Any] = {
        name: _join(getattr(matrix, name), elements) for name in _ELEMENTS
    }
    if all(array is None for array in joined.values()):
        return None
    for name, array in joined.items():
        if array is None:
            joined[name] = _gather(getattr(matrix, name), elements)
    shape = (int((runs[:, 1] - runs[:, 0]).sum()), n_columns)
    indptr = _indptr_of_runs(matrix.indptr, runs)
    dtype = index_dtype(matrix, (joined["indices"], indptr), max(shape))
    if dtype is None:
        return None
    parts = (
        joined["data"],
        joined["indices"].astype(dtype, copy=False),
        indptr.astype(dtype, copy=False),
    )
    state = csr_state(matrix._plain_class, parts, shape, csr_facts(matrix))
    return as_shared(matrix._plain_class, state)


_ELEMENTS = ("data", "indices")


def _count_copied(matrix: Any, index: npt.NDArray[Any]) -> None:
    """Say that rows are copied, if they could have been mapped."""
    n_selected = np.count_nonzero(index) if index.dtype == bool else len(index)
    element_bytes = matrix.data.itemsize + matrix.indices.itemsize
    # Rows are as long as the others, on average: to look would take longer.
    n_bytes = matrix.nnz * element_bytes * int(n_selected) // max(matrix.shape[0], 1)
    found = find_mapping(matrix.data)
    if found is not None and n_bytes >= found[0].settings.min_mapped_bytes:
        reason = "the rows are not in long runs (shuffled, or a class or group each)"
        counters.add_copied(reason, n_bytes)


def _row_index(key: Any) -> npt.NDArray[Any] | None:
    if isinstance(key, tuple):
        if len(key) != 2 or not _is_everything(key[1]):
            return None
        key = key[0]
    index = row_key(key, 2)
    # From the end, scipy counts in the index's own type, where a small one overflows.
    is_small = index is not None and index.dtype.kind == "i" and index.itemsize < 4
    return None if is_small else index


def _is_everything(key: Any) -> bool:
    return key is Ellipsis or (isinstance(key, slice) and key == slice(None))


def _join(array: npt.NDArray[Any], elements: Runs) -> npt.NDArray[Any] | None:
    if array.ndim != 1 or not array.flags.c_contiguous or not len(elements):
        return None
    return join_rows(array, elements)


def _gather(array: npt.NDArray[Any], elements: Runs) -> npt.NDArray[Any]:
    gathered = np.empty(int((elements[:, 1] - elements[:, 0]).sum()), array.dtype)
    place = 0
    for start, stop in elements.tolist():
        gathered[place : place + stop - start] = array[start:stop]
        place += stop - start
    return gathered


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
