"""``skl-mmap check``: how often an estimator copies X, and which folds are copied."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import Any

import skl_mmap
from skl_mmap.cli._errors import CommandError, ExitCode
from skl_mmap.cli._load_estimator import loading_estimator
from skl_mmap.cli._options import integer, number
from skl_mmap.exceptions import CopyError, SklMmapError

__all__ = ["add_parser", "run"]

_DESCRIPTION = """\
Fits an estimator to a sample of X in processes of its own, and says how often each
method copies X, where, why, and what helps.

examples:
  skl-mmap check sklearn.linear_model:Ridge X.npy y.npy
  skl-mmap check train.py:make_pipeline train.parquet --target delay --cv 5
  skl-mmap check package.model:Model X.npy y.npy --methods fit --max-copies 0.1
"""
_EXIT_CODES = """\
exit codes:
  0    done
  1    a method failed, or copies more often than --max-copies allows
  2    an option cannot be used, there is no such estimator or file
  3    cannot run: a file cannot be read, or nothing can be measured
  130  interrupted (Ctrl-C)
  141  nobody reads the output any more
"""


def add_parser(subcommands: Any) -> None:
    """Add the parser of ``check`` to those of the other subcommands."""
    parser = subcommands.add_parser(
        "check",
        help="say how often an estimator copies X, and which folds are copied",
        description=_DESCRIPTION,
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
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
    parser.add_argument(
        "--cv",
        type=integer(at_least=2),
        metavar="N",
        help="also say which of N folds the backend maps, and which it copies",
    )
    parser.add_argument(
        "--row-order",
        choices=("exact", "any"),
        default="exact",
        help="of train rows, for --cv (default: exact)",
    )
    parser.add_argument(
        "--json", action="store_true", help="write JSON to stdout instead of text"
    )


def _add_copies_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `skl_mmap.check_copies`."""
    parser.add_argument(
        "--methods",
        type=lambda text: tuple(word.strip() for word in text.split(",")),
        default=("fit", "predict"),
        metavar="NAMES",
        help="what to call, comma-separated (default: fit,predict)",
    )
    parser.add_argument(
        "--layouts",
        choices=("given", "all"),
        default="given",
        help="X as it lies in memory, or in every dtype and order (default: given)",
    )
    parser.add_argument(
        "--rows",
        type=integer(at_least=1),
        metavar="N",
        help="rows of the largest sample (default: 16 MB of X)",
    )
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

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed options.

    Returns
    -------
    int
        0; copies beyond the limit and methods that fail are errors.

    Raises
    ------
    CommandError
        If an argument cannot be used, or a check fails.
    """
    if arguments.estimator is None or arguments.X is None:
        raise CommandError(
            "an estimator and a file with X are needed, such as "
            "skl-mmap check sklearn.linear_model:Ridge X.npy y.npy.",
            ExitCode.USAGE,
        )
    with loading_estimator(arguments.estimator) as estimator:
        try:
            _check(estimator, arguments)
        except CopyError as error:
            raise CommandError(str(error), ExitCode.CHECK_FAILED) from error
        except CommandError:
            raise
        except SklMmapError as error:
            raise CommandError(str(error)) from error
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
    if failed := _list_failures(copies):
        raise CommandError("\n".join(failed), ExitCode.CHECK_FAILED)
    if arguments.max_copies is not None:
        copies.assert_no_copy(
            methods=arguments.methods, max_copies=arguments.max_copies
        )


def _load(arguments: argparse.Namespace) -> tuple[Any, Any]:
    """Load X and y.

    Raises
    ------
    CommandError
        If both are given in two ways, or a file is not there.
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
        raise CommandError(
            f"{error.filename or arguments.X} cannot be read "
            f"({error.strerror or error}). Check the path and its permissions.",
            ExitCode.USAGE,
        ) from error


def _list_failures(copies: skl_mmap.CopyReport) -> list[str]:
    """Say which methods have no numbers; one that does not exist is no failure."""
    return [
        f"{found.method} with {found.layout}: {found.message or found.outcome}"
        for result in copies.layouts
        for found in result.methods
        if found.outcome in ("error", "crash", "timeout")
    ]
