"""Reports as HTML, picture, JSON and data frames."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skl_mmap.exceptions import (
    FileFormatError,
    InvalidParameterError,
    MeasurementError,
)
from skl_mmap.report import MemoryReport
from skl_mmap.report._picture import color_of, find_ticks, make_chart

from .common import (
    FIRST,
    MIB,
    PARENT,
    SCATTERED_TEXT,
    SECOND,
    make_full_report,
    make_record,
    make_report,
    make_series,
)

OTHER_VALUES = (None, True, 1, 0.5, "text", [], [1], {}, {"a": 1}, [{}])


def list_places(content: Any) -> Iterator[tuple[Any, ...]]:
    """List all places in what JSON holds, but the version that is looked at first."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in items:
        if key not in ("kind", "schema"):
            yield (key,)
            if isinstance(value, dict | list):
                yield from ((key, *rest) for rest in list_places(value))


class TestJson:
    @pytest.mark.parametrize(
        "report",
        [
            make_full_report(),
            make_report(make_record(), baseline_bytes=None, peak_bytes=None),
            make_report(title='{"', notes=("ü\n", "b")),
        ],
        ids=["full", "no_peak", "odd_text"],
    )
    def test_round_trip(self, report: MemoryReport, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        text = report.to_json(path)
        for source in (text, path, str(path)):
            again = MemoryReport.from_json(source)
            assert again == report
            assert type(again.timeline) is type(report.timeline)
            assert [r.end_seconds for r in again.records] == [
                r.end_seconds for r in report.records
            ]
            assert str(again) == str(report)
        assert json.loads(text)["schema"] == 1

    def test_numbers_of_numpy(self) -> None:
        report = make_report(make_record(mapped_bytes=np.int64(5)))
        assert MemoryReport.from_json(report.to_json()).records[0].mapped_bytes == 5

    def test_what_is_not_known_is_left_out(self) -> None:
        content = json.loads(make_full_report().to_json())
        content["later"] = 1
        content["records"][0]["layout"] = {"dtype": "float32"}
        assert MemoryReport.from_json(json.dumps(content)) == make_full_report()

    def test_what_was_added_later_may_be_missing(self) -> None:
        content = json.loads(make_report(make_record()).to_json())
        for name in ("segments", "group", "sampling", "timeline"):
            del content[name]
        assert MemoryReport.from_json(json.dumps(content)) == make_report(make_record())

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"schema": 2}, r"newer version of skl_mmap \(schema 2, .*knows 1\)"),
            ({"schema": "1"}, "schema='1', which is not a version of reports"),
            ({"schema": 0}, "schema=0, which is not a version of reports"),
            ({"kind": "other"}, "is not a memory report"),
            ({"records": 5}, "lacks what one has"),
            ({"timeline": [{"seconds": 1}]}, "lacks what one has"),
        ],
    )
    def test_other_contents(self, changes: dict[str, Any], message: str) -> None:
        content = {**json.loads(make_full_report().to_json()), **changes}
        with pytest.raises(FileFormatError, match=message):
            MemoryReport.from_json(json.dumps(content))

    @given(st.data())
    def test_values_of_a_wrong_type_are_refused(self, data: st.DataObject) -> None:
        content = json.loads(make_full_report().to_json())
        places = list(list_places(content))
        *path, last = data.draw(st.sampled_from(places), label="place")
        owner = content
        for key in path:
            owner = owner[key]
        before = owner[last]
        others = [v for v in OTHER_VALUES if type(v) is not type(before)]
        owner[last] = data.draw(st.sampled_from(others), label="value")
        try:
            report = MemoryReport.from_json(json.dumps(content))
        except FileFormatError:
            return
        if "options" in path:  # whose values are of several types
            return
        # What may be missing, and whole numbers for others, are as good as before.
        assert owner[last] is None or type(before) in (float, type(None))
        for show in (str, MemoryReport._repr_html_, MemoryReport.to_json):
            show(report)
        report.to_frame("records")

    def test_other_files(self, tmp_path: Path) -> None:
        path = tmp_path / "report.json"
        path.write_text("no JSON")
        with pytest.raises(FileFormatError, match=r"report\.json is not JSON"):
            MemoryReport.from_json(path)
        path.write_text("[1]")
        with pytest.raises(
            FileFormatError, match=r"report\.json is not a memory report"
        ):
            MemoryReport.from_json(path)
        with pytest.raises(FileNotFoundError):
            MemoryReport.from_json(tmp_path / "missing.json")

    def test_numbers_that_json_has_not_are_no_numbers(self) -> None:
        report = make_report(make_record(seconds=float("nan")))
        with pytest.raises(ValueError, match="JSON"):
            report.to_json()


class TestFrames:
    def test_tasks(self) -> None:
        frame = make_full_report().to_frame()
        assert list(frame["label"]) == [
            *("Lasso", "Ridge, fold 1 of 2", "Ridge, fold 2 of 2"),
        ]
        assert list(frame["estimator"]) == ["Lasso", "Ridge", "Ridge"]
        assert list(frame["reason"]) == ["", "", SCATTERED_TEXT]
        assert frame["copied_bytes"].sum() == 30 * MIB

    @pytest.mark.parametrize(
        ("what", "n_rows", "column", "first"),
        [
            ("records", 3, "end_seconds", 2.5),
            ("timeline", 5, "committed_bytes", 50 * MIB),
            ("processes", 13, "role", "this process"),
            ("segments", 1, "place", "memory"),
        ],
    )
    def test_parts(self, what: str, n_rows: int, column: str, first: object) -> None:
        frame = make_full_report().to_frame(what)
        assert len(frame) == n_rows
        assert frame[column].iloc[0] == first
        empty = make_report().to_frame(what)
        assert len(empty) == 0
        assert list(empty.columns) == list(frame.columns)

    def test_unknown_part(self) -> None:
        with pytest.raises(InvalidParameterError, match="what='folds'"):
            make_report().to_frame("folds")

    def test_pandas_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "pandas", None)
        with pytest.raises(ImportError, match=r"skl-mmap\[tables\]"):
            make_report().to_frame()


class TestChart:
    def test_layers_add_up_to_what_was_committed(self) -> None:
        chart = make_chart(make_full_report())
        assert chart.seconds == (0.0, 1.0, 2.0, 3.0, 4.0)
        assert [layer.label for layer in chart.layers] == [
            *("shared memory", "this process"),
            *(f"worker {FIRST}", f"worker {SECOND}", "python 13"),
        ]
        assert chart.layers[0].n_bytes == tuple(n * MIB for n in (0, 100, 100, 100, 0))
        assert chart.layers[2].n_bytes == tuple(n * MIB for n in (0, 30, 90, 20, 0))
        assert chart.totals[2] == 300 * MIB

    def test_bars_are_the_tasks_in_rows_of_workers(self) -> None:
        bars = make_chart(make_full_report()).bars
        assert [(b.begin_seconds, b.end_seconds, b.row) for b in bars] == [
            *((1.25, 2.25, 0), (1.0, 2.5, 1), (2.75, 3.5, 1)),
        ]
        assert make_chart(make_full_report(records=())).n_rows == 0

    def test_cores_in_use(self) -> None:
        chart = make_chart(make_full_report())
        assert chart.cpu_seconds == (1.0, 2.0, 3.0, 4.0)
        assert chart.cores == (0.5, 1.5, 1.5, 0.5)

    def test_small_processes_of_a_large_tree_are_taken_together(self) -> None:
        many = tuple(make_series(100 + i, 0.0, 20 - i, 0) for i in range(20))
        chart = make_chart(make_full_report(processes=many, records=()))
        assert len(chart.layers) == 12
        assert chart.layers[-1].label == "10 smaller processes"
        assert chart.layers[-1].n_bytes[0] == sum(range(1, 11)) * MIB

    def test_moments_take_the_nearest_reading(self) -> None:
        processes = (make_series(PARENT, 0.4, 50, 50), make_series(FIRST, 3.6, 1))
        chart = make_chart(make_full_report(processes=processes))
        assert chart.seconds == (0.4, 1.4, 3.6)
        assert chart.layers[0].n_bytes == (0, 100 * MIB, 0)

    def test_nothing_to_draw(self) -> None:
        with pytest.raises(MeasurementError, match="no readings over time"):
            make_chart(make_report())

    @pytest.mark.parametrize(
        ("largest", "base", "expected"),
        [
            (7.9, 10, [0, 2, 4, 6]),
            (0.9, 10, [0, 0.2, 0.4, 0.6, 0.8]),
            (20, 10, [0, 5, 10, 15, 20]),
            (300 * MIB, 2, [n * MIB for n in (0, 64, 128, 192, 256)]),
            (0, 10, [0]),
        ],
    )
    def test_ticks_are_round(
        self, largest: float, base: int, expected: list[float]
    ) -> None:
        assert find_ticks(largest, base=base) == pytest.approx(expected)

    def test_neighbours_have_other_colours(self) -> None:
        chart = make_chart(make_full_report())
        colors = [color_of(chart, i) for i in range(len(chart.layers))]
        assert len(set(colors)) == len(colors)


class _Checker(HTMLParser):
    """Notes tags that are not closed, and anything that is fetched or run."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.text = ""
        self.tags: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.add(tag)
        assert not {"src", "href", "onload", "onclick"} & {name for name, _ in attrs}

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def check_html(report: MemoryReport) -> _Checker:
    checker = _Checker()
    checker.feed(report._repr_html_())
    checker.close()
    assert checker.open == []
    assert not checker.tags & {"script", "link", "iframe", "img", "object"}
    return checker


class TestHtml:
    def test_it_is_whole_and_needs_nothing_else(self) -> None:
        report = make_full_report()
        checker = check_html(report)
        assert "svg" in checker.tags
        for text in (
            "Memmapped(Stack): 4.00 s",
            "300.0 MiB, 250.0 MiB more than before (3 new processes included)",
            "2 workers 140.0 MiB",
            "250.0 MiB (2.50 X) mapped, 30.0 MiB (0.30 X) copied",
            "float64 (13107200,), in memory",
            "X, y, cv = skl_mmap.arrange(X, y, cv=cv)",
            "Ridge, fold 2 of 2",
            SCATTERED_TEXT,
            "so <be> it",
            "limit 512.0 MiB",
            *report.large_copies,
        ):
            assert text in checker.text

    def test_the_picture_is_xml_and_stays_within_its_frame(self) -> None:
        html = make_full_report()._repr_html_()
        start, stop = html.index("<svg"), html.index("</svg>") + len("</svg>")
        picture = ElementTree.fromstring(html[start:stop])
        _, _, width, height = map(float, picture.attrib["viewBox"].split())
        name = "{http://www.w3.org/2000/svg}"
        areas = picture.findall(f"{name}polygon")
        assert len(areas) == 5
        for area in areas:
            for point in area.attrib["points"].split():
                x, y = map(float, point.split(","))
                assert 0 <= x <= width
                assert 0 <= y <= height
        assert len(picture.findall(f"{name}rect")) == 3
        texts = [text.text for text in picture.findall(f"{name}text")]
        assert "before: 50.0 MiB" in texts
        assert "with copies (estimate): 450.0 MiB" in texts

    @pytest.mark.parametrize(
        "given",
        [
            {"records": ()},
            {"segments": (), "group": None, "sampling": None, "notes": ()},
            {"timeline": (), "processes": (), "peak": None},
            {"input_bytes": None, "baseline_bytes": None, "peak_bytes": None},
        ],
    )
    def test_parts_may_be_missing(self, given: dict[str, Any]) -> None:
        check_html(make_full_report(**given))

    def test_names_are_text(self) -> None:
        report = make_full_report(title="<script>alert(1)</script>")
        record = dataclasses.replace(report.records[0], label="<script>&")
        checker = check_html(dataclasses.replace(report, records=(record,)))
        assert "<script>&" in checker.text

    def test_long_tables_are_cut(self) -> None:
        records = [make_record(f"a, fold {i} of 250") for i in range(1, 251)]
        text = check_html(make_report(*records)).text
        assert "a, fold 200 of 250" in text
        assert "a, fold 201 of 250" not in text
        assert "and 50 more" in text


class TestPlot:
    @pytest.fixture(autouse=True)
    def close(self) -> Iterator[None]:
        matplotlib = pytest.importorskip("matplotlib")
        matplotlib.use("Agg")
        from matplotlib import font_manager, pyplot

        yield
        pyplot.close("all")
        font_manager._get_font.cache_clear()  # it keeps the files of fonts open

    def test_memory_tasks_and_cpu_use(self, tmp_path: Path) -> None:
        figure = make_full_report().plot()
        memory, tasks, cpu = figure.axes
        labels = [text.get_text() for text in memory.get_legend().get_texts()]
        assert labels == [
            *("shared memory", "this process", "worker 11", "worker 12", "python 13"),
            *("before", "with copies (estimate)"),
        ]
        highest = max(
            path.vertices[:, 1].max()
            for area in memory.collections
            for path in area.get_paths()
        )
        assert highest == pytest.approx(300)
        assert len(tasks.patches) == 3
        assert list(cpu.lines[0].get_ydata()) == [0.5, 1.5, 1.5, 0.5]
        figure.savefig(tmp_path / "report.png", dpi=40)
        assert (tmp_path / "report.png").stat().st_size > 1000

    def test_without_tasks(self) -> None:
        figure = make_full_report(records=()).plot()
        assert len(figure.axes[1].patches) == 0

    def test_matplotlib_is_named(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
        with pytest.raises(ImportError, match=r"skl-mmap\[plot\]"):
            make_full_report().plot()
