"""What the tests of shared memory have in common."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import skl_mmap
from skl_mmap.memory import (
    ArrayHandle,
    Placement,
    Segment,
    Settings,
    Store,
    _adoption,
    counters,
    find_mapping,
    rebuild_array,
)

PAGE_BYTES = 4096


def make_store(mmap_mode: str = "c", *, store: object = "memory") -> Store:
    """Make a store whose arrays are mapped however small they are."""
    return Store(
        Placement.from_parameter(store),
        Settings(mmap_mode, min_mapped_bytes=0, min_bytes=0),
    )


def send(handle: object) -> Any:
    """Send a handle as it would be sent to another process."""
    return pickle.loads(pickle.dumps(handle))


def share(
    array: npt.NDArray[Any], mmap_mode: str = "c", *, n_arrays: int = 1
) -> list[npt.NDArray[Any]]:
    """Share an array and rebuild it, as tasks would get it."""
    handle, _segment = shared_with(make_store(mmap_mode), array)
    return [rebuild_array(send(handle)) for _ in range(n_arrays)]


def share_one(array: npt.NDArray[Any], mmap_mode: str = "c") -> npt.NDArray[Any]:
    """Share an array and rebuild it once."""
    return share(array, mmap_mode)[0]


def shared_with(store: Store, array: npt.NDArray[Any]) -> tuple[ArrayHandle, Segment]:
    """Share an array that cannot be refused."""
    shared = store.share(array)
    assert shared is not None
    return shared


def as_stored(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a plain array in the order in which another process would get it."""
    is_fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    return np.array(array, order="F" if is_fortran else "C", subok=False)


def mapped_bytes(array: npt.NDArray[Any]) -> int:
    """Bytes of the mapping an array lies in that cost no memory; 0 without one."""
    found = find_mapping(array)
    return 0 if found is None else found[0].mapped_bytes


def take_counted() -> tuple[int, dict[str, int]]:
    """Return what selecting rows has mapped and copied here since the last time."""
    cost = counters.take()
    return cost.mapped_bytes, {cause.key: n for cause, n in cost.copied.items()}


def own_mapping(make: Callable[[], npt.NDArray[Any]]) -> npt.NDArray[Any]:
    """Make an array that lies in a mapping of its own, as most large ones do.

    While the heap of this process has a large enough free block, it does not.
    """
    kept = []
    while _adoption._find_foreign_memory(array := make()) and len(kept) < 20:
        kept.append(array)
    return array


def assert_same_values(result: npt.NDArray[Any], expected: npt.NDArray[Any]) -> None:
    """Compare bit by bit, so that NaN equals itself, but not what pads records."""
    if expected.dtype.names is None:
        assert result.tobytes() == expected.tobytes()
        return
    for name in expected.dtype.names:
        assert_same_values(result[name], expected[name])


def assert_same(result: Any, expected: Any) -> None:
    """Compare all that a user of an array can see, but for its class."""
    if not isinstance(expected, np.ndarray):
        assert type(result) is type(expected)
        assert np.asarray(result).dtype == np.asarray(expected).dtype
        assert_same_values(np.asarray(result), np.asarray(expected))
        return
    assert isinstance(result, np.ndarray)
    assert result.dtype == expected.dtype
    assert result.dtype.isalignedstruct == expected.dtype.isalignedstruct
    assert result.shape == expected.shape
    for flag in ("C_CONTIGUOUS", "F_CONTIGUOUS", "WRITEABLE", "ALIGNED"):
        assert result.flags[flag] == expected.flags[flag], flag
    assert_same_values(result, expected)


def outcome(action: Callable[[], Any]) -> tuple[Any, BaseException | None]:
    """Return what an action returns, and the error that it raises instead."""
    try:
        return action(), None
    except Exception as error:  # noqa: BLE001 - numpy's own errors are the oracle
        return None, error


def assert_same_outcome(ours: Callable[[], Any], numpys: Callable[[], Any]) -> None:
    """Compare what two actions return, or their errors."""
    expected, expected_error = outcome(numpys)
    result, error = outcome(ours)
    assert type(error) is type(expected_error), (error, expected_error)
    if expected_error is None:
        assert_same(result, expected)
    else:
        assert str(error) == str(expected_error)


def run_python(script: str, *, timeout_seconds: float = 250, **variables: str) -> str:
    """Run a script in an interpreter of its own, and return what it prints."""
    paths = [str(Path(skl_mmap.__file__).parents[1]), str(Path(__file__).parents[2])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)} | variables
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", textwrap.dedent(script)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()
