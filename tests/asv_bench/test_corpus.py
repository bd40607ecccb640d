"""Real jobs beside loky: how they are run, compared and shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from corpus import __main__ as command
from corpus import runs, tables
from corpus.data import count_bytes
from corpus.digests import digest, digest_parts
from corpus.jobs import Job, JobError, find_job, select_jobs
from corpus.runs import Cost, Results, ResultsError, Settings
from scipy import sparse

JOBS = select_jobs()
COST = Cost(
    digests={"test_score": "a"},
    data_bytes=100,
    growth_bytes=400,
    interpreter_bytes=100,
    own_bytes=50,
    shared_bytes=100,
    worker_bytes=250,
    n_new_processes=0,
    wall_seconds=2.0,
    other_cores=0.0,
    mapped_bytes=0,
    copied_bytes=0,
    copy_reasons={},
    task_copied_bytes=0,
    task_private_bytes=0,
    notes=[],
)


def make_cost(**changes: Any) -> Cost:
    values = {name: getattr(COST, name) for name in Cost.__slots__}
    return Cost(**{**values, **changes})


def make_job(name: str = "some_job", packages: tuple[str, ...] = ()) -> Job:
    def run(X: Any, y: Any) -> Any:
        """Do something."""
        raise AssertionError("nothing runs here")

    return Job(name, "linear", lambda n_bytes: (None, None), run, packages)


def make_results(ratios: dict[str, float], **changes: Any) -> Results:
    """Return results whose jobs need 4 X under loky, and a share of it under mmap."""
    results = Results(Settings(n_bytes=100))
    results.machine = {"cores": 2, "system": "Linux", "python": "3.13.0"}
    results.machine["versions"] = {"numpy": "2.4.0"}
    for name, ratio in ratios.items():
        ours = make_cost(growth_bytes=int(400 * ratio), interpreter_bytes=0, **changes)
        results.titles[name] = f"A title of {name}"
        results.costs[name] = {"loky": [make_cost(**changes)], "mmap": [ours]}
    return results


def flip_last_bit(array: np.ndarray) -> None:
    array.view(np.uint8)[-1] ^= 1


VALUES: dict[str, Callable[[np.ndarray], Any]] = {
    "array": lambda array: array,
    "number": lambda array: float(array[-1]),
    "columns": lambda array: np.asfortranarray(array.reshape(5, 2)),
    "list": lambda array: [1, array],
    "mapping": lambda array: {"a": None, "b": {"c": array}},
    "masked": lambda array: np.ma.MaskedArray(array, mask=array < 0),
    "objects": lambda array: np.array([None, "a", float(array[-1])], dtype=object),
    "sparse": lambda array: sparse.csr_matrix(array.reshape(5, 2)),
}


@pytest.mark.parametrize("make", VALUES.values(), ids=VALUES)
def test_one_bit_makes_another_digest(make: Callable[[np.ndarray], Any]) -> None:
    array = np.arange(1.0, 11.0)
    before = digest(make(array))
    assert digest(make(array.copy())) == before
    flip_last_bit(array)
    assert digest(make(array)) != before


def test_frames_have_the_digest_of_their_bits_and_names() -> None:
    pd = pytest.importorskip("pandas", minversion="2.1")
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": ["x", "y"]})
    assert digest(frame) == digest(frame.copy())
    assert digest(frame) != digest(frame.rename(columns={"a": "c"}))
    assert digest(frame) != digest(frame.replace({2.0: np.nextafter(2.0, 3.0)}))
    assert digest(frame["a"]) != digest(frame["a"].to_numpy())


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (0.0, -0.0),
        (1, 1.0),
        (np.zeros(4), np.zeros((2, 2))),
        (np.zeros(2), np.zeros(4, np.float32)),
        ([[1], [2]], [[1, 2]]),
        ({"a": 1}, {"b": 1}),
        ("None", None),
    ],
)
def test_values_that_look_alike_have_other_digests(one: Any, other: Any) -> None:
    assert digest(one) != digest(other)


def test_times_are_no_part_of_a_result() -> None:
    scores = {"fit_time": [1.0], "mean_score_time": 2.0, "test_score": np.ones(2)}
    parts = digest_parts(scores)
    assert list(parts) == ["test_score"]
    assert digest_parts({**scores, "fit_time": [3.0]}) == parts
    assert digest([scores]) == digest([{**scores, "fit_time": [3.0]}])


def test_what_cannot_be_compared_is_an_error() -> None:
    with pytest.raises(TypeError, match="holds object"):
        digest_parts({"model": object()})


def test_jobs_are_those_of_many_packages() -> None:
    packages = {package for job in JOBS for package in job.packages} - {"pandas"}
    assert len(JOBS) >= 40
    assert len(packages) >= 8
    assert all(job.title and len(job.title) < 80 for job in JOBS)
    assert find_job("linear", "sgd_array").make is not None


@pytest.mark.parametrize(
    "make", {job.make: None for job in JOBS}, ids=lambda make: make.__name__
)
def test_data_has_the_size_asked_for_and_is_the_same_again(make: Any) -> None:
    if "frame" in make.__name__:
        pytest.importorskip("pandas", minversion="3", reason="its texts are smaller")
    X, y = make(400_000)
    assert count_bytes(X) == pytest.approx(400_000, rel=0.1)
    assert digest([X, y]) == digest(list(make(400_000)))


def test_job_that_is_not_there_is_an_error() -> None:
    with pytest.raises(JobError, match=r"no job named nothing.*sgd_array"):
        select_jobs(["nothing"])


def test_job_without_its_package_is_skipped_with_the_reason() -> None:
    results = Results(Settings())
    job = make_job(packages=("no_such_package_1",))
    assert list(runs.run_jobs([job], ["loky"], results)) == ["some_job"]
    assert results.skipped == {"some_job": job.reason_to_skip}
    line = tables.format_line(tables.JobRow.of(results, "some_job"))
    assert "skipped: not installed (pip install no_such_package_1)" in line


def test_what_is_known_is_not_run_again_and_what_failed_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    fails = True

    def run_once(job: Job, backend: str, settings: Settings) -> Cost:
        asked.append(backend)
        if backend == "mmap" and fails:
            raise runs.CommandError("killed\nValueError: too large")
        return COST

    monkeypatch.setattr(runs, "run_once", run_once)
    path = tmp_path / "results.json"
    results = Results(Settings())
    names = runs.run_jobs(
        [make_job()], runs.BACKENDS, results, lambda: results.save(path)
    )
    assert list(names) == ["some_job"]
    assert asked == ["loky", "threading", "mmap"]
    row = tables.JobRow.of(results, "some_job")
    assert row.problem == "mmap: ValueError: too large"
    assert row.growths == {"loky": 4.0, "threading": 4.0}

    fails = False
    asked.clear()
    again = Results.load(path)
    assert again == results
    list(runs.run_jobs([make_job()], runs.BACKENDS, again))
    assert asked == ["mmap"]
    assert tables.JobRow.of(again, "some_job").problem == ""
    assert again.find_unequal("some_job", "mmap") == []


def test_results_of_other_settings_are_not_gone_on_with() -> None:
    results = Results(Settings())
    results.check_settings(Settings(n_repeats=3))
    with pytest.raises(ResultsError, match="n_bytes was 48000000 and is 1000"):
        results.check_settings(Settings(n_bytes=1000))


def test_job_in_a_process_of_its_own_returns_what_it_returns_here() -> None:
    job = find_job("linear", "sgd_array")
    settings = Settings(n_bytes=4_000_000, n_jobs=2)
    cost = runs.run_once(job, "threading", settings)
    assert cost.digests == digest_parts(job.run(*job.make(settings.n_bytes)))
    assert cost.data_bytes == 4_000_000
    assert cost.own_bytes + cost.shared_bytes + cost.worker_bytes == cost.growth_bytes
    # Two threads in this process have a copy of three quarters of X each.
    assert cost.own_bytes > cost.data_bytes


def test_run_that_takes_too_long_ends_and_says_where_it_was() -> None:
    settings = Settings(n_bytes=4_000_000, n_jobs=2, timeout_seconds=1)
    with pytest.raises(runs.CommandError, match=r"(?s)no result after \d+ s.*File "):
        runs.run_once(find_job("steps", "text_grid"), "threading", settings)


def test_summary_has_the_figures_of_the_records() -> None:
    results = make_results({"a": 0.25, "b": 0.5, "c": 1.5})
    summary = tables.Summary.of(results)
    whole, growth, with_workers, times = summary.list_sentences()
    assert whole.endswith("results equal those of loky bit for bit in 3.")
    assert growth.endswith("median 0.50, at most 0.7 in 2 of 3, worst 1.50 (`c`).")
    # 100, 200 and 600 over 500.
    assert with_workers.endswith("median 0.40, worst 1.20 (`c`).")
    assert times.endswith("median 1.00, worst 1.00 (`a`).")
    assert summary.is_good
    assert summary.rows[0].peak == "0.5 + 1.0 + 2.5"


def test_times_of_a_busy_machine_are_left_out() -> None:
    summary = tables.Summary.of(make_results({"a": 0.5}, other_cores=1.5))
    assert summary.list_sentences()[-1].startswith("Other processes kept 1.5 of 2")
    assert summary.to_table()[1][7] == ""


def test_unequal_result_is_named() -> None:
    results = make_results({"a": 0.5})
    results.costs["a"]["mmap"] = [make_cost(digests={"test_score": "b"})]
    summary = tables.Summary.of(results)
    assert summary.rows[0].problem == "differs: test_score"
    assert "bit for bit in 0." in summary.list_sentences()[0]
    assert not summary.is_good
    results.settings.options["row_order"] = "any"
    assert summary.is_good


def test_table_is_written_for_terminal_page_and_markdown(tmp_path: Path) -> None:
    reasons = {"NOT_BY_ROW": 130, "SEAMS": 1}
    task = {"task_copied_bytes": 80, "task_private_bytes": 120}
    results = make_results({"a": 0.5, "b": 0.75}, copy_reasons=reasons, **task)
    results.skipped["c"] = "not installed"
    results.titles["c"] = "A title"
    summary = tables.Summary.of(results)
    for name in ("table.rst", "table.md"):
        tables.write_table(summary, tmp_path / name)
    rst, markdown = (
        (tmp_path / name).read_text() for name in ("table.rst", "table.md")
    )
    assert rst.count("    * - ") == 4
    assert rst.count("\n      -") == 4 * (len(tables.HEAD) - 1)
    assert "    * - A title of a (`a`)\n      - yes\n      - 4.0\n" in rst
    assert "| a | yes | 4.0 |  | 2.0 | 0.50 | 0.40 | 1.00 |" in markdown
    text = tables.format_text(summary)
    assert "folds 0.8 (not by row), made 1.2" in text
    assert "skipped: not installed" in text
    cost = make_cost(task_copied_bytes=None)
    results.costs["a"]["mmap"] = [cost]
    assert tables.JobRow.of(results, "a").task == "not known"
    for page in (rst, markdown, text):
        assert "median 0.62" in page
        assert "numpy 2.4.0" in page


def test_paragraph_of_a_text_is_replaced(tmp_path: Path) -> None:
    summary = tables.Summary.of(make_results({"a": 0.5}))
    text = f"before\n\n{tables.BEGIN}\nold\n{tables.END}\n\nafter\n"
    found = tables.replace_paragraph(text, summary)
    assert found.startswith("before\n")
    assert found.endswith("\nafter\n")
    assert "old" not in found
    assert "median 0.50" in found
    assert tables.replace_paragraph(found, summary) == found
    with pytest.raises(ValueError, match="no place"):
        tables.replace_paragraph("nothing", summary)


def test_what_is_published_is_what_was_measured() -> None:
    summary = tables.Summary.of(Results.load(command.PUBLISHED))
    assert tables.format_rst(summary) == command.TABLE.read_text(encoding="utf-8")
    readme = command.README.read_text(encoding="utf-8")
    assert tables.replace_paragraph(readme, summary) == readme


@pytest.mark.parametrize("arguments", [["--publish", "--size", "small"], ["nothing"]])
def test_what_makes_no_sense_is_refused(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command.main([*arguments, "--json", str(tmp_path / "a.json")])
    assert "error: " in capsys.readouterr().err


def test_options_are_values() -> None:
    parser = command.make_parser()
    found = parser.parse_args(["--options", "row_order=any", "adopt=true"])
    assert dict(found.options) == {"row_order": "any", "adopt": True}
    with pytest.raises(SystemExit):
        parser.parse_args(["--options", "row_order"])
