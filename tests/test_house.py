"""Each idea stands in its own room: what a room must not have in it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import skl_mmap

ROOT = Path(skl_mmap.__file__).parent


def parse_files() -> Iterator[tuple[str, ast.Module]]:
    """Yield the name of each file of the package, and what is in it."""
    for path in sorted(ROOT.rglob("*.py")):
        yield str(path.relative_to(ROOT)), ast.parse(path.read_text(encoding="utf-8"))


def imported_modules(tree: ast.Module) -> Iterator[str]:
    """Yield the modules that are imported anywhere in a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def texts(tree: ast.Module) -> Iterator[str]:
    """Yield the constants of a file that are text or bytes, but no docstrings."""
    docstrings = {
        id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and id(node) not in docstrings:
            if isinstance(node.value, str):
                yield node.value
            elif isinstance(node.value, bytes):
                yield node.value.decode(errors="replace")


def test_ctypes_and_proc_stand_in_one_place() -> None:
    found = [
        (name, what)
        for name, tree in parse_files()
        if not name.startswith("_linux")
        for what in (
            *(m for m in imported_modules(tree) if m.partition(".")[0] == "ctypes"),
            # Sentences may speak of /proc; what begins with it is a path.
            *(t for t in texts(tree) if t.startswith(("/proc", "/sys/"))),
        )
    ]
    assert found == []


def test_the_c_library_is_loaded_once() -> None:
    calls = [
        name
        for name, tree in parse_files()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "CDLL"
    ]
    # The call, and the type of what it returns.
    assert calls == ["_linux/calls.py"] * 2
