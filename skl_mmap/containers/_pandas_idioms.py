"""Ways of pandas to select rows and to copy, in terms of two methods of shared frames.

pandas brings some of them to ``take``, which shared frames have of their own. The rest
is brought to two methods here::

    X.iloc[rows], X[mask], X.loc[mask], X.query(...)  --> take(rows), by pandas
    X.loc[labels], X.drop(index=labels)               --> rows, and their labels
    X[columns], X.drop(columns=...), X.reset_index()  --> still shared, unless copied
    X.copy()                                          --> private copies of the arrays
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from skl_mmap._compat import block_values, masked_parts
from skl_mmap.memory import find_mapping

# Nothing of fewer rows is worth a mapping.
_MIN_ROWS = 1024

if TYPE_CHECKING:
    _OfPandas = Any
else:
    _OfPandas = object


class Idioms(_OfPandas):  # type: ignore[misc]
    """What is more than one step of pandas, for frames and series in shared memory."""

    _plain_class: type[Any]

    def _select_shared_rows(self, rows: npt.NDArray[np.intp]) -> Any:
        """Select rows; None if pandas has to do it."""
        raise NotImplementedError

    def _copy_shared(self) -> Any:
        """Copy everything into a plain frame or series; None if pandas has to do it."""
        raise NotImplementedError

    def drop(
        self,
        labels: Any = None,
        *,
        axis: Any = 0,
        index: Any = None,
        columns: Any = None,
        **parameters: Any,
    ) -> Any:
        """Leave out rows or columns, and do not copy the others."""
        is_of_rows = isinstance(axis, int | str) and axis in (0, "index", "rows")
        rows = index
        if labels is not None:
            rows = labels if index is None and columns is None else None
        if rows is not None and is_of_rows and parameters.keys() <= {"level", "errors"}:
            left = self._leave_out(rows, parameters)
            if left is not None and columns is not None:
                left = left.drop(columns=columns, **parameters)
            if left is not None:
                return left
        result = super().drop(
            labels, axis=axis, index=index, columns=columns, **parameters
        )
        return self._as_shared(result)

    def _leave_out(self, labels: Any, parameters: dict[str, Any]) -> Any:
        """Leave out rows by their labels; None if pandas has to do it."""
        if len(self) < _MIN_ROWS or not is_shared(self):
            return None
        # pandas is asked which rows are left.
        numbers = pd.Series(np.arange(len(self)), index=self.index, copy=False)
        try:
            left = numbers.drop(index=labels, **parameters)
        except Exception:  # noqa: BLE001 - it is raised again for the frame
            return None
        return self._select_labelled_rows(left.to_numpy(), left.index)

    def _select_labelled_rows(self, rows: npt.NDArray[Any], labels: pd.Index) -> Any:
        """Select rows that have new labels; None if pandas has to do it."""
        if rows.dtype.kind != "i" or not len(rows) or int(rows.min()) < 0:
            return None  # a label was not found
        selected = self._select_shared_rows(rows.astype(np.intp, copy=False))
        if selected is not None:
            selected.index = labels
        return selected

    def reset_index(self, *args: Any, **parameters: Any) -> Any:
        """Number the rows, which stay shared."""
        return self._as_shared(super().reset_index(*args, **parameters))

    def _as_shared(self, result: Any) -> Any:
        """Let what pandas has made of this without a copy have its class."""
        if type(result) is not self._plain_class or not is_shared(result):
            return result
        return type(self)(result, copy=False).__finalize__(result)

    def copy(self, deep: Any = True) -> Any:
        """Copy what is written to later, if this is to be a deep copy."""
        copied = self._copy_shared() if deep is True else None
        return super().copy(deep) if copied is None else copied


def is_shared(frame: Any) -> bool:
    """Return whether some of the elements of a frame or series are in shared memory."""
    for values in block_values(frame):
        parts = masked_parts(values) or (getattr(values, "codes", values),)
        if isinstance(parts[0], np.ndarray) and find_mapping(parts[0]) is not None:
            return True
    return False
