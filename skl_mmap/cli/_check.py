"""``skl-mmap check``: how often an estimator copies X, and which folds are copied."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import skl_mmap
from skl_mmap.cli._command import (
    CheckFailedError,
    ExitCode,
    Parser,
    UsageError,
    number,
    refuse_unreadable,
)
from skl_mmap.cli._console import show_json

_WHAT_IT_MAY_BE = (
    "Pass the name of an estimator, of its class or of a function that makes one."
)
_DESCRIPTION = """\
Fits an estimator to a sample of X in processes of its own, and says how often each
method copies X, where, why, and what helps.

examples:
  skl-mmap check sklearn.linear_model:Ridge X.npy y.npy
  skl-mmap check train.py:make_pipeline train.parquet --target delay --cv 5
  skl-mmap check package.model:Model X.npy y.npy --methods fit --max-copies 0.1
"""


def add_parser(whole: Parser) -> None:
    """Add the parser of ``check`` to the whole one."""
    parser = whole.add_subcommand(
        "check",
        run,
        help="say how often an estimator copies X, and which folds are copied",
        description=_DESCRIPTION,
    )
    parser.add_argument(
        "estimator",
        nargs="?",
        metavar="ESTIMATOR",
        help="module:name or file.py:name of an estimator, of its class or of a "
        "function without arguments that makes one",
    )
    text = "X, any file that skl_mmap.load reads"
    parser.add_argument("X", nargs="?", metavar="PATH", help=text)
    parser.add_argument("y", nargs="?", metavar="PATH", help="y, if it is in a file")
    text = "y, if it is a column of the file of X"
    parser.add_argument("--target", metavar="COLUMN", help=text)
    parser.add_argument(
        "--methods",
        type=lambda text: tuple(word.strip() for word in text.split(",")),
        default=("fit", "predict"),
        metavar="NAMES",
        help="what to call, comma-separated (default: fit,predict)",
    )
    text = "X as it lies in memory, or in every dtype and order"
    parser.add_choice("--layouts", ("given", "all"), text)
    text = "rows of the largest sample (default: 16 MB of X)"
    parser.add_integer("--rows", 1, None, text)
    text = "name functions of native code (memray)"
    parser.add_argument("--deep", action="store_true", help=text)
    parser.add_argument(
        "--timeout",
        type=number(float, at_least=0.001),
        default=300.0,
        metavar="SECONDS",
        help="for all methods in one layout (default: 300)",
    )
    parser.add_argument(
        "--no-suggestions",
        dest="suggestions",
        action="store_false",
        help="do not try what helps",
    )
    parser.add_argument(
        "--max-copies",
        type=number(float, at_least=0.0),
        metavar="NUMBER",
        help="fail if a method copies X more often than this",
    )
    text = "also say which of N folds the backend maps, and which it copies"
    parser.add_integer("--cv", 2, None, text)
    parser.add_choice("--row-order", ("exact", "any"), "of train rows, for --cv")
    parser.add_json()


def run(arguments: argparse.Namespace) -> int:
    """Print how an estimator copies, and raise an error if that is too much."""
    if arguments.estimator is None or arguments.X is None:
        raise UsageError(
            "an estimator and a file with X are needed, such as "
            "skl-mmap check sklearn.linear_model:Ridge X.npy y.npy."
        )
    with loading_estimator(arguments.estimator) as estimator:
        X, y = _load(arguments)
        copies = skl_mmap.check_copies(
            estimator,
            X,
            y,
            methods=arguments.methods,
            layouts=arguments.layouts,
            n_rows=arguments.rows,
            deep=arguments.deep,
            timeout_seconds=arguments.timeout,
            suggestions=arguments.suggestions,
        )
        folds = None
        if arguments.cv is not None:
            folds = skl_mmap.check_folds(
                arguments.cv, X, y, estimator=estimator, row_order=arguments.row_order
            )
    if arguments.json:
        result = {
            "version": skl_mmap.__version__,
            "copies": copies.to_dict(),
            "folds": None if folds is None else dataclasses.asdict(folds),
        }
        show_json(result)
    else:
        print(copies)
        if folds is not None:
            print(f"\n{folds}")
    # A method that does not exist has not failed.
    failed = [
        f"{found.method} with {found.layout}: {found.message or found.outcome}"
        for result in copies.layouts
        for found in result.methods
        if found.outcome in ("error", "crash", "timeout")
    ]
    if failed:
        raise CheckFailedError("\n".join(failed))
    if arguments.max_copies is not None:
        copies.assert_no_copy(
            methods=arguments.methods, max_copies=arguments.max_copies
        )
    return ExitCode.OK


def _load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Load X and y."""
    if arguments.y is not None and arguments.target is not None:
        raise UsageError(
            f"y was given as the file {arguments.y} and as the column "
            f"{arguments.target!r}. Leave one of them out."
        )
    try:
        if arguments.target is not None:
            target = arguments.target
            if arguments.X.endswith(".npy") and target.lstrip("-").isdecimal():
                target = int(target)  # columns of .npy have numbers
            X, y = skl_mmap.load(arguments.X, target=target, as_frame=False)
            return X, y
        X = skl_mmap.load(arguments.X, as_frame=False)
        return X, None if arguments.y is None else skl_mmap.load(arguments.y)
    except OSError as error:
        raise refuse_unreadable(arguments.X, error) from error


@contextlib.contextmanager
def loading_estimator(reference: str) -> Iterator[Any]:
    """Load an estimator, and let its module be imported for as long as it is used.

    `reference` is ``package.module:name`` or ``path/to/file.py:name``, and the name may
    have dots. A class, or a function without arguments, is called.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise UsageError(
            f"{reference!r} does not say where the estimator is. Pass module:name or "
            "file.py:name, such as sklearn.linear_model:Ridge."
        )
    is_file = place.endswith(".py") or os.sep in place
    # As Python does for a script, and for a module with -m. A script that reads its
    # arguments must not take those of this command for its own.
    folder = str(Path(place).absolute().parent) if is_file else os.getcwd()
    path, argv = list(sys.path), list(sys.argv)
    sys.path.insert(0, folder)
    sys.argv[:] = [place]
    try:
        module = _load_file(place) if is_file else _import(place)
        yield _make(module, place, name)
    finally:
        sys.path[:], sys.argv[:] = path, argv


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"the module {name!r} cannot be imported ({error}). Check its name; a file "
            "is named with its path and .py."
        ) from error


def _load_file(path: str) -> ModuleType:
    """Run a file as a module of its own name, so that ``__main__`` parts do not run."""
    if not Path(path).is_file():
        raise UsageError(
            f"there is no file {path!r} to take the estimator from. Check the path."
        )
    name = Path(path).stem
    if name in sys.modules:
        raise UsageError(
            f"{path!r} has the name of the module {name!r}, which is imported already, "
            "so that its classes could not be told apart. Give the file another name."
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError(f"{path!r} is not a Python file. Pass one that ends with .py.")
    module = importlib.util.module_from_spec(spec)
    # Pickle looks for classes there.
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _make(module: ModuleType, place: str, name: str) -> Any:
    """Look up an object of a module, and call it if it makes estimators."""
    found: Any = module
    for part in name.split("."):
        if not hasattr(found, part):
            raise UsageError(f"{place} has no {name!r}. {_WHAT_IT_MAY_BE}")
        found = getattr(found, part)
    if callable(found) and (isinstance(found, type) or not hasattr(found, "fit")):
        try:
            found = found()
        except TypeError as error:
            raise UsageError(
                f"{place}:{name} cannot be called without arguments ({error}). Write a "
                "function without arguments that makes the estimator, and pass its "
                "name."
            ) from error
    if not hasattr(found, "fit"):
        raise UsageError(
            f"{place}:{name} is of type {type(found).__name__}, which has no method "
            f"fit. {_WHAT_IT_MAY_BE}"
        )
    return found
