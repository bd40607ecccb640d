"""Parameters are validated, and do what they say."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import numpy.typing as npt
import pytest
from joblib import Parallel, delayed

import skl_mmap
from skl_mmap._linux import proc
from skl_mmap.exceptions import (
    InvalidParameterError,
    NotEnoughDiskError,
    NotEnoughMemoryError,
)
from tests.backend.common import (
    MEMFD_NAME,
    call_each,
    list_own_mappings,
    numbered_rows,
    recorded,
    run_script,
    use_mmap,
)
from tests.waiting import wait_for_end

Array = npt.NDArray[Any]

BAD_PARAMETERS = [
    ("min_bytes", -1, "min_bytes=-1 is not a size in bytes"),
    ("min_bytes", "many", "min_bytes='many' is not a size in bytes"),
    ("min_bytes", 1.5, "min_bytes=1.5 is not a size"),
    ("min_bytes", True, "min_bytes=True is not a size"),
    ("row_order", "random", "row_order='random' is not known"),
    ("row_order", None, "row_order=None is not known"),
    ("store", "cloud", "store='cloud' is not an existing folder"),
    ("store", 3, "store=3 does not say where"),
    ("store", None, "store=None does not say where"),
    ("idle_worker_timeout", 0, "idle_worker_timeout=0 is not a time"),
    ("idle_worker_timeout", -1.0, "idle_worker_timeout=-1.0 is not a time"),
    ("idle_worker_timeout", "1", "idle_worker_timeout='1' is not a time"),
    ("idle_worker_timeout", np.nan, "idle_worker_timeout=nan is not a time"),
    ("initializer", 3, "initializer=3 cannot be called"),
    ("initargs", 5, "initargs=5 are not the arguments"),
    ("initargs", "ab", r"Pass a tuple, such as \('ab',\)"),
    ("row_ordr", "any", "no parameter 'row_ordr'"),
]


@pytest.mark.parametrize(("name", "value", "message"), BAD_PARAMETERS)
@pytest.mark.parametrize(
    "use", [joblib.parallel_backend, joblib.parallel_config], ids=["backend", "config"]
)
def test_bad_parameter_is_refused_at_once(
    use: Any, name: str, value: Any, message: str
) -> None:
    with pytest.raises(InvalidParameterError, match=message):
        use("mmap", n_jobs=2, **{name: value})


@pytest.mark.parametrize(("name", "value", "message"), BAD_PARAMETERS)
def test_bad_parameter_of_parallel_is_refused(
    name: str, value: Any, message: str
) -> None:
    parallel = Parallel(n_jobs=2, backend="mmap", **{name: value})
    with pytest.raises(InvalidParameterError, match=message):
        parallel(delayed(abs)(i) for i in range(2))
    with use_mmap():
        assert call_each(abs, -1) == [1] * 4


# joblib's own parameter, which backends see when they are called.
USES = pytest.mark.parametrize(
    "use", [joblib.parallel_backend, joblib.parallel_config], ids=["backend", "config"]
)


def double(X: Array) -> Any:
    X *= 2
    return X.sum()


@pytest.mark.parametrize("value", ["r+", "w+"])
@USES
def test_writes_that_tasks_would_share_stay_their_own(use: Any, value: str) -> None:
    """Libraries ask for such a mode, against errors of arrays that are read-only."""
    X = np.arange(9000.0)
    tasks = [delayed(double)(X) for _ in range(3)]
    with skl_mmap.measure() as report:
        with use(backend="mmap", n_jobs=2, mmap_mode=value):
            sums = Parallel(min_bytes=1)(tasks)
        with use_mmap():
            sums += Parallel(mmap_mode=value)(tasks)
    assert sums == [2 * X.sum()] * 6
    np.testing.assert_array_equal(X, np.arange(9000.0))
    [note] = [note for note in report.report().notes if "mmap_mode" in note]
    assert note.startswith(f"mmap_mode={value!r} of Parallel is taken as 'c'")


@pytest.mark.parametrize("value", ["x", 1])
@USES
def test_mode_that_is_not_known_is_refused(use: Any, value: Any) -> None:
    with (
        use(backend="mmap", n_jobs=2, mmap_mode=value),
        pytest.raises(InvalidParameterError, match="mmap_mode="),
    ):
        call_each(abs, -1)
    with use_mmap(), pytest.raises(InvalidParameterError, match="mmap_mode="):
        Parallel(mmap_mode=value)(delayed(abs)(i) for i in range(2))


def test_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, tmp_path / "missing"):
        with pytest.raises(InvalidParameterError, match="not an existing folder"):
            joblib.parallel_backend("mmap", store=folder)


def test_bad_parameters_are_value_errors_too() -> None:
    with pytest.raises(ValueError, match="row_order"):
        joblib.parallel_backend("mmap", row_order="no")


def describe_input(X: Array) -> tuple[bool, bool]:
    """Whether an array is shared, and whether it can be written to."""
    address = X.__array_interface__["data"][0]
    with open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            start, stop = (int(number, 16) for number in line.split()[0].split("-"))
            if start <= address < stop:
                return MEMFD_NAME in line, X.flags.writeable
    raise AssertionError("no memory at all")


def ask(**parameters: Any) -> tuple[bool, bool]:
    """Send 64 KiB to a task, and return what it says about them."""
    parallel = Parallel(n_jobs=2, backend="mmap", **parameters)
    [described] = parallel([delayed(describe_input)(np.zeros(8192))])
    return described  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("parameters", "is_shared"),
    [
        ({}, False),
        ({"min_bytes": 1}, True),
        ({"min_bytes": "64K"}, True),
        ({"min_bytes": "65K"}, False),
        ({"min_bytes": None}, False),
        ({"max_nbytes": 1}, True),
        ({"max_nbytes": "1K"}, True),
        ({"max_nbytes": "2M"}, False),
        ({"max_nbytes": None, "min_bytes": 1}, True),
        ({"max_nbytes": None}, False),
        ({"max_nbytes": 1, "mmap_mode": None}, False),
    ],
    ids=str,
)
def test_size_from_which_arrays_are_shared(
    parameters: dict[str, Any], is_shared: bool
) -> None:
    assert ask(**parameters) == (is_shared, True)


def test_parameters_of_the_block_and_of_parallel_come_together() -> None:
    with joblib.parallel_config(backend="mmap", n_jobs=2, min_bytes=1):
        [described] = Parallel()([delayed(describe_input)(np.zeros(8192))])
        assert described == (True, True)
        [described] = Parallel(max_nbytes=None)(
            [delayed(describe_input)(np.zeros(8192))]
        )
        assert described == (False, True)
    with joblib.parallel_config(backend="mmap", n_jobs=2, max_nbytes=1):
        [described] = Parallel()([delayed(describe_input)(np.zeros(8192))])
        assert described == (True, True)


@pytest.mark.parametrize("use", [joblib.parallel_backend, joblib.parallel_config])
def test_read_only_mode_is_set_for_a_block(use: Any) -> None:
    with use("mmap", n_jobs=2, mmap_mode="r", min_bytes=1):
        [described] = Parallel()([delayed(describe_input)(np.zeros(8192))])
    assert described == (True, False)


@pytest.mark.parametrize(
    ("of_block", "of_parallel", "expected"),
    [
        ("r", "c", (True, True)),
        ("c", "r", (True, False)),
        ("r", None, (False, True)),
        (None, "c", (True, True)),
    ],
)
def test_mode_of_parallel_comes_before_that_of_the_block(
    of_block: Any, of_parallel: Any, expected: tuple[bool, bool]
) -> None:
    with use_mmap(mmap_mode=of_block):
        parallel = Parallel(mmap_mode=of_parallel)
        [described] = parallel([delayed(describe_input)(np.zeros(8192))])
    assert described == expected


@pytest.mark.parametrize("seconds", [np.inf, 1e9, np.int64(30), np.float32(30)])
def test_any_number_of_seconds_is_a_time(seconds: Any) -> None:
    with use_mmap(idle_worker_timeout=seconds):
        assert call_each(abs, -3) == [3] * 4


def test_nothing_is_shared_when_no_size_is_large_enough() -> None:
    X, train = numbered_rows(4000, 50), np.r_[0:1000, 2000:4000]
    with use_mmap(min_bytes=None, row_order="any"), recorded() as records:
        results = call_each(count_shared, X, train)
    assert results == [0] * 4
    assert sum(record.mapped_bytes for record in records) == 0


def count_shared(X: Array, train: Array) -> int:
    return len(list_own_mappings())


def fold_sum(X: Array, train: Array) -> float:
    return float((X[train] * np.arange(len(train))[:, np.newaxis]).sum())


STORES: dict[str, Callable[[Path], Any]] = {
    "auto": lambda folder: "auto",
    "memory": lambda folder: "memory",
    "disk": lambda folder: "disk",
    "folder": lambda folder: folder,
    "text": lambda folder: str(folder),
}


@pytest.mark.parametrize("store", STORES)
def test_results_do_not_depend_on_the_store(tmp_path: Path, store: str) -> None:
    X, train = numbered_rows(4000, 50), np.r_[0:1000, 2000:4000]
    with use_mmap(store=STORES[store](tmp_path)), recorded() as records:
        results = call_each(fold_sum, X, train)
        assert list(tmp_path.iterdir()) == []
    assert results == [fold_sum(X, train)] * 4
    assert sum(record.mapped_bytes for record in records) > 0
    assert list(tmp_path.iterdir()) == []


def list_files_mapped_in(X: Array, folder: str) -> int:
    with open("/proc/self/maps", encoding="utf-8") as maps:
        return sum(folder in line for line in maps)


@pytest.mark.parametrize("parameter", ["store", "temp_folder"])
def test_folder_is_the_one_asked_for(tmp_path: Path, parameter: str) -> None:
    X = numbered_rows(4000, 50)
    store = {"store": "disk"} if parameter == "temp_folder" else {}
    with use_mmap(**store, **{parameter: str(tmp_path)}):
        counts = call_each(list_files_mapped_in, X, str(tmp_path))
    assert counts == [1] * 4


def test_error_of_too_little_memory_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X = numbered_rows(4000, 50)
    with use_mmap(store="memory"):
        with monkeypatch.context() as patch:
            patch.setattr(proc, "available_memory_bytes", lambda: 1000)
            with pytest.raises(NotEnoughMemoryError, match=r"needs 1\.5 MiB for"):
                call_each(np.sum, X)
        assert call_each(np.sum, X) == [X.sum()] * 4


def test_little_memory_is_left_alone_by_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    X = numbered_rows(4000, 50)
    monkeypatch.setattr(proc, "available_memory_bytes", lambda: 1000)
    with use_mmap(temp_folder=str(tmp_path)):
        assert call_each(list_files_mapped_in, X, str(tmp_path)) == [1] * 4


def refuse_room(*args: Any) -> None:
    raise OSError(28, os.strerror(28))


def test_error_of_a_full_disk_reaches_the_caller(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    X = numbered_rows(4000, 50)
    with use_mmap(store=tmp_path):
        with monkeypatch.context() as patch:
            patch.setattr(os, "posix_fallocate", refuse_room)
            with pytest.raises(NotEnoughDiskError, match="has no room for"):
                call_each(np.sum, X)
        assert call_each(np.sum, X) == [X.sum()] * 4
    assert list(tmp_path.iterdir()) == []


def test_folder_that_vanishes_is_an_error_of_the_next_call(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    X = numbered_rows(4000, 50)
    with use_mmap(store=folder):
        folder.rmdir()
        with pytest.raises(InvalidParameterError, match="not an existing folder"):
            call_each(np.sum, X)


def test_too_many_open_files_mean_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> int:
        raise OSError(24, os.strerror(24))

    X = numbered_rows(4000, 50)
    monkeypatch.setattr(os, "memfd_create", refuse)
    with use_mmap():
        assert call_each(np.sum, X) == [X.sum()] * 4
        assert call_each(count_shared, X, np.arange(9000)) == [0] * 4


PORTABLE_SCRIPT = """
import os, sys
import numpy as np
import skl_mmap
from joblib import Parallel, delayed, parallel_config
from skl_mmap.memory import can_remap
from skl_mmap.monitor import TaskRecord, listen

def select(X, train):
    X[5] = -2.0
    part = X[train]
    X[6] = -3.0
    return part

if __name__ == "__main__":
    folder = sys.argv[1]
    X, records = np.arange(200_000.0).reshape(-1, 50), []
    train = np.r_[0:1000, 1801:4000]
    listen(records.append, TaskRecord)
    for parameters in ({}, {"row_order": "any"}, {"store": "disk"}):
        with parallel_config(
            backend="mmap", n_jobs=2, min_bytes=1, temp_folder=folder, **parameters
        ):
            for change in range(2):
                X[7] += change
                parts = Parallel()(delayed(select)(X, train) for _ in range(4))
                expected = X[train]
                expected[5] = -2.0
                for part in parts:
                    if parameters.get("row_order") == "any":
                        part = np.sort(part, axis=0)
                        expected = np.sort(expected, axis=0)
                    np.testing.assert_array_equal(part, expected)
            assert len(os.listdir(folder)) <= 3
        del part
        parts = None
        assert os.listdir(folder) == [], os.listdir(folder)
    assert X[0, 0] == 0 and X[5, 0] == 250
    print(can_remap(), sum(record.mapped_bytes for record in records))
"""


def test_without_remapping_results_are_the_same_and_folds_copied(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    outputs = [
        run_script(
            tmp_path,
            PORTABLE_SCRIPT,
            str(folder),
            environment={"SKL_MMAP_PORTABLE": value},
        )
        for value in ("1", "0")
    ]
    assert [output.stderr for output in outputs] == ["", ""]
    assert outputs[0].stdout == "False 0\n"
    can_remap, mapped_bytes = outputs[1].stdout.split()
    assert can_remap == "True"
    assert int(mapped_bytes) > 0
    assert list(folder.iterdir()) == []


def pid_after_nap(_: object = None) -> int:
    return os.getpid()


# loky's own thread warns where a worker stops just as it is given a task, and starts
# another one; an error there would break the pool.
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs:UserWarning")
def test_workers_stop_when_they_have_nothing_to_do() -> None:
    with use_mmap(idle_worker_timeout=0.2):
        pids = set(call_each(pid_after_nap))
        assert wait_for_end(pids)
        assert call_each(abs, -3) == [3] * 4
