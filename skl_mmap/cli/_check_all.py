"""``skl-mmap check --all``: every estimator of the installed libraries, as a table."""

from __future__ import annotations

import argparse
import json
import os
from dataclasses import asdict
from typing import Any

from skl_mmap.cli._errors import CommandError, ExitCode
from skl_mmap.cli._progress import Progress
from skl_mmap.exceptions import SklMmapError

__all__ = ["add_options", "run_all"]

# Copies of X: what is less are vectors.
_FREE = 0.1


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that go with ``--all``."""
    group = parser.add_argument_group("with --all")
    group.add_argument(
        "--all",
        action="store_true",
        help="measure every estimator of scikit-learn, LightGBM and XGBoost in eight "
        "layouts; takes about an hour, and goes on where it was interrupted",
    )
    group.add_argument(
        "--csv",
        default="copies.csv",
        metavar="PATH",
        help="the table; estimators that it has are not measured again "
        "(default: copies.csv)",
    )
    group.add_argument("--html", metavar="PATH", help="also write it as HTML")
    group.add_argument(
        "--layouts-json",
        metavar="PATH",
        help='also write the table that layouts="auto" reads',
    )
    group.add_argument(
        "--only",
        metavar="WORD",
        help="only estimators whose full name has this word in it",
    )


def run_all(arguments: argparse.Namespace) -> int:
    """Measure all estimators that the table does not have yet.

    Parameters
    ----------
    arguments : argparse.Namespace
        The parsed options.

    Returns
    -------
    int
        0.

    Raises
    ------
    CommandError
        If the table cannot be read or written, or nothing has the word.
    """
    from skl_mmap.copies._catalogue import list_estimators
    from skl_mmap.copies._matrix import measure_entry, read_rows, write_row

    word = arguments.only or ""
    entries = [entry for entry in list_estimators() if word in entry.name]
    if not entries:
        raise CommandError(
            f"no estimator has {word!r} in its name. Pass a part of its full name, "
            "such as linear_model, or the name of its class.",
            ExitCode.USAGE,
        )
    try:
        rows = read_rows(arguments.csv)
        left = [entry for entry in entries if entry.name not in rows]
        with Progress(len(left)) as progress:
            for entry in left:
                progress.step(entry.name.rpartition(".")[2])
                rows[entry.name] = measure_entry(entry)
                write_row(arguments.csv, rows[entry.name])
        _write_more(arguments, rows)
    except (OSError, SklMmapError) as error:
        raise CommandError(
            f"the table {os.fspath(arguments.csv)} cannot be written ({error}). Check "
            "the path, or pass another one with --csv."
        ) from error
    wanted = [rows[entry.name] for entry in entries]
    if arguments.json:
        print(json.dumps([asdict(row) for row in wanted], indent=2))
    else:
        print("\n".join(_summarise(wanted, arguments.csv)))
    return ExitCode.OK


def _write_more(arguments: argparse.Namespace, rows: dict[str, Any]) -> None:
    from skl_mmap.copies._matrix import write_table
    from skl_mmap.copies._matrix_page import write_page

    if arguments.html:
        write_page(arguments.html, rows.values())
    if arguments.layouts_json:
        write_table(arguments.layouts_json, rows.values())


def _summarise(rows: list[Any], path: str) -> list[str]:
    measured = [row for row in rows if row.outcome == "ok"]
    lines = [
        f"{len(measured)} of {len(rows)} estimators measured, see {path}",
    ]
    for mode in ("read-only", "copy-on-write"):
        n_free = sum(
            any(
                copies < _FREE
                for layout, copies in row.copies.items()
                if layout.endswith(mode)
            )
            for row in measured
        )
        lines.append(f"  fit without a copy in some {mode} layout: {n_free}")
    n_converting = sum(bool(row.converts) for row in measured)
    lines.append(f'  only convert X, so that layouts="auto" helps: {n_converting}')
    failed = [row for row in rows if row.outcome != "ok"]
    return lines + [
        f"  {row.estimator.rpartition('.')[2]}: {row.outcome}, {row.message}"
        for row in failed
    ]
