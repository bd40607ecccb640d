"""One column of a table, without any of the others."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from skl_mmap.files._columns import Plan, choose_names
from skl_mmap.files._formats import FileFormat
from skl_mmap.files._load import open_table
from skl_mmap.files._target import MixedTargetError, TargetCollector
from skl_mmap.memory import Placement, Settings

__all__ = ["load_column"]


def load_column(
    path: str, format_: FileFormat, name: object, placement: Placement
) -> npt.NDArray[Any]:
    """Load a target, or weights, from a table.

    Parameters
    ----------
    path : str
        The file.
    format_ : FileFormat
        What it is: not ``.npy``.
    name : str
        The column.
    placement : Placement
        Where it lives if it is made of numbers.

    Returns
    -------
    ndarray of shape (n_samples,)
        As y of `skl_mmap.load`: numbers keep their type, text becomes objects.

    Raises
    ------
    InvalidParameterError, FileFormatError
        If there is no such column, or it cannot be a target.
    """
    is_text = False
    while True:
        with open_table(path, format_) as table:
            _, target = choose_names(table.path, table.names, None, name)
            assert target is not None
            plan = Plan((), target, np.dtype(np.float64))
            column = TargetCollector(path, target)
            try:
                for part in table.parts(replace(plan, is_text_target=is_text)):
                    column.add(part)
                return column.finish(placement, Settings())
            except MixedTargetError:
                is_text = True
