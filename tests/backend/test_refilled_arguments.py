"""Arguments that are refilled between the tasks of one call arrive as they are.

What joblib's "loky" guarantees within one call (joblib/_memmapping_reducer.py):

* A task is pickled by a thread of the pool when a worker will soon want it, so that it
  gets what its arguments hold *then*.
* What is pickled by value is never stale: objects of Python, arrays of objects, arrays
  of at most `max_nbytes`, and memory of Arrow.
* Larger ndarrays are written to a file, in a map by the identity of the ndarray
  (`_WeakArrayKeyMap`). The same ndarray is the same file until the call ends, or the
  ``with Parallel()`` block, whatever its buffer holds by then: all later tasks get what
  the first one got. A view that is made anew for each task is a new ndarray, is written
  again, and so is never stale.
* A ``numpy.memmap`` is sent as the name of its file, also one in mode "c", whose
  private changes are lost.

"mmap" is never worse: where loky pickles, or would write a new file, all bytes are
compared; where loky believes, a sample is. So a refill of a whole array is seen always,
and a change of a few elements in one that is large, and the very same object, may not
be.

All tasks come in pairs, one for each worker, which get the same version of a buffer.
The first of a pair waits in its worker until the second one was pickled; so each buffer
is at rest while it is pickled, with both backends and however fast the machine is.
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse
from sklearn.ensemble._base import _fit_single_estimator
from sklearn.tree import DecisionTreeRegressor

import skl_mmap
from tests import strategies
from tests.waiting import PATIENCE_SECONDS

pd = pytest.importorskip("pandas", minversion="2.1")
pa = pytest.importorskip("pyarrow")
pl = pytest.importorskip("polars")

# More than what loky pickles, and what is compared as a whole: 1 MiB.
N_ITEMS = 140_000
N_TEXTS = 8_000
N_PAIRS = 4


def numbers(version: int, n_items: int = N_ITEMS) -> Any:
    return np.random.default_rng(version).random(n_items)


def refill(array: Any, version: int, *, is_whole: bool) -> None:
    """Give an array of numbers another content, or another element."""
    if is_whole:
        array[...] = numbers(version, array.size).reshape(array.shape)
    else:
        array[tuple(length // 4 * 2 for length in array.shape)] += version + 1


def refill_records(array: Any, version: int, *, is_whole: bool) -> None:
    for name in array.dtype.names:
        refill(array[name], version, is_whole=is_whole)


def refill_letters(array: Any, version: int, *, is_whole: bool) -> None:
    array[:: 1 if is_whole else len(array) // 2] = f"text {version}"


def refill_texts(array: Any, version: int, *, is_whole: bool) -> None:
    """Give an array of objects texts that are new objects, all of them or two."""
    flat = array.reshape(-1) if array.flags.c_contiguous else array.T.reshape(-1)
    for place in range(len(flat)) if is_whole else (1, len(flat) // 2 + 1):
        flat[place] = f"text {version} {place}"


def refill_lists(array: Any, version: int, *, is_whole: bool) -> None:
    for place in range(0, len(array), 1 if is_whole else len(array) // 2):
        if array[place] is None:
            array[place] = []
        array[place].append(version)  # the array itself does not change


def refill_range(array: Any, version: int, *, is_whole: bool) -> None:
    start = 10 * version
    if is_whole:
        array[:] = np.arange(start, start + len(array))
    else:
        array[len(array) // 3 :] = np.arange(
            start, start + len(array[len(array) // 3 :])
        )


def refill_permutation(array: Any, version: int, *, is_whole: bool) -> None:
    if is_whole:
        array[:] = np.random.default_rng(version).permutation(len(array))
    else:
        array[[version, -7]] = array[[-7, version]]


def refill_sparse(matrix: Any, version: int, *, is_whole: bool) -> None:
    refill(matrix.data, version, is_whole=is_whole)
    if is_whole:  # the places of the elements too
        matrix.indices[:] = np.sort(
            np.random.default_rng(version).integers(0, matrix.shape[1], matrix.nnz)
        )


def refill_mixed(buffers: Any, version: int, *, is_whole: bool) -> None:
    refill(buffers["number"], version, is_whole=is_whole)
    refill_texts(buffers["text"], version, is_whole=is_whole)


def make_texts(*shape: int) -> Any:
    return np.full(shape, "", dtype=object)


def make_csr() -> Any:
    matrix = sparse.random(3000, 500, 0.1, format="csr", random_state=0)
    matrix.has_sorted_indices = matrix.has_canonical_format = False  # never looked at
    return matrix


def make_memmap() -> Any:
    """Make a copy-on-write memmap, whose file goes with it."""
    file = tempfile.NamedTemporaryFile()  # noqa: SIM115 - kept open by the memmap
    file.truncate(8 * N_ITEMS)
    array = np.memmap(file.name, dtype=float, mode="c", shape=N_ITEMS)
    array.file = file  # type: ignore[attr-defined]
    return array


def as_frame(buffers: Any) -> Any:
    frame = pd.DataFrame({"number": buffers["number"]}, copy=False)
    frame["text"] = pd.Series(buffers["text"], dtype=object, copy=False)
    return frame


def as_table(array: Any) -> Any:
    """Make an Arrow table over the memory of an array."""
    chunk = pa.Array.from_buffers(pa.float64(), len(array), [None, pa.py_buffer(array)])
    return pa.table({"a": chunk})


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of argument.

    Attributes
    ----------
    make : callable
        Returns a buffer.
    refill : callable
        Gives a buffer another content: all of it, or some of it.
    wrap : callable
        Returns what is made of a buffer once, and given to all tasks.
    view : callable
        Returns what is made of that anew for each task.
    is_exact : bool
        Whether also a change of few elements has to be seen.
    """

    make: Callable[[], Any]
    refill: Callable[..., None] = refill
    wrap: Callable[[Any], Any] = lambda buffer: buffer
    view: Callable[[Any], Any] = lambda argument: argument
    is_exact: bool = False


def make_rows() -> Any:
    return np.zeros((N_ITEMS // 5, 5))


_record = np.dtype([("a", "i1"), ("b", "f8")], align=True)

KINDS: dict[str, Kind] = {
    "array": Kind(lambda: np.zeros(N_ITEMS)),
    "matrix": Kind(make_rows),
    "Fortran order": Kind(lambda: np.asfortranarray(make_rows())),
    "small array": Kind(lambda: np.zeros(1000), is_exact=True),
    "array of 1 MiB": Kind(lambda: np.zeros(1 << 17), is_exact=True),
    "every second row": Kind(make_rows, wrap=lambda rows: rows[::2]),
    "columns": Kind(make_rows, wrap=lambda rows: rows[:, 1:4]),
    "upside down": Kind(make_rows, wrap=lambda rows: rows[::-1]),
    "view of each task": Kind(make_rows, view=lambda rows: rows[:], is_exact=True),
    "part of each task": Kind(make_rows, view=lambda rows: rows[9:], is_exact=True),
    "columns of each task": Kind(
        make_rows, view=lambda rows: tuple(rows.T), is_exact=True
    ),
    "slices of each task": Kind(
        make_rows,
        view=lambda rows: (rows[:4000], rows[2000:9000], rows[9000:15000]),
        is_exact=True,
    ),
    "windows of each task": Kind(
        make_rows,
        view=lambda rows: (rows[:27_000], rows[500:27_500], rows[1000:]),
        is_exact=True,
    ),
    "all and parts of it": Kind(
        make_rows,
        view=lambda rows: (rows[:], rows[:15_000], rows[:27_000], rows.T[2]),
        is_exact=True,
    ),
    "columns of a frame": Kind(
        make_rows,
        wrap=lambda rows: pd.DataFrame(rows.reshape(5, -1).T, copy=False),
        view=lambda frame: tuple(frame[name] for name in frame),
        is_exact=True,
    ),
    "letters": Kind(lambda: np.zeros(N_ITEMS, "U8"), refill_letters),
    "records": Kind(lambda: np.zeros(N_ITEMS, _record), refill_records),
    "padded records": Kind(
        lambda: np.zeros(2 * N_ITEMS, _record), refill_records, lambda a: a[::2]
    ),
    "runs of rows": Kind(
        lambda: np.zeros(N_ITEMS, np.intp), refill_range, is_exact=True
    ),
    "permutation": Kind(lambda: np.zeros(N_ITEMS, np.intp), refill_permutation),
    "memmap": Kind(make_memmap),
    "SharedArray": Kind(lambda: skl_mmap.share(make_rows()), is_exact=True),
    "frame": Kind(make_rows, wrap=lambda rows: pd.DataFrame(rows, copy=False)),
    "series": Kind(
        lambda: np.zeros(N_ITEMS), wrap=lambda array: pd.Series(array, copy=False)
    ),
    "mixed frame": Kind(
        lambda: {"number": np.zeros(N_TEXTS), "text": make_texts(N_TEXTS)},
        refill_mixed,
        as_frame,
        is_exact=True,
    ),
    "CSR matrix": Kind(make_csr, refill_sparse),
    "CSC array": Kind(lambda: sparse.csc_array(make_csr()), refill_sparse),
    "Arrow table": Kind(lambda: np.zeros(N_ITEMS), wrap=as_table, is_exact=True),
    "polars frame": Kind(
        lambda: np.zeros(N_ITEMS),
        wrap=lambda array: pl.from_arrow(as_table(array)),
        is_exact=True,
    ),
    "texts": Kind(lambda: make_texts(N_TEXTS), refill_texts, is_exact=True),
    "texts in columns": Kind(
        lambda: np.asfortranarray(make_texts(N_TEXTS // 4, 4)),
        refill_texts,
        is_exact=True,
    ),
    "part of texts": Kind(
        lambda: make_texts(N_TEXTS),
        refill_texts,
        lambda texts: texts[::-2],
        is_exact=True,
    ),
    "lists": Kind(
        lambda: np.full(N_TEXTS, None, dtype=object), refill_lists, is_exact=True
    ),
    "in a list": Kind(make_rows, wrap=lambda rows: {"a": [rows, 1]}),
}


def digest(value: Any) -> str:
    """Return a fingerprint of all that an argument holds."""
    if isinstance(value, tuple):
        return " ".join(map(digest, value))
    if isinstance(value, np.ndarray) and value.dtype.names:
        return " ".join(digest(value[name]) for name in value.dtype.names)
    if isinstance(value, np.ndarray):
        content = repr(value.tolist()).encode() if value.dtype == object else value
    elif isinstance(value, dict):
        return digest(value["a"][0])
    elif hasattr(value, "indptr"):
        content = value.data.tobytes() + value.indices.tobytes()
    elif hasattr(value, "iloc"):
        columns = [value] if value.ndim == 1 else [value[name] for name in value]
        return " ".join(digest(column.to_numpy()) for column in columns)
    else:
        return digest(np.asarray(value["a"]))
    if isinstance(content, np.ndarray):
        content = content.tobytes()
    return hashlib.sha256(content).hexdigest()[:12]


class Pickled:
    """Touches a file when it is pickled; its task gets the path."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> Any:
        Path(self.path).touch()
        return str, (self.path,)


def digest_when(value: Any, pickled: Any, awaited: Path | None) -> str:
    """Return the fingerprint of an argument, when another task has been pickled."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while isinstance(pickled, str) and awaited is not None and not awaited.exists():
        assert time.monotonic() < deadline, "the second task of a pair never came"
        time.sleep(0.002)
    return digest(value)


def make_tasks(
    kind: Kind, n_buffers: int, folder: Path, *, is_whole: bool
) -> Iterator[Any]:
    """Yield pairs of tasks; before each pair the next buffer of a ring is refilled."""
    buffers = [kind.make() for _ in range(n_buffers)]
    arguments = []
    for buffer in buffers:
        kind.refill(buffer, 1000, is_whole=True)
        arguments.append(kind.wrap(buffer))
    for pair in range(N_PAIRS):
        place = pair % n_buffers
        kind.refill(buffers[place], pair, is_whole=is_whole or pair < n_buffers)
        marks = [folder / f"{pair} {half}" for half in range(2)]
        for mark, awaited in zip(marks, (marks[1], None), strict=True):
            argument = kind.view(arguments[place])
            yield joblib.delayed(digest_when)(argument, Pickled(mark), awaited)


def results_of(backend: str, tasks: Iterator[Any], **options: Any) -> list[Any]:
    with joblib.parallel_config(backend, n_jobs=2, **options):
        return list(joblib.Parallel(batch_size=1, pre_dispatch=2)(tasks))


OPTIONS: dict[str, dict[str, Any]] = {
    "default": {"min_bytes": 1},
    "as loky": {"min_bytes": "1M"},
    "adopt": {"adopt": True},
    "disk": {"store": "disk"},
    "any order": {"row_order": "any", "layouts": "auto"},
}


@pytest.mark.parametrize("name", KINDS)
@strategies.examples(4)
@given(
    n_buffers=st.integers(1, N_PAIRS - 1),
    is_whole=st.booleans(),
    options=st.sampled_from(list(OPTIONS)),
)
def test_what_is_refilled_is_never_staler_than_with_loky(
    name: str,
    n_buffers: int,
    is_whole: bool,
    options: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    kind = KINDS[name]
    results = {}
    for backend in ("sequential", "loky", "mmap"):
        folder = tmp_path_factory.mktemp("marks")
        tasks = make_tasks(kind, n_buffers, folder, is_whole=is_whole)
        parameters = OPTIONS[options] if backend == "mmap" else {}
        results[backend] = results_of(backend, tasks, **parameters)
    truth = results["sequential"]
    assert len(set(truth)) == N_PAIRS
    if is_whole or kind.is_exact:
        assert results["mmap"] == truth
    for right, lokys, ours in zip(truth, results["loky"], results["mmap"], strict=True):
        assert ours == right or lokys != right


def first(array: Any) -> Any:
    return array[0]


def test_a_reader_that_recycles_buffers_of_text() -> None:
    ring = [make_texts(200_000) for _ in range(8)]

    def chunks() -> Iterator[Any]:
        for number in range(24):
            ring[number % 8][:] = f"chunk{number}"
            yield joblib.delayed(first)(ring[number % 8])

    found = results_of("mmap", chunks())
    assert found == [f"chunk{number}" for number in range(24)]


def test_converted_copies_are_made_anew_of_refilled_arrays() -> None:
    ring = [np.zeros((N_ITEMS // 5, 5)) for _ in range(4)]
    y = np.arange(N_ITEMS // 5) % 7.0

    def fits() -> Iterator[Any]:
        for number in range(12):
            X = ring[number % 4]
            refill(X, number, is_whole=True)
            model = DecisionTreeRegressor(max_depth=2, random_state=0)
            yield joblib.delayed(_fit_single_estimator)(model, X, y, {})

    def fit(backend: str, **options: Any) -> list[Any]:
        models = results_of(backend, fits(), **options)
        return [model.tree_.threshold.tolist() for model in models]

    with skl_mmap.measure() as report:
        ours = fit("mmap", min_bytes=1, layouts="auto")
    assert ours == fit("sequential")
    assert any("was given X as float32" in note for note in report.notes)
    assert len({str(thresholds) for thresholds in ours}) == 12
