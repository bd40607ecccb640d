"""Each idea stands in its own room: what a room must not have in it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import skl_mmap

ROOT = Path(skl_mmap.__file__).parent
TESTS = Path(__file__).parent


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


# Tests speak to the public names, or to what a room hands to other rooms. These modules
# are the exceptions, for tests in the folder of the same room.
TESTED_PARTS = {
    "the room hands out one function, the program, of which these are the parts": {
        "cli": "bench check child command console demo info main run script work",
    },
    "the room hands out sums, and tests look at what is added up": {
        "monitor": "family group measure process sampler tree",
        "copies": "contents job measuring prober remedies results server verdict",
        "preview": "rehearsal",
        "report": "findings picture",
    },
    "there is a table or a language in it, and tests go through its cases": {
        "backend": "layout_choice layouts observation pickling",
        "copies": "known_layouts",
        "estimators": "fit_inputs rows",
        "containers": "pandas polars",
    },
    "what it changes in a process is undone, and that is looked at in between": {
        "estimators": "single_fits",
    },
    "a worker is asked again after an error, which no call of joblib does": {
        "backend": "parts pool task",
    },
    "tasks are rewritten, which is looked at without workers": {
        "estimators": "arranging shared_prefix",
    },
    "sizes are made small, or the kernel is made to refuse": {
        "backend": "forking in_process lost_tasks",
        "memory": "adoption conversion filling fold_budget gathered_folds mapping "
        "page_filler plan result_files runs segment sharing shifted_pages store "
        "together views windows",
        "files": "columns csv load npy typed",
        "orders": "page_order",
    },
}
# What tests of other rooms replace.
REPLACED_ELSEWHERE = {
    ("conftest.py", "backend._forking"): "its server is known, and no leak",
    ("conftest.py", "backend._pool"): "its server lasts",
    ("backend/common.py", "copies._known_layouts"): "tests have tables of their own",
    ("backend/test_environments.py", "memory._segment"): "a folder is absent",
    ("backend/test_gathered_folds.py", "memory._gathered_folds"): "a worker dies in it",
    ("backend/test_shifted_pages.py", "memory._shifted_pages"): "a worker dies in it",
    ("estimators/test_copies.py", "monitor._sampler_process"): "it is made to die",
    ("files/test_load.py", "containers._pandas"): "it fails, as if pandas were broken",
    ("memory/test_reading.py", "files._npy"): "it is watched while it reads",
    ("orders/test_arrange.py", "containers._numpy"): "chunks are made small",
    ("orders/test_arrange_tables.py", "containers._pandas"): "chunks are made small",
    ("orders/test_arrange_tables.py", "containers._sparse"): "chunks are made small",
}


def private_modules(tree: ast.Module) -> set[str]:
    """Return the private modules of rooms that a test imports or names."""
    names = set(texts(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            names.update(f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
    modules = (re.findall(r"\bskl_mmap\.(\w+\._\w+)", name) for name in names)
    return set().union(*modules)


def test_tests_speak_to_what_a_room_hands_out() -> None:
    parts = {
        f"{room}._{name}"
        for rooms in TESTED_PARTS.values()
        for room, names in rooms.items()
        for name in names.split()
    }
    used = {
        (path.relative_to(TESTS).as_posix(), module)
        for path in TESTS.rglob("*.py")
        if path != Path(__file__)
        for module in private_modules(ast.parse(path.read_text(encoding="utf-8")))
    }
    own = {pair for pair in used if pair[0].split("/")[0] == pair[1].split(".")[0]}
    assert used - own == REPLACED_ELSEWHERE.keys()
    assert {module for _, module in own} == parts


def test_rooms_speak_to_what_other_rooms_hand_out() -> None:
    found = {
        (name, module)
        for name, tree in parse_files()
        for module in private_modules(tree)
        if name.split("/")[0] != module.split(".")[0]
    }
    assert found == {
        # Its import is that of pandas, which not everybody has.
        ("files/_load.py", "containers._pandas"),
        # Tasks are known by the names of their functions, as those of scikit-learn.
        ("backend/_layout_choice.py", "estimators._flat_list"),
        ("backend/_layout_choice.py", "estimators._single_fits"),
    }
