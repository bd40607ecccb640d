"""What the tests of the backend share; workers import it, so it stays light."""

from __future__ import annotations

import contextlib
import gc
import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import joblib
import numpy as np
import numpy.typing as npt

import skl_mmap
from skl_mmap.backend import Options, TaskPickler
from skl_mmap.memory import Segment, Store
from skl_mmap.monitor import TaskRecord, listen, unlisten
from tests.waiting import PATIENCE_SECONDS, wait_until

if TYPE_CHECKING:
    import pytest

    from skl_mmap.copies import Layout

PACKAGE_FOLDER = Path(skl_mmap.__file__).parents[1]
MEMFD_NAME = "memfd:skl_mmap"


def use_mmap(**parameters: Any) -> Any:
    """Make "mmap" the backend of a block; share everything unless told otherwise."""
    parameters = {"n_jobs": 2, "min_bytes": 1, **parameters}
    return joblib.parallel_config(backend="mmap", **parameters)


def use_layouts(
    monkeypatch: pytest.MonkeyPatch, table: dict[str, dict[str, Layout]]
) -> None:
    """Let the table of known layouts be this one: a layout for each class and X."""
    from skl_mmap.copies import _known_layouts

    monkeypatch.setattr(_known_layouts, "known_layouts", lambda: table)


def known_table() -> dict[str, dict[str, Layout]]:
    """Return a copy of the table of known layouts."""
    from skl_mmap.copies import _known_layouts

    return {name: dict(row) for name, row in _known_layouts.known_layouts().items()}


def dump_task(
    task: object, store: Store, options: Options
) -> tuple[bytes, list[Segment]]:
    """Pickle a task as the backend does; `pickle.loads` is what a worker does."""
    file = io.BytesIO()
    pickler = TaskPickler(file, store, options)
    pickler.dump(task)
    return file.getvalue(), pickler.segments


@contextlib.contextmanager
def recorded() -> Iterator[list[TaskRecord]]:
    """Collect what the workers say about their tasks."""
    records: list[TaskRecord] = []
    listener = listen(records.append, TaskRecord)
    try:
        yield records
    finally:
        unlisten(listener)


def call_each(function: Callable[..., Any], *args: Any, n_tasks: int = 4) -> list[Any]:
    """Call a function several times, each as a task and a batch of its own."""
    parallel = joblib.Parallel(batch_size=1, pre_dispatch="all")
    return list(parallel(joblib.delayed(function)(*args) for _ in range(n_tasks)))


def list_own_memfds() -> list[str]:
    """Return the shared segments that this process has open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):
            target = os.readlink(f"/proc/self/fd/{name}")
            if MEMFD_NAME in target:
                found.append(f"{name} -> {target}")
    return found


def bytes_of_memfds() -> list[int]:
    """Return the sizes of the shared segments that this process has open.

    Without the empty files that wait for results.
    """
    sizes = []
    for line in list_own_memfds():
        with contextlib.suppress(FileNotFoundError):
            status = os.stat(f"/proc/self/fd/{line.split()[0]}")
            sizes.append(512 * status.st_blocks)
    return list(filter(None, sizes))


class SegmentWatch:
    """Tell when all segments are gone that this process has opened since."""

    def __init__(self) -> None:
        self._before = {*list_own_memfds(), *list_own_mappings()}

    def are_freed(self) -> bool:
        """Collect what joblib leaves in cycles, and look once."""
        gc.collect()
        return {*list_own_memfds(), *list_own_mappings()} <= self._before

    def wait(self) -> bool:
        """Give the threads of the pool some time, and say whether all are gone."""
        return wait_until(self.are_freed)


def list_own_mappings() -> list[str]:
    """Return the shared segments that this process has mapped."""
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return [line for line in maps if MEMFD_NAME in line]


def run_script(
    folder: Path, code: str, *args: str, environment: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program in an interpreter of its own; it must end well."""
    result = subprocess.run(
        write_script(folder, code, *args),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS * 2,
        env=script_environment(environment),
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result


def write_script(folder: Path, code: str, *args: str) -> list[str]:
    """Write a program to a file, as workers need one, and return its command."""
    path = folder / "script.py"
    path.write_text(code, encoding="utf-8")
    return [sys.executable, str(path), *args]


def script_environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Return an environment in which the package that is tested can be imported."""
    paths = [str(PACKAGE_FOLDER), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(filter(None, paths))
    return {**os.environ, "PYTHONPATH": path, **(more or {})}


def numbered_rows(n_rows: int, n_columns: int, dtype: Any = float) -> npt.NDArray[Any]:
    """Return a matrix in which every element is different."""
    numbers: npt.NDArray[Any] = np.arange(n_rows * n_columns, dtype=dtype)
    return numbers.reshape(n_rows, n_columns)
