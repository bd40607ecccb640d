"""The code of README.md and of docs/ runs: each block of a page after the one before.

Warnings are errors here as in all tests. What a page takes for granted is in `GIVEN`,
and sizes that only show in a measurement are made smaller. Tests and benchmarks on a
page are defined and not run: tests/test_pytest_plugin.py and tests/test_asv.py do that.
"""

from __future__ import annotations

import functools
import re
import shlex
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.ensemble import (
    HistGradientBoostingRegressor,
    RandomForestRegressor,
    StackingRegressor,
)
from sklearn.linear_model import Lasso, Ridge, SGDRegressor
from sklearn.model_selection import (
    GridSearchCV,
    KFold,
    StratifiedKFold,
    cross_val_predict,
    cross_val_score,
)
from sklearn.neighbors import KNeighborsRegressor
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import skl_mmap
from skl_mmap.cli import make_parser

pytest.importorskip("pandas", minversion="2.1")
pa = pytest.importorskip("pyarrow")
# After pyarrow is known to be there, which it needs.
from tests.files import load_common  # noqa: E402

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.rst"))]
# Larger than min_bytes, so that it is shared: 1.2 MiB.
N_ROWS, N_COLUMNS = 8000, 20
GIVEN = {
    "GridSearchCV": GridSearchCV,
    "HistGradientBoostingRegressor": HistGradientBoostingRegressor,
    "KFold": KFold,
    "KNeighborsRegressor": KNeighborsRegressor,
    "Lasso": Lasso,
    "PCA": PCA,
    # Ten trees take as long as all the rest.
    "RandomForestRegressor": functools.partial(RandomForestRegressor, n_estimators=3),
    "Ridge": Ridge,
    "SGDRegressor": SGDRegressor,
    "StackingRegressor": StackingRegressor,
    "StandardScaler": StandardScaler,
    "StratifiedKFold": StratifiedKFold,
    "cross_val_predict": cross_val_predict,
    "cross_val_score": cross_val_score,
    "est": Ridge(),
    "make_pipeline": make_pipeline,
    "grid": {"alpha": [0.1, 1.0]},
    "pytest": pytest,
}
SMALLER = {"1_000_000": f"{N_ROWS:_}"}


def find_blocks(page: Path) -> list[tuple[int, str]]:
    """Return the blocks of Python of a page, and the line on which each begins."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        pattern = r"^```python\n(.*?)^```"
    else:
        pattern = r"^\.\. code-block:: python\n\n((?:(?: {4}.*)?\n)+)"
    found = re.finditer(
        pattern, text, re.MULTILINE | re.DOTALL * (page.suffix == ".md")
    )
    return [
        (text.count("\n", 0, match.start(1)), textwrap.dedent(match[1]))
        for match in found
    ]


WITH_BLOCKS = [page for page in PAGES if find_blocks(page)]


def make_data() -> dict[str, Any]:
    """Return X and a y that is both a number and a class."""
    random = np.random.default_rng(0)
    X = random.standard_normal((N_ROWS, N_COLUMNS))
    return {"X": X, "X_new": X[:10], "y": (X[:, 0] > 0).astype(int)}


def write_files(folder: Path) -> None:
    data = make_data()
    np.save(folder / "X.npy", data["X"])
    np.save(folder / "y.npy", data["y"])
    columns = {f"x{number}": column for number, column in enumerate(data["X"].T)}
    columns |= {"age": data["X"][:, 1], "income": data["X"][:, 2]}
    columns |= dict.fromkeys(("y", "delay", "bought"), data["y"])
    load_common.write_table(pa.table(columns), folder / "train.parquet")
    load_common.write_table(pa.table(columns)[:100], folder / "train.csv.gz")


@pytest.fixture
def drawing() -> Iterator[None]:
    """Let pages draw, and close what matplotlib keeps open: figures, files of fonts."""
    pytest.importorskip("matplotlib").use("agg")
    from matplotlib import font_manager, pyplot

    yield
    pyplot.close("all")
    font_manager._get_font.cache_clear()


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=lambda page: page.name)
def test_blocks_run(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, drawing: None
) -> None:
    write_files(tmp_path)
    monkeypatch.chdir(tmp_path)
    scope = {
        **GIVEN,
        "__name__": "docs_page",
        "parallel_config": joblib.parallel_config,
        "parallel_backend": joblib.parallel_backend,
        "skl_mmap": skl_mmap,
    }
    # A page may set joblib's backend for good: until here.
    with joblib.parallel_config():
        for line, block in find_blocks(page):
            for size, smaller in SMALLER.items():
                block = block.replace(size, smaller)
            if page.name != "tutorial.rst":  # which makes its own
                scope.update(make_data())
            exec(compile("\n" * line + block, str(page), "exec"), scope)


COMMANDS = sorted(
    {
        (page.name, re.sub(r"\s+", " ", command))
        for page in PAGES
        for text in [page.read_text(encoding="utf-8")]
        for command in (
            *re.findall(r"`(skl-mmap [^`]+)`", text),
            *re.findall(r"^ *(?:\.venv/bin/)?(skl-mmap .*)$", text, re.MULTILINE),
        )
    }
)


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_are_understood(page: str, command: str) -> None:
    _, *arguments = shlex.split(command, comments=True)
    assert make_parser().parse_args(arguments).run
