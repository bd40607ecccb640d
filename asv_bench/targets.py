"""Measure the targets of the backend "mmap" and print them beside what was found.

    python asv_bench/targets.py                      # everything, about half an hour
    python asv_bench/targets.py --only null_any      # one scenario
    python asv_bench/targets.py --quick --repeat 1   # does the script work?

Memory is the committed memory of the process tree above "X loaded, workers started and
warm", in multiples of X. Each case runs in a fresh process; the table has the median
over the repeats. The machine should be otherwise idle.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scenarios import SCENARIOS, Row, Settings

_PACKAGES = ("joblib", "loky", "numpy", "scikit-learn")
_ROW = "{:<12} {:<34} {:>9} {:<8} {:>8}  {:<5} {}"


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only",
        action="append",
        choices=tuple(SCENARIOS),
        metavar="NAME",
        help="run this scenario; may be repeated. One of: " + ", ".join(SCENARIOS),
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a tenth of the size, to try the script: no figure means anything",
    )
    parser.add_argument(
        "--repeat", type=int, default=3, metavar="N", help="runs per case (default: 3)"
    )
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write all figures as JSON"
    )
    return parser


def describe_machine() -> dict[str, Any]:
    """Return what figures depend on."""
    return {
        "system": platform.platform(),
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_average": os.getloadavg(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
    }


def format_row(row: Row) -> str:
    sign = ">=" if row.is_minimum else "<="
    target = "" if row.target is None else f"{sign} {row.target:g}"
    verdict = {None: "", True: "hit", False: "MISS"}[row.is_hit]
    return _ROW.format(
        row.scenario,
        row.case,
        f"{row.measured:.2f}",
        row.unit,
        target,
        verdict,
        row.note,
    ).rstrip()


def main(argv: Sequence[str] | None = None) -> int:
    arguments = make_parser().parse_args(argv)
    settings = Settings(arguments.quick, max(arguments.repeat, 1))
    machine = describe_machine()
    rows = []
    start = time.monotonic()
    for name in arguments.only or SCENARIOS:
        print(f"{name}: {SCENARIOS[name].__doc__}", file=sys.stderr)
        for row in SCENARIOS[name](settings):
            print(format_row(row), file=sys.stderr, flush=True)
            rows.append(row)
    print()
    print(
        _ROW.format("scenario", "case", "measured", "unit", "target", "", "").rstrip()
    )
    for row in rows:
        print(format_row(row))
    verdicts = [row.is_hit for row in rows if row.is_hit is not None]
    print(
        f"\n{sum(verdicts)} of {len(verdicts)} targets met in "
        f"{(time.monotonic() - start) / 60:.0f} min"
        + (" (--quick: no target applies at this size)" if settings.is_quick else "")
    )
    if arguments.output is not None:
        report = {
            "machine": machine,
            "is_quick": settings.is_quick,
            "n_repeats": settings.n_repeats,
            "rows": [row.to_dict() for row in rows],
        }
        arguments.output.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(verdicts) else 1


if __name__ == "__main__":
    sys.exit(main())
