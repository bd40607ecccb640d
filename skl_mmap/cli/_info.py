"""``skl-mmap info``: what a file holds, and what its folds would cost."""

from __future__ import annotations

import argparse
from typing import Any

from skl_mmap._advice import backend_line
from skl_mmap._units import format_bytes
from skl_mmap.cli._command import ExitCode, Parser, refuse_unreadable
from skl_mmap.cli._console import show, show_json
from skl_mmap.files import FileInfo, file_info
from skl_mmap.preview import KFoldCosts, Layout, kfold_costs

_MAX_COLUMNS = 20
_DESCRIPTION = """\
Says what a file holds (.npy, .csv, .parquet, .arrow, .feather), how its rows lie in
pages, and what the folds of KFold would cost under the backend "mmap" and under loky.
Reads headers and metadata only; of CSV, the first MB, so that rows are an estimate.
"""


def add_parser(whole: Parser) -> None:
    """Add the parser of ``info`` to the whole one."""
    parser = whole.add_subcommand(
        "info",
        run,
        help="say what a file holds and what its folds would cost",
        description=_DESCRIPTION,
    )
    parser.add_argument("path", metavar="PATH", help="the file")
    parser.add_job_options()
    parser.add_json()


def run(arguments: argparse.Namespace) -> int:
    """Print what a file holds, and what its folds would cost."""
    try:
        info = file_info(arguments.path)
    except OSError as error:
        raise refuse_unreadable(arguments.path, error) from error
    layout = _layout_of(info)
    costs: list[KFoldCosts] = []
    if layout is not None and layout.n_rows >= arguments.n_splits:
        costs = kfold_costs(layout, arguments.n_splits)
    if arguments.json:
        show_json(_to_dict(info, layout, costs, arguments))
    else:
        show(*_tell_content(info, layout))
        if layout is not None:
            _show_costs(costs, arguments)
    return ExitCode.OK


def _layout_of(info: FileInfo) -> Layout | None:
    """Say how the rows lie; None if there are none, or each is scattered."""
    is_row_major = info.order == "C" or len(info.shape) == 1
    if not info.data_bytes or not info.shape or not is_row_major or info.note:
        return None
    n_rows = info.shape[0]
    row_bytes = info.data_bytes // n_rows
    return Layout(n_rows, row_bytes, info.offset, info.item_type.alignment)


def _at_once(copied_bytes: list[int], n_jobs: int) -> int:
    """Return the bytes of the largest copies that workers hold at the same time."""
    return sum(sorted(copied_bytes)[-n_jobs:])


def _train_bytes(cost: KFoldCosts) -> list[int]:
    """Return the bytes of each train set, all of which loky copies."""
    pairs = zip(cost.mapped_bytes, cost.copied_bytes, strict=True)
    return [mapped + copied for mapped, copied in pairs]


def _to_dict(
    info: FileInfo,
    layout: Layout | None,
    costs: list[KFoldCosts],
    arguments: argparse.Namespace,
) -> dict[str, Any]:
    n_jobs = arguments.n_jobs
    names = (
        *("path", "format", "file_bytes", "dtype", "order", "offset"),
        *("is_mapped_in_place", "is_estimate", "note"),
    )
    result: dict[str, Any] = {
        **{name: getattr(info, name) for name in names},
        "shape": list(info.shape),
        "data_bytes": None if "object" in info.note else info.data_bytes,
        "columns": [{"name": name, "type": type_} for name, type_ in info.columns],
        "row_group_rows": list(info.row_group_rows),
        "n_splits": arguments.n_splits,
        "n_jobs": n_jobs,
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
                "copied_at_once_bytes": _at_once(list(cost.copied_bytes), n_jobs),
            }
            for cost in costs
        }
        result["loky_copied_at_once_bytes"] = _at_once(_train_bytes(costs[0]), n_jobs)
    return result


def _tell_content(info: FileInfo, layout: Layout | None) -> list[str]:
    """Say what the file holds, and how its rows lie."""
    about = "about " if info.is_estimate else ""
    shape = " x ".join(f"{length:,}" for length in info.shape) or "a single value"
    lines = [f"{info.path}: {info.format}, {format_bytes(info.file_bytes)}"]
    lines += [f"  {name}: {type_}" for name, type_ in info.columns[:_MAX_COLUMNS]]
    if (n_more := len(info.columns) - _MAX_COLUMNS) > 0:
        lines.append(f"  and {n_more} more columns")
    if groups := info.row_group_rows:
        lines.append(f"row groups: {len(groups)}, of at most {max(groups):,} rows")
    if info.note:
        return [*lines, f"X cannot be described: {info.note.rstrip('.')}."]
    place = "mapped where it lies" if info.is_mapped_in_place else "read once"
    lines.append(
        f"X: {about}{shape}, {info.dtype}, {info.order} order, "
        f"{about}{format_bytes(info.data_bytes)}; {place}"
    )
    if layout is not None:
        lines.append(
            f"rows: {layout.row_bytes} bytes each, from byte {layout.page_offset} of a "
            f"page (byte {layout.huge_page_offset} of a huge page); {layout.unit_rows} "
            "rows until a row begins at the same place in a page"
        )
    elif info.shape:
        reason = "it is in Fortran order" if info.data_bytes else "it is empty"
        lines.append(f"Rows cannot be selected without a copy: {reason}.")
    else:
        lines.append("A single value has no rows.")
    return lines


def _show_costs(costs: list[KFoldCosts], arguments: argparse.Namespace) -> None:
    """Print what the train sets of KFold cost under each backend."""
    n_splits = arguments.n_splits
    if not costs:
        show(f"There are fewer rows than the {n_splits} folds asked for.")
        return
    n_jobs = min(arguments.n_jobs, n_splits)
    train_bytes = _train_bytes(costs[0])
    copied = {f'mmap, row_order="{c.row_order}"': list(c.copied_bytes) for c in costs}
    rows = [["backend", "mapped", "copied", f"copies in {n_jobs} workers"]]
    for name, copied_bytes in {**copied, "loky": train_bytes}.items():
        mean = sum(copied_bytes) / n_splits
        mapped = sum(train_bytes) / n_splits - mean
        sizes = mapped, mean, _at_once(copied_bytes, n_jobs)
        rows.append([name, *map(format_bytes, sizes)])
    show(f"KFold({n_splits}), for each train set:", rows)
    best = min(costs, key=lambda cost: sum(cost.copied_bytes))
    if sum(best.copied_bytes) < sum(train_bytes):
        options = {} if best.row_order == "exact" else {"row_order": best.row_order}
        show(f"Least is copied with {backend_line(arguments.n_jobs, **options)}")
