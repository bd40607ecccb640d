"""What a report works out: who held the memory, what copies would need, what to do."""

from __future__ import annotations

import dataclasses
import time
from typing import Any

import numpy as np
import pytest
from joblib import Parallel, delayed, parallel_config

import skl_mmap
from skl_mmap.exceptions import MeasurementError
from skl_mmap.memory import Reason
from skl_mmap.monitor import Measurement, Reading, SegmentRecord
from skl_mmap.report import MemoryReport

from .common import (
    FIRST,
    MIB,
    PARENT,
    SCATTERED,
    SCATTERED_TEXT,
    make_call,
    make_full_report,
    make_record,
    make_report,
    make_series,
)


class TestHolders:
    def test_they_add_up_to_the_peak(self) -> None:
        holders = make_full_report().holders
        assert [(h.role, h.n_processes, h.n_bytes // MIB) for h in holders] == [
            ("worker", 2, 140),
            ("shared memory", 0, 100),
            ("this process", 1, 50),
            ("other process", 1, 10),
        ]
        assert sum(holder.n_bytes for holder in holders) == 300 * MIB
        assert holders[0].largest_bytes == 90 * MIB
        assert [holder.before_bytes // MIB for holder in holders] == [0, 0, 50, 0]
        assert list(map(str, holders)) == [
            *("2 workers", "shared memory", "this process", "other process"),
        ]

    def test_nobody_is_known_without_a_peak(self) -> None:
        assert make_report().holders == ()


class TestEstimate:
    def test_mapped_folds_of_tasks_that_run_at_once_are_added(self) -> None:
        # At the peak, after 2 s, the folds of two tasks are there: 80 and 70 MiB.
        assert make_full_report().copying_growth_bytes == (300 + 150 - 50) * MIB

    def test_the_worst_moment_may_be_another_one(self) -> None:
        report = make_full_report()
        late = dataclasses.replace(report.records[0], end_seconds=3.9)
        late = dataclasses.replace(late, seconds=1.0, mapped_bytes=1000 * MIB)
        # No task holds more than all shared arrays, 100 MiB, at once.
        report = dataclasses.replace(report, records=(late,))
        assert report.copying_growth_bytes == (300 - 50) * MIB
        report = dataclasses.replace(report, segments=())
        assert report.copying_growth_bytes == (200 + 1000 - 50) * MIB

    def test_what_was_shared_without_a_copy_is_added(self) -> None:
        adopted = SegmentRecord("X", 40 * MIB, "memory", is_copy=False, inode=(1, 6))
        of_user = SegmentRecord("X", 60 * MIB, "file", is_copy=False, inode=(1, 7))
        report = make_full_report()
        segments = (*report.segments, adopted, of_user)
        report = dataclasses.replace(report, segments=segments)
        assert report.copying_growth_bytes == (300 + 150 + 40 - 50) * MIB

    @pytest.mark.parametrize(
        "given",
        [
            {"method": "uss"},
            {"timeline": ()},
            {"records": ()},
            {"baseline_bytes": None},
        ],
    )
    def test_none_without_what_it_is_made_of(self, given: dict[str, Any]) -> None:
        assert make_full_report(**given).copying_growth_bytes is None


OTHER_FOLDS = "KFold(5, shuffle=True, random_state=0)"


class TestSuggestions:
    """What is advised when; that each line does what it says is in test_advice."""

    @pytest.mark.parametrize(
        ("reason", "call", "code"),
        [
            ("SCATTERED", {}, "X, y, cv = skl_mmap.arrange(X, y, cv=cv)"),
            (
                *("SCATTERED", {"is_classifier": True}),
                "X, y, cv = skl_mmap.arrange(X, y, cv=cv, classifier=True)",
            ),
            (
                *("SCATTERED", {"has_target": False}),
                "X, _, cv = skl_mmap.arrange(X, cv=cv)",
            ),
            (
                *("SCATTERED", {"is_partition": False}),
                f"X, y, cv = skl_mmap.arrange(X, y, cv={OTHER_FOLDS})",
            ),
            ("NOT_BY_ROW", {}, 'X = skl_mmap.share(X, order="C")'),
            (
                *("NOT_BY_ROW", {"n_runs": 500}),
                "X, y, cv = skl_mmap.arrange(X, y, cv=cv)",
            ),
            (
                *("SHORT_RUNS", {"n_runs": 500}),
                "X, y, cv = skl_mmap.arrange(X, y, cv=cv)",
            ),
            ("SEAMS", {}, 'parallel_config("mmap", n_jobs=3, row_order="any")'),
            (
                *("SEAMS", {"options": {"min_bytes": 7}}),
                'parallel_config("mmap", n_jobs=3, min_bytes=7, row_order="any")',
            ),
            ("SEAMS", {"owner": "Memmapped"}, 'model.set_params(row_order="any")'),
        ],
    )
    def test_copied_folds(self, reason: str, call: dict[str, Any], code: str) -> None:
        record = make_record(reasons={reason: 30 * MIB})
        report = make_report(record, calls=(make_call(**call),))
        [suggestion] = report.suggestions
        assert suggestion.code == code
        assert suggestion.reason.startswith("maps folds of 30.0 MiB that were copied")
        assert str(suggestion) == f"{code}  # {suggestion.reason}"
        compile(suggestion.code, "suggestion", "exec")
        [sentence] = report.large_copies
        assert sentence.endswith(f"{Reason[reason].value}. To avoid it: {code}.")

    @pytest.mark.parametrize(
        ("reason", "call"),
        [
            ("SCATTERED", {"is_partition": None}),
            ("SHORT_RUNS", {}),
            ("SEAMS", {"options": {"row_order": "any"}}),
            ("SEAMS", {"can_reorder": False}),
            ("NO_MAPPINGS", {}),
            ("from an older version", {}),
        ],
    )
    def test_nothing_where_nothing_is_known_to_help(
        self, reason: str, call: dict[str, Any]
    ) -> None:
        record = make_record(reasons={reason: 30 * MIB})
        report = make_report(record, calls=(make_call(**call),))
        assert report.suggestions == ()
        assert "To avoid it" not in report.large_copies[0]

    def test_nothing_for_seams_and_reports_without_calls(self) -> None:
        calls = (make_call(),)
        seams = make_record(reasons={SCATTERED: MIB})
        assert make_report(seams, calls=calls).suggestions == ()
        scattered = make_record(reasons={SCATTERED: 30 * MIB})
        assert make_report(scattered).suggestions == ()
        [suggestion] = make_report(make_record(reasons={"SEAMS": 30 * MIB})).suggestions
        assert suggestion.code == 'parallel_config("mmap", n_jobs=4, row_order="any")'

    def test_what_tasks_share_a_copy_of_is_no_copy_of_theirs(self) -> None:
        record = make_record(
            reasons={"SHIFTED": 30 * MIB, "SEAMS": 1}, peak_private_bytes=2 * MIB
        )
        made = SegmentRecord("parts of folds", 20 * MIB, "memory", is_of_folds=True)
        X = SegmentRecord("X", 10 * MIB, "memory")
        calls = (make_call(),)
        report = make_report(record, segments=(made, X), calls=calls, input_bytes=None)
        assert report.large_copies == ()
        assert report.unit_bytes == 10 * MIB
        [task] = report.tasks
        assert (task.copied_bytes, task.own_copied_bytes) == (30 * MIB + 1, 1)
        assert task.private_bytes == 2 * MIB - 1
        [suggestion] = report.suggestions
        assert suggestion.code == 'parallel_config("mmap", n_jobs=3, row_order="any")'
        assert "20.0 MiB" in suggestion.reason

    def test_folds_that_candidates_share_lie_row_by_row_once_arranged(self) -> None:
        record = make_record(reasons={"GATHERED": 30 * MIB})
        made = SegmentRecord("parts of folds", 20 * MIB, "memory", is_of_folds=True)
        X = SegmentRecord("X", 10 * MIB, "memory")
        calls = (make_call(is_partition=True),)
        report = make_report(record, segments=(made, X), calls=calls, input_bytes=None)
        assert report.large_copies == ()
        assert report.tasks[0].own_copied_bytes == 0
        [suggestion] = report.suggestions
        assert "arrange" in suggestion.code
        assert "20.0 MiB" in suggestion.reason

    def test_large_arrays_may_be_adopted(self) -> None:
        made = SegmentRecord("X", 100 * MIB, "memory", is_adoptable=True)
        calls = (make_call(),)
        [suggestion] = make_report(segments=(made,), calls=calls).suggestions
        assert suggestion.code == 'parallel_config("mmap", n_jobs=3, adopt=True)'
        assert "100.0 MiB" in suggestion.reason
        for changes in ({"n_bytes": 31 * MIB}, {"is_adoptable": False}):
            other = dataclasses.replace(made, **changes)  # type: ignore[arg-type]
            assert make_report(segments=(other,), calls=calls).suggestions == ()
        large = make_report(segments=(made,), peak_bytes=2000 * MIB, calls=calls)
        assert large.suggestions == ()
        again = (make_call(options={"adopt": True}),)
        assert make_report(segments=(made,), calls=again).suggestions == ()

    def test_estimators_that_copy_are_looked_at(self) -> None:
        record = make_record(peak_private_bytes=90 * MIB)
        [look] = make_report(record, calls=(make_call(),)).suggestions
        assert look.code == "print(skl_mmap.check_copies(estimator, X, y))"
        converts = {"Ridge": "float32 C"}
        given = {"layouts": "given"}
        calls = (make_call(conversions=converts, options=given),)
        _, layouts = make_report(record, calls=calls).suggestions
        assert layouts.code == 'parallel_config("mmap", n_jobs=3, layouts="auto")'
        assert "where Ridge converts X" in layouts.reason
        calls = (make_call(conversions=converts),)
        assert make_report(record, calls=calls).suggestions == (look,)


class TestUnit:
    def test_the_largest_shared_array_stands_for_x(self) -> None:
        report = make_full_report(input_bytes=None)
        assert report.unit_bytes == 100 * MIB
        assert "  X         100.0 MiB, the largest shared array" in str(report)
        assert make_full_report(input_bytes=7).unit_bytes == 7
        assert make_report(input_bytes=None).unit_bytes is None

    def test_x_of_the_tasks_is_x_however_much_is_shared(self) -> None:
        calls = (make_call(input_bytes=20 * MIB), make_call(input_bytes=30 * MIB))
        report = make_full_report(input_bytes=None, calls=calls)
        assert report.unit_bytes == 30 * MIB
        assert "  X         30.0 MiB\n" in str(report)
        assert make_full_report(input_bytes=7, calls=calls).unit_bytes == 7


def test_text_of_a_full_report() -> None:
    lines = str(make_full_report()).splitlines()
    assert lines[:7] == [
        "Memmapped(Stack): 4.00 s, 4.00 s of CPU time",
        (
            "  peak      300.0 MiB, 250.0 MiB more than before (3 new processes "
            "included), after 2.00 s"
        ),
        (
            "            held by 2 workers 140.0 MiB (the largest 90.0 MiB), shared "
            "memory 100.0 MiB, this process 50.0 MiB (50.0 MiB before), other process "
            "10.0 MiB"
        ),
        (
            "  copying   would have needed about 400.0 MiB more than before (3 new "
            "processes included): an estimate, with the mapped folds of tasks that ran "
            "at the same time as copies"
        ),
        "  X         100.0 MiB",
        "  shared    100.0 MiB: float64 (13107200,), in memory",
        lines[6],
    ]
    assert lines[6].split() == [
        *("task", "times", "mapped", "copied", "private", "seconds"),
    ]
    assert f"  copied    30.0 MiB of folds: {SCATTERED_TEXT}" in lines
    assert any(line.startswith("  try       X, y, cv = skl_mmap.arr") for line in lines)
    assert lines[-3:] == [
        (
            "  cgroup    320.0 MiB private and shared at most, limit 512.0 MiB; 1 "
            "other process included"
        ),
        (
            "  readings  390, one every 10 ms asked for, 0.20 s of CPU time in a "
            "process of 3.0 MiB, not counted above"
        ),
        "  note      so <be> it",
    ]


def test_multiples_of_x_have_no_interpreters_in_them() -> None:
    report = make_full_report()
    assert report.n_new_processes == 3
    assert " X)" not in "".join(str(report).splitlines()[:4])
    # The same workers, warm when the job began.
    processes = tuple(
        make_series(series.pid, 0.0, 5, 5, 5) for series in report.processes
    )
    report = dataclasses.replace(report, processes=processes)
    lines = str(report).splitlines()
    assert report.n_new_processes == 0
    assert "300.0 MiB, 250.0 MiB (2.50 X) more than before, after 2.00 s" in lines[1]
    assert "about 400.0 MiB (4.00 X) more than before: an estimate" in lines[3]
    assert report.holders[0].before_bytes == 10 * MIB


def test_text_of_many_segments_and_of_what_the_kernel_did() -> None:
    report = make_full_report()
    assert report.group is not None
    group = dataclasses.replace(
        report.group, kernel_peak_bytes=400 * MIB, n_others=0, n_kills=2
    )
    own = SegmentRecord("X", 9 * MIB, "file", is_copy=False, path="X.npy")
    small = tuple(SegmentRecord(f"s{i}", MIB, "disk") for i in range(10))
    text = str(dataclasses.replace(report, group=group, segments=(*small, own)))
    assert "9.0 MiB: X, in its own file X.npy, without a copy" in text
    assert "  shared    3.0 MiB: 3 more arrays" in text
    assert "400.0 MiB with page cache" in text
    assert "other process included" not in text
    assert "the kernel has ended 2 processes for want of memory" in text


def sum_rows(X: Any, start: int) -> float:
    time.sleep(0.3)  # so that some reading finds the worker
    return float(X[start:].sum())


class TestMeasurement:
    def test_a_block_is_shown_as_a_report(self) -> None:
        X = np.ones((1 << 18, 8))
        with skl_mmap.measure() as report:
            assert "has not ended yet" in str(report)
            assert report._repr_html_().startswith("<pre>")
            with parallel_config(backend="mmap", n_jobs=2):
                Parallel()(delayed(sum_rows)(X, start) for start in range(4))
        assert isinstance(report, Measurement)
        value = report.report("job", input_bytes=X.nbytes)
        assert isinstance(value, MemoryReport)
        assert (value.title, value.input_bytes) == ("job", X.nbytes)
        assert value.peak_bytes == report.peak_bytes
        assert str(report) == str(report.report())
        assert str(report).startswith("Measured block: ")
        assert repr(report).startswith("<Measurement: peak ")
        assert MemoryReport.from_json(report.to_json()) == report.report()
        assert report._repr_html_() == report.report()._repr_html_()
        assert len(report.to_frame("records")) == len(report.tasks) > 0
        assert value.holders[-1].n_bytes > 0
        own = next(h for h in value.holders if h.role == "this process")
        assert own.before_bytes > 10 * MIB, "it was there when the block began"
        roles = {holder.role for holder in value.holders}
        assert {"this process", "worker", "shared memory"} <= roles
        assert sum(h.n_bytes for h in value.holders) == report.peak_bytes

    def test_a_dead_sampler_leaves_a_report(self) -> None:
        report = Measurement(0.01, "committed", MemoryReport)
        report.take(make_record())
        report.fail("It died.")
        assert "  note      It died." in str(report)
        assert "It died." in report._repr_html_()
        with pytest.raises(MeasurementError, match="no readings over time"):
            report.plot()

    def test_no_report_before_the_end(self) -> None:
        with skl_mmap.measure() as report:
            for name in ("report", "to_json", "to_frame", "plot"):
                with pytest.raises(MeasurementError, match="has not ended yet"):
                    getattr(report, name)()


def test_readings_without_workers() -> None:
    report = make_full_report(records=())
    assert [holder.role for holder in report.holders] == [
        *("other process", "shared memory", "this process"),
    ]
    assert str(report.holders[0]) == "3 other processes"
    assert report.cpu_seconds == 4.0
    assert make_report().cpu_seconds is None
    assert isinstance(report.peak, Reading)
    assert FIRST != PARENT
