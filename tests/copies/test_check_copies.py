"""check_copies and assert_no_copy, as users call them."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import time
import types
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import sklearn.linear_model
from sklearn.base import BaseEstimator, clone
from sklearn.ensemble import RandomForestRegressor
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVR

import skl_mmap
from skl_mmap import CopyReport, assert_no_copy, check_copies
from skl_mmap.copies import Layout, Reason, _prober
from skl_mmap.exceptions import CopyError, InvalidParameterError, MeasurementError
from tests.waiting import PATIENCE_SECONDS, wait_for_end, wait_until

from .switch import Switch

Data = tuple[np.ndarray, np.ndarray]
PACKAGE_FOLDER = Path(skl_mmap.__file__).parents[1]


@pytest.fixture(scope="module")
def report(data: Data) -> CopyReport:
    X, y = data
    return check_copies(Ridge(), X, y)


def test_copies_of_ridge_by_layout(report: CopyReport) -> None:
    assert report.copies("fit") == pytest.approx(1.0, abs=0.1)
    assert report.copies("fit", "float64 C") == report.copies("fit")
    assert report.copies("fit", Layout("float64", "C", "r")) == pytest.approx(
        2.0, abs=0.1
    )
    assert report.copies("predict") == 0.0
    assert report.best("fit") == Layout("float64", "C", "c")
    assert report.same_results == (
        Layout("float64", "C", "c"),
        Layout("float64", "C", "r"),
    )
    assert report.shape == (30_000, 20)
    assert report.n_samples == 30_000


def test_suggestions_are_measured_and_say_what_they_change(report: CopyReport) -> None:
    (parameters,) = report.suggestions
    assert parameters.kind == "parameters"
    assert parameters.code == (
        "estimator.set_params(copy_X=False, fit_intercept=False)"
    )
    assert parameters.after == pytest.approx(0.0, abs=0.1)
    assert parameters.changes_model
    assert parameters.results == "different"
    assert parameters.difference is not None
    assert parameters.difference > 0


def test_text_has_numbers_places_and_advice(report: CopyReport) -> None:
    text = str(report)
    assert text.startswith("CopyReport for Ridge(), X of shape (30,000, 20) float64 C")
    assert "1.00 X  copy asked for" in text
    assert "_preprocess_data" in text
    assert "best layout for fit: float64 C copy-on-write, 1.00 X" in text
    assert "estimator.set_params(copy_X=False, fit_intercept=False)  # fit" in text
    assert "ANOTHER MODEL" in text
    assert "mmap_mode" not in text  # copy-on-write is the default


def test_html_is_one_table_without_scripts(report: CopyReport) -> None:
    html = report._repr_html_()
    assert html.count("<table") == 1
    assert html.count("<tr>") == 5
    assert "<script" not in html
    assert "copy asked for" in html


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_has_a_sentence_and_a_remedy(reason: Reason) -> None:
    assert reason.sentence.format(given="float64", made="float32")
    assert reason.remedy != reason.sentence
    assert pickle.loads(pickle.dumps(reason)) is reason


def test_dict_is_json_and_frame_has_a_row_for_each(report: CopyReport) -> None:
    plain = report.to_dict()
    assert json.loads(json.dumps(plain)) == plain
    assert plain["layouts"][0]["methods"][0]["copies"] == report.copies("fit")
    frame = report.to_frame()
    assert list(frame.method) == ["fit", "predict"] * 2
    assert frame.copies[0] == report.copies("fit")
    assert pickle.loads(pickle.dumps(report)) == report


def test_what_was_not_measured_is_an_error_that_names_what_was(
    report: CopyReport,
) -> None:
    with pytest.raises(InvalidParameterError, match=r"'transform'.*'fit', 'predict'"):
        report.copies("transform")
    with pytest.raises(InvalidParameterError, match="names no layout"):
        report.copies("fit", "float64")


def test_assert_no_copy_of_a_report_names_places_and_remedies(
    report: CopyReport,
) -> None:
    report.assert_no_copy(methods=("predict",))
    report.assert_no_copy(methods=("fit",), max_copies=1.1)
    with pytest.raises(CopyError) as error:
        report.assert_no_copy()
    for words in ("Ridge().fit", "copied X 1.00 times", "_base.py", "copy_X=False"):
        assert words in str(error.value)


@pytest.mark.parametrize("estimator", [Ridge(), RandomForestRegressor(4, max_depth=3)])
def test_advice_can_be_pasted_and_does_what_it_says(estimator: Any, data: Data) -> None:
    X, y = data
    suggestions = check_copies(estimator, X, y, methods=("fit",)).suggestions
    assert suggestions
    for suggestion in suggestions:
        names = {"np": np, "X": X, "estimator": clone(estimator)}
        exec(suggestion.code, names)
        changed = check_copies(
            names["estimator"], names["X"], y, methods=("fit",), suggestions=False
        )
        # In units of the X that was given.
        size = names["X"].nbytes / X.nbytes
        assert size * changed.copies("fit") == pytest.approx(suggestion.after, abs=0.1)
        assert suggestion.after < suggestion.before


@pytest.mark.parametrize("file", ["docs/howto.rst", "pytest_skl_mmap.py"])
def test_what_the_documentation_asserts_is_true(file: str, data: Data) -> None:
    X, y = data
    names = {**vars(sklearn.linear_model), "assert_no_copy": assert_no_copy}
    text = (PACKAGE_FOLDER / file).read_text()
    lines = [line for line in text.splitlines() if " assert_no_copy(" in line]
    calls = [line.strip() for line in lines if not line.strip().startswith("def ")]
    assert calls
    for call in calls:
        exec(call, {**names, "X": X, "y": y})


class _Copying(BaseEstimator):
    """Lives in a test module."""

    def fit(self, X: Any, y: Any = None) -> _Copying:
        self.copy_ = np.array(X)
        return self


def test_assert_no_copy_with_a_class_of_a_test(data: Data) -> None:
    with pytest.raises(CopyError, match=r"_Copying\(\)\.fit copied X 1\.0") as error:
        assert_no_copy(_Copying(), data[0])
    # Nothing that it could be told to do by parameters, which it does not have.
    assert "copy_X" not in str(error.value)
    assert f"copy asked for: {Reason.COPY.remedy}" in str(error.value)
    assert_no_copy(_Copying(), data[0], max_copies=1.2)


def test_class_of_a_module_that_cannot_be_imported(data: Data) -> None:
    module = types.ModuleType("not_to_be_imported")
    module.__file__ = "/not/there/not_to_be_imported.py"
    code = """
    from sklearn.base import BaseEstimator

    class Taking(BaseEstimator):
        def fit(self, X, y=None):
            self.mean_ = helper(X)
            return self

    def helper(X):
        return X[:10].mean()
    """
    exec(textwrap.dedent(code), module.__dict__)
    sys.modules[module.__name__] = module
    try:
        assert_no_copy(module.Taking(), data[0])
    finally:
        del sys.modules[module.__name__]


def test_estimator_that_cannot_be_loaded_is_an_error(data: Data) -> None:
    class Unloadable(BaseEstimator):
        def fit(self, X: Any, y: Any = None) -> Unloadable:
            return self

        def __setstate__(self, state: Any) -> None:
            raise RuntimeError("not in another process")

    with pytest.raises(MeasurementError, match="not in another process"):
        check_copies(Unloadable(), data[0], methods=("fit",))


def test_pipelines_are_measured_and_changed_by_their_steps(data: Data) -> None:
    X, y = data
    pipeline = make_pipeline(StandardScaler(), Ridge())
    found = check_copies(pipeline, X, y, methods=("fit",), n_rows=20_000)
    assert found.n_samples == 20_000
    assert found.copies("fit") == pytest.approx(2.0, abs=0.2)
    assert any("ridge__copy_X=False" in s.code for s in found.suggestions)


def test_timeout_is_a_result(data: Data) -> None:
    start = time.monotonic()
    found = check_copies(
        Switch(fit="hang"), data[0], methods=("fit",), timeout_seconds=0.5, n_rows=9_999
    )
    assert time.monotonic() - start < PATIENCE_SECONDS
    assert found.find("fit").outcome == "timeout"
    with pytest.raises(MeasurementError, match="longer than timeout_seconds"):
        found.copies("fit")


def test_error_of_the_estimator_is_a_result_in_words(data: Data) -> None:
    found = check_copies(Switch(fit="fail"), data[0])
    assert "this cannot be done" in str(found)
    with pytest.raises(MeasurementError, match="this cannot be done"):
        found.assert_no_copy()


def test_small_data_is_said_to_be_too_small() -> None:
    X = np.random.default_rng(0).normal(size=(500, 5))
    found = check_copies(Switch(), X, methods=("fit",), suggestions=False)
    assert any("too small" in note for note in found.notes)


def test_child_of_the_estimator_ends_with_it(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "pid"
    monkeypatch.setenv("SKL_MMAP_TEST_FILE", str(file))
    found = check_copies(
        Switch(fit="leave_child"), data[0], methods=("fit",), suggestions=False
    )
    assert found.find("fit").outcome in ("ok", "timeout")
    assert wait_for_end([int(file.read_text())])


def find_jobs(jobs: list[psutil.Process]) -> bool:
    """Look for the children of servers, and say if there are any."""
    for server in psutil.Process().children():
        jobs.extend(server.children())
    return bool(jobs)


def test_job_ends_when_the_process_that_started_it_is_killed(data: Data) -> None:
    jobs: list[psutil.Process] = []

    def kill() -> None:
        wait_until(lambda: find_jobs(jobs))
        jobs[0].parent().kill()

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        with pytest.raises(MeasurementError, match="has ended or hangs"):
            check_copies(Switch(fit="hang"), data[0], methods=("fit",), n_rows=1000)
    finally:
        thread.join()
    assert wait_for_end([job.pid for job in jobs])


def test_nothing_is_left_when_the_caller_is_killed(tmp_path: Path) -> None:
    program = """
    import os, sys
    import numpy as np
    from skl_mmap import check_copies
    from tests.copies.switch import Switch

    X = np.zeros((1000, 50))
    check_copies(Switch(fit="hang"), X, methods=("fit",), n_rows=1000)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=PACKAGE_FOLDER
    )
    try:
        parent = psutil.Process(process.pid)
        # The server, and the process of the job.
        assert wait_until(lambda: len(parent.children(recursive=True)) == 2)
        children = parent.children(recursive=True)
    finally:
        process.kill()
        process.wait()
    assert wait_for_end([child.pid for child in children])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"methods": "fit"}, "methods='fit' are not names"),
        ({"methods": ()}, "not names of methods"),
        ({"layouts": "some"}, "layouts='some' is unknown"),
        ({"timeout_seconds": 0}, "timeout_seconds=0 is not a time"),
        ({"n_rows": 0}, "n_rows=0 is not a number of rows of X, which has 100"),
        ({"n_rows": 101}, "n_rows=101"),
        ({"y": np.zeros(99)}, "y has 99 values and X has 100 rows"),
        ({"estimator": Ridge}, "Pass an instance"),
        ({"X": np.zeros(5)}, "not a table of numbers"),
        ({"X": np.array([["a"]])}, "not a table of numbers"),
    ],
)
def test_bad_parameters_are_refused(parameters: dict[str, Any], words: str) -> None:
    given = {"estimator": Switch(), "X": np.zeros((100, 2)), **parameters}
    with pytest.raises(InvalidParameterError, match=words):
        check_copies(**given)


def test_elsewhere_it_is_said_that_it_cannot_be_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_prober, "can_remap", lambda: False)
    with pytest.raises(MeasurementError, match="only be measured on Linux"):
        check_copies(Switch(), np.zeros((100, 2)))


def test_deep_needs_memray(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "memray", None)
    with pytest.raises(MeasurementError, match=r"pip install 'skl-mmap\[deep\]'"):
        check_copies(Switch(), np.zeros((100, 2)), deep=True)


def test_deep_names_functions_of_native_code(data: Data) -> None:
    pytest.importorskip("memray")
    found = check_copies(
        LinearSVR(max_iter=2), *data, methods=("fit",), deep=True, suggestions=False
    )
    frames = found.find("fit").native_frames
    assert frames
    assert "_fit_liblinear" in frames[0]
    assert float(frames[0].split()[0]) > 1.9 * data[0].nbytes / 2**20
    assert "memray: " in str(found)


def test_environment_of_the_caller_is_left_alone(report: CopyReport) -> None:
    assert "NUMPY_MADVISE_HUGEPAGE" not in os.environ
