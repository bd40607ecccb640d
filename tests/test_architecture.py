"""What docs/architecture.rst says of the package is true."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import skl_mmap

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest needs it there

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "skl_mmap"
TEXT = (ROOT / "docs" / "architecture.rst").read_text(encoding="utf-8")
LITERALS = re.compile(r"`([^`]+)`")
# Of the drawing: a file, and a name in it.
STAYS = re.findall(r"^ {6}([\w/]+\.py) +([A-Za-z_][\w.]*)", TEXT, re.MULTILINE)


def find_paths(name: str) -> list[Path]:
    """Return the files that a name of a file or of a folder on the page stands for."""
    is_outside = name.startswith(
        ("asv_bench/", "docs/", "skl_mmap/", "tests/", "pyproject")
    )
    path = (ROOT if is_outside else PACKAGE) / name
    return sorted(path.glob("*.py")) if path.is_dir() else [path]


def is_path(literal: str) -> bool:
    return bool(re.fullmatch(r"[\w/]+(\.(py|json|toml|rst)|/)", literal))


def is_name(literal: str) -> bool:
    is_dotted = re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", literal)
    return bool(is_dotted) and not is_path(literal)


def defined_names(path: Path) -> set[str]:
    """Return what a file defines: functions, classes, their members, and constants."""
    if path.suffix != ".py":
        return set()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = set(bound_names(tree.body))
    for node in tree.body:
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{member}" for member in bound_names(node.body)}
    return names


def bound_names(body: list[ast.stmt]) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        targets: list[Any] = getattr(node, "targets", [getattr(node, "target", None)])
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def table_rows() -> list[list[str]]:
    """Return the rows of all tables: the cells of each, without the heads."""
    rows = re.findall(r"^    \* - .*\n(?:      .*\n|\n(?=      ))*", TEXT, re.MULTILINE)
    return [re.split(r"^    [* ] - ", row, flags=re.MULTILINE)[1:] for row in rows]


def test_each_room_is_there_in_its_order() -> None:
    content = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (layers,) = (
        contract["layers"]
        for contract in content["tool"]["importlinter"]["contracts"]
        if contract["type"] == "layers"
    )
    rooms = [cells[0].strip("` \n") for cells in table_rows()][1 : len(layers) + 1]
    assert rooms == layers


@pytest.mark.parametrize(
    "literal", sorted(set(filter(is_path, LITERALS.findall(TEXT))))
)
def test_files_exist(literal: str) -> None:
    assert all(path.is_file() for path in find_paths(literal))
    assert find_paths(literal)


def test_each_stay_on_the_way_is_in_its_file() -> None:
    assert len(STAYS) > 40
    missing = [
        (file, name)
        for file, name in STAYS
        if not (PACKAGE / file).is_file() or name not in defined_names(PACKAGE / file)
    ]
    assert missing == []


def test_names_in_tables_are_in_the_files_beside_them() -> None:
    missing = []
    for row in table_rows():
        literals = LITERALS.findall("".join(row))
        paths = [
            path for name in filter(is_path, literals) for path in find_paths(name)
        ]
        if not paths:
            continue
        known = set(skl_mmap.__all__).union(*map(defined_names, paths))
        missing += [name for name in filter(is_name, literals) if name not in known]
    assert missing == []


def test_names_elsewhere_are_names_of_the_package() -> None:
    rooms = {path.stem for path in PACKAGE.iterdir()}
    files = [*PACKAGE.rglob("*.py"), *(ROOT / "tests" / "containers").glob("*.py")]
    known = rooms.union(skl_mmap.__all__, *map(defined_names, files))
    named = set(filter(is_name, LITERALS.findall(TEXT)))
    assert named - known == {"with"}, "the keyword"


def test_the_way_is_not_longer_than_it_says() -> None:
    found = re.search(r"Whoever reads these files (.*?)\n\n", TEXT, re.DOTALL)
    assert found is not None
    literals = LITERALS.findall(found[1])
    *also, partly, partly_too = (PACKAGE / name for name in filter(is_path, literals))
    drawn = {PACKAGE / file for file, _ in STAYS}
    n_lines = sum(
        len(path.read_text("utf-8").splitlines()) for path in drawn.union(also)
    )
    lengths = {**function_lengths(partly), **function_lengths(partly_too)}
    n_lines += sum(lengths[name] for name in filter(is_name, literals))
    figures = [int(text.replace(",", "")) for text in re.findall(r"\d,\d{3}", found[1])]
    stated, most = figures
    assert most == 6000
    assert n_lines <= most
    assert stated == pytest.approx(n_lines, rel=0.05)


def function_lengths(path: Path) -> dict[str, int]:
    """Return how many lines each function of a file has."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in tree.body if isinstance(node, ast.FunctionDef)]
    return {f.name: (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
