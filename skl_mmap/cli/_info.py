"""``skl-mmap info``: what a file holds, and what its folds would cost."""

from __future__ import annotations

import argparse
import json
from typing import Any

from skl_mmap._units import format_bytes
from skl_mmap.cli._errors import CommandError, ExitCode
from skl_mmap.cli._options import add_job_options
from skl_mmap.exceptions import SklMmapError
from skl_mmap.files import FileInfo, file_info
from skl_mmap.inputs._fold_costs import FoldCost, Layout, kfold_costs

__all__ = ["add_parser", "run"]

_MAX_COLUMNS = 20
_DESCRIPTION = """\
Says what a file holds (.npy, .csv, .parquet, .arrow, .feather), how its rows lie in
pages, and what the folds of KFold would cost under the backend "mmap" and under loky.
Reads headers and metadata only; of CSV, the first MB, so that rows are an estimate.
"""


def add_parser(subcommands: Any, *, epilog: str) -> None:
    """Add the parser of ``info`` to those of the other subcommands."""
    parser = subcommands.add_parser(
        "info",
        help="say what a file holds and what its folds would cost",
        description=_DESCRIPTION,
        epilog=epilog,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    parser.add_argument("path", metavar="PATH", help="the file")
    add_job_options(parser)
    parser.add_argument(
        "--json", action="store_true", help="write JSON to stdout instead of text"
    )


def run(arguments: argparse.Namespace) -> int:
    """Describe a file.

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
        If the file cannot be read.
    """
    try:
        info = file_info(arguments.path)
    except SklMmapError as error:
        raise CommandError(str(error)) from error
    except OSError as error:
        raise CommandError(
            f"{arguments.path} cannot be read ({error.strerror or error}). "
            "Check the path and its permissions.",
            ExitCode.USAGE,
        ) from error
    layout = _layout_of(info)
    costs: list[FoldCost] = []
    if layout is not None and layout.n_rows >= arguments.n_splits:
        costs = kfold_costs(layout, arguments.n_splits)
    if arguments.json:
        print(json.dumps(_to_dict(info, layout, costs, arguments), indent=2))
    else:
        print("\n".join(_to_lines(info, layout, costs, arguments)))
    return ExitCode.OK


def _layout_of(info: FileInfo) -> Layout | None:
    """Say how the rows lie; None if there are none, or each is scattered."""
    is_row_major = info.order == "C" or len(info.shape) == 1
    if not info.data_bytes or not info.shape or not is_row_major or info.note:
        return None
    n_rows = info.shape[0]
    row_bytes = info.data_bytes // n_rows
    return Layout(n_rows, row_bytes, info.offset, info.item_type.alignment)


def _at_once(cost: FoldCost, n_jobs: int) -> int:
    """Bytes of the largest train sets that workers hold copies of at the same time."""
    return sum(sorted(cost.copied_bytes)[-n_jobs:])


def _loky_at_once(cost: FoldCost, n_jobs: int) -> int:
    pairs = zip(cost.mapped_bytes, cost.copied_bytes, strict=True)
    return sum(sorted(mapped + copied for mapped, copied in pairs)[-n_jobs:])


def _to_dict(
    info: FileInfo,
    layout: Layout | None,
    costs: list[FoldCost],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    result: dict[str, Any] = {
        "path": info.path,
        "format": info.format,
        "file_bytes": info.file_bytes,
        "shape": list(info.shape),
        "dtype": info.dtype,
        "order": info.order,
        "data_bytes": None if "object" in info.note else info.data_bytes,
        "offset": info.offset,
        "is_mapped_in_place": info.is_mapped_in_place,
        "is_estimate": info.is_estimate,
        "columns": [{"name": name, "type": type_} for name, type_ in info.columns],
        "row_group_rows": list(info.row_group_rows),
        "note": info.note,
        "n_splits": arguments.n_splits,
        "n_jobs": arguments.n_jobs,
        "alignment": None,
        "folds": None,
    }
    if layout is not None:
        result["alignment"] = {
            "row_bytes": layout.row_bytes,
            "offset_in_page": layout.page_offset,
            "offset_in_huge_page": layout.huge_page_offset,
            "rows_per_unit": layout.unit_rows,
        }
    if costs:
        result["folds"] = {
            cost.row_order: {
                "mapped_bytes": list(cost.mapped_bytes),
                "copied_bytes": list(cost.copied_bytes),
                "copied_at_once_bytes": _at_once(cost, arguments.n_jobs),
            }
            for cost in costs
        }
        result["loky_copied_at_once_bytes"] = _loky_at_once(costs[0], arguments.n_jobs)
    return result


def _to_lines(
    info: FileInfo,
    layout: Layout | None,
    costs: list[FoldCost],
    arguments: argparse.Namespace,
) -> list[str]:
    about = "about " if info.is_estimate else ""
    shape = " x ".join(f"{length:,}" for length in info.shape) or "a single value"
    lines = [f"{info.path}: {info.format}, {format_bytes(info.file_bytes)}"]
    lines += _column_lines(info)
    if info.note:
        return [*lines, f"X cannot be described: {info.note.rstrip('.')}."]
    place = "mapped where it lies" if info.is_mapped_in_place else "read once"
    lines.append(
        f"X: {about}{shape}, {info.dtype}, {info.order} order, "
        f"{about}{format_bytes(info.data_bytes)}; {place}"
    )
    if layout is None:
        if not info.shape:
            return [*lines, "A single value has no rows."]
        reason = "it is in Fortran order" if info.data_bytes else "it is empty"
        return [*lines, f"Rows cannot be selected without a copy: {reason}."]
    lines.append(
        f"rows: {layout.row_bytes} bytes each, from byte {layout.page_offset} of a "
        f"page (byte {layout.huge_page_offset} of a huge page); {layout.unit_rows} "
        "rows until a row begins at the same place in a page"
    )
    return lines + _cost_lines(costs, arguments)


def _column_lines(info: FileInfo) -> list[str]:
    lines = [f"  {name}: {type_}" for name, type_ in info.columns[:_MAX_COLUMNS]]
    n_more = len(info.columns) - _MAX_COLUMNS
    if n_more > 0:
        lines.append(f"  and {n_more} more columns")
    if groups := info.row_group_rows:
        lines.append(f"row groups: {len(groups)}, of at most {max(groups):,} rows")
    return lines


def _cost_lines(costs: list[FoldCost], arguments: argparse.Namespace) -> list[str]:
    if not costs:
        return [f"There are fewer rows than the {arguments.n_splits} folds asked for."]
    lines = [f"KFold({arguments.n_splits}), for each train set:"]
    n_jobs = min(arguments.n_jobs, arguments.n_splits)
    for cost in costs:
        mapped = sum(cost.mapped_bytes) / arguments.n_splits
        copied = sum(cost.copied_bytes) / arguments.n_splits
        lines.append(
            f'  mmap, row_order="{cost.row_order}": {format_bytes(mapped)} mapped, '
            f"{format_bytes(copied)} copied; {n_jobs} workers hold "
            f"{format_bytes(_at_once(cost, n_jobs))} of copies at a time"
        )
    first = costs[0]
    train = (sum(first.mapped_bytes) + sum(first.copied_bytes)) / arguments.n_splits
    lines.append(
        f"  loky: {format_bytes(train)} copied; {n_jobs} workers hold "
        f"{format_bytes(_loky_at_once(first, n_jobs))} of copies at a time"
    )
    return lines
