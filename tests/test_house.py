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


# Names of Python that begin with "_" and are documented, or cannot change.
PRIVATE_BUT_KEPT = {
    "_thread": "documented",
    "os._exit": "documented",
    "sys._current_frames": "documented",
    "sys._getframe": "documented",
    "sys._is_gil_enabled": "documented",
    "copyreg._reconstructor": "named in every pickle of protocols 0 and 1",
    "argparse._SubParsersAction": "what add_subparsers returns has no other name",
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def foreign_modules(tree: ast.Module) -> dict[str, str]:
    """Return what other libraries' modules are called in a file."""
    modules = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                name = alias.name if alias.asname else alias.name.partition(".")[0]
                modules[alias.asname or name] = name
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                modules[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return {
        alias: name
        for alias, name in modules.items()
        if not name.startswith(("skl_mmap", "__future__"))
    }


def private_imports(tree: ast.Module) -> Iterator[str]:
    """Yield what is imported from other libraries by a private name."""
    for name in foreign_modules(tree).values():
        if any(map(is_private, name.split("."))):
            yield name


def private_attributes(tree: ast.Module) -> Iterator[str]:
    """Yield the private attributes of other libraries' modules and classes."""
    modules = foreign_modules(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and is_private(node.attr):
            owner = node.value
            names = [node.attr]
            while isinstance(owner, ast.Attribute):
                names.append(owner.attr)
                owner = owner.value
            if isinstance(owner, ast.Name) and owner.id in modules:
                yield ".".join([modules[owner.id], *reversed(names)])


def names_of_compat() -> set[str]:
    """Return the private names that _compat knows, and does not define itself."""
    tree = ast.parse((ROOT / "_compat.py").read_text(encoding="utf-8"))
    defined = {
        node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)
    }
    used = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    parts = {part for text in texts(tree) for part in text.split(".")}
    names = filter(str.isidentifier, used | parts)
    return {name for name in names if is_private(name)} - defined


def test_private_names_of_others_stand_in_one_place() -> None:
    known = names_of_compat()
    assert {"_mgr", "_ready_batches", "_fit_and_score", "_get_index_dtype"} <= known
    found = [
        (name, what)
        for name, tree in parse_files()
        if name != "_compat.py"
        for what in (
            *private_imports(tree),
            *private_attributes(tree),
            *(text for text in texts(tree) if text in known),
            *(
                node.attr
                for node in ast.walk(tree)
                if isinstance(node, ast.Attribute) and node.attr in known
                if not (isinstance(node.value, ast.Name) and node.value.id == "self")
            ),
        )
        if what not in PRIVATE_BUT_KEPT
    ]
    assert found == []
