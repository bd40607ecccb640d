"""``skl-mmap check``: how often an estimator copies X, and which folds are copied."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib
import importlib.util
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import skl_mmap
from skl_mmap.cli._command import (
    CommandError,
    ExitCode,
    add_choice,
    add_json,
    add_numbers,
    add_subcommand,
    cannot_be_read,
    number,
)
from skl_mmap.exceptions import SklMmapError

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


def add_parser(subcommands: Any) -> None:
    """Add the parser of ``check`` to those of the other subcommands."""
    parser = add_subcommand(
        subcommands,
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
    parser.add_argument(
        "X", nargs="?", metavar="PATH", help="X, any file that skl_mmap.load reads"
    )
    parser.add_argument("y", nargs="?", metavar="PATH", help="y, if it is in a file")
    parser.add_argument(
        "--target", metavar="COLUMN", help="y, if it is a column of the file of X"
    )
    _add_copies_options(parser)
    text = "also say which of N folds the backend maps, and which it copies"
    add_numbers(parser, ("--cv", 2, None, text))
    add_choice(parser, "--row-order", ("exact", "any"), "of train rows, for --cv")
    add_json(parser)


def _add_copies_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `skl_mmap.check_copies`."""
    parser.add_argument(
        "--methods",
        type=lambda text: tuple(word.strip() for word in text.split(",")),
        default=("fit", "predict"),
        metavar="NAMES",
        help="what to call, comma-separated (default: fit,predict)",
    )
    add_choice(
        parser,
        "--layouts",
        ("given", "all"),
        "X as it lies in memory, or in every dtype and order",
    )
    text = "rows of the largest sample (default: 16 MB of X)"
    add_numbers(parser, ("--rows", 1, None, text))
    parser.add_argument(
        "--deep", action="store_true", help="name functions of native code (memray)"
    )
    parser.add_argument(
        "--timeout",
        type=number(at_least=0.001),
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
        type=number(at_least=0.0),
        metavar="NUMBER",
        help="fail if a method copies X more often than this",
    )


def run(arguments: argparse.Namespace) -> int:
    """Check an estimator.

    Raises
    ------
    SklMmapError
        If an argument or a file cannot be used, nothing can be measured, or a check
        fails.
    """
    if arguments.estimator is None or arguments.X is None:
        raise CommandError(
            "an estimator and a file with X are needed, such as "
            "skl-mmap check sklearn.linear_model:Ridge X.npy y.npy.",
            ExitCode.USAGE,
        )
    with loading_estimator(arguments.estimator) as estimator:
        _check(estimator, arguments)
    return ExitCode.OK


def _check(estimator: Any, arguments: argparse.Namespace) -> None:
    """Print the reports, and raise an error if they tell of one."""
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
        print(json.dumps(result, indent=2))
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
        raise CommandError("\n".join(failed), ExitCode.CHECK_FAILED)
    if arguments.max_copies is not None:
        copies.assert_no_copy(
            methods=arguments.methods, max_copies=arguments.max_copies
        )


def _load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Load X and y.

    Raises
    ------
    SklMmapError
        If y is given in two ways, or a file cannot be used.
    """
    if arguments.y is not None and arguments.target is not None:
        raise CommandError(
            f"y was given as the file {arguments.y} and as the column "
            f"{arguments.target!r}. Leave one of them out.",
            ExitCode.USAGE,
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
        if isinstance(error, SklMmapError):
            raise
        raise cannot_be_read(arguments.X, error) from error


@contextlib.contextmanager
def loading_estimator(reference: str) -> Iterator[Any]:
    """Load an estimator, and let its module be imported for as long as it is used.

    Parameters
    ----------
    reference : str
        ``package.module:name`` or ``path/to/file.py:name``; the name may have dots. A
        class, or a function without arguments, is called.

    Yields
    ------
    estimator
        An object with a method fit.

    Raises
    ------
    CommandError
        If there is no such object, or it has no such method.
    """
    place, _, name = reference.rpartition(":")
    if not place or not name:
        raise CommandError(
            f"{reference!r} does not say where the estimator is. Pass module:name or "
            "file.py:name, such as sklearn.linear_model:Ridge.",
            ExitCode.USAGE,
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
        raise CommandError(
            f"the module {name!r} cannot be imported ({error}). Check its name; a file "
            "is named with its path and .py.",
            ExitCode.USAGE,
        ) from error


def _load_file(path: str) -> ModuleType:
    """Run a file as a module of its own name, so that ``__main__`` parts do not run."""
    if not Path(path).is_file():
        raise CommandError(
            f"there is no file {path!r} to take the estimator from. Check the path.",
            ExitCode.USAGE,
        )
    name = Path(path).stem
    if name in sys.modules:
        raise CommandError(
            f"{path!r} has the name of the module {name!r}, which is imported already, "
            "so that its classes could not be told apart. Give the file another name.",
            ExitCode.USAGE,
        )
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise CommandError(
            f"{path!r} is not a Python file. Pass one that ends with .py.",
            ExitCode.USAGE,
        )
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
            raise CommandError(
                f"{place} has no {name!r}. {_WHAT_IT_MAY_BE}", ExitCode.USAGE
            )
        found = getattr(found, part)
    if callable(found) and (isinstance(found, type) or not hasattr(found, "fit")):
        try:
            found = found()
        except TypeError as error:
            raise CommandError(
                f"{place}:{name} cannot be called without arguments ({error}). Write a "
                "function without arguments that makes the estimator, and pass its "
                "name.",
                ExitCode.USAGE,
            ) from error
    if not hasattr(found, "fit"):
        raise CommandError(
            f"{place}:{name} is of type {type(found).__name__}, which has no method "
            f"fit. {_WHAT_IT_MAY_BE}",
            ExitCode.USAGE,
        )
    return found
