"""Hypothesis strategies shared by several folders of tests."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

PAGE_BYTES = 4096

NUMERIC_DTYPES = tuple(
    np.dtype(name)
    for name in (
        *("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8"),
        *("f2", "f4", "f8", "g", "c8", "c16"),
        *(">i2", ">u8", ">f4", ">c16"),
    )
)
OTHER_DTYPES = (
    np.dtype("S5"),
    np.dtype("U3"),
    np.dtype(">U2"),
    np.dtype("M8[s]"),
    np.dtype("m8[ns]"),
    np.dtype("V7"),
    # Packed: its second field is never aligned.
    np.dtype([("a", "i1"), ("b", "f8")]),
    # Padded in the middle, at the end, and nested.
    np.dtype([("a", "i1"), ("b", "f8"), ("c", "i2")], align=True),
    np.dtype({"names": ["a"], "formats": ["f4"], "offsets": [4], "itemsize": 24}),
    np.dtype([("x", [("y", "i2", (3,)), ("w", "?")]), ("z", "S3"), ("v", ">f8")]),
)
DTYPES = NUMERIC_DTYPES + OTHER_DTYPES

# Below, at and above the size of a page, and some that share no factor with it.
ROW_BYTES = (1, 2, 3, 8, 24, 100, 512, 1000, 2048, 4096, 4104, 8192, 12288)

INDEX_DTYPES = tuple(
    np.dtype(name) for name in ("i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", ">i4")
)


def examples(max_examples: int) -> settings:
    """Return settings for tests whose data is drawn step by step.

    Drawing a mask of thousands of rows counts as slow, and is what is wanted here. For
    each mutant a third of the examples have to do.
    """
    is_for_mutants = os.environ.get("HYPOTHESIS_PROFILE") == "mutants"
    return settings(
        max_examples=-(-max_examples // 3) if is_for_mutants else max_examples,
        suppress_health_check=[
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
            HealthCheck.function_scoped_fixture,
        ],
    )


def fill(
    dtype: np.dtype[Any], shape: tuple[int, ...], seed: int = 0
) -> npt.NDArray[Any]:
    """Make an array of random bits, NaN with payload included, that are valid."""
    rng = np.random.default_rng(seed)
    if dtype.names is not None:
        array = np.zeros(shape, dtype)
        for name in dtype.names:
            field = array[name]
            base = dtype[name].base
            field[...] = fill(base, field.shape, int(rng.integers(1 << 30)))
        return array
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "U":
        n_chars = dtype.itemsize // 4
        codes = rng.integers(1, 0xD800, (*shape, n_chars)).astype(
            np.dtype("u4").newbyteorder(dtype.byteorder)
        )
        return codes.view(dtype).reshape(shape)
    n_bytes = int(np.prod(shape, dtype=int)) * dtype.itemsize
    return np.frombuffer(bytearray(rng.bytes(n_bytes)), dtype).reshape(shape)


@st.composite
def dense_arrays(
    draw: st.DrawFn,
    *,
    dtypes: tuple[np.dtype[Any], ...] = DTYPES,
    max_pages: int = 64,
    min_rows: int = 0,
) -> npt.NDArray[Any]:
    """C-contiguous arrays of one to three dimensions and up to `max_pages` pages."""
    dtype = draw(st.sampled_from(dtypes))
    row_items = max(draw(st.sampled_from(ROW_BYTES)) // dtype.itemsize, 1)
    row_shape: tuple[int, ...] = draw(
        st.sampled_from([(row_items,), (max(row_items // 2, 1), 2)])
    )
    if row_items == 1:
        row_shape = draw(st.sampled_from([(), (1,)]))
    row_bytes = int(np.prod(row_shape, dtype=int)) * dtype.itemsize
    n_rows = draw(st.integers(1, max_pages)) * PAGE_BYTES // row_bytes
    n_rows = max(n_rows + draw(st.integers(-3, 3)), min_rows)
    return fill(dtype, (n_rows, *row_shape), draw(st.integers(0, 1 << 20)))


@st.composite
def arrays(draw: st.DrawFn, *, max_pages: int = 64) -> npt.NDArray[Any]:
    """Arrays of every layout; never empty."""
    array = draw(dense_arrays(max_pages=max_pages, min_rows=1))
    layout = draw(
        st.sampled_from(
            ["C", "F", "every second row", "reversed", "columns", "unaligned", "0-d"]
        )
    )
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "every second row":
        array = array[::2]
    elif layout == "reversed":
        array = array[::-1]
    elif layout == "columns" and array.ndim > 1:
        array = array[:, ::-2]
    elif layout == "unaligned":
        raw = np.empty(array.nbytes + 1, dtype=np.uint8)
        shifted = np.ndarray(array.shape, array.dtype, raw, offset=1)
        shifted[...] = array
        array = shifted
    elif layout == "0-d":
        array = array[(0,) * array.ndim + (...,)]
    if draw(st.booleans()):
        array = array.view()
        array.flags.writeable = False
    return array


@st.composite
def row_runs(draw: st.DrawFn, n_rows: int) -> npt.NDArray[np.intp]:
    """Valid row indices made of long runs, in any order, that may overlap."""
    cuts = st.integers(0, n_rows)
    runs = draw(st.lists(st.tuples(cuts, cuts), min_size=1, max_size=5))
    parts = [np.arange(min(run), max(run), dtype=np.intp) for run in runs]
    singles = draw(st.lists(st.integers(0, max(n_rows - 1, 0)), max_size=3))
    if n_rows and draw(st.booleans()):
        parts.append(np.array(singles, dtype=np.intp))
    if draw(st.booleans()):
        parts.sort(key=lambda part: int(part[0]) if len(part) else 0)
    return np.concatenate(parts)


@st.composite
def row_indices(draw: st.DrawFn, n_rows: int) -> Any:
    """Integer row indices of every kind, some of them out of range."""
    if n_rows and draw(st.integers(0, 3)):
        index = draw(row_runs(n_rows))
    else:
        anywhere = st.integers(-n_rows - 1, n_rows)
        index = np.array(draw(st.lists(anywhere, max_size=8)), dtype=np.intp)
    if draw(st.booleans()):
        # From the end, some or all of them.
        step = draw(st.integers(1, 3))
        part = index[::step]
        part[part >= 0] -= n_rows
    dtype = draw(st.sampled_from(INDEX_DTYPES))
    limits = np.iinfo(dtype)
    if not len(index) or (limits.min <= index.min() and index.max() <= limits.max):
        index = index.astype(dtype)
    form = draw(st.sampled_from(["array", "array", "list", "strided", "rows of two"]))
    if form == "list" and len(index) <= 5000:
        return index.tolist()
    if form == "strided":
        return np.repeat(index, 2)[::2]
    if form == "rows of two" and len(index) % 2 == 0 and len(index) <= 500:
        return index.reshape(-1, 2)
    return index


@st.composite
def row_masks(draw: st.DrawFn, n_rows: int) -> Any:
    """Boolean masks, a few of the wrong length."""
    mask = np.zeros(n_rows, dtype=bool)
    mask[draw(row_runs(n_rows))] = True
    if draw(st.booleans()):
        mask = ~mask
    if draw(st.integers(0, 9)) == 0:
        mask = np.append(mask, draw(st.booleans()))
    return mask.tolist() if n_rows < 5000 and draw(st.booleans()) else mask


def slices(n_rows: int) -> st.SearchStrategy[slice]:
    """Slices with any step, also beyond the ends."""
    bound = st.none() | st.integers(-n_rows - 2, n_rows + 2)
    step = st.none() | st.sampled_from([1, 2, 3, -1, -2, n_rows + 1])
    return st.builds(slice, bound, bound, step)


def row_keys(n_rows: int) -> st.SearchStrategy[Any]:
    """Return what may stand between the brackets to select rows, valid or not."""
    rows = row_indices(n_rows) | row_masks(n_rows)
    alone = (
        rows
        | slices(n_rows)
        | st.integers(-n_rows - 1, n_rows)
        | st.sampled_from([None, ..., (), True, 1.5, [1.0], "a", [[0], [0, 0]]])
    )
    with_others = st.builds(
        lambda key, before, after: (*before, key, *after),
        rows,
        st.sampled_from([(), (), (), (...,), (None,), (slice(None),)]),
        st.sampled_from(
            [
                (),
                (...,),
                (slice(None),),
                (slice(None), slice(None)),
                (..., slice(None)),
                (slice(None), ...),
                (..., ...),
                (0,),
                (slice(1, None),),
                (slice(None, None, -1),),
                (None,),
                ([0],),
                (slice(None),) * 4,
            ]
        ),
    )
    return rows | alone | with_others
