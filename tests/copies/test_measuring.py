"""What is found out about an estimator that does a known thing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import Lasso, LinearRegression, Ridge, SGDRegressor
from sklearn.neighbors import KNeighborsRegressor
from sklearn.svm import LinearSVR

from skl_mmap.copies import Layout, MethodCopies, Prober
from tests.versions import IS_BEFORE_SCIPY_1_18, IS_BEFORE_SKLEARN_1_8

from .conftest import GIVEN, READ_ONLY

LASSO = (2.0, {"order", "temporary"}) if IS_BEFORE_SKLEARN_1_8 else (1.0, {"order"})
# What was copied first counts where lstsq copies in native code.
LSTSQ = "linear algebra" if IS_BEFORE_SCIPY_1_18 else "writeability"


def measure(
    prober: Prober,
    layout: Layout = GIVEN,
    methods: tuple[str, ...] = ("fit",),
    **parameters: Any,
) -> MethodCopies:
    answers = prober.measure(layout, methods, parameters=parameters)
    return list(answers.values())[-1].copies


@pytest.mark.parametrize(
    ("what", "copies", "reason", "content"),
    [
        ("copy", 1.0, "copy asked for", "X as float64 C"),
        ("kept_copy", 1.0, "copy asked for", "X as float64 C"),
        ("center", 1.0, "centering", "centered X as float64 C"),
        ("scale", 1.0, "scaling", "scaled X as float64 C"),
        ("square", 1.0, "temporary", ""),
        ("rows", 0.5, "row subset", "rows of X as float64 C"),
        ("convert", 0.5, "dtype", "X as float32 C"),
        ("reorder", 1.0, "order", "X as float64 F"),
        ("thread", 1.0, "copy asked for", "X as float64 C"),
    ],
)
def test_copy_is_found_with_its_reason(
    prober: Prober, what: str, copies: float, reason: str, content: str
) -> None:
    found = measure(prober, fit=what)
    assert found.copies == pytest.approx(copies, abs=0.1)
    assert found.reasons[0] == reason
    assert found.sites[0].content == content
    assert found.sites[0].copies == pytest.approx(copies, abs=0.1)
    assert found.sites[0].is_at_peak
    assert found.written_bytes == 0


def test_site_is_the_line_that_copies(prober: Prober) -> None:
    (site,) = measure(prober, fit="copy").sites
    path = Path(site.file)
    assert path.name == "switch.py"
    assert site.function == "do_copy"
    assert path.read_text().splitlines()[site.line - 1].strip() == "copy = X.copy()"


def test_site_in_a_library_names_the_estimators_own_line(prober: Prober) -> None:
    (site,) = measure(prober, fit="convert").sites
    assert site.function == "check_array"
    assert "switch.py" in site.through
    assert site.through.endswith("do_convert")


@pytest.mark.parametrize(
    "what",
    [
        *("nothing", "vectors", "square_matrix", "buffer", "untouched"),
        *("native_vectors", "print", "view"),
    ],
)
def test_what_is_no_copy_is_no_alarm(prober: Prober, what: str) -> None:
    found = measure(prober, fit=what)
    assert found.outcome == "ok"
    assert found.copies is not None
    assert found.copies < 0.05
    assert found.sites == ()


def test_peak_has_all_memory_in_it(prober: Prober) -> None:
    found = measure(prober, fit="vectors")
    assert found.peak_bytes is not None
    assert found.peak_bytes == pytest.approx(60 * 8 * found.n_samples, rel=0.1)


def test_native_copy_is_told_from_numpy(prober: Prober) -> None:
    found = measure(prober, fit="native")
    assert found.copies == pytest.approx(1.0, abs=0.1)
    assert found.native_copies == pytest.approx(1.0, abs=0.1)
    (site,) = found.sites
    assert site.reason == "native"
    assert site.function == "do_native"
    assert site.file.endswith("switch.py")


def test_writing_in_place_costs_pages_of_the_mapping(prober: Prober) -> None:
    found = measure(prober, fit="write_in_place")
    assert found.written_bytes == pytest.approx(found.input_bytes, rel=0.01)
    assert found.copies == pytest.approx(1.0, abs=0.1)
    assert "written in place" in found.reasons


def test_writing_to_read_only_input_is_an_error_of_the_estimator(
    prober: Prober,
) -> None:
    found = measure(prober, READ_ONLY, fit="write_in_place")
    assert found.outcome == "error"
    assert found.copies is None
    assert "read-only" in found.message


def test_read_only_input_that_is_to_be_written_to_is_copied(prober: Prober) -> None:
    found = measure(prober, READ_ONLY, fit="want_to_write")
    assert found.copies == pytest.approx(1.0, abs=0.1)
    assert found.reasons == ("writeability",)
    assert measure(prober, fit="want_to_write").copies == 0.0


def test_decomposition_works_on_a_copy(prober: Prober) -> None:
    found = measure(prober, fit="decompose")
    assert found.copies is not None
    assert found.copies >= 0.9
    assert "linear algebra" in found.reasons


def test_views_that_are_kept_are_named(prober: Prober) -> None:
    assert measure(prober, fit="view").keeps_view == ("parts_['all'][0]",)
    assert measure(prober, fit="kept_copy").keeps_view == ()


def test_views_of_many_parts_are_named_once(prober: Prober) -> None:
    names = ("leaves_[...]['center']", "leaves_[...]['sum']")
    assert measure(prober, fit="views").keeps_view == names


def test_result_of_a_method_is_no_copy(prober: Prober) -> None:
    found = measure(prober, methods=("fit", "predict"), predict="same")
    assert found.output_bytes == found.input_bytes
    assert found.copies == 0.0


def test_each_method_has_its_own_numbers(prober: Prober) -> None:
    found = measure(prober, methods=("fit", "predict"), predict="copy")
    assert (found.method, found.reasons) == ("predict", ("copy asked for",))
    answers = prober.measure(GIVEN, ("fit", "predict"), parameters={"predict": "copy"})
    assert [answer.copies.copies for answer in answers.values()] == [0.0, 1.0]


def test_method_that_is_missing_is_said(prober: Prober) -> None:
    assert measure(prober, methods=("fit", "transform")).outcome == "missing"


def test_method_can_be_measured_without_fit(prober: Prober) -> None:
    found = measure(prober, methods=("predict",), fit="kept_copy", predict="copy")
    assert found.copies == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("what", "outcome", "words"),
    [
        ("fail", "error", "ValueError: this cannot be done"),
        ("exit", "crash", "exit code 3"),
        ("kill", "crash", "killed by SIGKILL"),
    ],
)
def test_fit_that_fails_is_a_result(
    prober: Prober, what: str, outcome: str, words: str
) -> None:
    answers = prober.measure(GIVEN, ("fit", "predict"), parameters={"fit": what})
    fit, predict = (answer.copies for answer in answers.values())
    assert fit.outcome == outcome
    assert words in fit.message
    assert (predict.outcome, predict.copies) == ("not run", None)
    # And the next one is measured as if nothing had been.
    assert measure(prober, fit="copy").copies == pytest.approx(1.0, abs=0.1)


def test_last_words_of_a_crash_are_told(prober: Prober) -> None:
    assert "last words of the estimator" in measure(prober, fit="exit").message


def test_crash_in_predict_does_not_lose_fit(prober: Prober) -> None:
    answers = prober.measure(
        GIVEN,
        ("fit", "predict", "transform"),
        parameters={"fit": "copy", "predict": "kill"},
    )
    outcomes = [answer.copies.outcome for answer in answers.values()]
    assert outcomes == ["ok", "crash", "missing"]
    assert answers["fit"].copies.copies == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize(
    ("estimator", "layout", "copies", "reasons"),
    [
        (Ridge(), READ_ONLY, 2.0, {"writeability", "copy asked for"}),
        (Ridge(), GIVEN, 1.0, {"copy asked for"}),
        (LinearRegression(), READ_ONLY, 2.0, {"copy asked for", LSTSQ}),
        (Lasso(alpha=0.1), READ_ONLY, *LASSO),
        (KNeighborsRegressor(), READ_ONLY, 0.0, set()),
        (LinearSVR(max_iter=10), READ_ONLY, 2.0, {"native"}),
    ],
)
def test_known_values(
    prober: Prober,
    estimator: Any,
    layout: Layout,
    copies: float,
    reasons: set[str],
) -> None:
    found = measure(prober, layout, estimator=estimator)
    assert found.copies == pytest.approx(copies, abs=0.15)
    at_peak = {site.reason for site in found.sites if site.is_at_peak}
    assert at_peak == reasons


def test_layouts_are_those_asked_for(data: tuple[np.ndarray, np.ndarray]) -> None:
    X, y = data
    model = SGDRegressor(max_iter=3)
    with Prober(model, X, y, layout=GIVEN, methods=("fit",), n_rows=20_000) as prober:
        read_only = prober.measure(READ_ONLY)["fit"].copies
        columns = prober.measure(Layout("float64", "F"))["fit"].copies
    assert (read_only.layout, columns.layout) == (READ_ONLY, Layout("float64", "F"))
    assert read_only.copies == pytest.approx(0.0, abs=0.1)
    assert columns.copies == pytest.approx(1.0, abs=0.1)
    assert columns.reasons == ("order",)
