"""Systems that refuse something: same results, and the report says what is lost."""

from __future__ import annotations

import errno
import os
import resource
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from joblib import Parallel

import skl_mmap
from skl_mmap import _compat
from skl_mmap.backend import MmapBackend, _in_process
from skl_mmap.exceptions import NotEnoughDiskError, NotEnoughMemoryError
from skl_mmap.memory import Placement, _segment, can_remap
from skl_mmap.report import MemoryReport
from tests.backend.common import call_each, use_mmap

pytestmark = pytest.mark.skipif(not can_remap(), reason="Linux refuses these")

X = np.random.default_rng(0).random((20_000, 20))
ROWS = np.arange(1000, 19_000)


def sum_rows(rows_of: Any, rows: Any) -> float:
    return float(rows_of[rows].sum())


def run_job(**parameters: Any) -> MemoryReport:
    """Compare a job's results with numpy's, and return its report."""
    with skl_mmap.measure() as report, use_mmap(**parameters):
        assert call_each(sum_rows, X, ROWS) == [X[ROWS].sum()] * 4
    assert os.getpid() not in {record.pid for record in report.report().records}
    result: MemoryReport = report.report()
    return result


@pytest.fixture(params=[errno.EPERM, errno.ENOSYS], ids=["EPERM", "ENOSYS"])
def no_memfd(request: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "memfd_create", refuse)


@pytest.mark.usefixtures("no_memfd")
def test_without_memfd_arrays_lie_in_dev_shm() -> None:
    if not os.access(_segment.MEMORY_FOLDER, os.W_OK):
        pytest.skip("there is no /dev/shm to write to")
    report = run_job()
    assert {segment.place for segment in report.segments} == {"memory"}
    [note] = [note for note in report.notes if "memfd_create" in note]
    assert note.startswith("shared arrays lie in /dev/shm: this system refuses")
    assert not [n for n in os.listdir(_segment.MEMORY_FOLDER) if "skl_mmap" in n]


@pytest.mark.usefixtures("no_memfd")
def test_without_memfd_and_dev_shm_arrays_lie_on_a_disk(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(_segment, "MEMORY_FOLDER", str(tmp_path / "absent"))
    report = run_job()
    assert {segment.place for segment in report.segments} == {"disk"}
    assert any(n.startswith("shared arrays lie on a disk") for n in report.notes)
    with pytest.raises(NotEnoughMemoryError, match=r"refuses memfd_create .*'disk'"):
        skl_mmap.share(X, store="memory")
    np.testing.assert_array_equal(skl_mmap.share(X, store="disk"), X)


@pytest.fixture
def no_temporary_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> str:
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)


@pytest.mark.usefixtures("no_temporary_folder")
def test_without_a_temporary_folder_arrays_lie_in_memory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    report = run_job(store="memory")
    assert {segment.place for segment in report.segments} == {"memory"}
    np.testing.assert_array_equal(skl_mmap.share(X, store=tmp_path), X)
    with pytest.raises(NotEnoughDiskError, match=r"TMPDIR .* Pass store= a folder"):
        skl_mmap.share(X, store="disk")
    # "auto" has memory alone: half of what there is can be had, and twice as much not.
    monkeypatch.setattr(_segment.proc, "available_memory_bytes", lambda: X.nbytes)
    placement = Placement.from_parameter("auto")
    assert placement.choose(X.nbytes, "an array") == "memory"
    with pytest.raises(NotEnoughMemoryError, match="store='auto' needs"):
        placement.choose(2 * X.nbytes, "an array")


@pytest.fixture
def only_small_files() -> Iterator[int]:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (X.nbytes // 2, limits[1]))
    yield X.nbytes // 2
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.usefixtures("only_small_files")
def test_where_no_file_may_be_as_large_arrays_are_sent() -> None:
    report = run_job()
    assert X.nbytes not in {segment.n_bytes for segment in report.segments}
    [note] = [note for note in report.notes if "by value" in note]
    assert "ulimit -f" in note
    for store in ("memory", "disk"):
        with pytest.raises(NotEnoughDiskError, match=r"1\.5 MiB \(ulimit -f\)"):
            skl_mmap.share(X, store=store)


def test_without_named_semaphores_there_are_workers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """joblib runs one task after the other there: these are files in /dev/shm."""
    monkeypatch.setattr(_in_process, "mp", None)
    monkeypatch.setattr(
        "joblib._parallel_backends.cpu_count", lambda: exec("raise NameError")
    )
    run_job()
    with use_mmap(n_jobs=-1):
        n_jobs = Parallel()._effective_n_jobs()
        assert n_jobs == _compat.cpu_count()
    environment = _compat.worker_environment(MmapBackend(), 2)
    n_threads = str(max(_compat.cpu_count() // 2, 1))
    assert environment["OMP_NUM_THREADS"] == os.environ.get(
        "OMP_NUM_THREADS", n_threads
    )
    limited = MmapBackend(inner_max_num_threads=3)
    assert _compat.worker_environment(limited, 2)["OMP_NUM_THREADS"] == "3"
