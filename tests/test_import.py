"""What importing the package does, and what it leaves for later."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest

import skl_mmap

IMPORT_ALL = """
import importlib, pkgutil
package = importlib.import_module({package!r})
for module in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
    importlib.import_module(module.name)
"""


def list_imported(code: str) -> set[str]:
    """Return the top-level modules that a new interpreter has after running `code`."""
    program = f"{code}\nimport sys; print(*(m for m in sys.modules if '.' not in m))"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=True,
        capture_output=True,
        text=True,
    )
    return set(result.stdout.split())


def test_import_is_light() -> None:
    imported = list_imported("import skl_mmap")
    assert "joblib" in imported
    assert not imported & {"sklearn", "scipy", "loky", "pandas", "rich"}


@pytest.mark.parametrize("package", ["skl_mmap.memory", "skl_mmap.backend"])
def test_module_level_does_not_import_sklearn(package: str) -> None:
    assert "sklearn" not in list_imported(IMPORT_ALL.format(package=package))


def test_command_line_is_light(tmp_path: Path) -> None:
    # Its process stays beside the script that it runs, and is in the report.
    path = tmp_path / "x.npy"
    np.save(path, np.ones((10, 2)))
    program = f"from skl_mmap.cli import main; main(['info', '--json', {str(path)!r}])"
    imported = list_imported(program)
    assert "joblib" in imported
    assert not imported & {"sklearn", "scipy", "loky", "pandas", "pyarrow"}


def test_import_registers_the_backend() -> None:
    program = (
        "import joblib.parallel, skl_mmap; assert 'mmap' in joblib.parallel.BACKENDS"
    )
    assert "joblib" in list_imported(program)


def test_backend_is_made_by_name() -> None:
    with joblib.parallel_config(backend="mmap", n_jobs=1):
        backend, n_jobs = joblib.parallel.get_active_backend()
    assert type(backend).__name__ == "MmapBackend"
    assert n_jobs == 1


def test_unknown_backend_parameter_is_refused() -> None:
    with (
        pytest.raises((TypeError, ValueError), match="no_such_parameter"),
        joblib.parallel_config(backend="mmap", no_such_parameter=1),
    ):
        pass


@pytest.mark.parametrize("name", skl_mmap.__all__)
def test_public_name_resolves(name: str) -> None:
    assert getattr(skl_mmap, name) is getattr(skl_mmap, name)
    assert name in dir(skl_mmap)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="'skl_mmap' has no attribute 'nothing'"):
        _ = skl_mmap.nothing


def test_dir_lists_names_before_they_are_imported() -> None:
    program = f"import skl_mmap; assert set({skl_mmap.__all__}) <= set(dir(skl_mmap))"
    assert "loky" not in list_imported(program)
