"""Load a file into shared memory, or map it where it lies."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from skl_mmap.exceptions import InvalidParameterError
from skl_mmap.files._columns import (
    MixedTargetError,
    RowWriter,
    Selection,
    Table,
    TargetCollector,
    choose_names,
)
from skl_mmap.files._formats import FileFormat, find_format, open_table
from skl_mmap.files._npy import load_npy
from skl_mmap.memory import Placement, Settings

if TYPE_CHECKING:
    from typing_extensions import Self

# What is done sooner needs no bar.
_PATIENCE_SECONDS = 1.0


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
    if not isinstance(path, str | os.PathLike):
        raise InvalidParameterError(
            f"path={path!r} is not the path of a file. Pass a string or a path; "
            "arrays and frames that are in memory are for skl_mmap.share."
        )
    name = os.fspath(path)
    wanted_dtype = _check_dtype(dtype)
    placement = Placement.from_parameter(store)
    if mmap_mode not in ("c", "r"):
        raise InvalidParameterError(
            f"mmap_mode={mmap_mode!r} is neither 'c' (copy-on-write) nor 'r' "
            "(read-only). Other modes would change the file."
        )
    settings = Settings(mmap_mode)
    format_ = find_format(name)
    is_frame = _check_as_frame(name, format_, as_frame)
    bar = LoadProgress(f"loading {os.path.basename(name)}", progress)
    if not format_.is_table:
        return load_npy(name, columns, target, wanted_dtype, placement, settings)

    def select(table: Table) -> Selection:
        features, target_name = choose_names(name, table.names, columns, target)
        if features is None:
            features = table.default_features(target_name)
            if not features:
                raise InvalidParameterError(
                    f"{name} has no column beside the target {target_name!r}, so "
                    "that X would be empty. Leave out target."
                )
        type_ = wanted_dtype or table.default_dtype(features)
        return Selection(features, target_name, type_)

    X, y, features = _load_table(name, format_, select, placement, settings, bar)
    if is_frame:
        X = _make_frame(X, features)
    return X if target is None else (X, y)


def load_column(
    path: str, format_: FileFormat, name: object, placement: Placement
) -> npt.NDArray[Any]:
    """Load one column of a table, and no other, as y of `load`: shape (n_samples,).

    InvalidParameterError or FileFormatError says that there is no such column, or that
    it cannot be a target.
    """

    def select(table: Table) -> Selection:
        _, target = choose_names(path, table.names, None, name)
        return Selection((), target, np.dtype(np.float64))

    bar = LoadProgress("", False)
    return _load_table(path, format_, select, placement, Settings(), bar)[1]


def _load_table(
    path: str,
    format_: FileFormat,
    select: Callable[[Table], Selection],
    placement: Placement,
    settings: Settings,
    bar: LoadProgress,
) -> tuple[npt.NDArray[Any], npt.NDArray[Any], tuple[str, ...]]:
    """Return X, y (nothing without a target) and the names of the columns of X."""
    selection = None
    while True:
        with open_table(path, format_) as table:
            selection = selection or select(table)
            y = TargetCollector(path, selection.target)
            try:
                with RowWriter(placement, path, selection, table.exact_rows) as X, bar:
                    for part in table.parts(selection):
                        X.write(part)
                        y.write(part)
                        bar.update(part.done_bytes, table.n_bytes)
                        del part  # so that it is not kept while the next one is read
                    features = X.finish(settings)
                return features, y.finish(placement, settings), selection.features
            except MixedTargetError:
                selection = replace(selection, is_text_target=True)


def _check_dtype(dtype: object) -> np.dtype[Any] | None:
    """Return the dtype asked for; None if it is left to the file."""
    if dtype is None:
        return None
    try:
        found: np.dtype[Any] | None = np.dtype(dtype)  # type: ignore[call-overload]
    except TypeError:
        found = None
    if found is None or found.kind not in "biuf" or found.itemsize > 8:
        raise InvalidParameterError(
            f"dtype={dtype!r} is not a type that a file can be read as. Pass None, "
            "bool, or a type of integers or floating point numbers of up to 64 bits, "
            "such as 'float32'."
        )
    return found


def _check_as_frame(path: str, format_: FileFormat, as_frame: object) -> bool:
    """Tell if X becomes a frame, once it is clear that it can."""
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
        return False
    if as_frame is not False and importlib.util.find_spec("pandas") is None:
        raise InvalidParameterError(
            f"{path} is a table, and pandas, which names its columns, is not "
            "installed. Run pip install 'skl-mmap[tables]', or pass as_frame=False."
        )
    return as_frame is not False


def _make_frame(values: npt.NDArray[Any], names: tuple[str, ...]) -> Any:
    if not values.size:
        import pandas

        return pandas.DataFrame(values, columns=list(names))
    from skl_mmap.containers._pandas import make_frame

    return make_frame(values, list(names))


class LoadProgress:
    """Show on stderr how much of a file has been read; a context manager.

    `is_wanted` is None for a bar on a terminal only, if rich is installed and the work
    takes longer than a second. InvalidParameterError says if a bar cannot be shown.
    """

    def __init__(self, text: str, is_wanted: bool | None) -> None:
        if is_wanted not in (None, True, False):
            raise InvalidParameterError(
                f"progress={is_wanted!r} does not say whether to show a bar. "
                "Pass True, False, or None for one on a terminal."
            )
        has_rich = importlib.util.find_spec("rich") is not None
        if is_wanted and not has_rich:
            raise InvalidParameterError(
                "progress=True needs rich to draw the bar, and it is not installed. "
                "Run pip install rich, or pass progress=None."
            )
        is_default = is_wanted is None
        self._is_wanted = has_rich and sys.stderr.isatty() if is_default else is_wanted
        self._starts_at = time.monotonic() + is_default * _PATIENCE_SECONDS
        self._text = text
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def update(self, done_bytes: int, n_bytes: int) -> None:
        """Say how many bytes of the file have been read."""
        if not self._is_wanted:
            return
        if self._bar is None:
            if time.monotonic() < self._starts_at:
                return
            from rich import progress
            from rich.console import Console

            self._bar = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.DownloadColumn(binary_units=True),
                progress.TransferSpeedColumn(),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=True,
            )
            self._task = self._bar.add_task(self._text, total=n_bytes)
            self._bar.start()
        self._bar.update(self._task, completed=min(done_bytes, n_bytes))
