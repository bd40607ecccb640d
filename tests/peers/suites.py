"""Which suites are run, how, and what of them is left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

__all__ = ["SUITES", "LeftOut", "Suite"]


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Tests that are not run, on any backend.

    Attributes
    ----------
    pattern : str
        The end of a test's id, after the folder; "*" stands for anything.
    reason : str
        Why the comparison loses nothing.
    """

    pattern: str
    reason: str


@dataclass(frozen=True, slots=True)
class Suite:
    """Test modules of one project that are run together.

    Attributes
    ----------
    name : str
        Of the suite here.
    modules : tuple of str
        Importable names of test modules or packages.
    mode : {"default", "forced"}
        How the backend gets to run the suite's tasks, see `plugin`.
    min_submits : int
        With fewer batches submitted, the suite did not test the backend.
    left_out : tuple of LeftOut
        Tests that are not run.
    """

    name: str
    modules: tuple[str, ...]
    mode: Literal["default", "forced"]
    min_submits: int
    left_out: tuple[LeftOut, ...] = ()


_SAME_FOREST = "runs the code of the random forests, whose tests are run"
_FIRST_ERROR = (
    "several tasks fail, and it expects the error of one of them: on both backends it "
    "depends on which ends first"
)

_SUITES = (
    Suite(
        "joblib",
        ("joblib.test.test_parallel", "joblib.test.test_config"),
        "default",
        min_submits=1000,
    ),
    Suite("calibration", ("sklearn.tests.test_calibration",), "forced", 500),
    Suite("compose", ("sklearn.compose",), "forced", 500),
    Suite(
        "ensemble",
        # The modules that are not here call no backend: boosting is sequential, and its
        # histograms use threads.
        (
            "sklearn.ensemble.tests.test_bagging",
            "sklearn.ensemble.tests.test_common",
            "sklearn.ensemble.tests.test_forest",
            "sklearn.ensemble.tests.test_iforest",
            "sklearn.ensemble.tests.test_stacking",
            "sklearn.ensemble.tests.test_voting",
        ),
        "forced",
        min_submits=3000,
        left_out=(
            LeftOut("/test_forest.py::*ExtraTrees*]", _SAME_FOREST),
            LeftOut("/test_forest.py::*RandomTreesEmbedding*]", _SAME_FOREST),
            LeftOut(
                "/test_forest.py::test_parallel_train",
                "takes minutes: asks for up to 32 threads, which here are processes",
            ),
        ),
    ),
    Suite("feature_selection", ("sklearn.feature_selection",), "forced", 2000),
    Suite(
        "inspection",
        # test_partial_dependence takes minutes to submit the trees of forests, as
        # test_forest does; the other modules call no backend.
        (
            "sklearn.inspection.tests.test_permutation_importance",
            "sklearn.inspection._plot.tests.test_plot_partial_dependence",
        ),
        "forced",
        min_submits=50,
    ),
    Suite(
        "model_selection",
        ("sklearn.model_selection",),
        "forced",
        min_submits=4000,
        left_out=(
            LeftOut("/test_validation.py::test_learning_curve_params", _FIRST_ERROR),
            LeftOut(
                "/test_validation.py::test_cross_val_predict_decision_function_shape",
                _FIRST_ERROR,
            ),
        ),
    ),
    Suite("multiclass", ("sklearn.tests.test_multiclass",), "forced", 250),
    Suite("multioutput", ("sklearn.tests.test_multioutput",), "forced", 200),
    Suite("pipeline", ("sklearn.tests.test_pipeline",), "forced", 150),
)

SUITES = {suite.name: suite for suite in _SUITES}
