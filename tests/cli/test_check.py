"""Estimators by name, checked with files."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from skl_mmap.cli import main
from skl_mmap.cli._check import loading_estimator
from skl_mmap.cli._command import UsageError
from tests.cli.scripts import write

MODELS = """
import numpy as np
from sklearn.base import BaseEstimator
from helper_of_models import HELP

assert HELP
if __name__ == "__main__":
    raise SystemExit("must not run")


class Copier(BaseEstimator):
    def __init__(self, n_copies=2):
        self.n_copies = n_copies

    def fit(self, X, y=None):
        copies = [X + 1.0 for _ in range(self.n_copies)]
        self.total_ = sum(float(copy.sum()) for copy in copies)
        return self

    def predict(self, X):
        return X[:, 0] * self.total_


class Failing(Copier):
    def fit(self, X, y=None):
        raise ValueError("it cannot be fitted")


def make(): return Copier(n_copies=3)
def needs(value): return Copier()
instance = Copier(n_copies=1)
number = 3
"""

linux = pytest.mark.skipif(
    sys.platform != "linux", reason="copies are counted with /proc"
)


@pytest.fixture
def models(tmp_path: Path) -> Iterator[str]:
    write(tmp_path, "HELP = True", "helper_of_models.py")
    yield write(tmp_path, MODELS, "some_models.py")
    for name in ("some_models", "helper_of_models"):
        sys.modules.pop(name, None)


@pytest.fixture
def data(tmp_path: Path) -> tuple[str, str]:
    X = np.random.default_rng(0).random((5000, 50))
    np.save(tmp_path / "X.npy", X)
    np.save(tmp_path / "y.npy", X[:, 0])
    return str(tmp_path / "X.npy"), str(tmp_path / "y.npy")


@pytest.mark.parametrize(
    ("name", "n_copies"), [("Copier", 2), ("make", 3), ("instance", 1)]
)
def test_classes_functions_and_instances_of_a_file(
    name: str, n_copies: int, models: str
) -> None:
    before = list(sys.path)
    with loading_estimator(f"{models}:{name}") as estimator:
        assert estimator.n_copies == n_copies
    assert sys.path == before


def test_modules_are_imported_also_from_the_current_folder(
    models: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loading_estimator("sklearn.linear_model:Ridge") as estimator:
        assert type(estimator).__name__ == "Ridge"
    monkeypatch.chdir(Path(models).parent)
    with loading_estimator("some_models:instance") as estimator:
        assert estimator.n_copies == 1


def test_a_script_does_not_see_the_arguments_of_this_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "import sys\nfrom sklearn.linear_model import Ridge\nARGV = sys.argv[:]\n"
    path = write(tmp_path, text, "script_with_arguments.py")
    monkeypatch.setattr(sys, "argv", before := ["skl-mmap", "check", "--cv", "5"])
    with loading_estimator(f"{path}:Ridge"):
        module = sys.modules.pop("script_with_arguments")
    assert module.ARGV == [path]
    assert sys.argv == before == ["skl-mmap", "check", "--cv", "5"]


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ("Ridge", "does not say where the estimator is"),
        ("sklearn.linear_model:", "does not say where"),
        ("no_such_module:Ridge", "cannot be imported"),
        ("no/such/file.py:Ridge", "there is no file"),
        ("sklearn.linear_model:Rigde", "has no 'Rigde'"),
        ("{models}:number", "is of type int, which has no method fit"),
        ("{models}:needs", "cannot be called without arguments"),
        ("{folder}/numpy.py:Model", "the name of the module 'numpy'"),
    ],
)
def test_what_is_no_estimator_is_refused_with_the_reason(
    reference: str, message: str, models: str, tmp_path: Path
) -> None:
    write(tmp_path, "Model = 1", "numpy.py")
    named = reference.format(models=models, folder=tmp_path)
    with pytest.raises(UsageError, match=message), loading_estimator(named):
        pass


@linux
def test_copies_and_folds_are_reported(
    models: str, data: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["check", f"{models}:Copier", *data, "--no-suggestions", "--cv", "4"]
    assert main([*command, "--json"]) == 0
    report = json.loads(capfd.readouterr().out)
    fit, predict = report["copies"]["layouts"][0]["methods"]
    assert fit["copies"] == pytest.approx(2.0, abs=0.15)
    assert predict["copies"] == pytest.approx(0.0, abs=0.15)
    folds = report["folds"]["folds"]
    assert len(folds) == 4
    train = folds[0]["train"]
    assert (train["mapped_bytes"], train["copied_bytes"]) == (3750 * 50 * 8, 0)


@linux
def test_more_copies_than_allowed_fail_after_the_report(
    models: str, data: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["check", f"{models}:make", *data, "--methods", "fit", "--no-suggestions"]
    assert main([*command, "--max-copies", "0.5"]) == 1
    output = capfd.readouterr()
    assert output.out.startswith("CopyReport for Copier(n_copies=3)")
    assert "skl-mmap check: error: " in output.err
    assert "fit" in output.err


@linux
def test_a_method_that_fails_is_an_error(
    models: str, data: tuple[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    command = ["check", f"{models}:Failing", data[0], "--methods", "fit"]
    assert main([*command, "--no-suggestions"]) == 1
    assert "it cannot be fitted" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "exit_code", "message"),
    [
        ([], 2, "an estimator and a file with X are needed"),
        (["sklearn.linear_model:Ridge"], 2, "an estimator and a file with X are"),
        (["{ridge}", "no_such.npy"], 2, "no_such.npy cannot be read"),
        (["{ridge}", "{X}", "no_such.npy"], 2, "no_such.npy cannot be read"),
        (["{ridge}", "{X}", "{y}", "--target", "1"], 2, "Leave one of them out"),
        (["{ridge}", "{X}", "--cv", "1"], 2, "at least 2"),
        (["{ridge}", "{X}", "--timeout", "soon"], 2, "is not a number of at least"),
        (["{ridge}", "{X}", "--max-copies", "nan"], 2, "is not a number of at least"),
        (["{ridge}", "{X}", "--layouts", "auto"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_checked_is_explained(
    arguments: list[str],
    exit_code: int,
    message: str,
    data: tuple[str, str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    places = {"ridge": "sklearn.linear_model:Ridge", "X": data[0], "y": data[1]}
    command = [word.format(**places) for word in arguments]
    assert main(["check", *command]) == exit_code
    assert message in capsys.readouterr().err
