"""Tables in files of every format, for the tests of loading."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import csv, feather, parquet

TABLE_NAMES = (
    *("x.csv", "x.csv.gz", "x.csv.bz2", "x.csv.zst"),
    *("x.parquet", "x.feather", "x.arrow", "x.ipc"),
)
_CODECS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}


# The first CSV file makes pyarrow open a pipe for Ctrl-C, which it keeps: not ours.
# Not where Ctrl-C is ignored, as in a shell's background; then a later file would.
_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
csv.read_csv(pa.BufferReader(b"a\n1\n"))
signal.signal(signal.SIGINT, _handler)


def make_table(n_rows: int = 5000) -> pa.Table:
    rng = np.random.default_rng(0)
    a = rng.normal(size=n_rows)
    return pa.table(
        {
            "a": pa.array(a, mask=a > 2.5),
            "i": np.arange(n_rows, dtype=np.int32),
            "kind": np.where(np.arange(n_rows) % 3 == 0, "cat", "dog"),
            "f": rng.normal(size=n_rows),
        }
    )


def write_table(table: pa.Table, path: Path) -> Path:
    """Write a table in the format that the name says."""
    if ".csv" in path.suffixes:
        with pa.OSFile(str(path), "wb") as raw:
            if path.suffix in _CODECS:
                with pa.CompressedOutputStream(raw, _CODECS[path.suffix]) as stream:
                    csv.write_csv(table, stream)
            else:
                csv.write_csv(table, raw)
    elif path.suffix == ".parquet":
        parquet.write_table(table, path, row_group_size=1700)
    elif path.suffix == ".feather":
        feather.write_feather(table, str(path), chunksize=1300)
    else:
        make = pa.ipc.new_stream if path.suffix == ".arrow" else pa.ipc.new_file
        with make(str(path), table.schema) as writer:
            writer.write_table(table, max_chunksize=1100)
    return path


def numbers_of(table: pa.Table, names: list[str], dtype: Any = np.float64) -> Any:
    return np.stack(
        [table[name].to_pandas().to_numpy() for name in names], axis=1
    ).astype(dtype)
