"""measure() and its report."""

from __future__ import annotations

import copy
import ctypes
import functools
import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import psutil
import pytest

from skl_mmap import exceptions
from skl_mmap._linux import proc
from skl_mmap.exceptions import InvalidParameterError, MeasurementError
from skl_mmap.monitor import (
    MeasuredBlock,
    Measurement,
    ProcessSeries,
    SamplingCost,
    TaskRecord,
    is_measuring,
    measure,
    publish,
    read_committed,
)

from .conftest import MIB, TOLERANCE_BYTES, Child, needs_proc

MakeChild = Callable[..., Child]

RECORD = TaskRecord(
    pid=1,
    seconds=0.5,
    mapped_bytes=300 * MIB,
    copied_bytes=3 * MIB,
    copy_reasons={"index in no order": MIB, "other dtype": 2 * MIB},
)


def retry(test: Callable[..., None]) -> Callable[..., None]:
    """Try up to three times, for what a busy machine may delay for too long."""

    @functools.wraps(test)
    def try_again(*arguments: object, **keywords: object) -> None:
        for _ in range(2):
            try:
                return test(*arguments, **keywords)
            except AssertionError:
                time.sleep(0.5)
        return test(*arguments, **keywords)

    return try_again


def run_workers(n_workers: int, n_bytes: int) -> list[int]:
    """Run workers until all of them hold some memory; return their numbers."""
    code = f"data = bytearray({n_bytes}); print(1, flush=True); input()"
    workers = [
        subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(n_workers)
    ]
    for worker in workers:
        assert worker.stdout is not None
        worker.stdout.readline()
    wait_for_readings()
    for worker in workers:
        worker.communicate(b"\n")
    return [worker.pid for worker in workers]


def list_samplers() -> list[psutil.Process]:
    mark = "skl_mmap-memory-sampler"
    children = psutil.Process().children()
    return [process for process in children if process.cmdline()[-1:] == [mark]]


def wait_for_readings() -> None:
    """Wait until every sampler has read memory once more, however busy the machine.

    A sampler goes to sleep once after each reading, and now and then within one; so
    eight times are several readings.
    """

    def count(sampler: psutil.Process) -> int:
        return int(sampler.num_ctx_switches().voluntary)

    last = [(sampler, count(sampler) + 8) for sampler in list_samplers()]
    assert last, "nobody is measuring"
    deadline = time.monotonic() + 60
    while any(count(sampler) < n for sampler, n in last):
        assert time.monotonic() < deadline, "the sampler stands still"
        time.sleep(0.01)


@needs_proc
class TestPeak:
    def test_memory_that_is_freed_within_the_block(self) -> None:
        with measure() as report:
            data = bytearray(64 * MIB)
            wait_for_readings()
            del data
            wait_for_readings()
        assert report.method == "committed"
        assert report.peak_growth_bytes == pytest.approx(64 * MIB, abs=TOLERANCE_BYTES)
        assert report.peak.committed_bytes == report.peak_bytes
        assert report.timeline[-1].committed_bytes < report.peak_bytes - 32 * MIB

    def test_what_was_there_before_is_the_baseline(self) -> None:
        data = bytearray(64 * MIB)
        with measure() as report:
            wait_for_readings()
        assert report.baseline_bytes > len(data)
        assert report.peak_growth_bytes < TOLERANCE_BYTES

    def test_workers_that_start_and_end_within_the_block(self) -> None:
        with measure() as report:
            workers = run_workers(2, 32 * MIB)
        assert 64 * MIB < report.peak_growth_bytes < 80 * MIB
        assert report.peak.n_processes == report.timeline[0].n_processes + 2
        pids = {process.pid for process in report.peak.processes}
        assert {os.getpid(), *workers} <= pids
        assert report.timeline[-1].n_processes == report.timeline[0].n_processes

    @retry
    def test_a_peak_of_30_ms(self, memory_file: int) -> None:
        with measure(interval_seconds=0.01) as report:
            os.write(memory_file, bytes(16 * MIB))
            time.sleep(0.03)
            os.ftruncate(memory_file, 0)
        assert report.peak.shared_bytes - report.timeline[0].shared_bytes > 15 * MIB

    @retry
    def test_c_code_that_holds_the_gil_is_watched(self) -> None:
        sleep = ctypes.PyDLL(None).usleep  # PyDLL: the GIL is not released
        with measure() as report:
            sleep(400_000)
        assert report.sampling.n_readings > 5

    @retry
    def test_memory_of_a_single_call_that_holds_the_gil(self) -> None:
        with measure() as report:
            total = sum(bytearray(64 * MIB))
        assert total == 0
        assert report.peak_growth_bytes >= 60 * MIB

    def test_starting_a_process_does_not_count_the_memory_twice(
        self, make_child: MakeChild
    ) -> None:
        child = make_child()
        child.run(f"import subprocess, time; data = bytearray({64 * MIB})")
        with measure(interval_seconds=0.005) as report:
            child.run(
                "for _ in range(3):\n"
                "    subprocess.run(['true'], preexec_fn=lambda: time.sleep(0.05))"
            )
        n_processes = report.timeline[0].n_processes
        assert any(reading.n_processes > n_processes for reading in report.timeline)
        assert report.peak_growth_bytes < 16 * MIB


@needs_proc
class TestTimeLine:
    def test_starts_with_the_baseline_and_ends_with_the_block(self) -> None:
        begin = time.monotonic()
        with measure(interval_seconds=0.02) as report:
            time.sleep(0.2)
        seconds = [reading.seconds for reading in report.timeline]
        assert report.timeline[0].committed_bytes == report.baseline_bytes
        assert seconds == sorted(seconds)
        assert 0.2 <= seconds[-1] <= time.monotonic() - begin
        assert report.wall_seconds >= 0.2
        assert len(report.timeline) == report.sampling.n_readings >= 2
        assert max(reading.committed_bytes for reading in report.timeline) == (
            report.peak_bytes
        )

    @retry
    def test_interval_includes_the_reading_itself(self) -> None:
        with measure(interval_seconds=0.02) as report:
            time.sleep(1.0)
        seconds = [reading.seconds for reading in report.timeline]
        gaps = sorted(b - a for a, b in itertools.pairwise(seconds))
        # A busy machine delays some readings, which makes other gaps shorter.
        assert gaps[len(gaps) // 4] < 0.02 + report.sampling.mean_reading_seconds / 2
        assert report.sampling.n_readings <= report.wall_seconds / 0.02 + 3

    def test_parts_add_up(self, memory_file: int) -> None:
        os.write(memory_file, bytes(MIB))
        with measure() as report:
            wait_for_readings()
        for reading in report.timeline:
            parts = reading.anonymous_bytes + reading.shared_bytes
            assert reading.committed_bytes == parts
            assert reading.processes == ()
        assert report.peak.shared_bytes >= MIB
        assert report.peak.processes != ()

    def test_cost_of_the_sampler_is_told(self) -> None:
        begin = time.monotonic()
        with measure() as report:
            wait_for_readings()
        seconds = time.monotonic() - begin
        cost = report.sampling
        assert 0 < cost.cpu_seconds < seconds
        # Readings do not overlap.
        assert 0 < cost.mean_reading_seconds * cost.n_readings < seconds
        assert MIB < cost.sampler_bytes < 10 * MIB


@needs_proc
class TestBlock:
    def test_nested_blocks_do_not_count_each_other(self) -> None:
        n_processes = read_committed().n_processes
        with measure() as outer:
            with measure() as inner:
                assert len(list_samplers()) == 2
                data = bytearray(64 * MIB)
                wait_for_readings()
                del data
            wait_for_readings()
        assert list_samplers() == []
        assert inner.peak.n_processes == n_processes
        # The inner sampler is a fork of this process for a moment.
        assert outer.timeline[-1].n_processes == n_processes
        assert outer.peak.n_processes <= n_processes + 1
        for report in (outer, inner):
            assert report.peak_growth_bytes == pytest.approx(64 * MIB, abs=4 * MIB)

    def test_samplers_are_not_counted_by_a_single_reading(self) -> None:
        before = read_committed()
        with measure():
            during = read_committed()
        assert during.n_processes == before.n_processes

    def test_blocks_in_threads(self) -> None:
        reports: list[Measurement[MeasuredBlock]] = []

        def work() -> None:
            with measure() as report:
                time.sleep(0.1)
            reports.append(report)

        threads = [threading.Thread(target=work) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(reports) == 3
        assert all(report.sampling.n_readings >= 2 for report in reports)
        assert all(report.peak_growth_bytes < 8 * MIB for report in reports)

    def test_an_exception_passes_through_a_filled_report(self) -> None:
        def fail() -> None:
            data = bytearray(64 * MIB)
            time.sleep(0.05)
            len(data) / 0

        with pytest.raises(ZeroDivisionError), measure() as report:
            fail()
        assert report.is_finished
        assert report.peak_growth_bytes >= 60 * MIB
        assert not is_measuring()

    def test_many_blocks_leave_nothing_behind(self) -> None:
        with measure():
            pass
        descriptors = sorted(os.listdir("/proc/self/fd"))
        threads = threading.active_count()
        # Workers and trackers of other tests' pools may be there.
        children = set(psutil.Process().children())
        for _ in range(50):
            with measure() as report:
                pass
            assert report.sampling.n_readings >= 2
        assert sorted(os.listdir("/proc/self/fd")) == descriptors
        assert threading.active_count() == threads
        assert set(psutil.Process().children()) <= children

    def test_a_number_within_the_block_is_an_error(self) -> None:
        with measure() as report:
            for read in (
                lambda: report.peak_bytes,
                lambda: report.peak_growth_bytes,
                lambda: report.timeline,
                lambda: report.notes,
            ):
                with pytest.raises(MeasurementError, match="has not ended yet"):
                    read()
            with pytest.raises(AttributeError, match="no attribute 'peak_byte'"):
                _ = report.peak_byte
            assert not report.is_finished
            assert report.tasks == []
            assert repr(report) == "<Measurement: not finished>"
            assert "has not ended yet" in str(report)
        assert report.is_finished

    def test_a_dead_sampler_costs_the_numbers_and_not_the_result(self) -> None:
        with measure() as report:
            (sampler,) = list_samplers()
            os.kill(sampler.pid, signal.SIGKILL)
            result = 42
        assert result == 42
        assert report.is_finished
        with pytest.raises(MeasurementError, match=r"ended early with code -9"):
            _ = report.peak_bytes
        assert "ended early" in str(report)
        assert repr(report) == "<Measurement: no numbers>"

    @pytest.mark.parametrize(
        ("executable", "reason"),
        [
            ("/no/such/python", "No such file"),
            ("/bin/false", "ended with code 1"),
            (None, "could not be started"),
        ],
    )
    def test_a_sampler_that_does_not_start_is_an_error(
        self, monkeypatch: pytest.MonkeyPatch, executable: str | None, reason: str
    ) -> None:
        monkeypatch.setattr(sys, "executable", executable)
        with pytest.raises(MeasurementError, match=reason), measure():
            pytest.fail("the block was run")


class TestParameters:
    @pytest.mark.parametrize(
        "interval_seconds", [0, -1, 61, float("nan"), True, "0.01", None]
    )
    def test_bad_interval_is_refused(self, interval_seconds: float) -> None:
        with (
            pytest.raises(InvalidParameterError, match="interval_seconds="),
            measure(interval_seconds=interval_seconds),
        ):
            pytest.fail("the block was run")

    @pytest.mark.parametrize("method", ["pss", None])
    def test_bad_method_is_refused(self, method: str) -> None:
        with (
            pytest.raises(InvalidParameterError, match=f"method={method!r}"),
            measure(method=method),
        ):
            pytest.fail("the block was run")
        with pytest.raises(InvalidParameterError, match=f"method={method!r}"):
            read_committed(method=method)

    @pytest.mark.parametrize("pid", [0, -1, 1.5, "1", True])
    def test_bad_pid_is_refused(self, pid: int) -> None:
        with pytest.raises(InvalidParameterError, match=f"pid={pid!r}"):
            read_committed(pid)

    @pytest.mark.parametrize("method", ["auto", "uss"])
    def test_process_that_is_gone(self, method: str) -> None:
        process = subprocess.Popen(["true"])
        process.wait()
        with pytest.raises(MeasurementError, match=f"Process {process.pid} has ended"):
            read_committed(process.pid, method=method)

    @needs_proc
    def test_process_that_has_ended_and_was_not_waited_for(self) -> None:
        process = subprocess.Popen(["true"])
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        try:
            with pytest.raises(MeasurementError, match=f"{process.pid} has ended"):
                read_committed(process.pid)
        finally:
            process.wait()


class TestUniqueSetSizes:
    """The stand-in for systems without /proc."""

    @retry
    def test_private_memory_of_the_tree(self) -> None:
        with measure(method="uss") as report:
            (worker,) = run_workers(1, 32 * MIB)
        assert report.method == "uss"
        assert 30 * MIB < report.peak_growth_bytes < 64 * MIB
        assert report.peak.shared_bytes == 0
        assert {worker, os.getpid()} <= {p.pid for p in report.peak.processes}
        assert report.notes == (
            "Unique set sizes leave out all memory that two processes share.",
        )

    def test_samplers_are_not_counted(self) -> None:
        with measure(method="uss") as outer, measure(method="uss") as inner:
            during = read_committed(method="uss")
            time.sleep(0.1)
        assert during.n_processes == len(psutil.Process().children()) + 1
        assert inner.peak.n_processes == outer.timeline[-1].n_processes
        assert inner.peak.n_processes == during.n_processes

    def test_is_chosen_where_there_is_no_proc(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(proc, "is_readable", lambda: False)
        with measure() as report:
            pass
        assert report.method == "uss"
        assert report.baseline_bytes > MIB

    @needs_proc
    def test_is_not_chosen_because_mapping_is_switched_off(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("SKL_MMAP_PORTABLE", "1")
        with measure() as report:
            pass
        assert report.method == "committed"

    def test_missing_psutil_is_an_error_that_names_it(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "psutil", None)
        with (
            pytest.raises(MeasurementError, match="pip install psutil"),
            measure(method="uss"),
        ):
            pytest.fail("the block was run")
        with pytest.raises(MeasurementError, match="pip install psutil"):
            read_committed(method="uss")


@needs_proc
class TestTasks:
    def test_records_of_the_block_are_added_up(self) -> None:
        publish(RECORD)
        with measure() as outer:
            publish(RECORD)
            with measure() as inner:
                publish(RECORD)
            publish(RECORD)
        publish(RECORD)
        assert len(inner.tasks) == 1
        assert outer.tasks == [RECORD] * 3
        assert outer.mapped_bytes == 900 * MIB
        assert outer.copied_bytes == 9 * MIB
        assert outer.copy_reasons == {
            "other dtype": 6 * MIB,
            "index in no order": 3 * MIB,
        }
        assert list(outer.copy_reasons) == ["other dtype", "index in no order"]

    def test_workers_know_that_somebody_measures(self) -> None:
        assert not is_measuring()
        with measure():
            assert is_measuring()
        assert not is_measuring()


def make_report() -> Measurement[MeasuredBlock]:
    """A finished report with round numbers."""
    report = Measurement(0.01, "committed", MeasuredBlock)
    report.take(RECORD)
    report.take(RECORD)
    first = (0.0, 100 * MIB, 100 * MIB, 0, 0, 5, 0.5)
    worst = (1.5, 350 * MIB, 200 * MIB, 150 * MIB, 0, 5, 1.5)
    report.finish(
        {
            "baseline": first,
            "peak": worst,
            "peak_processes": [(1, "python", 200 * MIB, 0, 0)],
            "timeline": [first, worst],
            "processes": [(1.5, 350 * MIB, [(1, 200 * MIB, 1.0)])],
            "names": {1: "python"},
            "group": None,
            "n_readings": 390,
            "mean_reading_seconds": 0.0005,
            "sampler_cpu_seconds": 0.2,
            "sampler_bytes": 3 * MIB,
            "notes": ["something was hidden"],
        },
        4.0,
    )
    return report


class TestReport:
    def test_numbers_are_those_of_the_value(self) -> None:
        report = make_report()
        value = report.report("a job", input_bytes=5)
        assert isinstance(value, MeasuredBlock)
        assert (value.title, value.input_bytes) == ("a job", 5)
        assert report.peak == value.peak
        assert report.peak_growth_bytes == value.peak_growth_bytes == 250 * MIB
        assert report.cpu_seconds == 1.0
        assert report.notes == ("something was hidden",)
        assert report.processes == (
            ProcessSeries(1, "python", (1.5,), (200 * MIB,), (1.0,)),
        )
        assert report.sampling == SamplingCost(0.01, 390, 0.0005, 0.2, 3 * MIB)
        assert {"peak_bytes", "tasks", "report"} <= set(dir(report))
        assert repr(report) == (
            "<Measurement: peak 350.0 MiB, 250.0 MiB above the start>"
        )

    @pytest.mark.parametrize("make_copy", [copy.deepcopy, pickle.dumps])
    def test_copies_are_equal(self, make_copy: Callable[..., object]) -> None:
        report = make_report()
        copied = make_copy(report)
        if isinstance(copied, bytes):
            copied = pickle.loads(copied)
        assert isinstance(copied, Measurement)
        assert copied.peak == report.peak
        assert copied.timeline == report.timeline
        assert copied.tasks == report.tasks
        assert str(copied) == str(report)

    def test_results_cannot_be_changed(self) -> None:
        report = make_report()
        with pytest.raises(AttributeError):
            report.peak.seconds = 1.0
        with pytest.raises(AttributeError):
            report.peak_byte = 1  # type: ignore[attr-defined]

    def test_error_can_be_pickled(self) -> None:
        error = exceptions.MeasurementError("no numbers")
        assert str(pickle.loads(pickle.dumps(error))) == "no numbers"


def test_import_needs_nothing_but_the_standard_library() -> None:
    program = (
        "import skl_mmap, sys, types\n"
        "before = set(sys.modules)\n"
        "import skl_mmap.monitor\n"
        "print(*(set(sys.modules) - before))\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], check=True, capture_output=True, text=True
    )
    packages = {name.partition(".")[0] for name in result.stdout.split()}
    assert packages <= set(sys.stdlib_module_names) | {"skl_mmap"}


def test_loky_and_joblib_folders_are_counted_in_a_real_run() -> None:
    np = pytest.importorskip("numpy")
    joblib = pytest.importorskip("joblib")
    X = np.ones((2 * MIB,))
    with measure() as report, joblib.parallel_config(backend="loky", n_jobs=2):
        total = joblib.Parallel(max_nbytes=1)(
            joblib.delayed(np.sum)(X) for _ in range(4)
        )
    assert total == [2 * MIB] * 4
    n_shared = report.peak.shared_bytes - report.timeline[0].shared_bytes
    assert n_shared == pytest.approx(X.nbytes, abs=MIB)
