"""The command: run jobs, print the table as it grows, keep and publish the results."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import __doc__ as description
from .jobs import JobError, select_jobs
from .runs import BACKENDS, Results, ResultsError, Settings, run_jobs
from .tables import (
    JobRow,
    Summary,
    format_line,
    format_text,
    replace_paragraph,
    write_table,
)

FOLDER = Path(__file__).resolve().parent
ROOT = FOLDER.parents[1]
README = ROOT / "README.md"
TABLE = ROOT / "docs" / "corpus_table.rst"
PUBLISHED = FOLDER / "results.json"
_LAST = FOLDER / "last.json"
_SIZES = {"small": 5_000_000, "full": 48_000_000}


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m asv_bench.corpus",
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="JOB", help="default: all")
    parser.add_argument("--list", action="store_true", help="list the jobs, and end")
    parser.add_argument(
        "--size",
        choices=_SIZES,
        default="full",
        help="of X: 48 MB, or 5 MB for a quick look (default: full)",
    )
    parser.add_argument(
        "--backends",
        nargs="+",
        choices=BACKENDS,
        default=BACKENDS,
        help="default: all of them",
    )
    parser.add_argument(
        "--options",
        nargs="+",
        type=_parse_option,
        default=[],
        metavar="NAME=VALUE",
        help='parameters of the backend "mmap": row_order=any adopt=true',
    )
    parser.add_argument(
        "--repeat", type=int, default=1, metavar="N", help="runs per case (default: 1)"
    )
    parser.add_argument(
        "--timeout",
        type=int,
        default=180,
        metavar="SECONDS",
        help="after which a run is given up, and is a row with an error (default: 180)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        default=_LAST,
        metavar="FILE",
        help="what is found, written after each run (default: last.json beside this)",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="go on with that file; runs that have failed are tried again",
    )
    parser.add_argument(
        "--table", type=Path, metavar="FILE", help="write the table, as .rst or .md"
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="write README.md, docs/corpus_table.rst and results.json",
    )
    return parser


def _parse_option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=VALUE")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def begin(arguments: argparse.Namespace, settings: Settings) -> Results:
    """Return the results to go on with, or new ones."""
    if not (arguments.resume and arguments.json.exists()):
        return Results(settings)
    results = Results.load(arguments.json)
    results.check_settings(settings)
    results.settings = settings
    return results


def publish(summary: Summary) -> None:
    """Write what the documentation shows."""
    summary.results.save(PUBLISHED)
    write_table(summary, TABLE)
    text = README.read_text(encoding="utf-8")
    README.write_text(replace_paragraph(text, summary), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.publish and (
        arguments.names
        or arguments.size != "full"
        or arguments.options
        or set(arguments.backends) != set(BACKENDS)
    ):
        parser.error("what is published is all jobs, of full size, with defaults")
    settings = Settings(
        n_bytes=_SIZES[arguments.size],
        n_repeats=max(arguments.repeat, 1),
        timeout_seconds=arguments.timeout,
        options=dict(arguments.options),
    )
    try:
        jobs = select_jobs(arguments.names)
        results = begin(arguments, settings)
    except (JobError, ResultsError) as error:
        parser.error(str(error))
    if arguments.list:
        for job in jobs:
            print(f"{job.name:<28} {job.title}")
        return 0
    start = time.monotonic()
    print(format_line(None))
    for name in run_jobs(
        jobs, arguments.backends, results, lambda: results.save(arguments.json)
    ):
        print(format_line(JobRow.of(results, name)), flush=True)
    summary = Summary.of(results)
    print(f"\n{format_text(summary)}")
    minutes = (time.monotonic() - start) / 60
    print(f"\n{minutes:.0f} min; all figures are in {arguments.json}", file=sys.stderr)
    if arguments.table is not None:
        write_table(summary, arguments.table)
    if arguments.publish:
        publish(summary)
    return 0 if summary.is_good else 1


if __name__ == "__main__":
    sys.exit(main())
