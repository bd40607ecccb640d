"""Frames and sparse matrices are closed at the end of a block; their folds are not."""

from __future__ import annotations

import contextlib
import gc
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import sparse

import skl_mmap
from skl_mmap.exceptions import ClosedArrayError
from skl_mmap.memory import can_remap, live_mappings

pd = pytest.importorskip("pandas", minversion="2.1")
# Before the guards of any test look: these libraries keep threads and pipes.
with contextlib.suppress(ImportError):
    import polars as pl

    pl.DataFrame({"x": [1.0]})[[0]]
with contextlib.suppress(ImportError):
    from tests.files import load_common  # noqa: F401

VALUES = np.random.default_rng(0).random((20_000, 8))
FOLD = np.r_[0:8192, 12_288:20_000]


def make_polars() -> Any:
    pytest.importorskip("polars", minversion="1.17")
    return pl.DataFrame(VALUES)


KINDS: dict[str, Callable[[], Any]] = {
    "frame": lambda: pd.DataFrame(VALUES),
    "mixed frame": lambda: pd.DataFrame(VALUES).assign(i=1, close=2),
    "series": lambda: pd.Series(VALUES[:, 0]),
    "matrix": lambda: sparse.csr_matrix(VALUES),
    "array": lambda: sparse.csr_array(VALUES),
    "polars": make_polars,
}


def select(X: Any) -> Any:
    return X.take(FOLD) if hasattr(X, "take") else X[FOLD]


def to_numpy(X: Any) -> Any:
    return X.toarray() if sparse.issparse(X) else X.to_numpy()


@pytest.mark.parametrize("kind", KINDS)
def test_uses_after_the_block_are_errors_and_folds_stay(kind: str) -> None:
    plain = KINDS[kind]()
    with skl_mmap.share(plain) as X:
        fold = select(X)
        class_name = type(X).__qualname__
        with X:
            pass
        uses: list[Callable[[Any], Any]] = [
            lambda X: X.shape,
            lambda X: X[0],
            lambda X: X * 2,
            lambda X: list(X),
            len,
            bool,
            select,
            to_numpy,
            pickle.dumps,
            lambda X: setattr(X, "name", "x"),
        ]
        for use in uses:
            with pytest.raises(ClosedArrayError, match="inside its `with` block"):
                use(X)
    assert repr(X) == str(X) == f"<closed {class_name}>"
    np.testing.assert_array_equal(to_numpy(fold), to_numpy(select(plain)))


@pytest.mark.skipif(not can_remap(), reason="there are no mappings")
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "polars"])
def test_the_memory_goes_at_the_end_of_the_block(kind: str) -> None:
    gc.collect()
    assert not live_mappings()
    with skl_mmap.share(KINDS[kind]()) as X:
        assert live_mappings()
    gc.collect()
    assert not live_mappings()
    assert "closed" in repr(X)


def test_a_column_named_close_is_a_column() -> None:
    assert (skl_mmap.share(KINDS["mixed frame"]()).close == 2).all()


def test_a_loaded_table_is_closed(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow", reason="needs the extra tables")
    path = tmp_path / "x.csv"
    path.write_text("a,b\n1,2\n")
    with skl_mmap.load(path) as X:
        assert list(X.columns) == ["a", "b"]
    with pytest.raises(ClosedArrayError, match="SharedFrame was closed"):
        _ = X.columns
