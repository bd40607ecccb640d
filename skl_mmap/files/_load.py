"""Load a file into shared memory, or map it where it lies."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.files._arrow_file import ArrowFile, ParquetFile, TypedTable
from skl_mmap.files._block_writer import RowScatterer, RowWriter
from skl_mmap.files._columns import Plan, check_dtype, choose_names
from skl_mmap.files._csv import CsvFile
from skl_mmap.files._formats import FileFormat, find_format, import_pyarrow
from skl_mmap.files._load_progress import LoadProgress
from skl_mmap.files._npy import load_npy
from skl_mmap.files._target import MixedTargetError, TargetCollector
from skl_mmap.memory import Placement, Settings, map_array

__all__ = ["load", "open_table"]


def load(
    path: str | os.PathLike[str],
    *,
    columns: Sequence[Any] | slice | None = None,
    target: str | int | None = None,
    dtype: Any = None,
    as_frame: bool | None = None,
    store: str | os.PathLike[str] = "auto",
    mmap_mode: str = "c",
    progress: bool | None = None,
) -> Any:
    r"""Load a file into memory that tasks share.

    A ``.npy`` file is mapped where it lies. Tables (CSV, also compressed, parquet,
    Arrow and Feather) are read in small parts and become one array of one type, whose
    rows can be selected without a copy. What begins as one of these formats is read
    as such, whatever its name.

    Parameters
    ----------
    path : str or path-like
        The file: ``.npy``, ``.csv`` (``.csv.gz``, ``.csv.bz2``, ``.csv.zst``; UTF-8,
        commas, with a header), ``.parquet``, ``.arrow``, ``.ipc`` or ``.feather``.
    columns : list of str, or list of int or slice for ``.npy``, default=None
        The columns of X, in this order. None takes all columns of numbers but the
        target, and not what was the index of a pandas frame; from CSV all columns but
        the target.
    target : str, or int for ``.npy``, default=None
        The column that becomes y.
    dtype : dtype-like, default=None
        Type of X. None takes the common type of the chosen columns; from CSV float64,
        in which integers beyond 2**53 lose digits.
    as_frame : bool, default=None
        Whether X is a pandas ``DataFrame`` with the names of the columns. None means
        True for tables, and False for ``.npy``, which has no names.
    store : {"auto", "memory", "disk"} or path-like, default="auto"
        Where the array lives: ``"auto"`` takes memory while it fits; a path is a
        folder on a disk with enough room.
    mmap_mode : {"c", "r"}, default="c"
        Copy-on-write, or read-only. The file is never written to.
    progress : bool, default=None
        Whether to show a bar on stderr. None shows one on a terminal, if rich is
        installed and the work takes longer than a second.

    Returns
    -------
    X : DataFrame or SharedArray of shape (n_samples, n_features)
        In shared memory, or a view of the file. An empty table is an ordinary empty
        array or frame.
    y : ndarray of shape (n_samples,)
        Only with `target`. Numbers keep their type (from CSV int64 if all are
        integers, bool if all are true or false, else float64); text becomes an array
        of objects.

    Raises
    ------
    InvalidParameterError
        If a parameter cannot be used with this file, or a package is missing.
    FileFormatError
        If the file is damaged, or a value in it cannot become a number: the message
        says where it is.
    NotEnoughMemoryError, NotEnoughDiskError
        If there is no room. Nothing is left behind.
    OSError
        If the file cannot be opened.

    Notes
    -----
    A table costs its array and at most 64 MB beside it while it is read: slices of 8
    MB of CSV, and some pages of a few columns of parquet. Only of a compressed Arrow
    file, one record batch is unpacked at a time, whatever its size. Missing values
    become NaN, if the type has it. CSV values with line breaks are not supported.

    The user's ``.npy`` file must stay as it is while it is mapped. Columns of it are
    views if they are evenly spaced, else copied to shared memory, as is a conversion.

    Examples
    --------
    >>> import os, tempfile
    >>> import numpy as np
    >>> from skl_mmap import load
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "X.npy")
    ...     np.save(path, np.arange(6.0).reshape(3, 2))
    ...     X = load(path)
    >>> X
    SharedArray([[0., 1.],
                 [2., 3.],
                 [4., 5.]])

    A table with a target:

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = os.path.join(folder, "train.csv")
    ...     with open(path, "w") as file:
    ...         _ = file.write("width,height,kind\n1,2,cat\n3,,dog\n")
    ...     X, y = load(path, target="kind", as_frame=False)
    >>> X
    SharedArray([[ 1.,  2.],
                 [ 3., nan]])
    >>> y
    array(['cat', 'dog'], dtype=object)
    """
    name = _check_path(path)
    wanted_dtype = check_dtype(dtype)
    placement = Placement.from_parameter(store)
    if mmap_mode not in ("c", "r"):
        raise InvalidParameterError(
            f"mmap_mode={mmap_mode!r} is neither 'c' (copy-on-write) nor 'r' "
            "(read-only). Other modes would change the file."
        )
    settings = Settings(mmap_mode)
    format_ = find_format(name)
    frame_maker = _frame_maker(name, format_, as_frame)
    text = f"loading {os.path.basename(name)}"
    LoadProgress(text, 0, progress)  # to check the parameter
    if not format_.is_table:
        return load_npy(name, columns, target, wanted_dtype, placement, settings)
    plan = None
    while True:
        with open_table(name, format_) as table:
            if plan is None:
                plan = _make_plan(table, columns, target, wanted_dtype)
            bar = LoadProgress(text, table.n_bytes, progress)
            try:
                X, y = _read(table, plan, placement, settings, bar)
                break
            except MixedTargetError:
                plan = replace(plan, is_text_target=True)
    if frame_maker is not None:
        X = frame_maker(X, plan.features)
    return X if plan.target is None else (X, y)


def open_table(path: str, format_: FileFormat) -> CsvFile | TypedTable:
    """Open a table of any format.

    Raises
    ------
    FileFormatError
        If it is damaged.
    InvalidParameterError
        If pyarrow is missing.
    """
    import_pyarrow(path)
    if format_.name == "csv":
        return CsvFile(path, format_.compression)
    return ParquetFile(path) if format_.name == "parquet" else ArrowFile(path)


def _check_path(path: object) -> str:
    if not isinstance(path, str | os.PathLike):
        raise InvalidParameterError(
            f"path={path!r} is not the path of a file. Pass a string or a path; "
            "arrays and frames that are in memory are for skl_mmap.share."
        )
    return os.fspath(path)


def _frame_maker(
    path: str, format_: FileFormat, as_frame: bool | None
) -> Callable[[Any, tuple[str, ...]], Any] | None:
    """Return what makes a frame, once it is clear that it can be made."""
    if as_frame not in (None, True, False):
        raise InvalidParameterError(
            f"as_frame={as_frame!r} is none of True, False and None."
        )
    if not format_.is_table:
        if as_frame:
            raise InvalidParameterError(
                f"as_frame=True, and {path} has no names of columns: .npy files hold "
                "an array. Leave as_frame out."
            )
        return None
    if as_frame is False:
        return None
    if importlib.util.find_spec("pandas") is None:
        raise InvalidParameterError(
            f"{path} is a table, and pandas, which names its columns, is not "
            "installed. Run pip install 'skl-mmap[tables]', or pass as_frame=False."
        )

    def make(values: Any, names: tuple[str, ...]) -> Any:
        if not values.size:
            import pandas

            return pandas.DataFrame(values, columns=list(names))
        from skl_mmap.inputs._pandas import make_frame

        return make_frame(values, list(names))

    return make


def _make_plan(
    table: CsvFile | TypedTable,
    columns: object,
    target: object,
    dtype: np.dtype[Any] | None,
) -> Plan:
    features, target_name = choose_names(table.path, table.names, columns, target)
    if features is None:
        features = table.default_features(target_name)
        if not features:
            raise InvalidParameterError(
                f"{table.path} has no column beside the target {target_name!r}, so "
                "that X would be empty. Leave out target."
            )
    return Plan(features, target_name, dtype or table.default_dtype(features))


def _read(
    table: CsvFile | TypedTable,
    plan: Plan,
    placement: Placement,
    settings: Settings,
    bar: LoadProgress,
) -> tuple[Any, Any]:
    """Read a table into shared memory."""
    y = None if plan.target is None else TargetCollector(table.path, plan.target)
    what = (placement, table.path, plan.features, plan.dtype)
    n_rows = table.exact_rows
    writer = RowWriter(*what) if n_rows is None else RowScatterer(*what, n_rows)
    with writer as rows, bar:
        for part in table.parts(plan):
            rows.write(part)
            if y is not None and plan.target in part.table.column_names:
                y.add(part)
            bar.update(part.done_bytes)
            del part  # so that it is not kept while the next one is read
        segment = rows.finish()
    shape = (rows.n_rows, len(plan.features))
    if segment is None:
        X = np.empty(shape, plan.dtype)
    else:
        X = map_array(segment, plan.dtype, shape, settings)
    return X, None if y is None else y.finish(placement, settings)
