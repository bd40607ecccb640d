"""The report of a fit: sums, sentences and words, from records that are known."""

from __future__ import annotations

import copy
import mmap
import pickle
import time

import pytest

from skl_mmap.exceptions import MeasurementError
from skl_mmap.monitor import Measurement
from skl_mmap.report import MemoryReport, TaskCost, measure

from .common import MIB, SCATTERED, SCATTERED_TEXT, make_record, make_report


def test_records_of_one_name_are_one_task() -> None:
    report = make_report(
        make_record("b, fold 10 of 10"),
        make_record("b, fold 2 of 10", reasons={"x": 1, "y": 3}),
        make_record("b, fold 2 of 10", reasons={"y": 4}, mapped_bytes=7),
        make_record("a", attached_bytes=9),
    )
    assert [task.label for task in report.tasks] == [
        *("a", "b, fold 2 of 10", "b, fold 10 of 10"),
    ]
    task = report.tasks[1]
    assert task.n_tasks == 2
    assert task.mapped_bytes == 100 * MIB + 7
    assert task.copied_bytes == 8
    assert task.selected_bytes == task.mapped_bytes + 8
    assert list(task.copy_reasons.items()) == [("y", 7), ("x", 1)]
    assert task.seconds == 1.0
    assert task.estimator == "b"
    assert report.tasks[0].attached_bytes == 9
    assert report.copied_bytes == 8
    assert report.mapped_bytes == 300 * MIB + 7
    assert report.peak_growth_bytes == 250 * MIB


def test_private_memory_is_the_most_beside_copied_folds() -> None:
    cost = TaskCost.from_records(
        "a",
        [
            make_record(peak_private_bytes=50, reasons={"x": 20}),
            make_record(peak_private_bytes=40),
            make_record(peak_private_bytes=None),
        ],
    )
    assert cost.private_bytes == 40
    few = [make_record(peak_private_bytes=5, reasons={"x": 20})]
    assert TaskCost.from_records("a", few).private_bytes == 0
    assert TaskCost.from_records("a", [make_record()]).private_bytes is None
    assert TaskCost.from_records("a", [make_record()]).dirtied_bytes is None
    dirty = [make_record(dirtied_bytes=3), make_record(dirtied_bytes=4)]
    assert TaskCost.from_records("a", dirty).dirtied_bytes == 7


def test_sentences_about_folds_say_how_much_and_why() -> None:
    report = make_report(make_record(reasons={SCATTERED: 30 * MIB}))
    assert report.large_copies == (
        f"Ridge copied 30.0 MiB of folds, up to 23% of one: {SCATTERED_TEXT}.",
    )
    assert report.complaints == report.large_copies, "its older name"


def test_seams_and_small_folds_do_not_matter() -> None:
    seams = make_record(reasons={SCATTERED: 5 * MIB})
    small = make_record("b", reasons={SCATTERED: MIB}, mapped_bytes=0)
    assert make_report(seams, small).large_copies == ()
    larger = make_record(reasons={SCATTERED: 6 * MIB})
    assert len(make_report(larger).large_copies) == 1


@pytest.mark.parametrize(
    ("private_mib", "input_mib", "n_sentences"),
    [(24, 100, 0), (25, 100, 1), (200, None, 0), (7.9, 1, 0), (8, 1, 1)],
)
def test_private_memory_of_a_quarter_of_the_input_matters(
    private_mib: float, input_mib: int | None, n_sentences: int
) -> None:
    record = make_record(peak_private_bytes=int(private_mib * MIB))
    input_bytes = None if input_mib is None else input_mib * MIB
    report = make_report(record, input_bytes=input_bytes)
    assert len(report.large_copies) == n_sentences
    for sentence in report.large_copies:
        share = "25.0 MiB (0.25 X)" if private_mib == 25 else "8.0 MiB (8.00 X)"
        assert f"needed up to {share} of private memory" in sentence
        assert "copy_X=False" in sentence
        assert "wrote" not in sentence


def test_writing_to_the_input_is_told() -> None:
    record = make_record(peak_private_bytes=90 * MIB, dirtied_bytes=80 * MIB)
    [sentence] = make_report(record).large_copies
    assert "wrote to its input" in sentence


def test_lines_that_made_copies_are_named_if_they_are_known() -> None:
    records = [
        make_record(
            "Ridge, fold 1 of 2",
            peak_private_bytes=90 * MIB,
            copy_sites={"a.py:1 fit": 80 * MIB, "b.py:2 small": 5 * MIB},
        ),
        make_record(
            "Ridge, fold 2 of 2",
            peak_private_bytes=90 * MIB,
            copy_sites={"a.py:1 fit": 79 * MIB, "c.py:3 dot": 85 * MIB},
        ),
    ]
    report = make_report(*records)
    [sentence] = report.large_copies
    assert "made at c.py:3 dot (85.0 MiB), a.py:1 fit (80.0 MiB)." in sentence
    assert MemoryReport.from_json(report.to_json()).tasks == report.tasks


def test_there_is_one_sentence_for_each_estimator() -> None:
    records = [
        make_record("a, fold 1 of 2", reasons={SCATTERED: 30 * MIB}),
        make_record("a, fold 2 of 2", reasons={SCATTERED: 50 * MIB}),
        make_record("a, all rows"),
        make_record("b, fold 1 of 2", peak_private_bytes=60 * MIB),
        make_record("", peak_private_bytes=60 * MIB),
    ]
    nameless, of_a, of_b = make_report(*records).large_copies
    assert nameless.startswith("A task needed")
    assert of_a.startswith("a copied 80.0 MiB of folds in 2 of 3 kinds of tasks, up to")
    assert of_b.startswith("b needed")


def test_text_has_all_of_it() -> None:
    record = make_record(reasons={SCATTERED: 30 * MIB}, peak_private_bytes=50 * MIB)
    report = make_report(record, make_record("plain"), notes=("so be it",))
    lines = str(report).splitlines()
    assert lines[0] == "Memmapped(Stack): 1.50 s"
    assert "300.0 MiB, 250.0 MiB (2.50 X) more than before" in lines[1]
    assert "100.0 MiB" in lines[2]
    row = next(line for line in lines if line.startswith("  Ridge, fold 1 of 2"))
    assert row.split()[5:] == [
        "1",
        "100.0",
        "MiB",
        "30.0",
        "MiB",
        "20.0",
        "MiB",
        "0.50",
    ]
    assert "unknown" in next(line for line in lines if "plain" in line)
    assert any(line.startswith("  copies    Ridge copied") for line in lines)
    assert lines[-1] == "  note      so be it"
    assert len({len(line) for line in lines[3:6]}) == 1, "a table"


def test_text_without_what_is_not_known() -> None:
    nothing = {"input_bytes": None, "baseline_bytes": None, "peak_bytes": None}
    report = make_report(**nothing, wall_seconds=None)
    assert report.peak_growth_bytes is None
    assert str(report).splitlines() == [
        "Memmapped(Stack)",
        "  tasks     none that workers of mmap have run",
    ]


def test_long_tables_are_cut() -> None:
    records = [make_record(f"a, fold {i} of 40") for i in range(1, 41)]
    text = str(make_report(*records))
    assert "a, fold 30 of 40" in text
    assert "a, fold 31 of 40" not in text
    assert "and 10 more" in text


def test_reports_are_values() -> None:
    report = make_report(make_record(reasons={SCATTERED: 30 * MIB}), notes=("n",))
    for other in (pickle.loads(pickle.dumps(report)), copy.deepcopy(report)):
        assert other == report
        assert str(other) == str(report)
    assert "records" not in repr(report)
    with pytest.raises(AttributeError):
        report.title = "other"  # type: ignore[misc]


def test_measurements_become_reports() -> None:
    with measure() as measurement:
        # Not from the heap, which may have as much to spare since an earlier test.
        data = mmap.mmap(-1, 20 * MIB, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        data[:: mmap.PAGESIZE] = b"x" * (len(data) // mmap.PAGESIZE)
        time.sleep(0.2)  # for some readings: a shorter peak may be missed
        with pytest.raises(MeasurementError, match="not ended"):
            measurement.report("title", input_bytes=5)
    report = measurement.report("title", input_bytes=5)
    assert report.peak_bytes == measurement.peak_bytes
    assert (report.peak_growth_bytes or 0) > 0.9 * len(data)
    assert report.wall_seconds == measurement.wall_seconds
    assert (report.title, report.input_bytes) == ("title", 5)


def test_failed_measurements_become_reports_without_a_peak() -> None:
    measurement = Measurement(0.01, "committed", MemoryReport)
    measurement.take(make_record())
    measurement.fail("It died.")
    report = measurement.report("title")
    assert report.peak_bytes is report.baseline_bytes is report.wall_seconds is None
    assert report.notes == ("It died.",)
    assert report.mapped_bytes == 100 * MIB
